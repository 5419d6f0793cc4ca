//! Usage errors, names that do not exist, pipes that close.

use super::support::*;
use std::process::Stdio;

#[test]
fn help_and_version_succeed_and_usage_errors_are_the_users() {
    assert!(trtc(&["--help"]).ok().contains("build"));
    assert!(trtc(&["--version"]).ok().starts_with("trtc "));
    for sub in [
        "build",
        "run",
        "chat",
        "serve",
        "eval",
        "bench",
        "check",
        "emulate",
        "inspect",
        "dump",
        "opt",
        "completions",
    ] {
        assert!(trtc(&[sub, "--help"]).ok().contains("Examples:"), "{sub}");
    }
    for args in
        [&["nonsense"][..], &["build"], &["run", "x", "--no-such-flag"], &["bench", "nothing", "x"], &[]]
    {
        let ran = trtc(args);
        assert_eq!(ran.code, 1, "{args:?}: {}", ran.err);
        assert!(ran.err.contains("Usage:"), "{args:?}: {}", ran.err);
    }
}

#[test]
fn names_that_do_not_exist_are_answered_with_those_that_do() {
    let model = llama();
    let out = folder("names").join("x");
    for (flag, value, known) in
        [("--target", "sm_1", "sm_90"), ("--precision", "int3", "int4"), ("--compile-to", "fusion", "fuse")]
    {
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
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").expect("/dev/full");
    let mut c = command(&["inspect", engine()]);
    let ran: Ran = c.stdout(full).stderr(Stdio::piped()).output().expect("trtc starts").into();
    ran.fails(1, &["cannot write the output"]);
}
