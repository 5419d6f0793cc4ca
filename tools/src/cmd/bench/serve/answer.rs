//! One answer: the events of a stream to counts and times, or to why it is none. No sockets, and no clock: the caller
//! says when an event came.

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;
use std::fmt::{Display, Formatter};
use std::time::Duration;

/// What came of a request.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// Tokens of the prompt, if the server says.
    pub prompt_tokens: Option<u64>,
    /// Tokens of the answer: as the server says, or else events with a token.
    pub output_tokens: u64,
    /// Seconds from the sending of the request to the first event with a token; none if no event had one.
    pub first: Option<f64>,
    /// Seconds between such events.
    pub gaps: Vec<f64>,
    /// Seconds from the sending of the request to the last event of the answer.
    pub end: f64,
}

/// Classes of failures, as they are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// No connection, or one that ended before an answer began.
    Connection,
    /// The server refused with this status.
    Status(u16),
    /// An event of the stream tells of an error.
    Reported,
    /// The stream ended before the answer did.
    Broken,
    /// What came is no stream of events, or no event of OpenAI's API.
    Garbled,
    /// It took longer than it may.
    Late,
}

impl Display for Kind {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        match self {
            Kind::Connection => f.write_str("no connection"),
            Kind::Status(status) => write!(f, "status {status}"),
            Kind::Reported => f.write_str("error in the stream"),
            Kind::Broken => f.write_str("stream broken off"),
            Kind::Garbled => f.write_str("not understood"),
            Kind::Late => f.write_str("timeout"),
        }
    }
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Failed {
    pub kind: Kind,
    pub message: String,
}

impl Failed {
    pub fn new(kind: Kind, message: impl Into<String>) -> Failed {
        Failed { kind, message: message.into() }
    }
}

#[derive(Deserialize)]
struct Event {
    choices: Option<Vec<Choice>>,
    usage: Option<Usage>,
    error: Option<Value>,
    /// `error` where the error is the event itself.
    object: Option<String>,
    message: Option<Value>,
}

#[derive(Deserialize)]
struct Choice {
    /// Of a completion.
    text: Option<String>,
    /// Of a chat.
    delta: Option<Delta>,
    logprobs: Option<IgnoredAny>,
    finish_reason: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct Delta {
    content: Option<String>,
    /// Thoughts, as servers of models that think call them.
    reasoning_content: Option<String>,
    reasoning: Option<String>,
    tool_calls: Option<IgnoredAny>,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq)]
struct Usage {
    prompt_tokens: Option<u64>,
    completion_tokens: Option<u64>,
}

impl Choice {
    /// True if it brings a token, and not only a role or a reason to end.
    fn has_token(&self) -> bool {
        let said = |text: &Option<String>| text.as_ref().is_some_and(|t| !t.is_empty());
        let in_delta = |d: &Delta| {
            said(&d.content) || said(&d.reasoning_content) || said(&d.reasoning) || d.tool_calls.is_some()
        };
        said(&self.text) || self.logprobs.is_some() || self.delta.as_ref().is_some_and(in_delta)
    }
}

/// An answer that is being read.
#[derive(Debug, Default)]
pub struct Reading {
    usage: Option<Usage>,
    first: Option<Duration>,
    last: Duration,
    gaps: Vec<f64>,
    end: Option<Duration>,
    finished: bool,
}

impl Reading {
    /// Takes the data of an event, which came this long after the request was sent.
    pub fn take(&mut self, data: &[u8], at: Duration) -> Result<(), Failed> {
        let data = data.trim_ascii();
        if data.is_empty() {
            return Ok(());
        }
        if data == b"[DONE]" {
            self.finished = true;
            return Ok(());
        }
        let garbled = |e: serde_json::Error| {
            Failed::new(
                Kind::Garbled,
                format!("an event that is none of OpenAI's API ({e}): {}", start(data)),
            )
        };
        let event: Event = serde_json::from_slice(data).map_err(garbled)?;
        if let Some(error) = event.error {
            return Err(Failed::new(Kind::Reported, said(&error)));
        }
        if event.object.as_deref() == Some("error") {
            return Err(Failed::new(Kind::Reported, said(&event.message.unwrap_or_default())));
        }
        self.usage = event.usage.or(self.usage);
        let choices = event.choices.unwrap_or_default();
        if choices.is_empty() {
            return Ok(());
        }
        self.end = Some(at);
        self.finished |= choices.iter().any(|c| c.finish_reason.is_some());
        if choices.iter().any(Choice::has_token) {
            match self.first {
                None => self.first = Some(at),
                Some(_) => self.gaps.push(at.saturating_sub(self.last).as_secs_f64()),
            }
            self.last = at;
        }
        Ok(())
    }

    /// The stream is over.
    pub fn finish(self) -> Result<Answer, Failed> {
        let events = self.gaps.len() + usize::from(self.first.is_some());
        let Some(end) = self.end else {
            return Err(Failed::new(Kind::Garbled, "the answer has no event with a choice"));
        };
        if !self.finished {
            let what = format!("the stream ended after {events} tokens, without a reason to end and [DONE]");
            return Err(Failed::new(Kind::Broken, what));
        }
        Ok(Answer {
            prompt_tokens: self.usage.and_then(|u| u.prompt_tokens),
            output_tokens: self.usage.and_then(|u| u.completion_tokens).unwrap_or(events as u64),
            first: self.first.map(|at| at.as_secs_f64()),
            gaps: self.gaps,
            end: end.as_secs_f64(),
        })
    }
}

