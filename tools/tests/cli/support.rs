//! What the tests share: runs of the binary, and engines that are built once.

use serde_json::Value;
use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;
use trtc_engine::manifest::{Code, Manifest, PtxKernel};
use trtc_engine::{EngineError, EngineFile, EngineWriter};

/// What one run of the binary came to.
pub struct Ran {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl From<Output> for Ran {
    fn from(o: Output) -> Ran {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("output is UTF-8");
        Ran { code: o.status.code().unwrap_or(-1), out: text(o.stdout), err: text(o.stderr) }
    }
}

impl Ran {
    /// Holds the run to success, and gives what it printed.
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(self.code, 0, "{}{}", self.out, self.err);
        self.out
    }

    /// Holds the run to a failure: its code, nothing on stdout, and words of the message.
    #[track_caller]
    pub fn fails(self, code: i32, words: &[&str]) {
        assert_eq!(self.code, code, "{}{}", self.out, self.err);
        assert_eq!(self.out, "", "a failure prints no result");
        for word in words {
            assert!(self.err.contains(word), "no {word:?} in: {}", self.err);
        }
        let (user, other) = ("error: ", "unsupported: ");
        assert!(self.err.starts_with(user) || self.err.starts_with(other), "{}", self.err);
        assert!(!self.err.contains('\x1b'), "colours in a pipe: {}", self.err);
        assert!(!self.err.contains("panicked"), "{}", self.err);
    }
}

pub fn command(args: &[&str]) -> Command {
    let mut c = Command::new(env!("CARGO_BIN_EXE_trtc"));
    c.args(args).stdin(Stdio::null());
    c
}

pub fn trtc(args: &[&str]) -> Ran {
    command(args).output().expect("trtc starts").into()
}

/// With this on stdin.
pub fn trtc_with(input: &str, args: &[&str]) -> Ran {
    let mut child = command(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("trtc starts");
    child.stdin.take().expect("stdin is a pipe").write_all(input.as_bytes()).expect("trtc reads");
    child.wait_with_output().expect("trtc ends").into()
}

pub fn llama() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/tiny/llama")
}

/// A certificate or a key for tests.
pub fn golden_tls(name: &str) -> String {
    text(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/tls").join(name)).to_owned()
}

pub fn text(path: &Path) -> &str {
    path.to_str().expect("paths of this test are UTF-8")
}

/// A folder that lasts as long as the tests run.
pub fn folder(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("cli-{}", std::process::id())).join(name);
    std::fs::create_dir_all(&path).expect("a folder for the test");
    path
}

/// A copy of the checkpoint that may be changed.
pub fn checkpoint(name: &str) -> PathBuf {
    let to = folder(name);
    for file in ["config.json", "model.safetensors"] {
        // Written and not copied: the original may be read-only.
        std::fs::write(to.join(file), std::fs::read(llama().join(file)).expect("the checkpoint"))
            .expect("a copy");
    }
    to
}

/// An engine without a tokenizer, built once.
pub fn engine() -> &'static str {
    static ENGINE: OnceLock<String> = OnceLock::new();
    ENGINE.get_or_init(|| {
        let path = folder("engine").join("model.engine");
        let model = llama();
        let args = ["build", text(&model), "-o", text(&path), "--max-seq-len", "64", "--max-batch", "4"];
        trtc(&args).ok();
        text(&path).to_owned()
    })
}

/// An engine with a tokenizer of whole words and a chat template, built once.
pub fn talking() -> &'static str {
    static ENGINE: OnceLock<String> = OnceLock::new();
    ENGINE.get_or_init(|| {
        let dir = checkpoint("talking");
        let words = ["<unk>", "<s>", "</s>", "user", "assistant", "hello", "one", "two", "three"];
        let mut vocab: serde_json::Map<String, Value> =
            words.iter().zip(0..).map(|(w, i)| ((*w).to_owned(), Value::from(i))).collect();
        for i in words.len()..384 {
            vocab.insert(format!("w{i}"), i.into());
        }
        let tokenizer = serde_json::json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
            "pre_tokenizer": { "type": "WhitespaceSplit" }, "post_processor": null, "decoder": null,
            "model": { "type": "WordLevel", "vocab": vocab, "unk_token": "<unk>" },
        });
        let config = serde_json::json!({
            "bos_token": "<s>", "eos_token": "</s>",
            "chat_template": "{% for m in messages %}{{ m.role }} {{ m.content }} {% endfor %}assistant",
        });
        std::fs::write(dir.join("tokenizer.json"), tokenizer.to_string()).expect("a tokenizer");
        std::fs::write(dir.join("tokenizer_config.json"), config.to_string()).expect("its configuration");
        let path = dir.join("model.engine");
        trtc(&["build", text(&dir), "-o", text(&path), "--max-seq-len", "64"]).ok();
        text(&path).to_owned()
    })
}

pub fn json(line: &str) -> Value {
    serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))
}

/// Names of the files in a folder.
pub fn listing(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(dir)
        .expect("the folder is there")
        .map(|e| e.expect("an entry").file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// Writes an engine for a GPU again, with the text of each kernel as `change` makes it from the kernel's name, what the
/// manifest says of it, and the text.
pub fn rewrite(from: &Path, to: &Path, change: &dyn Fn(&str, &PtxKernel, String) -> String) {
    rewrite_with(from, to, &|_| (), change);
}

/// The same with another manifest, of the same tensors.
pub fn rewrite_with(
    from: &Path,
    to: &Path,
    edit: &dyn Fn(&mut Manifest),
    change: &dyn Fn(&str, &PtxKernel, String) -> String,
) {
    let file = EngineFile::open(from).expect("the engine");
    let mut manifest = file.manifest().clone();
    edit(&mut manifest);
    let mut modules: BTreeMap<&str, Vec<u8>> = BTreeMap::new();
    for kernel in &file.manifest().kernels {
        let Code::Ptx(code) = &kernel.code else { panic!("{} is no PTX", kernel.name) };
        let ptx = file.tensor(&code.module).expect("its text").to_vec();
        let ptx = change(&kernel.name, code, String::from_utf8(ptx).expect("PTX is text"));
        modules.entry(&code.module).or_insert(ptx.into_bytes());
    }
    let sizes: Vec<(&str, u64)> = modules.iter().map(|(n, ptx)| (*n, ptx.len() as u64)).collect();
    let mut writer = EngineWriter::create(to, &manifest, &sizes).expect("a writer");
    while let Some(name) = writer.next_tensor().map(|t| t.name.clone()) {
        let same = || file.tensor(&name).expect("the same tensor");
        let bytes = modules.get(name.as_str()).map_or_else(same, Vec::as_slice);
        let filled = writer.tensor(&name, |sink| {
            sink.write_all(bytes).map_err(|error| EngineError::Io { doing: "write", error })
        });
        filled.expect("it is written");
    }
    writer.finish().expect("a whole engine");
}
