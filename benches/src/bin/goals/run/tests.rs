//! A whole run with a script in the place of trtc: what it is asked, and what is made of its answers.

use super::*;
use crate::build;
use std::os::unix::fs::PermissionsExt;

const TABLE: &str = r#"{
  "source": {"peer": "made up"}, "models": {"m": {"layers": 2}},
  "engines": [{"name": "one", "model": "m", "options": "--precision bf16 --max-batch 8"},
              {"name": "bad", "model": "m", "options": "--precision none"}],
  "jobs": [
    {"kind": "bench", "engine": "one", "run": "bench latency {engine} --batch {at} --json", "key": "batch", "series": [
      {"what": "decode, batch {at}", "at": [1, 8], "value": "step_ms", "unit": "ms", "less": true,
       "peer": {"vLLM": [2.0, 2.0]}, "goal": [1.5, null], "limit": {"of": "gb_s", "peak": "copy"}}]},
    {"kind": "bench", "engine": "one", "run": "bench broken {engine} --json", "series": [
      {"what": "broken", "at": [0], "value": "x", "unit": "ms", "less": true, "goal": [1]}]},
    {"kind": "bench", "engine": "bad", "run": "bench latency {engine} --json", "series": [
      {"what": "unbuilt", "at": [0], "value": "x", "unit": "ms", "less": true, "goal": [1]}]},
    {"kind": "build", "series": [
      {"what": "build", "at": [0], "where": {"engine": "one"}, "value": "seconds", "unit": "s", "less": true, "goal": [60]},
      {"what": "size", "at": [0], "where": {"binary": "trtc"}, "value": "stripped_mb", "unit": "MB", "less": true, "goal": [1]}]}
  ]
}"#;

/// Notes its arguments; builds what is asked for but for one precision; answers with the first batch alone if one is
/// asked for, else with two.
const SCRIPT: &str = r#"#!/bin/sh
echo "$@" >> "$(dirname "$0")/calls"
case "$*" in
  *"--precision none"*) echo "error: invalid value 'none'" >&2; exit 2;;
  build*) [ -s "$2" ] && echo engine > "$4";;
  "bench latency"*"--batch 8 "*) echo '{"device": "D1", "copy_bandwidth_gb_s": 100.0, "rows": [{"batch": 8.0, "step_ms": 3.0, "gb_s": 50.0}]}';;
  "bench latency"*) echo '{"device": "D1", "copy_bandwidth_gb_s": 100.0, "rows": [
     {"batch": 1.0, "step_ms": 1.0, "gb_s": 90.0}, {"batch": 8.0, "step_ms": 3.0, "gb_s": 50.0}]}';;
  *) echo "error: no such bench" >&2; exit 1;;
esac
"#;

/// A folder with the script, and engines that it has built.
fn built() -> (tempfile::TempDir, Table, Args) {
    let folder = tempfile::tempdir().unwrap();
    let trtc = folder.path().join("trtc");
    std::fs::write(&trtc, SCRIPT).unwrap();
    std::fs::set_permissions(&trtc, std::fs::Permissions::from_mode(0o755)).unwrap();
    let table = Table::parse(TABLE).unwrap();
    let engines = folder.path().join("engines");
    let all = build::run(
        &table,
        &build::Args {
            trtc: trtc.clone(),
            serving: None,
            out: engines.clone(),
            target: "sm_90".into(),
            cubin: false,
            only: vec![],
        },
    );
    assert_eq!(all, Ok(false), "one engine cannot be built");
    let json = Some(folder.path().join("goals.json"));
    let args = Args { trtc, engines, scratch: None, only: vec![], json, seconds: 60, list: false };
    (folder, table, args)
}

fn calls(folder: &tempfile::TempDir) -> String {
    std::fs::read_to_string(folder.path().join("calls")).unwrap()
}

#[test]
fn every_row_has_a_result_or_a_reason() {
    let (folder, table, args) = built();
    let mut out = Vec::new();
    let rows = run(&table, &args, &mut out).unwrap();
    let met: Vec<Option<bool>> = rows.iter().map(Row::met).collect();
    assert_eq!(met, [Some(true), None, None, None, Some(true), Some(true)]);
    assert_eq!(rows[0].outcome, Ok((1.0, Some(0.9))));
    assert_eq!(rows[1].outcome, Ok((3.0, Some(0.5))));
    assert_eq!(rows[2].outcome, Err("error: no such bench".into()));
    assert!(rows[3].outcome.as_ref().is_err_and(|e| e.contains("invalid value 'none'")), "{:?}", rows[3]);
    let text = String::from_utf8(out).unwrap();
    assert!(text.contains("D1") && text.contains("copy 100 GB/s"), "{text}");
    assert!(text.contains("3 goals met, 0 not, 1 rows without a goal, 2 not measured"), "{text}");
    let calls = calls(&folder);
    assert!(calls.contains("--weights dummy:1 --target sm_90 --precision bf16 --max-batch 8\n"), "{calls}");
    let engine = engine_path(&args.engines, "one");
    assert!(calls.contains(&format!("bench latency {} --batch 1,8 --json\n", engine.display())), "{calls}");
    let json: Value = serde_json::from_str(&std::fs::read_to_string(args.json.unwrap()).unwrap()).unwrap();
    assert_eq!((json["rows"].as_array().unwrap().len(), &json["device"]), (6, &Value::from("D1")));
}

#[test]
fn only_what_is_wanted_is_run() {
    let (folder, table, args) = built();
    let args = Args { only: vec!["BATCH 8".into()], ..args };
    let rows = run(&table, &args, &mut Vec::new()).unwrap();
    assert_eq!(rows.len(), 1);
    assert_eq!(rows[0].outcome, Ok((3.0, Some(0.5))));
    let calls = calls(&folder);
    let benches: Vec<&str> = calls.lines().filter(|l| l.starts_with("bench")).collect();
    assert_eq!(benches.len(), 1);
    assert!(benches[0].ends_with("--batch 8 --json"), "{calls}");
}

#[test]
fn a_list_measures_nothing_and_neither_does_a_run_without_time() {
    let (folder, table, args) = built();
    let before = calls(&folder);
    let listed = run(&table, &Args { list: true, ..args.clone() }, &mut Vec::new()).unwrap();
    assert_eq!(listed.len(), 6);
    assert!(listed.iter().all(|r| r.outcome.is_err()));
    let late = run(&table, &Args { seconds: 0, ..args }, &mut Vec::new()).unwrap();
    assert_eq!(late[0].outcome, Err("no time was left".into()));
    assert_eq!(calls(&folder), before);
}
