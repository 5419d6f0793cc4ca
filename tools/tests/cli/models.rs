//! `trtc serve` with models that come and go, and with caches that share a memory: its flags.

use super::serving::{Serving, serve};
use super::support::*;
use serde_json::Value;
use std::path::Path;

/// The body of an answer, which is a success.
#[track_caller]
fn good(answer: &str) -> Value {
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    json(answer.split_once("\r\n\r\n").expect("a body").1)
}

/// Bytes of each model's cache, by name.
fn caches(server: &Serving) -> Vec<(String, u64)> {
    let list = good(&server.answer("GET /v1/models", ""));
    let one = |m: &Value| {
        let bytes = m["meta"]["kv_cache_bytes"].as_u64().expect("a number");
        (m["id"].as_str().expect("a name").to_owned(), bytes)
    };
    list["data"].as_array().expect("a list").iter().map(one).collect()
}

/// Bytes of a page of both engines' caches, and the pages of a full batch of `engine()`.
fn pages() -> (u64, u64) {
    let file = trtc_engine::EngineFile::open(Path::new(engine())).expect("the engine");
    let (d, kv) = (file.manifest().dims, &file.manifest().kv);
    (kv.bytes_per_page(), u64::from(d.max_batch * d.max_seq_len.div_ceil(kv.page_tokens)))
}

fn page() -> u64 {
    pages().0
}

#[test]
fn a_server_begins_with_nothing_and_loads_what_an_admin_says() {
    let dir = folder("shelf");
    for (name, from) in [("a.engine", engine()), ("b.engine", talking())] {
        std::fs::write(dir.join(name), std::fs::read(from).expect("the engine")).expect("a copy");
    }
    let keys = folder("admins").join("keys.txt");
    std::fs::write(&keys, "root:sk-root\n").expect("a file");
    let memory = (8 * page()).to_string();
    let args = ["--engine-dir", text(&dir), "--admin-key-file", text(&keys), "--kv-memory", &memory];
    let environment = [("TRTC_API_KEY", "sk-1"), ("TRTC_ADMIN_KEY", "sk-env")];
    let server = serve(&[&args[..], &["--log-format", "text"]].concat(), &environment);
    assert!(server.answer("GET /ready", "").contains("no model is loaded"));
    let post = |what: &str, key: &str, body: &str| {
        let head = format!("POST /v1/models/{what} HTTP/1.1\r\nauthorization: Bearer {key}\r\nx: y");
        server.answer(&head, body)
    };
    let load = r#"{"model":"chat","engine":"b.engine","kv_fraction":0.25}"#;
    for (key, status) in [("sk-2", "HTTP/1.1 401 "), ("sk-1", "HTTP/1.1 403 ")] {
        let answer = post("load", key, load);
        assert!(answer.starts_with(status), "{answer}");
    }
    assert_eq!(good(&post("load", "sk-root", load))["meta"]["kv_cache_bytes"], 2 * page());
    // The rest, and then nothing is left.
    let rest = r#"{"model":"code","engine":"a.engine"}"#;
    assert_eq!(good(&post("load", "sk-env", rest))["meta"]["kv_cache_bytes"], 6 * page());
    let full = post("load", "sk-env", &rest.replace("code", "third"));
    assert!(full.starts_with("HTTP/1.1 400 ") && full.contains("no room for the KV cache"), "{full}");
    let chat = r#"{"model":"chat","prompt":"one two","max_tokens":2}"#;
    let head = "POST /v1/completions HTTP/1.1\r\nauthorization: Bearer sk-1\r\nx: y";
    good(&server.answer(head, chat));
    good(&post("unload", "sk-root", r#"{"model":"chat"}"#));
    assert!(server.answer(head, chat).contains("model_not_found"));
    good(&post("load", "sk-env", &rest.replace("code", "third")));
    server.signal(libc::SIGTERM);
    let (code, _, log) = server.end();
    assert_eq!(code, Some(0), "{log}");
    for line in ["root loads chat", "admin loads code", "third was not loaded: no room", "chat was unloaded"]
    {
        assert!(log.contains(line), "no {line:?} in {log}");
    }
    assert!(log.contains("403 POST /v1/models/load from default") && !log.contains("sk-"), "{log}");
}

#[test]
fn caches_share_one_memory_whatever_the_order() {
    let (small, memory) = (format!("small={}", engine()), (8 * page()).to_string());
    let with = |engines: [&str; 2], shares: &[&str]| {
        let server = serve(&[&engines[..], &["--kv-memory", &memory], shares].concat(), &[]);
        let mut found = caches(&server);
        found.sort();
        found
    };
    let of = |model: u64, small: u64| {
        vec![("model".to_owned(), model * page()), ("small".to_owned(), small * page())]
    };
    assert_eq!(with([&small, talking()], &[]), of(4, 4));
    assert_eq!(with([&small, talking()], &["--kv-share", "small=0.75"]), of(2, 6));
    assert_eq!(with([talking(), &small], &["--kv-share", "small=0.75,model=0.125"]), of(1, 6));
    // Of what is free both take what a full batch needs: the second one not less than the first.
    let server = serve(&[&small, &format!("again={}", engine())], &[]);
    let (page, full) = pages();
    assert_eq!(caches(&server).iter().map(|(_, bytes)| *bytes).collect::<Vec<_>>(), [full * page; 2]);
}

#[test]
fn flags_that_contradict_each_other_are_refused() {
    let dir = folder("empty");
    let serve = |args: &[&str]| trtc(&[&["serve", "--port", "0"], args].concat());
    serve(&["--engine-dir", text(&dir)]).fails(1, &["admin's key", "--admin-key-file", "TRTC_ADMIN_KEY"]);
    let keys = folder("none").join("keys.txt");
    std::fs::write(&keys, "# none\n").expect("a file");
    let args = [engine(), "--admin-key-file", text(&keys)];
    let ran = serve(&args);
    assert!(ran.code == 1 && ran.err.contains("--engine-dir"), "{}", ran.err);
    serve(&[&args[..], &["--engine-dir", text(&dir)]].concat()).fails(1, &["keys.txt", "has no key"]);
    std::fs::write(&keys, "k").expect("a file");
    serve(&[&args[..], &["--engine-dir", "/no/such"]].concat()).fails(1, &["/no/such"]);
    serve(&[&args[..], &["--engine-dir", text(&keys)]].concat()).fails(1, &["keys.txt"]);
    for (share, words) in [
        ("other=0.5", &["'other'", "model"][..]),
        ("model=0.5,model=0.5", &["'model' twice"]),
        ("model=0.5,small=0.6", &["1.100 in all"]),
        ("model=1", &["nothing for small"]),
    ] {
        let small = format!("small={}", engine());
        serve(&[talking(), &small, "--kv-share", share]).fails(1, words);
    }
    assert_eq!(serve(&[engine(), "--kv-share", "model"]).code, 1);
}
