//! `trtc eval`: perplexity over a text, or comparison with reference outputs.

use crate::comparison::{Comparison, Outcome};
use crate::golden::{Case, Differences, Golden, Greedy, Tolerance, tolerance};
use crate::options::EngineArgs;
use crate::perplexity;
use crate::progress::Bar;
use crate::render::Failure;
use crate::session::{Flow, Session};
use serde_json::{Value, json};
use std::io::Write;
use std::path::{Path, PathBuf};
use trtc_runtime::{Answer, Event, Request, Sampling};

/// Measure an engine's quality
///
/// --text computes the perplexity of a text: it is tokenised whole and cut into windows that begin STRIDE tokens
/// apart; each token is scored once, in the first window that holds it, with what the window has before it. A model
/// that wants a BOS token gets one before each window.
///
/// --golden compares with reference outputs. Greedy tokens must be equal until the reference's best two tokens are
/// closer than the engine's precision can tell; then the reference's tokens are fed and log-probabilities compared:
/// each difference and their mean over all cases. Quantised engines are held to log-probabilities only, or measured
/// without a bound.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  trtc eval model.engine --text book.txt --max-tokens 20000\n  \
                        trtc eval model.engine --golden golden.json --json")]
#[command(group(clap::ArgGroup::new("what").required(true).args(["text", "golden"])))]
pub struct Args {
    #[command(flatten)]
    engine: EngineArgs,
    /// Text file, UTF-8
    #[arg(long, value_name = "FILE")]
    text: Option<PathBuf>,
    /// Tokens of a window; the engine's longest sequence, at most 2048, if left out
    #[arg(long, value_name = "N", requires = "text", value_parser = clap::value_parser!(u32).range(2..))]
    window: Option<u32>,
    /// Tokens between the beginnings of windows; half a window if left out
    #[arg(long, value_name = "N", requires = "text", value_parser = clap::value_parser!(u32).range(1..))]
    stride: Option<u32>,
    /// Read no more than the first N tokens of the text
    #[arg(long, value_name = "N", requires = "text", value_parser = clap::value_parser!(u32).range(2..))]
    max_tokens: Option<u32>,
    /// File of reference outputs
    #[arg(long, value_name = "FILE")]
    golden: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Measures.
pub fn run(args: &Args) -> Result<(), Failure> {
    match (&args.text, &args.golden) {
        (Some(file), _) => text(args, file),
        (_, Some(file)) => golden(args, file),
        (None, None) => Err(Failure::bug("neither --text nor --golden is given")),
    }
}

fn read(path: &Path) -> Result<String, Failure> {
    std::fs::read_to_string(path).map_err(|e| Failure::file("read", path, &e))
}

/// A request for log-probabilities of its prompt and nothing else.
pub(super) fn forced(prompt: Vec<u32>) -> Request {
    Request { max_tokens: 0, prompt_logprobs: Some(0), ..Request::new(prompt) }
}

/// Perplexity of a text.
fn text(args: &Args, file: &Path) -> Result<(), Failure> {
    let text = read(file)?;
    let mut session = Session::open(&args.engine)?;
    let mut tokens = session.engine.encode(&text)?;
    // The window brings its own BOS.
    let bos = session.bos();
    if bos.is_some() && tokens.first() == bos.as_ref() {
        tokens.remove(0);
    }
    tokens.truncate(args.max_tokens.map_or(usize::MAX, |n| n as usize));
    if tokens.len() < 2 {
        return Err(Failure::user(format!("'{}' has {} tokens", file.display(), tokens.len()))
            .help("perplexity needs at least two"));
    }
    let most = session.manifest().dims.max_seq_len;
    let window = args.window.unwrap_or(most.min(2048));
    let stride = args.stride.unwrap_or((window / 2).max(1));
    if window > most {
        return Err(Failure::user(format!("--window is {window}, the engine takes {most}"))
            .help("give a smaller one, or build the engine with a greater --max-seq-len"));
    }
    let plan = perplexity::windows(tokens.len(), window as usize, stride as usize, bos.is_some())
        .ok_or_else(|| {
            Failure::user(format!("--window {window} and --stride {stride} leave tokens out")).help(
                "give a stride of at most the window, less one for the BOS token where the model has one",
            )
        })?;
    let requests: Vec<Request> =
        plan.iter().map(|w| forced(bos.iter().chain(&tokens[w.tokens.clone()]).copied().collect())).collect();
    let bar = Bar::new("windows", requests.len() as u64);
    let answers = session.drive(requests, |event| {
        if let Event::Done { .. } = event {
            bar.advance(1);
        }
        Ok(Flow::On)
    })?;
    bar.finish();
    let mut sum = perplexity::Sum::default();
    for (w, answer) in plan.iter().zip(answers.answers()) {
        let logprobs: Vec<f32> = answer.prompt_logprobs.iter().map(|t| t.logprob).collect();
        sum.add(w, &logprobs, bos.is_some()).map_err(Failure::bug)?;
    }
    let mut out = std::io::stdout().lock();
    if args.json {
        let object = json!({
            "perplexity": sum.perplexity(),
            "nll": sum.mean(),
            "tokens": sum.tokens,
            "text_tokens": tokens.len(),
            "window": window,
            "stride": stride,
            "precision": session.manifest().precision,
        });
        writeln!(out, "{object}")?;
    } else {
        writeln!(out, "perplexity {:.4}", sum.perplexity())?;
        writeln!(
            out,
            "{:.5} nats a token over {} tokens; windows of {window}, {stride} apart; precision {}",
            sum.mean(),
            sum.tokens,
            session.manifest().precision
        )?;
    }
    Ok(())
}

/// Tokens that are asked for at the first step, to be found among the reference's best.
const TOP: u32 = 16;

/// Comparison with reference outputs.
fn golden(args: &Args, file: &Path) -> Result<(), Failure> {
    let golden: Golden = serde_json::from_str(&read(file)?).map_err(|e| {
        Failure::user(format!("'{}' is not a file of reference outputs: {e}", file.display()))
    })?;
    for (i, case) in golden.cases.iter().enumerate() {
        if let Some(what) = case.malformed() {
            return Err(Failure::user(format!("'{}': case {}: {what}", file.display(), i + 1)));
        }
    }
    if golden.cases.is_empty() {
        return Err(Failure::user(format!("'{}' has no cases", file.display())));
    }
    let mut session = Session::open(&args.engine)?;
    let bound = tolerance(&session.manifest().precision);
    let vocab = session.manifest().model.vocab;
    let greedy: Vec<Request> = golden
        .cases
        .iter()
        .map(|case| Request {
            max_tokens: case.greedy_ids.len() as u32,
            sampling: Sampling::greedy(),
            ignore_eos: true,
            logprobs: Some(TOP.min(vocab)),
            ..Request::new(case.prompt_ids.clone())
        })
        .collect();
    let fed: Vec<Request> = golden.cases.iter().map(|case| forced(case.whole())).collect();
    let (greedy, fed) = (session.engine.answers(greedy)?, session.engine.answers(fed)?);
    if greedy.len() != golden.cases.len() || fed.len() != golden.cases.len() {
        return Err(Failure::bug("a case has no answer"));
    }
    let outcomes = golden
        .cases
        .iter()
        .zip(greedy.iter().zip(&fed))
        .map(|(case, (greedy, fed))| outcome(case, greedy, fed, bound.as_ref(), &session))
        .collect::<Result<_, _>>()?;
    let compared = Comparison { outcomes, bound };
    let mut out = std::io::stdout().lock();
    if args.json {
        writeln!(out, "{}", object(&compared, &session))?;
    } else {
        table(&golden, &compared, &session, &mut out)?;
    }
    let faults = compared.faults();
    if faults.is_empty() {
        return Ok(());
    }
    let what =
        format!("the engine differs from the reference by more than {} may", session.manifest().precision);
    Err(Failure::user(what).notes(faults))
}

fn outcome(
    case: &Case,
    greedy: &Answer,
    fed: &Answer,
    bound: Option<&Tolerance>,
    session: &Session,
) -> Result<Outcome, Failure> {
    let tokenizer = match &case.prompt {
        Some(prompt) if session.has_text() => Some(session.engine.encode(prompt)? == case.prompt_ids),
        _ => None,
    };
    let equal = Greedy::compare(&greedy.tokens, case, bound.and_then(|t| t.gap));
    let mut generated = Differences::default();
    let got: Vec<f32> = greedy.logprobs.iter().take(equal.equal).map(|t| t.logprob).collect();
    generated.add_all(&got, &case.greedy_logprobs);
    let got: Vec<f32> = fed.prompt_logprobs.iter().map(|t| t.logprob).collect();
    // A log-probability for each token but the first: the prompt's, if the reference has them, then the answer's.
    let split = case.prompt_ids.len() - 1;
    if got.len() != split + case.greedy_ids.len() {
        return Err(Failure::bug(format!(
            "{} log-probabilities for {} tokens",
            got.len(),
            case.whole().len()
        )));
    }
    let mut fed = Differences::default();
    fed.add_all(&got[..split], &case.prompt_logprobs);
    fed.add_all(&got[split..], &case.greedy_logprobs);
    let mut first = Differences::default();
    let top = greedy.logprobs.first().map_or(&[][..], |t| &t.top[..]);
    for (token, want) in case.first_top() {
        if let Some((_, got)) = top.iter().find(|(t, _)| *t == token) {
            first.add(*got, want);
        }
    }
    Ok(Outcome { tokenizer, greedy: equal, generated, fed, first })
}

fn differences(d: &Differences) -> Value {
    json!({ "count": d.count, "mean": d.mean(), "max": d.max })
}

fn object(compared: &Comparison, session: &Session) -> Value {
    let bound = compared.bound.as_ref();
    let case = |o: &Outcome| {
        json!({
            "pass": o.faults(bound).is_empty(),
            "tokenizer": o.tokenizer,
            "greedy_equal": o.greedy.equal,
            "greedy_required": o.greedy.required,
            "fed": differences(&o.fed),
            "generated": differences(&o.generated),
            "first": differences(&o.first),
        })
    };
    let (fed, generated) = compared.totals();
    json!({
        "pass": compared.faults().is_empty(),
        "precision": session.manifest().precision,
        "tolerance": bound.map(|t| json!({ "mean": t.mean, "max": t.max, "gap": t.gap })),
        "fed": differences(&fed),
        "generated": differences(&generated),
        "faults": compared.faults(),
        "cases": compared.outcomes.iter().map(case).collect::<Vec<_>>(),
    })
}

fn table(
    golden: &Golden,
    compared: &Comparison,
    session: &Session,
    out: &mut impl Write,
) -> Result<(), Failure> {
    let precision = &session.manifest().precision;
    match &compared.bound {
        Some(t) => {
            writeln!(out, "precision {precision}: mean difference at most {}, greatest {}", t.mean, t.max)?
        }
        None => writeln!(out, "precision {precision}: measured, not held to a bound")?,
    }
    if !golden.reference.is_empty() {
        writeln!(out, "reference: {}", golden.reference)?;
    }
    let pair = |d: &Differences| format!("{:.5} / {:.5}", d.mean(), d.max);
    writeln!(
        out,
        "\n{:>4}  {:>6}  {:<7}  {:<14}  {:<17}  {:<21}  first: max",
        "case", "prompt", "text", "greedy tokens", "fed: mean / max", "generated: mean / max"
    )?;
    for (i, (case, o)) in golden.cases.iter().zip(&compared.outcomes).enumerate() {
        let text = o.tokenizer.map_or("-", |same| if same { "same" } else { "differs" });
        let greedy = format!("{} (need {})", o.greedy.equal, o.greedy.required);
        let verdict = if o.faults(compared.bound.as_ref()).is_empty() { "ok" } else { "FAILED" };
        writeln!(
            out,
            "{:>4}  {:>6}  {text:<7}  {greedy:<14}  {:<17}  {:<21}  {:.5}     {verdict}",
            i + 1,
            case.prompt_ids.len(),
            pair(&o.fed),
            pair(&o.generated),
            o.first.max
        )?;
    }
    let (fed, generated) = compared.totals();
    writeln!(out, "\n{:>37}  {:<17}  {:<21}", "all", pair(&fed), pair(&generated))?;
    Ok(())
}
