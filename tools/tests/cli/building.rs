//! Building: reproducible, whole or not at all, stoppable after any phase.

use super::support::*;
use std::process::Command;

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
        .args(["-c", script, env!("CARGO_BIN_EXE_trtc"), text(&llama()), text(&out)])
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
    trtc(&[&["build", text(&llama()), "-o", text(&out), "--dump-dir", text(&dump)], &flags[..]].concat())
        .ok();
    let names = listing(&dump);
    for want in ["00-import.mlir", "01-canonicalize.mlir", "timings.json", "commands.sh"] {
        assert!(names.iter().any(|n| n == want), "no {want} in {names:?}");
    }
    // Every line of the list of commands, run again, writes the file that it names.
    let commands = std::fs::read_to_string(dump.join("commands.sh")).expect("a list of commands");
    let mut repeated = 0;
    for line in commands.lines().filter(|l| l.starts_with("trtc opt ")) {
        let (line, file) = line.split_once(" > ").expect("a command writes a file");
        let args: Vec<&str> = line.split(' ').skip(1).collect();
        let ran: Ran = command(&args).current_dir(&dump).output().expect("trtc starts").into();
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
        trtc(&[&["build", text(&llama()), "-o", text(&out), "--compile-to", phase], &flags[..]].concat())
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
    let ran = trtc_with("llm.module @m {\n  llm.func @f() {\n    %x = llm.nonsense\n  }\n}\n", &["opt", "-"]);
    ran.fails(1, &["stdin:3:"]);
    assert!(trtc(&["opt", "--list"]).ok().contains("canonicalize"));
}

#[test]
fn binaries_of_kernels_need_ptxas() {
    let dir = folder("cubin");
    let out = dir.join("x.engine");
    let flags =
        ["build", text(&llama()), "-o", text(&out), "--target", "sm_90", "--cubin"].map(str::to_owned);
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let ran: Ran =
        command(&flags).env("PATH", "/nowhere").env("HOME", "/nowhere").output().expect("trtc starts").into();
    ran.fails(1, &["--cubin needs ptxas", "PATH is /nowhere", "~/.cache/trtc/ptxas", "scripts/setup.sh"]);
    assert!(listing(&dir).is_empty(), "{:?}", listing(&dir));
}
