//! Engines whose attention rounds its queries (`--attention-precision fp8`): that every kernel does, and that a check finds one that
//! does not. And exact attention over an e4m3 cache, in which scales are of two kinds.

use super::support::*;
use std::path::{Path, PathBuf};
use trtc_engine::EngineFile;
use trtc_engine::manifest::{Code, Dtype, HostKernel, Manifest};

/// A model with long contexts and heads of 128 elements: one layer with a window, one without.
fn model(name: &str) -> PathBuf {
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/tiny/qwen3/config.json");
    let mut config = json(&std::fs::read_to_string(model).expect("the model's config"));
    config["max_position_embeddings"] = 1024.into();
    config["head_dim"] = 128.into();
    config["sliding_window"] = 100.into();
    config["num_hidden_layers"] = 2.into();
    config["layer_types"] = ["sliding_attention", "full_attention"].as_slice().into();
    let to = folder(name).join("config.json");
    std::fs::write(&to, config.to_string()).expect("a config");
    to
}

/// The lines of a check of attention kernels that round their queries.
fn checked(ran: &Ran) -> Vec<String> {
    ran.out.lines().filter(|l| l.contains(".products-f8E4M3FN.")).map(str::to_owned).collect()
}

#[test]
fn kernels_round_their_queries_and_a_check_finds_those_that_do_not_do_what_is_said() {
    let model = model("queries");
    // For prompts and for single tokens; and for those with their rotation, where keys are not rounded to e4m3 besides, for which much
    // is allowed. Each with a window and without.
    let cases = [
        ("fp8", "sm_90.attention.", [".prefill ", ".decode "]),
        ("bf16", "rope_kv_append.", [".decode "; 2]),
    ];
    for (kv, kernel, kinds) in cases {
        let engine = model.with_file_name("rounded.engine");
        let how = [
            "--target",
            "sm_90",
            "--weights",
            "dummy:1",
            "--attention-precision",
            "fp8",
            "--kv-precision",
            kv,
        ];
        let limits = ["--max-batch", "4", "--max-step-tokens", "256"];
        trtc(&[&["build", text(&model), "-o", text(&engine)][..], &how, &limits].concat()).ok();
        let check = |engine: &Path, tokens: &str| {
            let of = ["--kernel", kernel, "--tokens", tokens, "--device", "emulator"];
            trtc(&[&["check", text(engine)][..], &of].concat())
        };
        let right = check(&engine, "3,200");
        for kind in kinds {
            assert!(
                checked(&right).iter().filter(|l| l.contains(kind)).count() >= 2,
                "{kind}: {}",
                right.err
            );
        }
        right.ok();
        // The same kernels against contracts that round nothing.
        let wrong = engine.with_file_name("wrong.engine");
        let unrounded = |m: &mut Manifest| {
            m.kernels.iter_mut().for_each(|k| k.contract = k.contract.replace(", products = f8E4M3FN", ""));
        };
        rewrite_with(&engine, &wrong, &unrounded, &|_, _, ptx| ptx);
        let ran = check(&wrong, "3");
        assert_eq!(ran.code, 3, "{}", ran.out);
        let found = checked(&ran);
        assert!(found.len() >= 2 && found.iter().all(|line| line.contains("WRONG")), "{}", ran.out);
        // Kernels that round nothing against contracts that do, where no rounding of weights may hide it.
        if kv == "fp8" {
            let plain = engine.with_file_name("plain.engine");
            let how = ["--target", "sm_90", "--weights", "dummy:1", "--kv-precision", kv];
            trtc(&[&["build", text(&model), "-o", text(&plain)][..], &how, &limits].concat()).ok();
            let rounding = |m: &mut Manifest| {
                m.kernels.iter_mut().filter(|k| k.name.starts_with(kernel)).for_each(|k| {
                    let (scale, products) = ("{scale = ", "{products = f8E4M3FN, scale = ");
                    k.contract = k.contract.replace(scale, products);
                });
            };
            rewrite_with(&plain, &wrong, &rounding, &|_, _, ptx| ptx);
            let ran = check(&wrong, "3");
            assert_eq!(ran.code, 3, "{}", ran.out);
            let found: Vec<_> = ran.out.lines().filter(|l| l.starts_with(kernel)).collect();
            assert!(found.len() >= 4 && found.iter().all(|line| line.contains("WRONG")), "{}", ran.out);
        }
    }
}

/// Codes are multiplied by one factor where all scales are normal numbers of f16, as those of a check are, and otherwise by two.
#[test]
fn codes_of_a_cache_are_right_in_one_factor_and_in_two() {
    let model = model("factors");
    let [engine, two, wrong] =
        ["one.engine", "two.engine", "wrong.engine"].map(|name| model.with_file_name(name));
    let how = ["--target", "sm_90", "--weights", "dummy:1", "--kv-precision", "fp8"];
    let limits = ["--max-batch", "4", "--max-step-tokens", "256"];
    trtc(&[&["build", text(&model), "-o", text(&engine)][..], &how, &limits].concat()).ok();
    let check = |engine: &Path| {
        let of = ["--kernel", ".prefill", "--tokens", "200", "--device", "emulator"];
        trtc(&[&["check", text(engine)][..], &of].concat())
    };
    check(&engine).ok();
    // The least scale that one factor serves, 2^-14, becomes infinite: of keys and of values.
    let (least, none) = ("0f38800000", "0f7F800000");
    let replaced = std::cell::Cell::new(0);
    rewrite(&engine, &two, &|_, _, ptx| {
        replaced.set(replaced.get() + ptx.matches(least).count());
        ptx.replace(least, none)
    });
    assert!(replaced.get() >= 2, "{} thresholds", replaced.get());
    check(&two).ok();
    // `m` in place of `2^e`: 12850 and 4112 choose the upper and the lower half of a word.
    rewrite(&two, &wrong, &|_, _, ptx| ptx.replace(", 12850;", ", 4112;"));
    assert_eq!(check(&wrong).code, 3);
    rewrite(&engine, &wrong, &|_, _, ptx| ptx.replace(", 12850;", ", 4112;"));
    check(&wrong).ok();
}

#[test]
fn the_host_rounds_its_queries_too() {
    let engine = folder("host-queries").join("model.engine");
    let how = ["--kv-precision", "fp8", "--attention-precision", "fp8", "--max-step-tokens", "64"];
    trtc(&[&["build", text(&llama()), "-o", text(&engine)][..], &how].concat()).ok();
    let file = EngineFile::open(&engine).expect("the engine");
    let kernels = file.manifest().kernels.iter();
    let rounding = kernels.filter(|k| {
        matches!(k.code, Code::Host(HostKernel::Attention { products: Some(Dtype::F8E4M3), .. }))
    });
    assert_eq!(rounding.count(), 1);
    trtc(&["check", text(&engine), "--kernel", "attention", "--tokens", "1,40"]).ok();
    let shown = trtc(&["inspect", text(&engine)]).ok();
    assert!(shown.contains("--attention-precision fp8") && shown.contains(".products-f8E4M3FN."), "{shown}");
}
