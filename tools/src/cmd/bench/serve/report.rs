//! What is printed: a table with the words of vLLM's `vllm bench serve`, or a JSON object with its names.

use super::stats::{Metric, Spread, Summary};
use serde_json::{Map, Value, json};
use std::io::Write;

/// What the run was.
pub struct Facts {
    /// Of the endpoint.
    pub url: String,
    pub model: String,
    /// What the prompts are, in words.
    pub prompts: String,
    pub requests: usize,
    pub seed: u64,
    /// Requests a second; all at once without it.
    pub rate: Option<f64>,
    pub burstiness: f64,
    pub max_concurrency: Option<u32>,
}

/// Columns of a table, the names' and all.
const NAMES: usize = 40;
const WIDTH: usize = 50;

/// `99`, `99.9`.
fn percent(p: f64) -> String {
    format!("{p}")
}

/// Prints the table.
pub fn table(facts: &Facts, s: &Summary, out: &mut impl Write) -> std::io::Result<()> {
    writeln!(out, "{} at {}, {}, seed {}", facts.model, facts.url, facts.prompts, facts.seed)?;
    writeln!(out, "{:=^WIDTH$}", " Serving Benchmark Result ")?;
    let mut line = |name: &str, value: String| writeln!(out, "{name:NAMES$} {value}");
    line("Successful requests:", s.completed.to_string())?;
    line("Failed requests:", s.failed.to_string())?;
    if let Some(most) = facts.max_concurrency {
        line("Maximum request concurrency:", most.to_string())?;
    }
    if let Some(rate) = facts.rate {
        line("Request rate configured (RPS):", format!("{rate:.2}"))?;
    }
    line("Benchmark duration (s):", format!("{:.2}", s.duration))?;
    line("Total input tokens:", s.input_tokens.to_string())?;
    line("Total generated tokens:", s.output_tokens.to_string())?;
    line("Request throughput (req/s):", format!("{:.2}", s.request_throughput()))?;
    if let Some(goodput) = s.request_goodput() {
        line("Request goodput (req/s):", format!("{goodput:.2}"))?;
    }
    line("Output token throughput (tok/s):", format!("{:.2}", s.output_throughput()))?;
    line("Total token throughput (tok/s):", format!("{:.2}", s.total_token_throughput()))?;
    line("Peak concurrent requests:", s.peak.to_string())?;
    line("Mean concurrent requests:", format!("{:.2}", s.concurrency()))?;
    for (metric, spread) in &s.times {
        spread_lines(*metric, spread.as_ref(), out)?;
    }
    writeln!(out, "{:=^WIDTH$}", "")?;
    for f in &s.failures {
        writeln!(out, "failed: {} of {}, {}: {}", f.count, facts.requests, f.kind, f.message)?;
    }
    if s.silent > 0 {
        writeln!(
            out,
            "note: {} answers had no event with a token, and count in no time but E2EL: with --logprobs 0 servers also \
             send tokens that have no text",
            s.silent
        )?;
    }
    Ok(())
}

fn spread_lines(metric: Metric, spread: Option<&Spread>, out: &mut impl Write) -> std::io::Result<()> {
    writeln!(out, "{:-^WIDTH$}", metric.title())?;
    let name = metric.name().to_uppercase();
    let Some(spread) = spread else {
        return writeln!(out, "{:NAMES$} -", format!("Mean {name} (ms):"));
    };
    let mut line =
        |word: &str, value: f64| writeln!(out, "{:NAMES$} {value:.2}", format!("{word} {name} (ms):"));
    line("Mean", spread.mean)?;
    line("Median", spread.median)?;
    line("Std", spread.std)?;
    spread.percentiles.iter().try_for_each(|&(p, value)| line(&format!("P{}", percent(p)), value))
}

/// One object. Times are in milliseconds, and null where no answer had one.
pub fn object(facts: &Facts, s: &Summary) -> Value {
    let failures: Vec<Value> = s
        .failures
        .iter()
        .map(|f| json!({ "kind": f.kind.to_string(), "count": f.count, "message": f.message }))
        .collect();
    let mut object = json!({
        "bench": "serve",
        "url": facts.url,
        "model_id": facts.model,
        "prompts": facts.prompts,
        "num_prompts": facts.requests,
        "seed": facts.seed,
        // As vLLM writes that there is none.
        "request_rate": facts.rate.map_or(json!("inf"), Value::from),
        "burstiness": facts.burstiness,
        "max_concurrency": facts.max_concurrency,
        "duration": s.duration,
        "completed": s.completed,
        "failed": s.failed,
        "failures": failures,
        "without_token_events": s.silent,
        "total_input_tokens": s.input_tokens,
        "total_output_tokens": s.output_tokens,
        "request_throughput": s.request_throughput(),
        "request_goodput": s.request_goodput(),
        "output_throughput": s.output_throughput(),
        "total_token_throughput": s.total_token_throughput(),
        "max_concurrent_requests": s.peak,
        "concurrency": s.concurrency(),
    });
    if let Some(fields) = object.as_object_mut() {
        s.times.iter().for_each(|(metric, spread)| spread_fields(*metric, spread.as_ref(), fields));
    }
    object
}

