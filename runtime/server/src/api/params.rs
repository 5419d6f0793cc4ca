//! Parameters that completions and chats share, and the table of those that are taken because they change nothing.
//!
//! A parameter is honoured or refused by its name. Values out of range are for the runtime's own checks to refuse.

use super::Endpoint;
use super::fields::{Fields, ids, whole};
use super::schema::{Field, Kind};
use super::structured;
use super::tools::Tools;
use crate::error::ApiError;
use serde_json::{Map, Value};
use std::sync::Arc;
use std::time::Duration;
use trtc_runtime::text::{ChatTemplate, Tokenizer};
use trtc_runtime::{Grammars, Limits, Request, Sampling};

/// Most alternatives that are reported with a token.
pub const MOST_ALTERNATIVES: u32 = 20;
/// Most texts that may end an answer.
pub const MOST_STOPS: usize = 64;

/// What parsing needs to know of a model.
#[derive(Clone, Debug)]
pub struct Facts {
    /// What requests are held to.
    pub limits: Limits,
    /// The model's own sampling.
    pub sampling: Sampling,
    /// Text to tokens and back.
    pub tokenizer: Option<Arc<Tokenizer>>,
    /// Messages to text.
    pub template: Option<Arc<ChatTemplate>>,
    /// What compiles grammars.
    pub grammars: Option<Arc<Grammars>>,
}

/// How an answer is to be sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Streaming {
    /// A last chunk has the counts of tokens.
    pub usage: bool,
}

/// A request, understood and held to the model's limits.
#[derive(Clone, Debug, PartialEq)]
pub struct Wish {
    /// One a prompt, all with the same parameters.
    pub requests: Vec<Request>,
    /// What each prompt's answers begin with; empty if the prompt is not repeated.
    pub echo: Vec<String>,
    /// As a stream, or whole.
    pub stream: Option<Streaming>,
    /// How long it may take.
    pub timeout: Option<Duration>,
    /// Alternatives that are reported with each token; none if log-probabilities are not.
    pub logprobs: Option<u32>,
    /// Alternatives that are reported with each token of the prompt, in a field of its own.
    pub prompt_logprobs: Option<u32>,
    /// Functions that answers may call.
    pub tools: Option<Arc<Tools>>,
    /// What the answer repeats of the request.
    pub asked: Map<String, Value>,
}

/// What every request for an answer may have.
#[derive(Clone, Debug)]
pub struct Common {
    /// All but its prompt, lengths and log-probabilities.
    pub request: Request,
    /// As a stream, or whole.
    pub stream: Option<Streaming>,
    /// How long it may take.
    pub timeout: Option<Duration>,
}

const NO_TOOLS: &str = "only chats call tools; leave it out, or use /v1/chat/completions";
const NO_STATE: &str = "nothing is stored; leave it out, and give the whole conversation in input";
/// A list with nothing in it.
const NONE: Kind = Kind::List(&Kind::Anything, 0, 0);
/// What `tool_choice` says where nothing can be called.
const NO_CALL: Kind = Kind::Word(&["none", "auto"]);
const ONE: Kind = Kind::Count { least: 1, most: 1 };
const NO_WORDS: Kind = Kind::Word(&[""]);
const TEXT_ALONE: Kind = Kind::List(&Kind::Word(&["text"]), 1, 1);

/// Parameters that are taken with values that change nothing, which are those of their kind; the line says why others are
/// refused. What supports one of them takes its field before.
pub const INFORMS: &[Field] = &[
    Field::optional("user", Kind::Text, "it only informs; give a string"),
    Field::optional("prompt_cache_key", Kind::Text, "it only informs; give a string"),
    Field::optional("safety_identifier", Kind::Text, "it only informs; give a string"),
    Field::optional("metadata", Kind::Open, "it only informs; give an object"),
    Field::optional("store", Kind::Only(false), "answers are not stored; give false, or leave it out"),
    Field::optional(
        "service_tier",
        Kind::Word(&["auto", "default"]),
        "there is one tier; give auto or default",
    ),
    Field::optional("parallel_tool_calls", Kind::Flag, "it only informs; give true or false"),
    Field::optional("tools", NONE, NO_TOOLS),
    Field::optional("tool_choice", NO_CALL, NO_TOOLS),
    Field::optional("n", ONE, "a response is one answer; leave it out, or use /v1/chat/completions"),
    Field::optional("previous_response_id", Kind::Null, NO_STATE),
    Field::optional("conversation", Kind::Null, NO_STATE),
    Field::optional(
        "background",
        Kind::Only(false),
        "answers are not stored to be fetched later; give false, or leave it out",
    ),
    Field::optional(
        "truncation",
        Kind::Word(&["disabled"]),
        "nothing is cut from a conversation; give disabled, or leave it out",
    ),
    Field::optional("max_tool_calls", Kind::Null, "the server calls no tools by itself; leave it out"),
    Field::optional("functions", NONE, "give tools, which came in its place"),
    Field::optional("function_call", NO_CALL, "give tool_choice, which came in its place"),
    Field::optional("modalities", TEXT_ALONE, "answers are text; give [\"text\"], or leave it out"),
    Field::optional("suffix", NO_WORDS, "text is not filled in before a suffix; leave it out"),
    Field::optional("logits_processors", NONE, "logit processors are not supported; leave it out"),
    Field::optional(
        "use_beam_search",
        Kind::Only(false),
        "there is no beam search; give false, or leave it out",
    ),
    Field::optional(
        "skip_special_tokens",
        Kind::Only(true),
        "special tokens are no text here; give true, or leave it out",
    ),
    Field::optional(
        "include_stop_str_in_output",
        Kind::Only(false),
        "a stop string is no part of an answer; give false, or leave it out",
    ),
];

