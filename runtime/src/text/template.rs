//! A chat template's source made fit for rendering: marks of transformers taken out, and every value that it keeps under a name held
//! to bounds. What rendering is given and gives is `chat.rs`.
//!
//! Fuel bounds how much a template does, not how deep it nests: `{% set ns.x = [ns.x] %}` in a loop makes a value that overflows the
//! stack where it is printed or dropped, and `{% set ns.x = [ns.x, ns.x] %}` one that is printed without end. So what is assigned
//! goes through a filter.

use minijinja::value::{Object, ObjectRepr, Value};
use minijinja::{Environment, Error, ErrorKind, State};
use std::sync::atomic::{AtomicU64, Ordering};

/// Lists and maps within one another; JSON of clients has no more than 128.
const DEEPEST: u32 = 200;
/// Values that are looked at in one rendering.
const MOST: u64 = 1_000_000;
/// The name of what is left of them.
pub const BUDGET: &str = "__trtc_budget";

/// Values that may still be looked at.
#[derive(Debug)]
pub struct Budget(AtomicU64);

impl Default for Budget {
    fn default() -> Budget {
        Budget(AtomicU64::new(MOST))
    }
}

impl Object for Budget {}

/// Adds the filters that [`prepared`] writes.
pub fn add_filters(env: &mut Environment<'_>) {
    env.add_filter("__trtc_named", |state: &State<'_, '_>, value: Value| bounded(state, value, true));
    env.add_filter("__trtc_kept", |state: &State<'_, '_>, value: Value| bounded(state, value, false));
}

/// A value, if it is within bounds. What a namespace keeps has no namespace in it, for it might be the same.
fn bounded(state: &State<'_, '_>, value: Value, namespaces: bool) -> Result<Value, Error> {
    let budget = state.lookup(BUDGET);
    let budget = budget.as_ref().and_then(|b| b.downcast_object_ref::<Budget>());
    let Some(Budget(left)) = budget else {
        return Err(refused("has a variable of a name that is not its own"));
    };
    walk(&value, DEEPEST, left, namespaces)?;
    Ok(value)
}

fn refused(why: &'static str) -> Error {
    Error::new(ErrorKind::InvalidOperation, why)
}

fn walk(value: &Value, deeper: u32, left: &AtomicU64, namespaces: bool) -> Result<(), Error> {
    let Some(object) = value.as_object() else { return Ok(()) };
    let deeper = deeper.checked_sub(1).ok_or_else(|| refused("nests values too deeply"))?;
    if !namespaces && object.type_name().ends_with("::Namespace") {
        return Err(refused("keeps a namespace in a namespace"));
    }
    let look = |value: &Value| {
        let before = left.load(Ordering::Relaxed);
        left.store(before.saturating_sub(1), Ordering::Relaxed);
        match before {
            0 => Err(refused("keeps too many values")),
            _ => walk(value, deeper, left, namespaces),
        }
    };
    match object.repr() {
        ObjectRepr::Map => {
            object.try_iter_pairs().into_iter().flatten().try_for_each(|(_, value)| look(&value))
        }
        ObjectRepr::Seq | ObjectRepr::Iterable => {
            object.try_iter().into_iter().flatten().try_for_each(|v| look(&v))
        }
        _ => Ok(()),
    }
}

/// The source with a filter behind each value that is assigned, and with conditions that hold in place of `{% generation %}`,
/// transformers' marks around what the assistant wrote. Lines stay where they are.
pub fn prepared(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(at) = rest.find("{%").into_iter().chain(rest.find("{{")).chain(rest.find("{#")).min() {
        let (before, tag) = rest.split_at(at);
        out.push_str(before);
        let end = match &tag[..2] {
            "{#" => tag.find("#}").map_or(tag.len(), |e| e + 2),
            "{{" => end_of(tag, "}}"),
            _ => end_of(tag, "%}"),
        };
        let (tag, after) = tag.split_at(end);
        rest = after;
        match tag.strip_prefix("{%").and_then(|t| t.strip_suffix("%}")) {
            None => out.push_str(tag),
            Some(inside) => {
                block(inside, &mut out);
                if words(inside) == "raw" {
                    let (raw, after) = rest.split_at(end_of_raw(rest));
                    out.push_str(raw);
                    rest = after;
                }
            }
        }
    }
    out.push_str(rest);
    out
}

