//! API keys: who may ask, and under which name.
//!
//! Keys are kept and compared as SHA-256, all of equal length and in constant time; nothing here prints one.

use sha2::{Digest, Sha256};
use std::sync::Arc;
use subtle::{ConditionallySelectable, ConstantTimeEq};

/// Keys with the names of who holds them; none means that everybody may ask.
#[derive(Clone, Default)]
pub struct Keys(Vec<(Arc<str>, [u8; 32])>);

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(name, _)| name)).finish()
    }
}

/// Why a list of keys is none: the number of the line, and what is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {0}: {1}")]
pub struct BadKey(pub usize, pub &'static str);

impl Keys {
    /// No keys.
    pub fn none() -> Keys {
        Keys::default()
    }

    /// True if everybody may ask.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Adds a key.
    pub fn add(&mut self, name: &str, key: &str) {
        self.0.push((name.into(), Sha256::digest(key.as_bytes()).into()));
    }

    /// Adds the keys of a file: lines `name:key` or `key`; empty lines and those that begin with `#` are none.
    pub fn add_lines(&mut self, text: &str) -> Result<(), BadKey> {
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (name, key) = match line.split_once(':') {
                Some((name, key)) => (name.trim().to_owned(), key.trim()),
                None => (format!("key-{number}"), line),
            };
            if name.is_empty() || key.is_empty() {
                return Err(BadKey(number, "give name:key, or the key alone"));
            }
            if key.contains(char::is_whitespace) {
                return Err(BadKey(number, "a key has no spaces"));
            }
            self.add(&name, key);
        }
        Ok(())
    }

    /// The name of who holds a key. Takes the same time whichever key it is, and if it is none.
    pub fn find(&self, key: &str) -> Option<Arc<str>> {
        let given: [u8; 32] = Sha256::digest(key.as_bytes()).into();
        let mut found = 0u32;
        for ((_, hash), number) in self.0.iter().zip(1u32..) {
            found.conditional_assign(&number, hash.ct_eq(&given));
        }
        let at = (found as usize).checked_sub(1)?;
        self.0.get(at).map(|(name, _)| Arc::clone(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_found_by_what_they_are() {
        let mut keys = Keys::none();
        keys.add_lines("# ours\n\nalice: sk-1 \nsk-2\n").unwrap();
        assert_eq!(keys.find("sk-1").as_deref(), Some("alice"));
        assert_eq!(keys.find("sk-2").as_deref(), Some("key-4"));
        for none in ["", "sk-", "sk-3", "alice", "alice: sk-1", "# ours"] {
            assert_eq!(keys.find(none), None, "{none:?}");
        }
        assert_eq!(keys.len(), 2);
        assert!(!format!("{keys:?}").contains("sk-"), "{keys:?}");
    }

    #[test]
    fn lines_that_are_no_keys_are_told_without_the_key() {
        for (text, line) in [("a:b\n:secret", 2), ("name:", 1), ("two words", 1)] {
            let error = Keys::none().add_lines(text).unwrap_err();
            assert_eq!(error.0, line);
            assert!(!error.to_string().contains("secret"));
        }
    }
}
