//! What clients send: the fields of every request's body. A test compares them with those that the parsers ask for.

use super::conversations::{MESSAGES, TOOLS};
use crate::api::completions::MAX_TOKENS;
use crate::api::params::{INFORMS, MOST_ALTERNATIVES, MOST_STOPS};
use crate::api::schema::{Bounds, COUNT, Field, IDS, Kind, MOST, Object, Otherwise, list};
use crate::library::LONGEST_NAME;
use trtc_runtime::request::MAX_ANSWERS;

const TEXTS: Kind = list(&Kind::Text);
pub(super) const ALTERNATIVES: Kind = Kind::Count { least: 0, most: MOST_ALTERNATIVES };
pub(super) const ONE_OR_MORE: Kind = Kind::Count { least: 1, most: MOST };
const ANSWERS: Kind = Kind::Count { least: 1, most: MAX_ANSWERS };
const UNIT: Kind = Kind::Number(Bounds::Within(0.0, 1.0));
const PENALTY: Kind = Kind::Number(Bounds::Within(-2.0, 2.0));
pub(super) const OFF: Otherwise = Otherwise::Flag(false);
pub(super) const ON: Otherwise = Otherwise::Flag(true);

pub(super) const MODEL: Field =
    Field::optional("model", Kind::Text, "The model's name; it may be left out if the server has one model.");

/// What responses have not, or in another form.
const CHOICES: &[Field] = &[
    Field::optional("n", ANSWERS, "Answers to each prompt.").or(Otherwise::Whole(1)),
    Field::optional(
        "stream_options",
        Kind::Object(&STREAM_OPTIONS),
        "What a stream has besides; only with stream.",
    ),
    Field::optional("response_format", Kind::Any(FORMATS), "What the answer must look like."),
];

/// Of everything that is answered by a model's own words.
pub(super) const COMMON: &[Field] = &[
    MODEL,
    Field::optional("best_of", ANSWERS, "Answers are not ranked: the same as n, or nothing."),
    Field::optional(
        "temperature",
        Kind::Number(Bounds::Within(0.0, 100.0)),
        "0 takes the best token; without it the model's own.",
    ),
    Field::optional(
        "top_p",
        UNIT,
        "Only the most likely tokens whose probabilities sum to this; 0 takes the best one.",
    ),
    Field::optional(
        "top_k",
        Kind::Integer { least: -1, most: MOST as i64 },
        "Only the K most likely tokens; 0 and -1 keep all.",
    ),
    Field::optional("min_p", UNIT, "Only tokens with at least this part of the best one's probability."),
    Field::optional(
        "repetition_penalty",
        Kind::Number(Bounds::Above(0.0, f32::MAX as f64)),
        "Divides the logits of tokens that have been, or multiplies negative ones; 1 is off.",
    ),
    Field::optional(
        "presence_penalty",
        PENALTY,
        "Subtracted from the logits of tokens in the answer; 0 is off.",
    ),
    Field::optional(
        "frequency_penalty",
        PENALTY,
        "Subtracted once for each time that a token is in the answer; 0 is off.",
    ),
    Field::optional(
        "seed",
        Kind::Integer { least: i64::MIN, most: i64::MAX },
        "The same request with the same seed has the same answer.",
    ),
    Field::optional(
        "logit_bias",
        Kind::Map(&Kind::Number(Bounds::Within(-100.0, 100.0))),
        "Token ids with what is added to their logits.",
    ),
    Field::optional("min_tokens", COUNT, "No end before so many tokens.").or(Otherwise::Whole(0)),
    Field::optional("ignore_eos", Kind::Flag, "The model's own end does not end the answer.").or(OFF),
    Field::optional(
        "stop",
        Kind::Any(&[Kind::Text, Kind::List(&Kind::Text, 0, MOST_STOPS)]),
        "Texts that end the answer; they are no part of it.",
    ),
    Field::optional("stop_token_ids", IDS, "Token ids that end the answer."),
    Field::optional(
        "priority",
        Kind::Integer { least: i32::MIN as i64, most: i32::MAX as i64 },
        "Higher goes first; among equals clients have turns.",
    )
    .or(Otherwise::Whole(0)),
    Field::optional(
        "timeout",
        Kind::Number(Bounds::Above(0.0, 1e6)),
        "Seconds until the request is given up with 504, or its stream with an error.",
    ),
    Field::optional("stream", Kind::Flag, "The answer is sent as server-sent events while it is made.")
        .or(OFF),
    Field::optional(
        "structured_outputs",
        Kind::Object(&STRUCTURED),
        "What the answer must look like, as vLLM has it.",
    ),
    Field::optional("guided_json", Kind::Anything, "A JSON schema, or a text with one."),
    Field::optional("guided_json_object", Kind::Flag, "The answer is a JSON object.").or(OFF),
    Field::optional("guided_regex", Kind::Text, "A regular expression that the whole answer matches."),
    Field::optional("guided_grammar", Kind::Text, "A context-free grammar in Lark's notation."),
    Field::optional("guided_choice", TEXTS, "The answer is one of these texts."),
];