/// What an error says: its message, or all of it.
fn said(error: &Value) -> String {
    match error.get("message").unwrap_or(error) {
        Value::String(text) => start(text.as_bytes()),
        other => start(other.to_string().as_bytes()),
    }
}

/// What the body of a refusal says.
pub fn refusal(body: &[u8]) -> String {
    match serde_json::from_slice::<Value>(body) {
        Ok(value) => said(value.get("error").unwrap_or(&value)),
        Err(_) if body.trim_ascii().is_empty() => "without a word".to_owned(),
        Err(_) => start(body),
    }
}

/// The first characters of a text.
fn start(text: &[u8]) -> String {
    String::from_utf8_lossy(text).chars().take(300).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// Events that come at 10, 20, 30 ms and so on.
    fn read(events: &[&str]) -> Result<Answer, Failed> {
        let mut reading = Reading::default();
        for (at, event) in (1..).zip(events) {
            reading.take(event.as_bytes(), at * 10 * MS)?;
        }
        reading.finish()
    }

    fn close(a: &[f64], b: &[f64]) -> bool {
        a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-9)
    }

    #[test]
    fn a_completion_has_times_and_counts() {
        let answer = read(&[
            r#"{"choices":[{"text":"a","logprobs":null,"finish_reason":null}],"usage":null}"#,
            r#"{"choices":[{"text":"b c","finish_reason":null}],"usage":null}"#,
            r#"{"choices":[{"text":"","finish_reason":"length"}],"usage":null}"#,
            r#"{"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":3,"total_tokens":10}}"#,
            "[DONE]",
        ])
        .expect("an answer");
        assert_eq!((answer.prompt_tokens, answer.output_tokens), (Some(7), 3));
        assert!(close(&[answer.first.unwrap(), answer.gaps[0], answer.end], &[0.01, 0.01, 0.03]));
        assert_eq!(answer.gaps.len(), 1, "the reason to end is no token");
    }

    #[test]
    fn a_role_is_no_token_of_a_chat_and_thoughts_are() {
        let answer = read(&[
            r#"{"choices":[{"delta":{"role":"assistant","content":""}}]}"#,
            r#"{"choices":[{"delta":{"reasoning_content":"hm"}}]}"#,
            r#"{"choices":[{"delta":{"content":"yes"},"finish_reason":null}]}"#,
            r#"{"choices":[{"delta":{},"finish_reason":"stop"}]}"#,
        ])
        .expect("a reason to end is enough");
        assert!(close(&[answer.first.unwrap(), answer.end], &[0.02, 0.04]));
        assert_eq!((answer.prompt_tokens, answer.output_tokens), (None, 2), "events are counted");
    }

    #[test]
    fn tokens_without_text_are_known_by_their_log_probabilities_alone() {
        let silent = r#"{"choices":[{"text":"","finish_reason":"length"}],"usage":{"completion_tokens":9}}"#;
        let answer = read(&[silent]).expect("an answer");
        assert_eq!((answer.first, answer.output_tokens), (None, 9));
        let token = r#"{"choices":[{"text":"","logprobs":{"tokens":["x"]}}]}"#;
        let answer = read(&[token, token, silent]).expect("an answer");
        assert!(close(&[answer.first.unwrap()], &[0.01]) && close(&answer.gaps, &[0.01]));
    }

    #[test]
    fn failures_have_kinds_and_say_why() {
        let token = r#"{"choices":[{"text":"a"}]}"#;
        let fails = |events: &[&str], kind, words: &str| {
            let failed = read(events).expect_err("a failure");
            assert_eq!(failed.kind, kind, "{failed:?}");
            assert!(failed.message.contains(words), "{failed:?}");
        };
        fails(&[token, token], Kind::Broken, "after 2 tokens");
        fails(
            &[token, r#"{"error":{"message":"out of memory","code":500}}"#],
            Kind::Reported,
            "out of memory",
        );
        fails(&[r#"{"error":"busy"}"#], Kind::Reported, "busy");
        fails(&[r#"{"object":"error","message":"gone"}"#], Kind::Reported, "gone");
        fails(&["<html>"], Kind::Garbled, "<html>");
        fails(&[r#"{"choices":[{"text":5}]}"#], Kind::Garbled, "5");
        fails(&["[DONE]"], Kind::Garbled, "no event");
        fails(&[], Kind::Garbled, "no event");
    }

    #[test]
    fn refusals_are_read_from_any_body() {
        assert_eq!(refusal(br#"{"error":{"message":"too many","type":"x"}}"#), "too many");
        assert_eq!(refusal(br#"{"message":"no","object":"error"}"#), "no");
        assert_eq!(refusal(br#"{"detail":[1]}"#), r#"{"detail":[1]}"#);
        assert_eq!(refusal(b"Bad Gateway"), "Bad Gateway");
        assert_eq!(refusal(b" \n"), "without a word");
    }
}
