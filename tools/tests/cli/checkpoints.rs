//! Models that cannot be built, and what they leave behind: nothing.

use super::support::*;
use std::path::Path;

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
    let config = config.replace("LlamaForCausalLM", "AlpacaForCausalLM").replace("\"llama\"", "\"alpaca\"");
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
    build(&["--attention-precision", "int8"]).fails(1, &["int8", "bf16, fp8"]);
    assert_eq!(build(&["--weights", "random"]).code, 1);
    let config = model.join("config.json");
    trtc(&["build", text(&config), "-o", text(&out)]).fails(1, &["dummy"]);
    assert!(!out.exists());
}
