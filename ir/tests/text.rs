//! The text form: it round-trips, its errors have places, and no input makes the parser panic.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use common::Gen;
use proptest::prelude::*;
use std::io::Write;
use std::process::{Command, Stdio};
use trtc_ir::text::{PrintOptions, parse, print, print_generic};
use trtc_ir::{Diag, Loc, Module, Op, verify::verify};

const LAYER: &str = r#"llm.module @llama arch("llama") target("sm_90") precision("bf16") dims(T in 1..512, L in 1..64) arena(0x4000) {
  llm.weight @norm : tensor<64xf32> packed(rows) from ["model.norm"]
  llm.weight @qkv : tensor<128x64x!quant<i4:bf16, group 32, zero>> packed(panel16) from ["q" interleaved 4, "k", "v"]
  llm.weight @rope : tensor<8xf32> from rope<16, 500000, llama3 8 1 4 8192>
  llm.func @forward(%x: tensor<Tx64xbf16>, %pos: tensor<Txi32>, %batch: !llm.batch, %kv0: !llm.kv<layer 0, 2 heads, 16, bf16, window 512, page 32>) {
    %n = llm.rms_norm %x, @norm {eps = 1e-5} : tensor<Tx64xbf16> kernel("1..16" = @k1, "17..512" decode = @"k 2", "17..512" prefill = @k3) at(0x100)
    %qkv = llm.linear %n, @qkv : tensor<Tx128xbf16>
    %q, %kv = llm.rope_kv_append %qkv, %pos, %kv0, %batch, @rope {heads = 4} : tensor<Tx4x16xbf16>, !llm.kv<layer 0, 2 heads, 16, bf16, window 512, page 32> at(0x2000, _)
    llm.return %q
  }
}
"#;

fn errors(source: &str) -> Vec<Diag> {
    parse(source, "f.mlir").expect_err("it parses")
}

/// Line, column, message of each error.
fn places(source: &str) -> Vec<(u32, u32, String)> {
    let place = |d: Diag| match d.loc {
        Loc::File { path, line, col } if path == "f.mlir" => (line, col, d.message),
        other => panic!("no place: {other}"),
    };
    errors(source).into_iter().map(place).collect()
}

#[test]
fn what_is_printed_is_what_was_written() {
    let module = parse(LAYER, "f.mlir").unwrap_or_else(|d| panic!("{}", d[0]));
    assert_eq!(print(&module, PrintOptions::default()), LAYER.replace("0x4000", "16384"));
    assert_eq!(
        module.func.ops[module.func.order[1]].loc,
        Loc::File { path: "f.mlir".into(), line: 7, col: 5 }
    );
}

#[test]
fn the_module_documentation_is_an_example() {
    let docs = include_str!("../src/text/mod.rs");
    let example: String = docs
        .split("```")
        .nth(1)
        .unwrap()
        .lines()
        .skip(1)
        .map(|l| format!("{}\n", l.strip_prefix("//! ").unwrap_or_default()))
        .collect();
    // The example leaves one weight out for its line length.
    let whole = example.replacen(
        "  llm.func",
        "  llm.weight @l0.attn.norm : tensor<4096xf32> from [\"n\"]\n  llm.func",
        1,
    );
    let module = parse(&whole, "f.mlir").unwrap_or_else(|d| panic!("{}", d[0]));
    assert_eq!(module.weights.len(), 3);
    assert_eq!(module.func.ops[module.func.order[0]].loc, Loc::name("model.norm"));
}

