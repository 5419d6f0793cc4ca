//! The command line as scripts see it: exit codes, messages, outputs, and what bad input does.
//!
//! Numbers are checked in `golden.rs`; here a small checkpoint with random weights stands for every model.
#![cfg(feature = "compiler")]

use serde_json::Value;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;
use trtc_engine::manifest::{Choice, Code, Count, Extent, Kernel, PtxKernel};
use trtc_engine::{EngineError, EngineFile, EngineWriter};

/// What one run of the binary came to.
struct Ran {
    code: i32,
    out: String,
    err: String,
}

impl From<Output> for Ran {
    fn from(o: Output) -> Ran {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("output is UTF-8");
        Ran {
            code: o.status.code().unwrap_or(-1),
            out: text(o.stdout),
            err: text(o.stderr),
        }
    }
}

impl Ran {
    /// Holds the run to success, and gives what it printed.
    #[track_caller]
    fn ok(self) -> String {
        assert_eq!(self.code, 0, "{}{}", self.out, self.err);
        self.out
    }

    /// Holds the run to a failure: its code, nothing on stdout, and words of the message.
    #[track_caller]
    fn fails(self, code: i32, words: &[&str]) {
        assert_eq!(self.code, code, "{}{}", self.out, self.err);
        assert_eq!(self.out, "", "a failure prints no result");
        for word in words {
            assert!(self.err.contains(word), "no {word:?} in: {}", self.err);
        }
        let (user, other) = ("error: ", "unsupported: ");
        assert!(
            self.err.starts_with(user) || self.err.starts_with(other),
            "{}",
            self.err
        );
        assert!(!self.err.contains('\x1b'), "colours in a pipe: {}", self.err);
        assert!(!self.err.contains("panicked"), "{}", self.err);
    }
}

fn command(args: &[&str]) -> Command {
    let mut c = Command::new(env!("CARGO_BIN_EXE_trtc"));
    c.args(args).stdin(Stdio::null());
    c
}

fn trtc(args: &[&str]) -> Ran {
    command(args).output().expect("trtc starts").into()
}

/// With this on stdin.
fn trtc_with(input: &str, args: &[&str]) -> Ran {
    let mut child = command(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("trtc starts");
    child
        .stdin
        .take()
        .expect("stdin is a pipe")
        .write_all(input.as_bytes())
        .expect("trtc reads");
    child.wait_with_output().expect("trtc ends").into()
}

fn llama() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/tiny/llama")
}

fn text(path: &Path) -> &str {
    path.to_str().expect("paths of this test are UTF-8")
}

/// A folder that lasts as long as the tests run.
fn folder(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR"))
        .join(format!("cli-{}", std::process::id()))
        .join(name);
    std::fs::create_dir_all(&path).expect("a folder for the test");
    path
}

/// A copy of the checkpoint that may be changed.
fn checkpoint(name: &str) -> PathBuf {
    let to = folder(name);
    for file in ["config.json", "model.safetensors"] {
        // Written and not copied: the original may be read-only.
        std::fs::write(
            to.join(file),
            std::fs::read(llama().join(file)).expect("the checkpoint"),
        )
        .expect("a copy");
    }
    to
}

/// An engine without a tokenizer, built once.
fn engine() -> &'static str {
    static ENGINE: OnceLock<String> = OnceLock::new();
    ENGINE.get_or_init(|| {
        let path = folder("engine").join("model.engine");
        let model = llama();
        let args = [
            "build",
            text(&model),
            "-o",
            text(&path),
            "--max-seq-len",
            "64",
            "--max-batch",
            "4",
        ];
        trtc(&args).ok();
        text(&path).to_owned()
    })
}

/// An engine with a tokenizer of whole words and a chat template, built once.
fn talking() -> &'static str {
    static ENGINE: OnceLock<String> = OnceLock::new();
    ENGINE.get_or_init(|| {
        let dir = checkpoint("talking");
        let words = [
            "<unk>",
            "<s>",
            "</s>",
            "user",
            "assistant",
            "hello",
            "one",
            "two",
            "three",
        ];
        let mut vocab: serde_json::Map<String, Value> = words
            .iter()
            .zip(0..)
            .map(|(w, i)| ((*w).to_owned(), Value::from(i)))
            .collect();
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

fn json(line: &str) -> Value {
    serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))
}

