//! Log-probabilities in answers: of chats, of completions, of prompts.

use super::answers::NULL_OR_NUMBER;
use crate::api::schema::{COUNT, Field, Kind, NUMBER, Object, list};

const BYTES: Kind = Kind::Any(&[list(&Kind::Count { least: 0, most: 255 }), Kind::Null]);

const TOKEN: &[Field] = &[
    Field::new("token", Kind::Text, "The token."),
    Field::new("logprob", NUMBER, "Its log-probability; -9999 is minus infinity."),
    Field::new("bytes", BYTES, "Its bytes; null if the model has no tokenizer."),
];

/// Of a token of a chat or a response.
pub const TOKEN_LOGPROB: Object = Object::told(
    "TokenLogprob",
    "A token of the answer.",
    &[
        TOKEN,
        &[Field::new(
            "top_logprobs",
            list(&Kind::Object(&Object::told("TopLogprob", "A token that might have been.", &[TOKEN]))),
            "The most likely tokens, best first.",
        )],
    ],
);

/// Of a chat.
pub const CHAT_LOGPROBS: Object = Object::told(
    "ChatLogprobs",
    "Log-probabilities.",
    &[&[
        Field::new("content", list(&Kind::Object(&TOKEN_LOGPROB)), "One a token."),
        Field::new("refusal", Kind::Null, "There are none."),
    ]],
);

/// Of a completion.
pub const LISTS: Object = Object::told(
    "CompletionLogprobs",
    "Lists with one entry a token.",
    &[&[
        Field::new("tokens", list(&Kind::Text), "The tokens; part of a character is spelled as its bytes."),
        Field::new(
            "token_logprobs",
            list(&NULL_OR_NUMBER),
            "Log-probabilities; null for a prompt's first token.",
        ),
        Field::new(
            "top_logprobs",
            list(&Kind::Any(&[Kind::Map(&NUMBER), Kind::Null])),
            "The most likely tokens, and the token itself.",
        ),
        Field::new("text_offset", list(&COUNT), "Where each begins in the text, characters."),
    ]],
);

/// Of a place of a prompt.
pub const PROMPT_LOGPROB: Object = Object::told(
    "PromptLogprob",
    "A token at a place of the prompt.",
    &[&[
        Field::new("logprob", NUMBER, "Its log-probability."),
        Field::new(
            "rank",
            Kind::Any(&[COUNT, Kind::Null]),
            "1 is the most likely; null if it is none of those asked for.",
        ),
        Field::new("decoded_token", Kind::Text, "The token."),
    ]],
);
