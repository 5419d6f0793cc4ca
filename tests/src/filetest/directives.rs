//! Reads the comments of a file test: directives at the top, errors at their lines, the expectation at the end.

/// What a file says of its test.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Directives {
    /// Kind of test, and what follows it.
    pub(crate) test: (String, String),
    /// Name of the target.
    pub(crate) target: Option<String>,
    /// Tolerance of the interpreter's results before and after.
    pub(crate) tolerance: Option<f32>,
    /// The form to print.
    pub(crate) print: Form,
    /// Lines, from 1, that have an error, and a part of its text.
    pub(crate) errors: Vec<(usize, String)>,
    /// What is expected.
    pub(crate) expect: Option<Expectation>,
}

/// The form to print.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) enum Form {
    #[default]
    Short,
    Locs,
    Generic,
}

/// The block at the end of a file.
#[derive(Debug, PartialEq)]
pub(crate) struct Expectation {
    /// Byte at which its first line begins.
    pub(crate) at: usize,
    /// Its text, without the comment signs.
    pub(crate) text: String,
}

/// A directive `word: rest` in a comment; `None` in prose, where the colon does not follow the first word.
fn directive(line: &str) -> Option<(&str, &str)> {
    let (word, rest) = line.trim().strip_prefix("//")?.trim().split_once(':')?;
    let is_word = !word.is_empty() && word.chars().all(|c| c.is_ascii_lowercase());
    is_word.then(|| (word, rest.trim()))
}

impl Directives {
    pub(crate) fn read(text: &str) -> Result<Directives, String> {
        let mut out = Directives::default();
        let (mut top, mut at) = (true, 0);
        for (i, line) in text.split_inclusive('\n').enumerate() {
            let number = i + 1;
            let comment = line.trim_start().starts_with("//");
            if line.trim_end() == "// expect:" {
                let block = text[at + line.len()..].lines().enumerate().map(|(k, l)| {
                    let body = l.strip_prefix("// ").or_else(|| l.strip_prefix("//"));
                    body.ok_or_else(|| format!("line {}: the expect: block ends the file", number + 1 + k))
                });
                let text = block.collect::<Result<Vec<_>, _>>()?.join("\n");
                out.expect = Some(Expectation { at, text });
                break;
            }
            at += line.len();
            top &= comment || line.trim().is_empty();
            if let Some((before, wanted)) = line.split_once("// error:") {
                // On a line of its own it means the next one.
                let errs = if before.trim().is_empty() { number + 1 } else { number };
                out.errors.push((errs, wanted.trim().to_owned()));
            } else if let (true, Some((word, rest))) = (top, directive(line)) {
                out.set(word, rest).map_err(|e| format!("line {number}: {e}"))?;
            }
        }
        if out.test.0.is_empty() {
            return Err("the file has no test: directive".into());
        }
        Ok(out)
    }

    fn set(&mut self, word: &str, rest: &str) -> Result<(), String> {
        let again = match word {
            "test" => {
                let (kind, args) = rest.split_once(' ').unwrap_or((rest, ""));
                let test = (kind.to_owned(), args.trim().to_owned());
                !std::mem::replace(&mut self.test, test).0.is_empty()
            }
            "target" => self.target.replace(rest.to_owned()).is_some(),
            "run" => {
                let tolerance = rest.strip_prefix("interp tol=").and_then(|t| t.parse().ok());
                let tolerance = tolerance.filter(|t: &f32| t.is_finite() && *t >= 0.0);
                let tolerance =
                    tolerance.ok_or_else(|| format!("run: must be 'interp tol=1e-5', found '{rest}'"))?;
                self.tolerance.replace(tolerance).is_some()
            }
            "print" => {
                let form = match rest {
                    "locs" => Form::Locs,
                    "generic" => Form::Generic,
                    _ => return Err(format!("print: must be locs or generic, found '{rest}'")),
                };
                std::mem::replace(&mut self.print, form) != Form::Short
            }
            _ => {
                return Err(format!("there is no directive '{word}'; there are test, target, run, print"));
            }
        };
        if again { Err(format!("'{word}:' is given twice")) } else { Ok(()) }
    }
}
