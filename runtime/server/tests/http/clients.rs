//! Many clients at once, those that leave, and those that read slowly or not at all.

use super::client;
use super::device::Control;
use super::support::*;
use serde_json::{Value, json};
use std::io::Write;
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use trtc_runtime::{Request, Sampling};
use trtc_server::Config;

/// A generator that gives the same numbers in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }
}

/// Prompt and length of a client's request, by number.
fn wish(number: u64) -> (Vec<u32>, u32) {
    let mut random = Random(number);
    let prompt = (0..1 + random.below(40)).map(|_| 1 + random.below(380) as u32).collect();
    (prompt, 1 + random.below(60) as u32)
}

#[test]
fn of_64_clients_who_stay_or_leave_nothing_is_left_and_every_answer_is_right() {
    const CLIENTS: u64 = 64;
    const EACH: u64 = 4;
    let server = start(config());
    server.control.pause(Duration::from_micros(200));
    let requests = (0..CLIENTS * EACH).map(|number| {
        let (prompt, max_tokens) = wish(number);
        Request { max_tokens, ignore_eos: true, sampling: Sampling::greedy(), ..Request::new(prompt) }
    });
    let want: Vec<String> = engine(&Arc::new(Control::default()))
        .answers(requests)
        .unwrap()
        .into_iter()
        .map(|a| a.text)
        .collect();
    let (done, left, streamed) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for client in 0..CLIENTS {
            let (server, want, done, left, streamed) = (&server, &want, &done, &left, &streamed);
            scope.spawn(move || {
                let mut random = Random(1000 + client);
                for number in client * EACH..(client + 1) * EACH {
                    let (prompt, max_tokens) = wish(number);
                    let stream = random.below(2) == 0;
                    let body = json!({
                        "prompt": prompt, "max_tokens": max_tokens, "temperature": 0, "ignore_eos": true,
                        "stream": stream, "priority": random.below(3),
                    });
                    let expected = &want[number as usize];
                    match (random.below(3), stream) {
                        (0, true) => {
                            // Reads some of it, and goes.
                            let mut open = server.open("/v1/completions", &body);
                            let mut text = String::new();
                            for _ in 0..random.below(8) {
                                let Some(data) = open.event(&mut 0).unwrap().filter(|d| d != "[DONE]") else {
                                    break;
                                };
                                let chunk: Value = serde_json::from_str(&data).unwrap();
                                text += chunk["choices"][0]["text"].as_str().unwrap();
                            }
                            assert!(expected.starts_with(&text), "{text:?} of {expected:?}");
                            left.fetch_add(1, Ordering::Relaxed);
                        }
                        (0, false) => {
                            // Goes before there is anything.
                            let mut socket = TcpStream::connect(server.address).unwrap();
                            let bytes = client::request("POST", "/v1/completions", &[], &body.to_string());
                            socket.write_all(&bytes).unwrap();
                            std::thread::sleep(Duration::from_micros(random.below(3000)));
                            left.fetch_add(1, Ordering::Relaxed);
                        }
                        (_, true) => {
                            let chunks = server.open("/v1/completions", &body).events();
                            let text: String =
                                chunks.iter().map(|c| c["choices"][0]["text"].as_str().unwrap()).collect();
                            assert_eq!(text, *expected);
                            done.fetch_add(1, Ordering::Relaxed);
                            streamed.fetch_add(1, Ordering::Relaxed);
                        }
                        (_, false) => {
                            let whole = server.post("/v1/completions", &body).ok();
                            assert_eq!(whole["choices"][0]["text"], **expected);
                            done.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                }
            });
        }
    });
    server.is_empty();
    let of = |reason: &str| {
        server.metric(&format!("trtc_request_success_total{{model=\"tiny\",finished_reason=\"{reason}\"}}"))
    };
    let (done, left) = (done.into_inner(), left.into_inner());
    assert!(left > 20 && done > 100 && streamed.into_inner() > 30, "{left} left, {done} stayed");
    // Who left may have had a whole answer by then, or never have been heard.
    assert!(of("length") >= done as f64, "{} of {done}", of("length"));
    assert!(of("length") + of("abort") <= (done + left) as f64);
    assert!(of("abort") > 0.0, "nobody left in time");
    assert_eq!(server.metric("trtc_engine_failed_steps_total{model=\"tiny\"}"), 0.0);
}