/// Ends the reading of a body: what is left is harmless, or refused by name.
pub fn finish(mut fields: Fields) -> Result<(), ApiError> {
    for (name, value) in fields.rest().collect::<Vec<_>>() {
        let Some(row) = INFORMS.iter().find(|row| row.name == name) else {
            return Err(ApiError::unsupported(name, "there is no such parameter here; leave it out"));
        };
        if !row.kind.admits(&value) {
            return Err(ApiError::unsupported(name, row.help));
        }
    }
    Ok(())
}

/// Reads what every request for an answer may have.
pub fn common(fields: &mut Fields, facts: &Facts, endpoint: Endpoint) -> Result<Common, ApiError> {
    let mut request = Request::new(Vec::new());
    request.sampling = sampling(fields, &facts.sampling)?;
    if endpoint != Endpoint::Responses {
        request.n = fields.count("n")?.unwrap_or(1);
    }
    if let Some(best) = fields.count("best_of")?.filter(|&best| best != request.n) {
        let why = format!("it is {best} and n is {}: answers are not ranked; leave it out", request.n);
        return Err(ApiError::unsupported("best_of", &why));
    }
    request.min_tokens = fields.count("min_tokens")?.unwrap_or(0);
    request.ignore_eos = fields.flag("ignore_eos")?.unwrap_or(false);
    request.stop_ids = fields.ids("stop_token_ids")?.unwrap_or_default();
    request.stop = stop(fields)?;
    request.grammar = structured::take(fields, facts, endpoint)?;
    request.priority = match fields.integer("priority")? {
        None => 0,
        Some(p) => i32::try_from(p).map_err(|_| {
            ApiError::invalid(format!("priority is {p}: give a number from -2147483648 to 2147483647"))
                .param("priority")
        })?,
    };
    let streams = fields.flag("stream")?.unwrap_or(false);
    let options = fields.object("stream_options")?;
    if options.is_some() && !streams {
        return Err(ApiError::invalid("stream_options is given and stream is not true: leave it out")
            .param("stream_options"));
    }
    let usage = match options {
        None => false,
        Some(mut options) => {
            // Responses always end with the counts.
            let usage = match endpoint {
                Endpoint::Responses => false,
                _ => options.flag("include_usage")?.unwrap_or(false),
            };
            // Noise against those who measure chunks: there is none to leave out.
            if options.flag("include_obfuscation")? == Some(true) {
                let why = "chunks are not padded; give false, or leave it out";
                return Err(ApiError::unsupported("stream_options.include_obfuscation", why));
            }
            options.finish()?;
            usage
        }
    };
    let timeout = match fields.float("timeout")? {
        Some(s) if s > 0.0 && s <= 1e6 => Some(Duration::from_secs_f32(s)),
        Some(s) => {
            return Err(ApiError::invalid(format!("timeout is {s}: give seconds, above 0")).param("timeout"));
        }
        None => None,
    };
    Ok(Common { request, stream: streams.then_some(Streaming { usage }), timeout })
}

fn sampling(fields: &mut Fields, base: &Sampling) -> Result<Sampling, ApiError> {
    let mut sampling = Sampling {
        temperature: fields.float("temperature")?.unwrap_or(base.temperature),
        top_p: fields.float("top_p")?.unwrap_or(base.top_p),
        min_p: fields.float("min_p")?.unwrap_or(base.min_p),
        repetition_penalty: fields.float("repetition_penalty")?.unwrap_or(base.repetition_penalty),
        presence_penalty: fields.float("presence_penalty")?.unwrap_or(base.presence_penalty),
        frequency_penalty: fields.float("frequency_penalty")?.unwrap_or(base.frequency_penalty),
        // A negative seed is as good as another.
        seed: fields.integer("seed")?.map(|s| s as u64).or(base.seed),
        ..base.clone()
    };
    match fields.integer("top_k")? {
        None => {}
        // Others write -1 for all.
        Some(-1) => sampling.top_k = 0,
        Some(k) => {
            let wrong = || {
                ApiError::invalid(format!("top_k is {k}: give a number from 0 on; 0 and -1 keep all tokens"))
            };
            sampling.top_k = u32::try_from(k).map_err(|_| wrong().param("top_k"))?;
        }
    }
    if sampling.top_p == 0.0 {
        // The smallest set of tokens that has any probability: the best one.
        (sampling.top_p, sampling.top_k) = (1.0, 1);
    }
    if let Some(biases) = fields.object("logit_bias")? {
        sampling.logit_bias = logit_bias(biases)?;
    }
    Ok(sampling)
}

