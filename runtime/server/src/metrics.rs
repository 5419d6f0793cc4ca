//! What is counted of one engine, and of the server as a whole: counters without locks, written out as Prometheus' text.
//!
//! Names mean what vLLM's of the same name mean, with the prefix `trtc_`.

use crate::error::Kind;
use crate::histogram::{Histogram, SECONDS, TOKEN_SECONDS, TOKENS};
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use trtc_runtime::{Finish, Stats};

/// Why an answer ended, in vLLM's words.
const FINISHES: [(Finish, &str); 4] = [
    (Finish::Stop, "stop"),
    (Finish::Length, "length"),
    (Finish::Cancelled, "abort"),
    (Finish::Lost, "error"),
];

/// Of one engine.
#[derive(Debug)]
pub struct EngineMetrics {
    /// Tokens of prompts that were taken in, once a prompt.
    pub prompt_tokens: AtomicU64,
    /// Tokens of answers.
    pub generation_tokens: AtomicU64,
    finished: [AtomicU64; FINISHES.len()],
    /// Steps that failed.
    pub failed_steps: AtomicU64,
    /// From arrival to the first token.
    pub first_token: Histogram,
    /// Between two tokens of an answer.
    pub inter_token: Histogram,
    /// From arrival to the end.
    pub end_to_end: Histogram,
    /// From arrival until the engine takes it in.
    pub queued: Histogram,
    /// Lengths of prompts.
    pub prompt_lengths: Histogram,
    /// Tokens that a prompt's answers have in all.
    pub generation_lengths: Histogram,
}

impl Default for EngineMetrics {
    fn default() -> EngineMetrics {
        EngineMetrics {
            prompt_tokens: AtomicU64::new(0),
            generation_tokens: AtomicU64::new(0),
            finished: Default::default(),
            failed_steps: AtomicU64::new(0),
            first_token: Histogram::times(SECONDS),
            inter_token: Histogram::times(TOKEN_SECONDS),
            end_to_end: Histogram::times(SECONDS),
            queued: Histogram::times(SECONDS),
            prompt_lengths: Histogram::counts(TOKENS),
            generation_lengths: Histogram::counts(TOKENS),
        }
    }
}

/// How full an engine and its queue are at a moment.
#[derive(Clone, Copy, Debug, Default)]
pub struct Levels {
    /// The engine's own numbers.
    pub stats: Stats,
    /// Answers that wait in the server's queue.
    pub queued: u64,
    /// Tokens of their prompts.
    pub queued_tokens: u64,
}

impl EngineMetrics {
    /// Counts answers that ended.
    pub fn finish(&self, finish: Finish, answers: u64) {
        if let Some(at) = FINISHES.iter().position(|(f, _)| *f == finish) {
            self.finished[at].fetch_add(answers, Ordering::Relaxed);
        }
    }

    /// Every series of one engine by name, with its kind and what it means.
    fn series(&self, now: &Levels, labels: &str) -> Vec<(&'static str, &'static str, &'static str, String)> {
        let s = &now.stats;
        let one = |value: f64| format!("{{{labels}}} {value}\n");
        let count = |n: &AtomicU64| one(n.load(Ordering::Relaxed) as f64);
        let usage = if s.pages == 0 { 0.0 } else { f64::from(s.pages_held) / f64::from(s.pages) };
        let finished: String = FINISHES
            .iter()
            .zip(&self.finished)
            .map(|((_, name), n)| {
                format!("{{{labels},finished_reason=\"{name}\"}} {}\n", n.load(Ordering::Relaxed))
            })
            .collect();
        vec![
            ("num_requests_running", "gauge", "Answers that the engine computes.", one(s.running as f64)),
            (
                "num_requests_waiting",
                "gauge",
                "Answers that wait, in the engine and in the server's queue.",
                one(s.waiting as f64 + now.queued as f64),
            ),
            ("queue_requests", "gauge", "Answers in the server's queue alone.", one(now.queued as f64)),
            (
                "queue_tokens",
                "gauge",
                "Tokens of prompts in the server's queue.",
                one(now.queued_tokens as f64),
            ),
            (
                "kv_cache_usage_perc",
                "gauge",
                "Part of the KV cache that requests hold; 1 is full.",
                one(usage),
            ),
            (
                "prefix_cache_queries_total",
                "counter",
                "Tokens of prompts that were looked for.",
                one(s.prompt_tokens as f64),
            ),
            (
                "prefix_cache_hits_total",
                "counter",
                "Tokens that were found and not computed.",
                one(s.reused_tokens as f64),
            ),
            (
                "num_preemptions_total",
                "counter",
                "Times that a request lost its pages.",
                one(s.preemptions as f64),
            ),
            ("engine_steps_total", "counter", "Steps.", one((s.prefill.steps + s.decode.steps) as f64)),
            (
                "engine_failed_steps_total",
                "counter",
                "Steps that the device failed.",
                count(&self.failed_steps),
            ),
            ("prompt_tokens_total", "counter", "Tokens of prompts.", count(&self.prompt_tokens)),
            ("generation_tokens_total", "counter", "Tokens of answers.", count(&self.generation_tokens)),
            ("request_success_total", "counter", "Answers by why they ended.", finished),
        ]
    }

