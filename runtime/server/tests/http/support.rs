//! A small engine with words for tokens, built once, and a server before it.

use super::client::{self, Open, Reply};
use super::device::{Control, Controlled};
use super::vocabulary;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use trtc_compiler::{BuildOptions, build};
use trtc_engine::EngineFile;
use trtc_runtime::{Engine, Error, LoadOptions};
use trtc_server::{Bounds, Config, Ended, Entry, Handle, Library, Listener, Record, ServerError};

/// Longest sequence of the engine.
pub const LONGEST: usize = 128;
/// Answers that the engine computes at once.
pub const BATCH: u32 = 4;

/// What an engine's tokens are.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Speaks {
    /// Words, and there is a template for chats.
    Words,
    /// Words, without a template.
    Alone,
    /// Bytes, and the template knows tools.
    Bytes,
}

const TOOL_TEMPLATE: &str = "{% if tools %}{% for t in tools %}{{ t.function.name | tojson }}{% endfor %} as <tool_call>{{ '\n' }}\
    {% endif %}{% for m in messages %}{{ m.role }}: {{ m.content }}\
    {% for c in m.tool_calls %}{{ c.function.name }}({{ c.function.arguments.x }}){% endfor %}\
    {% if m.tool_call_id %} [{{ m.tool_call_id }}]{% endif %}{{ '\n' }}{% endfor %}";

pub fn engine_path(speaks: Speaks) -> &'static Path {
    static PATHS: [OnceLock<PathBuf>; 3] = [const { OnceLock::new() }; 3];
    PATHS[speaks as usize].get_or_init(|| {
        let name = format!("server-{}-{speaks:?}", std::process::id());
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        std::fs::create_dir_all(&dir).unwrap();
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/tiny/llama");
        for file in ["config.json", "model.safetensors"] {
            std::fs::write(dir.join(file), std::fs::read(golden.join(file)).unwrap()).unwrap();
        }
        let vocab: serde_json::Map<String, Value> =
            (0..384).map(|i| (if i == 0 { "<unk>".to_owned() } else { format!("w{i}") }, json!(i))).collect();
        let tokenizer = json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
            "pre_tokenizer": { "type": "WhitespaceSplit" }, "post_processor": null, "decoder": null,
            "model": { "type": "WordLevel", "vocab": vocab, "unk_token": "<unk>" },
        });
        let template = "{% for m in messages %}{% if m.role == 'tool' %}{{ raise_exception('no tools') }}{% endif %}\
                        {{ m.role }} {{ m.content }} {% endfor %}{% if add_generation_prompt %}w9{% endif %}";
        let tokenizer = if speaks == Speaks::Bytes { vocabulary::bytes() } else { tokenizer };
        std::fs::write(dir.join("tokenizer.json"), tokenizer.to_string()).unwrap();
        let config = match speaks {
            Speaks::Words => json!({ "chat_template": template }),
            Speaks::Alone => json!({}),
            Speaks::Bytes => json!({ "chat_template": TOOL_TEMPLATE }),
        };
        std::fs::write(dir.join("tokenizer_config.json"), config.to_string()).unwrap();
        let path = dir.join("model.engine");
        let options = BuildOptions {
            max_seq_len: Some(if speaks == Speaks::Bytes { 512 } else { LONGEST as u32 }),
            max_batch: Some(BATCH),
            ..BuildOptions::default()
        };
        build(&dir, &path, &options, &mut |_| ()).unwrap_or_else(|d| panic!("{d}"));
        path
    })
}

/// The engine, on a device that can be told what to do.
pub fn engine(control: &Arc<Control>) -> Engine {
    engine_of(engine_path(Speaks::Words), control)
}

fn engine_of(path: &Path, control: &Arc<Control>) -> Engine {
    try_engine_of(path, control).unwrap()
}

/// The same of a file that may be none.
pub fn try_engine_of(path: &Path, control: &Arc<Control>) -> Result<Engine, Error> {
    let options = LoadOptions { threads: Some(1), ..LoadOptions::default() };
    let file = EngineFile::open(path)?;
    let device = trtc_runtime::open_device(file.manifest(), &options)?;
    Engine::with_device(file, Box::new(Controlled(device, Arc::clone(control))), &options)
}

