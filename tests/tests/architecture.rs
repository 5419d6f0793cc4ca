//! The architecture as tests: edges between crates that must not exist, sizes of files, habits.
//!
//! Reads sources and `cargo metadata`; runs nothing of the project.
#![allow(clippy::unwrap_used, reason = "a test that cannot read the tree has failed")]

use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Who must never depend on whom, directly or through others, in a normal build: DESIGN's table of crates.
/// `*` stands for every crate of ours.
const ABSENT: &[(&str, &[&str])] = &[
    ("trtc-ir", &["*", "serde", "serde_json", "melior", "cudarc"]),
    ("trtc-passes", &["trtc-codegen", "trtc-runtime", "trtc-engine", "melior", "cudarc"]),
    ("trtc-codegen", &["trtc-runtime", "trtc-engine", "trtc-passes", "trtc-compiler"]),
    ("trtc-compiler", &["trtc-runtime", "cudarc"]),
    ("trtc-engine", &["*", "melior", "cudarc"]),
    ("trtc-emulator", &["*", "melior", "cudarc"]),
    ("trtc-server", &["trtc-ir", "trtc-passes", "trtc-codegen", "trtc-compiler", "melior"]),
    (
        "trtc-runtime",
        &[
            "trtc-server",
            "axum",
            "hyper",
            "tokio",
            "trtc-ir",
            "trtc-passes",
            "trtc-codegen",
            "trtc-compiler",
            "melior",
        ],
    ),
];

/// Most lines of a Rust file.
const HARD_LINES: usize = 800;
/// Lines from which a file is listed as one to divide.
const SOFT_LINES: usize = 400;

fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().expect("the tests' folder has a parent").to_path_buf()
}

/// Files of the project with this extension, build output and fuzz corpora left out; paths from the root.
fn files(extension: &str) -> Vec<PathBuf> {
    let mut out = Vec::new();
    let mut folders = vec![root()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() {
                if !["target", ".git", "corpus", "findings"].contains(&name.as_str()) {
                    folders.push(path);
                }
            } else if path.extension().is_some_and(|e| e == extension) {
                out.push(path.strip_prefix(root()).unwrap().to_path_buf());
            }
        }
    }
    out.sort();
    assert!(!out.is_empty(), "no .{extension} file under {}", root().display());
    out
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Files that are no part of what is shipped: tests, benchmarks, examples, `*_tests.rs`, and modules under
/// `#[cfg(test)]`.
fn test_files() -> BTreeSet<PathBuf> {
    let all = files("rs");
    let named = |p: &Path| {
        let stem = p.file_stem().unwrap().to_string_lossy();
        stem == "tests"
            || stem.ends_with("_tests")
            || p.components().any(|c| c.as_os_str() == "tests" || c.as_os_str() == "examples")
    };
    let mut out: BTreeSet<PathBuf> =
        all.iter().filter(|p| named(p) || p.starts_with("benches")).cloned().collect();
    for path in &all {
        let folder = path.parent().expect("a file has a folder");
        let stem = path.file_stem().unwrap().to_string_lossy();
        let inner =
            if ["mod", "lib", "main"].contains(&&*stem) { folder.to_path_buf() } else { folder.join(&*stem) };
        let text = read(path);
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        for at in (0..lines.len()).filter(|&i| lines[i] == "#[cfg(test)]") {
            let declared = lines[at + 1..]
                .first()
                .and_then(|l| l.strip_suffix(';'))
                .and_then(|l| l.split("mod ").nth(1));
            if let Some(name) = declared {
                out.insert(inner.join(format!("{name}.rs")));
                out.extend(all.iter().filter(|p| p.starts_with(inner.join(name))).cloned());
            }
        }
    }
    out
}

/// Files of the crates, tests left out.
fn shipped() -> Vec<PathBuf> {
    let tests = test_files();
    files("rs").into_iter().filter(|p| !tests.contains(p)).collect()
}

/// Lines of a file with their numbers, less comments, string contents and everything from `#[cfg(test)] mod` on.
fn code_lines(path: &Path) -> Vec<(usize, String)> {
    let text = read(path);
    let lines: Vec<&str> = text.lines().collect();
    let is_tests = |i: usize| {
        lines[i].trim() == "#[cfg(test)]"
            && lines.get(i + 1).is_some_and(|l| l.contains("mod ") && !l.ends_with(';'))
    };
    let end = (0..lines.len()).find(|&i| is_tests(i)).unwrap_or(lines.len());
    let code = |line: &str| {
        // A string may hold `//`; what stands in quotes is dropped first.
        let mut out = String::new();
        let mut quoted = false;
        let mut chars = line.chars().peekable();
        while let Some(c) = chars.next() {
            match c {
                '\\' if quoted => {
                    chars.next();
                }
                '\'' if !quoted && chars.peek() == Some(&'"') => {
                    chars.next();
                }
                '"' => {
                    quoted = !quoted;
                    out.push('"');
                }
                '/' if !quoted && chars.peek() == Some(&'/') => break,
                c if !quoted => out.push(c),
                _ => {}
            }
        }
        out
    };
    (1..).zip(lines[..end].iter().map(|l| code(l))).collect()
}