pub(super) const UNPADDED: Field =
    Field::optional("include_obfuscation", Kind::Only(false), "Chunks are not padded.").or(OFF);

const STREAM_OPTIONS: Object = Object::asked(
    "StreamOptions",
    "What a stream has besides.",
    &[&[
        Field::optional(
            "include_usage",
            Kind::Flag,
            "A last chunk has the counts of tokens, and how long things took.",
        )
        .or(OFF),
        UNPADDED,
    ]],
);

const STRUCTURED: Object = Object::asked(
    "StructuredOutputs",
    "What the answer must look like: one of these.",
    &[&[
        Field::optional("json", Kind::Anything, "A JSON schema, or a text with one."),
        Field::optional("json_object", Kind::Flag, "The answer is a JSON object.").or(OFF),
        Field::optional("regex", Kind::Text, "A regular expression that the whole answer matches."),
        Field::optional("grammar", Kind::Text, "A context-free grammar in Lark's notation."),
        Field::optional("choice", TEXTS, "The answer is one of these texts."),
    ]],
);

const FORMATS: &[Kind] = &[
    FORMAT_TEXT,
    Kind::Object(&Object::asked(
        "FormatJsonSchema",
        "What a JSON schema describes.",
        &[&[
            FORMAT_SCHEMA,
            Field::new(
                "json_schema",
                Kind::Object(&Object::asked("JsonSchema", "A JSON schema under a name.", &[SCHEMA])),
                "The schema.",
            ),
        ]],
    )),
    FORMAT_REGEX,
    FORMAT_GRAMMAR,
];

pub(super) const FORMAT_TEXT: Kind = Kind::Object(&Object::asked(
    "FormatText",
    "Any text, or any JSON object.",
    &[&[Field::new("type", Kind::Word(&["text", "json_object"]), "Which of the two.")]],
));

pub(super) const FORMAT_REGEX: Kind = Kind::Object(&Object::asked(
    "FormatRegex",
    "What a regular expression matches.",
    &[&[
        Field::new("type", Kind::Word(&["regex"]), "This form."),
        Field::new("regex", Kind::Text, "The expression."),
    ]],
));

pub(super) const FORMAT_GRAMMAR: Kind = Kind::Object(&Object::asked(
    "FormatGrammar",
    "What a grammar derives.",
    &[&[
        Field::new("type", Kind::Word(&["grammar"]), "This form."),
        Field::new("grammar", Kind::Text, "The grammar, in Lark's notation."),
    ]],
));

pub(super) const FORMAT_SCHEMA: Field = Field::new("type", Kind::Word(&["json_schema"]), "This form.");

/// A schema with what is said of it.
pub(super) const SCHEMA: &[Field] = &[
    Field::optional("name", Kind::Text, "Only informs."),
    Field::optional("description", Kind::Text, "Only informs."),
    Field::optional("strict", Kind::Flag, "Only informs: answers are held to the schema in any case."),
    Field::new("schema", Kind::Any(&[Kind::Open, Kind::Flag]), "The schema."),
];

