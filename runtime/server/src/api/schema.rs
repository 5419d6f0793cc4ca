//! Objects of the API as tables: what fields they have, of which kind, within which bounds, and a line of help.
//!
//! Plain data and two things that can be said of it: its JSON schema, and whether a value is one. Reading requests is the
//! business of `fields.rs` and of those who call it; a test holds them to the tables.

use super::fields::whole;
use serde_json::{Map, Value, json};

/// Most tokens, ids and counts that a field can say.
pub const MOST: u32 = u32::MAX;

/// What a value is.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// Null.
    Null,
    /// True or false.
    Flag,
    /// One of the two alone.
    Only(bool),
    /// A number, within bounds.
    Number(Bounds),
    /// A whole number from 0 on.
    Count {
        /// From.
        least: u32,
        /// To.
        most: u32,
    },
    /// A whole number.
    Integer {
        /// From.
        least: i64,
        /// To.
        most: i64,
    },
    /// A string.
    Text,
    /// A string that a regular expression matches.
    Like(&'static str),
    /// One of these strings.
    Word(&'static [&'static str]),
    /// A list, with the least and the most entries.
    List(&'static Kind, usize, usize),
    /// An object with names of the client's own.
    Map(&'static Kind),
    /// An object of a table.
    Object(&'static Object),
    /// Any of these.
    Any(&'static [Kind]),
    /// An object, whatever is in it.
    Open,
    /// Whatever it is.
    Anything,
}

/// Bounds of a number.
#[derive(Clone, Copy, Debug)]
pub enum Bounds {
    /// None.
    Free,
    /// Both are within.
    Within(f64, f64),
    /// The first is not within, the second is.
    Above(f64, f64),
}

/// Any number.
pub const NUMBER: Kind = Kind::Number(Bounds::Free);
/// Any count.
pub const COUNT: Kind = Kind::Count { least: 0, most: MOST };
/// Token ids.
pub const IDS: Kind = list(&COUNT);

/// A list of any length.
pub const fn list(of: &'static Kind) -> Kind {
    Kind::List(of, 0, usize::MAX)
}

/// What is taken if a field is left out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Otherwise {
    /// It depends: on the model, or on other fields.
    Depends,
    /// True or false.
    Flag(bool),
    /// A whole number.
    Whole(i64),
}

/// Whether a field is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// It is.
    Always,
    /// It may be left out, and null is the same as that.
    Optional,
    /// It may be left out, and is not null.
    Sometimes,
}

/// A field of an object.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// Its name.
    pub name: &'static str,
    /// What it is.
    pub kind: Kind,
    /// Whether it is there.
    pub presence: Presence,
    /// What is taken otherwise.
    pub default: Otherwise,
    /// A line on it.
    pub help: &'static str,
}

impl Field {
    /// One that is always there.
    pub const fn new(name: &'static str, kind: Kind, help: &'static str) -> Field {
        Field { name, kind, presence: Presence::Always, default: Otherwise::Depends, help }
    }

    /// One that may be left out.
    pub const fn optional(name: &'static str, kind: Kind, help: &'static str) -> Field {
        Field { presence: Presence::Optional, ..Field::new(name, kind, help) }
    }

    /// One that is not always there, and never null.
    pub const fn sometimes(name: &'static str, kind: Kind, help: &'static str) -> Field {
        Field { presence: Presence::Sometimes, ..Field::new(name, kind, help) }
    }

    /// What is taken if it is left out.
    pub const fn or(self, default: Otherwise) -> Field {
        Field { default, ..self }
    }
}

/// An object.
#[derive(Debug)]
pub struct Object {
    /// Its name in the document.
    pub name: &'static str,
    /// A line on it.
    pub help: &'static str,
    /// Its fields, in several parts; of two with one name the first counts.
    pub parts: &'static [&'static [Field]],
    /// Other fields are refused.
    pub closed: bool,
}

impl Object {
    /// One that a client sends: what is not known in it is refused.
    pub const fn asked(name: &'static str, help: &'static str, parts: &'static [&'static [Field]]) -> Object {
        Object { name, help, parts, closed: true }
    }

    /// One that the server sends: later versions may say more in it.
    pub const fn told(name: &'static str, help: &'static str, parts: &'static [&'static [Field]]) -> Object {
        Object { name, help, parts, closed: false }
    }

    /// All fields.
    pub fn fields(&self) -> impl Iterator<Item = &'static Field> {
        let all = self.parts.iter().flat_map(|part| part.iter());
        all.clone()
            .enumerate()
            .filter(move |(i, f)| all.clone().take(*i).all(|g| g.name != f.name))
            .map(|(_, f)| f)
    }

    fn schema(&'static self, named: &mut Map<String, Value>) -> Value {
        let mut properties = Map::new();
        for field in self.fields() {
            properties.insert(field.name.to_owned(), field.schema(named));
        }
        let required: Vec<&str> =
            self.fields().filter(|f| f.presence == Presence::Always).map(|f| f.name).collect();
        let mut schema = json!({ "type": "object", "description": self.help, "properties": properties });
        if !required.is_empty() {
            schema["required"] = json!(required);
        }
        if self.closed {
            schema["additionalProperties"] = false.into();
        }
        schema
    }
}