    fn histograms(&self) -> [(&'static str, &'static str, &Histogram); 6] {
        [
            ("time_to_first_token_seconds", "From arrival to the first token.", &self.first_token),
            ("inter_token_latency_seconds", "Between two tokens of an answer.", &self.inter_token),
            ("e2e_request_latency_seconds", "From arrival to the end.", &self.end_to_end),
            ("request_queue_time_seconds", "From arrival until the engine takes it in.", &self.queued),
            ("request_prompt_tokens", "Lengths of prompts.", &self.prompt_lengths),
            ("request_generation_tokens", "Lengths of answers.", &self.generation_lengths),
        ]
    }
}

/// Of the server: errors by class, and connections.
#[derive(Debug, Default)]
pub struct ServerMetrics {
    errors: [AtomicU64; Kind::ALL.len()],
    /// Responses that the client did not wait for.
    pub gone: AtomicU64,
    /// Open connections.
    pub connections: AtomicU64,
    /// Connections that ended within the handshake of TLS.
    pub failed_handshakes: AtomicU64,
    /// Spans that a collector took.
    pub spans_exported: AtomicU64,
    /// Spans that none took.
    pub spans_dropped: AtomicU64,
}

impl ServerMetrics {
    /// Counts an error.
    pub fn error(&self, kind: Kind) {
        if let Some(at) = Kind::ALL.iter().position(|k| *k == kind) {
            self.errors[at].fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// All of it as Prometheus' text; each engine with its name.
pub fn render(server: &ServerMetrics, engines: &[(&str, &EngineMetrics, Levels)]) -> String {
    let mut out = String::new();
    let head = |out: &mut String, name: &str, kind: &str, help: &str| {
        let _ = writeln!(out, "# HELP trtc_{name} {help}\n# TYPE trtc_{name} {kind}");
    };
    let labels: Vec<String> =
        engines.iter().map(|(name, ..)| format!("model=\"{}\"", escaped(name))).collect();
    let series: Vec<_> =
        engines.iter().zip(&labels).map(|((_, metrics, levels), l)| metrics.series(levels, l)).collect();
    for at in 0..series.first().map_or(0, Vec::len) {
        let (name, kind, help, _) = &series[0][at];
        head(&mut out, name, kind, help);
        for of_engine in &series {
            of_engine[at].3.lines().for_each(|line| {
                let _ = writeln!(out, "trtc_{name}{line}");
            });
        }
    }
    for at in 0..engines.first().map_or(0, |(_, m, _)| m.histograms().len()) {
        for (i, ((_, metrics, _), labels)) in engines.iter().zip(&labels).enumerate() {
            let (name, help, histogram) = metrics.histograms()[at];
            if i == 0 {
                head(&mut out, name, "histogram", help);
            }
            histogram.write(&format!("trtc_{name}"), labels, &mut out);
        }
    }
    head(&mut out, "request_error_total", "counter", "Requests that were answered with an error, by class.");
    for (kind, n) in Kind::ALL.iter().zip(&server.errors) {
        let _ = writeln!(
            out,
            "trtc_request_error_total{{kind=\"{}\"}} {}",
            kind.name(),
            n.load(Ordering::Relaxed)
        );
    }
    let rest = [
        ("request_gone_total", "counter", "Responses that the client did not wait for.", &server.gone),
        ("http_connections", "gauge", "Open connections.", &server.connections),
        (
            "tls_failed_handshakes_total",
            "counter",
            "Connections that ended within the handshake of TLS: no TLS at all, no certificate, too slow.",
            &server.failed_handshakes,
        ),
        ("trace_spans_total", "counter", "Spans that the collector took.", &server.spans_exported),
        (
            "trace_spans_dropped_total",
            "counter",
            "Spans that were lost: the queue was full, or the collector did not take them.",
            &server.spans_dropped,
        ),
    ];
    for (name, kind, help, n) in rest {
        head(&mut out, name, kind, help);
        let _ = writeln!(out, "trtc_{name} {}", n.load(Ordering::Relaxed));
    }
    out
}

/// A label's value.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_series_has_its_head_once_and_a_line_an_engine() {
        let (server, a, b) = (ServerMetrics::default(), EngineMetrics::default(), EngineMetrics::default());
        server.error(Kind::RateLimit);
        a.finish(Finish::Stop, 2);
        a.prompt_tokens.fetch_add(7, Ordering::Relaxed);
        let levels = Levels { queued: 3, ..Levels::default() };
        let text = render(&server, &[("a", &a, levels), ("b \"x\"", &b, Levels::default())]);
        for line in [
            "trtc_request_success_total{model=\"a\",finished_reason=\"stop\"} 2",
            "trtc_prompt_tokens_total{model=\"a\"} 7",
            "trtc_num_requests_waiting{model=\"a\"} 3",
            "trtc_num_requests_waiting{model=\"b \\\"x\\\"\"} 0",
            "trtc_request_error_total{kind=\"rate_limit_error\"} 1",
            "trtc_e2e_request_latency_seconds_count{model=\"a\"} 0",
        ] {
            assert!(text.lines().any(|l| l == line), "no {line:?} in {text}");
        }
        let heads: Vec<&str> = text.lines().filter(|l| l.starts_with("# TYPE")).collect();
        let mut once = heads.clone();
        once.sort_unstable();
        once.dedup();
        assert_eq!(heads.len(), once.len());
    }
}
