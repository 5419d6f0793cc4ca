//! `trtc bench serve`: against a real server, with exact counts, and against one that plays what others send.

use super::serving::serve;
use super::support::*;
use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

fn bench(address: &str, flags: &[&str]) -> Ran {
    trtc(&[&["bench", "serve", address], flags].concat())
}

fn bench_json(address: &str, flags: &[&str]) -> Value {
    json(&bench(address, &[flags, &["--json"]].concat()).ok())
}

impl Ran {
    /// Holds the run to a result in which nothing succeeded, for this reason, `count` times.
    #[track_caller]
    fn not_one(self, count: u32, why: &str) {
        assert_eq!(self.code, 1, "{}{}", self.out, self.err);
        assert!(self.err.starts_with("error: no request succeeded\n"), "{}", self.err);
        assert!(self.err.contains(&format!("note: {count} of {count}, {why}: ")), "{}", self.err);
        assert!(self.out.contains(&format!("failed: {count} of {count}, {why}: ")), "{}", self.out);
    }
}

#[track_caller]
fn counts(result: &Value, want: [(&str, u64); 4]) {
    for (name, value) in want {
        assert_eq!(result[name], value, "{name}: {result}");
    }
}

#[test]
fn a_load_on_a_real_server_is_counted_exactly() {
    // Without a tokenizer: tokens have no text, and are events by their log-probabilities.
    let server = serve(&[engine(), "--log-format", "json"], &[("TRTC_API_KEY", "sk-1")]);
    let url = format!("http://{}/v1", server.address);
    let flags =
        ["--requests", "9", "--max-concurrency", "3", "--warmup", "2", "--input-len", "8", "--output-len"];
    let flags =
        [&flags[..], &["5", "--prefix-len", "4", "--logprobs", "0", "--percentiles", "50,99.9"]].concat();
    let ran: Ran = command(&[&["bench", "serve", &url, "--json"], &flags[..]].concat())
        .env("OPENAI_API_KEY", "sk-1")
        .output()
        .expect("trtc starts")
        .into();
    let result = json(&ran.ok());
    counts(
        &result,
        [("completed", 9), ("failed", 0), ("total_input_tokens", 9 * 12), ("total_output_tokens", 45)],
    );
    assert_eq!((&result["max_concurrent_requests"], &result["max_concurrency"]), (&3.into(), &3.into()));
    assert_eq!((&result["model_id"], &result["without_token_events"]), (&"model".into(), &0.into()));
    // The server says how many ids there are.
    assert_eq!(result["prompts"], "random token ids below 384");
    let number = |name: &str| result[name].as_f64().unwrap_or_else(|| panic!("{name}: {result}"));
    let per_s = |count: f64| count / number("duration");
    for (name, want) in [
        ("request_throughput", per_s(9.0)),
        ("output_throughput", per_s(45.0)),
        ("total_token_throughput", per_s(45.0 + 108.0)),
        ("median_ttft_ms", number("p50_ttft_ms")),
    ] {
        assert!((number(name) / want - 1.0).abs() < 1e-9, "{name}: {result}");
    }
    // A small engine's tokens may come in one piece: then no time lies between them.
    for (metric, least) in
        [("ttft", f64::MIN_POSITIVE), ("tpot", 0.0), ("itl", 0.0), ("e2el", f64::MIN_POSITIVE)]
    {
        for word in ["mean", "std", "p50", "p99.9"] {
            let value = number(&format!("{word}_{metric}_ms"));
            assert!(value >= if word == "std" { 0.0 } else { least }, "{word} {metric}: {result}");
        }
    }
    assert!(number("mean_e2el_ms") >= number("mean_ttft_ms"), "{result}");
    // Without log-probabilities no token can be seen, and the time to the first is not made up.
    let silent =
        command(&["bench", "serve", &url, "--requests", "2", "--input-len", "3", "--output-len", "4"])
            .env("TRTC_API_KEY", "sk-1")
            .output()
            .expect("trtc starts");
    let text = Ran::from(silent).ok();
    for want in [
        "Total generated tokens:                  8\n",
        "Mean TTFT (ms):                          -\n",
        "--logprobs 0",
    ] {
        assert!(text.contains(want), "no {want:?} in {text}");
    }
    // A wrong key: nothing succeeds, and that alone is an error.
    bench(&server.address, &["--model", "model", "--vocab", "9", "--requests", "2"]).not_one(2, "status 401");
    server.signal(libc::SIGTERM);
    let (_, _, log) = server.end();
    let lines = log.lines().map(json).filter(|l| l["path"] == "/v1/completions" && l["status"] == 200);
    assert_eq!(
        lines.filter(|l| l["completion_tokens"] == 5 && l["prompt_tokens"] == 12).count(),
        9 + 2,
        "{log}"
    );
}

