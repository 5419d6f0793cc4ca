//! `trtc run`: answers to prompts, all in one batch.

use crate::options::{EngineArgs, Ids, SamplingArgs};
use crate::render::Failure;
use crate::session::{Flow, Session};
use serde_json::json;
use std::io::Write;
use trtc_runtime::{Answer, Event, Request, Sampling, TokenLogprob};

/// Answer prompts
///
/// Several prompts are answered in one batch. Without sampling options the best token is taken at each step.
/// A single answer streams; several are printed in the order of the prompts.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    trtc run model.engine -p 'The capital of France is' --max-tokens 32\n  \
    trtc run model.engine --chat -p 'Tell me a joke.' --temperature 0.8 --top-p 0.95 --seed 7\n  \
    trtc run model.engine --prompt-ids 504,3575,282 1,2,3 --ignore-eos --logprobs 5 --json")]
pub struct Args {
    #[command(flatten)]
    engine: EngineArgs,
    /// Prompts, as text
    #[arg(short, long, value_name = "TEXT", num_args = 1.., required_unless_present = "prompt_ids")]
    prompt: Vec<String>,
    /// Prompts, as token ids: 1,2,3
    #[arg(long, value_name = "IDS", num_args = 1.., conflicts_with = "prompt")]
    prompt_ids: Vec<Ids>,
    /// Put each prompt into the model's chat template, as the user's words
    #[arg(long, conflicts_with = "prompt_ids")]
    chat: bool,
    /// Most tokens of an answer
    #[arg(long, value_name = "N", default_value_t = 128)]
    max_tokens: u32,
    /// Least tokens of an answer: nothing ends it before
    #[arg(long, value_name = "N", default_value_t = 0)]
    min_tokens: u32,
    /// Answers to each prompt; answer I uses the seed plus I
    #[arg(short, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    n: u32,
    /// Text that ends an answer and is not part of it; may be repeated
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,
    /// Token that ends an answer; may be repeated
    #[arg(long, value_name = "ID")]
    stop_id: Vec<u32>,
    /// Do not end at the model's end-of-sequence tokens
    #[arg(long)]
    ignore_eos: bool,
    /// Log-probabilities of the answer's tokens, and of the N best at each step
    #[arg(long, value_name = "N")]
    logprobs: Option<u32>,
    /// Log-probabilities of the prompt's tokens, and of the N best at each place
    #[arg(long, value_name = "N")]
    prompt_logprobs: Option<u32>,
    /// Print one JSON object an answer: prompt_ids, token_ids, text, logprobs, finish_reason
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    sampling: SamplingArgs,
}

/// Answers the prompts.
pub fn run(args: &Args) -> Result<(), Failure> {
    let sampling = args.sampling.over(Sampling::greedy())?;
    let mut session = Session::open(&args.engine)?;
    let prompts = prompts(args, &session)?;
    let requests: Vec<Request> = prompts
        .iter()
        .map(|ids| Request {
            max_tokens: args.max_tokens,
            min_tokens: args.min_tokens,
            sampling: sampling.clone(),
            n: args.n,
            stop: args.stop.clone(),
            stop_ids: args.stop_id.clone(),
            ignore_eos: args.ignore_eos,
            // A JSON object always has the chosen tokens' log-probabilities.
            logprobs: args.logprobs.or(args.json.then_some(0)),
            prompt_logprobs: args.prompt_logprobs,
            ..Request::new(ids.clone())
        })
        .collect();
    let mut out = std::io::stdout().lock();
    let streams = !args.json && session.has_text() && prompts.len() == 1 && args.n == 1;
    let answers = session.drive(requests, |event| {
        if let (true, Event::Token { text, .. } | Event::Done { text, .. }) = (streams, event) {
            out.write_all(text.as_bytes())?;
            out.flush()?;
        }
        Ok(Flow::On)
    })?;
    if streams {
        writeln!(out)?;
    }
    print(args, &session, &prompts, streams, answers.answers(), &mut out)
}

/// Token ids of every prompt.
fn prompts(args: &Args, session: &Session) -> Result<Vec<Vec<u32>>, Failure> {
    if !args.prompt_ids.is_empty() {
        return Ok(args.prompt_ids.iter().map(|ids| ids.0.clone()).collect());
    }
    let encode = |text: &String| match args.chat {
        true => session.chat_ids(&[("user", text)]),
        false => Ok(session.engine.encode(text)?),
    };
    args.prompt.iter().map(encode).collect()
}

/// Prints whole answers. The text of a streamed one is out already.
fn print(
    args: &Args,
    session: &Session,
    prompts: &[Vec<u32>],
    streamed: bool,
    answers: Vec<Answer>,
    out: &mut impl Write,
) -> Result<(), Failure> {
    for (i, answer) in answers.into_iter().enumerate() {
        // Answers come in the order of the prompts, n of each.
        let prompt = i / args.n as usize;
        if args.json {
            writeln!(out, "{}", object(args, &prompts[prompt], &answer))?;
            continue;
        }
        if prompts.len() > 1 || args.n > 1 {
            let of = if args.n > 1 { format!(", answer {}", answer.id.index + 1) } else { String::new() };
            writeln!(out, "{}== prompt {}{of}", if i > 0 { "\n" } else { "" }, prompt + 1)?;
        }
        if !session.has_text() {
            let ids: Vec<String> = answer.tokens.iter().map(u32::to_string).collect();
            writeln!(out, "{}", ids.join(","))?;
        } else if !streamed {
            writeln!(out, "{}", answer.text)?;
        }
        if args.prompt_logprobs.is_some() {
            table("prompt", &answer.prompt_logprobs, session, out)?;
        }
        if args.logprobs.is_some() {
            table("answer", &answer.logprobs, session, out)?;
        }
    }
    Ok(())
}

/// One answer as JSON. Lists of the best tokens are there if any were asked for.
fn object(args: &Args, prompt: &[u32], answer: &Answer) -> serde_json::Value {
    let chosen = |list: &[TokenLogprob]| -> Vec<f32> { list.iter().map(|t| t.logprob).collect() };
    let best =
        |list: &[TokenLogprob]| -> Vec<Vec<(u32, f32)>> { list.iter().map(|t| t.top.clone()).collect() };
    let mut object = json!({
        "prompt_ids": prompt,
        "token_ids": answer.tokens,
        "text": answer.text,
        "logprobs": chosen(&answer.logprobs),
        "finish_reason": answer.finish.as_str(),
    });
    if args.n > 1 {
        object["index"] = json!(answer.id.index);
    }
    if args.logprobs.is_some_and(|n| n > 0) {
        object["top_logprobs"] = json!(best(&answer.logprobs));
    }
    if let Some(n) = args.prompt_logprobs {
        object["prompt_logprobs"] = json!(chosen(&answer.prompt_logprobs));
        if n > 0 {
            object["prompt_top_logprobs"] = json!(best(&answer.prompt_logprobs));
        }
    }
    object
}

/// Tokens with their log-probabilities, and the best ones at each place.
fn table(title: &str, list: &[TokenLogprob], session: &Session, out: &mut impl Write) -> Result<(), Failure> {
    writeln!(out, "{title:>8}  logprob  text")?;
    for t in list {
        write!(out, "{:>8} {:>8.4}  {:?}", t.token, t.logprob, session.piece(t.token))?;
        for (token, logprob) in &t.top {
            write!(out, "  {token} {:?} {logprob:.4}", session.piece(*token))?;
        }
        writeln!(out)?;
    }
    Ok(())
}