/// The examples in the ops' documentation are ops.
#[test]
fn the_ops_documentation_parses() {
    let mut seen = std::collections::BTreeSet::new();
    for entry in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/src/ops")).unwrap() {
        let source = std::fs::read_to_string(entry.unwrap().path()).unwrap();
        let Some(example) = source.split("//! ```").nth(1).and_then(|s| s.strip_prefix("mlir\n")) else {
            continue;
        };
        let mut statements: Vec<String> = Vec::new();
        for line in example.lines().map(|l| l.trim_start_matches("//!").trim()) {
            match statements.last_mut() {
                Some(last) if !line.starts_with('%') => *last += &format!("\n{line}"),
                _ => statements.push(line.to_owned()),
            }
        }
        // Each example op alone in a function; every value and weight that it only reads is declared.
        for statement in statements {
            let made: Vec<_> = statement.split('=').next().unwrap().split(',').map(str::trim).collect();
            let words = |sigil: char| {
                let names = statement.split(|c: char| !(c.is_alphanumeric() || "_.%@".contains(c)));
                let names = names.filter(|w| w.starts_with(sigil)).map(str::to_owned);
                names.collect::<std::collections::BTreeSet<_>>()
            };
            let params: Vec<_> = words('%').into_iter().filter(|v| !made.contains(&v.as_str())).collect();
            let params: Vec<_> = params.iter().map(|p| format!("{p}: !llm.batch")).collect();
            let weights: String =
                words('@').iter().map(|w| format!("llm.weight {w} : tensor<1xf32> from [\"w\"]\n")).collect();
            let module = format!(
                "llm.module @m {{\n{weights} llm.func @f({}) {{\n{statement}\n llm.return\n}}\n}}",
                params.join(", ")
            );
            let module = parse(&module, "doc").unwrap_or_else(|d| panic!("{}\n{module}", d[0]));
            seen.insert(module.func.ops[module.func.order[0]].op.name());
        }
    }
    assert_eq!(seen.len(), Op::NAMES.len(), "ops without an example: only {seen:?} have one");
}

#[test]
fn errors_have_places_and_one_mistake_is_reported_once() {
    let source = r#"llm.module @m dims(T in 1..8) {
  llm.weight @w : tensor<4xf32> from ["w"]
  llm.weight @bad : tensor<4xf33> from ["w"]
  llm.func @f(%x: tensor<Tx4xf32>) {
    %a = llm.frobnicate %x : tensor<Tx4xf32>
    %b = llm.add %a, %x : tensor<Tx4xf32>
    %c = llm.rms_norm %b, @bad {eps = 1e-5} : tensor<Tx4xf32>
    %d = llm.add %x, %y : tensor<Tx4xf32>
    %e = llm.add %x, %x :
    %f = llm.rms_norm %x, @w {eps = 1e-5, epsilon = 1} : tensor<Tx4xf32>
    %f = llm.add %x, %x : tensor<Tx4xf32>
    %g = llm.add %x, %e : tensor<Tx4xf32>
    %h = llm.rms_norm %x, @w : tensor<Tx4xf32>
    %i = llm.slice %x {start = -1} : tensor<Tx4xf32> ?
    llm.return %d
  }
}
"#;
    let found = places(source);
    let at: Vec<_> = found.iter().map(|(line, col, _)| (*line, *col)).collect();
    let wanted = [(3, 28), (5, 10), (8, 22), (10, 5), (10, 43), (11, 5), (13, 10), (14, 54), (14, 10)];
    assert_eq!(at, wanted, "{found:#?}");
    assert!(found[1].2.contains("llm.frobnicate"));
    let help = errors(source)[1].help.clone().unwrap();
    assert!(Op::NAMES.iter().all(|n| help.contains(n)), "{help}");
    assert!(found[4].2.contains("it has eps, offset"), "{}", found[4].2);
    assert!(found[6].2.contains("needs the attribute 'eps'"), "{}", found[6].2);
}

#[test]
fn what_is_not_a_module() {
    for (source, part) in [
        ("", "'llm.module'"),
        ("llm.module @m {", "'}' at the end"),
        ("llm.module @m {\n}", "no llm.func"),
        ("llm.module @m {\n llm.func @f() {\n llm.return\n }\n}\nx", "the end of the file, found 'x'"),
        ("llm.module @m {\n llm.func @f() {\n }\n}", "ends without llm.return"),
        (
            "llm.module @m {\n llm.func @f() {\n llm.return\n }\n llm.func @g() {\n llm.return\n }\n}",
            "one function",
        ),
        ("llm.module @m arena(1) arena(2) {\n}", "'arena' is given twice"),
        ("llm.module @m deterministic deterministic {\n}", "'deterministic' is given twice"),
        ("llm.module @\"m\n\" {", "not closed on its line"),
        ("llm.module @\"\\q\" {", "no such escape"),
        ("llm.module @m ; {", "';' has no meaning"),
        ("llm.module @m dims(T in 1..99999999999999999999) {", "bounds such as 1..512"),
    ] {
        let found = places(source);
        assert!(found[0].2.contains(part), "{source:?}: {found:?}");
    }
    let deep = format!("llm.module @m {{\n llm.weight @w : {}f32>", "tensor<1x".repeat(100_000));
    assert!(!errors(&deep).is_empty());
    let wide = format!("llm.module @m {{\n llm.weight @w : tensor<{}f32> from [\"w\"]", "1x".repeat(100_000));
    assert!(places(&wide)[0].2.contains("at most 16 dimensions"));
    assert!(errors(&"%".repeat(1 << 16)).len() <= 101, "errors are not limited");
}