#[test]
fn chats_words_and_files_of_prompts() {
    let server = serve(&[talking(), "--log-format", "none"], &[]);
    let url = &server.address;
    let chat = ["--endpoint", "chat", "--requests", "6", "--input-len", "5", "--output-len", "4"];
    let result = bench_json(
        url,
        &[&chat[..], &["--request-rate", "100", "--burstiness", "0.5", "--seed", "3"]].concat(),
    );
    // The template adds the role before the words and one behind them.
    counts(
        &result,
        [("completed", 6), ("failed", 0), ("total_input_tokens", 6 * 7), ("total_output_tokens", 24)],
    );
    assert_eq!((&result["seed"], &result["request_rate"]), (&3.into(), &100.0.into()));
    // Six requests at 100 a second arrive within 50 ms.
    assert!(result["duration"].as_f64().is_some_and(|s| s > 0.05), "{result}");
    assert!(result["mean_ttft_ms"].as_f64().is_some_and(|ms| ms > 0.0), "{result}");
    let spread =
        ["--text", "--requests", "20", "--input-len", "8", "--output-len", "6", "--range-ratio", "0.5"];
    let result = bench_json(url, &[&spread[..], &["--goodput", "ttft:60000", "e2el:60000"]].concat());
    let total = |name: &str| result[name].as_u64().expect("a count");
    assert!((20 * 4..=20 * 12).contains(&total("total_input_tokens")), "{result}");
    assert!((20 * 3..=20 * 9).contains(&total("total_output_tokens")), "{result}");
    assert_eq!(
        (&result["completed"], &result["request_goodput"]),
        (&20.into(), &result["request_throughput"])
    );
    let file = folder("load").join("prompts.jsonl");
    let lines = "{\"task_id\": 0, \"prompt\": \"one two\", \"output_tokens\": 3}\n\
                 {\"task_id\": 1, \"input_ids\": [5, 6, 7], \"output_tokens\": 4}\n\n\
                 {\"task_id\": 2, \"prompt\": \"three\", \"output_tokens\": 5}\n";
    std::fs::write(&file, lines).expect("a file");
    let from = |flags: &[&str]| bench(url, &[&["--dataset", text(&file), "--json"], flags].concat());
    let result = json(&from(&["--ignore-eos", "--warmup", "5"]).ok());
    counts(
        &result,
        [("completed", 3), ("failed", 0), ("total_input_tokens", 6), ("total_output_tokens", 12)],
    );
    let result = json(&from(&["--ignore-eos=true", "--requests", "2"]).ok());
    counts(&result, [("completed", 2), ("failed", 0), ("total_input_tokens", 5), ("total_output_tokens", 7)]);
    from(&["--requests", "4"]).fails(1, &["--requests 4", "3 prompts"]);
    from(&["--endpoint", "chat"]).fails(1, &["prompts.jsonl", "line 2", "ids alone"]);
    assert_eq!(from(&["--input-len", "4"]).code, 1);
    std::fs::write(&file, "\n").expect("a file");
    from(&[]).fails(1, &["has no requests"]);
    // What the server refuses is counted by its status, beside what it does not.
    let ran = bench(
        url,
        &[
            "--requests",
            "12",
            "--input-len",
            "55",
            "--output-len",
            "8",
            "--range-ratio",
            "0.2",
            "--seed",
            "1",
        ],
    )
    .ok();
    assert!(ran.contains(", status 400: the prompt has "), "{ran}");
}

/// Plays a server: the answer to each `POST` is the next of these, written piece by piece; then the connection is closed.
/// Gives its address, and the requests as they come.
fn play(answers: &'static [&'static [&'static str]]) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("its address").to_string();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let requests = Arc::clone(&seen);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Some(request) = request(stream.as_ref().expect("a connection")) else { continue };
            let number = requests.lock().expect("nobody panicked").len();
            requests.lock().expect("nobody panicked").push(request);
            let mut stream = stream.expect("a connection");
            std::thread::spawn(move || {
                for piece in answers[number % answers.len()] {
                    stream.write_all(piece.as_bytes()).expect("the client reads");
                    std::thread::sleep(Duration::from_millis(15));
                }
            });
        }
    });
    (address, seen)
}

