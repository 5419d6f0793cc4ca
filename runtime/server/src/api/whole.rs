//! A completion or a chat that is sent whole: what came is gathered, then written as one object.

use super::Endpoint;
use super::answer::{Answer, Timings};
use super::calls::{Part, Reader};
use super::logprobs::{self, Lists};
use super::tools::Tools;
use crate::desk::Update;
use crate::error::ApiError;
use serde::Serialize;
use serde_json::{Map, Value, json};
use std::sync::Arc;
use trtc_runtime::text::Tokenizer;
use trtc_runtime::{Finish, TokenLogprob};

/// What a response says besides what the engine brings.
#[derive(Clone, Debug)]
pub struct Shape {
    /// Where it was asked for.
    pub endpoint: Endpoint,
    /// The response's own name.
    pub id: String,
    /// When it was asked for, seconds since 1970.
    pub created: u64,
    /// The model's name.
    pub model: Arc<str>,
    /// Spells tokens.
    pub tokenizer: Option<Arc<Tokenizer>>,
    /// Answers to each prompt.
    pub n: u32,
    /// Prompts; their tokens are kept only if they are reported on.
    pub prompts: Vec<Vec<u32>>,
    /// Tokens of all prompts.
    pub prompt_tokens: u64,
    /// What answers to each prompt begin with; empty if prompts are not repeated.
    pub echo: Vec<String>,
    /// Alternatives with each token, if log-probabilities are wanted.
    pub logprobs: Option<u32>,
    /// Alternatives with each token of the prompt, in a field of its own.
    pub prompt_logprobs: Option<u32>,
    /// Functions that answers may call.
    pub tools: Option<Arc<Tools>>,
    /// What the answer repeats of the request.
    pub asked: Map<String, Value>,
}

impl Shape {
    /// The number of an answer among all choices.
    pub fn choice(&self, part: u32, index: u32) -> usize {
        part as usize * self.n as usize + index as usize
    }

    /// Which prompt a choice answers.
    pub fn part(&self, choice: usize) -> usize {
        choice / self.n.max(1) as usize
    }

    /// What the response's name has behind its prefix.
    pub fn own_id(&self) -> &str {
        self.id.strip_prefix(self.endpoint.prefix()).unwrap_or(&self.id)
    }

    /// The name of a choice's call.
    pub fn call_id(&self, choice: usize, call: usize) -> String {
        format!("call_{}_{choice}_{call}", self.own_id())
    }

    /// A call as answers have it; `index` is its place in a stream.
    pub fn call(
        &self,
        choice: usize,
        call: usize,
        name: &str,
        arguments: &str,
        index: Option<usize>,
    ) -> Value {
        let mut value = json!({
            "id": self.call_id(choice, call), "type": "function",
            "function": { "name": name, "arguments": arguments },
        });
        if let Some(index) = index {
            value["index"] = index.into();
        }
        value
    }

    /// The lists of a prompt's tokens, as an echo has them before those of the answer.
    pub fn echoed(&self, part: usize, entries: &[TokenLogprob], offset: &mut usize) -> Lists {
        let tokenizer = self.tokenizer.as_deref();
        let mut lists = Lists::default();
        if let Some(&first) = self.prompts.get(part).and_then(|p| p.first()) {
            lists.push_first(tokenizer, first, offset);
        }
        for entry in entries {
            lists.push(tokenizer, entry, self.logprobs.unwrap_or(0), offset);
        }
        lists
    }
}

/// Counts of tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Usage {
    /// Of prompts, once each.
    pub prompt_tokens: u64,
    /// Of answers.
    pub completion_tokens: u64,
    /// Of both.
    pub total_tokens: u64,
    /// More of those of prompts.
    pub prompt_tokens_details: PromptTokens,
}

/// What there is to say of the tokens of prompts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PromptTokens {
    /// Those that were in the cache already.
    pub cached_tokens: u64,
}

impl Usage {
    /// Of so many tokens, of which so many of prompts were cached.
    pub fn new(prompt: u64, cached: u64, completion: u64) -> Usage {
        Usage {
            prompt_tokens: prompt,
            completion_tokens: completion,
            total_tokens: prompt + completion,
            prompt_tokens_details: PromptTokens { cached_tokens: cached },
        }
    }
}

/// The tokens of a prompt that count as cached: those that its first answer found, for the others find its own.
pub fn found(index: u32, cached: u32) -> u64 {
    if index == 0 { u64::from(cached) } else { 0 }
}

/// Why an answer ended, in OpenAI's words; one that `calls` functions waits for what they give.
pub fn reason(finish: Finish, calls: bool) -> &'static str {
    match finish {
        Finish::Stop if calls => "tool_calls",
        Finish::Stop => "stop",
        Finish::Length => "length",
        // Who gives a request up reads no answer, and what is lost is told as an error.
        Finish::Cancelled | Finish::Lost => "abort",
    }
}

