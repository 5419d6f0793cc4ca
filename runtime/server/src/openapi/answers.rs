//! What the server sends: the fields of every answer's body. Tests hold answers to them, in both directions.

use super::logprobs::{CHAT_LOGPROBS, LISTS, PROMPT_LOGPROB};
use crate::api::schema::{COUNT, Field, IDS, Kind, NUMBER, Object, list};
use crate::error;

pub(super) const NULL_OR_TEXT: Kind = Kind::Any(&[Kind::Text, Kind::Null]);
pub(super) const NULL_OR_NUMBER: Kind = Kind::Any(&[NUMBER, Kind::Null]);
pub(super) const TIME: Kind = Kind::Integer { least: 0, most: i64::MAX };

/// Every error.
pub const ERROR: Object = Object::told(
    "Error",
    "Why a request failed.",
    &[&[Field::new(
        "error",
        Kind::Object(&Object::told(
            "ErrorDetails",
            "What went wrong.",
            &[&[
                Field::new("message", Kind::Text, "What was found, and what to do next."),
                Field::new("type", Kind::Word(&error::NAMES), "Its class."),
                Field::new("param", NULL_OR_TEXT, "The parameter at fault."),
                Field::new("code", NULL_OR_TEXT, "A word for programs."),
            ]],
        )),
        "The error.",
    )]],
);

/// `GET /health`, `GET /health_generate`.
pub const HEALTH: Object =
    Object::told("Health", "All is well.", &[&[Field::new("status", Kind::Word(&["ok"]), "It is.")]]);

/// `GET /ready`.
pub const READY: Object = Object::told(
    "Ready",
    "Requests are taken.",
    &[&[Field::new("status", Kind::Word(&["ready"]), "They are.")]],
);

/// `GET /version`.
pub const VERSION: Object =
    Object::told("Version", "The server's version.", &[&[Field::new("version", Kind::Text, "Its number.")]]);

const MODEL_FIELDS: &[Field] = &[
    Field::new("id", Kind::Text, "The name that requests give."),
    Field::new("object", Kind::Word(&["model"]), "What this is."),
    Field::new("created", TIME, "When it was loaded, seconds since 1970."),
    Field::new("owned_by", Kind::Word(&["trtc"]), "Always the same."),
    Field::new("max_model_len", COUNT, "Most tokens of prompt and answer together."),
    Field::new(
        "meta",
        Kind::Object(&Object::told(
            "ModelMeta",
            "Sizes.",
            &[&[
                Field::new("n_vocab", COUNT, "Entries of the vocabulary."),
                Field::new("kv_cache_bytes", TIME, "Bytes of its KV cache."),
            ]],
        )),
        "Sizes.",
    ),
];

/// `GET /v1/models/{id}`.
pub const MODEL: Object = Object::told("Model", "A model that is served.", &[MODEL_FIELDS]);

/// `GET /v1/models`.
pub const MODELS: Object = Object::told(
    "Models",
    "All models that are served.",
    &[&[
        Field::new("object", Kind::Word(&["list"]), "What this is."),
        Field::new("data", list(&Kind::Object(&MODEL)), "The models."),
    ]],
);

/// `POST /v1/models/load`.
pub const LOADED: Object = Object::told(
    "Loaded",
    "A model that was loaded.",
    &[MODEL_FIELDS, &[Field::new("status", Kind::Word(&["loaded"]), "What was done.")]],
);

/// `POST /v1/models/unload`.
pub const UNLOADED: Object = Object::told(
    "Unloaded",
    "A model that was unloaded.",
    &[&[
        Field::new("id", Kind::Text, "Its name."),
        Field::new("object", Kind::Word(&["model"]), "What it was."),
        Field::new("status", Kind::Word(&["unloaded"]), "What was done."),
        Field::new("cut", COUNT, "Answers that were cut."),
    ]],
);

