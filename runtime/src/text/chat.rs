//! Chat templates: messages to a prompt, by the model's own Jinja template.
//!
//! Renders as transformers does: `trim_blocks`, `lstrip_blocks`, Python's string methods, `raise_exception`,
//! `strftime_now`, and a `tojson` that writes JSON as Python does. Templates come with checkpoints and are not
//! trusted: they can read nothing but what they are given, and their work is bounded.

use super::strftime::strftime;
use super::template;
use crate::error::Error;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Serde, Value};
use minijinja::{Environment, ErrorKind, context};
use serde::Serialize;
use std::time::{SystemTime, UNIX_EPOCH};

/// Steps of a template before it is given up, each worth 64 bytes of text: a second at most, and 256 MiB.
const FUEL: u64 = 4_000_000;

/// A message of a chat.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, serde::Deserialize)]
pub struct Message {
    /// `system`, `user`, `assistant`, `tool`.
    pub role: String,
    /// Text.
    pub content: String,
    /// What else templates look at: `tool_calls`, whose arguments are objects, `tool_call_id`, `name`.
    #[serde(flatten)]
    pub more: serde_json::Map<String, serde_json::Value>,
}

impl Message {
    /// A message of nothing but text.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Message {
        Message { role: role.into(), content: content.into(), more: serde_json::Map::new() }
    }
}

/// A model's chat template.
#[derive(Debug)]
pub struct ChatTemplate {
    env: Environment<'static>,
    bos: String,
    eos: String,
}

impl ChatTemplate {
    /// Compiles a template; `bos` and `eos` are the texts that it knows as `bos_token` and `eos_token`.
    pub fn new(source: &str, bos: Option<&str>, eos: Option<&str>) -> Result<ChatTemplate, Error> {
        let mut env = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        env.set_syntax(syntax.map_err(|e| Error::bug(e.to_string()))?);
        env.set_fuel(Some(FUEL));
        env.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        env.add_function("raise_exception", |message: String| -> Result<Value, minijinja::Error> {
            Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
        });
        env.add_function("strftime_now", |format: String| -> Result<String, minijinja::Error> {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
            strftime(now, &format).map_err(|e| minijinja::Error::new(ErrorKind::InvalidOperation, e))
        });
        env.add_filter("tojson", to_json);
        template::add_filters(&mut env);
        env.add_template_owned("chat", template::prepared(source)).map_err(|e| {
            let line = e.line().map(|l| format!(", line {l}")).unwrap_or_default();
            let what = e.detail().map(str::to_string).unwrap_or_else(|| e.kind().to_string());
            Error::user(format!("the model's chat template{line}: {what}"))
                .help("give prompts as plain text instead of messages")
        })?;
        let text = |t: Option<&str>| t.unwrap_or_default().to_string();
        Ok(ChatTemplate { env, bos: text(bos), eos: text(eos) })
    }

    /// True if the template's source has this text in it.
    pub fn mentions(&self, text: &str) -> bool {
        self.env.get_template("chat").is_ok_and(|t| t.source().contains(text))
    }

    /// The prompt of a chat in which these tools may be called, described as OpenAI's clients do. With
    /// `add_generation_prompt` it ends where the assistant's answer begins. Encode it without a BOS token: templates write
    /// their own.
    pub fn render(
        &self,
        messages: &[Message],
        tools: &[serde_json::Value],
        add_generation_prompt: bool,
    ) -> Result<String, Error> {
        let template = self.env.get_template("chat").map_err(|e| Error::bug(e.to_string()))?;
        let given = context! {
            messages => messages.iter().map(|m| Value::from(Serde(m))).collect::<Vec<Value>>(),
            // As transformers has it: none, and not an empty list.
            tools => (!tools.is_empty()).then(|| Value::from(Serde(tools))),
            add_generation_prompt,
            bos_token => self.bos.as_str(),
            eos_token => self.eos.as_str(),
            // The filters' own.
            __trtc_budget => Value::from_object(template::Budget::default()),
        };
        template.render(given).map_err(|e| match e.kind() {
            ErrorKind::OutOfFuel => Error::user("the model's chat template does not come to an end"),
            kind => {
                let what = e.detail().map(str::to_string).unwrap_or_else(|| kind.to_string());
                Error::user(format!("the model's chat template: {what}"))
            }
        })
    }
}

/// `json.dumps(value, ensure_ascii=False, indent=indent)`.
fn to_json(value: Value, kwargs: Kwargs) -> Result<Value, minijinja::Error> {
    let indent: Option<usize> = kwargs.get("indent")?;
    kwargs.assert_all_used()?;
    let failed = |e: serde_json::Error| minijinja::Error::new(ErrorKind::BadSerialization, e.to_string());
    let mut out = Vec::new();
    match indent {
        Some(n) => {
            let spaces = " ".repeat(n.min(16));
            let format = serde_json::ser::PrettyFormatter::with_indent(spaces.as_bytes());
            value.serialize(&mut serde_json::Serializer::with_formatter(&mut out, format)).map_err(failed)?;
        }
        None => {
            value.serialize(&mut serde_json::Serializer::with_formatter(&mut out, OneLine)).map_err(failed)?
        }
    }
    let text = String::from_utf8(out)
        .map_err(|e| minijinja::Error::new(ErrorKind::BadSerialization, e.to_string()))?;
    Ok(Value::from_safe_string(text))
}

/// Python's separators: `", "` and `": "`.
struct OneLine;

impl serde_json::ser::Formatter for OneLine {
    fn begin_array_value<W: std::io::Write + ?Sized>(
        &mut self,
        w: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        if first { Ok(()) } else { w.write_all(b", ") }
    }

    fn begin_object_key<W: std::io::Write + ?Sized>(
        &mut self,
        w: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        if first { Ok(()) } else { w.write_all(b", ") }
    }

    fn begin_object_value<W: std::io::Write + ?Sized>(&mut self, w: &mut W) -> std::io::Result<()> {
        w.write_all(b": ")
    }
}
