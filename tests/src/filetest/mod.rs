//! File tests: one `.mlir` file holds directives, a module, the errors it has, and what is expected of it.
//!
//! ```text
//! // What the file is about, in prose.
//! // test: pass fuse-qkv,canonicalize
//! // target: sm_90
//! // run: interp tol=1e-5
//!
//! llm.module @m ... {            // error: on the line that errs, or on a line of its own directly above it
//! }
//!
//! // expect:
//! // llm.module @m ...
//! ```
//!
//! | directive | meaning |
//! |---|---|
//! | `test: parse` | the module parses, and prints as expected |
//! | `test: verify` | it also passes the verifier |
//! | `test: pass a,b` | it also goes through these passes, each held to the text form, and prints as expected |
//! | `test: run` | it is interpreted on random inputs, and the results are as expected |
//! | `target: NAME` | the target; without it the module's own, or `host` |
//! | `run: interp tol=X` | with `pass`: the interpreter gives the same before and after, within X relative to the largest element, and exactly for 0 |
//! | `print: locs`, `print: generic` | the form to print |
//!
//! A file with `// error:` lines has exactly these errors, each containing the text. An `expect:` block is required
//! of `pass` and `run` without errors, and compared wherever there is one. `TRTC_BLESS=1` rewrites it, but never of a
//! file whose `run:` check fails. A new kind of test is a function in `kinds.rs` and a line in its table.

mod directives;
mod kinds;
mod sample;

use directives::{Directives, Expectation};
use similar::TextDiff;
use std::path::{Path, PathBuf};
use trtc_ir::{Diag, Loc};

/// How to accept what a test printed; part of every failure that can be.
const HOW_TO_BLESS: &str = "to accept the new text: TRTC_BLESS=1 cargo test -p trtc-tests --test filetests";

/// What a kind of test made of a file.
pub(crate) enum Outcome {
    /// The text to compare with the expectation.
    Text(String),
    /// The errors to compare with the annotations.
    Errors(Vec<Diag>),
}

/// All file tests below a folder, in order of their paths.
pub fn collect(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut out = Vec::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "mlir") {
                out.push(path);
            }
        }
    }
    out.sort();
    Ok(out)
}

/// Runs the test in a file; with `bless`, rewrites its expectation. The error says what is wrong, with a diff.
pub fn run_file(path: &Path, bless: bool) -> Result<(), String> {
    let text = std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
    let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    match run_text(&text, &name, bless)? {
        Some(blessed) => std::fs::write(path, blessed).map_err(|e| format!("{}: {e}", path.display())),
        None => Ok(()),
    }
}

/// Runs the test in a text. The text to write back, if it is to be blessed and is not as it was.
fn run_text(text: &str, name: &str, bless: bool) -> Result<Option<String>, String> {
    let directives = Directives::read(text)?;
    let source = &text[..directives.expect.as_ref().map_or(text.len(), |e| e.at)];
    match kinds::run(&directives, source, name)? {
        Outcome::Errors(found) => {
            if found.is_empty() {
                return Err("the test failed without an error".into());
            }
            match_errors(&directives, source, &found)?;
            match directives.expect {
                Some(_) => Err("the file expects a text, but the test ends in errors".into()),
                None => Ok(None),
            }
        }
        Outcome::Text(found) => {
            if let Some((line, wanted)) = directives.errors.first() {
                return Err(format!("line {line}: expected the error {wanted:?}, but there is none"));
            }
            compare(&directives, source, &found, bless)
        }
    }
}

/// Compares a text with the expectation.
fn compare(
    directives: &Directives,
    source: &str,
    found: &str,
    bless: bool,
) -> Result<Option<String>, String> {
    let wanted = match &directives.expect {
        Some(Expectation { text, .. }) => text.as_str(),
        None if !kinds::must_expect(directives) => return Ok(None),
        None => "",
    };
    if wanted.trim_end() == found.trim_end() && directives.expect.is_some() {
        return Ok(None);
    }
    if bless {
        let comments =
            found.trim_end().lines().map(|l| if l.is_empty() { "//".into() } else { format!("// {l}") });
        let block = comments.collect::<Vec<_>>().join("\n");
        return Ok(Some(format!("{}\n\n// expect:\n{block}\n", source.trim_end())));
    }
    let missing = if directives.expect.is_none() { "the file has no expect: block\n" } else { "" };
    let diff = TextDiff::from_lines(wanted.trim_end(), found.trim_end());
    let diff = diff.unified_diff().header("expected", "found").to_string();
    Err(format!("{missing}{diff}\n{HOW_TO_BLESS}"))
}

