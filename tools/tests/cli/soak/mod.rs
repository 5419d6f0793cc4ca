//! `trtc serve` under mixed load, told to end in the middle and started again: every answer is the one that its request has
//! alone, nothing is left of any request, and memory stays as it is.
//!
//! `TRTC_SOAK_SECONDS` says how long, 30 if it is not set; `TRTC_SOAK_SEED` repeats a run's requests.

mod cases;
mod clients;
#[path = "../../../../runtime/server/tests/http/client.rs"]
#[allow(dead_code, reason = "the server's own tests use the rest")]
mod http;
#[path = "../../../../runtime/server/tests/http/vocabulary.rs"]
mod vocabulary;

use super::serving::{Serving, serve};
use super::support::*;
use cases::{Answer, cases, wrong};
use clients::{Counts, Place, World};
use serde_json::Value;
use std::net::SocketAddr;
use std::sync::RwLock;
use std::time::{Duration, Instant};

const CLIENTS: u64 = 64;
/// Most that a server's memory may grow after its first seconds, KiB: caches of allocators, and a few grammars.
const GROWTH: u64 = 16 << 10;

/// An engine whose tokens are bytes, for eight requests at once.
fn bytes_engine() -> String {
    let dir = checkpoint("soak");
    let template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant: ";
    let config = serde_json::json!({ "eos_token": "</s>", "chat_template": template });
    std::fs::write(dir.join("tokenizer.json"), vocabulary::bytes().to_string()).expect("a tokenizer");
    std::fs::write(dir.join("tokenizer_config.json"), config.to_string()).expect("its configuration");
    let path = dir.join("tiny.engine");
    let limits = ["--max-seq-len", "256", "--max-batch", "8", "--max-step-tokens", "128"];
    trtc(&[&["build", text(&dir), "-o", text(&path)], &limits[..]].concat()).ok();
    text(&path).to_owned()
}

impl Serving {
    fn place(&self) -> SocketAddr {
        self.address.parse().expect("an address")
    }

    fn body(&self, path: &str) -> String {
        let bytes = http::request("GET", path, &[], "");
        http::send_raw(self.place(), &bytes).and_then(http::Open::try_whole).expect("an answer").text
    }

    fn metric(&self, name: &str) -> f64 {
        let text = self.body("/metrics");
        let of = |l: &str| l.strip_prefix(name).and_then(|rest| rest.rsplit(' ').next()?.parse().ok());
        text.lines().find_map(of).unwrap_or_else(|| panic!("no {name} in {text}"))
    }

    /// Resident memory, KiB.
    fn resident(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("a process");
        let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).expect("its memory");
        line.trim().trim_end_matches(" kB").parse().expect("a number")
    }

    /// Nothing is left of any request.
    fn is_empty(&self) {
        let deadline = Instant::now() + Duration::from_secs(20);
        for (name, want) in [
            ("trtc_num_requests_running", 0.0),
            ("trtc_num_requests_waiting", 0.0),
            ("trtc_kv_cache_usage_perc", 0.0),
            // The one that asks.
            ("trtc_http_connections", 1.0),
        ] {
            while self.metric(name) != want {
                assert!(Instant::now() < deadline, "{name} stays at {}", self.metric(name));
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        assert_eq!(self.metric("trtc_engine_failed_steps_total"), 0.0);
        assert_eq!(self.metric("trtc_request_error_total{kind=\"server_error\"}"), 0.0);
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|n| n.parse().unwrap_or_else(|_| panic!("{name}={n} is no number")))
}

#[test]
fn answers_under_mixed_load_are_those_of_requests_alone() {
    let seconds = number("TRTC_SOAK_SECONDS").unwrap_or(30);
    let seed = number("TRTC_SOAK_SEED").unwrap_or_else(|| u64::from(std::process::id()));
    println!("TRTC_SOAK_SEED={seed} TRTC_SOAK_SECONDS={seconds}");
    let engine = bytes_engine();
    let alone = serve(&[&engine, "--log-format", "none"], &[]);
    let ask = |case: &cases::Case| {
        let open = http::send_raw(alone.place(), &case.bytes(&[])).expect("an answer");
        assert_eq!(open.status, 200, "{}", case.body);
        Answer::read(case, open, || ()).unwrap_or_else(|e| panic!("{}: {e}", case.body))
    };
    let cases = cases();
    let answers: Vec<Answer> = cases.iter().map(ask).collect();
    for (pair, case) in answers.chunks(2).zip(cases.chunks(2)) {
        assert_eq!(pair[0].texts(), pair[1].texts(), "whole and streamed: {}", case[0].body);
        assert!(pair[0].tokens() > 0 && pair[0].tokens() == pair[1].tokens(), "{pair:?}");
    }
    let models: Value = json(&alone.body("/v1/models"));
    let cache = models["data"][0]["meta"]["kv_cache_bytes"].as_u64().expect("the cache's size");
    alone.signal(libc::SIGTERM);
    assert_eq!(alone.end().0, Some(0));

    // Too few pages for a full batch, and less of a queue than there are clients.
    let cache = (cache / 4).to_string();
    let flags = ["--log-format", "none", "--kv-memory", &cache, "--max-queue", "40", "--max-body", "64K"];
    let flags = [&flags[..], &["--write-timeout", "2", "--read-timeout", "5"]].concat();
    let start = || serve(&[&[engine.as_str()], &flags[..]].concat(), &[]);
    let first = start();
    let half = Duration::from_secs(seconds) / 2;
    let begun = Instant::now();
    let place = RwLock::new(Place { address: first.place(), ending: None });
    let world = World { cases, alone: answers, wrong: wrong(), place, until: begun + 2 * half };
    let counts = std::thread::scope(|scope| {
        let client = |i: u64| {
            scope.spawn({
                let world = &world;
                move || world.client(seed.wrapping_add(i << 32))
            })
        };
        let clients: Vec<_> = (0..CLIENTS).map(client).collect();
        std::thread::sleep(half / 4);
        let early = first.resident();
        std::thread::sleep(half.saturating_sub(begun.elapsed()));
        steady("the first server", early, &first);
        world.place.write().unwrap().ending = Some(Instant::now());
        first.signal(libc::SIGTERM);
        let (code, _, log) = first.end();
        assert_eq!((code, log.as_str()), (Some(0), ""), "all that ran has ended");
        let second = start();
        *world.place.write().unwrap() = Place { address: second.place(), ending: None };
        std::thread::sleep(half / 4);
        let early = second.resident();
        let mut counts = Counts::new();
        for client in clients {
            for (what, n) in client.join().expect("a client").unwrap_or_else(|e| panic!("{e}")) {
                *counts.entry(what).or_default() += n;
            }
        }
        second.is_empty();
        steady("the second server", early, &second);
        second.signal(libc::SIGTERM);
        assert_eq!(second.end().0, Some(0));
        counts
    });
    println!("{counts:?}");
    for what in ["compared", "compared, read slowly", "left within a stream", "told that it is wrong"] {
        assert!(counts.get(what).is_some_and(|n| *n > 0), "never {what}: {counts:?}");
    }
}

/// Holds a server's memory to what it had early on.
fn steady(who: &str, early: u64, server: &Serving) {
    let late = server.resident();
    let (tokens, lost) =
        (server.metric("trtc_generation_tokens_total"), server.metric("trtc_num_preemptions_total"));
    println!("{who}: {early} KiB, at its end {late}; {tokens} tokens, {lost} preemptions");
    assert!(late <= early + GROWTH, "{who} grew from {early} to {late} KiB");
}
