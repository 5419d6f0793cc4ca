//! `trtc chat`: a conversation on a terminal or through a pipe.

use crate::options::{EngineArgs, SamplingArgs};
use crate::render::Failure;
use crate::session::{Flow, Session};
use crate::signal::Watch;
use std::io::{BufRead, IsTerminal, Write};
use trtc_runtime::{Event, Finish, Request};

/// Talk to a model
///
/// Reads one message a line; history is kept, and what both said before is not computed again. Sampling options
/// that are not given are those that the model comes with. Ctrl-C stops an answer, /reset begins anew, /exit ends.
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  trtc chat model.engine\n  trtc chat model.engine --system 'Answer in one sentence.' \
                        --temperature 0\n  echo 'What is 2 + 2?' | trtc chat model.engine"
)]
pub struct Args {
    #[command(flatten)]
    engine: EngineArgs,
    /// What the model is told before the conversation
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    /// Most tokens of an answer
    #[arg(long, value_name = "N", default_value_t = 1024)]
    max_tokens: u32,
    #[command(flatten)]
    sampling: SamplingArgs,
}

/// Holds the conversation.
pub fn run(args: &Args) -> Result<(), Failure> {
    let mut session = Session::open(&args.engine)?;
    let sampling = args.sampling.over(session.engine.default_sampling())?;
    sampling.check(session.manifest().model.vocab)?;
    let opening = || -> Vec<(&str, String)> { args.system.iter().map(|s| ("system", s.clone())).collect() };
    let mut history = opening();
    let mut out = std::io::stdout().lock();
    let prompting = std::io::stdin().is_terminal();
    loop {
        if prompting {
            write!(out, "> ")?;
            out.flush()?;
        }
        let mut line = String::new();
        let read = std::io::stdin().lock().read_line(&mut line);
        if read.map_err(|e| Failure::user(format!("cannot read a message: {e}")))? == 0 {
            return Ok(());
        }
        match line.trim() {
            "" => continue,
            "/exit" | "/quit" => return Ok(()),
            "/reset" => {
                history = opening();
                continue;
            }
            command if command.starts_with('/') => {
                writeln!(out, "There is no {command}; there are /reset and /exit.")?;
                continue;
            }
            text => history.push(("user", text.to_owned())),
        }
        let messages: Vec<(&str, &str)> = history.iter().map(|(role, text)| (*role, text.as_str())).collect();
        let prompt = session.chat_ids(&messages)?;
        let limit = session.manifest().dims.max_seq_len;
        if prompt.len() as u64 >= u64::from(limit) {
            writeln!(
                out,
                "The conversation has {} tokens, the engine takes {limit}: /reset begins anew.",
                prompt.len()
            )?;
            history.pop();
            continue;
        }
        let request =
            Request { max_tokens: args.max_tokens, sampling: sampling.clone(), ..Request::new(prompt) };
        let watch = Watch::new();
        let answers = session.drive(vec![request], |event| {
            if let Event::Token { text, .. } | Event::Done { text, .. } = event {
                out.write_all(text.as_bytes())?;
                out.flush()?;
            }
            Ok(if watch.fired() { Flow::Stop } else { Flow::On })
        })?;
        drop(watch);
        for answer in answers.answers() {
            let end = match answer.finish {
                Finish::Stop => "\n",
                Finish::Length => " [cut: the limit of tokens]\n",
                Finish::Cancelled | Finish::Lost => " [stopped]\n",
            };
            out.write_all(end.as_bytes())?;
            history.push(("assistant", answer.text));
        }
    }
}
