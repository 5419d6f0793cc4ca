//! The emulator as the command line offers it: engines for a GPU run, launches are written and executed alone.

use super::support::*;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// An engine for a GPU, built once.
fn gpu() -> &'static str {
    static ENGINE: OnceLock<String> = OnceLock::new();
    ENGINE.get_or_init(|| {
        let path = folder("emulator").join("gpu.engine");
        let model = llama();
        let limits = ["--max-seq-len", "64", "--max-batch", "4", "--max-step-tokens", "64"];
        let args = ["build", text(&model), "-o", text(&path), "--target", "sm_80", "--precision", "bf16"];
        trtc(&[&args[..], &limits].concat()).ok();
        text(&path).to_owned()
    })
}

/// The same engine, but its gathering of rows stores a word far before its first argument.
fn wrong(path: &Path) {
    rewrite(Path::new(gpu()), path, &|kernel, code, ptx| {
        if !kernel.contains("gather_rows") {
            return ptx;
        }
        // Everything before the body, then another one.
        let head = ptx.split('{').next().expect("a head");
        let body = "{\n.reg .b64 %a;\n.reg .b32 %x;\nmov.u32 %x, 1;\nld.param.u64 %a, [PARAM];\n\
                    add.s64 %a, %a, -2048;\nst.global.u32 [%a], %x;\nret;\n}\n";
        format!("{head}{}", body.replace("PARAM", &format!("{}_param_0", code.entry)))
    });
}

#[test]
fn an_engine_for_a_gpu_runs_on_the_emulator() {
    let ids = ["--prompt-ids", "1,2,3", "--max-tokens", "3", "--ignore-eos"];
    let run = [&["run", gpu(), "--device", "emulator", "--threads", "2"][..], &ids].concat();
    let out = trtc(&run).ok();
    assert_eq!(out.trim().split(',').count(), 3, "{out}");
    trtc(&[&["run", engine(), "--device", "emulator"][..], &ids].concat())
        .fails(2, &["the engine was built for host", "--device host"]);
    let json = trtc(&["check", gpu(), "--device", "emulator", "--threads", "2", "--tokens", "1,5", "--json"]);
    let all = json_of(&json.ok());
    assert_eq!(all["device"], "emulator (sm_80, 2 threads)");
    let checks = all["checks"].as_array().expect("a list");
    assert!(checks.len() > 10 && checks.iter().all(|c| c["ok"] == true), "{all}");
}

fn json_of(text: &str) -> serde_json::Value {
    json(text.trim())
}

/// Launches of one kernel, written once.
fn launches() -> &'static Vec<PathBuf> {
    static FILES: OnceLock<Vec<PathBuf>> = OnceLock::new();
    FILES.get_or_init(|| {
        let dir = folder("emulator").join("launches");
        let check =
            ["check", gpu(), "--device", "emulator", "--kernel", "gather_rows.w128", "--tokens", "3,5"];
        trtc(&[&check[..], &["--dump", text(&dir), "--dump-all"]].concat()).ok();
        listing(&dir).into_iter().map(|name| dir.join(name)).collect()
    })
}

#[test]
fn launches_are_written_and_executed_alone() {
    let files = launches();
    assert!(files.len() == 2 && text(&files[1]).contains("00001-sm_80.gather_rows"), "{files:?}");
    let file = text(&files[1]);
    let out = trtc(&["emulate", file]).ok();
    for word in ["kernel sm_80.gather_rows", "grid [", "instructions", "million a second"] {
        assert!(out.contains(word), "no {word:?} in {out}");
    }
    let one = json_of(&trtc(&["emulate", file, "--json", "--threads", "1"]).ok());
    assert!(one["thread_instructions"].as_u64().is_some_and(|n| n > 0), "{one}");
    let all = trtc(&["emulate", file, "--trace"]).ok();
    assert!(all.lines().any(|l| l.starts_with("(0, 0, 0) warp  0") && l.contains("ld.param")), "{all}");
    let steps = |text: &str| text.lines().filter(|l| l.starts_with('(')).count() as u64;
    assert_eq!(Some(steps(&all)), one["warp_instructions"].as_u64());
    let warp = trtc(&["emulate", file, "--trace", "0:0", "--lane", "31"]).ok();
    assert!(steps(&warp) > 0 && steps(&warp) < steps(&all));
    trtc(&["emulate", file, "--trace", "9999"]).fails(1, &["there is no block"]);
    assert_eq!(trtc(&["emulate", file, "--trace", "x"]).code, 1);
    assert_eq!(trtc(&["emulate", file, "--lane", "3"]).code, 1);
}

#[test]
fn files_that_are_no_launches_are_the_users_fault() {
    let bytes = std::fs::read(&launches()[0]).expect("a launch");
    let path = folder("emulator").join("cut.launch");
    for keep in [0, 4, 13, 100, bytes.len() - 1] {
        std::fs::write(&path, &bytes[..keep]).expect("a cut file");
        trtc(&["emulate", text(&path)]).fails(1, &["not a launch of the emulator"]);
    }
    trtc(&["emulate", gpu()]).fails(1, &["not a launch of the emulator", "--dump DIR"]);
    trtc(&["emulate", "/no/such.launch"]).fails(1, &["/no/such.launch"]);
    trtc(&["check", gpu(), "--dump", text(&path)]).fails(1, &["--dump", "--device emulator"]);
    assert_eq!(trtc(&["check", gpu(), "--device", "emulator", "--dump-all"]).code, 1);
}

#[test]
fn a_launch_that_faults_is_written_and_faults_again() {
    let (path, dir) = (folder("emulator").join("wrong.engine"), folder("emulator").join("faults"));
    wrong(&path);
    let check =
        ["check", text(&path), "--device", "emulator", "--kernel", "gather_rows", "--dump", text(&dir)];
    let ran = trtc(&check);
    assert_eq!(ran.code, 3, "{}{}", ran.out, ran.err);
    let names = listing(&dir);
    assert!(names.len() == 1 && names[0].starts_with("00000-sm_80.gather_rows"), "{names:?}");
    let file = dir.join(&names[0]);
    for word in ["internal error: kernel sm_80.gather_rows", "st.global.u32 [%a], %x", text(&file)] {
        assert!(ran.err.contains(word), "no {word:?} in {}", ran.err);
    }
    let again = trtc(&["emulate", text(&file)]);
    assert_eq!((again.code, again.out.as_str()), (3, ""), "{}", again.err);
    assert!(again.err.contains("st.global.u32 [%a], %x"), "{}", again.err);
    let traced = trtc(&["emulate", text(&file), "--trace"]);
    assert!(traced.code == 3 && traced.out.contains("add.s64"), "{}{}", traced.out, traced.err);
}
