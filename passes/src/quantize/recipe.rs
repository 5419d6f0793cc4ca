//! Recipes: overrides of the precision for single weights, as text lines `pattern = scheme`.
//!
//! `*` in a pattern stands for any run of characters, `?` for one; later lines win; `#` begins a comment. Reading
//! the file is the caller's. Whether a pattern fits any weight is checked by `quantize`, which has the model.

use super::{SCHEMES, WeightScheme};
use trtc_ir::{Diag, Loc};

/// Overrides, in the order of the file.
#[derive(Clone, Debug, Default)]
pub struct Recipe {
    /// One a line.
    pub rules: Vec<Rule>,
}

/// One override.
#[derive(Clone, Debug)]
pub struct Rule {
    /// Pattern on a weight's symbol.
    pub pattern: String,
    /// How the weight is stored.
    pub scheme: &'static WeightScheme,
    /// Where the line is.
    pub loc: Loc,
}

impl Recipe {
    /// No overrides.
    pub const NONE: &'static Recipe = &Recipe { rules: Vec::new() };

    /// Reads recipe text; `path` is for error messages only.
    pub fn parse(path: &str, text: &str) -> Result<Recipe, Diag> {
        let mut rules = Vec::new();
        for (i, full) in text.lines().enumerate() {
            let line = full.split('#').next().unwrap_or("").trim();
            if line.is_empty() {
                continue;
            }
            let col = (full.len() - full.trim_start().len()) as u32 + 1;
            let loc = Loc::File { path: path.to_owned(), line: i as u32 + 1, col };
            let known = || SCHEMES.iter().map(|s| s.name).collect::<Vec<_>>().join(", ");
            let Some((pattern, name)) = line.split_once('=') else {
                return Err(Diag::user(&loc, format!("expected `pattern = scheme`, found {line:?}"))
                    .help(format!("schemes are {}", known())));
            };
            let (pattern, name) = (pattern.trim(), name.trim());
            if pattern.is_empty() {
                return Err(
                    Diag::user(&loc, "the pattern before `=` is empty").help("write `*` for every matrix")
                );
            }
            let scheme = WeightScheme::named(name).ok_or_else(|| {
                Diag::user(&loc, format!("there is no scheme {name:?}"))
                    .help(format!("schemes are {}", known()))
            })?;
            rules.push(Rule { pattern: pattern.to_owned(), scheme, loc });
        }
        Ok(Recipe { rules })
    }
}

impl Rule {
    /// True if the pattern fits all of `name`.
    pub fn fits(&self, name: &str) -> bool {
        glob(self.pattern.as_bytes(), name.as_bytes())
    }
}

/// Matches with one point of return, the last star: linear in practice, `O(pattern * name)` at worst.
fn glob(pattern: &[u8], name: &[u8]) -> bool {
    let (mut p, mut n) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while n < name.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p + 1, n));
                p += 1;
            }
            Some(&c) if c == b'?' || c == name[n] => (p, n) = (p + 1, n + 1),
            _ => match star {
                Some((after, from)) => {
                    star = Some((after, from + 1));
                    (p, n) = (after, from + 1);
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|&c| c == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs() {
        let fits = |p: &str, n: &str| glob(p.as_bytes(), n.as_bytes());
        assert!(fits("*", "") && fits("*", "l0.attn.q") && fits("l?.attn.*", "l0.attn.q"));
        assert!(fits("*.q", "l0.attn.q") && fits("*attn*q", "l0.attn.attn.q") && fits("l0", "l0"));
        assert!(
            !fits("l?.attn.*", "l10.attn.q")
                && !fits("*.q", "l0.attn.qkv")
                && !fits("", "x")
                && !fits("l0", "l")
        );
    }

    #[test]
    fn lines_are_read_and_errors_say_where() {
        let recipe =
            Recipe::parse("r", "# head\n\n *.mlp.* = int4 # comment\nlm_head=bf16\n").expect("reads");
        let rules: Vec<_> = recipe.rules.iter().map(|r| (r.pattern.as_str(), r.scheme.name)).collect();
        assert_eq!(rules, [("*.mlp.*", "int4"), ("lm_head", "bf16")]);

        let error = |text: &str| Recipe::parse("r", text).expect_err("refused").to_string();
        assert!(error("\n  a = int5").contains("\"r\":2:3"), "{}", error("\n  a = int5"));
        assert!(error("a = int5").contains("there is no scheme \"int5\""));
        assert!(error("a = int5").contains("fp8, int8, int4, bf16, fp32"));
        assert!(error("a int8").contains("expected `pattern = scheme`"));
        assert!(error("= int8").contains("empty"));
    }
}