/// Where MLIR's own tools are installed, they read the generic form. Elsewhere only its shape is checked.
fn mlir_opt_accepts(text: &str) -> Result<(), String> {
    let child = Command::new("/usr/lib/llvm-22/bin/mlir-opt")
        .args(["--allow-unregistered-dialect", "--verify-roundtrip"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut child) = child else {
        assert!(text.starts_with("module @") && text.ends_with("  }\n}\n"));
        return Ok(());
    };
    // A tool that stops early closes the pipe; its own message says more.
    let _ = child.stdin.take().unwrap().write_all(text.as_bytes());
    let out = child.wait_with_output().unwrap();
    if out.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&out.stderr).into_owned()) }
}

#[test]
fn the_generic_form_is_read_by_mlir() {
    let module = parse(LAYER, "f.mlir").unwrap();
    let text = print_generic(&module);
    assert!(text.contains("%q:2 = \"llm.rope_kv_append\"(%qkv, %pos, %kv0, %batch)"), "{text}");
    mlir_opt_accepts(&text).unwrap_or_else(|e| panic!("{e}\n{text}"));
    for seed in 0..12 {
        let text = print_generic(&Gen::new(seed).module());
        mlir_opt_accepts(&text).unwrap_or_else(|e| panic!("{e}\n{text}"));
    }
}

/// Changes a text at random: characters, runs, and pieces of the grammar.
fn mutate(text: &str, g: &mut Gen) -> String {
    let mut chars: Vec<char> = text.chars().collect();
    for _ in 0..1 + g.below(6) {
        let at = g.below(chars.len());
        match g.below(4) {
            0 => drop(chars.drain(at..(at + 1 + g.below(30)).min(chars.len()))),
            1 => chars[at] = g.pick(&['%', '@', '"', '<', '}', 'x', '9', '\n', 'é', '\\', '\0', ',']),
            2 => {
                let end = (at + g.below(80)).min(chars.len());
                let piece = chars[at..end].to_vec();
                let to = g.below(chars.len());
                chars.splice(to..to, piece);
            }
            _ => {
                let pieces = [
                    "18446744073709551615",
                    "tensor<",
                    "!quant<",
                    "1x1x",
                    "-1",
                    "llm.return",
                    "nan",
                    "0x",
                    "\\u{110000}",
                ];
                let piece: Vec<char> = g.pick(&pieces).chars().collect();
                chars.splice(at..at, piece);
            }
        }
        if chars.is_empty() {
            chars.push(' ');
        }
    }
    chars.into_iter().collect()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 1000, ..ProptestConfig::default() })]

    #[test]
    fn any_module_round_trips(seed: u64) {
        let module = Gen::new(seed).module();
        let text = print(&module, PrintOptions { locs: true });
        let again = parse(&text, "f.mlir").unwrap_or_else(|d| panic!("{}\n{text}", d[0]));
        prop_assert_eq!(&module, &again, "{}", text);
        let short = print(&module, PrintOptions::default());
        let again: Module = parse(&short, "f.mlir").unwrap_or_else(|d| panic!("{}\n{short}", d[0]));
        prop_assert_eq!(short, print(&again, PrintOptions::default()));
    }

    #[test]
    fn no_text_makes_the_parser_panic(seed: u64) {
        let mut g = Gen::new(seed);
        let text = if g.below(2) == 0 { LAYER.to_owned() } else { print(&g.module(), PrintOptions { locs: true }) };
        let text = mutate(&text, &mut g);
        match parse(&text, "f.mlir") {
            // What parses is a module: it prints, and can be verified.
            Ok(module) => {
                let _ = verify(&module);
                let printed = print(&module, PrintOptions { locs: true });
                let again = parse(&printed, "f.mlir").unwrap_or_else(|d| panic!("{}\n{printed}", d[0]));
                prop_assert_eq!(printed, print(&again, PrintOptions { locs: true }));
            }
            Err(found) => prop_assert!(!found.is_empty() && found.len() <= 110),
        }
    }
}
