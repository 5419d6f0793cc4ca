//! The tables of requests beside the parsers: fields, kinds, ranges and what is taken for those that are left out.

mod cases;

use super::*;
use crate::api::Endpoint;
use crate::api::fields::{self, asked};
use crate::api::params::INFORMS;
use crate::api::schema::{Bounds, Field, Object, Otherwise};
use crate::error::ApiError;
use crate::library::Load;
use cases::{Case, cases, chat, tool, wish, with};
use std::collections::{BTreeMap, BTreeSet};

/// What a parser asks for where the table has this.
fn wanted(kind: &Kind) -> &'static str {
    match kind {
        Kind::Flag | Kind::Only(_) => fields::FLAG,
        Kind::Number(_) => fields::NUMBER,
        Kind::Count { .. } => fields::COUNT,
        Kind::Integer { .. } => fields::INTEGER,
        Kind::Text | Kind::Like(_) | Kind::Word(_) => fields::TEXT,
        Kind::List(Kind::Count { .. }, ..) => fields::IDS,
        Kind::List(Kind::Text | Kind::Word(_), ..) => fields::TEXTS,
        Kind::Object(o) if o.closed => fields::OBJECT,
        Kind::Any(kinds) if kinds.iter().all(|k| matches!(k, Kind::Object(_))) => fields::OBJECT,
        Kind::Map(_) => fields::OBJECT,
        _ => fields::ANYTHING,
    }
}