/// Limits for tests: any free port, nothing slow.
pub fn config() -> Config {
    Config {
        address: ([127, 0, 0, 1], 0).into(),
        queue: Bounds { answers: 256, tokens: 1 << 20, wait: None },
        drain_timeout: Duration::from_secs(20),
        ..Config::default()
    }
}

/// A running server.
pub struct Running {
    pub address: SocketAddr,
    pub handle: Handle,
    pub control: Arc<Control>,
    log: Arc<Mutex<Vec<Entry>>>,
    thread: Option<JoinHandle<Result<Ended, ServerError>>>,
}

pub fn start(config: Config) -> Running {
    start_named(config, &["tiny"])
}

/// With an engine under each name.
pub fn start_named(config: Config, names: &[&str]) -> Running {
    let control = Arc::new(Control::default());
    let engines = names.iter().map(|n| ((*n).to_owned(), engine(&control))).collect();
    start_engines(config, engines, None, control)
}

/// With another engine.
pub fn start_that(speaks: Speaks, config: Config) -> Running {
    let control = Arc::new(Control::default());
    let engine = engine_of(engine_path(speaks), &control);
    start_engines(config, vec![("tiny".to_owned(), engine)], None, control)
}

pub fn start_engines(
    config: Config,
    engines: Vec<(String, Engine)>,
    library: Option<Library>,
    control: Arc<Control>,
) -> Running {
    let log = Arc::new(Mutex::new(Vec::new()));
    let lines = Arc::clone(&log);
    let write = Arc::new(move |entry: &Entry| lines.lock().unwrap().push(entry.clone()));
    let server = Listener::bind(config).unwrap().serve(engines, library, write).unwrap();
    let (address, handle) = (server.address().unwrap(), server.handle());
    let thread = Some(std::thread::spawn(|| server.run()));
    Running { address, handle, control, log, thread }
}

impl Running {
    pub fn get(&self, path: &str) -> Reply {
        self.send("GET", path, &[], "").whole()
    }

    pub fn post(&self, path: &str, body: &Value) -> Reply {
        self.open(path, body).whole()
    }

    pub fn open(&self, path: &str, body: &Value) -> Open {
        self.send("POST", path, &[], &body.to_string())
    }

    pub fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Open {
        client::send_raw(self.address, &client::request(method, path, headers, body)).unwrap()
    }

    /// The value of a series.
    #[track_caller]
    pub fn metric(&self, series: &str) -> f64 {
        let text = self.get("/metrics").text;
        let line = text.lines().find(|l| l.rsplit_once(' ').is_some_and(|(name, _)| name == series));
        let line = line.unwrap_or_else(|| panic!("no {series} in {text}"));
        line.rsplit_once(' ').unwrap().1.parse().unwrap()
    }

    /// Waits until a series has a value.
    #[track_caller]
    pub fn await_metric(&self, series: &str, want: f64) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while self.metric(series) != want {
            assert!(Instant::now() < deadline, "{series} is {} and not {want}", self.metric(series));
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Lines of requests in the log.
    pub fn records(&self) -> Vec<Record> {
        let record = |e: &Entry| match e {
            Entry::Request(record) => Some(Record::clone(record)),
            Entry::Note { .. } => None,
        };
        self.log.lock().unwrap().iter().filter_map(record).collect()
    }

    /// Lines of other things.
    pub fn notes(&self) -> Vec<String> {
        let note = |e: &Entry| match e {
            Entry::Note { message, .. } => Some(message.clone()),
            Entry::Request(_) => None,
        };
        self.log.lock().unwrap().iter().filter_map(note).collect()
    }

    /// Nothing is left of any request.
    #[track_caller]
    pub fn is_empty(&self) {
        self.await_metric("trtc_num_requests_running{model=\"tiny\"}", 0.0);
        self.await_metric("trtc_num_requests_waiting{model=\"tiny\"}", 0.0);
        self.await_metric("trtc_kv_cache_usage_perc{model=\"tiny\"}", 0.0);
    }

    /// How the server came to its end, which it is about to.
    pub fn ended(&mut self) -> Result<Ended, ServerError> {
        self.thread.take().unwrap().join().unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.handle.drain();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
