//! Text: tokens from it, text from tokens as they come, chat templates.
//!
//! Which tokenizer and template a model has is in its engine file; nothing of any model is known here.

mod stops;
mod stream;
mod template;
mod tokenizer;

pub use stops::Stops;
pub use stream::TextStream;
pub use template::{ChatTemplate, Message};
pub use tokenizer::Tokenizer;