/// Head and body of a request; none if the connection is closed without one.
fn request(stream: &TcpStream) -> Option<String> {
    let mut reader = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head).ok()? == 0 {
            return None;
        }
    }
    let length =
        head.lines().find_map(|l| l.strip_prefix("content-length: ")).map_or(0, |n| n.parse().unwrap());
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some(head + &String::from_utf8(body).expect("a body is text"))
}

const STREAM: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n";

#[test]
fn streams_of_other_servers_are_understood() {
    let (address, seen) = play(&[&[
        STREAM,
        ": ping\r\n\r\ndata:{\"choices\":[{\"text\":\"a\",\"fin",
        "ish_reason\":null}]}\r\n\r",
        "\nevent: message\r\ndata: {\"choices\":\r\ndata: [{\"text\":\"b\"}]}\r\n\r\n",
        "data: {\"choices\":[{\"text\":\"c\",\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n",
    ]]);
    let flags =
        ["--model", "m", "--vocab", "9", "--requests", "2", "--max-concurrency", "1", "--input-len", "7"];
    let flags = [&flags[..], &["--ignore-eos=false", "--extra-body", "{\"top_k\": 5}"]].concat();
    let result = bench_json(&format!("http://{address}/v1/"), &flags);
    // Nothing is said of tokens: the prompt's are known, the answer's are events.
    counts(
        &result,
        [("completed", 2), ("failed", 0), ("total_input_tokens", 14), ("total_output_tokens", 6)],
    );
    let number = |name: &str| result[name].as_f64().expect("a number");
    // The event of the first token is whole with the third piece, and the last comes with the fifth.
    assert!(number("mean_ttft_ms") >= 30.0 && number("mean_e2el_ms") >= 60.0, "{result}");
    // The last event brings the last token: what lies between tokens is the gaps, and there are two of them.
    assert!((number("mean_tpot_ms") - number("mean_itl_ms")).abs() < 1e-6, "{result}");
    let gaps = number("mean_e2el_ms") - number("mean_ttft_ms");
    assert!((2.0 * number("mean_itl_ms") - gaps).abs() < 1e-6, "{result}");
    let seen = seen.lock().expect("nobody panicked");
    assert_eq!(seen.len(), 2);
    for request in &*seen {
        let (head, body) = request.split_once("\r\n\r\n").expect("a body");
        assert!(head.starts_with("POST /v1/completions HTTP/1.1\r\n"), "{head}");
        assert!(!head.contains("authorization"), "{head}");
        let body = json(body);
        assert_eq!(
            (&body["model"], &body["max_tokens"], &body["top_k"]),
            (&"m".into(), &128.into(), &5.into())
        );
        assert_eq!((&body["stream"], &body["stream_options"]["include_usage"]), (&true.into(), &true.into()));
        assert_eq!((&body["ignore_eos"], body["prompt"].as_array().map(Vec::len)), (&Value::Null, Some(7)));
    }
}

#[test]
fn failures_are_counted_by_kind_and_end_nothing() {
    let (address, _) = play(&[
        &[
            "HTTP/1.1 429 Too Many Requests\r\ncontent-length: 41\r\n\r\n{\"error\":{\"message\":\"the queue is full\"}}",
        ],
        &[
            STREAM,
            "data: {\"choices\":[{\"text\":\"a\",\"finish_reason\":\"length\"}],\"usage\":{\"completion_tokens\":1}}\n\n",
        ],
        &["HTTP/1.1 502 Bad Gateway\r\ncontent-length: 3\r\n\r\nbad"],
        &[STREAM, "data: {\"choices\":[{\"text\":\"a\"}]}\n\n"],
        &["HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", "10\r\ndata: {\"choi"],
        &[STREAM, "data: {\"error\":{\"message\":\"out of memory\"}}\n\n"],
        &["HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 4\r\n\r\nwhat"],
        &[],
    ]);
    let flags = ["--model", "m", "--vocab", "9", "--requests", "9", "--max-concurrency", "1"];
    let result = bench_json(&address, &flags);
    assert_eq!((&result["completed"], &result["failed"]), (&1.into(), &8.into()), "{result}");
    let failures: Vec<(&str, u64)> = result["failures"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|f| (f["kind"].as_str().expect("a kind"), f["count"].as_u64().expect("a count")))
        .collect();
    let want = [
        ("status 429", 2),
        ("stream broken off", 2),
        ("no connection", 1),
        ("status 502", 1),
        ("error in the stream", 1),
        ("not understood", 1),
    ];
    assert_eq!(failures, want);
}

