//! Tuning: what was measured is obeyed by a build, and refused where it does not fit.

use super::support::*;
use std::path::{Path, PathBuf};

fn model() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/tiny/llama")
}

const SMALL: [&str; 6] = ["--target", "sm_90", "--max-batch", "64", "--max-step-tokens", "64"];
/// A kernel that the tests tune.
const KERNEL: &str = "sm_90.linear.n512.k128.tokens.x-bf16.w-bf16.out-bf16.to64";

#[test]
fn the_fastest_way_is_measured_and_a_build_takes_it() {
    let (model, dir) = (model(), folder("tunings"));
    let (file, engine) = (dir.join("emulator.tuning"), dir.join("tuned.engine"));
    let flags = ["--kernel", KERNEL, "--candidates", "2", "--repeat", "1", "--device", "emulator"];
    let args = [&["tune", text(&model), "-o", text(&file)], &SMALL[..], &flags].concat();
    let said = trtc(&args).ok();
    assert!(said.contains(KERNEL) && said.contains("emulator.tuning: 1 kernels"), "{said}");
    let tuning = std::fs::read_to_string(&file).expect("a tuning");
    let line = tuning.lines().find(|l| l.starts_with(KERNEL)).expect("the kernel");
    let variant = line.split_whitespace().nth(1).expect("a variant");
    let build = ["build", text(&model), "-o", text(&engine), "--tuning", text(&file)];
    trtc(&[&build, &SMALL[..]].concat()).ok();
    let inspected = trtc(&["inspect", text(&engine)]).ok();
    assert!(inspected.contains(&format!("{KERNEL}.{variant} ")), "{inspected}");
}

#[test]
fn a_tuning_that_does_not_fit_is_refused() {
    let (model, dir) = (model(), folder("tunings"));
    let (file, engine) = (dir.join("by-hand.tuning"), dir.join("never.engine"));
    let build = |tuning: &str, flags: &[&str]| {
        std::fs::write(&file, tuning).expect("a tuning");
        let args = ["build", text(&model), "-o", text(&engine), "--tuning", text(&file)];
        trtc(&[&args, flags].concat())
    };
    build("# nothing\n", &SMALL).fails(1, &["names no kernel of this model"]);
    build(KERNEL, &SMALL).fails(1, &["by-hand.tuning:1", "has no variant"]);
    build(&format!("{KERNEL} 12by3"), &SMALL).fails(1, &["'12by3' is no variant"]);
    build(&format!("{KERNEL} 128x250"), &SMALL).fails(1, &["cannot be made as 128x250", "trtc tune"]);
    build(&format!("{KERNEL} stream"), &[]).fails(1, &["the target is host"]);
    assert!(!engine.exists());
    trtc(&["tune", text(&model), "-o", text(&file)]).fails(1, &["for host", "--target sm_90"]);
}
