//! `trtc bench serve`: load for a server that speaks OpenAI's API, and what its clients see. Arguments and the order of
//! things; the parts are in the files beside.

mod answer;
mod arrivals;
mod client;
mod dataset;
mod load;
mod report;
mod sse;
mod stats;
mod tls;
mod url;
mod workload;

use self::answer::Failed;
use self::client::Client;
use self::load::{Job, drive};
use self::report::Facts;
use self::stats::{Bound, Summary};
use self::tls::Tls;
use self::url::Target;
use self::workload::{Alphabet, Endpoint, Form, Item, Lengths};
use crate::options::seconds;
use crate::progress::Bar;
use crate::render::Failure;
use crate::{descriptors, env};
use serde_json::{Map, Value};
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Requests, if neither their number nor a file is given.
const REQUESTS: u32 = 64;
/// Entries of a vocabulary that is not known: no more than those of common models have.
const VOCAB: u32 = 32000;
/// Most threads; the rest of the machine may be the server's.
const MOST_THREADS: usize = 4;

/// Load for any server with OpenAI's API, and what its clients see
///
/// Sends requests as streams and prints what `vllm bench serve` prints, under the same names: TTFT, from the sending of a
/// request to the first event with a token (a new connection included); ITL, between such events; E2EL, to the last
/// event of the answer; TPOT, (E2EL - TTFT) / (tokens - 1). Tokens are counted by the server (usage), or are events where
/// it does not say. Failures are counted by kind and listed; the exit code is 0 if any request succeeded.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    trtc bench serve http://127.0.0.1:8000\n  \
    trtc bench serve http://127.0.0.1:8000 --max-concurrency 32 --requests 512 --input-len 1024\n  \
    trtc bench serve http://127.0.0.1:8000 --request-rate 4 --goodput ttft:500 tpot:50\n  \
    trtc bench serve http://127.0.0.1:8000 --endpoint chat --prefix-len 256 --warmup 8 --json\n  \
    trtc bench serve http://127.0.0.1:8000 --dataset prompts.jsonl --request-rate 8\n  \
    trtc bench serve https://llm.example.org --tls-ca authority.pem\n\n\
    Environment: TRTC_API_KEY or else OPENAI_API_KEY, a key that is sent as 'Authorization: Bearer KEY'.\n\
    SSL_CERT_FILE or SSL_CERT_DIR, the authorities that https trusts in place of the system's.")]
pub struct Args {
    /// Where the server is, such as http://127.0.0.1:8000 or https://llm.example.org; with or without /v1
    url: String,
    /// Trust these authorities, PEM, and no others
    #[arg(long, value_name = "FILE")]
    tls_ca: Option<PathBuf>,
    /// The model; the server's only one if left out
    #[arg(long, value_name = "NAME")]
    model: Option<String>,
    /// What is asked
    #[arg(long, value_enum, default_value = "completions")]
    endpoint: Endpoint,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// Percentiles that are told of each time
    #[arg(long, value_name = "P", value_delimiter = ',', default_value = "50,90,95,99", value_parser = percentage)]
    percentiles: Vec<f64>,
    /// Also count requests that keep all of these bounds, milliseconds: ttft, tpot, e2el
    #[arg(long, value_name = "NAME:MS", value_delimiter = ',', num_args = 1..)]
    goodput: Vec<Bound>,

    /// Requests in all; 64 if left out, or all of a file
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..), help_heading = "Load")]
    requests: Option<u32>,
    /// Requests a second, in the mean; without it all are sent at once, or as --max-concurrency allows
    #[arg(long, value_name = "R", value_parser = rate, help_heading = "Load")]
    request_rate: Option<f64>,
    /// How requests arrive: 1 is a Poisson process, less comes in bursts, more is steadier (gamma distribution)
    #[arg(long, value_name = "B", default_value = "1", value_parser = burstiness, requires = "request_rate", help_heading = "Load")]
    burstiness: f64,
    /// Most requests that are open at once. What waits for that is not part of a request's time
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..), help_heading = "Load")]
    max_concurrency: Option<u32>,
    /// Requests before those that are measured
    #[arg(long, value_name = "N", default_value_t = 0, help_heading = "Load")]
    warmup: u32,
    /// Seed of prompts and arrivals; of the time of day if left out, for the same prompts again may be in a cache
    #[arg(long, value_name = "N", help_heading = "Load")]
    seed: Option<u64>,
    /// How long an answer may take, seconds; without it there is no limit
    #[arg(long, value_name = "SECONDS", value_parser = seconds, help_heading = "Load")]
    timeout: Option<Duration>,

    #[command(flatten)]
    random: RandomArgs,
    /// Take prompts from a file: lines as trtllm-bench reads them, {"task_id": 1, "prompt": "Hello", "output_tokens": 128}
    /// or with "input_ids": [1, 2]
    #[arg(long, value_name = "FILE", help_heading = "Prompts", conflicts_with_all = ["input_len", "output_len", "range_ratio", "prefix_len", "vocab", "text"])]
    dataset: Option<PathBuf>,
    /// Ask for answers of full length, with the field "ignore_eos" (none of OpenAI's): true for random prompts and false
    /// for those of a file if left out
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", require_equals = true, help_heading = "Prompts")]
    ignore_eos: Option<bool>,
    /// Ask for log-probabilities and this many alternatives: then tokens without text are events, too
    #[arg(long, value_name = "N", help_heading = "Prompts")]
    logprobs: Option<u32>,
    /// Fields for every request's body, such as {"temperature": 0.7}, which is 0 otherwise
    #[arg(long, value_name = "JSON", value_parser = fields, help_heading = "Prompts")]
    extra_body: Option<Map<String, Value>>,
}