/// Every place where `found` says so, as `path:line`.
fn places(paths: &[PathBuf], found: impl Fn(&str) -> bool) -> Vec<String> {
    let mut out = Vec::new();
    for path in paths {
        for (number, line) in code_lines(path) {
            if found(&line) {
                out.push(format!("{}:{number}: {}", path.display(), line.trim()));
            }
        }
    }
    out
}

#[track_caller]
fn none(what: &str, places: &[String]) {
    assert!(places.is_empty(), "{what}:\n  {}", places.join("\n  "));
}

/// Crates that a build of `package` links, from `cargo tree`: normal edges, this machine's platform.
fn linked(package: &str, flags: &[&str]) -> BTreeSet<String> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let output = Command::new(cargo)
        .current_dir(root())
        .args([
            "tree",
            "--locked",
            "--offline",
            "--edges",
            "normal",
            "--prefix",
            "none",
            "--format",
            "{p}",
            "-p",
            package,
        ])
        .args(flags)
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines()
        .filter_map(|l| l.split_whitespace().next())
        .filter(|n| *n != package)
        .map(str::to_owned)
        .collect()
}

#[test]
fn edges_that_must_not_exist_do_not() {
    let mut found = Vec::new();
    for (package, banned) in ABSENT {
        for name in linked(package, &["--all-features"]) {
            let ours = banned.contains(&"*") && name.starts_with("trtc");
            if ours || banned.contains(&name.as_str()) {
                found.push(format!("{package} depends on {name}: see `cargo tree -p {package} -i {name}`"));
            }
        }
    }
    none("forbidden dependencies", &found);
}

#[test]
fn serving_binary_has_no_compiler() {
    let linked = linked("trtc", &["--no-default-features"]);
    for name in ["melior", "mlir-sys", "trtc-passes", "trtc-codegen", "trtc-compiler"] {
        assert!(!linked.contains(name), "trtc --no-default-features links {name}");
    }
    assert!(linked.contains("trtc-runtime"), "the listing has what is linked");
}

#[test]
fn every_crate_inherits_lints_and_version() {
    let manifest = read(Path::new("Cargo.toml"));
    let members = manifest.lines().find(|l| l.starts_with("members")).expect("a list of members");
    let members: Vec<&str> = members.split('"').skip(1).step_by(2).collect();
    assert!(members.len() > 5, "{members:?}");
    for member in members {
        let text = read(&Path::new(member).join("Cargo.toml"));
        for want in ["[lints]\nworkspace = true", "version.workspace = true", "license.workspace = true"] {
            assert!(text.contains(want), "{member}/Cargo.toml lacks `{want}`");
        }
        let dependencies =
            text.split("\n[").filter(|s| s.lines().next().is_some_and(|h| h.ends_with("dependencies]")));
        for line in dependencies.flat_map(|s| s.lines().skip(1)).filter(|l| l.contains('=')) {
            assert!(
                line.contains("workspace = true"),
                "{member}/Cargo.toml: versions stand in the root: {line}"
            );
        }
    }
}

#[test]
fn only_one_folder_names_melior() {
    let outside: Vec<PathBuf> = files("rs")
        .into_iter()
        .filter(|p| !p.starts_with("codegen/src/mlir") && !p.starts_with("tests/tests"))
        .collect();
    none(
        "melior outside codegen/src/mlir",
        &places(&outside, |l| l.contains("melior") || l.contains("mlir_sys")),
    );
}

#[test]
fn files_are_small() {
    let mut long: Vec<(usize, PathBuf)> =
        files("rs").into_iter().map(|p| (read(&p).lines().count(), p)).collect();
    long.retain(|(lines, _)| *lines > SOFT_LINES);
    long.sort();
    // Shown with --nocapture, and when the test fails.
    for (lines, path) in &long {
        println!("{lines} lines, soft limit {SOFT_LINES}: {}", path.display());
    }
    long.retain(|(lines, _)| *lines > HARD_LINES);
    assert!(long.is_empty(), "over {HARD_LINES} lines: {long:?}");
}

#[test]
fn every_file_says_what_it_is() {
    let bare = files("rs").into_iter().filter(|p| {
        let text = read(p);
        let first = text.lines().find(|l| !l.trim().is_empty()).unwrap_or("");
        !(first.starts_with("//! ") && first.len() > "//! Placeholder.".len())
    });
    let bare: Vec<String> = bare.map(|p| p.display().to_string()).collect();
    none("files that do not begin with a //! line", &bare);
}

#[test]
fn nothing_is_left_undone() {
    let all = files("rs");
    // In two parts, so that this file does not find itself.
    let macros = [concat!("todo", "!("), concat!("unimplemented", "!("), concat!("dbg", "!(")];
    none("left undone", &places(&all, |l| macros.iter().any(|m| l.contains(m))));
    none("tests that do not run", &places(&all, |l| l.contains(concat!("#[", "ignore"))));
}

