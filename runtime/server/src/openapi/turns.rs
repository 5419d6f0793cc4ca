//! What the server sends from `/v1/responses`: a response with its items, and the typed events of a stream.

use super::answers::{NULL_OR_TEXT, TIME, TIMINGS};
use super::conversations::{NOTHING, TOOL_CHOICE};
use super::logprobs::TOKEN_LOGPROB;
use super::responses::{TEXT, TOOLS};
use crate::api::schema::{COUNT, Field, Kind, NUMBER, Object, list};

/// `POST /v1/responses`.
pub const RESPONSE: Object = Object::told(
    "Response",
    "An answer as items.",
    &[
        &[
            Field::new("id", Kind::Text, "The answer's own name."),
            Field::new("object", Kind::Word(&["response"]), "What this is."),
            Field::new("created_at", TIME, "When it was asked for, seconds since 1970."),
            Field::new("model", Kind::Text, "The model's name."),
            Field::new(
                "status",
                Kind::Word(&["in_progress", "completed", "incomplete", "failed"]),
                "What became of it.",
            ),
            Field::new("error", Kind::Any(&[Kind::Object(&FAILURE), Kind::Null]), "Why it failed."),
            Field::new(
                "incomplete_details",
                Kind::Any(&[Kind::Object(&INCOMPLETE), Kind::Null]),
                "Why it is incomplete.",
            ),
            Field::new("output", list(&ITEM), "The items that are whole."),
            Field::new(
                "usage",
                Kind::Any(&[Kind::Object(&USAGE), Kind::Null]),
                "Counts of tokens; null before the end.",
            ),
            Field::new("background", Kind::Only(false), "It is not made in the background."),
            Field::new("previous_response_id", Kind::Null, "Nothing is stored."),
            Field::new("store", Kind::Only(false), "Nor is this."),
            Field::new("truncation", Kind::Word(&["disabled"]), "Nothing is cut from a conversation."),
        ],
        REPEATED,
    ],
);

/// What is repeated of the request, or stands for what it left out.
const REPEATED: &[Field] = &[
    Field::new("instructions", NULL_OR_TEXT, "As given."),
    Field::new("max_output_tokens", Kind::Any(&[COUNT, Kind::Null]), "As given."),
    Field::new("metadata", Kind::Open, "As given."),
    Field::new("parallel_tool_calls", Kind::Flag, "As given, or true."),
    Field::new("prompt_cache_key", NULL_OR_TEXT, "As given."),
    Field::new("safety_identifier", NULL_OR_TEXT, "As given."),
    Field::new("text", Kind::Object(&TEXT), "As given, or any text."),
    Field::new("tool_choice", TOOL_CHOICE, "As given, or auto."),
    Field::new("tools", TOOLS, "As given."),
    Field::new("user", NULL_OR_TEXT, "As given."),
    Field::new("temperature", NUMBER, "As given, or the model's own."),
    Field::new("top_p", NUMBER, "As it was used."),
    Field::new("top_logprobs", COUNT, "As given, or 0."),
];

const FAILURE: Object = Object::told(
    "ResponseError",
    "Why a response failed.",
    &[&[
        Field::new(
            "code",
            Kind::Word(&["invalid_prompt", "rate_limit_exceeded", "server_error"]),
            "A word for programs.",
        ),
        Field::new("message", Kind::Text, "What was found, and what to do next."),
    ]],
);

const INCOMPLETE: Object = Object::told(
    "IncompleteDetails",
    "Why a response is incomplete.",
    &[&[Field::new("reason", Kind::Word(&["max_output_tokens"]), "It was cut where it was to be.")]],
);

const USAGE: Object = Object::told(
    "ResponseUsage",
    "Counts of tokens.",
    &[&[
        Field::new("input_tokens", COUNT, "Of the prompt."),
        Field::new(
            "input_tokens_details",
            Kind::Object(&Object::told(
                "InputTokensDetails",
                "What there is to say of the prompt's tokens.",
                &[&[
                    Field::new(
                        "cached_tokens",
                        COUNT,
                        "Those whose keys and values were in the cache already.",
                    ),
                    Field::new("cache_write_tokens", COUNT, "Not counted: 0."),
                ]],
            )),
            "More of those of the prompt.",
        ),
        Field::new("output_tokens", COUNT, "Of the answer."),
        Field::new(
            "output_tokens_details",
            Kind::Object(&Object::told(
                "OutputTokensDetails",
                "Not counted.",
                &[&[Field::new("reasoning_tokens", COUNT, "0.")]],
            )),
            "Not counted.",
        ),
        Field::new("total_tokens", COUNT, "Of both."),
        Field::sometimes("timings", Kind::Object(&TIMINGS), "At the end of a stream: how long things took."),
    ]],
);

const ITEM: Kind = Kind::Any(&[Kind::Object(&MESSAGE), Kind::Object(&CALL)]);

