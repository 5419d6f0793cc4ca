//! Calibration: a plan is made, obeyed, and refused where it does not fit.

use super::support::*;
use std::path::PathBuf;

/// A checkpoint with a tokenizer, and a text in its words.
fn model_and_text() -> (PathBuf, PathBuf) {
    talking();
    let dir = folder("talking");
    let path = folder("calibration").join("text.txt");
    let words: Vec<String> = (9..400).map(|i| format!("w{}", i * 7 % 300 + 9)).collect();
    std::fs::write(&path, words.join(" ")).expect("a text");
    (dir, path)
}

#[test]
fn a_plan_is_made_and_obeyed() {
    let (model, words) = model_and_text();
    let dir = folder("plans");
    let out = dir.join("plan.json");
    let calibrate = |flags: &[&str]| {
        let args =
            ["calibrate", text(&model), "--text", text(&words), "-o", text(&out), "--max-tokens", "200"];
        trtc(&[&args[..], flags].concat())
    };
    let fp8 = ["--precision", "fp8", "--max-seq-len", "64"];
    let said = calibrate(&[&fp8[..], &["--loss", "0.0001%"]].concat()).ok();
    assert!(said.contains("products stay unquantised") && said.contains("nats a token: l"), "{said}");
    let plan = json(&std::fs::read_to_string(&out).expect("a plan"));
    let products = plan["products"].as_array().expect("a list");
    assert!(products.iter().all(|p| p["divergence"].as_f64().is_some_and(|d| d > 0.0)), "{plan}");
    let kept = products.iter().filter(|p| p["keep"] == true).count();
    assert!(kept * 2 > products.len(), "next to nothing may be lost, and {kept} are kept");
    let measured = &plan["measured"];
    let number = |name: &str| measured[name].as_f64().expect("a number");
    assert!(number("loss") + number("error") <= 1e-6 && number("tokens") > 40.0, "{measured}");
    assert!(number("held_out") > 2.0 * number("tokens") && number("tokens") + number("held_out") == 199.0);
    // What is kept is bf16 in the module that a build makes.
    let flags = ["--precision", "fp8", "--plan", text(&out), "--phase", "quantize"];
    let dumped = trtc(&[&["dump", text(&model)], &flags[..]].concat()).ok();
    for product in products {
        for linear in product["linears"].as_array().expect("a list") {
            let name = format!("@{} : ", linear["name"].as_str().expect("a name"));
            let line = dumped.lines().find(|l| l.contains(&name)).expect("the weight");
            assert_eq!(line.contains("!quant"), product["keep"] == false, "{line}");
        }
    }
    let engine = dir.join("x.engine");
    trtc(&["build", text(&model), "-o", text(&engine), "--precision", "fp8", "--plan", text(&out)]).ok();
    std::fs::remove_file(&engine).expect("an engine");
    // A bound that quantising everything keeps to: nothing stays, nothing is measured by itself.
    let said = calibrate(&[&fp8[..], &["--loss", "100%"]].concat()).ok();
    assert!(said.contains("0 of "), "{said}");
    let plan = json(&std::fs::read_to_string(&out).expect("a plan"));
    assert!(plan["products"].as_array().unwrap().iter().all(|p| p["divergence"].is_null()), "{plan}");
    calibrate(&["--precision", "bf16"]).fails(1, &["bf16 quantises no linear", "fp8"]);
    calibrate(&[&fp8[..], &["--plan", text(&out)]].concat()).fails(1, &["--plan"]);
    assert_eq!(calibrate(&[&fp8[..], &["--loss", "0.5"]].concat()).code, 1);
    assert_eq!(listing(&dir), ["plan.json"], "no engine is left behind");
}

#[test]
fn what_cannot_be_calibrated_or_obeyed_is_told() {
    let (model, words) = model_and_text();
    let dir = folder("no-plans");
    let out = dir.join("plan.json");
    let calibrate = |model: &str, words: &str| {
        trtc(&["calibrate", model, "--text", words, "-o", text(&out), "--precision", "fp8"])
    };
    calibrate("/no/such/model", text(&words)).fails(1, &["/no/such/model"]);
    calibrate(text(&model), "/no/such/text").fails(1, &["/no/such/text"]);
    let short = dir.join("short.txt");
    std::fs::write(&short, "one two three").expect("a text");
    calibrate(text(&model), text(&short)).fails(1, &["short.txt", "3 tokens", "at least 64"]);
    assert_eq!(calibrate(text(&llama()), text(&words)).code, 1, "without a tokenizer there is no text");
    std::fs::remove_file(&short).expect("a file");
    assert!(listing(&dir).is_empty(), "{:?}", listing(&dir));

    let plan = dir.join("bad.json");
    let build = |text_of_plan: &str| {
        std::fs::write(&plan, text_of_plan).expect("a plan");
        trtc(&["build", text(&model), "-o", "/dev/null/x", "--precision", "fp8", "--plan", text(&plan)])
    };
    build("{").fails(1, &["bad.json", "is not a plan", "trtc calibrate"]);
    build("{\"version\": 7}").fails(1, &["bad.json", "version 7", "version 1"]);
    let measured = "{\"tokens\":0,\"held_out\":0,\"bound\":0,\"loss_of_all\":0,\"loss\":0,\"error\":0}";
    let other = format!(
        "{{\"version\":1,\"arch\":\"llama\",\"precision\":\"fp8\",\"measured\":{measured},\"products\":[{{\"linears\":\
         [{{\"name\":\"l9.attn.q\",\"outputs\":1,\"inputs\":1}}],\"divergence\":null,\"keep\":true}}]}}"
    );
    build(&other).fails(1, &["l9.attn.q", "no such linear", "trtc calibrate"]);
    build(&other.replace("fp8", "int4")).fails(1, &["for precision int4"]);
    trtc(&["build", text(&model), "-o", "/dev/null/x", "--plan", "/no/such/plan"])
        .fails(1, &["/no/such/plan"]);
}