#[test]
fn no_unwrap_outside_tests() {
    none("unwrap outside tests", &places(&shipped(), |l| l.contains(".unwrap()")));
}

#[test]
fn only_the_command_line_reads_the_environment() {
    let code: Vec<PathBuf> = shipped().into_iter().filter(|p| *p != Path::new("tools/src/env.rs")).collect();
    none("std::env::var outside tools/src/env.rs", &places(&code, |l| l.contains("env::var")));
}

#[test]
fn names_of_models_stand_in_the_frontend_only() {
    // Passes, kernels and the runtime see shapes and flags. Whole words, so that `llm` is no hit.
    let models = ["llama", "qwen2", "qwen3", "gemma3", "mistral"];
    let places = places(
        &shipped()
            .into_iter()
            .filter(|p| ["passes", "codegen", "runtime"].iter().any(|d| p.starts_with(d)))
            .collect::<Vec<_>>(),
        |l| l.to_lowercase().split(|c: char| !c.is_alphanumeric()).any(|w| models.contains(&w)),
    );
    none("a model's name outside compiler/src/frontend/arch", &places);
}

#[test]
fn the_project_stands_alone() {
    // In parts, so that this file does not find itself.
    let words = [
        concat!("/wo", "rk/"),
        concat!("../sha", "red"),
        concat!(".libr", "ary"),
        concat!("TO", "DO"),
        concat!("FIX", "ME"),
    ];
    let mut found = Vec::new();
    let texts = ["rs", "md", "toml", "sh"].iter().flat_map(|e| files(e));
    for path in texts {
        for (number, line) in (1..).zip(read(&path).lines()) {
            if words.iter().any(|w| line.contains(w)) {
                found.push(format!("{}:{number}: {line}", path.display()));
            }
        }
    }
    none("words of one machine, or notes to oneself", &found);
}

/// `make NAME` and scripts that code tells its reader to run.
fn commands(code: &str) -> (BTreeSet<&str>, BTreeSet<&str>) {
    let words: Vec<&str> = code.split_whitespace().collect();
    let make = words.windows(2).filter(|w| w[0] == "make").map(|w| w[1]);
    let scripts = words.iter().copied().filter(|w| w.starts_with("scripts/"));
    (make.collect(), scripts.collect())
}

/// What stands between backquotes, fences too.
fn code_of(markdown: &str) -> String {
    markdown.split('`').skip(1).step_by(2).collect::<Vec<_>>().join("\n")
}

#[test]
fn documented_commands_exist() {
    let makefile = read(Path::new("Makefile"));
    let targets: BTreeSet<&str> = makefile
        .lines()
        .filter(|l| !l.starts_with(['\t', '.', '#', ' ']) && !l.contains("=") && l.contains(':'))
        .filter_map(|l| l.split(':').next())
        .collect();
    for document in ["README.md", "CONTRIBUTING.md", ".ci/run"] {
        let text = read(Path::new(document));
        let code = if document.ends_with(".md") { code_of(&text) } else { text };
        let (make, scripts) = commands(&code);
        assert!(!make.is_empty(), "{document} names no target");
        for name in make {
            assert!(targets.contains(name), "{document} says `make {name}`, the Makefile has {targets:?}");
        }
        for script in scripts {
            assert!(root().join(script).exists(), "{document} names {script}, which is not there");
        }
    }
    let readme = read(Path::new("README.md"));
    for command in ["make demo", "make test"] {
        assert!(readme.contains(command), "README.md does not say `{command}`");
    }
}

#[test]
fn licence_is_whole() {
    let licence = read(Path::new("LICENSE"));
    for part in ["Apache License", "END OF TERMS AND CONDITIONS"] {
        assert!(licence.contains(part), "LICENSE lacks {part:?}");
    }
}

#[test]
fn one_version_of_each_direct_dependency() {
    let manifest = read(Path::new("Cargo.lock"));
    let mut versions: BTreeMap<&str, usize> = BTreeMap::new();
    for package in manifest.split("[[package]]").skip(1) {
        let name =
            package.lines().find_map(|l| l.strip_prefix("name = \"")).expect("a name").trim_end_matches('"');
        *versions.entry(name).or_default() += 1;
    }
    for name in [
        "serde",
        "serde_json",
        "safetensors",
        "half",
        "tokenizers",
        "melior",
        "clap",
        "memmap2",
        "tokio",
        "hyper",
        "rustls",
    ] {
        assert_eq!(versions.get(name), Some(&1), "{name}");
    }
}

#[test]
fn golden_files_are_whole() {
    for path in files("json").iter().filter(|p| p.starts_with("tests/golden")) {
        let value: Value =
            serde_json::from_str(&read(path)).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        if path.file_name().is_some_and(|n| n != "config.json" && n != "tokenizer.json") {
            assert!(
                value["cases"].as_array().is_some_and(|c| !c.is_empty()),
                "{} has no cases",
                path.display()
            );
        }
    }
}
