//! An answer that is streamed: news become server-sent events, as OpenAI's clients read them.

use super::Endpoint;
use super::logprobs::{self, Lists};
use super::whole::{Shape, Usage, reason};
use crate::desk::Update;
use crate::error::ApiError;
use serde::Serialize;
use serde_json::{Value, json};
use trtc_runtime::{Finish, TokenLogprob};

/// A comment: keeps connections open, and clients pass over it.
pub const KEEP_ALIVE: &str = ": waiting\n\n";

/// How long the parts of an answer took, milliseconds from the request's arrival.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Timings {
    /// Until the engine took it in.
    pub queue_ms: Option<f64>,
    /// Until the first token.
    pub ttft_ms: Option<f64>,
    /// Until now.
    pub total_ms: f64,
}

#[derive(Serialize)]
struct Chunk<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    choices: &'a [ChunkChoice<'a>],
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Value>,
}

#[derive(Serialize)]
struct ChunkChoice<'a> {
    index: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    delta: Option<Delta<'a>>,
    logprobs: Option<Value>,
    finish_reason: Option<&'static str>,
}

#[derive(Default, Serialize)]
struct Delta<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<&'a str>,
}

/// Of one choice.
#[derive(Clone, Copy, Debug, Default)]
struct Progress {
    /// Its first chunk is out.
    begun: bool,
    /// Characters of the tokens so far.
    offset: usize,
}

/// The events of one response.
#[derive(Clone, Debug)]
pub struct Chunks {
    shape: Shape,
    /// Counts of tokens are wanted.
    usage: bool,
    choices: Vec<Progress>,
    tokens: u64,
    reasons: Vec<&'static str>,
}

impl Chunks {
    /// None yet.
    pub fn new(shape: Shape, prompts: usize, usage: bool) -> Chunks {
        let choices = vec![Progress::default(); prompts * shape.n as usize];
        Chunks { shape, usage, choices, tokens: 0, reasons: Vec::new() }
    }

    /// Tokens so far.
    pub fn tokens(&self) -> u64 {
        self.tokens
    }

    /// Why answers ended.
    pub fn reasons(&self) -> &[&'static str] {
        &self.reasons
    }

    /// Appends what news are to the client.
    pub fn take(&mut self, update: &Update, out: &mut String) {
        match update {
            Update::Taken { .. } => {}
            Update::Failed(error) => self.fail(error, out),
            Update::Prompt { part, index, logprobs } => {
                self.begin(self.shape.choice(*part, *index), Some(logprobs), out);
            }
            Update::Token { part, index, text, logprob, .. } => {
                self.tokens += 1;
                let choice = self.shape.choice(*part, *index);
                self.begin(choice, None, out);
                let logprobs = self.logprobs(choice, logprob.as_ref());
                // Text that waits for the rest of a character is sent with it.
                if !text.is_empty() || logprobs.is_some() {
                    self.chunk(choice, Some(text), logprobs, None, out);
                }
            }
            Update::Done { part, index, finish, text } => {
                let choice = self.shape.choice(*part, *index);
                self.begin(choice, None, out);
                if !text.is_empty() {
                    self.chunk(choice, Some(text), None, None, out);
                }
                self.end(choice, *finish, out);
            }
        }
    }

    /// The first chunk of a choice: the role, or the prompt that is repeated.
    fn begin(&mut self, choice: usize, prompt: Option<&[TokenLogprob]>, out: &mut String) {
        if std::mem::replace(&mut self.choices[choice].begun, true) {
            return;
        }
        if self.shape.endpoint == Endpoint::Chat {
            let delta = Delta { role: Some("assistant"), content: Some("") };
            let first = ChunkChoice {
                index: choice,
                text: None,
                delta: Some(delta),
                logprobs: None,
                finish_reason: None,
            };
            return self.write(&[first], None, out);
        }
        let part = self.shape.part(choice);
        let Some(echo) = self.shape.echo.get(part) else {
            return;
        };
        let lists = self.shape.logprobs.map(|_| {
            let mut offset = 0;
            let lists = self.shape.echoed(part, prompt.unwrap_or_default(), &mut offset);
            self.choices[choice].offset = offset;
            json!(lists)
        });
        let echo = echo.clone();
        self.chunk(choice, Some(&echo), lists, None, out);
    }

    fn logprobs(&mut self, choice: usize, entry: Option<&TokenLogprob>) -> Option<Value> {
        let (alternatives, entry) = (self.shape.logprobs?, entry?);
        let tokenizer = self.shape.tokenizer.as_deref();
        Some(match self.shape.endpoint {
            Endpoint::Chat => {
                json!({ "content": [logprobs::chat(tokenizer, entry, alternatives)], "refusal": null })
            }
            Endpoint::Completions => {
                let mut lists = Lists::default();
                lists.push(tokenizer, entry, alternatives, &mut self.choices[choice].offset);
                json!(lists)
            }
        })
    }

    fn end(&mut self, choice: usize, finish: Finish, out: &mut String) {
        self.reasons.push(reason(finish));
        self.chunk(choice, None, None, Some(reason(finish)), out);
    }

    fn chunk(
        &self,
        index: usize,
        text: Option<&str>,
        logprobs: Option<Value>,
        finish_reason: Option<&'static str>,
        out: &mut String,
    ) {
        let choice = match self.shape.endpoint {
            Endpoint::Chat => {
                let delta = Some(Delta { role: None, content: text });
                ChunkChoice { index, text: None, delta, logprobs, finish_reason }
            }
            Endpoint::Completions => {
                ChunkChoice { index, text: Some(text.unwrap_or("")), delta: None, logprobs, finish_reason }
            }
        };
        self.write(&[choice], None, out);
    }

    fn write(&self, choices: &[ChunkChoice<'_>], usage: Option<Value>, out: &mut String) {
        // Where counts are wanted every chunk has the field, and all but the last have null in it.
        let usage = usage.or(self.usage.then_some(Value::Null));
        let chunk = Chunk {
            id: &self.shape.id,
            object: self.shape.endpoint.chunk_object(),
            created: self.shape.created,
            model: &self.shape.model,
            choices,
            usage,
        };
        match serde_json::to_string(&chunk) {
            Ok(json) => data(&json, out),
            Err(e) => self.fail(&ApiError::broken(format!("a chunk cannot be written: {e}")), out),
        }
    }

    /// Appends an error, which ends the stream.
    pub fn fail(&self, error: &ApiError, out: &mut String) {
        data(&error.body().to_string(), out);
        data("[DONE]", out);
    }

    /// Appends the end: the counts if they are wanted, with the time that things took.
    pub fn finish(&self, timings: &Timings, out: &mut String) {
        if self.usage {
            let mut usage = json!(Usage::new(self.shape.prompt_tokens, self.tokens));
            usage["timings"] = json!(timings);
            self.write(&[], Some(usage), out);
        }
        data("[DONE]", out);
    }
}

/// One event.
fn data(text: &str, out: &mut String) {
    out.push_str("data: ");
    out.push_str(text);
    out.push_str("\n\n");
}
