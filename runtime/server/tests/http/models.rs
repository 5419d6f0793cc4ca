//! Models that are loaded and unloaded while the server runs: who may, what of, and what others notice.

use super::client::Reply;
use super::device::Control;
use super::openapi::holds;
use super::support::*;
use serde_json::{Value, json};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use trtc_runtime::Error;
use trtc_server::{Config, Keys, Library, Wish};

const INVALID: &str = "invalid_request_error";
const ACCESS: &str = "authentication_error";
const SERVER: &str = "server_error";

/// A server with a folder of engines: one that works, and others that do not.
struct Shelf {
    server: Running,
    dir: TempDir,
    /// What was asked of who opens engines.
    wishes: Arc<Mutex<Vec<Wish>>>,
    /// Engines are not opened as long as it is true.
    hold: Arc<AtomicBool>,
}

/// With `tiny` loaded; admins' keys are `root:sk-root`.
fn shelf(config: Config) -> Shelf {
    let dir = tempfile::tempdir().unwrap();
    let engines = dir.path().join("engines");
    std::fs::create_dir(&engines).unwrap();
    std::os::unix::fs::symlink(engine_path(Speaks::Words), dir.path().join("outside")).unwrap();
    std::fs::copy(engine_path(Speaks::Words), engines.join("a.engine")).unwrap();
    std::fs::write(engines.join("text.engine"), "hello").unwrap();
    std::fs::write(engines.join("gpu.engine"), "").unwrap();
    std::os::unix::fs::symlink(engine_path(Speaks::Words), engines.join("link.engine")).unwrap();
    let (wishes, hold) = (Arc::<Mutex<Vec<Wish>>>::default(), Arc::<AtomicBool>::default());
    let control = Arc::new(Control::default());
    let (seen, held, ours) = (Arc::clone(&wishes), Arc::clone(&hold), Arc::clone(&control));
    let open = move |path: &Path, wish: Wish| {
        seen.lock().unwrap().push(wish);
        while held.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(1));
        }
        match path.file_name().and_then(|n| n.to_str()) {
            Some("gpu.engine") => {
                Err(Error::unsupported("the engine was built for sm_90").help("build another"))
            }
            _ => try_engine_of(path, &ours),
        }
    };
    let mut keys = Keys::none();
    keys.add("root", "sk-root");
    let library = Library::new(keys, &engines, Box::new(open)).unwrap();
    let first = vec![("tiny".to_owned(), engine(&control))];
    Shelf { server: start_engines(config, first, Some(library), control), dir, wishes, hold }
}

impl Shelf {
    fn ask(&self, what: &str, key: Option<&str>, body: &str) -> Reply {
        let key = key.map(|key| format!("Bearer {key}"));
        let headers: Vec<(&str, &str)> = key.iter().map(|key| ("authorization", &**key)).collect();
        self.server.send("POST", &format!("/v1/models/{what}"), &headers, body).whole()
    }

    fn load(&self, name: &str, engine: &str) -> Reply {
        self.ask("load", Some("sk-root"), &json!({ "model": name, "engine": engine }).to_string())
    }

    fn unload(&self, name: &str) -> Reply {
        self.ask("unload", Some("sk-root"), &json!({ "model": name }).to_string())
    }

    fn names(&self) -> Vec<String> {
        let list = self.server.get("/v1/models").ok();
        list["data"].as_array().unwrap().iter().map(|m| m["id"].as_str().unwrap().to_owned()).collect()
    }

