//! Text to tokens and back: the tokenizer, text that streams, stop strings, chat templates.
//!
//! What a model's text handling needs comes from the engine file. Nothing here knows of requests or devices.

mod chat;
mod decode;
mod stop;
mod stream;
mod strftime;
mod template;
mod tokenizer;

pub use chat::{ChatTemplate, Message};
pub use decode::Detokenizer;
pub use stop::StopMatcher;
pub use stream::TextStream;
pub use tokenizer::Tokenizer;

#[cfg(test)]
mod tests;