#[test]
fn counters_add_up() {
    let server = start(config());
    let mut tokens = 0;
    for number in 0..20 {
        let (prompt, max_tokens) = wish(number);
        let body =
            json!({ "prompt": prompt, "max_tokens": max_tokens, "ignore_eos": true, "n": 1 + number % 3 });
        let usage = server.post("/v1/completions", &body).ok()["usage"].clone();
        assert_eq!(usage["completion_tokens"], u64::from(max_tokens) * (1 + number % 3));
        tokens += usage["completion_tokens"].as_u64().unwrap();
    }
    server.is_empty();
    let of = |name: &str| server.metric(&format!("trtc_{name}{{model=\"tiny\"}}"));
    let prompts: usize = (0..20).map(|n| wish(n).0.len()).sum();
    assert_eq!(of("prompt_tokens_total"), prompts as f64);
    assert_eq!(of("generation_tokens_total"), tokens as f64);
    assert_eq!(of("request_prompt_tokens_sum"), prompts as f64);
    assert_eq!(of("request_generation_tokens_sum"), tokens as f64);
    for name in [
        "request_prompt_tokens",
        "time_to_first_token_seconds",
        "e2e_request_latency_seconds",
        "request_queue_time_seconds",
    ] {
        assert_eq!(of(&format!("{name}_count")), 20.0, "{name}");
    }
    let answers: u64 = (0..20).map(|n| 1 + n % 3).sum();
    assert_eq!(of("inter_token_latency_seconds_count"), (tokens - answers) as f64);
    let ended = |reason: &str| {
        server.metric(&format!("trtc_request_success_total{{model=\"tiny\",finished_reason=\"{reason}\"}}"))
    };
    assert_eq!((ended("length"), ended("stop"), ended("abort")), (answers as f64, 0.0, 0.0));
    let logged = server.records();
    assert_eq!(logged.iter().map(|r| r.completion_tokens).sum::<u64>(), tokens);
    assert!(logged.iter().all(|r| r.status == 200 && !r.gone && r.client == "127.0.0.1"));
}

/// A stream that will take long, of which the head has been read.
fn long(server: &Running) -> client::Open {
    let body = json!({ "prompt": "w1", "max_tokens": 120, "ignore_eos": true, "stream": true });
    server.open("/v1/completions", &body)
}

#[test]
fn who_leaves_frees_its_pages_within_a_step() {
    let server = start(config());
    server.control.pause(Duration::from_millis(20));
    let mut stream = long(&server);
    stream.event(&mut 0).unwrap().unwrap();
    server.await_metric("trtc_num_requests_running{model=\"tiny\"}", 1.0);
    assert!(server.metric("trtc_kv_cache_usage_perc{model=\"tiny\"}") > 0.0);
    drop(stream);
    // A whole answer takes 2.4 s; long before that it is gone.
    let begin = std::time::Instant::now();
    server.is_empty();
    assert!(begin.elapsed() < Duration::from_millis(1500), "{:?}", begin.elapsed());
    let record = server.records().into_iter().find(|r| r.stream).unwrap();
    assert!(record.gone && record.completion_tokens < 120, "{record:?}");
}

#[test]
fn a_slow_reader_gets_everything_and_holds_nobody_up() {
    let server = start(config());
    let mut slow = long(&server);
    // Others have their answers meanwhile.
    for _ in 0..3 {
        let body = json!({ "prompt": "w2", "max_tokens": 50, "ignore_eos": true });
        assert_eq!(server.post("/v1/completions", &body).ok()["usage"]["completion_tokens"], 50);
    }
    server.is_empty();
    let mut events = 0;
    while slow.event(&mut 0).unwrap().is_some() {
        events += 1;
        std::thread::sleep(Duration::from_millis(2));
    }
    assert_eq!(events, 122, "tokens, the last chunk and the end");
}

#[test]
fn who_reads_nothing_for_too_long_is_given_up() {
    let server = start(Config { write_timeout: Duration::from_millis(200), ..config() });
    // Answers that no socket's buffers hold: every token with twenty alternatives, many times over.
    let body = json!({
        "prompt": vec!["w1"; 200], "max_tokens": 120, "ignore_eos": true, "stream": true, "logprobs": 20,
    });
    let stream = server.open("/v1/completions", &body);
    server.await_metric("trtc_http_connections", 1.0);
    server.is_empty();
    let record = server.records().into_iter().find(|r| r.stream).unwrap();
    assert!(record.gone, "{record:?}");
    assert!(server.metric("trtc_request_success_total{model=\"tiny\",finished_reason=\"abort\"}") > 0.0);
    drop(stream);
}

#[test]
fn a_client_that_closes_its_side_only_after_asking_has_left() {
    let server = start(config());
    server.control.pause(Duration::from_millis(10));
    let mut socket = TcpStream::connect(server.address).unwrap();
    let body = json!({ "prompt": "w1", "max_tokens": 120, "ignore_eos": true }).to_string();
    socket.write_all(&client::request("POST", "/v1/completions", &[], &body)).unwrap();
    server.await_metric("trtc_num_requests_running{model=\"tiny\"}", 1.0);
    socket.shutdown(Shutdown::Both).unwrap();
    server.is_empty();
    server.await_metric("trtc_request_success_total{model=\"tiny\",finished_reason=\"abort\"}", 1.0);
    assert_eq!(server.metric("trtc_request_gone_total"), 1.0);
    assert!(server.records().iter().any(|r| r.gone && r.path == "/v1/completions"));
}
