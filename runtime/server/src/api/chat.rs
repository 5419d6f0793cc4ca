//! `POST /v1/chat/completions`: the body to a request for the engine.

use super::fields::Fields;
use super::params::{self, Facts, Wish};
use super::tools;
use crate::error::ApiError;
use serde_json::{Map, Value, json};
use std::sync::Arc;
use trtc_runtime::text::Message;

/// Who may speak.
const ROLES: [&str; 5] = ["system", "developer", "user", "assistant", "tool"];

/// Reads a body; the model is known already.
pub fn parse(mut fields: Fields, facts: &Facts) -> Result<Wish, ApiError> {
    let messages = messages(&mut fields)?;
    let (mut base, stream, timeout) = params::common(&mut fields, facts)?;
    let (older, newer) = (fields.count("max_tokens")?, fields.count("max_completion_tokens")?);
    if let (Some(older), Some(newer)) = (older, newer)
        && older != newer
    {
        let what = format!("max_tokens is {older} and max_completion_tokens is {newer}: give one of them");
        return Err(ApiError::invalid(what).param("max_tokens"));
    }
    let reports = fields.flag("logprobs")?.unwrap_or(false);
    let top = params::alternatives(&mut fields, "top_logprobs")?;
    if top.is_some_and(|k| k > 0) && !reports {
        let what = "top_logprobs is given and logprobs is not true: give logprobs true";
        return Err(ApiError::invalid(what).param("top_logprobs"));
    }
    let tools = tools::take(&mut fields, facts)?;
    params::finish(fields)?;
    let logprobs = reports.then_some(top.unwrap_or(0));
    base.logprobs = logprobs;
    if let Some(tools) = &tools {
        if base.grammar.is_some() {
            let what = "tools may be called and the answer must have a form, and nothing says which: give tool_choice none, \
                        or leave out what describes the answer";
            return Err(ApiError::invalid(what).param("tools"));
        }
        base.grammar = tools.grammar(facts)?;
    }
    let given = tools.as_ref().map_or(&[][..], |t| &t.given);
    let ids = prompt(&messages, given, facts, true)?;
    let request = params::complete(&base, ids, newer.or(older), facts)?;
    Ok(Wish {
        requests: vec![request],
        echo: Vec::new(),
        stream,
        timeout,
        logprobs,
        prompt_logprobs: None,
        tools: tools.map(Arc::new),
    })
}

/// The tokens of a conversation in which these tools may be called, up to where the answer begins.
pub fn prompt(
    messages: &[Message],
    tools: &[Value],
    facts: &Facts,
    answer: bool,
) -> Result<Vec<u32>, ApiError> {
    let Some(template) = &facts.template else {
        return Err(ApiError::invalid("this model has no chat template: use /v1/completions"));
    };
    let text = template.render(messages, tools, answer).map_err(|e| ApiError::from(e).param("messages"))?;
    // Templates write their own BOS token.
    params::encode(facts, &text, false)
}

/// Takes the messages of a chat.
pub fn messages(fields: &mut Fields) -> Result<Vec<Message>, ApiError> {
    let want = "a list of messages, such as [{\"role\": \"user\", \"content\": \"Hello\"}]";
    match fields.take("messages") {
        None => Err(ApiError::invalid(format!("messages is missing: give {want}")).param("messages")),
        Some(Value::Array(list)) if !list.is_empty() => {
            (0..).zip(list).map(|(i, value)| message(i, value)).collect()
        }
        Some(Value::Array(_)) => {
            Err(ApiError::invalid(format!("messages is empty: give {want}")).param("messages"))
        }
        Some(other) => Err(fields.wrong("messages", want, &other)),
    }
}