/// `POST /v1/chat/completions`.
pub const CHAT: Object = Object::asked(
    "ChatRequest",
    "A conversation to answer. Null is the same as a field that is left out; a field that is not known, or not supported, is refused by its name.",
    &[
        &[
            MESSAGES,
            Field::optional(
                "max_completion_tokens",
                ONE_OR_MORE,
                "Most tokens of an answer; as many as there is room for without it.",
            ),
            Field::optional("max_tokens", ONE_OR_MORE, "The older name of the same."),
            Field::optional("logprobs", Kind::Flag, "Log-probabilities of the answer's tokens.").or(OFF),
            Field::optional("top_logprobs", ALTERNATIVES, "Alternatives with each; only with logprobs."),
        ],
        TOOLS,
        CHOICES,
        COMMON,
        INFORMS,
    ],
);

const PROMPT: Kind = Kind::Any(&[
    Kind::Text,
    Kind::List(&Kind::Any(&[Kind::Text, IDS]), 1, usize::MAX),
    Kind::List(&COUNT, 1, usize::MAX),
]);

/// `POST /v1/completions`.
pub const COMPLETION: Object = Object::asked(
    "CompletionRequest",
    "Texts to continue. Null is the same as a field that is left out; a field that is not known, or not supported, is refused by its name.",
    &[
        &[
            Field::new("prompt", PROMPT, "A text, token ids, or a list of either."),
            Field::optional("max_tokens", COUNT, "Most tokens of an answer; 0 reports on the prompt alone.")
                .or(Otherwise::Whole(MAX_TOKENS as i64)),
            Field::optional(
                "logprobs",
                ALTERNATIVES,
                "Log-probabilities of the answer's tokens, with so many alternatives.",
            ),
            Field::optional(
                "prompt_logprobs",
                ALTERNATIVES,
                "Log-probabilities of the prompt's tokens, with so many alternatives; not in streams.",
            ),
            Field::optional("echo", Kind::Flag, "Answers begin with the prompt.").or(OFF),
        ],
        CHOICES,
        COMMON,
        INFORMS,
    ],
);

/// `POST /tokenize` of a text.
const TOKENIZE_TEXT: Object = Object::asked(
    "TokenizeText",
    "A text.",
    &[&[
        MODEL,
        Field::new("prompt", Kind::Text, "The text."),
        Field::optional("add_special_tokens", Kind::Flag, "With the tokens that a prompt begins with.")
            .or(ON),
    ]],
);

/// `POST /tokenize` of a conversation.
const TOKENIZE_CHAT: Object = Object::asked(
    "TokenizeChat",
    "A conversation.",
    &[
        &[
            MODEL,
            MESSAGES,
            Field::optional("add_generation_prompt", Kind::Flag, "Up to where the answer begins.").or(ON),
        ],
        TOOLS,
    ],
);

/// `POST /tokenize`.
pub const TOKENIZE: Kind = Kind::Any(&[Kind::Object(&TOKENIZE_TEXT), Kind::Object(&TOKENIZE_CHAT)]);

/// `POST /detokenize`.
pub const DETOKENIZE: Object = Object::asked(
    "Detokenize",
    "Tokens.",
    &[&[MODEL, Field::new("tokens", IDS, "Ids below the size of the vocabulary.")]],
);

const NAME: Field = Field::new(
    "model",
    // Its bytes count; a name of fewer characters may be too long still.
    Kind::Like("^[^\\u0000-\\u001f\\u007f-\\u009f]{1,128}$"),
    "The name that requests give.",
);
const _: () = assert!(LONGEST_NAME == 128, "the expression above says how long a name may be");

/// `POST /v1/models/load`.
pub const LOAD: Object = Object::asked(
    "Load",
    "An engine to be loaded.",
    &[&[
        NAME,
        Field::new(
            "engine",
            Kind::Text,
            "A file in the folder of --engine-dir: a path from there, or a whole one.",
        ),
        Field::optional(
            "kv_fraction",
            Kind::Number(Bounds::Above(0.0, 1.0)),
            "The part that its KV cache has of the memory that is left for caches; without it all.",
        ),
    ]],
);

/// `POST /v1/models/unload`.
pub const UNLOAD: Object = Object::asked("Unload", "A model to be unloaded.", &[&[NAME]]);
