//! Calls of functions in a text that a model writes, read as it comes.
//!
//! What is no call that can be read stays text, as the model wrote it: nothing is lost but spaces around tags. However the text is cut into pieces, what
//! comes out is the same.

use super::tools::{Format, Tools};
use serde_json::Value;
use std::sync::Arc;

/// A part of an answer.
#[derive(Clone, Debug, PartialEq)]
pub enum Part {
    /// Text for people.
    Text(String),
    /// A call.
    Call {
        /// The function.
        name: String,
        /// JSON.
        arguments: String,
    },
}

/// Where in an answer the reader is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// At its beginning, with nothing but spaces so far.
    Start,
    /// In text.
    Text,
    /// In what looks like a call.
    Call,
    /// Behind a call, with nothing but spaces since.
    Behind,
}

/// Reads one answer.
#[derive(Clone, Debug)]
pub struct Reader {
    tools: Arc<Tools>,
    place: Place,
    /// Text that may yet be part of a call.
    held: String,
    /// Calls so far.
    calls: usize,
}

impl Reader {
    /// Before the first character.
    pub fn new(tools: Arc<Tools>) -> Reader {
        Reader { tools, place: Place::Start, held: String::new(), calls: 0 }
    }

    /// Calls so far.
    pub fn calls(&self) -> usize {
        self.calls
    }

    /// Reads on; appends what is certain.
    pub fn push(&mut self, text: &str, out: &mut Vec<Part>) {
        self.held.push_str(text);
        match self.tools.format.tags {
            Some(tags) => while self.tagged(tags, out) {},
            None => self.bare(out),
        }
    }

    /// The end of the answer: what was held is a call, or text.
    pub fn finish(&mut self, out: &mut Vec<Part>) {
        let (place, held) = (self.place, std::mem::take(&mut self.held));
        match place {
            // Models leave the last tag out.
            Place::Call if self.calls_of(&held, out) => {}
            Place::Call => {
                let open = self.tools.format.tags.map_or("", |(open, _)| open);
                text_part(&format!("{open}{held}"), out);
            }
            Place::Behind if held.trim().is_empty() => {}
            // Perhaps the beginning of a tag that never came.
            Place::Start | Place::Text | Place::Behind => text_part(&held, out),
        }
    }

    /// One step of a notation with tags; false if more text is needed.
    fn tagged(&mut self, (open, close): (&str, &str), out: &mut Vec<Part>) -> bool {
        if self.place == Place::Call {
            let Some(at) = self.held.find(close) else { return false };
            let inside = self.held[..at].to_owned();
            self.held.drain(..at + close.len());
            self.place = match self.calls_of(&inside, out) {
                true => Place::Behind,
                false => {
                    text_part(&format!("{open}{inside}{close}"), out);
                    Place::Text
                }
            };
            return true;
        }
        if let Some(at) = self.held.find(open) {
            let before = self.held[..at].to_owned();
            self.held.drain(..at + open.len());
            self.words(&before, out);
            self.place = Place::Call;
            return true;
        }
        // All but what may be the beginning of a tag.
        let keep = (1..open.len()).rev().find(|&n| self.held.ends_with(&open[..n])).unwrap_or(0);
        let mut sure = self.held.len() - keep;
        if self.place != Place::Text && self.held[..sure].trim().is_empty() {
            // Spaces around calls are not told.
            sure = 0;
        }
        let words: String = self.held.drain(..sure).collect();
        self.words(&words, out);
        false
    }

    /// Text outside of calls. Spaces before or between calls are none.
    fn words(&mut self, words: &str, out: &mut Vec<Part>) {
        if words.is_empty() || self.place != Place::Text && words.trim().is_empty() {
            return;
        }
        self.place = Place::Text;
        text_part(words, out);
    }

    /// A notation in which an answer is calls from its first character, or text.
    fn bare(&mut self, out: &mut Vec<Part>) {
        if self.place == Place::Start {
            let opener = if self.tools.format.list { '[' } else { '{' };
            match self.held.trim_start().chars().next() {
                None => return,
                Some(first) => self.place = if first == opener { Place::Call } else { Place::Text },
            }
        }
        if self.place == Place::Text {
            text_part(&std::mem::take(&mut self.held), out);
        }
    }

    /// Appends the calls of a text that is nothing else; false, and nothing is appended, if it is not.
    fn calls_of(&mut self, text: &str, out: &mut Vec<Part>) -> bool {
        let Some(calls) = parse(text, self.tools.format) else { return false };
        if calls.is_empty() || calls.iter().any(|(name, _)| !self.tools.has(name)) {
            return false;
        }
        for (name, arguments) in calls {
            // Who wants one call at a time gets the first.
            if self.tools.parallel || self.calls == 0 {
                out.push(Part::Call { name, arguments });
                self.calls += 1;
            }
        }
        true
    }
}

/// Appends text to the part before if that is text too.
fn text_part(text: &str, out: &mut Vec<Part>) {
    match out.last_mut() {
        _ if text.is_empty() => {}
        Some(Part::Text(before)) => before.push_str(text),
        _ => out.push(Part::Text(text.to_owned())),
    }
}

/// Names and arguments.
fn parse(text: &str, format: &Format) -> Option<Vec<(String, String)>> {
    if format.list {
        return match serde_json::from_str(text.trim()).ok()? {
            Value::Array(list) => list.into_iter().map(|v| call(v, format)).collect(),
            _ => None,
        };
    }
    // Several stand one after the other, Llama's with semicolons between them.
    let mut rest = text.trim();
    let mut calls = Vec::new();
    while !rest.is_empty() {
        let mut values = serde_json::Deserializer::from_str(rest).into_iter::<Value>();
        calls.push(call(values.next()?.ok()?, format)?);
        rest = rest[values.byte_offset()..].trim_start_matches(|c: char| c == ';' || c.is_whitespace());
    }
    Some(calls)
}

