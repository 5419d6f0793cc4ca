//! `trtc serve`: its address, its log, its end, and what it says when it cannot begin.

use super::support::*;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, ChildStderr, ChildStdout, Stdio};
use std::time::{Duration, Instant};

pub struct Serving {
    child: Child,
    /// Held open: the server may still print.
    out: BufReader<ChildStdout>,
    err: Option<ChildStderr>,
    pub url: String,
    pub address: String,
}

pub fn serve(args: &[&str], environment: &[(&str, &str)]) -> Serving {
    let mut c = command(&[&["serve", "--port", "0"], args].concat());
    c.envs(environment.iter().copied()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = c.spawn().expect("trtc starts");
    let mut out = BufReader::new(child.stdout.take().expect("stdout is a pipe"));
    let err = child.stderr.take();
    let mut line = String::new();
    let url = loop {
        line.clear();
        assert!(out.read_line(&mut line).expect("trtc prints") > 0, "the server did not start");
        if let Some(url) = line.trim().strip_prefix("listening on ") {
            break url.to_owned();
        }
    };
    let address = url.split_once("://").expect("a scheme").1.to_owned();
    Serving { child, out, err, url, address }
}

impl Serving {
    fn ask(&self, head: &str, body: &str) -> TcpStream {
        let mut stream = TcpStream::connect(&self.address).expect("the server takes connections");
        let length = body.len();
        write!(
            stream,
            "{head} HTTP/1.1\r\nhost: t\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
        )
        .expect("the server reads");
        stream
    }

    pub fn answer(&self, head: &str, body: &str) -> String {
        let mut text = String::new();
        self.ask(head, body).read_to_string(&mut text).expect("an answer");
        text
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: libc::c_int) {
        // SAFETY: sends a signal to the child, which has not been waited for.
        unsafe { libc::kill(self.child.id() as libc::pid_t, signal) };
    }

    /// Its exit code, what it printed besides, and its log.
    pub fn end(mut self) -> (Option<i32>, String, String) {
        let (mut out, mut err) = (String::new(), String::new());
        self.err.take().expect("stderr is a pipe").read_to_string(&mut err).expect("a log");
        self.out.read_to_string(&mut out).expect("its output");
        (self.child.wait().expect("trtc ends").code(), out, err)
    }
}

const STREAM: &str = r#"{"prompt":[1,2],"max_tokens":60,"ignore_eos":true,"stream":true}"#;

#[test]
fn a_server_answers_logs_and_ends_with_zero_when_told() {
    let named = format!("small={}", engine());
    let server = serve(&[&named, talking(), "--log-format", "json"], &[]);
    let models = server.answer("GET /v1/models", "");
    assert!(models.contains(r#""id":"small""#) && models.contains(r#""id":"model""#), "{models}");
    let chat = r#"{"model":"model","messages":[{"role":"user","content":"hello"}],"max_tokens":2}"#;
    assert!(server.answer("POST /v1/chat/completions", chat).starts_with("HTTP/1.1 200 "));
    let body = STREAM.replace('{', r#"{"model":"small","#);
    let mut stream = server.ask("POST /v1/completions", &body);
    let mut begin = [0; 16];
    stream.read_exact(&mut begin).expect("the stream begins");
    server.signal(libc::SIGTERM);
    let mut rest = String::new();
    stream.read_to_string(&mut rest).expect("the stream goes on to its end");
    assert!(rest.contains("data: [DONE]"), "{rest}");
    let (code, out, log) = server.end();
    assert_eq!((code, out.as_str()), (Some(0), ""), "{log}");
    let lines: Vec<_> = log.lines().map(json).collect();
    assert!(lines.iter().any(|l| l["path"] == "/v1/completions" && l["completion_tokens"] == 60), "{log}");
    assert!(lines.iter().any(|l| l["message"].as_str().is_some_and(|m| m.starts_with("draining"))), "{log}");
}

#[test]
fn ctrl_c_ends_an_idle_server_and_text_is_for_people() {
    let server = serve(&[engine(), "--log-format", "text"], &[("TRTC_API_KEY", "sk-9")]);
    assert!(server.answer("GET /v1/models", "").starts_with("HTTP/1.1 401 "));
    let keyed = server.answer("GET /v1/models HTTP/1.1\r\nauthorization: Bearer sk-9\r\nx: y", "");
    assert!(keyed.starts_with("HTTP/1.1 200 "), "{keyed}");
    assert!(server.answer("GET /", "").starts_with("HTTP/1.1 200 "), "the page needs no key");
    server.signal(libc::SIGINT);
    let (code, _, log) = server.end();
    assert_eq!(code, Some(0));
    assert!(
        log.contains("401 GET /v1/models from 127.0.0.1") && log.contains("200 GET /v1/models from default"),
        "{log}"
    );
    assert!(!log.contains("sk-9") && !log.contains('\x1b'), "{log}");
}

#[test]
fn others_on_the_network_are_warned_of() {
    let warnings = |args: &[&str]| {
        let common = [engine(), "--host", "0.0.0.0", "--log-format", "none"];
        let server = serve(&[&common, args].concat(), &[]);
        server.signal(libc::SIGTERM);
        let (_, _, err) = server.end();
        ["everybody", "can be read on its way"].map(|words| err.contains(words))
    };
    let (pem, key) = (golden_tls("server.pem"), golden_tls("server.key"));
    let authority = golden_tls("authority.pem");
    let tls = ["--tls-cert", &pem, "--tls-key", &key, "--tls-client-ca", &authority];
    assert_eq!(warnings(&[]), [true, true]);
    assert_eq!(warnings(&tls[..4]), [true, false]);
    assert_eq!(warnings(&tls), [false, false]);
}

#[test]
fn the_document_is_printed_without_an_engine() {
    let printed = trtc(&["serve", "--openapi"]).ok();
    assert_eq!(json(&printed)["openapi"], "3.1.0");
    let server = serve(&[engine()], &[("TRTC_API_KEY", "sk-9")]);
    let served = server.answer("GET /openapi.json", "");
    assert!(served.starts_with("HTTP/1.1 200 ") && served.ends_with(&printed), "{served}");
    server.signal(libc::SIGTERM);
    assert_eq!(server.end().0, Some(0));
}

#[test]
fn a_second_signal_ends_at_once() {
    let server = serve(&[engine(), "--threads", "1", "--no-page"], &[]);
    assert!(server.answer("GET /", "").starts_with("HTTP/1.1 404 "), "there is no page");
    // A connection that has asked for much: the first signal waits for it.
    let many = r#"{"prompt":[1],"max_tokens":60,"ignore_eos":true,"stream":true,"n":600,"logprobs":20}"#;
    let mut stream = server.ask("POST /v1/completions", many);
    let mut begin = [0; 16];
    stream.read_exact(&mut begin).expect("the stream begins");
    server.signal(libc::SIGTERM);
    let deadline = Instant::now() + Duration::from_secs(20);
    while !server.answer("GET /ready", "").starts_with("HTTP/1.1 503 ") {
        assert!(Instant::now() < deadline, "the first signal was not heard");
    }
    let begin = Instant::now();
    server.signal(libc::SIGTERM);
    let (code, ..) = server.end();
    assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());
    assert_eq!(code, Some(128 + libc::SIGTERM));
}

#[test]
fn what_cannot_begin_is_told() {
    let serve = |args: &[&str]| trtc(&[&["serve"], args].concat());
    let other = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = other.local_addr().expect("its number").port().to_string();
    serve(&[engine(), "--port", &port]).fails(1, &["cannot listen", &port, "--port"]);
    let dir = folder("keys");
    let keys = dir.join("keys.txt");
    std::fs::write(&keys, "# none\n").expect("a file");
    serve(&[engine(), "--port", "0", "--api-key-file", text(&keys)]).fails(1, &["keys.txt", "has no key"]);
    std::fs::write(&keys, "alice:").expect("a file");
    serve(&[engine(), "--port", "0", "--api-key-file", text(&keys)]).fails(1, &["keys.txt", "line 1"]);
    serve(&[engine(), "--port", "0", "--api-key-file", "/no/such"]).fails(1, &["/no/such"]);
    let (pem, key, other) = (golden_tls("server.pem"), golden_tls("server.key"), golden_tls("renewed.key"));
    serve(&[engine(), "--tls-cert", &pem, "--tls-key", &other]).fails(1, &["does not belong", "help: "]);
    serve(&[engine(), "--tls-cert", &pem, "--tls-key", "/no/such"]).fails(1, &["/no/such"]);
    for alone in [["--tls-cert", &pem], ["--tls-key", &key], ["--tls-client-ca", &pem]] {
        serve(&[&[engine(), "--port", "0"], &alone[..]].concat()).fails(1, &["--tls-"]);
    }
    for args in [
        &["--port", "70000"][..],
        &["--host", "example.org"],
        &["--read-timeout", "0"],
        &["--max-body", "x"],
        &["--otlp-endpoint", "https://collector:4318"],
        &[],
    ] {
        let ran = serve(&[args, if args.is_empty() { &[] } else { &["x.engine"] }].concat());
        assert_eq!(ran.code, 1, "{args:?}: {}", ran.err);
    }
    let ran = serve(&["/no/such.engine", "--port", "0"]);
    assert_eq!((ran.code, ran.err.contains("/no/such.engine")), (1, true), "{}", ran.err);
}
