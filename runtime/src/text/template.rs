//! Chat templates: the model's own Jinja text turns a conversation into a prompt.
//!
//! Templates come with a checkpoint and are not trusted: they see the conversation and nothing else, and stop after
//! a bounded number of steps. `strftime_now` is not defined: with it, a prompt would depend on the day.

use crate::error::Error;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Serde};
use minijinja::{Environment, ErrorKind, Value, context};
use serde::Serialize;

/// Steps a template may take; a long conversation takes some ten thousand.
const FUEL: u64 = 10_000_000;

/// One turn of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Message {
    /// `system`, `user` or `assistant`.
    pub role: String,
    /// Text.
    pub content: String,
}

impl Message {
    /// A turn.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Message {
        Message { role: role.into(), content: content.into() }
    }
}

/// A model's chat template.
#[derive(Debug)]
pub struct ChatTemplate {
    env: Environment<'static>,
    bos: String,
    eos: String,
}

const NAME: &str = "chat_template";

impl ChatTemplate {
    /// Reads a template; `bos` and `eos` are the texts of the model's tokens, for templates that name them.
    pub fn new(source: &str, bos: Option<&str>, eos: Option<&str>) -> Result<ChatTemplate, Error> {
        let mut env = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        env.set_syntax(syntax.map_err(|e| Error::bug(format!("template syntax: {e}")))?);
        env.set_fuel(Some(FUEL));
        env.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        env.add_function("raise_exception", |message: String| -> Result<String, minijinja::Error> {
            Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
        });
        // Python's json.dumps spelling; the built-in filter escapes for HTML.
        env.add_filter("tojson", |value: Value, options: Kwargs| -> Result<String, minijinja::Error> {
            let indent: Option<u32> = options.get("indent").ok();
            let failed = |e: serde_json::Error| minijinja::Error::new(ErrorKind::BadSerialization, e.to_string());
            if indent.is_some() { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) }
                .map_err(failed)
        });
        env.add_template_owned(NAME, source.to_owned()).map_err(|e| {
            Error::user(format!("the model's chat template cannot be read: {e}"))
                .help("build the engine from a checkpoint whose template is right")
        })?;
        let text = |t: Option<&str>| t.unwrap_or_default().to_owned();
        Ok(ChatTemplate { env, bos: text(bos), eos: text(eos) })
    }

    /// The prompt of a conversation; with `answer`, up to where the assistant's next turn begins.
    pub fn render(&self, messages: &[Message], answer: bool) -> Result<String, Error> {
        let failed = |e: minijinja::Error| {
            Error::user(format!("the chat template does not take this conversation: {e}"))
                .help("templates want turns that alternate, and some no system turn")
        };
        let template = self.env.get_template(NAME).map_err(failed)?;
        let cx = context! {
            messages => Value::from(Serde(messages)), add_generation_prompt => answer, bos_token => &self.bos, eos_token => &self.eos
        };
        template.render(cx).map_err(failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHATML: &str = "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' + \
        message['content'].strip() + '<|im_end|>' + '\\n'}}{% endfor %}\
        {% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

    #[test]
    fn a_conversation_becomes_a_prompt() {
        let t = ChatTemplate::new(CHATML, None, None).unwrap();
        let prompt = t.render(&[Message::new("user", " Hi ")], true).unwrap();
        assert_eq!(prompt, "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n");
        assert!(!t.render(&[], false).unwrap().contains("assistant"));
    }

    #[test]
    fn tokens_json_and_refusals() {
        let t = ChatTemplate::new("{{ bos_token }}{{ messages | tojson }}{{ eos_token }}", Some("<s>"), None).unwrap();
        let text = t.render(&[Message::new("user", "<a> & 'b'")], true).unwrap();
        assert_eq!(text, "<s>[{\"role\":\"user\",\"content\":\"<a> & 'b'\"}]");
        let t = ChatTemplate::new("{{ raise_exception('no system turn') }}", None, None).unwrap();
        assert!(t.render(&[], true).unwrap_err().message.contains("no system turn"));
    }

    #[test]
    fn an_endless_template_ends() {
        let source = "{% for i in range(9999) %}{% for j in range(9999) %}{{ j }}{% endfor %}{% endfor %}";
        let t = ChatTemplate::new(source, None, None).unwrap();
        assert!(t.render(&[], true).is_err());
        assert!(ChatTemplate::new("{% for %}", None, None).is_err());
    }
}