fn call(value: Value, format: &Format) -> Option<(String, String)> {
    let Value::Object(mut fields) = value else { return None };
    let Some(Value::String(name)) = fields.remove("name") else { return None };
    let arguments = match fields.remove(format.arguments) {
        None => "{}".to_owned(),
        Some(Value::String(text)) => text,
        Some(arguments @ Value::Object(_)) => arguments.to_string(),
        Some(_) => return None,
    };
    Some((name, arguments))
}

#[cfg(test)]
mod tests {
    use super::super::tools::{FORMATS, Tools};
    use super::*;
    use proptest::prelude::*;

    /// An answer in pieces, parts of one kind that follow one another joined.
    fn read(format: usize, parallel: bool, pieces: &[&str]) -> Vec<Part> {
        let tools = Arc::new(Tools::of_names(&["a", "b"], parallel, &FORMATS[format]));
        let (mut reader, mut out, mut all) = (Reader::new(tools), Vec::new(), Vec::new());
        for piece in pieces {
            reader.push(piece, &mut out);
            all.append(&mut out);
        }
        reader.finish(&mut out);
        all.append(&mut out);
        let mut joined = Vec::new();
        for part in all {
            match part {
                Part::Text(text) => text_part(&text, &mut joined),
                call => joined.push(call),
            }
        }
        joined
    }

    fn text(text: &str) -> Part {
        Part::Text(text.to_owned())
    }

    fn call(name: &str, arguments: &str) -> Part {
        Part::Call { name: name.to_owned(), arguments: arguments.to_owned() }
    }

    const HERMES: usize = 0;
    const MISTRAL: usize = 1;
    const LLAMA: usize = 2;
    const A: &str = r#"{"name": "a", "arguments": {"x": [1, "</tool"]}}"#;
    const B: &str = r#"{"name": "b"}"#;

    #[test]
    fn calls_of_every_notation_are_told_from_text() {
        let a = || call("a", r#"{"x":[1,"</tool"]}"#);
        let b = || call("b", "{}");
        let tagged = |inside: &str| format!("<tool_call>\n{inside}\n</tool_call>");
        let cases = [
            (HERMES, "Hello <b> there".to_owned(), vec![text("Hello <b> there")]),
            (HERMES, format!("\n{}\n{}\n", tagged(A), tagged(B)), vec![a(), b()]),
            (HERMES, format!("I look.\n{} Done.", tagged(A)), vec![text("I look.\n"), a(), text(" Done.")]),
            (HERMES, format!("<tool_call>{A}"), vec![a()]),
            (HERMES, format!("{}\n<tool", tagged(A)), vec![a(), text("\n<tool")]),
            (HERMES, tagged("{\"name\": \"c\"}"), vec![text("<tool_call>\n{\"name\": \"c\"}\n</tool_call>")]),
            (HERMES, "x <tool_call>{".to_owned(), vec![text("x <tool_call>{")]),
            (HERMES, "  ".to_owned(), vec![text("  ")]),
            (MISTRAL, format!(" [{A}, {B}]"), vec![a(), b()]),
            (MISTRAL, format!("[{A}, 1]"), vec![text(&format!("[{A}, 1]"))]),
            (MISTRAL, "no [list]".to_owned(), vec![text("no [list]")]),
            (
                LLAMA,
                r#"{"name": "a", "parameters": {"y": "ä"}}; {"name": "b"}"#.to_owned(),
                vec![call("a", r#"{"y":"ä"}"#), b()],
            ),
            (
                LLAMA,
                r#"{"name": "a", "parameters": "{}"} and"#.to_owned(),
                vec![text(r#"{"name": "a", "parameters": "{}"} and"#)],
            ),
            (LLAMA, "{}".to_owned(), vec![text("{}")]),
            (LLAMA, "Well.".to_owned(), vec![text("Well.")]),
        ];
        for (format, answer, parts) in cases {
            assert_eq!(read(format, true, &[&answer]), parts, "{answer}");
        }
        assert_eq!(read(HERMES, false, &[&tagged(A), &tagged(B)]), [a()]);
    }

    proptest! {
        #[test]
        fn however_an_answer_is_cut_its_parts_are_the_same(
            format in 0..FORMATS.len(),
            words in prop::collection::vec(prop_oneof![
                Just("<tool_call>"), Just("</tool_call>"), Just("<tool"), Just("_call>"), Just(A), Just(B), Just(" "), Just("\n"),
                Just("["), Just("]"), Just(", "), Just("; "), Just("ä"), Just("text"), Just("{"), Just("}"),
            ], 0..12),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
        ) {
            let answer = words.concat();
            let mut at: Vec<usize> = cuts.iter().map(|c| c.index(answer.len() + 1)).filter(|&c| answer.is_char_boundary(c)).collect();
            at.extend([0, answer.len()]);
            at.sort_unstable();
            let pieces: Vec<&str> = at.windows(2).map(|w| &answer[w[0]..w[1]]).collect();
            let parts = read(format, true, &[&answer]);
            prop_assert_eq!(read(format, true, &pieces), parts.clone());
            if !parts.iter().any(|p| matches!(p, Part::Call { .. })) {
                let bare = |text: &str| text.split_whitespace().collect::<String>();
                let told: String = parts.iter().map(|p| if let Part::Text(t) = p { t.as_str() } else { "" }).collect();
                prop_assert_eq!(bare(&told), bare(&answer), "nothing is lost");
            }
        }
    }
}
