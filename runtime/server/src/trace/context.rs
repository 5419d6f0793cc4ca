//! Whose trace a request belongs to: the header `traceparent` of W3C's Trace Context, level 1
//! (<https://www.w3.org/TR/trace-context/>).

use hyper::header::{HeaderMap, HeaderName};

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// The place of a request in a trace. Ids are lower-case hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trace {
    /// The trace: 32 digits.
    pub trace: String,
    /// The request's own span: 16 digits.
    pub span: String,
    /// The caller's span.
    pub parent: Option<String>,
    /// False if the caller records nothing of this trace: then nobody does.
    pub sampled: bool,
}

impl Trace {
    /// As the request's headers say, or else a new trace; `make_id` gives 32 digits that nobody else has.
    pub fn of(headers: &HeaderMap, make_id: impl Fn() -> String) -> Trace {
        let mut given = headers.get_all(TRACEPARENT).iter();
        // Two of them are none.
        let one = given.next().filter(|_| given.next().is_none());
        let own = make_id();
        let span = own.get(..16).unwrap_or_default().to_owned();
        match one.and_then(|v| parse(v.to_str().ok()?)) {
            Some((trace, parent, sampled)) => Trace { trace, span, parent: Some(parent), sampled },
            None => Trace { trace: make_id(), span, parent: None, sampled: true },
        }
    }
}

/// `VERSION-TRACE-PARENT-FLAGS`. What a later version than 00 has behind it is passed over.
fn parse(text: &str) -> Option<(String, String, bool)> {
    let mut parts = text.split('-');
    let mut part = |length: usize| {
        let digit = |c: char| c.is_ascii_digit() || ('a'..='f').contains(&c);
        parts.next().filter(|p| p.len() == length && p.chars().all(digit))
    };
    let (version, trace, parent, flags) = (part(2)?, part(32)?, part(16)?, part(2)?);
    let more = parts.next().is_some();
    let zero = |id: &str| id.chars().all(|c| c == '0');
    if version == "ff" || (version == "00" && more) || zero(trace) || zero(parent) {
        return None;
    }
    let sampled = u8::from_str_radix(flags, 16).ok()? & 1 == 1;
    Some((trace.to_owned(), parent.to_owned(), sampled))
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::header::HeaderValue;

    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
    const PARENT: &str = "b7ad6b7169203331";

    fn of(values: &[&str]) -> Trace {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(TRACEPARENT, HeaderValue::from_str(value).unwrap());
        }
        Trace::of(&headers, || "0123456789abcdef0123456789abcdef".to_owned())
    }

    #[test]
    fn the_callers_trace_goes_on() {
        for (flags, sampled) in [("00", false), ("01", true), ("03", true), ("02", false)] {
            let trace = of(&[&format!("00-{TRACE}-{PARENT}-{flags}")]);
            assert_eq!(
                (&*trace.trace, trace.parent.as_deref(), trace.sampled),
                (TRACE, Some(PARENT), sampled)
            );
            assert_eq!(trace.span, "0123456789abcdef");
        }
        assert_eq!(of(&[&format!("01-{TRACE}-{PARENT}-01-more")]).trace, TRACE, "a later version");
    }

    #[test]
    fn what_is_none_begins_a_trace() {
        let good = format!("00-{TRACE}-{PARENT}-01");
        let zeros = "0".repeat(32);
        for values in [
            vec![],
            vec![""],
            vec!["00"],
            vec![&*good.to_uppercase()],
            vec![&*good.replace("00-", "ff-")],
            vec![&*format!("{good}-more")],
            vec![&*good.replace(TRACE, &zeros)],
            vec![&*good.replace(PARENT, &zeros[..16])],
            vec![&*good.replace(TRACE, &TRACE[1..])],
            vec![&*good.replace("b7", "g7")],
            vec![&*good, &*good],
        ] {
            let trace = of(&values);
            assert_eq!((trace.parent, trace.sampled), (None, true), "{values:?}");
            assert_eq!(trace.trace, "0123456789abcdef0123456789abcdef");
        }
    }
}
