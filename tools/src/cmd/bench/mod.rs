//! `trtc bench`: decode latency, prefill, throughput, single kernels, a server. Measured and printed; nothing is asserted.

mod bandwidth;
pub mod kernel;
mod prepare;
mod serve;
mod timing;
mod work;

use self::bandwidth::Yardstick;
use crate::facts;
use crate::options::EngineArgs;
use crate::progress::Bar;
use crate::render::Failure;
use crate::session::{Flow, Session};
use serde_json::{Value, json};
use std::io::Write;
use std::time::Instant;
use trtc_ir::random::Random;
use trtc_runtime::{Event, Request, Sampling};

/// Measure an engine's speed, or a server's
///
/// Of an engine: prompts are random token ids, the best token is taken, end-of-sequence tokens are ignored. Beside each result
/// stands how fast the same device moves memory in the same run: on the host a plain loop that reads on the same
/// threads, on a GPU a copy within its memory (bytes read and written).
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  trtc bench latency model.engine --batch 1,8\n  \
                        trtc bench prefill model.engine --input-len 512,2048 --json\n  \
                        trtc bench throughput model.engine --requests 64 --input-len 128 --output-len 128\n  \
                        trtc bench kernel model.engine --kernel linear --tokens 1,8,64\n  \
                        trtc bench serve http://127.0.0.1:8000 --max-concurrency 32")]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    /// Time of a decode step, for one or several batch sizes
    ///
    /// (time for OUTPUT_LEN tokens - time for 1) / (OUTPUT_LEN - 1)
    Latency {
        #[command(flatten)]
        common: Common,
        /// Batch sizes
        #[arg(long, value_name = "N", value_delimiter = ',', default_value = "1", value_parser = clap::value_parser!(u32).range(1..))]
        batch: Vec<u32>,
        /// Tokens of a prompt
        #[arg(long, value_name = "N", default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..))]
        input_len: u32,
        /// Tokens of an answer
        #[arg(long, value_name = "N", default_value_t = 257, value_parser = clap::value_parser!(u32).range(2..))]
        output_len: u32,
        /// Measurements; the median is printed
        #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
        repeat: u32,
    },
    /// Time to the first token of one prompt, for one or several lengths
    Prefill {
        #[command(flatten)]
        common: Common,
        /// Tokens of the prompt
        #[arg(long, value_name = "N", value_delimiter = ',', default_value = "512", value_parser = clap::value_parser!(u32).range(1..))]
        input_len: Vec<u32>,
        /// Measurements; the median is printed
        #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
        repeat: u32,
    },
    /// Tokens a second with all requests queued at once, over the whole run
    Throughput {
        #[command(flatten)]
        common: Common,
        /// Requests; four batches if left out
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
        requests: Option<u32>,
        /// Tokens of a prompt
        #[arg(long, value_name = "N", default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..))]
        input_len: u32,
        /// Tokens of an answer
        #[arg(long, value_name = "N", default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..))]
        output_len: u32,
    },
    Kernel(kernel::Args),
    Serve(Box<serve::Args>),
}

/// What measurements of a whole engine take.
#[derive(clap::Args)]
struct Common {
    #[command(flatten)]
    engine: EngineArgs,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Measures and prints.
pub fn run(args: &Args) -> Result<(), Failure> {
    let (name, common) = match &args.what {
        What::Latency { common, .. } => ("latency", common),
        What::Prefill { common, .. } => ("prefill", common),
        What::Throughput { common, .. } => ("throughput", common),
        What::Kernel(args) => return kernel::run(args),
        What::Serve(args) => return serve::run(args),
    };
    let threads = common.engine.on.place.threads;
    let (session, yardstick) =
        Session::open_after(&common.engine, |m, device| Yardstick::measure(m, device, threads))?;
    let mut bench = Bench { session, random: Random::new(0) };
    let rows = match &args.what {
        What::Latency { batch, input_len, output_len, repeat, .. } => {
            bench.latency(batch, *input_len, *output_len, *repeat)?
        }
        What::Prefill { input_len, repeat, .. } => bench.prefill(input_len, *repeat)?,
        What::Throughput { requests, input_len, output_len, .. } => {
            let most = bench.session.manifest().dims.max_batch;
            bench.throughput(requests.unwrap_or(most.saturating_mul(4)), *input_len, *output_len)?
        }
        What::Kernel(_) | What::Serve(_) => Vec::new(),
    };
    let m = bench.session.manifest();
    let mut out = std::io::stdout().lock();
    if common.json {
        let object = json!({
            "bench": name,
            "model": m.model.name,
            "precision": m.precision,
            "target": m.target,
            "device": bench.session.engine.device_name(),
            "weight_bytes_per_step": facts::read_per_step(m),
            yardstick.key(): yardstick.gb_s,
            "rows": rows.iter().map(Row::json).collect::<Vec<_>>(),
        });
        writeln!(out, "{object}")?;
        return Ok(());
    }
    writeln!(out, "{} {}, {}, on {}", m.model.name, m.precision, name, bench.session.engine.device_name())?;
    writeln!(out, "a step reads {} of weights", facts::human(facts::read_per_step(m)))?;
    writeln!(out, "{yardstick}")?;
    for row in &rows {
        writeln!(out, "{}", row.text(yardstick.gb_s))?;
    }
    Ok(())
}

/// A line of results: names with values and units, in order.
struct Row(Vec<(&'static str, f64, &'static str)>);

impl Row {
    fn json(&self) -> Value {
        self.0
            .iter()
            .map(|(name, value, _)| ((*name).to_owned(), json!(value)))
            .collect::<serde_json::Map<_, _>>()
            .into()
    }