/// Prompts that are made up.
#[derive(clap::Args)]
#[command(next_help_heading = "Prompts")]
struct RandomArgs {
    /// Tokens of a prompt; of text: words
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..))]
    input_len: u32,
    /// Tokens of an answer
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..))]
    output_len: u32,
    /// Lengths are uniform in LEN * (1 - R) to LEN * (1 + R)
    #[arg(long, value_name = "R", default_value = "0", value_parser = ratio)]
    range_ratio: f64,
    /// Tokens that all prompts begin with, besides
    #[arg(long, value_name = "N", default_value_t = 0)]
    prefix_len: u32,
    /// Token ids are below this; what the server says of its model (meta.n_vocab), or else 32000, if left out
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    vocab: Option<u32>,
    /// Prompts of words instead of token ids; chats always have them
    #[arg(long, conflicts_with = "vocab")]
    text: bool,
}

fn number(text: &str, range: std::ops::RangeInclusive<f64>) -> Option<f64> {
    text.parse().ok().filter(|n| range.contains(n))
}

fn percentage(text: &str) -> Result<f64, String> {
    number(text, 0.0..=100.0).ok_or_else(|| "a number from 0 to 100, such as 99".to_owned())
}

fn rate(text: &str) -> Result<f64, String> {
    number(text, 1e-6..=1e6).ok_or_else(|| "requests a second above 0, such as 4 or 0.5".to_owned())
}

fn burstiness(text: &str) -> Result<f64, String> {
    number(text, 1e-3..=1e6).ok_or_else(|| "a number above 0, such as 1".to_owned())
}

fn ratio(text: &str) -> Result<f64, String> {
    number(text, 0.0..=1.0)
        .filter(|r| *r < 1.0)
        .ok_or_else(|| "a number from 0 to below 1, such as 0.5".to_owned())
}

fn fields(text: &str) -> Result<Map<String, Value>, String> {
    let fields: Map<String, Value> =
        serde_json::from_str(text).map_err(|e| format!("a JSON object such as {{\"top_p\": 0.9}}: {e}"))?;
    match fields.contains_key("stream") {
        true => Err("answers are always streams: leave \"stream\" out".to_owned()),
        false => Ok(fields),
    }
}

/// Sends the load and prints what came of it.
pub fn run(args: &Args) -> Result<(), Failure> {
    let target = Target::parse(&args.url)?;
    let url = target.url(args.endpoint.path());
    let chat = args.endpoint == Endpoint::Chat;
    let items = args.dataset.as_ref().map(|file| dataset::read(file, chat)).transpose()?;
    let tls = Tls::new(&target, args.tls_ca.as_deref())?;
    let client = Client::new(target, tls, env::client_key().as_deref(), args.timeout);
    let client = Arc::new(client.map_err(Failure::user)?);
    // A connection is a file to the system.
    descriptors::raise();
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(MOST_THREADS);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build();
    let runtime = runtime.map_err(|e| Failure::user(format!("cannot start threads: {e}")))?;

    let told = runtime.block_on(about(&client, args))?;
    let seed = args.seed.unwrap_or_else(time_of_day);
    let (items, prompts) = match (items, &args.dataset) {
        (Some(items), Some(file)) => (items, format!("prompts of {}", file.display())),
        _ => random(args, &told, seed),
    };
    let requests = match (args.requests, &args.dataset) {
        (Some(n), _) => n as usize,
        (None, Some(_)) => items.len(),
        (None, None) => REQUESTS as usize,
    };
    if requests > items.len() {
        return Err(Failure::user(format!(
            "--requests {requests}, and the file has {} prompts",
            items.len()
        ))
        .help("give fewer: the same prompt twice may be answered from a cache"));
    }
    let form = Form {
        endpoint: args.endpoint,
        model: told.model.clone(),
        ignore_eos: args.ignore_eos.unwrap_or(args.dataset.is_none()),
        logprobs: args.logprobs,
        extra: args.extra_body.clone().unwrap_or_default(),
    };
    // Ahead of the clock. Prompts behind those that are measured are for warming up; a file begins again at its end.
    let job =
        |item: &Item| Job { body: form.body(item).to_string().into(), prompt_tokens: item.prompt.tokens() };
    let measured: Vec<Job> = items[..requests].iter().map(job).collect();
    let warming: Vec<Job> = items.iter().cycle().skip(requests).take(args.warmup as usize).map(job).collect();
    drop(items);

    let send = |what: &str, jobs: Vec<Job>, times: &[Duration]| {
        let bar = Arc::new(Bar::new(what, jobs.len() as u64));
        let shown = Arc::clone(&bar);
        let done = move || shown.advance(1);
        let load = drive(&client, args.endpoint.path(), jobs, times, args.max_concurrency, done);
        let all = runtime.block_on(load);
        bar.finish();
        all
    };
    let at_once = vec![Duration::ZERO; warming.len()];
    send("warm-up", warming, &at_once);
    let times = arrivals::arrivals(requests, args.request_rate, args.burstiness, seed);
    let (samples, duration) = send("requests", measured, &times);

    let summary = Summary::new(&samples, duration, &args.percentiles, &args.goodput);
    let facts = Facts {
        url,
        model: told.model,
        prompts,
        requests,
        seed,
        rate: args.request_rate,
        burstiness: args.burstiness,
        max_concurrency: args.max_concurrency,
    };
    let mut out = std::io::stdout().lock();
    match args.json {
        true => writeln!(out, "{}", report::object(&facts, &summary))?,
        false => report::table(&facts, &summary, &mut out)?,
    }
    if summary.completed == 0 {
        let why =
            summary.failures.iter().map(|f| format!("{} of {requests}, {}: {}", f.count, f.kind, f.message));
        return Err(Failure::user("no request succeeded").notes(why.collect()));
    }
    Ok(())
}

