//! Server-sent events: bytes as they arrive, to the data of whole events. What the data says is [`super::answer`]'s.
//!
//! As WHATWG's HTML standard has it ("9.2.6 Interpreting an event stream"): lines end with LF, CR or CRLF, an empty line
//! ends an event, a line that begins with a colon is a comment, one space behind `data:` is no part of the data, lines
//! of data are joined with LF. One thing differs: an event at the end of a stream needs no empty line.

/// Most bytes of one event's data, or of one line: more is no stream of answers.
const MOST: usize = 16 << 20;

/// More bytes came than an event may have.
#[derive(Debug, PartialEq)]
pub struct TooLong;

/// Splits a stream.
#[derive(Debug, Default)]
pub struct Splitter {
    /// A line that has not ended.
    line: Vec<u8>,
    /// Data of an event that has not ended; each of its lines with an LF.
    data: Vec<u8>,
    /// The last byte was a CR: an LF that follows belongs to it.
    after_cr: bool,
    /// The first line is over: before it there may be a byte order mark.
    begun: bool,
}

impl Splitter {
    /// Takes bytes, and gives the data of each event that they complete. Events without data are passed over.
    pub fn feed(&mut self, bytes: &[u8], event: &mut impl FnMut(&[u8])) -> Result<(), TooLong> {
        let mut rest = bytes;
        while let Some((&first, after)) = rest.split_first() {
            if std::mem::take(&mut self.after_cr) && first == b'\n' {
                rest = after;
                continue;
            }
            let end = rest.iter().position(|b| matches!(b, b'\n' | b'\r'));
            let part = &rest[..end.unwrap_or(rest.len())];
            if self.line.len() + self.data.len() + part.len() > MOST {
                return Err(TooLong);
            }
            self.line.extend_from_slice(part);
            let Some(end) = end else { return Ok(()) };
            self.after_cr = rest[end] == b'\r';
            rest = &rest[end + 1..];
            self.end_line(event);
        }
        Ok(())
    }

    /// The stream is over: gives the event that it ended in, if it has data.
    pub fn finish(mut self, event: &mut impl FnMut(&[u8])) {
        self.end_line(event);
        self.end_event(event);
    }

    fn end_line(&mut self, event: &mut impl FnMut(&[u8])) {
        let line = std::mem::take(&mut self.line);
        let mut text = &line[..];
        if !std::mem::replace(&mut self.begun, true) {
            text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
        }
        if text.is_empty() {
            self.end_event(event);
        } else if text == b"data" {
            self.data.push(b'\n');
        } else if let Some(data) = text.strip_prefix(b"data:") {
            self.data.extend_from_slice(data.strip_prefix(b" ").unwrap_or(data));
            self.data.push(b'\n');
        }
        // The buffer is used again.
        self.line = line;
        self.line.clear();
    }

    fn end_event(&mut self, event: &mut impl FnMut(&[u8])) {
        if self.data.pop().is_some() {
            event(&self.data);
        }
        self.data.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The events of a stream that comes in these parts.
    fn events<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> Vec<String> {
        let (mut splitter, mut out) = (Splitter::default(), Vec::new());
        let mut event = |data: &[u8]| out.push(String::from_utf8_lossy(data).into_owned());
        for part in parts {
            splitter.feed(part, &mut event).expect("no event is too long");
        }
        splitter.finish(&mut event);
        out
    }

    #[test]
    fn events_of_all_dialects() {
        let of = |text: &str| events([text.as_bytes()]);
        assert_eq!(of("data: a\n\ndata: b\n\n"), ["a", "b"]);
        assert_eq!(of("data:a\r\n\r\ndata:  b\r\n\r\n"), ["a", " b"]);
        assert_eq!(of("data: a\r\rdata: b\r\r"), ["a", "b"]);
        assert_eq!(of(": waiting\n\ndata: a\n: ping\ndata: b\n\n"), ["a\nb"]);
        assert_eq!(of("event: x\nid: 1\nretry: 5\ndata: a\n\n"), ["a"]);
        assert_eq!(of("\u{feff}data: a\n\n\n\n"), ["a"]);
        assert_eq!(of("data\n\ndata:\n\nevent: x\n\ndatax: b\n\n"), ["", ""]);
        assert_eq!(of("data: a\n\ndata: the end"), ["a", "the end"]);
        assert_eq!(of("data: a\n"), ["a"]);
        assert_eq!(of(""), Vec::<String>::new());
        assert_eq!(of("data: grün\n\n"), ["grün"]);
    }

    #[test]
    fn a_line_without_an_end_is_refused() {
        let mut splitter = Splitter::default();
        let part = vec![b'x'; MOST / 2];
        let mut feed = || splitter.feed(&part, &mut |_| ());
        assert_eq!((feed(), feed(), feed()), (Ok(()), Ok(()), Err(TooLong)));
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same_events(
            lines in prop::collection::vec("(data:? ?|: |id: )?[a-c\u{e4}:]{0,6}(\n|\r|\r\n|\n\n|\r\n\r\n|\r\r)", 0..24),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
        ) {
            let stream = lines.concat();
            let stream = stream.as_bytes();
            let mut cuts: Vec<usize> = cuts.iter().map(|c| c.index(stream.len() + 1)).collect();
            cuts.extend([0, stream.len()]);
            cuts.sort_unstable();
            let whole = events([stream]);
            prop_assert_eq!(&events(cuts.windows(2).map(|w| &stream[w[0]..w[1]])), &whole);
            prop_assert_eq!(&events(stream.chunks(1)), &whole);
        }

        #[test]
        fn what_is_written_is_read(
            texts in prop::collection::vec("[^\r\n]{0,20}", 0..12),
            crlf in any::<bool>(),
            cut in 1usize..40,
        ) {
            let end = if crlf { "\r\n" } else { "\n" };
            let stream: String = texts.iter().map(|t| format!("data: {t}{end}{end}")).collect();
            prop_assert_eq!(events(stream.as_bytes().chunks(cut)), texts);
        }
    }
}