    /// A bandwidth also stands as a part of what the device moves.
    fn text(&self, bandwidth: f64) -> String {
        let one = |(name, value, unit): &(&str, f64, &str)| {
            let name = name.replace('_', " ");
            match *unit {
                "" => format!("{name} {value}"),
                "GB/s" if bandwidth > 0.0 => {
                    format!("{value:.1} GB/s ({:.0} % of it)", 100.0 * value / bandwidth)
                }
                _ if *value < 10.0 => format!("{value:.3} {unit}"),
                _ => format!("{value:.1} {unit}"),
            }
        };
        self.0.iter().map(one).collect::<Vec<_>>().join(", ")
    }
}

struct Bench {
    session: Session,
    /// Gives token ids: no two prompts are alike, so none is found in the cache.
    random: Random,
}

impl Bench {
    fn token(&mut self) -> u32 {
        self.random.below(u64::from(self.session.manifest().model.vocab)) as u32
    }

    /// Seconds until `count` requests of these lengths are answered.
    fn time(&mut self, count: u32, input: u32, output: u32) -> Result<f64, Failure> {
        let requests: Vec<Request> = (0..count)
            .map(|_| Request {
                max_tokens: output,
                sampling: Sampling::greedy(),
                ignore_eos: true,
                ..Request::new((0..input).map(|_| self.token()).collect())
            })
            .collect();
        let bar = Bar::new("tokens", u64::from(count) * u64::from(output));
        let start = Instant::now();
        self.session.drive(requests, |event| {
            if let Event::Token { .. } = event {
                bar.advance(1);
            }
            Ok(Flow::On)
        })?;
        let seconds = start.elapsed().as_secs_f64();
        bar.finish();
        Ok(seconds)
    }

    fn latency(
        &mut self,
        batches: &[u32],
        input: u32,
        output: u32,
        repeat: u32,
    ) -> Result<Vec<Row>, Failure> {
        let most = self.session.manifest().dims.max_batch;
        if let Some(batch) = batches.iter().find(|b| **b > most) {
            return Err(Failure::user(format!(
                "--batch {batch} is more than the engine takes at once, {most}"
            ))
            .help("build it with a greater --max-batch"));
        }
        let mut rows = Vec::new();
        for &batch in batches {
            self.time(batch, input, 2)?;
            let (mut first, mut step) = (Vec::new(), Vec::new());
            for _ in 0..repeat {
                let one = self.time(batch, input, 1)?;
                let all = self.time(batch, input, output)?;
                first.push(one);
                step.push((all - one) / f64::from(output - 1));
            }
            let (first, step) = (median(first), median(step));
            let bytes = facts::read_per_step(self.session.manifest()) as f64;
            rows.push(Row(vec![
                ("batch", f64::from(batch), ""),
                ("input_len", f64::from(input), ""),
                ("output_len", f64::from(output), ""),
                ("first_token_ms", first * 1e3, "ms to the first token"),
                ("step_ms", step * 1e3, "ms a step"),
                ("tokens_per_s", f64::from(batch) / step, "tok/s"),
                ("weights_gb_s", bytes / step / 1e9, "GB/s"),
            ]));
        }
        Ok(rows)
    }

    fn prefill(&mut self, lengths: &[u32], repeat: u32) -> Result<Vec<Row>, Failure> {
        let mut rows = Vec::new();
        for &input in lengths {
            self.time(1, input, 1)?;
            let times = (0..repeat).map(|_| self.time(1, input, 1)).collect::<Result<_, _>>()?;
            let seconds = median(times);
            rows.push(Row(vec![
                ("input_len", f64::from(input), ""),
                ("first_token_ms", seconds * 1e3, "ms to the first token"),
                ("tokens_per_s", f64::from(input) / seconds, "tok/s"),
            ]));
        }
        Ok(rows)
    }

    fn throughput(&mut self, requests: u32, input: u32, output: u32) -> Result<Vec<Row>, Failure> {
        self.time(1, input, 2.min(output))?;
        let seconds = self.time(requests, input, output)?;
        let made = f64::from(requests) * f64::from(output);
        let read = f64::from(requests) * f64::from(input);
        Ok(vec![Row(vec![
            ("requests", f64::from(requests), ""),
            ("input_len", f64::from(input), ""),
            ("output_len", f64::from(output), ""),
            ("seconds", seconds, "s"),
            ("output_tokens_per_s", made / seconds, "tok/s of answers"),
            ("total_tokens_per_s", (made + read) / seconds, "tok/s with prompts"),
        ])])
    }
}

/// The middle one, or the lower of the two in the middle.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get((values.len().max(1) - 1) / 2).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_is_in_the_middle() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0]), 1.0);
    }

    #[test]
    fn a_row_says_what_part_of_the_bandwidth_is_used() {
        let row =
            Row(vec![("batch", 8.0, ""), ("step_ms", 2.5, "ms a step"), ("weights_gb_s", 30.0, "GB/s")]);
        assert_eq!(row.text(60.0), "batch 8, 2.500 ms a step, 30.0 GB/s (50 % of it)");
        assert_eq!(row.json()["step_ms"], 2.5);
    }
}