/// Where a tag ends: behind this, outside of strings and brackets.
fn end_of(tag: &str, close: &str) -> usize {
    let bytes = tag.as_bytes();
    let (mut at, mut depth) = (2, 0_i64);
    while at < bytes.len() {
        match bytes[at] {
            _ if depth == 0 && bytes[at..].starts_with(close.as_bytes()) => return at + close.len(),
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth -= 1,
            quote @ (b'"' | b'\'') => {
                at = end_of_string(bytes, at, quote);
                continue;
            }
            _ => {}
        }
        at += 1;
    }
    bytes.len()
}

/// Where the tag begins that ends raw text.
fn end_of_raw(text: &str) -> usize {
    let ends = |at: &usize| {
        let inside = text[at + 2..].trim_start_matches(['-', '+']).trim_start();
        inside.starts_with("endraw")
    };
    text.match_indices("{%").map(|(at, _)| at).find(ends).unwrap_or(text.len())
}

/// Behind the string that begins here.
fn end_of_string(text: &[u8], mut at: usize, quote: u8) -> usize {
    at += 1;
    while at < text.len() && text[at] != quote {
        at += if text[at] == b'\\' { 2 } else { 1 };
    }
    (at + 1).min(text.len())
}

/// What stands in a tag without its marks for spaces.
fn words(inside: &str) -> &str {
    inside.trim_matches(|c: char| c.is_whitespace() || "+-".contains(c))
}

fn block(inside: &str, out: &mut String) {
    let said = words(inside);
    let inside = match said {
        "generation" => inside.replacen("generation", "if true", 1),
        "endgeneration" => inside.replacen("endgeneration", "endif", 1),
        _ => match said.strip_prefix("set").filter(|r| r.starts_with(char::is_whitespace)) {
            Some(_) => assignment(inside),
            None => inside.to_owned(),
        },
    };
    out.extend(["{%", inside.as_str(), "%}"]);
}

/// `set NAME = VALUE` with the filter; a block that is set has no value here.
fn assignment(inside: &str) -> String {
    let bytes = inside.as_bytes();
    let (mut at, mut depth) = (0, 0_u32);
    while at < bytes.len() {
        match bytes[at] {
            b'=' if depth == 0 => break,
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth = depth.saturating_sub(1),
            quote @ (b'"' | b'\'') => {
                at = end_of_string(bytes, at, quote);
                continue;
            }
            _ => {}
        }
        at += 1;
    }
    if at >= bytes.len() {
        return inside.to_owned();
    }
    let (target, value) = (&inside[..at], &inside[at + 1..]);
    let filter = if target.contains('.') { "__trtc_kept" } else { "__trtc_named" };
    let bare = value.strip_suffix(['-', '+']).unwrap_or(value);
    let mark = &value[bare.len()..];
    format!("{target}=({bare})|{filter}{mark}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_assignments_and_marks_are_changed() {
        for (source, want) in [
            ("{% set x = 'a %} =' -%} b", "{% set x =( 'a %} =' )|__trtc_named-%} b"),
            ("{%- set ns.x=[1, {'a': 2}] +%}", "{%- set ns.x=([1, {'a': 2}] )|__trtc_kept+%}"),
            ("{% set a, b = 1, 2 %}", "{% set a, b =( 1, 2 )|__trtc_named%}"),
            (
                "{{ {'a': {}} ~ '{#' }}{% set x = {'b': {}} %}",
                "{{ {'a': {}} ~ '{#' }}{% set x =( {'b': {}} )|__trtc_named%}",
            ),
            ("{%- generation -%}x{% endgeneration %}", "{%- if true -%}x{% endif %}"),
        ] {
            assert_eq!(prepared(source).replace(' ', ""), want.replace(' ', ""), "{source}");
        }
        for same in [
            "{% set x %}a = b{% endset %}",
            "{% set x | replace('a', b='c') %}d{% endset %}",
            "{# {% set x = 1 %} #}{{ '{% set x = 1 %}' }}",
            "{% raw %}{% set x = 1 %}{% endraw %}",
            "{% settle = 1 %}{% if a == b %}",
            "{% raw %} endraw {% set x = 1 %}{%- endraw -%}",
            "plain { text } 100 %}",
            "{{ \"\\\"}}\" }}\u{e4}{%",
        ] {
            assert_eq!(prepared(same), same);
        }
    }
}
