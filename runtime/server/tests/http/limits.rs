//! Queues that are full, turns, time that is over, steps that fail or do not end.

use super::client;
use super::support::*;
use serde_json::json;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use trtc_server::{Bounds, Config, Keys, ServerError};

/// Streams that take their time, all places of the engine and more.
fn occupy(server: &Running, count: usize) -> Vec<client::Open> {
    let body = json!({ "prompt": "w1", "max_tokens": 120, "ignore_eos": true, "stream": true });
    (0..count).map(|_| server.open("/v1/completions", &body)).collect()
}

/// Answers that the engine takes: a batch and one more.
const PLACES: usize = BATCH as usize + 1;

#[test]
fn a_full_queue_refuses_at_once_and_says_when_to_come_again() {
    let server = start(Config { queue: Bounds { answers: 2, tokens: 1 << 20, wait: None }, ..config() });
    server.control.pause(Duration::from_millis(20));
    let mut streams = occupy(&server, PLACES + 2);
    server.await_metric("trtc_queue_requests{model=\"tiny\"}", 2.0);
    let begin = Instant::now();
    let body = json!({ "prompt": "w1", "max_tokens": 1 });
    let refused = server.post("/v1/completions", &body);
    refused.fails(429, "rate_limit_error", Some("rate_limit_exceeded"), None);
    let seconds: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=60).contains(&seconds));
    assert!(begin.elapsed() < Duration::from_secs(1));
    // Health is above that.
    server.get("/health_generate").ok();
    // Who waits and leaves makes room.
    streams.truncate(PLACES);
    server.await_metric("trtc_queue_requests{model=\"tiny\"}", 0.0);
    server.control.pause(Duration::ZERO);
    server.post("/v1/completions", &body).ok();
    assert_eq!(server.metric("trtc_request_error_total{kind=\"rate_limit_error\"}"), 1.0);
    // More answers than will ever have a place are no matter of time.
    let many = json!({ "prompt": "w1", "max_tokens": 1, "n": PLACES + 3 });
    server.post("/v1/completions", &many).fails(400, "invalid_request_error", None, None);
    let last = streams.pop().unwrap().events();
    assert_eq!(last.len(), 121);
}

#[test]
fn clients_have_turns_and_priority_goes_first() {
    let mut keys = Keys::none();
    keys.add_lines("greedy:sk-1\nmodest:sk-2").unwrap();
    let server = start(Config { keys, public_metrics: true, ..config() });
    server.control.pause(Duration::from_millis(2));
    let open = |key: &str, priority: i32| {
        let body = json!({ "prompt": "w1", "max_tokens": 60, "ignore_eos": true, "stream": true, "priority": priority });
        let authorization = format!("Bearer {key}");
        server.send("POST", "/v1/completions", &[("authorization", &authorization)], &body.to_string())
    };
    let mut streams: Vec<client::Open> = (0..30).map(|_| open("sk-1", 0)).collect();
    server.await_metric("trtc_num_requests_running{model=\"tiny\"}", f64::from(BATCH));
    streams.push(open("sk-2", 0));
    streams.push(open("sk-2", 5));
    std::thread::scope(|scope| {
        streams.into_iter().for_each(|s| drop(scope.spawn(move || assert_eq!(s.events().len(), 61))));
    });
    let log = server.records();
    let place = |key: &str, last: bool| {
        let mut places =
            log.iter().filter(|r| r.stream).enumerate().filter(|(_, r)| r.client == key).map(|(i, _)| i);
        if last { places.last() } else { places.next() }.unwrap()
    };
    assert!(place("modest", false) < 14, "priority: ended as number {}", place("modest", false));
    assert!(place("modest", true) < 20, "turns: ended as number {}", place("modest", true));
    assert_eq!(log.iter().filter(|r| r.stream).count(), 32);
}

#[test]
fn time_that_is_over_ends_a_request() {
    let server = start(Config { request_timeout: Some(Duration::from_millis(600)), ..config() });
    server.control.pause(Duration::from_millis(20));
    let mut body = json!({ "prompt": "w1", "max_tokens": 120, "ignore_eos": true });
    let begin = Instant::now();
    let reply = server.post("/v1/completions", &body);
    let message = reply.fails(504, "timeout_error", Some("timeout"), None);
    assert!(message.contains("within 0.6 s"), "{message}");
    assert!(begin.elapsed() >= Duration::from_millis(600) && begin.elapsed() < Duration::from_secs(2));
    // The client's own limit, in a stream: an error is the last event.
    (body["timeout"], body["stream"]) = (json!(0.2), true.into());
    let chunks = server.open("/v1/completions", &body).events();
    let error = &chunks.last().unwrap()["error"];
    assert_eq!(error["code"], "timeout");
    assert!(error["message"].as_str().unwrap().contains("within 0.2 s"), "{error}");
    assert!(chunks.len() < 60);
    server.is_empty();
    assert_eq!(server.metric("trtc_request_error_total{kind=\"timeout_error\"}"), 2.0);
}

