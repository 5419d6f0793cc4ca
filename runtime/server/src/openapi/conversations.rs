//! What conversations are: messages, and functions that may be called.

use super::requests::{OFF, ON};
use crate::api::chat::ROLES;
use crate::api::schema::{Field, Kind, Object, list};

/// Functions that may be called.
pub const TOOLS: &[Field] = &[
    Field::optional("tools", list(&Kind::Object(&TOOL)), "Functions that the answer may call."),
    Field::optional("tool_choice", TOOL_CHOICE, "Whether it must, and which; auto without it."),
    PARALLEL,
];

/// Whether functions are called.
pub(super) const TOOL_CHOICE: Kind =
    Kind::Any(&[Kind::Word(&["none", "auto", "required"]), Kind::Object(&NAMED)]);

/// How many are.
pub(super) const PARALLEL: Field =
    Field::optional("parallel_tool_calls", Kind::Flag, "An answer may have several calls.").or(ON);

pub(super) const FUNCTION: Field =
    Field::new("type", Kind::Word(&["function"]), "Functions alone are called.");

/// What is said of a function.
pub(super) const DESCRIBED: &[Field] = &[
    Field::new("name", Kind::Like("^[A-Za-z0-9_.-]{1,64}$"), "Its name, which no other has."),
    Field::optional("description", Kind::Text, "What it is for."),
    Field::optional("parameters", Kind::Open, "A JSON schema of its arguments; without it there are none."),
    Field::optional("strict", Kind::Flag, "Arguments are held to the schema in every call.").or(OFF),
];

const TOOL: Object = Object::asked(
    "Tool",
    "A function that may be called.",
    &[&[
        FUNCTION,
        Field::new(
            "function",
            Kind::Object(&Object::asked("Function", "A function.", &[DESCRIBED])),
            "The function.",
        ),
    ]],
);

/// Not closed: the parser looks for a name, here or in `function`.
const NAMED: Object = Object::told(
    "NamedTool",
    "This function is called.",
    &[&[
        FUNCTION,
        Field::sometimes(
            "function",
            Kind::Object(&Object::told(
                "NamedFunction",
                "The function.",
                &[&[Field::new("name", Kind::Text, "Its name.")]],
            )),
            "Which, as chats have it.",
        ),
        Field::sometimes("name", Kind::Text, "Which, as responses have it."),
    ]],
);

/// What messages have besides.
const AROUND: &[Field] = &[
    Field::optional("name", Kind::Text, "A name of who speaks, for templates that know names."),
    Field::optional("tool_call_id", Kind::Text, "The call that a message of the role tool answers."),
    Field::optional("reasoning_content", Kind::Text, "What was thought before, for templates that know it."),
    Field::optional("annotations", NOTHING, "None: as clients send answers back."),
];

pub(super) const NOTHING: Kind = Kind::List(&Kind::Anything, 0, 0);
const CONTENT: Kind = Kind::Any(&[Kind::Text, list(&Kind::Object(&PART))]);

const MESSAGE: Kind = Kind::Any(&[Kind::Object(&SAID), Kind::Object(&CALLING)]);

const SAID: Object = Object::asked(
    "Message",
    "What somebody said.",
    &[
        &[
            Field::new("role", Kind::Word(&ROLES), "Who speaks."),
            Field::new("content", CONTENT, "What is said; parts stand on lines of their own."),
            Field::optional("tool_calls", NOTHING, "None."),
        ],
        AROUND,
    ],
);

const CALLING: Object = Object::asked(
    "CallingMessage",
    "An answer that called functions.",
    &[
        &[
            Field::new("role", Kind::Word(&["assistant"]), "Who calls."),
            Field::optional("content", CONTENT, "What was said besides."),
            Field::new("tool_calls", Kind::List(&Kind::Object(&CALL), 1, usize::MAX), "The calls."),
        ],
        AROUND,
    ],
);

/// What all parts have.
pub(super) const PART_TEXT: &[Field] = &[
    Field::new("text", Kind::Text, "The text."),
    Field::optional("annotations", NOTHING, "None: as clients send answers back."),
];

const PART: Object = Object::asked(
    "TextPart",
    "A part of a message.",
    &[&[Field::new("type", Kind::Word(&["text"]), "Parts are text.")], PART_TEXT],
);

const CALL: Object = Object::asked(
    "PastToolCall",
    "A call that an answer had.",
    &[&[
        Field::optional("id", Kind::Text, "Its name."),
        Field::optional("type", Kind::Word(&["function"]), "Functions alone are called."),
        Field::new(
            "function",
            Kind::Object(&Object::asked(
                "PastCall",
                "A function with its arguments.",
                &[&[
                    Field::new("name", Kind::Text, "Which function."),
                    Field::optional(
                        "arguments",
                        Kind::Any(&[Kind::Text, Kind::Open]),
                        "Its arguments, as JSON in a text or as they are.",
                    ),
                ]],
            )),
            "What was called.",
        ),
    ]],
);

/// The conversation.
pub const MESSAGES: Field = Field::new("messages", Kind::List(&MESSAGE, 1, usize::MAX), "The conversation.");
