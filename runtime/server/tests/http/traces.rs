//! Traces: what a collector is told of requests, and that one that is slow, broken or away holds nobody up.

use super::support::*;
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use trtc_server::{Collector, Config, Endpoint};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";

/// What a collector does with a batch.
#[derive(Clone, Copy)]
enum Does {
    Takes,
    Answers(&'static str, &'static str),
    Hangs,
}

/// A collector: it takes batches, but for the first ones, with which it does what it is told to.
struct Small {
    url: String,
    /// Bodies, with the line and headers before them.
    got: Arc<Mutex<Vec<(String, Value)>>>,
}

fn small(does: &[Does]) -> Small {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let got = Arc::new(Mutex::new(Vec::new()));
    let (taken, mut does) = (Arc::clone(&got), VecDeque::from(does.to_vec()));
    std::thread::spawn(move || {
        let mut hanging = Vec::new();
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let batch = read(&mut stream);
            match does.pop_front().unwrap_or(Does::Takes) {
                Does::Takes => {
                    taken.lock().unwrap().push(batch);
                    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}");
                }
                Does::Answers(head, body) => {
                    let length = body.len();
                    let _ = write!(stream, "HTTP/1.1 {head}\r\ncontent-length: {length}\r\n\r\n{body}");
                }
                Does::Hangs => hanging.push(stream),
            }
        }
    });
    Small { url, got }
}

