//! `POST /v1/completions`: the body to requests for the engine.

use super::Endpoint;
use super::fields::Fields;
use super::params::{self, Common, Facts, Prompt, Wish};
use crate::error::ApiError;
use serde_json::Map;

/// Tokens of an answer if nothing is said: as OpenAI has it.
pub const MAX_TOKENS: u32 = 16;

/// Reads a body; the model is known already.
pub fn parse(mut fields: Fields, facts: &Facts) -> Result<Wish, ApiError> {
    let prompts = params::prompts(&mut fields)?;
    let Common { request: mut base, stream, timeout } =
        params::common(&mut fields, facts, Endpoint::Completions)?;
    let max_tokens = fields.count("max_tokens")?.unwrap_or(MAX_TOKENS);
    let logprobs = params::alternatives(&mut fields, "logprobs")?;
    let prompt_logprobs = params::alternatives(&mut fields, "prompt_logprobs")?;
    let echo = fields.flag("echo")?.unwrap_or(false);
    params::finish(fields)?;
    if stream.is_some() && prompt_logprobs.is_some() {
        let what = "prompt_logprobs are not part of a stream: leave stream out, or use echo with logprobs";
        return Err(ApiError::invalid(what).param("prompt_logprobs"));
    }
    // Of a prompt alone nothing else can be reported.
    base.logprobs = logprobs.filter(|_| max_tokens > 0);
    base.prompt_logprobs = prompt_logprobs.max(logprobs.filter(|_| echo));
    if echo && max_tokens == 0 {
        base.prompt_logprobs = base.prompt_logprobs.or(Some(0));
    }
    let mut wish = Wish {
        requests: Vec::new(),
        echo: Vec::new(),
        stream,
        timeout,
        logprobs,
        prompt_logprobs,
        tools: None,
        asked: Map::new(),
    };
    for prompt in prompts {
        let (ids, text) = match prompt {
            Prompt::Text(text) => (params::encode(facts, &text, true)?, text),
            Prompt::Ids(ids) if echo => {
                let text = facts.tokenizer.as_ref().map(|t| t.decode(&ids)).unwrap_or_default();
                (ids, text)
            }
            Prompt::Ids(ids) => (ids, String::new()),
        };
        wish.requests.push(params::complete(&base, ids, Some(max_tokens), facts)?);
        if echo {
            wish.echo.push(text);
        }
    }
    Ok(wish)
}