#[test]
fn a_stream_that_waits_is_kept_open() {
    let server = start(Config { keep_alive: Duration::from_millis(30), ..config() });
    server.control.pause(Duration::from_millis(200));
    let _others = occupy(&server, PLACES);
    let body = json!({ "prompt": "w1", "max_tokens": 1, "stream": true });
    let mut stream = server.open("/v1/completions", &body);
    std::thread::sleep(Duration::from_millis(200));
    server.control.pause(Duration::ZERO);
    let mut comments = 0;
    while stream.event(&mut comments).unwrap().is_some() {}
    assert!(comments >= 2, "{comments} comments");
}

#[test]
fn a_step_that_fails_is_told_and_the_engine_goes_on() {
    let server = start(config());
    server.control.pause(Duration::from_millis(5));
    let stream = occupy(&server, 1).remove(0);
    server.await_metric("trtc_num_requests_running{model=\"tiny\"}", 1.0);
    server.control.fails.store(true, Ordering::Relaxed);
    let events = stream.events();
    assert_eq!(events.last().unwrap()["error"]["type"], "server_error");
    let body = json!({ "prompt": "w1", "max_tokens": 3, "ignore_eos": true, "temperature": 0 });
    server.post("/v1/completions", &body).fails(500, "server_error", None, None);
    assert_eq!(server.get("/health").status, 200, "two failures are no pattern");
    server.get("/health_generate").fails(503, "server_error", None, None);
    let message = server.get("/health").fails(503, "server_error", None, None);
    assert!(message.contains("steps failed"), "{message}");
    server.control.fails.store(false, Ordering::Relaxed);
    let text = server.post("/v1/completions", &body).ok()["choices"][0]["text"].clone();
    assert_eq!(server.get("/health").status, 200);
    assert_eq!(server.post("/v1/completions", &body).ok()["choices"][0]["text"], text);
    server.is_empty();
}

#[test]
fn the_watchdog_tells_of_a_step_that_does_not_end() {
    let server = start(Config { watchdog: Some(Duration::from_millis(100)), ..config() });
    server.control.pause(Duration::from_millis(1500));
    let _stream = occupy(&server, 1);
    let deadline = Instant::now() + Duration::from_secs(10);
    while server.get("/health").status == 200 {
        assert!(Instant::now() < deadline, "the step was never missed");
        std::thread::sleep(Duration::from_millis(5));
    }
    server.get("/ready").fails(503, "server_error", None, None);
    server.control.pause(Duration::ZERO);
    while server.get("/health").status != 200 {
        assert!(Instant::now() < deadline, "the step ended, and health did not come back");
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(
        server.notes().iter().any(|n| n.contains("watchdog") && n.contains("tiny")),
        "{:?}",
        server.notes()
    );
}

#[test]
fn the_watchdog_ends_the_server_if_it_is_to() {
    let watchdog = Some(Duration::from_millis(100));
    let mut server = start(Config { watchdog, watchdog_exit: true, ..config() });
    server.control.pause(Duration::from_millis(2000));
    let _stream = occupy(&server, 1);
    assert!(matches!(server.ended(), Err(ServerError::Stuck(what)) if what.contains("tiny")));
}

#[test]
fn connections_are_bounded_and_slow_heads_are_cut_off() {
    let config = Config { max_connections: 2, read_timeout: Duration::from_millis(300), ..config() };
    let server = start(config);
    // Two that say nothing take all places until their time is over.
    let mut silent: Vec<TcpStream> = (0..2).map(|_| TcpStream::connect(server.address).unwrap()).collect();
    silent[0].write_all(b"GET /health HTTP/1.1\r\nhos").unwrap();
    let begin = Instant::now();
    server.get("/health").ok();
    assert!(begin.elapsed() >= Duration::from_millis(200), "{:?}", begin.elapsed());
    for stream in &mut silent {
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        // An answer that says so, or an end.
        let _ = stream.read_to_end(&mut Vec::new()).unwrap();
    }
    // A head without its body.
    let mut slow = TcpStream::connect(server.address).unwrap();
    slow.write_all(
        b"POST /tokenize HTTP/1.1\r\nhost: t\r\nconnection: close\r\ncontent-length: 100\r\n\r\n{",
    )
    .unwrap();
    let reply = client::read_head(slow).unwrap().whole();
    reply.fails(408, "invalid_request_error", Some("timeout"), None);
}