fn read(stream: &mut TcpStream) -> (String, Value) {
    let mut reader = BufReader::new(stream);
    let (mut head, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        if line.trim().is_empty() {
            break;
        }
        if let Some(n) = line.to_lowercase().strip_prefix("content-length:") {
            length = n.trim().parse().unwrap();
        }
        head += &line.to_lowercase();
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    (head, serde_json::from_slice(&body).unwrap())
}

impl Small {
    /// For tests: nothing waits long.
    fn collector(&self) -> Collector {
        Collector {
            delay: Duration::from_millis(20),
            timeout: Duration::from_millis(300),
            pause: Duration::from_millis(10),
            ..Collector::new(Endpoint::parse(&self.url).unwrap())
        }
    }

    fn config(&self) -> Config {
        Config { collector: Some(self.collector()), ..config() }
    }

    fn spans(&self) -> Vec<Value> {
        let batches = self.got.lock().unwrap();
        let of = |(_, body): &(String, Value)| {
            body["resourceSpans"][0]["scopeSpans"][0]["spans"].as_array().unwrap().clone()
        };
        batches.iter().flat_map(of).collect()
    }
}

/// An attribute's value, without the word for its kind.
fn attribute(span: &Value, key: &str) -> Value {
    let found = span["attributes"].as_array().unwrap().iter().find(|a| a["key"] == key);
    found.map_or(Value::Null, |a| a["value"].as_object().unwrap().values().next().unwrap().clone())
}

fn text(more: &Value) -> String {
    let mut body = json!({ "prompt": "w42 w43", "max_tokens": 3, "ignore_eos": true });
    more.as_object().unwrap().iter().for_each(|(k, v)| body[k] = v.clone());
    body.to_string()
}

#[test]
fn a_request_is_a_span_of_its_callers_trace() {
    let collector = small(&[]);
    let mut server = start(collector.config());
    let ask = |flags: &str, body: &str| {
        let parent = format!("00-{TRACE}-{PARENT}-{flags}");
        server
            .send("POST", "/v1/completions", &[("traceparent", &parent), ("x-request-id", "mine")], body)
            .whole()
    };
    assert_eq!(ask("01", &text(&json!({}))).status, 200);
    assert_eq!(ask("00", &text(&json!({}))).status, 200, "of a trace that nobody records");
    assert_eq!(ask("01", &text(&json!({ "stream": true }))).status, 200);
    assert_eq!(ask("01", &text(&json!({ "top_p": 7 }))).status, 400);
    server.get("/health").ok();
    server.await_metric("trtc_trace_spans_total", 9.0);
    server.handle.drain();
    server.ended().unwrap();
    let spans = collector.spans();
    let own: Vec<&Value> = spans.iter().filter(|s| s["kind"] == 2 && s["traceId"] == TRACE).collect();
    assert_eq!(own.len(), 3, "{spans:?}");
    for span in &own[..2] {
        assert_eq!((&span["parentSpanId"], &span["name"]), (&json!(PARENT), &json!("text_completion tiny")));
        assert_eq!((&span["flags"], &span["status"]), (&json!(0x301), &Value::Null));
        for (key, value) in [
            ("gen_ai.request.model", json!("tiny")),
            ("gen_ai.usage.input_tokens", json!("2")),
            ("gen_ai.usage.output_tokens", json!("3")),
            ("gen_ai.response.finish_reasons", json!([{ "stringValue": "length" }])),
            ("http.response.status_code", json!("200")),
        ] {
            let found = attribute(span, key);
            assert_eq!(found.get("values").unwrap_or(&found), &value, "{key}");
        }
        let children: Vec<&str> = spans
            .iter()
            .filter(|s| s["parentSpanId"] == span["spanId"])
            .map(|s| s["name"].as_str().unwrap())
            .collect();
        assert_eq!(children, ["queue", "prefill", "decode"]);
    }
    assert_eq!(attribute(own[1], "trtc.stream"), true);
    assert_eq!(
        (attribute(own[2], "http.response.status_code"), &own[2]["status"]),
        (json!("400"), &Value::Null)
    );
    assert_eq!(attribute(own[2], "error.type"), "invalid_request_error");
    let head = &collector.got.lock().unwrap()[0].0;
    assert!(
        head.starts_with("post /v1/traces http/1.1") && head.contains("content-type: application/json"),
        "{head}"
    );
    let all = json!(spans).to_string();
    assert!(!all.contains("w42") && all.contains("\"mine\""), "nothing of prompts: {all}");
    let traces: Vec<_> =
        server.records().into_iter().filter_map(|r| r.trace_id).filter(|t| t == TRACE).collect();
    assert_eq!(traces.len(), 4, "the log names traces, also those that nobody records");
}

#[test]
fn what_fails_is_told_and_begins_a_trace_of_its_own() {
    let collector = small(&[]);
    let mut server = start(collector.config());
    server.control.fails.store(true, Ordering::Relaxed);
    let fails = |body| server.send("POST", "/v1/completions", &[], &text(&body)).whole();
    assert_eq!(fails(json!({})).status, 500);
    assert_eq!(fails(json!({ "stream": true })).status, 200, "it had begun");
    server.handle.drain();
    server.ended().unwrap();
    let spans = collector.spans();
    let own: Vec<&Value> = spans.iter().filter(|s| s["kind"] == 2).collect();
    assert_eq!(own.len(), 2);
    for span in &own {
        assert_eq!(span["status"], json!({ "code": 2, "message": "server_error" }));
        assert!(span.get("parentSpanId").is_none() && span["traceId"].as_str().unwrap().len() == 32);
    }
    assert_ne!(own[0]["traceId"], own[1]["traceId"]);
}

#[test]
fn a_batch_is_sent_again_where_that_makes_sense_and_only_there() {
    let busy = Does::Answers("503 Service Unavailable\r\nretry-after: 0", "");
    let partly = Does::Answers("200 OK", r#"{"partialSuccess":{"rejectedSpans":"1","errorMessage":"x"}}"#);
    for (does, taken, dropped) in [
        (vec![busy, Does::Hangs, Does::Answers("429 Too Many Requests", "")], 4.0, 0.0),
        (vec![Does::Answers("400 Bad Request", "")], 0.0, 4.0),
        (vec![busy; 5], 0.0, 4.0),
        (vec![partly], 3.0, 1.0),
    ] {
        let collector = small(&does);
        let server = start(collector.config());
        assert_eq!(server.send("POST", "/v1/completions", &[], &text(&json!({}))).whole().status, 200);
        server.await_metric("trtc_trace_spans_total", taken);
        server.await_metric("trtc_trace_spans_dropped_total", dropped);
        assert_eq!(collector.got.lock().unwrap().len(), usize::from(taken == 4.0));
        let notes = server.notes();
        assert_eq!(
            notes.iter().filter(|n| n.contains("not delivered")).count(),
            usize::from(taken == 0.0),
            "{notes:?}"
        );
    }
}

#[test]
fn a_collector_that_hangs_or_is_away_holds_nobody_up() {
    let hanging = small(&[Does::Hangs; 1000]);
    let away = Small { url: "http://127.0.0.1:1".to_owned(), got: Arc::default() };
    for collector in [hanging, away] {
        let few = Collector { queue: 4, batch: 2, timeout: Duration::from_secs(60), ..collector.collector() };
        let mut server = start(Config { collector: Some(few), ..config() });
        let begin = Instant::now();
        for _ in 0..40 {
            assert_eq!(server.post("/tokenize", &json!({ "prompt": "w1" })).status, 200);
        }
        assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
        assert!(server.metric("trtc_trace_spans_dropped_total") >= 1.0);
        assert_eq!(server.metric("trtc_trace_spans_total"), 0.0);
        let begin = Instant::now();
        server.handle.drain();
        server.ended().unwrap();
        assert!(begin.elapsed() < Duration::from_secs(12), "{:?}", begin.elapsed());
    }
}

#[test]
fn the_end_sends_what_waits() {
    let collector = small(&[]);
    let patient = Collector { delay: Duration::from_secs(3600), batch: 3, ..collector.collector() };
    let mut server = start(Config { collector: Some(patient), ..config() });
    for _ in 0..4 {
        server.post("/tokenize", &json!({ "prompt": "w1" })).ok();
    }
    server.await_metric("trtc_trace_spans_total", 3.0);
    server.handle.drain();
    server.ended().unwrap();
    let batches: Vec<usize> = {
        let got = collector.got.lock().unwrap();
        got.iter()
            .map(|(_, b)| b["resourceSpans"][0]["scopeSpans"][0]["spans"].as_array().unwrap().len())
            .collect()
    };
    assert_eq!(batches, [3, 1]);
}
