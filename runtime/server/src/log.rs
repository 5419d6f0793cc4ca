//! What is written down of each request, and of the server's own doings. Nothing of a prompt or an answer is in it.
//!
//! Where it goes is the caller's business.

use serde::Serialize;
use std::fmt;
use std::sync::Arc;

/// Takes entries; called from the server's threads, so it must not wait.
pub type Log = Arc<dyn Fn(&Entry) + Send + Sync>;

/// A line of the log.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
pub enum Entry {
    /// A request that is over.
    Request(Box<Record>),
    /// Something else.
    Note {
        /// When, milliseconds since 1970.
        time_ms: u64,
        /// What.
        message: String,
    },
}

/// One request.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Record {
    /// When it came, milliseconds since 1970.
    pub time_ms: u64,
    /// Its id, as the response's header has it.
    pub request_id: String,
    /// The name of the key, or the address.
    pub client: String,
    /// Method.
    pub method: String,
    /// Path, without a query.
    pub path: String,
    /// Status of the response.
    pub status: u16,
    /// The model that answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Answered as a stream.
    pub stream: bool,
    /// Tokens of prompts.
    pub prompt_tokens: u64,
    /// Tokens of answers.
    pub completion_tokens: u64,
    /// Why answers ended.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub finish_reasons: Vec<&'static str>,
    /// Until the engine took it in, milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue_ms: Option<f64>,
    /// Until the first token, milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttft_ms: Option<f64>,
    /// Until the end of the response, milliseconds.
    pub total_ms: f64,
    /// Bytes of the response's body.
    pub bytes: u64,
    /// The class of the error, or its code.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<&'static str>,
    /// The client did not wait for the end.
    pub gone: bool,
    /// The trace that it belongs to, where there are traces.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<String>,
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Entry::Request(record) => record.fmt(f),
            Entry::Note { message, .. } => f.write_str(message),
        }
    }
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {} from {}", self.status, self.method, self.path, self.client)?;
        if let Some(model) = &self.model {
            write!(f, ", {model}, {}+{} tokens", self.prompt_tokens, self.completion_tokens)?;
        }
        for reason in &self.finish_reasons {
            write!(f, " {reason}")?;
        }
        for (name, ms) in
            [("queue", self.queue_ms), ("first token", self.ttft_ms), ("total", Some(self.total_ms))]
        {
            if let Some(ms) = ms {
                write!(f, ", {name} {ms:.1} ms")?;
            }
        }
        if let Some(error) = self.error {
            write!(f, ", {error}")?;
        }
        if self.gone {
            f.write_str(", client gone")?;
        }
        write!(f, " [{}]", self.request_id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_have_what_is_known() {
        let record = Record {
            request_id: "r1".into(),
            client: "alice".into(),
            method: "POST".into(),
            path: "/v1/completions".into(),
            status: 200,
            model: Some("m".into()),
            prompt_tokens: 3,
            completion_tokens: 4,
            finish_reasons: vec!["stop"],
            ttft_ms: Some(1.25),
            total_ms: 2.0,
            ..Record::default()
        };
        let line = Entry::Request(Box::new(record.clone())).to_string();
        assert_eq!(
            line,
            "200 POST /v1/completions from alice, m, 3+4 tokens stop, first token 1.2 ms, total 2.0 ms [r1]"
        );
        let json = serde_json::to_value(Entry::Request(Box::new(record))).unwrap();
        assert_eq!(
            (&json["status"], &json["ttft_ms"], &json["gone"]),
            (&200.into(), &1.25.into(), &false.into())
        );
        assert!(json.get("queue_ms").is_none());
    }
}
