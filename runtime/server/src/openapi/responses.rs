//! What clients send to `/v1/responses`, where it differs from chats.

use super::conversations::{DESCRIBED, FUNCTION, PARALLEL, PART_TEXT, TOOL_CHOICE};
use super::requests::{
    ALTERNATIVES, COMMON, FORMAT_GRAMMAR, FORMAT_REGEX, FORMAT_SCHEMA, FORMAT_TEXT, ONE_OR_MORE, SCHEMA,
    UNPADDED,
};
use crate::api::params::INFORMS;
use crate::api::responses::{LOGPROBS, ROLES};
use crate::api::schema::{Field, Kind, Object, list};

/// `POST /v1/responses`.
pub const RESPONSE: Object = Object::asked(
    "ResponseRequest",
    "A conversation to answer. Null is the same as a field that is left out; a field that is not known, or not supported, is refused by its name.",
    &[
        &[
            Field::optional("instructions", Kind::Text, "What the system says, ahead of the conversation."),
            Field::new("input", INPUT, "The whole conversation: what the user says, or its items."),
            Field::optional(
                "max_output_tokens",
                ONE_OR_MORE,
                "Most tokens of the answer; as many as there is room for without it.",
            ),
            Field::optional(
                "include",
                list(&Kind::Word(&[LOGPROBS])),
                "Log-probabilities of the answer's tokens.",
            ),
            Field::optional(
                "top_logprobs",
                ALTERNATIVES,
                "Alternatives with each; only if they are included.",
            ),
            Field::optional("text", Kind::Object(&TEXT), "What the answer must look like."),
            Field::optional(
                "stream_options",
                Kind::Object(&Object::asked(
                    "ResponseStreamOptions",
                    "What a stream has besides.",
                    &[&[UNPADDED]],
                )),
                "What a stream has besides; only with stream.",
            ),
            Field::optional("tools", TOOLS, "Functions that the answer may call."),
            Field::optional("tool_choice", TOOL_CHOICE, "Whether it must, and which; auto without it."),
            PARALLEL,
        ],
        COMMON,
        INFORMS,
    ],
);

/// Functions that may be called.
pub(super) const TOOLS: Kind = list(&Kind::Object(&Object::asked(
    "ResponseTool",
    "A function that may be called.",
    &[&[FUNCTION], DESCRIBED],
)));

/// What an answer must look like.
pub(super) const TEXT: Object = Object::asked(
    "ResponseText",
    "What the answer must look like.",
    &[&[
        Field::optional("format", Kind::Any(FORMATS), "Its form."),
        Field::optional("verbosity", Kind::Word(&["medium"]), "Models know no other."),
    ]],
);

const FORMATS: &[Kind] = &[
    FORMAT_TEXT,
    Kind::Object(&Object::asked(
        "ResponseFormatJsonSchema",
        "What a JSON schema describes.",
        &[&[FORMAT_SCHEMA], SCHEMA],
    )),
    FORMAT_REGEX,
    FORMAT_GRAMMAR,
];

const INPUT: Kind = Kind::Any(&[Kind::Text, Kind::List(&ITEM, 1, usize::MAX)]);

const ITEM: Kind = Kind::Any(&[Kind::Object(&MESSAGE), Kind::Object(&CALL), Kind::Object(&OUTPUT)]);

/// What items have that clients send back of an answer.
const BACK: &[Field] = &[
    Field::optional("id", Kind::Text, "Only informs."),
    Field::optional("status", Kind::Text, "Only informs."),
];

const CALL_ID: Field = Field::new("call_id", Kind::Text, "The call's name.");

const MESSAGE: Object = Object::asked(
    "InputMessage",
    "What somebody said.",
    &[
        &[
            Field::optional("type", Kind::Word(&["message"]), "This kind of item."),
            Field::new("role", Kind::Word(&ROLES), "Who speaks."),
            Field::new(
                "content",
                Kind::Any(&[Kind::Text, list(&Kind::Any(&[Kind::Object(&ASKED), Kind::Object(&ANSWERED)]))]),
                "What is said; parts stand on lines of their own.",
            ),
        ],
        BACK,
    ],
);

const CALL: Object = Object::asked(
    "InputFunctionCall",
    "A call that an answer had; one behind what an assistant said is a part of that message.",
    &[
        &[
            Field::new("type", Kind::Word(&["function_call"]), "This kind of item."),
            CALL_ID,
            Field::new("name", Kind::Text, "Which function."),
            Field::new("arguments", Kind::Text, "Its arguments, JSON."),
        ],
        BACK,
    ],
);

const OUTPUT: Object = Object::asked(
    "InputFunctionCallOutput",
    "What a function gave.",
    &[
        &[
            Field::new("type", Kind::Word(&["function_call_output"]), "This kind of item."),
            CALL_ID,
            Field::optional("name", Kind::Text, "Which function, for templates that know names."),
            Field::new("output", Kind::Any(&[Kind::Text, list(&Kind::Object(&ASKED))]), "What it gave."),
        ],
        BACK,
    ],
);

const ASKED: Object = Object::asked(
    "InputText",
    "A part of what was asked.",
    &[&[Field::new("type", Kind::Word(&["input_text"]), "Parts are text.")], PART_TEXT],
);

const ANSWERED: Object = Object::asked(
    "AnsweredText",
    "A part of an answer that is sent back.",
    &[
        &[
            Field::new("type", Kind::Word(&["output_text"]), "Parts are text."),
            Field::optional("logprobs", Kind::Anything, "Nobody reads them."),
        ],
        PART_TEXT,
    ],
);