/// What all items have.
const OF_ITEM: &[Field] = &[
    Field::new("id", Kind::Text, "The item's own name."),
    Field::new("status", Kind::Word(&["in_progress", "completed", "incomplete"]), "What became of it."),
];

const MESSAGE: Object = Object::told(
    "OutputMessage",
    "What the model says.",
    &[
        &[
            Field::new("type", Kind::Word(&["message"]), "This kind of item."),
            Field::new("role", Kind::Word(&["assistant"]), "Who speaks."),
            Field::new(
                "content",
                list(&Kind::Object(&PART)),
                "Its text; nothing in one that has just begun.",
            ),
        ],
        OF_ITEM,
    ],
);

const CALL: Object = Object::told(
    "OutputFunctionCall",
    "A function that the model calls.",
    &[
        &[
            Field::new("type", Kind::Word(&["function_call"]), "This kind of item."),
            Field::new("call_id", Kind::Text, "The call's name, for the item that answers it."),
            Field::new("name", Kind::Text, "Which function."),
            Field::new("arguments", Kind::Text, "Its arguments, JSON; empty in one that has just begun."),
        ],
        OF_ITEM,
    ],
);

const LOGPROBS: Field =
    Field::new("logprobs", list(&Kind::Object(&TOKEN_LOGPROB)), "Of its tokens; none if not asked for.");
const WHOLE_TEXT: Field = Field::new("text", Kind::Text, "The whole text.");

const PART: Object = Object::told(
    "OutputText",
    "The text of a message.",
    &[&[
        Field::new("type", Kind::Word(&["output_text"]), "Parts are text."),
        WHOLE_TEXT,
        Field::new("annotations", NOTHING, "None."),
        LOGPROBS,
    ]],
);

const NUMBERED: Field = Field::new("sequence_number", COUNT, "The event's number, from 0 on.");
const INDEX: Field = Field::new("output_index", COUNT, "Which item.");

/// Where an event of an item belongs.
const PLACE: &[Field] = &[NUMBERED, INDEX, Field::new("item_id", Kind::Text, "The item's name.")];

/// Where in a message.
const WITHIN: &[Field] = &[Field::new("content_index", COUNT, "Which part.")];

const fn named(types: &'static [&'static str]) -> Field {
    Field::new("type", Kind::Word(types), "The event's name.")
}

/// The events of a stream.
pub const EVENTS: &[Kind] = &[
    Kind::Object(&Object::told(
        "ResponseEvent",
        "The response begins, or is over.",
        &[&[
            named(&[
                "response.created",
                "response.in_progress",
                "response.completed",
                "response.incomplete",
                "response.failed",
            ]),
            NUMBERED,
            Field::new("response", Kind::Object(&RESPONSE), "As it is now."),
        ]],
    )),
    Kind::Object(&Object::told(
        "OutputItemEvent",
        "An item begins, or is whole.",
        &[&[
            named(&["response.output_item.added", "response.output_item.done"]),
            NUMBERED,
            INDEX,
            Field::new("item", ITEM, "As it is now."),
        ]],
    )),
    Kind::Object(&Object::told(
        "ContentPartEvent",
        "The text of a message begins, or is whole.",
        &[
            &[
                named(&["response.content_part.added", "response.content_part.done"]),
                Field::new("part", Kind::Object(&PART), "As it is now."),
            ],
            PLACE,
            WITHIN,
        ],
    )),
    Kind::Object(&Object::told(
        "OutputTextDeltaEvent",
        "Text that goes on.",
        &[
            &[
                named(&["response.output_text.delta"]),
                Field::new("delta", Kind::Text, "What is added."),
                LOGPROBS,
            ],
            PLACE,
            WITHIN,
        ],
    )),
    Kind::Object(&Object::told(
        "OutputTextDoneEvent",
        "Text that is whole.",
        &[&[named(&["response.output_text.done"]), WHOLE_TEXT, LOGPROBS], PLACE, WITHIN],
    )),
    Kind::Object(&Object::told(
        "FunctionCallArgumentsDeltaEvent",
        "Arguments of a call, all in one piece.",
        &[
            &[
                named(&["response.function_call_arguments.delta"]),
                Field::new("delta", Kind::Text, "What is added."),
            ],
            PLACE,
        ],
    )),
    Kind::Object(&Object::told(
        "FunctionCallArgumentsDoneEvent",
        "Arguments that are whole.",
        &[
            &[
                named(&["response.function_call_arguments.done"]),
                Field::new("arguments", Kind::Text, "They, JSON."),
                Field::new("name", Kind::Text, "Which function."),
            ],
            PLACE,
        ],
    )),
    Kind::Object(&Object::told(
        "ResponseErrorEvent",
        "An error; a response that failed is the next event and the last.",
        &[&[
            named(&["error"]),
            NUMBERED,
            Field::new("message", Kind::Text, "What was found, and what to do next."),
            Field::new("param", NULL_OR_TEXT, "The parameter at fault."),
            Field::new("code", NULL_OR_TEXT, "A word for programs."),
        ]],
    )),
];