impl Field {
    fn schema(&self, named: &mut Map<String, Value>) -> Value {
        let mut schema = match (self.presence, self.kind) {
            (Presence::Optional, Kind::Anything | Kind::Null)
            | (Presence::Always | Presence::Sometimes, _) => self.kind.schema(named),
            (Presence::Optional, kind) => or_null(kind.schema(named)),
        };
        schema["description"] = self.help.into();
        match self.default {
            Otherwise::Depends => {}
            Otherwise::Flag(flag) => schema["default"] = flag.into(),
            Otherwise::Whole(n) => schema["default"] = n.into(),
        }
        schema
    }
}

/// A schema that also takes null.
fn or_null(mut schema: Value) -> Value {
    let plain = schema.get("enum").is_none() && schema.get("const").is_none();
    match schema.get("type").and_then(Value::as_str).map(str::to_owned) {
        Some(kind) if plain => {
            schema["type"] = json!([kind, "null"]);
            schema
        }
        _ => match schema.get_mut("anyOf").and_then(Value::as_array_mut) {
            Some(any) => {
                any.push(Kind::Null.schema(&mut Map::new()));
                schema
            }
            None => json!({ "anyOf": [schema, { "type": "null" }] }),
        },
    }
}

impl Kind {
    /// Its JSON schema (draft 2020-12, as OpenAPI 3.1 has it); objects are put into `named`, and referred to.
    pub fn schema(&self, named: &mut Map<String, Value>) -> Value {
        match *self {
            Kind::Null => json!({ "type": "null" }),
            Kind::Flag => json!({ "type": "boolean" }),
            Kind::Only(flag) => json!({ "type": "boolean", "const": flag }),
            Kind::Number(Bounds::Free) => json!({ "type": "number" }),
            Kind::Number(Bounds::Within(least, most)) => {
                json!({ "type": "number", "minimum": least, "maximum": most })
            }
            Kind::Number(Bounds::Above(least, most)) => {
                json!({ "type": "number", "exclusiveMinimum": least, "maximum": most })
            }
            Kind::Count { least, most } => json!({ "type": "integer", "minimum": least, "maximum": most }),
            Kind::Integer { least, most } => json!({ "type": "integer", "minimum": least, "maximum": most }),
            Kind::Text => json!({ "type": "string" }),
            Kind::Like(pattern) => json!({ "type": "string", "pattern": pattern }),
            Kind::Word(words) => json!({ "type": "string", "enum": words }),
            Kind::List(of, least, most) => {
                let mut schema = json!({ "type": "array", "items": of.schema(named) });
                if least > 0 {
                    schema["minItems"] = least.into();
                }
                if most < usize::MAX {
                    schema["maxItems"] = most.into();
                }
                schema
            }
            Kind::Map(of) => json!({ "type": "object", "additionalProperties": of.schema(named) }),
            Kind::Object(object) => {
                if !named.contains_key(object.name) {
                    // Its place is taken first: an object may be within itself.
                    named.insert(object.name.to_owned(), Value::Null);
                    let schema = object.schema(named);
                    named.insert(object.name.to_owned(), schema);
                }
                json!({ "$ref": format!("#/components/schemas/{}", object.name) })
            }
            Kind::Any(kinds) => {
                let any: Vec<Value> = kinds.iter().map(|k| k.schema(named)).collect();
                json!({ "anyOf": any })
            }
            Kind::Open => json!({ "type": "object" }),
            Kind::Anything => json!({}),
        }
    }

    /// True if a value is of this kind, for those kinds that tables of single values have: no objects of tables, no
    /// other numbers than whole ones and no expressions, which whoever reads them checks and tells of by name.
    pub fn admits(&self, value: &Value) -> bool {
        match *self {
            Kind::Null => value.is_null(),
            Kind::Flag => value.is_boolean(),
            Kind::Only(flag) => *value == flag,
            Kind::Count { least, most } => {
                whole(value).is_some_and(|n| (least.into()..=most.into()).contains(&n))
            }
            Kind::Integer { least, most } => {
                whole(value).is_some_and(|n| (least.into()..=most.into()).contains(&n))
            }
            Kind::Text => value.is_string(),
            Kind::Word(words) => value.as_str().is_some_and(|w| words.contains(&w)),
            Kind::List(of, least, most) => value.as_array().is_some_and(|list| {
                (least..=most).contains(&list.len()) && list.iter().all(|v| of.admits(v))
            }),
            Kind::Map(of) => value.as_object().is_some_and(|map| map.values().all(|v| of.admits(v))),
            Kind::Any(kinds) => kinds.iter().any(|k| k.admits(value)),
            Kind::Open => value.is_object(),
            Kind::Anything => true,
            Kind::Number(_) | Kind::Like(_) | Kind::Object(_) => false,
        }
    }
}
