//! A completion or a chat that is streamed: news become server-sent events, as OpenAI's clients read them.

use super::Endpoint;
use super::answer::{Answer, Timings};
use super::calls::{Part, Reader};
use super::logprobs::{self, Lists};
use super::whole::{Shape, Usage, found, reason};
use crate::desk::Update;
use crate::error::ApiError;
use serde::Serialize;
use serde_json::{Value, json};
use trtc_runtime::{Finish, TokenLogprob};

/// A comment: keeps connections open, and clients pass over it.
pub const KEEP_ALIVE: &str = ": waiting\n\n";

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
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_calls: Option<[Value; 1]>,
}

/// Of one choice.
#[derive(Clone, Debug, Default)]
struct Progress {
    /// Its first chunk is out.
    begun: bool,
    /// Characters of the tokens so far.
    offset: usize,
    /// Finds calls in its text.
    reader: Option<Reader>,
}

/// The events of one response.
#[derive(Clone, Debug)]
pub struct Chunks {
    shape: Shape,
    /// Counts of tokens are wanted.
    usage: bool,
    choices: Vec<Progress>,
    tokens: u64,
    cached: u64,
    reasons: Vec<&'static str>,
}

impl Chunks {
    /// None yet.
    pub fn new(shape: Shape, prompts: usize, usage: bool) -> Chunks {
        let reader = shape.tools.clone().map(Reader::new);
        let choices = vec![Progress { reader, ..Progress::default() }; prompts * shape.n as usize];
        Chunks { shape, usage, choices, tokens: 0, cached: 0, reasons: Vec::new() }
    }

    fn is_chat(&self) -> bool {
        self.shape.endpoint == Endpoint::Chat
    }

    /// Text of an answer, and the calls in it as soon as they are whole.
    fn words(&mut self, choice: usize, text: &str, logprobs: Option<Value>, out: &mut String) {
        let Some(reader) = &mut self.choices[choice].reader else {
            // Text that waits for the rest of a character is sent with it.
            if !text.is_empty() || logprobs.is_some() {
                self.chunk(choice, Some(text), logprobs, None, out);
            }
            return;
        };
        let (mut parts, first) = (Vec::new(), reader.calls());
        reader.push(text, &mut parts);
        self.parts(choice, first, parts, logprobs, out);
    }

    fn parts(
        &self,
        choice: usize,
        mut call: usize,
        parts: Vec<Part>,
        mut logprobs: Option<Value>,
        out: &mut String,
    ) {
        for part in parts {
            match part {
                Part::Text(text) => self.chunk(choice, Some(&text), logprobs.take(), None, out),
                Part::Call { name, arguments } => {
                    let value = self.shape.call(choice, call, &name, &arguments, Some(call));
                    call += 1;
                    let delta = Some(Delta { tool_calls: Some([value]), ..Delta::default() });
                    let logprobs = logprobs.take();
                    let chunk =
                        ChunkChoice { index: choice, text: None, delta, logprobs, finish_reason: None };
                    self.write(&[chunk], None, out);
                }
            }
        }
        if logprobs.is_some() {
            self.chunk(choice, Some(""), logprobs, None, out);
        }
    }

    /// The first chunk of a choice: the role, or the prompt that is repeated.
    fn begin(&mut self, choice: usize, prompt: Option<&[TokenLogprob]>, out: &mut String) {
        if std::mem::replace(&mut self.choices[choice].begun, true) {
            return;
        }
        if self.is_chat() {
            let delta = Delta { role: Some("assistant"), content: Some(""), tool_calls: None };
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
        if self.is_chat() {
            let content = [logprobs::chat(tokenizer, entry, alternatives)];
            return Some(json!({ "content": content, "refusal": null }));
        }
        let mut lists = Lists::default();
        lists.push(tokenizer, entry, alternatives, &mut self.choices[choice].offset);
        Some(json!(lists))
    }

    fn end(&mut self, choice: usize, finish: Finish, out: &mut String) {
        let mut calls = false;
        if let Some(mut reader) = self.choices[choice].reader.take() {
            let (mut parts, first) = (Vec::new(), reader.calls());
            reader.finish(&mut parts);
            self.parts(choice, first, parts, None, out);
            calls = reader.calls() > 0;
        }
        let reason = reason(finish, calls);
        self.reasons.push(reason);
        self.chunk(choice, None, None, Some(reason), out);
    }

    fn chunk(
        &self,
        index: usize,
        text: Option<&str>,
        logprobs: Option<Value>,
        finish_reason: Option<&'static str>,
        out: &mut String,
    ) {
        let (text, delta) = match self.is_chat() {
            true => (None, Some(Delta { content: text, ..Delta::default() })),
            false => (Some(text.unwrap_or("")), None),
        };
        let choice = ChunkChoice { index, text, delta, logprobs, finish_reason };
        self.write(&[choice], None, out);
    }

    fn write(&self, choices: &[ChunkChoice<'_>], usage: Option<Value>, out: &mut String) {
        // Where counts are wanted every chunk has the field, and all but the last have null in it.
        let usage = usage.or(self.usage.then_some(Value::Null));
        let chunk = Chunk {
            id: &self.shape.id,
            object: if self.is_chat() { "chat.completion.chunk" } else { self.shape.endpoint.object() },
            created: self.shape.created,
            model: &self.shape.model,
            choices,
            usage,
        };
        match serde_json::to_string(&chunk) {
            Ok(json) => data(&json, out),
            Err(e) => failed(&ApiError::broken(format!("a chunk cannot be written: {e}")), out),
        }
    }
}

impl Answer for Chunks {
    fn take(&mut self, update: Update, out: &mut String) {
        match update {
            Update::Taken { .. } => {}
            Update::Failed(error) => self.fail(&error, out),
            Update::Prompt { part, index, logprobs } => {
                self.begin(self.shape.choice(part, index), Some(&logprobs), out);
            }
            Update::Token { part, index, text, logprob, .. } => {
                self.tokens += 1;
                let choice = self.shape.choice(part, index);
                self.begin(choice, None, out);
                let logprobs = self.logprobs(choice, logprob.as_ref());
                self.words(choice, &text, logprobs, out);
            }
            Update::Done { part, index, finish, text, cached } => {
                self.cached += found(index, cached);
                let choice = self.shape.choice(part, index);
                self.begin(choice, None, out);
                self.words(choice, &text, None, out);
                self.end(choice, finish, out);
            }
        }
    }

    /// The counts if they are wanted, with the time that things took.
    fn finish(&mut self, timings: &Timings, out: &mut String) {
        if self.usage {
            let mut usage = json!(Usage::new(self.shape.prompt_tokens, self.cached, self.tokens));
            usage["timings"] = json!(timings);
            self.write(&[], Some(usage), out);
        }
        data("[DONE]", out);
    }

    fn fail(&mut self, error: &ApiError, out: &mut String) {
        failed(error, out);
    }

    fn tokens(&self) -> u64 {
        self.tokens
    }

    fn reasons(&self) -> Vec<&'static str> {
        self.reasons.clone()
    }
}

/// An error, which ends a stream.
fn failed(error: &ApiError, out: &mut String) {
    data(&error.body().to_string(), out);
    data("[DONE]", out);
}

/// One event.
fn data(text: &str, out: &mut String) {
    out.push_str("data: ");
    out.push_str(text);
    out.push_str("\n\n");
}
