//! What is said of a request in a trace: one span with children for the times that it took, as OTLP's JSON has them.
//!
//! Names are those of OpenTelemetry's conventions for HTTP and for generative models
//! (<https://opentelemetry.io/docs/specs/semconv/gen-ai/>); what they have no name for begins with `trtc.`.

use super::Finished;
use crate::log::Record;
use crate::openapi::{self, operations::Operation};
use serde_json::{Value, json};

/// Kinds of spans: the enumeration of OTLP.
const INTERNAL: u8 = 1;
const SERVER: u8 = 2;
/// The status of a span that failed.
const FAILED: u8 = 2;
/// Flags of a span: it is recorded, and it is known whether its parent is elsewhere.
const RECORDED: u32 = 0x101;
/// Its parent is elsewhere.
const REMOTE: u32 = 0x200;

/// Times within a request that are known: a name, from, to; milliseconds from its arrival.
fn times(record: &Record) -> impl Iterator<Item = (&'static str, f64, f64)> {
    let (queue, first) = (record.queue_ms, record.ttft_ms);
    let queued = queue.map(|taken| ("queue", 0.0, taken));
    let prefill = queue.zip(first).map(|(taken, first)| ("prefill", taken, first));
    let decode = first.map(|first| ("decode", first, record.total_ms));
    [queued, prefill, decode].into_iter().flatten()
}

/// Spans that a request becomes.
pub fn count(record: &Record) -> u64 {
    1 + times(record).count() as u64
}

/// The operation that answers a path, if one does.
fn operation(record: &Record) -> Option<&'static Operation> {
    let method = record.method.to_ascii_lowercase();
    openapi::all().filter(|o| o.method == method).find(|o| match o.path.split_once('{') {
        None => o.path == record.path,
        Some((before, _)) => record.path.strip_prefix(before).is_some_and(|name| !name.is_empty()),
    })
}

fn text(value: impl Into<String>) -> Value {
    json!({ "stringValue": value.into() })
}

fn number(value: u64) -> Value {
    // 64 bits are text in the JSON of Protocol Buffers.
    json!({ "intValue": value.to_string() })
}

fn attributes(record: &Record, operation: Option<&Operation>) -> Vec<Value> {
    let mut all = vec![
        ("http.request.method", text(&record.method)),
        ("url.path", text(&record.path)),
        ("trtc.request.id", text(&record.request_id)),
    ];
    if record.status > 0 {
        all.push(("http.response.status_code", number(record.status.into())));
    }
    if let Some(operation) = operation {
        all.push(("http.route", text(operation.path)));
    }
    if let Some(name) = operation.and_then(|o| o.generates) {
        all.push(("gen_ai.operation.name", text(name)));
        all.push(("gen_ai.provider.name", text("trtc")));
        all.push(("trtc.stream", json!({ "boolValue": record.stream })));
        if let Some(model) = &record.model {
            all.push(("gen_ai.request.model", text(model)));
            all.push(("gen_ai.response.model", text(model)));
            all.push(("gen_ai.usage.input_tokens", number(record.prompt_tokens)));
            all.push(("gen_ai.usage.output_tokens", number(record.completion_tokens)));
        }
        if !record.finish_reasons.is_empty() {
            let reasons: Vec<Value> = record.finish_reasons.iter().map(|r| text(*r)).collect();
            all.push(("gen_ai.response.finish_reasons", json!({ "arrayValue": { "values": reasons } })));
        }
    }
    if let Some(error) = record.error {
        all.push(("error.type", text(error)));
    }
    if record.gone {
        all.push(("trtc.client_gone", json!({ "boolValue": true })));
    }
    all.into_iter().map(|(key, value)| json!({ "key": key, "value": value })).collect()
}

/// The spans of a request. `make_id` gives digits that nobody else has.
pub fn spans(finished: &Finished, make_id: impl Fn() -> String) -> Vec<Value> {
    let Finished { record, trace } = finished;
    let operation = operation(record);
    let at = |ms: f64| (u128::from(record.time_ms) * 1_000_000 + (ms * 1e6) as u128).to_string();
    let name = match (operation.and_then(|o| o.generates), &record.model, operation) {
        (Some(does), Some(model), _) => format!("{does} {model}"),
        (Some(does), None, _) => does.to_owned(),
        (None, _, Some(operation)) => format!("{} {}", record.method, operation.path),
        (None, _, None) => record.method.clone(),
    };
    let mut span = json!({
        "traceId": trace.trace,
        "spanId": trace.span,
        "flags": RECORDED | if trace.parent.is_some() { REMOTE } else { 0 },
        "name": name,
        "kind": SERVER,
        "startTimeUnixNano": at(0.0),
        "endTimeUnixNano": at(record.total_ms),
        "attributes": attributes(record, operation),
    });
    if let Some(parent) = &trace.parent {
        span["parentSpanId"] = parent.as_str().into();
    }
    // A request that was wrong is no failure of the server's; a stream that broke is, though its status was sent before.
    let broke = record.status < 400 && record.error.is_some();
    if record.status >= 500 || broke {
        let message = record.error.unwrap_or_default();
        span["status"] = json!({ "code": FAILED, "message": message });
    }
    let child = |(name, from, to): (&str, f64, f64)| {
        let own = make_id();
        json!({
            "traceId": trace.trace,
            "spanId": own.get(..16).unwrap_or_default(),
            "parentSpanId": trace.span,
            "flags": RECORDED,
            "name": name,
            "kind": INTERNAL,
            "startTimeUnixNano": at(from),
            "endTimeUnixNano": at(to.max(from)),
        })
    };
    let children: Vec<Value> = times(record).map(child).collect();
    [vec![span], children].concat()
}