fn flatten(kind: &Kind, at: &str, out: &mut BTreeSet<(String, &'static str)>) {
    match kind {
        Kind::Object(object) if object.closed => {
            let at = if at.is_empty() { String::new() } else { format!("{at}.") };
            for field in object.fields() {
                let path = format!("{at}{}", field.name);
                out.insert((path.clone(), wanted(&field.kind)));
                flatten(&field.kind, &path, out);
            }
        }
        Kind::List(of, ..) => flatten(of, &format!("{at}[]"), out),
        Kind::Any(kinds) => kinds.iter().for_each(|kind| flatten(kind, at, out)),
        _ => {}
    }
}

/// `messages[3].role` as `messages[].role`.
fn without_numbers(path: &str) -> String {
    let (mut out, mut inside) = (String::new(), false);
    for c in path.chars() {
        inside = inside && c != ']';
        if !inside {
            out.push(c);
        }
        inside |= c == '[';
    }
    out
}

#[test]
fn the_tables_have_what_parsers_ask_for_and_nothing_else() {
    for Case { kind, parse, bodies, informed } in cases() {
        asked::take();
        for body in &bodies {
            parse(body).unwrap_or_else(|e| panic!("{body}: {e}"));
        }
        let mut found: BTreeSet<_> =
            asked::take().into_iter().map(|(path, want)| (without_numbers(&path), want)).collect();
        if informed {
            let asked: BTreeSet<String> = found.iter().map(|(path, _)| path.clone()).collect();
            let others = INFORMS.iter().filter(|f| !asked.contains(f.name));
            found.extend(others.map(|f| (f.name.to_owned(), wanted(&f.kind))));
        }
        let mut table = BTreeSet::new();
        flatten(&kind, "", &mut table);
        let missing: Vec<_> = found.difference(&table).collect();
        let surplus: Vec<_> = table.difference(&found).collect();
        assert!(
            missing.is_empty() && surplus.is_empty(),
            "not in the table: {missing:?}; in it alone: {surplus:?}"
        );
    }
}

#[test]
fn examples_are_taken_as_they_stand() {
    let mut parsed = 0;
    for (operation, examples) in all().filter_map(|o| Some((o.body?, o.examples))) {
        let case = cases().into_iter().find(|c| format!("{:?}", c.kind) == format!("{operation:?}")).unwrap();
        assert!(!examples.is_empty());
        for (name, text) in examples {
            let body: Value = serde_json::from_str(text).unwrap();
            assert!(document().to_string().contains(&body.to_string()), "{body} is not in the document");
            (case.parse)(&body).unwrap_or_else(|e| panic!("{name}: {e}"));
            parsed += 1;
        }
    }
    assert!(parsed > 10, "{parsed}");
}

/// Values at the ends of a field's range, and values beyond them.
fn ends(field: &Field) -> (Vec<Value>, Vec<Value>) {
    match field.kind {
        Kind::Count { least, most } => {
            (vec![json!(least), json!(most)], vec![json!(i64::from(least) - 1), json!(i64::from(most) + 1)])
        }
        Kind::Integer { least, most } => {
            let beyond = [least.checked_sub(1), most.checked_add(1)];
            (vec![json!(least), json!(most)], beyond.into_iter().flatten().map(Value::from).collect())
        }
        Kind::Number(Bounds::Within(least, most)) => {
            (vec![json!(least), json!(most)], vec![json!(least - 0.5), json!(most + 0.5)])
        }
        Kind::Number(Bounds::Above(least, most)) => {
            (vec![json!(most)], vec![json!(least), json!(most * 2.0)])
        }
        Kind::List(Kind::Text, _, most) if most < usize::MAX => {
            (vec![json!(vec!["a"; most])], vec![json!(vec!["a"; most + 1])])
        }
        Kind::Any(kinds) => {
            let each = kinds.iter().map(|&kind| ends(&Field { kind, ..*field }));
            each.reduce(|a, b| ([a.0, b.0].concat(), [a.1, b.1].concat())).unwrap_or_default()
        }
        _ => (Vec::new(), Vec::new()),
    }
}

#[test]
fn ranges_are_those_that_are_held_to() {
    /// What the model's lengths or another field bound besides.
    const BOUND: [&str; 5] =
        ["best_of", "max_tokens", "max_completion_tokens", "max_output_tokens", "min_tokens"];
    let tables: [(&Object, fn(&Value) -> Result<(), ApiError>, Value); 4] = [
        (
            &requests::CHAT,
            |v| wish(Endpoint::Chat, v).map(|_| ()),
            with(&chat(), &json!({ "logprobs": true })),
        ),
        (&requests::COMPLETION, |v| wish(Endpoint::Completions, v).map(|_| ()), json!({ "prompt": "a" })),
        (
            &responses::RESPONSE,
            |v| wish(Endpoint::Responses, v).map(|_| ()),
            json!({ "input": "a", "include": [crate::api::responses::LOGPROBS] }),
        ),
        (
            &requests::LOAD,
            |v| Load::parse(v.to_string().as_bytes()).map(|_| ()),
            json!({ "model": "m", "engine": "e" }),
        ),
    ];
    let mut seen = 0;
    for (object, parse, base) in tables {
        for field in object.fields().filter(|f| f.name != "messages" && f.name != "prompt") {
            let (inside, beyond) = ends(field);
            let put = |value: &Value| parse(&with(&base, &json!({ field.name: value })));
            for value in inside.iter().filter(|_| !BOUND.contains(&field.name)) {
                put(value).unwrap_or_else(|e| panic!("{} {value}: {e}", field.name));
            }
            for value in &beyond {
                let error = put(value).err().unwrap_or_else(|| panic!("{} {value} is taken", field.name));
                assert_eq!(error.status, 400);
                seen += 1;
            }
        }
    }
    assert!(seen > 90, "{seen}");
}

#[test]
fn what_is_left_out_is_what_the_table_says() {
    let chat = with(&chat(), &json!({ "tools": [tool()] }));
    let stream = json!({ "stream": true, "stream_options": {} });
    let mut seen = 0;
    for (object, endpoint, base) in [
        (&requests::CHAT, Endpoint::Chat, chat),
        (&requests::COMPLETION, Endpoint::Completions, json!({ "prompt": "a" })),
        (&responses::RESPONSE, Endpoint::Responses, json!({ "input": "a" })),
    ] {
        let without = wish(endpoint, &base).unwrap();
        for field in object.fields() {
            let value = match field.default {
                Otherwise::Depends => continue,
                Otherwise::Flag(flag) => json!(flag),
                Otherwise::Whole(n) => json!(n),
            };
            assert_eq!(
                wish(endpoint, &with(&base, &json!({ field.name: value }))).unwrap(),
                without,
                "{}",
                field.name
            );
            seen += 1;
        }
        let streamed = wish(endpoint, &with(&base, &stream)).unwrap();
        let options = match endpoint {
            Endpoint::Responses => json!({ "include_obfuscation": false }),
            _ => json!({ "include_usage": false, "include_obfuscation": false }),
        };
        let said = json!({ "stream": true, "stream_options": options });
        assert_eq!(wish(endpoint, &with(&base, &said)).unwrap(), streamed);
    }
    assert!(seen > 12, "{seen}");
}

/// Every object of a value's kind, by name.
fn objects(kind: &Kind, out: &mut BTreeMap<&'static str, String>) {
    match kind {
        Kind::Object(object) => {
            let all = format!("{object:?}");
            let first = out.insert(object.name, all.clone());
            assert!(first.is_none_or(|first| first == all), "two objects have the name {}", object.name);
            object.fields().for_each(|field| objects(&field.kind, out));
        }
        Kind::List(of, ..) | Kind::Map(of) => objects(of, out),
        Kind::Any(kinds) => kinds.iter().for_each(|kind| objects(kind, out)),
        _ => {}
    }
}

#[test]
fn the_document_is_whole() {
    let document = document();
    let text = document.to_string();
    for part in text.split("\"$ref\":\"#").skip(1) {
        let pointer = part.split('"').next().unwrap();
        assert!(document.pointer(pointer).is_some_and(|v| !v.is_null()), "{pointer} is nowhere");
    }
    let mut names = BTreeMap::new();
    let mut ids = BTreeSet::new();
    for operation in all() {
        assert!(ids.insert(operation.id), "two operations have the name {}", operation.id);
        operation.body.iter().for_each(|body| objects(body, &mut names));
        match operation.answer {
            Answer::Object(object) => objects(&Kind::Object(object), &mut names),
            Answer::Either(whole, events) => {
                objects(&Kind::Object(whole), &mut names);
                match events {
                    Events::Chunks(chunk) => objects(&Kind::Object(chunk), &mut names),
                    Events::Typed(kinds) => objects(&Kind::Any(kinds), &mut names),
                }
            }
            Answer::Never | Answer::Text(_) | Answer::Document => {}
        }
    }
    objects(&Kind::Object(&answers::ERROR), &mut names);
    let schemas = document["components"]["schemas"].as_object().unwrap();
    let schemas: BTreeSet<&str> = schemas.keys().map(String::as_str).collect();
    assert_eq!(schemas, names.keys().copied().collect::<BTreeSet<_>>());
    assert!(schemas.len() > 70, "{schemas:?}");
}