fn message(index: usize, value: Value) -> Result<Message, ApiError> {
    let mut fields = Fields::of(value, format!("messages[{index}]."))?;
    let role = fields.text("role")?.unwrap_or_default();
    if !ROLES.contains(&role.as_str()) {
        let what = format!("{} is {role:?}: give one of {}", fields.path("role"), ROLES.join(", "));
        return Err(ApiError::invalid(what).param(fields.path("role")));
    }
    let mut more = Map::new();
    for name in ["name", "tool_call_id", "reasoning_content"] {
        if let Some(text) = fields.text(name)? {
            more.insert(name.to_owned(), text.into());
        }
    }
    let calls = tool_calls(&mut fields)?;
    let called = !calls.is_empty();
    if called {
        if role != "assistant" {
            let path = fields.path("tool_calls");
            return Err(ApiError::invalid(format!("{path}: {role} calls no tools")).param(path));
        }
        more.insert("tool_calls".to_owned(), calls.into());
    }
    // Who calls need not say anything.
    let content = content(&mut fields, called)?;
    // What clients send back of an answer that had nothing of the kind.
    if let Some(value) = fields.take("annotations")
        && value.as_array().is_none_or(|list| !list.is_empty())
    {
        return Err(ApiError::unsupported(fields.path("annotations"), "it is not supported; leave it out"));
    }
    fields.finish()?;
    Ok(Message { role, content, more })
}

/// Calls that an answer had, for templates: arguments that are a JSON object in a text become that object.
fn tool_calls(fields: &mut Fields) -> Result<Vec<Value>, ApiError> {
    let path = fields.path("tool_calls");
    let want = "a list of calls, such as {\"id\": \"...\", \"type\": \"function\", \"function\": {\"name\": \"...\", \
                \"arguments\": \"{}\"}}";
    let list = match fields.take("tool_calls") {
        None => return Ok(Vec::new()),
        Some(Value::Array(list)) => list,
        Some(other) => return Err(fields.wrong("tool_calls", want, &other)),
    };
    let one = |(i, value): (usize, Value)| -> Result<Value, ApiError> {
        let wrong = || ApiError::invalid(format!("{path}[{i}] is no call: give {want}")).param(path.clone());
        let mut call = Fields::of(value, format!("{path}[{i}]."))?;
        let (id, kind) = (call.text("id")?, call.text("type")?);
        let mut function = call.object("function")?.ok_or_else(wrong)?;
        call.finish()?;
        let name = function.text("name")?.ok_or_else(wrong)?;
        let arguments = match function.take("arguments") {
            None => json!({}),
            Some(Value::String(text)) => match serde_json::from_str(&text) {
                Ok(object @ Value::Object(_)) => object,
                _ => Value::String(text),
            },
            Some(object @ Value::Object(_)) => object,
            Some(_) => return Err(wrong()),
        };
        function.finish()?;
        if kind.is_some_and(|kind| kind != "function") {
            return Err(wrong());
        }
        Ok(json!({ "id": id, "type": "function", "function": { "name": name, "arguments": arguments } }))
    };
    list.into_iter().enumerate().map(one).collect()
}

/// A message's words: a text, or parts of text, which stand on lines of their own.
fn content(fields: &mut Fields, optional: bool) -> Result<String, ApiError> {
    let want = "a string, or a list of parts such as {\"type\": \"text\", \"text\": \"Hello\"}";
    let path = fields.path("content");
    match fields.take("content") {
        None if optional => Ok(String::new()),
        None => Err(ApiError::invalid(format!("{path} is missing: give {want}")).param(path)),
        Some(Value::String(text)) => Ok(text),
        Some(Value::Array(parts)) => {
            let part = |(i, value): (usize, Value)| -> Result<String, ApiError> {
                let mut part = Fields::of(value, format!("{path}[{i}]."))?;
                let kind = part.text("type")?.unwrap_or_default();
                if kind != "text" {
                    let why = format!("parts of type {kind:?} are not supported; give parts of type text");
                    return Err(ApiError::unsupported(part.path("type"), &why));
                }
                let text = part.text("text")?;
                let text = text.ok_or_else(|| {
                    ApiError::invalid(format!("{} is missing: give a string", part.path("text")))
                })?;
                part.finish()?;
                Ok(text)
            };
            let texts: Vec<String> = parts.into_iter().enumerate().map(part).collect::<Result<_, _>>()?;
            Ok(texts.join("\n"))
        }
        Some(other) => Err(fields.wrong("content", want, &other)),
    }
}