    /// Waits until somebody opens an engine.
    fn await_open(&self, count: usize) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while self.wishes.lock().unwrap().len() < count {
            assert!(Instant::now() < deadline);
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

fn prompt(model: &str, tokens: u32) -> Value {
    json!({ "model": model, "prompt": "w1 w2", "max_tokens": tokens, "ignore_eos": true, "temperature": 0 })
}

fn answer(server: &Running, model: &str) -> String {
    server.post("/v1/completions", &prompt(model, 8)).ok()["choices"][0]["text"].as_str().unwrap().to_owned()
}

/// Threads of this process that drive an engine of this name.
fn threads(name: &str) -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap().flatten();
    let comm =
        |task: std::fs::DirEntry| std::fs::read_to_string(task.path().join("comm")).unwrap_or_default();
    tasks.map(comm).filter(|c| c.trim_end() == format!("engine {name}")).count()
}

#[test]
fn models_come_and_go_and_the_last_one_may() {
    let s = shelf(config());
    let devices = || Arc::strong_count(&s.server.control);
    let before = devices();
    let loaded = s.load("again", "a.engine").ok();
    holds("Loaded", &loaded);
    assert_eq!(
        (&loaded["id"], &loaded["status"], &loaded["object"]),
        (&json!("again"), &json!("loaded"), &json!("model"))
    );
    let cache = loaded["meta"]["kv_cache_bytes"].as_u64().unwrap();
    assert!(cache > 0);
    assert_eq!((s.names(), devices()), (vec!["tiny".to_owned(), "again".to_owned()], before + 1));
    assert_eq!(answer(&s.server, "again"), answer(&s.server, "tiny"));
    // Two models: the name must be given.
    let both = s.server.post("/v1/completions", &json!({ "prompt": "w1", "max_tokens": 1 }));
    assert!(both.fails(404, INVALID, Some("model_not_found"), Some("model")).contains("tiny, again"));
    let message = s.load("again", "a.engine").fails(409, INVALID, Some("model_conflict"), Some("model"));
    assert!(message.contains("unload it first"), "{message}");
    assert_eq!(s.server.metric("trtc_generation_tokens_total{model=\"again\"}"), 8.0);
    s.server.get("/health_generate").ok();

    assert_eq!(
        s.unload("again").ok(),
        json!({ "id": "again", "object": "model", "status": "unloaded", "cut": 0 })
    );
    // Its thread, its device and what was counted of it are gone.
    assert_eq!((devices(), threads("again")), (before, 0));
    assert!(!s.server.get("/metrics").text.contains("model=\"again\""));
    let gone = s.server.post("/v1/completions", &prompt("again", 1));
    gone.fails(404, INVALID, Some("model_not_found"), Some("model"));
    s.unload("again").fails(404, INVALID, Some("model_not_found"), Some("model"));
    s.server.post("/v1/completions", &json!({ "prompt": "w1", "max_tokens": 1 })).ok();

    holds("Unloaded", &s.unload("tiny").ok());
    assert_eq!((s.names(), devices()), (Vec::new(), before - 1));
    assert!(s.server.get("/ready").fails(503, SERVER, None, None).contains("no model is loaded"));
    s.server.get("/health").ok();
    s.server.get("/health_generate").ok();
    for body in [json!({ "prompt": "w1" }), prompt("tiny", 1)] {
        let reply = s.server.post("/v1/completions", &body);
        assert!(
            reply.fails(404, INVALID, Some("model_not_found"), Some("model")).contains("no model is loaded")
        );
    }
    assert!(!s.server.get("/metrics").text.contains("model="));
    // Also under the names of the routes.
    s.load("load", "a.engine").ok();
    assert_eq!(s.server.get("/v1/models/load").ok()["id"], "load");
    s.server.get("/ready").ok();
    assert_eq!(s.server.post("/v1/models/tiny", &json!({})).status, 405);
    let held: Vec<u64> = s.wishes.lock().unwrap().iter().map(|w| w.kv_held).collect();
    assert_eq!(held, [cache, 0], "what other models hold is known");
    let notes = s.server.notes();
    for note in
        ["root loads again", "again was loaded in ", "root unloads again", "again was unloaded, 0 answers"]
    {
        assert!(notes.iter().any(|n| n.starts_with(note)), "no {note:?} in {notes:?}");
    }
}

#[test]
fn a_stream_ends_whole_while_its_model_leaves() {
    let s = shelf(config());
    s.load("leaving", "a.engine").ok();
    s.server.control.pause(Duration::from_millis(5));
    let mut body = prompt("leaving", 100);
    body["stream"] = true.into();
    let mut streams: Vec<_> = (0..6).map(|_| s.server.open("/v1/completions", &body)).collect();
    streams.iter_mut().for_each(|stream| drop(stream.event(&mut 0).unwrap()));
    std::thread::scope(|scope| {
        let unload = scope.spawn(|| s.unload("leaving").ok());
        while s.names().len() == 2 {
            std::thread::sleep(Duration::from_millis(1));
        }
        // At once as if it had never been, but for its name and what is counted of it.
        let late = s.server.post("/v1/completions", &prompt("leaving", 1));
        late.fails(404, INVALID, Some("model_not_found"), Some("model"));
        for reply in [s.load("leaving", "a.engine"), s.unload("leaving")] {
            assert!(
                reply
                    .fails(409, INVALID, Some("model_conflict"), Some("model"))
                    .contains("is being unloaded")
            );
        }
        assert!(s.server.metric("trtc_num_requests_running{model=\"leaving\"}") > 0.0);
        s.server.get("/ready").ok();
        for stream in streams {
            // The first was read before.
            assert_eq!(stream.events().len(), 100, "tokens but the first, and the last chunk");
        }
        assert_eq!(unload.join().unwrap()["cut"], 0);
    });
    s.load("leaving", "a.engine").ok();
}

#[test]
fn what_takes_longer_than_the_drain_may_is_cut_and_told() {
    let s = shelf(Config { drain_timeout: Duration::from_millis(200), ..config() });
    s.load("cut", "a.engine").ok();
    s.server.control.pause(Duration::from_millis(30));
    let mut body = prompt("cut", 120);
    body["stream"] = true.into();
    // A batch, and as many that wait.
    let mut streams: Vec<_> = (0..2 * BATCH).map(|_| s.server.open("/v1/completions", &body)).collect();
    s.server.await_metric("trtc_num_requests_running{model=\"cut\"}", f64::from(BATCH));
    s.server.await_metric("trtc_num_requests_waiting{model=\"cut\"}", f64::from(BATCH));
    streams.iter_mut().take(2).for_each(|stream| drop(stream.event(&mut 0).unwrap()));
    let begin = Instant::now();
    assert_eq!(s.unload("cut").ok()["cut"], 2 * BATCH);
    assert!(begin.elapsed() < Duration::from_secs(3), "{:?}", begin.elapsed());
    assert_eq!(threads("cut"), 0);
    for stream in streams {
        let error = &stream.events().pop().unwrap()["error"];
        assert_eq!((&error["type"], &error["message"]), (&json!(SERVER), &json!("the model was unloaded")));
    }
    s.server.control.pause(Duration::ZERO);
    assert_eq!(answer(&s.server, "tiny").split(' ').count(), 8);
}

#[test]
fn loading_is_done_beside_serving_and_a_name_is_taken_meanwhile() {
    let s = shelf(config());
    s.hold.store(true, Ordering::Relaxed);
    std::thread::scope(|scope| {
        let first = scope.spawn(|| s.load("new", "a.engine"));
        s.await_open(1);
        for reply in [s.load("new", "a.engine"), s.unload("new")] {
            assert!(
                reply.fails(409, INVALID, Some("model_conflict"), Some("model")).contains("is being loaded")
            );
        }
        let early = s.server.post("/v1/completions", &prompt("new", 1));
        early.fails(404, INVALID, Some("model_not_found"), Some("model"));
        answer(&s.server, "tiny");
        s.server.get("/ready").ok();
        // Who asks and leaves has asked all the same.
        let other = json!({ "model": "other", "engine": "a.engine" }).to_string();
        let headers = [("authorization", "Bearer sk-root")];
        let mut gone = std::net::TcpStream::connect(s.server.address).unwrap();
        let bytes = super::client::request("POST", "/v1/models/load", &headers, &other);
        std::io::Write::write_all(&mut gone, &bytes).unwrap();
        let deadline = Instant::now() + Duration::from_secs(30);
        while !s.server.notes().iter().any(|n| n == "root loads other") {
            assert!(Instant::now() < deadline);
            std::thread::sleep(Duration::from_millis(1));
        }
        drop(gone);
        assert_eq!(s.wishes.lock().unwrap().len(), 1, "engines are opened one after the other");
        s.hold.store(false, Ordering::Relaxed);
        first.join().unwrap().ok();
        while s.names().len() < 3 {
            assert!(Instant::now() < deadline);
            std::thread::sleep(Duration::from_millis(1));
        }
    });
    assert_eq!(answer(&s.server, "other"), answer(&s.server, "new"));
}

#[test]
fn what_is_loaded_too_late_is_not_served() {
    let mut s = shelf(Config { drain_timeout: Duration::from_millis(50), ..config() });
    s.hold.store(true, Ordering::Relaxed);
    std::thread::scope(|scope| {
        let late = scope.spawn(|| s.load("late", "a.engine"));
        s.await_open(1);
        s.server.handle.drain();
        // Nobody listens any more once the time is over.
        while std::net::TcpStream::connect(s.server.address).is_ok() {
            std::thread::sleep(Duration::from_millis(5));
        }
        s.hold.store(false, Ordering::Relaxed);
        assert!(late.join().unwrap().fails(503, SERVER, None, None).contains("shutting down"));
    });
    s.server.ended().unwrap();
    assert_eq!((threads("late"), Arc::strong_count(&s.server.control)), (0, 2), "no device is left");
}

#[test]
fn what_cannot_be_loaded_is_told_and_leaves_nothing() {
    let s = shelf(config());
    let outside = s.dir.path().join("outside");
    for path in
        ["../outside", outside.to_str().unwrap(), "link.engine", "/etc/passwd", "", "a.engine/../a.engine"]
    {
        let message = s.load("x", path).fails(400, INVALID, None, Some("engine"));
        assert!(message.contains("--engine-dir"), "{message}");
    }
    s.load("x", "none.engine").fails(404, INVALID, Some("engine_not_found"), Some("engine"));
    s.load("x", ".").fails(404, INVALID, Some("engine_not_found"), Some("engine"));
    s.load("x", "text.engine").fails(400, INVALID, Some("engine_not_loaded"), Some("engine"));
    let message = s.load("x", "gpu.engine").fails(400, INVALID, Some("engine_not_loaded"), Some("engine"));
    assert_eq!(message, "the engine was built for sm_90: build another");
    let key = Some("sk-root");
    s.ask("load", key, "{").fails(400, INVALID, None, None);
    s.ask("load", key, r#"{"model":"x"}"#).fails(400, INVALID, None, Some("engine"));
    let body = r#"{"model":"x","engine":"a.engine","wait":true}"#;
    assert_eq!(s.ask("load", key, body).status, 400);
    assert_eq!((s.names(), Arc::strong_count(&s.server.control)), (vec!["tiny".to_owned()], 3));
    assert!(s.server.notes().iter().any(|n| n.starts_with("x was not loaded: ")));
    let body = r#"{"model":"x","engine":"./a.engine","kv_fraction":0.5}"#;
    s.ask("load", key, body).ok();
    assert_eq!(s.wishes.lock().unwrap().last().and_then(|w| w.kv_fraction), Some(0.5));
}

#[test]
fn only_who_has_an_admins_key_may() {
    let load = r#"{"model":"x","engine":"a.engine"}"#;
    // Without a library there is nothing to load, whatever the key.
    let server = start(config());
    for what in ["load", "unload"] {
        let reply = server.send("POST", &format!("/v1/models/{what}"), &[], load).whole();
        let message = reply.fails(403, ACCESS, Some("forbidden"), None);
        assert!(message.contains("--engine-dir") && message.contains("--admin-key-file"), "{message}");
    }
    // Everybody may ask, but not this. What is no JSON is not looked at.
    let s = shelf(config());
    for key in [None, Some("sk-wrong"), Some("")] {
        for what in ["load", "unload"] {
            s.ask(what, key, "{").fails(401, ACCESS, Some("invalid_api_key"), None);
        }
    }
    // Where there are keys, they are for requests; an admin's is for those too.
    let mut keys = Keys::none();
    keys.add("alice", "sk-1");
    let s = shelf(Config { keys, ..config() });
    s.ask("load", None, load).fails(401, ACCESS, Some("invalid_api_key"), None);
    s.ask("load", Some("sk-wrong"), load).fails(401, ACCESS, Some("invalid_api_key"), None);
    let message =
        s.ask("unload", Some("sk-1"), r#"{"model":"tiny"}"#).fails(403, ACCESS, Some("forbidden"), None);
    assert!(message.contains("--admin-key-file"), "{message}");
    let status = |key| s.server.send("GET", "/v1/models", &[("authorization", key)], "").whole().status;
    assert_eq!((status("Bearer sk-root"), status("Bearer sk-1"), status("Bearer sk-2")), (200, 200, 401));
    s.ask("load", Some("sk-root"), load).ok();
    let changes = || s.server.records().into_iter().filter(|r| r.path.ends_with("load")).collect::<Vec<_>>();
    // A line is written once its response is sent.
    let deadline = Instant::now() + Duration::from_secs(10);
    while changes().len() < 4 && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(1));
    }
    let all = changes();
    let lines: Vec<(u16, &str)> = all.iter().map(|r| (r.status, &*r.client)).collect();
    assert_eq!(lines, [(401, "127.0.0.1"), (401, "127.0.0.1"), (403, "alice"), (200, "root")]);
    assert_eq!(all[3].model.as_deref(), Some("x"));
    assert!(!format!("{all:?} {:?}", s.server.notes()).contains("sk-"));
}

#[test]
fn clients_of_one_model_notice_nothing_of_another_that_comes_and_goes() {
    let s = shelf(config());
    let want: Vec<String> = (0..8).map(|client| said(&s, client)).collect();
    let (done, answers) = (AtomicBool::new(false), Mutex::new(0));
    std::thread::scope(|scope| {
        for (client, want) in want.iter().enumerate() {
            let (s, done, answers) = (&s, &done, &answers);
            scope.spawn(move || {
                while !done.load(Ordering::Relaxed) {
                    assert_eq!(said(s, client), *want);
                    *answers.lock().unwrap() += 1;
                }
            });
        }
        for round in 0..12 {
            s.load("churn", "a.engine").ok();
            if round % 3 == 0 {
                answer(&s.server, "churn");
            }
            s.unload("churn").ok();
        }
        done.store(true, Ordering::Relaxed);
    });
    assert!(*answers.lock().unwrap() > 8);
    assert_eq!((threads("churn"), Arc::strong_count(&s.server.control)), (0, 3));
    s.server.is_empty();
}

/// What the model says to one of several clients, in a stream or whole.
fn said(s: &Shelf, client: usize) -> String {
    let mut body = prompt("tiny", 12);
    body["prompt"] = format!("w{} w{}", client + 1, 3 * client + 7).into();
    if client.is_multiple_of(2) {
        let reply = s.server.post("/v1/completions", &body).ok();
        return reply["choices"][0]["text"].as_str().unwrap().to_owned();
    }
    body["stream"] = true.into();
    let events = s.server.open("/v1/completions", &body).events();
    events.iter().filter_map(|e| e["choices"][0]["text"].as_str()).collect()
}
