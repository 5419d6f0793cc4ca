//! An answer as items: messages and calls of functions in their order, told in typed events as they grow, or whole at the
//! end. Both are made by the same steps.

use crate::api::answer::{Answer, Timings};
use crate::api::calls::{Part, Reader};
use crate::api::logprobs;
use crate::api::whole::{Shape, found, reason};
use crate::desk::Update;
use crate::error::{ApiError, Kind};
use serde_json::{Value, json};
use trtc_runtime::{Finish, TokenLogprob};

/// The message that grows.
#[derive(Clone, Debug, Default)]
struct Open {
    text: String,
    logprobs: Vec<Value>,
}

/// An answer and how much of it is told.
#[derive(Clone, Debug)]
pub struct Turn {
    shape: Shape,
    /// Events are told; otherwise the response alone, at the end.
    streams: bool,
    /// The number of the next event; none is out as long as it is 0.
    number: u64,
    /// Finds calls in the text.
    reader: Option<Reader>,
    /// Items that are whole.
    items: Vec<Value>,
    open: Option<Open>,
    /// Of tokens whose text is not certain yet.
    waiting: Vec<Value>,
    calls: usize,
    tokens: u64,
    cached: u64,
    finish: Option<Finish>,
}

impl Turn {
    /// Nothing yet.
    pub fn new(shape: Shape, streams: bool) -> Turn {
        Turn {
            reader: shape.tools.clone().map(Reader::new),
            shape,
            streams,
            number: 0,
            items: Vec::new(),
            open: None,
            waiting: Vec::new(),
            calls: 0,
            tokens: 0,
            cached: 0,
            finish: None,
        }
    }

    /// Appends an event.
    fn event(&mut self, name: &str, mut fields: Value, out: &mut String) {
        if self.streams {
            fields["type"] = name.into();
            fields["sequence_number"] = self.number.into();
            self.number += 1;
            for part in ["event: ", name, "\ndata: ", &fields.to_string(), "\n\n"] {
                out.push_str(part);
            }
        }
    }

    /// The first events.
    fn begin(&mut self, out: &mut String) {
        if self.streams && self.number == 0 {
            for name in ["response.created", "response.in_progress"] {
                let response = self.response("in_progress");
                self.event(name, json!({ "response": response }), out);
            }
        }
    }

    /// An event about the item that is the next to be whole.
    fn of_item(&mut self, name: &str, item: &Value, mut fields: Value, out: &mut String) {
        fields["item_id"] = item["id"].clone();
        fields["output_index"] = self.items.len().into();
        self.event(name, fields, out);
    }

    /// The same about the only part of a message.
    fn of_part(&mut self, name: &str, item: &Value, mut fields: Value, out: &mut String) {
        fields["content_index"] = 0.into();
        self.of_item(name, item, fields, out);
    }

    fn added(&mut self, item: &Value, out: &mut String) {
        self.event(
            "response.output_item.added",
            json!({ "item": item, "output_index": self.items.len() }),
            out,
        );
    }

    fn done(&mut self, item: Value, out: &mut String) {
        self.event(
            "response.output_item.done",
            json!({ "item": item, "output_index": self.items.len() }),
            out,
        );
        self.items.push(item);
    }

    /// The message that is the next item.
    fn message(&self, status: &str, content: &[Value]) -> Value {
        let id = format!("msg_{}_{}", self.shape.own_id(), self.items.len());
        json!({ "type": "message", "id": id, "status": status, "role": "assistant", "content": content })
    }

    /// Text of the answer, and what is known of its tokens.
    fn text(&mut self, delta: &str, out: &mut String) {
        let item = self.message("in_progress", &[]);
        if self.open.is_none() {
            self.open = Some(Open::default());
            self.added(&item, out);
            self.of_part("response.content_part.added", &item, json!({ "part": part("", &[]) }), out);
        }
        let logprobs = std::mem::take(&mut self.waiting);
        let fields = json!({ "delta": delta, "logprobs": logprobs });
        if let Some(open) = &mut self.open {
            open.text.push_str(delta);
            open.logprobs.extend(logprobs);
        }
        self.of_part("response.output_text.delta", &item, fields, out);
    }

    /// The end of the message that grows, if one does.
    fn close(&mut self, status: &str, out: &mut String) {
        let Some(Open { text, logprobs }) = self.open.take() else { return };
        let whole = part(&text, &logprobs);
        let item = self.message(status, std::slice::from_ref(&whole));
        self.of_part("response.output_text.done", &item, json!({ "text": text, "logprobs": logprobs }), out);
        self.of_part("response.content_part.done", &item, json!({ "part": whole }), out);
        self.done(item, out);
    }

    fn call(&mut self, name: &str, arguments: &str, out: &mut String) {
        // Nothing is said of a call's tokens.
        self.waiting.clear();
        self.close("completed", out);
        let item = |status: &str, arguments: &str| {
            let id = format!("fc_{}_{}", self.shape.own_id(), self.items.len());
            json!({
                "type": "function_call", "id": id, "status": status, "name": name, "arguments": arguments,
                "call_id": self.shape.call_id(0, self.calls),
            })
        };
        let (begun, whole) = (item("in_progress", ""), item("completed", arguments));
        self.calls += 1;
        self.added(&begun, out);
        self.of_item("response.function_call_arguments.delta", &begun, json!({ "delta": arguments }), out);
        let fields = json!({ "arguments": arguments, "name": name });
        self.of_item("response.function_call_arguments.done", &begun, fields, out);
        self.done(whole, out);
    }

