//! Comparison with references, perplexity, speed.

use super::support::*;
use serde_json::Value;

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
    assert!(ran.err.contains("note: case 2: a log-probability of"), "{}", ran.err);
    let object = json(&ran.out);
    assert_eq!((&object["pass"], &object["cases"][1]["pass"]), (&false.into(), &false.into()));
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
    let latency =
        bench(&["latency", "--batch", "1,2", "--input-len", "8", "--output-len", "9", "--repeat", "1"]);
    assert_eq!(latency["rows"].as_array().map(Vec::len), Some(2));
    assert!(latency["rows"][1]["tokens_per_s"].as_f64().is_some_and(|x| x > 0.0));
    assert!(latency["read_bandwidth_gb_s"].as_f64().is_some_and(|x| x > 0.1));
    assert!(latency["weight_bytes_per_step"].as_u64().is_some_and(|x| x > 100_000));
    let prefill = bench(&["prefill", "--input-len", "8,32", "--repeat", "1"]);
    assert_eq!(prefill["rows"][1]["input_len"], 32.0);
    let throughput = bench(&["throughput", "--requests", "6", "--input-len", "8", "--output-len", "8"]);
    let row = &throughput["rows"][0];
    let (all, out) =
        (row["total_tokens_per_s"].as_f64().unwrap(), row["output_tokens_per_s"].as_f64().unwrap());
    assert!((all / out - 2.0).abs() < 1e-6);
    trtc(&["bench", "latency", engine(), "--batch", "64"]).fails(1, &["--batch 64", "--max-batch"]);
    trtc(&["bench", "prefill", engine(), "--input-len", "500"]).fails(1, &["500"]);
}

#[test]
fn dummy_weights_need_no_checkpoint() {
    let path = folder("dummy").join("dummy.engine");
    let config = llama().join("config.json");
    trtc(&["build", text(&config), "-o", text(&path), "--weights", "dummy:7", "--max-seq-len", "64"]).ok();
    let size = std::fs::metadata(&path).expect("an engine").len();
    let with_weights = std::fs::metadata(engine()).expect("an engine").len();
    assert!(size * 4 < with_weights, "{size} bytes beside {with_weights}");
    let run = || trtc(&["run", text(&path), "--prompt-ids", "1,2", "--max-tokens", "4", "--ignore-eos"]).ok();
    assert_eq!(run(), run());
}

#[test]
fn kernels_are_timed_one_by_one() {
    let bench = |flags: &[&str]| trtc(&[&["bench", "kernel", engine(), "--repeat", "1"], flags].concat());
    let all = bench(&["--tokens", "1,20"]).ok();
    for op in ["embedding", "rms_norm", "linear", "rope_kv_append", "attention", "gated_act", "gather_rows"] {
        assert!(all.contains(&format!("host.{op}")), "no {op} in {all}");
    }
    assert!(all.contains("read bandwidth of this run") && all.contains("requests of 64 tokens"), "{all}");
    let flags = ["--kernel", "attention", "--tokens", "2,33", "--context", "40", "--json"];
    let object = json(&bench(&flags).ok());
    let rows = object["rows"].as_array().expect("a list");
    assert_eq!((rows.len(), &object["context"]), (2, &40.into()));
    // Two requests see 40 tokens each; one prompt of 33 sees 40, after 7 that are there.
    assert_eq!((&rows[0]["requests"], &rows[1]["requests"]), (&2.into(), &1.into()));
    let operations = |i: usize| rows[i]["operations"].as_u64().expect("a number");
    let width = operations(0) / (2 * 40);
    assert_eq!(operations(1), width * (8..=40).sum::<u64>());
    for row in rows {
        let number = |name: &str| row[name].as_f64().expect("a number");
        assert!(number("us") > 0.0 && number("bytes") > 0.0 && number("of_limit") > 0.0, "{row}");
        let gb_s = number("bytes") / number("us") / 1e3;
        assert!((gb_s / number("gb_s") - 1.0).abs() < 1e-6, "{row}");
        assert_eq!(row["recorded"], true);
    }
    let default = json(&bench(&["--kernel", "gather", "--json"]).ok());
    assert_eq!(default["rows"][0]["tokens"], 1);
    let prompt = json(&bench(&["--kernel", "gather", "--tokens", "3", "--prompt", "--json"]).ok());
    assert_eq!(prompt["rows"][0]["requests"], 1);
    bench(&["--context", "65"]).fails(1, &["--context 65", "64", "--max-seq-len"]);
    bench(&["--kernel", "no-such"]).fails(1, &["no-such", "trtc inspect"]);
    bench(&["--kernel", "linear", "--tokens", "100000"]).fails(1, &["linear", "tokens"]);
    bench(&["--device", "cuda:0"]).fails(2, &["host"]);
    assert_eq!(bench(&["--tokens", "0"]).code, 1);
}