/// `POST /tokenize`.
pub const TOKENS: Object = Object::told(
    "Tokens",
    "The tokens of a text.",
    &[&[
        Field::new("count", COUNT, "How many."),
        Field::new("max_model_len", COUNT, "Most tokens of prompt and answer together."),
        Field::new("tokens", IDS, "Their ids."),
    ]],
);

/// `POST /detokenize`.
pub const TEXT: Object =
    Object::told("Text", "The text of tokens.", &[&[Field::new("prompt", Kind::Text, "The text.")]]);

const COUNTS: &[Field] = &[
    Field::new("prompt_tokens", COUNT, "Of prompts, once each."),
    Field::new("completion_tokens", COUNT, "Of answers."),
    Field::new("total_tokens", COUNT, "Of both."),
    Field::new("prompt_tokens_details", Kind::Object(&PROMPT_TOKENS), "More of those of prompts."),
];

const PROMPT_TOKENS: Object = Object::told(
    "PromptTokensDetails",
    "What there is to say of the tokens of prompts.",
    &[&[Field::new("cached_tokens", COUNT, "Those whose keys and values were in the cache already.")]],
);

const USAGE: Object = Object::told("Usage", "Counts of tokens.", &[COUNTS]);

const STREAM_USAGE: Object = Object::told(
    "StreamUsage",
    "Counts of tokens, and how long things took.",
    &[COUNTS, &[Field::new("timings", Kind::Object(&TIMINGS), "How long things took.")]],
);

pub(super) const TIMINGS: Object = Object::told(
    "Timings",
    "Milliseconds from the request's arrival.",
    &[&[
        Field::new("queue_ms", NULL_OR_NUMBER, "Until an engine took it in."),
        Field::new("ttft_ms", NULL_OR_NUMBER, "Until the first token."),
        Field::new("total_ms", NUMBER, "Until the end."),
    ]],
);

const FINISH: Kind = Kind::Any(&[Kind::Word(&["stop", "length", "tool_calls", "abort"]), Kind::Null]);

/// What all choices have.
const CHOICE: &[Field] = &[
    Field::new("index", COUNT, "Which answer."),
    Field::new("finish_reason", FINISH, "Why it ended; null while it has not."),
];

const CALLED: Field = Field::new(
    "function",
    Kind::Object(&Object::told(
        "Called",
        "A function with its arguments.",
        &[&[
            Field::new("name", Kind::Text, "Which function."),
            Field::new("arguments", Kind::Text, "Its arguments, JSON."),
        ]],
    )),
    "What is called.",
);

const CALL: &[Field] = &[
    Field::new("id", Kind::Text, "Its name, for the message that answers it."),
    Field::new("type", Kind::Word(&["function"]), "Functions alone are called."),
    CALLED,
];

const TOOL_CALL: Object = Object::told("ToolCall", "A call.", &[CALL]);
const TOOL_CALL_CHUNK: Object = Object::told(
    "ToolCallChunk",
    "A call, whole.",
    &[CALL, &[Field::new("index", COUNT, "Which call of the answer.")]],
);

const ANSWER: Object = Object::told(
    "Answer",
    "What the model says.",
    &[&[
        Field::new("role", Kind::Word(&["assistant"]), "Who speaks."),
        Field::new("content", NULL_OR_TEXT, "The text; null if there are calls alone."),
        Field::new("refusal", Kind::Null, "There is none."),
        Field::sometimes("tool_calls", list(&Kind::Object(&TOOL_CALL)), "Functions that it calls."),
    ]],
);

/// What whole answers and chunks begin with.
const HEAD: &[Field] = &[
    Field::new("id", Kind::Text, "The answer's own name."),
    Field::new("created", TIME, "When it was asked for, seconds since 1970."),
    Field::new("model", Kind::Text, "The model's name."),
];

const CHUNK_USAGE: Field = Field::sometimes(
    "usage",
    Kind::Any(&[Kind::Object(&STREAM_USAGE), Kind::Null]),
    "If it was asked for: null but in the last chunk, which has no choices.",
);