fn logit_bias(mut biases: Fields) -> Result<Vec<(u32, f32)>, ApiError> {
    let wrong = |token: &str| {
        let what = "give token ids with numbers from -100 to 100, such as {\"42\": -100}";
        ApiError::invalid(format!("logit_bias has {token:?}: {what}")).param("logit_bias")
    };
    let one = |(token, bias): (String, Value)| {
        let pair = token.parse().ok().zip(bias.as_f64().map(|b| b as f32));
        pair.ok_or_else(|| wrong(&token))
    };
    biases.rest().map(one).collect()
}

fn stop(fields: &mut Fields) -> Result<Vec<String>, ApiError> {
    let want = "a string, or a list of strings";
    let stops = match fields.take("stop") {
        None => Vec::new(),
        Some(Value::String(one)) => vec![one],
        Some(Value::Array(list)) => {
            let texts: Option<Vec<String>> = list.iter().map(|v| v.as_str().map(str::to_owned)).collect();
            texts.ok_or_else(|| fields.wrong("stop", want, &Value::Array(list)))?
        }
        Some(other) => return Err(fields.wrong("stop", want, &other)),
    };
    if stops.len() > MOST_STOPS {
        let what = format!("stop has {} texts: give at most {MOST_STOPS}", stops.len());
        return Err(ApiError::invalid(what).param("stop"));
    }
    Ok(stops)
}

/// A number of alternatives, within the bound.
pub fn alternatives(fields: &mut Fields, name: &str) -> Result<Option<u32>, ApiError> {
    let count = fields.count(name)?;
    match count.filter(|&k| k > MOST_ALTERNATIVES) {
        None => Ok(count),
        Some(k) => {
            Err(ApiError::invalid(format!("{name} is {k}: give at most {MOST_ALTERNATIVES}")).param(name))
        }
    }
}

/// Puts prompt and length into a request and holds it to the limits; without `max_tokens` it may be as long as there
/// is room.
pub fn complete(
    base: &Request,
    prompt: Vec<u32>,
    max_tokens: Option<u32>,
    facts: &Facts,
) -> Result<Request, ApiError> {
    let longest = facts.limits.dims.max_seq_len;
    let tokens = prompt.len() as u64;
    let exceeded = |what: String| ApiError::invalid(what).code("context_length_exceeded");
    // An answer has one token at least, unless none is asked for.
    if tokens + u64::from(max_tokens != Some(0)) > u64::from(longest) {
        return Err(exceeded(format!(
            "the prompt has {tokens} tokens, this model's sequences have at most {longest}, the answer's tokens \
             included: shorten the prompt"
        )));
    }
    if let Some(max) = max_tokens.filter(|&max| tokens + u64::from(max) > u64::from(longest)) {
        return Err(exceeded(format!(
            "the prompt has {tokens} tokens and {max} are asked for, this model's sequences have at most {longest}: \
             shorten the prompt, or ask for at most {} tokens",
            u64::from(longest) - tokens
        ))
        .param("max_tokens"));
    }
    let room = facts.limits.room(prompt.len() as u32);
    let request = Request { prompt, max_tokens: max_tokens.unwrap_or(room.max(1)), ..base.clone() };
    facts.limits.check(&request)?;
    Ok(request)
}

/// The tokens of a text that a prompt is.
pub fn encode(facts: &Facts, text: &str, bos: bool) -> Result<Vec<u32>, ApiError> {
    let none = || ApiError::invalid("this model has no tokenizer: give prompts as token ids");
    Ok(facts.tokenizer.as_ref().ok_or_else(none)?.encode(text, bos)?)
}

/// One or several prompts, as text or as ids.
#[derive(Clone, Debug, PartialEq)]
pub enum Prompt {
    /// A text.
    Text(String),
    /// Token ids.
    Ids(Vec<u32>),
}

/// Reads the prompts of a completion.
pub fn prompts(fields: &mut Fields) -> Result<Vec<Prompt>, ApiError> {
    let want = "a string, a list of strings, a list of token ids, or a list of such lists";
    let Some(value) = fields.take("prompt") else {
        return Err(ApiError::invalid(format!("prompt is missing: give {want}")).param("prompt"));
    };
    let wrong =
        || ApiError::invalid(format!("prompt is none that is understood: give {want}")).param("prompt");
    let prompts: Option<Vec<Prompt>> = match &value {
        Value::String(text) => Some(vec![Prompt::Text(text.clone())]),
        Value::Array(list) if list.first().is_some_and(|v| whole(v).is_some()) => {
            ids(&value).map(|ids| vec![Prompt::Ids(ids)])
        }
        Value::Array(list) => {
            let one = |v: &Value| match v {
                Value::String(text) => Some(Prompt::Text(text.clone())),
                Value::Array(_) => ids(v).map(Prompt::Ids),
                _ => None,
            };
            list.iter().map(one).collect()
        }
        _ => None,
    };
    prompts.filter(|p| !p.is_empty()).ok_or_else(wrong)
}