/// Names of the files in a folder.
fn listing(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(dir)
        .expect("the folder is there")
        .map(|e| e.expect("an entry").file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

// Usage.

#[test]
fn help_and_version_succeed_and_usage_errors_are_the_users() {
    assert!(trtc(&["--help"]).ok().contains("build"));
    assert!(trtc(&["--version"]).ok().starts_with("trtc "));
    for sub in [
        "build",
        "run",
        "chat",
        "eval",
        "bench",
        "inspect",
        "dump",
        "opt",
        "completions",
    ] {
        assert!(trtc(&[sub, "--help"]).ok().contains("Examples:"), "{sub}");
    }
    for args in [
        &["nonsense"][..],
        &["build"],
        &["run", "x", "--no-such-flag"],
        &["bench", "nothing", "x"],
        &[],
    ] {
        let ran = trtc(args);
        assert_eq!(ran.code, 1, "{args:?}: {}", ran.err);
        assert!(ran.err.contains("Usage:"), "{args:?}: {}", ran.err);
    }
}

#[test]
fn names_that_do_not_exist_are_answered_with_those_that_do() {
    let model = llama();
    let out = folder("names").join("x");
    for (flag, value, known) in [
        ("--target", "sm_1", "sm_90"),
        ("--precision", "int3", "int4"),
        ("--compile-to", "fusion", "fuse"),
    ] {
        let ran = trtc(&["build", text(&model), "-o", text(&out), flag, value]);
        assert_eq!(ran.code, 1, "{}", ran.err);
        assert!(ran.err.contains(known), "{}", ran.err);
    }
    trtc(&["opt", "x.mlir", "--pass", "no-such"]).fails(1, &["no-such", "canonicalize"]);
    trtc(&["inspect", engine(), "--kernel", "no-such"]).fails(1, &["no-such", "it has"]);
    trtc(&["run", engine(), "--prompt-ids", "1", "--device", "cuda:0"]).fails(2, &["host"]);
    assert!(listing(&folder("names")).is_empty());
}

#[test]
fn completions_are_scripts() {
    assert!(trtc(&["completions", "bash"]).ok().contains("_trtc"));
    assert!(trtc(&["completions", "fish"]).ok().contains("complete -c trtc"));
}

#[test]
fn a_closed_pipe_is_silent() {
    let mut child = command(&["dump", text(&llama()), "--phase", "import"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("trtc starts");
    drop(child.stdout.take());
    let ran: Ran = child.wait_with_output().expect("trtc ends").into();
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
}

#[test]
fn a_full_disk_under_stdout_is_told() {
    let full = std::fs::OpenOptions::new()
        .write(true)
        .open("/dev/full")
        .expect("/dev/full");
    let mut c = command(&["inspect", engine()]);
    let ran: Ran = c
        .stdout(full)
        .stderr(Stdio::piped())
        .output()
        .expect("trtc starts")
        .into();
    ran.fails(1, &["cannot write the output"]);
}

// Checkpoints.

#[test]
fn models_that_are_not_there_or_not_models() {
    let dir = folder("not-models");
    let out = dir.join("x.engine");
    let build = |model: &Path| trtc(&["build", text(model), "-o", text(&out)]);
    build(&dir.join("absent.gguf")).fails(1, &["absent.gguf"]);
    build(&dir).fails(1, &["not-models"]);
    let junk = dir.join("junk.gguf");
    std::fs::write(&junk, b"junk").expect("a file");
    build(&junk).fails(1, &["junk.gguf"]);
    std::fs::write(&junk, b"GGUF\x03\0\0\0").expect("a file");
    build(&junk).fails(1, &["junk.gguf"]);
    assert_eq!(listing(&dir), ["junk.gguf"]);
}

#[test]
fn a_cut_checkpoint_is_refused_and_leaves_nothing() {
    let dir = checkpoint("cut");
    let weights = dir.join("model.safetensors");
    let bytes = std::fs::read(&weights).expect("the weights");
    let out = dir.join("x.engine");
    for keep in [0, 7, 100, bytes.len() / 2, bytes.len() - 1] {
        std::fs::write(&weights, &bytes[..keep]).expect("a cut copy");
        trtc(&["build", text(&dir), "-o", text(&out)]).fails(1, &["model.safetensors", "help:"]);
    }
    assert_eq!(listing(&dir), ["config.json", "model.safetensors"]);
}

#[test]
fn an_unknown_architecture_is_unsupported() {
    let dir = checkpoint("unknown");
    let config = std::fs::read_to_string(dir.join("config.json")).expect("a config");
    let config = config
        .replace("LlamaForCausalLM", "AlpacaForCausalLM")
        .replace("\"llama\"", "\"alpaca\"");
    std::fs::write(dir.join("config.json"), config).expect("another config");
    let out = dir.join("x.engine");
    trtc(&["build", text(&dir), "-o", text(&out)]).fails(2, &["lpaca", "Llama"]);
    assert!(!out.exists());
}

#[test]
fn limits_and_seeds_are_checked() {
    let model = llama();
    let out = folder("limits").join("x.engine");
    let build = |flags: &[&str]| trtc(&[&["build", text(&model), "-o", text(&out)], flags].concat());
    build(&["--max-batch", "0"]).fails(1, &["--max-batch", "1 to"]);
    build(&["--max-seq-len", "1000000"]).fails(1, &["--max-seq-len"]);
    build(&["--max-batch", "64", "--max-step-tokens", "8"]).fails(1, &["--max-step-tokens"]);
    build(&["--recipe", "/no/such/recipe"]).fails(1, &["/no/such/recipe"]);
    build(&["--kv-precision", "fp12"]).fails(1, &["fp12", "bf16"]);
    assert_eq!(build(&["--weights", "random"]).code, 1);
    let config = model.join("config.json");
    trtc(&["build", text(&config), "-o", text(&out)]).fails(1, &["dummy"]);
    assert!(!out.exists());
}

// Building.

#[test]
fn building_twice_gives_the_same_bytes() {
    let dir = folder("twice");
    let built = ["a.engine", "b.engine"].map(|name| {
        let path = dir.join(name);
        trtc(&["build", text(&llama()), "-o", text(&path), "--precision", "int8"]).ok();
        std::fs::read(&path).expect("an engine")
    });
    assert!(built[0] == built[1]);
    assert_eq!(listing(&dir), ["a.engine", "b.engine"]);
}

#[test]
fn a_disk_that_fills_up_leaves_no_partial_engine() {
    let dir = folder("full");
    let out = dir.join("x.engine");
    // A limit on the size of files stands for the end of the disk: writing fails in the middle.
    let script = "trap '' XFSZ; ulimit -f 128; exec \"$0\" build \"$1\" -o \"$2\"";
    let ran: Ran = Command::new("sh")
        .args([
            "-c",
            script,
            env!("CARGO_BIN_EXE_trtc"),
            text(&llama()),
            text(&out),
        ])
        .output()
        .expect("sh starts")
        .into();
    ran.fails(1, &["write"]);
    assert!(listing(&dir).is_empty(), "{:?}", listing(&dir));
}

#[test]
fn an_output_that_cannot_be_made_is_told() {
    trtc(&["build", text(&llama()), "-o", "/no/such/folder/x.engine"]).fails(1, &["/no/such/folder"]);
}

#[test]
fn an_existing_engine_survives_a_failed_build() {
    let dir = checkpoint("survives");
    let out = dir.join("x.engine");
    std::fs::write(&out, b"precious").expect("a file");
    let weights = dir.join("model.safetensors");
    std::fs::write(&weights, b"cut").expect("cut weights");
    assert_eq!(trtc(&["build", text(&dir), "-o", text(&out)]).code, 1);
    assert_eq!(std::fs::read(&out).expect("the file"), b"precious");
}

#[test]
fn dumps_repeat_themselves() {
    let dir = folder("dumps");
    let (out, dump) = (dir.join("x.engine"), dir.join("dump"));
    let flags = ["--precision", "int8", "--max-seq-len", "64"];
    trtc(
        &[
            &[
                "build",
                text(&llama()),
                "-o",
                text(&out),
                "--dump-dir",
                text(&dump),
            ],
            &flags[..],
        ]
        .concat(),
    )
    .ok();
    let names = listing(&dump);
    for want in [
        "00-import.mlir",
        "01-canonicalize.mlir",
        "timings.json",
        "commands.sh",
    ] {
        assert!(names.iter().any(|n| n == want), "no {want} in {names:?}");
    }
    // Every line of the list of commands, run again, writes the file that it names.
    let commands = std::fs::read_to_string(dump.join("commands.sh")).expect("a list of commands");
    let mut repeated = 0;
    for line in commands.lines().filter(|l| l.starts_with("trtc opt ")) {
        let (line, file) = line.split_once(" > ").expect("a command writes a file");
        let args: Vec<&str> = line.split(' ').skip(1).collect();
        let ran: Ran = command(&args)
            .current_dir(&dump)
            .output()
            .expect("trtc starts")
            .into();
        let want = std::fs::read_to_string(dump.join(file)).expect("a module");
        assert_eq!(ran.ok(), want, "{line}");
        repeated += 1;
    }
    assert!(repeated > 5, "{commands}");
}

#[test]
fn phases_stop_where_they_are_told() {
    let dir = folder("phases");
    for phase in ["import", "quantize", "fuse", "select", "plan"] {
        let out = dir.join(phase);
        let flags = ["--precision", "int4", "--max-seq-len", "64"];
        trtc(
            &[
                &["build", text(&llama()), "-o", text(&out), "--compile-to", phase],
                &flags[..],
            ]
            .concat(),
        )
        .ok();
        let written = std::fs::read_to_string(&out).expect("a module");
        let dumped = trtc(&[&["dump", text(&llama()), "--phase", phase, "--locs"], &flags[..]].concat()).ok();
        assert_eq!(written, dumped, "{phase}");
        trtc(&["opt", text(&out)]).ok();
    }
    let graph = trtc(&["dump", text(&llama()), "--phase", "fuse", "--dot"]).ok();
    assert!(graph.starts_with("digraph"));
    let generic = trtc(&["dump", text(&llama()), "--phase", "fuse", "--generic"]).ok();
    assert!(generic.contains("\"llm."));
}

#[test]
fn a_module_with_a_mistake_is_answered_with_its_place() {
    let ran = trtc_with(
        "llm.module @m {\n  llm.func @f() {\n    %x = llm.nonsense\n  }\n}\n",
        &["opt", "-"],
    );
    ran.fails(1, &["stdin:3:"]);
    assert!(trtc(&["opt", "--list"]).ok().contains("canonicalize"));
}

// Engines.

#[test]
fn engines_that_are_cut_or_changed_are_refused() {
    let dir = folder("corrupt");
    let bytes = std::fs::read(engine()).expect("the engine");
    let path = dir.join("x.engine");
    let run = || trtc(&["run", text(&path), "--prompt-ids", "1"]);
    for keep in [0, 5, 200, bytes.len() / 2, bytes.len() - 1] {
        std::fs::write(&path, &bytes[..keep]).expect("a cut engine");
        run().fails(1, &["x.engine"]);
        trtc(&["inspect", text(&path)]).fails(1, &["x.engine"]);
    }
    let mut changed = bytes.clone();
    let middle = changed.len() / 2;
    changed[middle] ^= 1;
    std::fs::write(&path, &changed).expect("a changed engine");
    run().fails(1, &["damaged"]);
    trtc(&["inspect", text(&path), "--verify"]).fails(1, &["damaged"]);
    let weights = llama().join("model.safetensors");
    trtc(&["run", text(&weights), "--prompt-ids", "1"]).fails(1, &["not an engine", "trtc build"]);
    trtc(&["run", "/no/such.engine", "--prompt-ids", "1"]).fails(1, &["/no/such.engine"]);
    trtc(&["run", "/", "--prompt-ids", "1"]).fails(1, &["folder"]);
}

/// The engine of the tests, as if it had been built for another target.
fn engine_for_gpu(path: &Path) {
    let file = EngineFile::open(Path::new(engine())).expect("the engine");
    let mut m = file.manifest().clone();
    (m.target, m.capability) = ("sm_90".to_owned(), Some((9, 0)));
    let one = Extent {
        of: Count::One,
        div: 1,
        mul: 1,
    };
    let code = PtxKernel {
        module: "kernel/k.ptx".into(),
        entry: "k".into(),
        grid: [one; 3],
        block: [32, 1, 1],
        shared: 0,
    };
    m.kernels = vec![Kernel {
        name: "k".into(),
        code: Code::Ptx(code),
        contract: String::new(),
    }];
    for launch in &mut m.launches {
        launch.choices = vec![Choice {
            from: 1,
            to: m.dims.max_step_tokens,
            kernel: 0,
        }];
    }
    let ptx = b".version 8.0\n";
    let mut writer = EngineWriter::create(path, &m, &[("kernel/k.ptx", ptx.len() as u64)]).expect("a writer");
    while let Some(name) = writer.next_tensor().map(|t| t.name.clone()) {
        let bytes = if name == "kernel/k.ptx" {
            &ptx[..]
        } else {
            file.tensor(&name).expect("the same tensor")
        };
        let filled = writer.tensor(&name, |sink| {
            sink.write_all(bytes).map_err(|error| EngineError::Io {
                doing: "write",
                error,
            })
        });
        filled.expect("it is written");
    }
    writer.finish().expect("a whole engine");
}

#[test]
fn an_engine_for_a_gpu_says_what_it_needs() {
    let path = folder("gpu").join("gpu.engine");
    engine_for_gpu(&path);
    trtc(&["run", text(&path), "--prompt-ids", "1", "--device", "host"])
        .fails(2, &["sm_90", "compute capability 9.0", "help: ", "--target host"]);
    assert!(
        trtc(&["inspect", text(&path)])
            .ok()
            .contains("compute capability 9.0")
    );
    assert_eq!(
        trtc(&["inspect", text(&path), "--kernel", "k", "--ptx"]).ok(),
        ".version 8.0\n"
    );
}

#[test]
fn inspect_shows_an_engine() {
    let out = trtc(&["inspect", engine(), "--verify"]).ok();
    for want in ["llama", "bf16", "host", "sequence 64", "hash"] {
        assert!(out.contains(want), "no {want:?} in {out}");
    }
    let manifest = json(&trtc(&["inspect", engine(), "--json"]).ok());
    assert_eq!(manifest["dims"]["max_seq_len"], 64);
    let kernel = manifest["kernels"][0]["name"].as_str().expect("a name");
    assert!(
        trtc(&["inspect", engine(), "--kernel", kernel])
            .ok()
            .contains("launch ")
    );
    trtc(&["inspect", engine(), "--kernel", kernel, "--ptx"]).fails(1, &["no PTX"]);
    let page = folder("html").join("page.html");
    trtc(&["inspect", engine(), "--html", text(&page)]).ok();
    let page = std::fs::read_to_string(page).expect("a page");
    assert!(page.starts_with("<!doctype html>") && page.ends_with("</html>\n") && !page.contains("<script"));
}

// Requests.

#[test]
fn requests_that_cannot_be_answered() {
    let run = |flags: &[&str]| trtc(&[&["run", engine()], flags].concat());
    run(&["-p", "hello"]).fails(1, &["no tokenizer"]);
    run(&["--prompt-ids", "1,384"]).fails(1, &["384"]);
    assert_eq!(run(&["--prompt-ids", ""]).code, 1);
    assert_eq!(run(&["--prompt-ids", "1,x"]).code, 1);
    let long = vec!["1"; 65].join(",");
    run(&["--prompt-ids", &long]).fails(1, &["65", "--max-seq-len"]);
    run(&["--prompt-ids", "1", "--max-tokens", "0"]).fails(1, &["max_tokens"]);
    run(&["--prompt-ids", "1", "--min-tokens", "9", "--max-tokens", "3"]).fails(1, &["min_tokens"]);
    run(&["--prompt-ids", "1", "--top-p", "0.5"]).fails(1, &["--top-p", "--temperature"]);
    run(&["--prompt-ids", "1", "--temperature", "0", "--top-k", "5"]).fails(1, &["--top-k"]);
    run(&["--prompt-ids", "1", "--temperature", "101"]).fails(1, &["temperature"]);
    run(&["--prompt-ids", "1", "--temperature", "1", "--top-p", "0"]).fails(1, &["top_p"]);
    run(&["--prompt-ids", "1", "--logit-bias", "999=1"]).fails(1, &["999"]);
    run(&["--prompt-ids", "1", "--stop-id", "999"]).fails(1, &["999"]);
    run(&["--prompt-ids", "1", "--stop", "x"]).fails(1, &["tokenizer"]);
    run(&["--prompt-ids", "1", "--threads", "0"]).fails(1, &["threads"]);
    assert_eq!(run(&["--prompt-ids", "1", "-p", "x"]).code, 1);
    assert_eq!(run(&[]).code, 1);
    // One bad prompt of several: none is answered.
    run(&["--prompt-ids", "1", "2,999"]).fails(1, &["999"]);
    trtc(&["run", talking(), "-p", ""]).fails(1, &["empty"]);
}

#[test]
fn json_has_every_field_and_batches_change_nothing() {
    let flags = ["--max-tokens", "8", "--ignore-eos", "--json"];
    let run = |prompts: &[&str]| -> Vec<Value> {
        trtc(&[&["run", engine(), "--prompt-ids"], prompts, &flags[..]].concat())
            .ok()
            .lines()
            .map(json)
            .collect()
    };
    let both = run(&["1,2,3", "4,5"]);
    assert_eq!(both.len(), 2);
    assert_eq!(both[0]["prompt_ids"], serde_json::json!([1, 2, 3]));
    assert_eq!(both[1]["prompt_ids"], serde_json::json!([4, 5]));
    for answer in &both {
        assert_eq!(answer["token_ids"].as_array().map(Vec::len), Some(8));
        assert_eq!(answer["logprobs"].as_array().map(Vec::len), Some(8));
        assert!(
            answer["logprobs"]
                .as_array()
                .unwrap()
                .iter()
                .all(|x| x.as_f64().is_some_and(|x| x <= 0.0))
        );
        assert_eq!(answer["text"], "");
        assert_eq!(answer["finish_reason"], "length");
    }
    assert_eq!(run(&["4,5"])[0]["token_ids"], both[1]["token_ids"]);
}

#[test]
fn log_probabilities_are_listed_as_asked() {
    let args = [
        "run",
        engine(),
        "--prompt-ids",
        "1,2,3",
        "--max-tokens",
        "2",
        "--ignore-eos",
        "--json",
    ];
    let more = ["--logprobs", "3", "--prompt-logprobs", "2"];
    let a = json(&trtc(&[&args[..], &more].concat()).ok());
    assert_eq!(a["prompt_logprobs"].as_array().map(Vec::len), Some(2));
    assert_eq!(a["prompt_top_logprobs"][0].as_array().map(Vec::len), Some(2));
    // Greedy: the chosen token is the best.
    assert_eq!(a["top_logprobs"][1][0][0], a["token_ids"][1]);
    assert_eq!(a["top_logprobs"][1][0][1], a["logprobs"][1]);
    let table = trtc(&[
        "run",
        engine(),
        "--prompt-ids",
        "1,2",
        "--max-tokens",
        "2",
        "--logprobs",
        "1",
    ])
    .ok();
    assert!(table.contains("logprob"), "{table}");
}

#[test]
fn seeds_make_answers_repeatable() {
    let run = |seed: &str| {
        let flags = [
            "--temperature",
            "1.5",
            "--max-tokens",
            "16",
            "--ignore-eos",
            "--json",
            "--seed",
            seed,
        ];
        let out = trtc(&[&["run", engine(), "--prompt-ids", "1", "-n", "2"], &flags[..]].concat()).ok();
        out.lines()
            .map(|l| json(l)["token_ids"].clone())
            .collect::<Vec<_>>()
    };
    let first = run("5");
    assert_eq!(first, run("5"));
    assert_ne!(first[0], first[1], "answers of one prompt differ");
    assert_ne!(first, run("99"));
    assert_eq!(first[1], run("6")[0], "answer I uses the seed plus I");
}

#[test]
fn stop_tokens_and_biases_are_honoured() {
    let run = |flags: &[&str]| {
        json(&trtc(&[&["run", engine(), "--prompt-ids", "1", "--json"], flags].concat()).ok())
    };
    let plain = run(&["--max-tokens", "6", "--ignore-eos"]);
    let third = plain["token_ids"][2].to_string();
    let first = plain["token_ids"]
        .as_array()
        .unwrap()
        .iter()
        .position(|t| t.to_string() == third)
        .unwrap();
    let stopped = run(&["--max-tokens", "6", "--ignore-eos", "--stop-id", &third]);
    assert_eq!(stopped["finish_reason"], "stop");
    assert_eq!(stopped["token_ids"].as_array().map(Vec::len), Some(first));
    let forced = run(&["--max-tokens", "3", "--ignore-eos", "--logit-bias", "7=100"]);
    assert_eq!(forced["token_ids"], serde_json::json!([7, 7, 7]));
}

#[test]
fn text_comes_out_as_text() {
    let plain = trtc(&[
        "run",
        talking(),
        "-p",
        "hello one two",
        "--max-tokens",
        "4",
        "--ignore-eos",
    ])
    .ok();
    let flags = ["--max-tokens", "4", "--ignore-eos", "--json"];
    let object = json(&trtc(&[&["run", talking(), "-p", "hello one two"], &flags[..]].concat()).ok());
    assert_eq!(format!("{}\n", object["text"].as_str().unwrap()), plain);
    assert!(
        object["prompt_ids"]
            .as_array()
            .unwrap()
            .ends_with(&[5.into(), 6.into(), 7.into()]),
        "{object}"
    );
    let chat = json(&trtc(&[&["run", talking(), "--chat", "-p", "hello"], &flags[..]].concat()).ok());
    assert!(
        chat["prompt_ids"]
            .as_array()
            .unwrap()
            .ends_with(&[3.into(), 5.into(), 4.into()]),
        "{chat}"
    );
    let two = trtc(&[
        "run",
        talking(),
        "-p",
        "one",
        "two",
        "--max-tokens",
        "2",
        "--ignore-eos",
    ])
    .ok();
    assert!(
        two.contains("== prompt 1\n") && two.contains("== prompt 2\n"),
        "{two}"
    );
}

#[test]
fn chat_answers_line_by_line() {
    let args = ["chat", talking(), "--temperature", "0", "--max-tokens", "3"];
    let out = trtc_with("hello\n/nonsense\n/reset\n\nhello\n/exit\nnever\n", &args).ok();
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines.len(), 3, "{out}");
    assert!(lines[1].contains("/nonsense"));
    assert_eq!(
        lines[0], lines[2],
        "after /reset the same words get the same answer"
    );
    trtc_with("hi\n", &["chat", engine()]).fails(1, &["no chat template"]);
}

// Measurements.

#[test]
fn a_wrong_reference_is_noticed() {
    let dir = folder("golden");
    let golden = json(&std::fs::read_to_string(llama().join("golden.json")).expect("reference outputs"));
    let eval = |value: &Value| {
        let path = dir.join("golden.json");
        std::fs::write(&path, value.to_string()).expect("a file");
        trtc(&["eval", engine(), "--golden", text(&path), "--json"])
    };
    // The engine of these tests takes 64 tokens: every prompt and answer of the file fits.
    let object = json(&eval(&golden).ok());
    assert_eq!(object["pass"], true);
    let mut wrong = golden.clone();
    wrong["cases"][1]["greedy_logprobs"][3] = (-30.0).into();
    let ran = eval(&wrong);
    assert_eq!(ran.code, 1);
    assert!(
        ran.err.contains("note: case 2: a log-probability of"),
        "{}",
        ran.err
    );
    let object = json(&ran.out);
    assert_eq!(
        (&object["pass"], &object["cases"][1]["pass"]),
        (&false.into(), &false.into())
    );
    assert_eq!(object["cases"][0]["pass"], true);
    let mut wrong = golden.clone();
    let token = wrong["cases"][2]["greedy_ids"][0].as_u64().unwrap();
    wrong["cases"][2]["greedy_ids"][0] = ((token + 1) % 384).into();
    wrong["cases"][2]["top2_gap"][0] = 5.0.into();
    assert_eq!(eval(&wrong).code, 1);
    let mut short = golden;
    short["cases"][0]["top2_gap"] = serde_json::json!([]);
    eval(&short).fails(1, &["case 1", "length"]);
    eval(&serde_json::json!({})).fails(1, &["reference outputs"]);
}

#[test]
fn perplexity_of_a_text() {
    let dir = folder("text");
    let path = dir.join("text.txt");
    let words: Vec<String> = (9..200).map(|i| format!("w{}", i * 7 % 300 + 9)).collect();
    std::fs::write(&path, words.join(" ")).expect("a text");
    let eval =
        |flags: &[&str]| trtc(&[&["eval", talking(), "--text", text(&path), "--json"], flags].concat());
    let whole = json(&eval(&[]).ok());
    let perplexity = whole["perplexity"].as_f64().expect("a number");
    // Random weights: about as good as guessing among 384.
    assert!((100.0..4000.0).contains(&perplexity), "{whole}");
    assert!((whole["nll"].as_f64().unwrap().exp() / perplexity - 1.0).abs() < 1e-6);
    assert_eq!(whole["text_tokens"], 191);
    let some = json(&eval(&["--max-tokens", "50", "--window", "20", "--stride", "10"]).ok());
    assert_eq!(some["text_tokens"], 50);
    eval(&["--window", "100"]).fails(1, &["--window"]);
    eval(&["--window", "10", "--stride", "11"]).fails(1, &["--stride"]);
    std::fs::write(&path, "one").expect("a text");
    eval(&[]).fails(1, &["at least two"]);
    std::fs::write(&path, [0xff, 0xfe]).expect("no text");
    eval(&[]).fails(1, &["text.txt"]);
}

#[test]
fn benches_print_what_they_measured() {
    let bench =
        |args: &[&str]| json(&trtc(&[&["bench", args[0], engine(), "--json"], &args[1..]].concat()).ok());
    let latency = bench(&[
        "latency",
        "--batch",
        "1,2",
        "--input-len",
        "8",
        "--output-len",
        "9",
        "--repeat",
        "1",
    ]);
    assert_eq!(latency["rows"].as_array().map(Vec::len), Some(2));
    assert!(
        latency["rows"][1]["tokens_per_s"]
            .as_f64()
            .is_some_and(|x| x > 0.0)
    );
    assert!(latency["read_bandwidth_gb_s"].as_f64().is_some_and(|x| x > 0.1));
    assert!(
        latency["weight_bytes_per_step"]
            .as_u64()
            .is_some_and(|x| x > 100_000)
    );
    let prefill = bench(&["prefill", "--input-len", "8,32", "--repeat", "1"]);
    assert_eq!(prefill["rows"][1]["input_len"], 32.0);
    let throughput = bench(&[
        "throughput",
        "--requests",
        "6",
        "--input-len",
        "8",
        "--output-len",
        "8",
    ]);
    let row = &throughput["rows"][0];
    let (all, out) = (
        row["total_tokens_per_s"].as_f64().unwrap(),
        row["output_tokens_per_s"].as_f64().unwrap(),
    );
    assert!((all / out - 2.0).abs() < 1e-6);
    trtc(&["bench", "latency", engine(), "--batch", "64"]).fails(1, &["--batch 64", "--max-batch"]);
    trtc(&["bench", "prefill", engine(), "--input-len", "500"]).fails(1, &["500"]);
}

#[test]
fn dummy_weights_need_no_checkpoint() {
    let path = folder("dummy").join("dummy.engine");
    let config = llama().join("config.json");
    trtc(&[
        "build",
        text(&config),
        "-o",
        text(&path),
        "--weights",
        "dummy:7",
        "--max-seq-len",
        "64",
    ])
    .ok();
    let size = std::fs::metadata(&path).expect("an engine").len();
    let with_weights = std::fs::metadata(engine()).expect("an engine").len();
    assert!(size * 4 < with_weights, "{size} bytes beside {with_weights}");
    let run = || {
        trtc(&[
            "run",
            text(&path),
            "--prompt-ids",
            "1,2",
            "--max-tokens",
            "4",
            "--ignore-eos",
        ])
        .ok()
    };
    assert_eq!(run(), run());
}