/// `POST /v1/chat/completions`.
pub const CHAT: Object = Object::told(
    "ChatCompletion",
    "Answers to a conversation.",
    &[
        HEAD,
        &[
            Field::new("object", Kind::Word(&["chat.completion"]), "What this is."),
            Field::new(
                "choices",
                list(&Kind::Object(&Object::told(
                    "ChatChoice",
                    "An answer.",
                    &[
                        CHOICE,
                        &[
                            Field::new("message", Kind::Object(&ANSWER), "What the model says."),
                            Field::new(
                                "logprobs",
                                Kind::Any(&[Kind::Object(&CHAT_LOGPROBS), Kind::Null]),
                                "If asked for.",
                            ),
                        ],
                    ],
                ))),
                "One an answer.",
            ),
            Field::new("usage", Kind::Object(&USAGE), "Counts of tokens."),
        ],
    ],
);

/// An event of its stream.
pub const CHAT_CHUNK: Object = Object::told(
    "ChatCompletionChunk",
    "An event of a stream.",
    &[
        HEAD,
        &[
            Field::new("object", Kind::Word(&["chat.completion.chunk"]), "What this is."),
            Field::new(
                "choices",
                list(&Kind::Object(&Object::told(
                    "ChatChunkChoice",
                    "A piece of an answer.",
                    &[
                        CHOICE,
                        &[
                            Field::new(
                                "delta",
                                Kind::Object(&Object::told(
                                    "Delta",
                                    "What is added.",
                                    &[&[
                                        Field::sometimes(
                                            "role",
                                            Kind::Word(&["assistant"]),
                                            "In the first piece: who speaks.",
                                        ),
                                        Field::sometimes("content", Kind::Text, "Text that goes on."),
                                        Field::sometimes(
                                            "tool_calls",
                                            list(&Kind::Object(&TOOL_CALL_CHUNK)),
                                            "A call.",
                                        ),
                                    ]],
                                )),
                                "What is added.",
                            ),
                            Field::new(
                                "logprobs",
                                Kind::Any(&[Kind::Object(&CHAT_LOGPROBS), Kind::Null]),
                                "If asked for.",
                            ),
                        ],
                    ],
                ))),
                "One piece, or none.",
            ),
            CHUNK_USAGE,
        ],
    ],
);

/// `POST /v1/completions`.
pub const COMPLETION: Object = Object::told(
    "Completion",
    "Texts that go on.",
    &[
        HEAD,
        &[
            Field::new("object", Kind::Word(&["text_completion"]), "What this is."),
            Field::new(
                "choices",
                list(&Kind::Object(&Object::told(
                    "CompletionChoice",
                    "An answer.",
                    &[
                        CHOICE,
                        TEXT_CHOICE,
                        &[Field::sometimes(
                            "prompt_logprobs",
                            list(&Kind::Any(&[Kind::Map(&Kind::Object(&PROMPT_LOGPROB)), Kind::Null])),
                            "If asked for: by token id, and null for the prompt's first token.",
                        )],
                    ],
                ))),
                "One an answer.",
            ),
            Field::new("usage", Kind::Object(&USAGE), "Counts of tokens."),
        ],
    ],
);

const TEXT_CHOICE: &[Field] = &[
    Field::new("text", Kind::Text, "The text, behind the prompt's own if it is repeated."),
    Field::new("logprobs", Kind::Any(&[Kind::Object(&LISTS), Kind::Null]), "If asked for."),
];

/// An event of its stream.
pub const COMPLETION_CHUNK: Object = Object::told(
    "CompletionChunk",
    "An event of a stream.",
    &[
        HEAD,
        &[
            Field::new("object", Kind::Word(&["text_completion"]), "What this is."),
            Field::new(
                "choices",
                list(&Kind::Object(&Object::told(
                    "CompletionChunkChoice",
                    "A piece of an answer.",
                    &[CHOICE, TEXT_CHOICE],
                ))),
                "One piece, or none.",
            ),
            CHUNK_USAGE,
        ],
    ],
);
