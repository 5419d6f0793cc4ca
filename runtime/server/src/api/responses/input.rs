//! `instructions` and `input`: a text, or items of a conversation, to the messages that chat templates know.

use crate::api::chat;
use crate::api::fields::Fields;
use crate::error::ApiError;
use serde_json::{Map, Value};
use trtc_runtime::text::Message;

/// Who may speak. What functions gave is an item of its own.
pub const ROLES: [&str; 4] = ["system", "developer", "user", "assistant"];

/// Takes the messages of a conversation.
pub fn messages(fields: &mut Fields) -> Result<Vec<Message>, ApiError> {
    let instructions = fields.text("instructions")?.map(|text| Message::new("system", text));
    let mut messages: Vec<Message> = instructions.into_iter().collect();
    let want = "a string, or a list of items such as {\"role\": \"user\", \"content\": \"Hello\"}";
    match fields.take("input") {
        None => return Err(ApiError::invalid(format!("input is missing: give {want}")).param("input")),
        Some(Value::String(text)) => messages.push(Message::new("user", text)),
        Some(Value::Array(list)) if list.is_empty() => {
            return Err(ApiError::invalid(format!("input is empty: give {want}")).param("input"));
        }
        Some(Value::Array(list)) => {
            for (i, value) in list.into_iter().enumerate() {
                item(Fields::of(value, format!("input[{i}]."))?, &mut messages)?;
            }
        }
        Some(other) => return Err(fields.wrong("input", want, &other)),
    }
    Ok(messages)
}

fn item(mut fields: Fields, messages: &mut Vec<Message>) -> Result<(), ApiError> {
    // What clients send back of an answer's items.
    fields.text("id")?;
    fields.text("status")?;
    let kind = fields.text("type")?;
    match kind.as_deref() {
        None | Some("message") => messages.push(message(&mut fields)?),
        Some("function_call") => {
            let call = function_call(&mut fields)?;
            match messages.last_mut() {
                // What an answer says and calls is one message.
                Some(last) if last.role == "assistant" => match last.more.get_mut("tool_calls") {
                    Some(Value::Array(calls)) => calls.push(call),
                    _ => _ = last.more.insert("tool_calls".to_owned(), vec![call].into()),
                },
                _ => {
                    let more = Map::from_iter([("tool_calls".to_owned(), vec![call].into())]);
                    messages.push(Message { more, ..Message::new("assistant", "") });
                }
            }
        }
        Some("function_call_output") => messages.push(function_call_output(&mut fields)?),
        Some(other) => {
            let why = format!(
                "items of type {other:?} are not supported; give message, function_call or function_call_output"
            );
            return Err(ApiError::unsupported(fields.path("type"), &why));
        }
    }
    fields.finish()
}

fn message(fields: &mut Fields) -> Result<Message, ApiError> {
    let role = chat::role(fields, &ROLES)?;
    let types =
        if role == "assistant" { ["output_text", "input_text"] } else { ["input_text", "output_text"] };
    let content = chat::content(fields, "content", &types, false)?;
    Ok(Message::new(role, content))
}

/// A text that an item must have.
fn needed(fields: &mut Fields, name: &str) -> Result<String, ApiError> {
    let path = fields.path(name);
    let text = fields.text(name)?;
    text.ok_or_else(|| ApiError::invalid(format!("{path} is missing: give a string")).param(path))
}

/// `{"type": "function_call", "call_id", "name", "arguments"}`.
fn function_call(fields: &mut Fields) -> Result<Value, ApiError> {
    let (id, name) = (needed(fields, "call_id")?, needed(fields, "name")?);
    let arguments = Value::String(needed(fields, "arguments")?);
    let broken = || ApiError::broken("arguments that are a text are a call's");
    chat::call(Some(id), name, Some(arguments)).ok_or_else(broken)
}

/// `{"type": "function_call_output", "call_id", "output"}`.
fn function_call_output(fields: &mut Fields) -> Result<Message, ApiError> {
    let mut more = Map::new();
    more.insert("tool_call_id".to_owned(), needed(fields, "call_id")?.into());
    if let Some(name) = fields.text("name")? {
        more.insert("name".to_owned(), name.into());
    }
    let content = chat::content(fields, "output", &["input_text"], false)?;
    Ok(Message { more, ..Message::new("tool", content) })
}