/// What a server says of the model that is to be asked.
struct Told {
    model: String,
    vocab: Option<u32>,
}

/// Asks the server for what the arguments leave open.
async fn about(client: &Client, args: &Args) -> Result<Told, Failure> {
    let random_ids = args.dataset.is_none() && args.endpoint != Endpoint::Chat && !args.random.text;
    if let Some(model) = &args.model
        && (!random_ids || args.random.vocab.is_some())
    {
        return Ok(Told { model: model.clone(), vocab: args.random.vocab });
    }
    let models = client.get("/models").await;
    let list = models.as_ref().ok().and_then(|m| m["data"].as_array()).cloned().unwrap_or_default();
    let names: Vec<&str> = list.iter().filter_map(|m| m["id"].as_str()).collect();
    let model = match (&args.model, &names[..], &models) {
        (Some(model), ..) => model,
        (None, [only], _) => *only,
        (None, [], Err(Failed { kind, message })) => {
            return Err(Failure::user(format!(
                "cannot ask '{}' for its models, {kind}: {message}",
                args.url
            ))
            .help("start the server, correct the address, or give --model"));
        }
        (None, [], Ok(_)) => {
            return Err(Failure::user(format!("'{}' names no models", args.url)).help("give --model"));
        }
        (None, several, _) => {
            return Err(Failure::user(format!("'{}' has several models: {}", args.url, several.join(", ")))
                .help("give one of them as --model"));
        }
    };
    let entry = list.iter().find(|m| m["id"] == *model);
    let said = entry.and_then(|m| m["meta"]["n_vocab"].as_u64()).and_then(|n| u32::try_from(n).ok());
    Ok(Told { model: model.to_owned(), vocab: args.random.vocab.or(said).filter(|&n| n > 0) })
}

/// Prompts that are made up, those for warming up last, and what they are.
fn random(args: &Args, told: &Told, seed: u64) -> (Vec<Item>, String) {
    let r = &args.random;
    let (alphabet, what) = match args.endpoint == Endpoint::Chat || r.text {
        true => (Alphabet::Words, "random words".to_owned()),
        false => {
            let vocab = told.vocab.unwrap_or(VOCAB);
            (Alphabet::Ids(vocab), format!("random token ids below {vocab}"))
        }
    };
    let lengths =
        Lengths { input: r.input_len, output: r.output_len, ratio: r.range_ratio, prefix: r.prefix_len };
    let count = args.requests.unwrap_or(REQUESTS) as usize + args.warmup as usize;
    (workload::random(alphabet, lengths, seed, count), what)
}

/// A seed that no run had before.
fn time_of_day() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |t| t.as_micros() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_their_ranges() {
        assert_eq!(
            (percentage("99.9"), rate("0.5"), burstiness("2"), ratio("0")),
            (Ok(99.9), Ok(0.5), Ok(2.0), Ok(0.0))
        );
        for text in ["-1", "nan", "inf", "x", ""] {
            assert!(
                percentage(text).is_err()
                    && rate(text).is_err()
                    && burstiness(text).is_err()
                    && ratio(text).is_err()
            );
        }
        assert!(percentage("100.1").is_err() && rate("0").is_err() && ratio("1").is_err());
    }

    #[test]
    fn fields_are_an_object_that_leaves_streams_alone() {
        assert_eq!(fields(r#"{"top_p": 0.9}"#).map(|f| f["top_p"].clone()), Ok(0.9.into()));
        assert!(fields("[]").is_err() && fields("x").is_err());
        assert!(fields(r#"{"stream": false}"#).is_err_and(|e| e.contains("stream")));
    }
}
