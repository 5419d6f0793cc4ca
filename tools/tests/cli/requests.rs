//! Requests: what is refused, what is printed, what is honoured.

use super::support::*;
use serde_json::Value;

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
        assert!(answer["logprobs"].as_array().unwrap().iter().all(|x| x.as_f64().is_some_and(|x| x <= 0.0)));
        assert_eq!(answer["text"], "");
        assert_eq!(answer["finish_reason"], "length");
    }
    assert_eq!(run(&["4,5"])[0]["token_ids"], both[1]["token_ids"]);
}

#[test]
fn log_probabilities_are_listed_as_asked() {
    let args = ["run", engine(), "--prompt-ids", "1,2,3", "--max-tokens", "2", "--ignore-eos", "--json"];
    let more = ["--logprobs", "3", "--prompt-logprobs", "2"];
    let a = json(&trtc(&[&args[..], &more].concat()).ok());
    assert_eq!(a["prompt_logprobs"].as_array().map(Vec::len), Some(2));
    assert_eq!(a["prompt_top_logprobs"][0].as_array().map(Vec::len), Some(2));
    // Greedy: the chosen token is the best.
    assert_eq!(a["top_logprobs"][1][0][0], a["token_ids"][1]);
    assert_eq!(a["top_logprobs"][1][0][1], a["logprobs"][1]);
    let table = trtc(&["run", engine(), "--prompt-ids", "1,2", "--max-tokens", "2", "--logprobs", "1"]).ok();
    assert!(table.contains("logprob"), "{table}");
}

#[test]
fn seeds_make_answers_repeatable() {
    let run = |seed: &str| {
        let flags = ["--temperature", "1.5", "--max-tokens", "16", "--ignore-eos", "--json", "--seed", seed];
        let out = trtc(&[&["run", engine(), "--prompt-ids", "1", "-n", "2"], &flags[..]].concat()).ok();
        out.lines().map(|l| json(l)["token_ids"].clone()).collect::<Vec<_>>()
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
    let third = &plain["token_ids"][2];
    let first = plain["token_ids"].as_array().unwrap().iter().position(|t| t == third).unwrap();
    let stopped = run(&["--max-tokens", "6", "--ignore-eos", "--stop-id", &third.to_string()]);
    assert_eq!(stopped["finish_reason"], "stop");
    assert_eq!(stopped["token_ids"].as_array().map(Vec::len), Some(first));
    let forced = run(&["--max-tokens", "3", "--ignore-eos", "--logit-bias", "7=100"]);
    assert_eq!(forced["token_ids"], serde_json::json!([7, 7, 7]));
}

#[test]
fn text_comes_out_as_text() {
    let plain = trtc(&["run", talking(), "-p", "hello one two", "--max-tokens", "4", "--ignore-eos"]).ok();
    let flags = ["--max-tokens", "4", "--ignore-eos", "--json"];
    let object = json(&trtc(&[&["run", talking(), "-p", "hello one two"], &flags[..]].concat()).ok());
    assert_eq!(format!("{}\n", object["text"].as_str().unwrap()), plain);
    assert!(object["prompt_ids"].as_array().unwrap().ends_with(&[5.into(), 6.into(), 7.into()]), "{object}");
    let chat = json(&trtc(&[&["run", talking(), "--chat", "-p", "hello"], &flags[..]].concat()).ok());
    assert!(chat["prompt_ids"].as_array().unwrap().ends_with(&[3.into(), 5.into(), 4.into()]), "{chat}");
    let two = trtc(&["run", talking(), "-p", "one", "two", "--max-tokens", "2", "--ignore-eos"]).ok();
    assert!(two.contains("== prompt 1\n") && two.contains("== prompt 2\n"), "{two}");
}

#[test]
fn chat_answers_line_by_line() {
    let args = ["chat", talking(), "--temperature", "0", "--max-tokens", "3"];
    let out = trtc_with("hello\n/nonsense\n/reset\n\nhello\n/exit\nnever\n", &args).ok();
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines.len(), 3, "{out}");
    assert!(lines[1].contains("/nonsense"));
    assert_eq!(lines[0], lines[2], "after /reset the same words get the same answer");
    trtc_with("hi\n", &["chat", engine()]).fails(1, &["no chat template"]);
}

#[test]
fn the_cache_is_sized_one_way_only() {
    let run = |flags: &[&str]| {
        trtc(&[&["run", engine(), "--prompt-ids", "1", "--max-tokens", "1"], flags].concat())
    };
    run(&["--kv-memory", "1M"]).ok();
    run(&["--gpu-memory-fraction", "0.5"]).fails(1, &["--gpu-memory-fraction", "host", "--kv-memory"]);
    for flags in [
        &["--gpu-memory-fraction", "0.5", "--kv-memory", "1M"][..],
        &["--gpu-memory-fraction", "1.5"],
        &["--gpu-memory-fraction", "0"],
    ] {
        let ran = run(flags);
        assert_eq!(ran.code, 1, "{flags:?}: {}", ran.err);
        assert!(ran.err.contains("--gpu-memory-fraction") && ran.out.is_empty(), "{}", ran.err);
    }
    for command in ["chat", "eval", "bench"] {
        let args = if command == "bench" { vec!["bench", "latency"] } else { vec![command] };
        let ran = trtc(&[&args[..], &["--help"]].concat());
        assert!(ran.ok().contains("--gpu-memory-fraction <F>"), "{command}");
    }
}
