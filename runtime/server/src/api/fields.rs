//! The body of a request as named fields, each taken once: what is left at the end is refused by its name.
//!
//! JSON's null is the same as a field that is not there. Knows no endpoint.

use crate::error::ApiError;
use serde_json::{Map, Value};

/// Fields that have not been taken yet.
#[derive(Clone, Debug)]
pub struct Fields {
    map: Map<String, Value>,
    /// What stands before a name in messages: `messages[0].`.
    at: String,
}

/// What a field is to be, in the words of who refuses another.
pub const NUMBER: &str = "a number";
/// From 0 on.
pub const COUNT: &str = "a whole number from 0 on";
/// Of either sign.
pub const INTEGER: &str = "a whole number";
/// A boolean.
pub const FLAG: &str = "true or false";
/// A text.
pub const TEXT: &str = "a string";
/// Token ids.
pub const IDS: &str = "a list of token ids";
/// Texts.
pub const TEXTS: &str = "a list of strings";
/// Fields of its own.
pub const OBJECT: &str = "an object";
/// Whoever takes it looks at it by himself.
pub const ANYTHING: &str = "anything";

/// Where parsing gives up.
type Refused<T> = Result<T, ApiError>;

/// What a value is, for people.
fn found(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

impl Fields {
    /// Reads a body.
    pub fn parse(body: &[u8]) -> Refused<Fields> {
        let value: Value = serde_json::from_slice(body).map_err(|e| {
            ApiError::invalid(format!(
                "the body is no JSON: {e}; send an object with content-type application/json"
            ))
        })?;
        Fields::of(value, String::new())
    }

    /// The fields of an object that stands at `at`.
    pub fn of(value: Value, at: String) -> Refused<Fields> {
        match value {
            Value::Object(map) => Ok(Fields { map, at }),
            other if at.is_empty() => {
                Err(ApiError::invalid(format!("the body is {}, not an object", found(&other))))
            }
            other => {
                let path = at.trim_end_matches('.');
                Err(ApiError::invalid(format!("{path} is {}, not an object", found(&other))).param(path))
            }
        }
    }

    /// A name as messages have it.
    pub fn path(&self, name: &str) -> String {
        format!("{}{name}", self.at)
    }

    /// Takes a field.
    pub fn take(&mut self, name: &str) -> Option<Value> {
        self.remove(name, ANYTHING)
    }

    fn remove(&mut self, name: &str, want: &'static str) -> Option<Value> {
        self.note(name, want);
        self.map.remove(name).filter(|v| !v.is_null())
    }

    /// For tests: that a field is asked for, whether it is there or not.
    #[cfg(test)]
    fn note(&self, name: &str, want: &'static str) {
        asked::NAMES.with_borrow_mut(|names| names.insert((self.path(name), want)));
    }

    #[cfg(not(test))]
    fn note(&self, _: &str, _: &'static str) {}

    /// The error that a field is not what is wanted.
    pub fn wrong(&self, name: &str, want: &str, value: &Value) -> ApiError {
        let path = self.path(name);
        ApiError::invalid(format!("{path} is {}: give {want}", found(value))).param(path)
    }

    fn typed<T>(
        &mut self,
        name: &str,
        want: &'static str,
        read: impl FnOnce(&Value) -> Option<T>,
    ) -> Refused<Option<T>> {
        let Some(value) = self.remove(name, want) else {
            return Ok(None);
        };
        read(&value).map(Some).ok_or_else(|| self.wrong(name, want, &value))
    }

    /// A number.
    pub fn float(&mut self, name: &str) -> Refused<Option<f32>> {
        self.typed(name, NUMBER, |v| v.as_f64().map(|x| x as f32))
    }

    /// A count.
    pub fn count(&mut self, name: &str) -> Refused<Option<u32>> {
        self.typed(name, COUNT, |v| whole(v)?.try_into().ok())
    }

    /// A whole number.
    pub fn integer(&mut self, name: &str) -> Refused<Option<i64>> {
        self.typed(name, INTEGER, |v| whole(v)?.try_into().ok())
    }

    /// True or false.
    pub fn flag(&mut self, name: &str) -> Refused<Option<bool>> {
        self.typed(name, FLAG, Value::as_bool)
    }

    /// A string.
    pub fn text(&mut self, name: &str) -> Refused<Option<String>> {
        self.typed(name, TEXT, |v| v.as_str().map(str::to_owned))
    }

    /// A list of token ids.
    pub fn ids(&mut self, name: &str) -> Refused<Option<Vec<u32>>> {
        self.typed(name, IDS, ids)
    }

    /// A list of strings.
    pub fn texts(&mut self, name: &str) -> Refused<Option<Vec<String>>> {
        self.typed(name, TEXTS, |v| v.as_array()?.iter().map(|v| v.as_str().map(str::to_owned)).collect())
    }

    /// An object.
    pub fn object(&mut self, name: &str) -> Refused<Option<Fields>> {
        let at = self.path(name) + ".";
        self.remove(name, OBJECT).map(|value| Fields::of(value, at)).transpose()
    }

    /// All that is left, by name.
    pub fn rest(&mut self) -> impl Iterator<Item = (String, Value)> {
        std::mem::take(&mut self.map).into_iter().filter(|(_, v)| !v.is_null())
    }

    /// A field that stays.
    pub fn peek(&self, name: &str) -> Option<&Value> {
        self.map.get(name).filter(|v| !v.is_null())
    }

    /// All that is left, as an object.
    pub fn into_map(mut self) -> Map<String, Value> {
        self.rest().collect()
    }

    /// Refuses what is left.
    pub fn finish(mut self) -> Refused<()> {
        let left = self.rest().next();
        left.map_or(Ok(()), |(name, _)| {
            Err(ApiError::unsupported(self.path(&name), "there is no such parameter here; leave it out"))
        })
    }
}

/// A whole number, also one that is written with a fraction of zero.
pub fn whole(value: &Value) -> Option<i128> {
    if let Some(n) = value.as_i64() {
        return Some(n.into());
    }
    if let Some(n) = value.as_u64() {
        return Some(n.into());
    }
    value.as_f64().filter(|x| x.fract() == 0.0 && x.abs() < 9e15).map(|x| x as i128)
}

/// A list of token ids.
pub fn ids(value: &Value) -> Option<Vec<u32>> {
    value.as_array()?.iter().map(|v| whole(v)?.try_into().ok()).collect()
}

/// The fields that were asked for on this thread, with their paths and what they were to be: for the test that compares
/// them with the tables.
#[cfg(test)]
pub mod asked {
    use std::cell::RefCell;
    use std::collections::BTreeSet;

    thread_local! {
        pub(super) static NAMES: RefCell<BTreeSet<(String, &'static str)>> = const { RefCell::new(BTreeSet::new()) };
    }

    /// All of them, which are forgotten.
    pub fn take() -> BTreeSet<(String, &'static str)> {
        NAMES.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(text: &str) -> Fields {
        Fields::parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn fields_are_taken_by_type_and_what_is_left_is_named() {
        let mut f = fields(r#"{"a":1.5,"b":2.0,"c":null,"d":[1,2],"e":{"x":1},"f":"t","g":true}"#);
        assert_eq!(f.float("a").unwrap(), Some(1.5));
        assert_eq!(f.count("b").unwrap(), Some(2));
        assert_eq!(f.text("c").unwrap(), None);
        assert_eq!(f.ids("d").unwrap(), Some(vec![1, 2]));
        let inner = f.object("e").unwrap().unwrap().finish().unwrap_err();
        assert_eq!((inner.param.as_deref(), inner.code), (Some("e.x"), Some("unsupported_parameter")));
        assert_eq!(f.text("f").unwrap().as_deref(), Some("t"));
        assert_eq!(f.finish().unwrap_err().param.as_deref(), Some("g"));
        assert!(fields(r#"{"x":null}"#).finish().is_ok());
    }

    #[test]
    fn wrong_types_are_told() {
        for (text, name) in
            [(r#"{"n":-1}"#, "n"), (r#"{"n":1.5}"#, "n"), (r#"{"n":"1"}"#, "n"), (r#"{"n":1e99}"#, "n")]
        {
            let error = fields(text).count(name).unwrap_err();
            assert_eq!((error.status, error.param.as_deref()), (400, Some("n")), "{text}");
        }
        assert!(fields(r#"{"n":[1,-1]}"#).ids("n").is_err());
        assert!(fields(r#"{"n":[1,"a"]}"#).ids("n").is_err());
        for body in ["", "[]", "1", "{", "{}x", "\"a\"", "\u{0}"] {
            assert_eq!(Fields::parse(body.as_bytes()).unwrap_err().status, 400, "{body:?}");
        }
        let deep = "[".repeat(100_000);
        assert!(Fields::parse(deep.as_bytes()).is_err());
    }
}
