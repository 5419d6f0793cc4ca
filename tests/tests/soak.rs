//! The soak app on the host device, with a small engine and few requests: it finds nothing, and refuses wrong arguments.

use std::path::Path;
use trtc_compiler::{BuildOptions, build};
use trtc_runtime::DeviceChoice;

#[path = "../../runtime/examples/soak.rs"]
#[allow(dead_code, reason = "an app's main")]
mod soak;

use soak::Options;

#[test]
fn random_requests_leave_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let engine = dir.path().join("x.engine");
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/tiny/llama");
    let options = BuildOptions {
        max_seq_len: Some(256),
        max_batch: Some(5),
        max_step_tokens: Some(64),
        ..BuildOptions::default()
    };
    build(&model, &engine, &options, &mut |_| ()).unwrap_or_else(|d| panic!("{d}"));
    for seed in [1, 2] {
        let options = Options { engine: engine.clone(), device: DeviceChoice::Auto, requests: 60, seed };
        soak::soak(&options).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
    }
}

#[test]
fn arguments_are_read_or_refused() {
    let parse = |args: &str| Options::parse(args.split_whitespace().map(str::to_owned));
    let given = parse("x.engine --device host --requests 9 --seed 3").unwrap();
    let want = Options { engine: "x.engine".into(), device: DeviceChoice::Host, requests: 9, seed: 3 };
    assert_eq!(given, want);
    for (args, word) in [
        ("", "an engine file is missing"),
        ("x --requests", "--requests has no value"),
        ("x --requests many", "no number"),
        ("x --device gpu", "there is no device"),
        ("x --speed 9", "there is no --speed"),
    ] {
        let error = parse(args).unwrap_err();
        assert!(error.message.contains(word), "{error}");
        assert!(error.help.is_some(), "{error}");
    }
}