#[derive(Clone, Debug, Default)]
struct Choice {
    text: String,
    logprobs: Vec<TokenLogprob>,
    prompt: Vec<TokenLogprob>,
    finish: Option<Finish>,
    /// Names and arguments of the functions that it calls, which are no part of its text.
    calls: Vec<(String, String)>,
}

/// Answers as they come.
#[derive(Clone, Debug)]
pub struct Gathered {
    shape: Shape,
    choices: Vec<Choice>,
    tokens: u64,
    cached: u64,
}

impl Gathered {
    /// None yet.
    pub fn new(shape: Shape, prompts: usize) -> Gathered {
        Gathered { choices: vec![Choice::default(); prompts * shape.n as usize], shape, tokens: 0, cached: 0 }
    }
}

impl Answer for Gathered {
    fn take(&mut self, update: Update, _: &mut String) {
        let shape = &self.shape;
        match update {
            Update::Taken { .. } | Update::Failed(_) => {}
            Update::Prompt { part, index, logprobs } => {
                self.choices[shape.choice(part, index)].prompt = logprobs;
            }
            Update::Token { part, index, text, logprob, .. } => {
                self.tokens += 1;
                let choice = &mut self.choices[shape.choice(part, index)];
                choice.text.push_str(&text);
                choice.logprobs.extend(logprob);
            }
            Update::Done { part, index, finish, text, cached } => {
                self.cached += found(index, cached);
                let choice = &mut self.choices[shape.choice(part, index)];
                choice.text.push_str(&text);
                choice.finish = Some(finish);
                if let Some(tools) = &shape.tools {
                    choice.read_calls(tools);
                }
            }
        }
    }

    /// The response. How long things took stands in its headers.
    fn finish(&mut self, _: &Timings, out: &mut String) {
        let shape = &self.shape;
        let choices: Vec<Value> =
            self.choices.iter().enumerate().map(|(i, choice)| choice.value(i, shape)).collect();
        let body = json!({
            "id": shape.id,
            "object": shape.endpoint.object(),
            "created": shape.created,
            "model": &*shape.model,
            "choices": choices,
            "usage": Usage::new(shape.prompt_tokens, self.cached, self.tokens),
        });
        out.push_str(&body.to_string());
    }

    fn fail(&mut self, error: &ApiError, out: &mut String) {
        out.push_str(&error.body().to_string());
    }

    fn tokens(&self) -> u64 {
        self.tokens
    }

    fn reasons(&self) -> Vec<&'static str> {
        self.choices.iter().filter_map(|c| c.finish.map(|f| reason(f, !c.calls.is_empty()))).collect()
    }
}

impl Choice {
    /// Parts the text, which is whole, from the calls.
    fn read_calls(&mut self, tools: &Arc<Tools>) {
        let mut parts = Vec::new();
        let mut reader = Reader::new(Arc::clone(tools));
        reader.push(&std::mem::take(&mut self.text), &mut parts);
        reader.finish(&mut parts);
        for part in parts {
            match part {
                Part::Text(text) => self.text.push_str(&text),
                Part::Call { name, arguments } => self.calls.push((name, arguments)),
            }
        }
    }

    fn value(&self, index: usize, shape: &Shape) -> Value {
        let mut value = match shape.endpoint == Endpoint::Chat {
            false => {
                let echo = shape.echo.get(shape.part(index)).map_or("", String::as_str);
                json!({ "text": format!("{echo}{}", self.text) })
            }
            true => {
                let silent = self.text.is_empty() && !self.calls.is_empty();
                let content = if silent { Value::Null } else { self.text.as_str().into() };
                let mut message = json!({ "role": "assistant", "content": content, "refusal": null });
                if !self.calls.is_empty() {
                    let call = |(i, (name, arguments)): (usize, &(String, String))| {
                        shape.call(index, i, name, arguments, None)
                    };
                    message["tool_calls"] = self.calls.iter().enumerate().map(call).collect();
                }
                json!({ "message": message })
            }
        };
        value["index"] = index.into();
        value["logprobs"] = self.logprobs(index, shape);
        value["finish_reason"] = json!(self.finish.map(|f| reason(f, !self.calls.is_empty())));
        if let Some(alternatives) = shape.prompt_logprobs {
            value["prompt_logprobs"] =
                logprobs::prompt(shape.tokenizer.as_deref(), &self.prompt, alternatives);
        }
        value
    }

    fn logprobs(&self, index: usize, shape: &Shape) -> Value {
        let (Some(alternatives), tokenizer) = (shape.logprobs, shape.tokenizer.as_deref()) else {
            return Value::Null;
        };
        if shape.endpoint == Endpoint::Chat {
            let content: Vec<Value> =
                self.logprobs.iter().map(|e| logprobs::chat(tokenizer, e, alternatives)).collect();
            return json!({ "content": content, "refusal": null });
        }
        let mut offset = 0;
        let mut lists = match shape.echo.is_empty() {
            true => Lists::default(),
            false => shape.echoed(shape.part(index), &self.prompt, &mut offset),
        };
        self.logprobs.iter().for_each(|e| lists.push(tokenizer, e, alternatives, &mut offset));
        json!(lists)
    }
}