fn spread_fields(metric: Metric, spread: Option<&Spread>, fields: &mut Map<String, Value>) {
    let mut field = |word: &str, value: Option<f64>| {
        fields.insert(format!("{word}_{}_ms", metric.name()), value.into());
    };
    field("mean", spread.map(|s| s.mean));
    field("median", spread.map(|s| s.median));
    field("std", spread.map(|s| s.std));
    for (p, value) in spread.iter().flat_map(|s| &s.percentiles) {
        field(&format!("p{}", percent(*p)), Some(*value));
    }
}

#[cfg(test)]
mod tests {
    use super::super::answer::{Answer, Failed, Kind};
    use super::super::stats::Sample;
    use super::*;

    fn facts() -> Facts {
        Facts {
            url: "http://a:1/v1/completions".to_owned(),
            model: "m".to_owned(),
            prompts: "random ids".to_owned(),
            requests: 3,
            seed: 4,
            rate: Some(2.0),
            burstiness: 1.0,
            max_concurrency: None,
        }
    }

    fn summary() -> Summary {
        let sample = |result| Sample { start: 0.0, end: 0.5, prompt_tokens: 6, result };
        let first = Some(0.1);
        let whole = Answer { prompt_tokens: None, output_tokens: 2, first, gaps: vec![0.4], end: 0.5 };
        let silent = Answer { output_tokens: 1, first: None, gaps: Vec::new(), ..whole.clone() };
        let failed = Failed::new(Kind::Status(429), "too many");
        let samples = [sample(Ok(whole)), sample(Ok(silent)), sample(Err(failed))];
        Summary::new(&samples, 1.0, &[50.0, 99.9], &["ttft:500".parse().expect("a bound")])
    }

    #[test]
    fn the_table_has_the_words_that_others_look_for() {
        let mut out = Vec::new();
        table(&facts(), &summary(), &mut out).expect("memory takes all");
        let text = String::from_utf8(out).expect("text");
        for want in [
            "m at http://a:1/v1/completions, random ids, seed 4\n",
            "============ Serving Benchmark Result ============\n",
            "Successful requests:                     2\n",
            "Failed requests:                         1\n",
            "Request rate configured (RPS):           2.00\n",
            "Total input tokens:                      12\n",
            "Request goodput (req/s):                 1.00\n",
            "---------------Time to First Token----------------\n",
            "P99.9 TTFT (ms):                         100.00\n",
            "Mean E2EL (ms):                          500.00\n",
            "failed: 1 of 3, status 429: too many\n",
            "note: 1 answers had no event with a token",
        ] {
            assert!(text.contains(want), "no {want:?} in\n{text}");
        }
        assert!(!text.contains("Maximum request concurrency"), "{text}");
    }

    #[test]
    fn the_object_has_vllms_names() {
        let object = object(&facts(), &summary());
        for (name, want) in [
            ("completed", json!(2)),
            ("failed", json!(1)),
            ("total_input_tokens", json!(12)),
            ("total_output_tokens", json!(3)),
            ("request_throughput", json!(2.0)),
            ("request_goodput", json!(1.0)),
            ("total_token_throughput", json!(15.0)),
            ("max_concurrent_requests", json!(3)),
            ("max_concurrency", Value::Null),
            ("request_rate", json!(2.0)),
            ("mean_ttft_ms", json!(100.0)),
            ("std_tpot_ms", json!(0.0)),
            ("p99.9_itl_ms", json!(400.0)),
            ("p50_e2el_ms", json!(500.0)),
        ] {
            assert_eq!(object[name], want, "{name}");
        }
        let none = Summary::new(&[], 0.0, &[50.0], &[]);
        let all_at_once = Facts { rate: None, ..facts() };
        let object = super::object(&all_at_once, &none);
        assert_eq!((&object["mean_ttft_ms"], &object["request_rate"]), (&Value::Null, &json!("inf")));
    }
}