/// The body of a request to a collector; `instance` tells this server from others.
pub fn body(spans: Vec<Value>, instance: &str) -> Value {
    let of = |key: &str, value: &str| json!({ "key": key, "value": text(value) });
    let version = env!("CARGO_PKG_VERSION");
    json!({ "resourceSpans": [{
        "resource": { "attributes": [
            of("service.name", "trtc"), of("service.version", version), of("service.instance.id", instance),
        ] },
        "scopeSpans": [{ "scope": { "name": "trtc-server", "version": version }, "spans": spans }],
    }] })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::Trace;

    fn finished(record: Record) -> Finished {
        let (trace, span) = ("a".repeat(32), "b".repeat(16));
        Finished { record: Box::new(record), trace: Trace { trace, span, parent: None, sampled: true } }
    }

    fn spans_of(record: Record) -> Vec<Value> {
        assert_eq!(count(&record), spans(&finished(record.clone()), String::new).len() as u64);
        spans(&finished(record), || "c".repeat(32))
    }

    fn record(method: &str, path: &str, status: u16) -> Record {
        Record {
            time_ms: 1000,
            method: method.into(),
            path: path.into(),
            status,
            total_ms: 8.5,
            ..Record::default()
        }
    }

    #[test]
    fn an_answer_is_a_span_with_its_times_as_children() {
        let all = spans_of(Record {
            model: Some("m".into()),
            queue_ms: Some(1.5),
            ttft_ms: Some(4.0),
            finish_reasons: vec!["stop", "length"],
            prompt_tokens: 7,
            ..record("POST", "/v1/chat/completions", 200)
        });
        let names: Vec<_> =
            all.iter().map(|s| (s["name"].as_str().unwrap(), s["kind"].as_u64().unwrap())).collect();
        assert_eq!(names, [("chat m", 2), ("queue", 1), ("prefill", 1), ("decode", 1)]);
        let times: Vec<_> = all.iter().map(|s| (&s["startTimeUnixNano"], &s["endTimeUnixNano"])).collect();
        let ns = |from: u64, to: u64| (json!(from.to_string()), json!(to.to_string()));
        let want = [ns(0, 8_500_000), ns(0, 1_500_000), ns(1_500_000, 4_000_000), ns(4_000_000, 8_500_000)];
        for ((from, to), (want_from, want_to)) in times.iter().zip(want) {
            let less = |v: &Value| (v.as_str().unwrap().parse::<u64>().unwrap() - 1_000_000_000).to_string();
            assert_eq!((json!(less(from)), json!(less(to))), (want_from, want_to));
        }
        assert!(all[1..].iter().all(|s| s["parentSpanId"] == all[0]["spanId"]));
        let text = all[0]["attributes"].to_string();
        for part in [
            r#"{"key":"gen_ai.usage.input_tokens","value":{"intValue":"7"}}"#,
            r#"{"key":"gen_ai.response.finish_reasons","value":{"arrayValue":{"values":[{"stringValue":"stop"},{"stringValue":"length"}]}}}"#,
            r#"{"key":"http.route","value":{"stringValue":"/v1/chat/completions"}}"#,
        ] {
            assert!(text.contains(part), "no {part} in {text}");
        }
    }

    #[test]
    fn failures_are_the_servers_and_names_are_few() {
        let status = |record: Record| spans_of(record)[0]["status"]["code"].clone();
        let wrong = Record { error: Some("invalid_request_error"), ..record("POST", "/v1/completions", 400) };
        assert_eq!(status(wrong.clone()), Value::Null);
        assert!(spans_of(wrong)[0]["attributes"].to_string().contains("invalid_request_error"));
        let full = Record { error: Some("server_error"), ..record("POST", "/v1/completions", 503) };
        assert_eq!(status(full.clone()), FAILED);
        assert_eq!(status(Record { status: 200, ..full }), FAILED, "a stream that broke");
        let name = |method, path| spans_of(record(method, path, 200))[0]["name"].as_str().unwrap().to_owned();
        assert_eq!(name("GET", "/v1/models/some/name"), "GET /v1/models/{id}");
        assert_eq!(name("POST", "/v1/models/load"), "POST /v1/models/load");
        assert_eq!(name("POST", "/v1/completions"), "text_completion");
        assert_eq!(name("GET", "/secret/path"), "GET");
    }
}
