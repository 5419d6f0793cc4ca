//! What a checkpoint says of its model: `config.json`, or the metadata of a GGUF file under the same key names.
//!
//! Typed access with errors that name the key as the file spells it. What the facts mean is not decided here.

use serde_json::{Map, Value};
use trtc_ir::{Diag, Loc};

/// Which file format the facts come from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Format {
    /// A `config.json`.
    HuggingFace,
    /// A GGUF file.
    Gguf,
}

/// Facts of a model, by the key names of `config.json`.
#[derive(Clone, Debug)]
pub struct Facts {
    /// The file.
    pub loc: Loc,
    /// Its format.
    pub format: Format,
    /// Values; `null` means absent.
    pub map: Map<String, Value>,
    /// How the file spells a key, where that differs: `(ours, theirs)`.
    pub spelling: Vec<(String, String)>,
    /// Where `map` lies in the file: `rope_parameters.`; empty at the top.
    pub path: String,
}

impl Facts {
    /// Facts of a `config.json`.
    pub fn new(loc: Loc, map: Map<String, Value>) -> Facts {
        Facts { loc, format: Format::HuggingFace, map, spelling: Vec::new(), path: String::new() }
    }

    /// True if the facts come from a GGUF file.
    pub fn is_gguf(&self) -> bool {
        self.format == Format::Gguf
    }

    /// A key as the file spells it.
    pub fn spell(&self, key: &str) -> String {
        let theirs = self.spelling.iter().find(|(ours, _)| ours == key).map(|(_, theirs)| theirs.as_str());
        format!("{}{}", self.path, theirs.unwrap_or(key))
    }

    /// The value of a key, unless it is absent or `null`.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.map.get(key).filter(|v| !v.is_null())
    }

    /// An error about the value of a key.
    pub fn wrong(&self, key: &str, what: impl std::fmt::Display) -> Diag {
        Diag::user(&self.loc, format!("`{}` {what}", self.spell(key)))
    }

    /// An error about a value that is right but not supported.
    pub fn unsupported(&self, key: &str, what: impl std::fmt::Display) -> Diag {
        Diag::unsupported(&self.loc, format!("`{}` {what}", self.spell(key)))
    }

    fn missing(&self, key: &str) -> Diag {
        Diag::user(&self.loc, format!("`{}` is missing", self.spell(key)))
            .help("take the file from the model's publisher, or add the key")
    }

    /// A number without a fraction, from 0 to `u32::MAX`.
    pub fn u32(&self, key: &str) -> Result<Option<u32>, Diag> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        let exact = value.as_u64().or_else(|| {
            value
                .as_f64()
                .filter(|f| f.fract() == 0.0 && (0.0..=4_294_967_295.0).contains(f))
                .map(|f| f as u64)
        });
        match exact.and_then(|n| u32::try_from(n).ok()) {
            Some(n) => Ok(Some(n)),
            None => {
                Err(self
                    .wrong(key, format!("must be an integer from 0 to {}, found {}", u32::MAX, brief(value))))
            }
        }
    }

    /// Like [`Facts::u32`], and an error if the key is absent.
    pub fn need_u32(&self, key: &str) -> Result<u32, Diag> {
        self.u32(key)?.ok_or_else(|| self.missing(key))
    }

    /// A finite number.
    pub fn f64(&self, key: &str) -> Result<Option<f64>, Diag> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        match value.as_f64().filter(|f| f.is_finite()) {
            Some(f) => Ok(Some(f)),
            None => Err(self.wrong(key, format!("must be a finite number, found {}", brief(value)))),
        }
    }

    /// Like [`Facts::f64`], greater than zero.
    pub fn positive(&self, key: &str) -> Result<Option<f64>, Diag> {
        match self.f64(key)? {
            Some(f) if f <= 0.0 => Err(self.wrong(key, format!("must be greater than 0, found {f}"))),
            other => Ok(other),
        }
    }

    /// Like [`Facts::positive`], and an error if the key is absent.
    pub fn need_positive(&self, key: &str) -> Result<f64, Diag> {
        self.positive(key)?.ok_or_else(|| self.missing(key))
    }

    /// True or false.
    pub fn bool(&self, key: &str) -> Result<Option<bool>, Diag> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Bool(b)) => Ok(Some(*b)),
            Some(v) => Err(self.wrong(key, format!("must be true or false, found {}", brief(v)))),
        }
    }

    /// A string.
    pub fn str(&self, key: &str) -> Result<Option<&str>, Diag> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::String(s)) => Ok(Some(s)),
            Some(v) => Err(self.wrong(key, format!("must be a string, found {}", brief(v)))),
        }
    }

    /// A list of strings.
    pub fn strings(&self, key: &str) -> Result<Option<Vec<&str>>, Diag> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        let list = value.as_array().and_then(|a| a.iter().map(Value::as_str).collect::<Option<Vec<_>>>());
        list.map(Some)
            .ok_or_else(|| self.wrong(key, format!("must be a list of strings, found {}", brief(value))))
    }

    /// Token ids: one, or a list.
    pub fn ids(&self, key: &str) -> Result<Vec<u32>, Diag> {
        let Some(value) = self.get(key) else {
            return Ok(Vec::new());
        };
        let id = |v: &Value| v.as_u64().and_then(|n| u32::try_from(n).ok());
        let ids = match value {
            Value::Array(list) => list.iter().map(id).collect::<Option<Vec<u32>>>(),
            one => id(one).map(|n| vec![n]),
        };
        ids.ok_or_else(|| {
            self.wrong(key, format!("must be a token id or a list of them, found {}", brief(value)))
        })
    }

    /// The facts of a nested object.
    pub fn object(&self, key: &str) -> Result<Option<Facts>, Diag> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Object(map)) => Ok(Some(Facts {
                loc: self.loc.clone(),
                format: self.format,
                map: map.clone(),
                spelling: Vec::new(),
                path: format!("{}.", self.spell(key)),
            })),
            Some(v) => Err(self.wrong(key, format!("must be an object, found {}", brief(v)))),
        }
    }
}

/// A value for an error message, cut to one line.
pub fn brief(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(json: &str) -> Facts {
        Facts::new(Loc::name("config.json"), serde_json::from_str(json).unwrap())
    }

    #[test]
    fn null_is_absent_and_whole_floats_are_integers() {
        let f = facts(r#"{"a": null, "b": 4096.0, "c": 7}"#);
        assert_eq!(f.u32("a").unwrap(), None);
        assert_eq!(f.u32("b").unwrap(), Some(4096));
        assert_eq!(f.u32("c").unwrap(), Some(7));
    }

    #[test]
    fn errors_name_the_key_with_its_path_and_the_value() {
        let f = facts(r#"{"n": -3, "rope": {"factor": "big"}, "s": [1, "x"]}"#);
        assert!(f.need_u32("n").unwrap_err().message.contains("`n` must be an integer"));
        assert!(f.need_u32("gone").unwrap_err().message.contains("`gone` is missing"));
        let rope = f.object("rope").unwrap().unwrap();
        let e = rope.need_positive("factor").unwrap_err();
        assert!(e.message.contains("`rope.factor`") && e.message.contains("\"big\""), "{e}");
        assert!(f.ids("s").is_err());
        assert!(f.object("n").is_err());
    }

    #[test]
    fn long_values_are_cut_at_a_character() {
        let f = facts(&format!(r#"{{"k": "{}"}}"#, "é".repeat(200)));
        assert!(f.bool("k").unwrap_err().message.chars().count() < 120);
    }
}