/// Pairs errors with annotations by line and text; each must have its own.
fn match_errors(directives: &Directives, source: &str, found: &[Diag]) -> Result<(), String> {
    let mut open = directives.errors.clone();
    let mut unexpected = Vec::new();
    for diag in found {
        let line = line_of(&diag.loc, source);
        let text = diag.to_string();
        match open.iter().position(|(at, wanted)| *at == line && text.contains(wanted.as_str())) {
            Some(i) => drop(open.remove(i)),
            None => unexpected.push(format!("line {line}: unexpected {text}")),
        }
    }
    let missing = open.iter().map(|(line, wanted)| format!("line {line}: expected the error {wanted:?}"));
    unexpected.extend(missing);
    if unexpected.is_empty() { Ok(()) } else { Err(unexpected.join("\n")) }
}

/// The line that a location means: its own, that of the declaration it names, or the module's first.
fn line_of(loc: &Loc, source: &str) -> usize {
    let whole = |line: &str, name: &str| {
        line.match_indices(name).any(|(at, _)| {
            !line[at + name.len()..].starts_with(|c: char| c.is_ascii_alphanumeric() || "_.$-".contains(c))
        })
    };
    let wanted = |line: &str| match loc {
        Loc::Name(n) if n.starts_with('@') => line.trim_start().starts_with("llm.weight") && whole(line, n),
        Loc::Name(n) if n.starts_with('%') => line.contains("llm.func") && whole(line, n),
        Loc::Name(n) => line.contains(&format!("loc({n:?})")),
        _ => false,
    };
    match loc {
        Loc::File { line, .. } => *line as usize,
        Loc::Fused(parts) => parts.first().map_or(0, |first| line_of(first, source)),
        _ => {
            let at = source.lines().position(wanted);
            let header = || source.lines().position(|l| l.trim_start().starts_with("llm.module"));
            at.or_else(header).map_or(0, |at| at + 1)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADD: &str = "// test: pass canonicalize
// run: interp tol=0

llm.module @m dims(T in 1..4) {
  llm.func @f(%x: tensor<Tx2xf32>) {
    %y = llm.add %x, %x : tensor<Tx2xf32>
    llm.return %y
  }
}
";

    fn failure(text: &str) -> String {
        run_text(text, "t.mlir", false).unwrap_err()
    }

    #[test]
    fn blessing_writes_what_then_passes() {
        let error = failure(ADD);
        assert!(error.contains("no expect: block") && error.contains("TRTC_BLESS=1"), "{error}");
        let blessed = run_text(ADD, "t.mlir", true).unwrap().unwrap();
        assert_eq!(run_text(&blessed, "t.mlir", false), Ok(None));
        assert_eq!(run_text(&blessed, "t.mlir", true), Ok(None));
        let changed = blessed.replace("//     %y = llm.add %x", "//     %z = llm.add %x");
        let error = failure(&changed);
        assert!(error.contains("-    %z = llm.add") && error.contains("+    %y = llm.add"), "{error}");
        assert_eq!(run_text(&changed, "t.mlir", true), Ok(Some(blessed)));
    }

    #[test]
    fn errors_are_paired_by_line_and_text() {
        let broken = ADD.replace("test: pass canonicalize\n// run: interp tol=0", "test: parse");
        let broken = broken.replace("%x, %x :", "%x, %q :");
        assert!(
            failure(&broken).contains("line 5: unexpected error: %q is not defined"),
            "{}",
            failure(&broken)
        );
        let right = broken.replace("    llm.return", "    // error: somewhere\n    llm.return");
        assert!(failure(&right).contains("line 7: expected the error \"somewhere\""), "{}", failure(&right));
        let right = broken.replace("    %y", "    // error: %q is not defined\n    %y");
        assert_eq!(run_text(&right, "t.mlir", false), Ok(None));
        let wrong_text = right.replace("error: %q is", "error: %p is");
        assert!(failure(&wrong_text).contains("expected the error \"%p is"));
        let trailing = broken.replace("%q : tensor<Tx2xf32>", "%q : tensor<Tx2xf32> // error: %q");
        assert_eq!(run_text(&trailing, "t.mlir", false), Ok(None));
        let needless = ADD.replace("    llm.return", "    // error: nothing\n    llm.return");
        assert!(failure(&needless).contains("but there is none"));
    }

    #[test]
    fn directives_are_not_ignored() {
        for (from, to, part) in [
            ("// test: pass canonicalize\n", "", "no test: directive"),
            ("canonicalize", "canonise", "no pass 'canonise'"),
            ("test: pass", "test: frob", "no test 'frob'"),
            ("// run:", "// runs:", "no directive 'runs'"),
            ("tol=0", "tol=x", "run: must be"),
            ("// run", "// target: sm_1\n// run", "no target 'sm_1'"),
            ("test: pass canonicalize", "test: parse", "'run:' has no meaning"),
        ] {
            let error = failure(&ADD.replace(from, to));
            assert!(error.contains(part), "{error}");
        }
    }
}