#[test]
fn a_server_that_says_nothing_is_waited_for_as_long_as_was_said() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("its address").to_string();
    let flags = ["--model", "m", "--vocab", "9", "--requests", "3", "--timeout", "0.2"];
    bench(&address, &flags).not_one(3, "timeout");
    drop(listener);
    bench(&address, &flags).not_one(3, "no connection");
    bench(&address, &[]).fails(1, &[&address, "no connection", "--model"]);
}

#[test]
fn a_load_within_tls_goes_to_who_can_be_trusted() {
    let (pem, key, authority) =
        (golden_tls("server.pem"), golden_tls("server.key"), golden_tls("authority.pem"));
    let server = serve(&[engine(), "--tls-cert", &pem, "--tls-key", &key, "--log-format", "none"], &[]);
    assert_eq!(server.url, format!("https://{}", server.address));
    let port = server.address.rsplit_once(':').expect("a port").1;
    let flags = ["--requests", "5", "--max-concurrency", "2", "--input-len", "3", "--output-len", "4"];
    let trusting = [&flags[..], &["--logprobs", "0", "--tls-ca", &authority]].concat();
    for url in [server.url.clone(), format!("https://localhost:{port}/v1")] {
        counts(
            &bench_json(&url, &trusting),
            [("completed", 5), ("failed", 0), ("total_input_tokens", 15), ("total_output_tokens", 20)],
        );
    }
    // The authorities of the system are another file then, which has others.
    let by_system = |file: &str| -> Ran {
        let mut c = command(&[&["bench", "serve", &server.url], &flags[..]].concat());
        c.env("SSL_CERT_FILE", file).env_remove("SSL_CERT_DIR").output().expect("trtc starts").into()
    };
    by_system(&authority).ok();
    by_system(&golden_tls("other-authority.pem")).fails(1, &["no connection", "UnknownIssuer", "--tls-ca"]);
    by_system("/no/such.pem").fails(1, &["trusts no authority", "/no/such.pem", "--tls-ca"]);
    // An address that is this machine's and not in the certificate.
    let other = format!("https://127.0.0.2:{port}");
    bench(&other, &trusting).fails(1, &["no connection", "127.0.0.2"]);
    bench(&server.url, &["--tls-ca", &key]).fails(1, &["server.key' has no certificate"]);
    let plain = serve(&[engine(), "--log-format", "none"], &[]);
    bench(&format!("https://{}", plain.address), &trusting).fails(1, &["speaks no TLS", "http://"]);
    bench(&server.address, &flags).fails(1, &["no connection"]);
}

#[test]
fn what_cannot_be_asked_is_told() {
    let named = ["small", "large"].map(|name| format!("{name}={}", engine()));
    let server = serve(&[&named[0], &named[1], "--log-format", "none"], &[]);
    bench(&server.address, &[]).fails(1, &["small, large", "--model"]);
    let flags = ["--model", "large", "--requests", "1", "--input-len", "2", "--output-len", "2"];
    assert_eq!(bench_json(&server.address, &flags)["prompts"], "random token ids below 384");
    bench(&server.address, &["--tls-ca", &golden_tls("authority.pem")]).fails(1, &["--tls-ca", "https"]);
    bench("http://a/v1/completions", &[]).fails(1, &["/v1"]);
    bench(&server.address, &["--dataset", "/no/such.jsonl"]).fails(1, &["/no/such.jsonl"]);
    for flags in [
        &["--request-rate", "0"][..],
        &["--burstiness", "2"],
        &["--goodput", "itl:5"],
        &["--percentiles", "101"],
        &["--extra-body", "{\"stream\": false}"],
        &["--text", "--vocab", "5"],
        &["--requests", "0"],
        &["--endpoint", "embeddings"],
    ] {
        let ran = bench(&server.address, flags);
        assert_eq!((ran.code, ran.err.starts_with("error: ")), (1, true), "{flags:?}: {}", ran.err);
    }
}