    fn parts(&mut self, parts: Vec<Part>, out: &mut String) {
        for part in parts {
            match part {
                Part::Text(text) => self.text(&text, out),
                Part::Call { name, arguments } => self.call(&name, &arguments, out),
            }
        }
    }

    /// What the engine brought of the answer.
    fn words(&mut self, text: String, logprob: Option<&TokenLogprob>, out: &mut String) {
        if let (Some(alternatives), Some(entry)) = (self.shape.logprobs, logprob) {
            self.waiting.push(logprobs::chat(self.shape.tokenizer.as_deref(), entry, alternatives));
        }
        let mut parts = Vec::new();
        match &mut self.reader {
            Some(reader) => reader.push(&text, &mut parts),
            // Text that waits for the rest of a character is told with it.
            None if text.is_empty() => {}
            None => parts.push(Part::Text(text)),
        }
        self.parts(parts, out);
    }

    fn end(&mut self, finish: Finish, out: &mut String) {
        self.finish = Some(finish);
        if let Some(mut reader) = self.reader.take() {
            let mut parts = Vec::new();
            reader.finish(&mut parts);
            self.parts(parts, out);
        }
        // An answer has an item also if it is empty, and what is known of the last tokens is told.
        if self.items.is_empty() && self.open.is_none() || self.open.is_some() && !self.waiting.is_empty() {
            self.text("", out);
        }
        self.close(status(finish), out);
    }

    /// The response as it is now.
    fn response(&self, status: &str) -> Value {
        let details = match self.finish {
            Some(Finish::Length) => json!({ "reason": "max_output_tokens" }),
            _ => Value::Null,
        };
        let mut response = json!({
            "id": self.shape.id,
            "object": self.shape.endpoint.object(),
            "created_at": self.shape.created,
            "status": status,
            "background": false,
            "error": null,
            "incomplete_details": details,
            "model": &*self.shape.model,
            "output": self.items,
            "previous_response_id": null,
            "store": false,
            "truncation": "disabled",
            "usage": null,
        });
        for (name, value) in &self.shape.asked {
            response[name] = value.clone();
        }
        if self.finish.is_some() {
            let (input, output) = (self.shape.prompt_tokens, self.tokens);
            response["usage"] = json!({
                "input_tokens": input,
                // Clients read these fields; only the first is counted.
                "input_tokens_details": { "cached_tokens": self.cached, "cache_write_tokens": 0 },
                "output_tokens": output,
                "output_tokens_details": { "reasoning_tokens": 0 },
                "total_tokens": input + output,
            });
        }
        response
    }
}

/// The part of a message that is its text.
fn part(text: &str, logprobs: &[Value]) -> Value {
    json!({ "type": "output_text", "text": text, "annotations": [], "logprobs": logprobs })
}

/// What became of an answer, in OpenAI's words.
fn status(finish: Finish) -> &'static str {
    match finish {
        Finish::Stop => "completed",
        Finish::Length | Finish::Cancelled | Finish::Lost => "incomplete",
    }
}

impl Answer for Turn {
    fn take(&mut self, update: Update, out: &mut String) {
        self.begin(out);
        match update {
            Update::Taken { .. } | Update::Prompt { .. } => {}
            Update::Failed(error) => self.fail(&error, out),
            Update::Token { text, logprob, .. } => {
                self.tokens += 1;
                self.words(text, logprob.as_ref(), out);
            }
            Update::Done { finish, text, index, cached, .. } => {
                self.cached += found(index, cached);
                self.words(text, None, out);
                self.end(finish, out);
            }
        }
    }

    fn finish(&mut self, timings: &Timings, out: &mut String) {
        let status = self.finish.map_or("incomplete", status);
        let mut response = self.response(status);
        if self.streams {
            response["usage"]["timings"] = json!(timings);
            self.event(&format!("response.{status}"), json!({ "response": response }), out);
        } else {
            out.push_str(&response.to_string());
        }
    }

    /// The error as other endpoints tell it, and the response, which has it in fewer words.
    fn fail(&mut self, error: &ApiError, out: &mut String) {
        self.begin(out);
        let ApiError { message, param, code, .. } = error;
        self.event("error", json!({ "code": code, "message": message, "param": param }), out);
        let code = match error.kind {
            Kind::Invalid => "invalid_prompt",
            Kind::RateLimit => "rate_limit_exceeded",
            Kind::Authentication | Kind::Timeout | Kind::Server => "server_error",
        };
        let mut response = self.response("failed");
        response["error"] = json!({ "code": code, "message": message });
        self.event("response.failed", json!({ "response": response }), out);
    }

    fn tokens(&self) -> u64 {
        self.tokens
    }

    fn reasons(&self) -> Vec<&'static str> {
        self.finish.map(|finish| reason(finish, self.calls > 0)).into_iter().collect()
    }
}
