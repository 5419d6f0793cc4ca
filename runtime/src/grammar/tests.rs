//! Grammars on a vocabulary of bytes and a few longer tokens: what is allowed, where texts end, what is refused.

use super::*;
use crate::sample::{Sampler, Scratch};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::sync::LazyLock;

/// All bytes by their ids, then these, then one that ends answers.
const LONGER: [&str; 6] = ["\":", "{\"", "true", "  ", "null", ", \""];
const END: u32 = 256 + LONGER.len() as u32;

fn tokenizer() -> Arc<Tokenizer> {
    static ONE: LazyLock<Arc<Tokenizer>> = LazyLock::new(|| {
        let mut vocab: serde_json::Map<String, Value> =
            (0..256).map(|b| (format!("<0x{b:02X}>"), json!(b))).collect();
        vocab.extend(LONGER.iter().enumerate().map(|(i, t)| ((*t).to_owned(), json!(256 + i))));
        vocab.insert("</s>".to_owned(), json!(END));
        let end = json!({ "id": END, "content": "</s>", "single_word": false, "lstrip": false, "rstrip": false,
                          "normalized": false, "special": true });
        let text = json!({
            "version": "1.0", "truncation": null, "padding": null, "post_processor": null, "pre_tokenizer": null,
            "normalizer": null, "added_tokens": [end],
            "decoder": { "type": "Sequence", "decoders": [{ "type": "ByteFallback" }, { "type": "Fuse" }] },
            "model": { "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                       "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": true,
                       "ignore_merges": false, "vocab": vocab, "merges": [] },
        });
        Arc::new(Tokenizer::new(text.to_string().as_bytes(), None).unwrap())
    });
    Arc::clone(&ONE)
}

fn grammars() -> &'static Grammars {
    // Rows of logits are longer than the vocabulary.
    static ONE: LazyLock<Grammars> = LazyLock::new(|| Grammars::new(tokenizer(), END + 30, &[END, END + 7]));
    &ONE
}

/// Follows a text byte by byte; true if it is allowed and may end there.
fn matches(grammar: &Grammar, text: &str) -> bool {
    let mut matcher = grammar.matcher();
    for byte in text.bytes() {
        if !allows(matcher.mask().unwrap(), u32::from(byte)) {
            return false;
        }
        matcher.accept(u32::from(byte)).unwrap();
    }
    matcher.is_over().unwrap() || allows(matcher.mask().unwrap(), END)
}

fn compile(spec: GrammarSpec) -> Grammar {
    grammars().compile(&spec).unwrap_or_else(|e| panic!("{e} {:?}", e.help))
}

#[test]
fn matchers_at_a_time_have_lanes_of_their_own_as_long_as_there_are_some() {
    let grammar = compile(GrammarSpec::Regex("(ab|ac){3}lanes".to_owned()));
    let mut matchers: Vec<Matcher> = (0..2 * LANES).map(|_| grammar.matcher()).collect();
    let lanes = |all: &[Matcher]| all.iter().map(Matcher::lane).collect::<Vec<_>>();
    let each: Vec<usize> = (0..LANES).collect();
    assert_eq!(lanes(&matchers[..LANES]), each);
    // Then each gets another one.
    let mut second = lanes(&matchers[LANES..]);
    second.sort_unstable();
    assert_eq!(second, each);
    for text in ["a", "b", "a", "c"] {
        let masks: Vec<Vec<u32>> = matchers.iter_mut().map(|m| m.mask().unwrap().to_vec()).collect();
        assert!(masks.iter().all(|mask| *mask == masks[0]));
        assert!(allows(&masks[0], u32::from(text.as_bytes()[0])));
        matchers.iter_mut().for_each(|m| m.accept(u32::from(text.as_bytes()[0])).unwrap());
    }
    // One that is alone is where the last one learnt.
    drop(matchers);
    assert_eq!(grammar.matcher().lane(), 0);
    assert_eq!(grammar.matcher().lane(), 0);
}

#[test]
fn each_kind_of_grammar_takes_its_texts_and_no_others() {
    let schema = json!({
        "type": "object", "additionalProperties": false, "required": ["name", "age"],
        "properties": { "name": { "type": "string", "maxLength": 3 }, "age": { "type": "integer", "minimum": 0, "maximum": 99 } },
    });
    let cases = [
        (
            GrammarSpec::JsonSchema(schema),
            vec![r#"{"name": "ab", "age": 7}"#, "{\"name\":\"\",\n\"age\":99}"],
            vec![
                r#"{"name": "abcd", "age": 7}"#,
                r#"{"name": "a"}"#,
                r#"{"name": "a", "age": 100}"#,
                "[]",
                "",
            ],
        ),
        (GrammarSpec::JsonSchema(json!(true)), vec!["1", "[true]", r#"{"a": null}"#], vec!["tru", "{a}"]),
        (GrammarSpec::JsonObject, vec!["{}", r#"{"a": [1, 2.5e3, "x\n"]}"#], vec!["[]", "1", r#"{"a"}"#]),
        (GrammarSpec::Regex("(ab|c)+[0-9]{2}".into()), vec!["abc07", "c99"], vec!["ab1", "07", "abc070"]),
        (GrammarSpec::Regex("^ab$".into()), vec!["ab"], vec!["a", "abb"]),
        (
            GrammarSpec::Lark("start: \"(\" start \")\" | \"x\"".into()),
            vec!["x", "((x))"],
            vec!["(x", "()", "xx"],
        ),
        (
            GrammarSpec::Choice(vec!["yes".into(), "no \"way\"\n".into(), "\u{e4}\u{1}".into()]),
            vec!["yes", "no \"way\"\n", "\u{e4}\u{1}"],
            vec!["no", "y", "yess"],
        ),
    ];
    for (spec, good, bad) in cases {
        let grammar = compile(spec);
        for text in good {
            assert!(matches(&grammar, text), "{grammar:?} does not take {text:?}");
        }
        for text in bad {
            assert!(!matches(&grammar, text), "{grammar:?} takes {text:?}");
        }
    }
}

#[test]
fn tokens_of_several_bytes_and_every_end_are_in_the_mask_and_nothing_else_special() {
    let grammar = compile(GrammarSpec::JsonObject);
    let mut matcher = grammar.matcher();
    let mask = matcher.mask().unwrap().to_vec();
    let set: Vec<u32> = (0..32 * mask.len() as u32).filter(|&t| allows(&mask, t)).collect();
    assert_eq!(set, [u32::from(b'{'), 257]);
    matcher.accept(257).unwrap();
    matcher.accept(u32::from(b'a')).unwrap();
    assert!(allows(matcher.mask().unwrap(), 256) && !allows(matcher.mask().unwrap(), END));
    for token in [256, 258] {
        matcher.accept(token).unwrap();
    }
    matcher.accept(u32::from(b'}')).unwrap();
    assert!(matcher.is_over().unwrap() || [END, END + 7].iter().all(|&t| allows(matcher.mask().unwrap(), t)));
    let mut matcher = grammar.matcher();
    assert!(matcher.accept(u32::from(b'[')).and_then(|()| matcher.is_over()).is_err());
}

#[test]
fn whitespace_comes_to_an_end() {
    let mut matcher = compile(GrammarSpec::JsonObject).matcher();
    matcher.accept(u32::from(b'{')).unwrap();
    let space = u32::from(b' ');
    let taken =
        (0..1000).take_while(|_| allows(matcher.mask().unwrap(), space) && matcher.accept(space).is_ok());
    assert_eq!(taken.count(), 64);
}

#[test]
fn what_is_no_grammar_is_refused_with_its_name() {
    let refused = [
        (GrammarSpec::JsonSchema(json!({ "type": "nothing" })), "the JSON schema"),
        (GrammarSpec::JsonSchema(json!({ "type": "array", "uniqueItems": true })), "uniqueItems"),
        (GrammarSpec::JsonSchema(json!({ "not": {} })), "the JSON schema"),
        (GrammarSpec::JsonSchema(json!(1)), "not an object"),
        (GrammarSpec::Regex("(".into()), "the regular expression"),
        (GrammarSpec::Regex("a(?=b)".into()), "the regular expression"),
        (GrammarSpec::Lark("start: other".into()), "the grammar"),
        (GrammarSpec::Lark(String::new()), "the grammar"),
        (GrammarSpec::Choice(vec![]), "the choice"),
        (GrammarSpec::Choice(vec!["a".into(), String::new()]), "the choice"),
        (GrammarSpec::Regex("a^b".into()), "the regular expression"),
    ];
    for (spec, part) in refused {
        let error = grammars().compile(&spec).map(|_| format!("{spec:?} is taken")).unwrap_err();
        assert!(error.message.contains(part) && error.help.is_some(), "{error:?}");
        assert!(!error.message.contains("backtrace"), "{error:?}");
    }
    let none = Grammars::new(tokenizer(), END + 1, &[]);
    assert!(none.compile(&GrammarSpec::JsonObject).is_err_and(|e| e.message.contains("end-of-sequence")));
}

#[test]
fn the_same_grammar_is_compiled_once_and_only_so_many_are_kept() {
    let spec = |i: usize| GrammarSpec::Regex(format!("x{i}"));
    let all = Grammars::new(tokenizer(), END + 1, &[END]);
    let first = all.compile(&spec(0)).unwrap();
    assert!(Arc::ptr_eq(&first.0, &all.compile(&spec(0)).unwrap().0));
    for i in 0..KEPT + 5 {
        all.compile(&spec(i)).unwrap();
    }
    assert_eq!(all.kept.lock().unwrap().len(), KEPT);
    assert!(!Arc::ptr_eq(&first.0, &all.compile(&spec(0)).unwrap().0), "it was let go");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever a model prefers, the answer is JSON of the schema, and it comes to an end.
    #[test]
    fn answers_of_any_logits_are_what_the_grammar_says(seed in any::<u64>(), temperature in prop_oneof![Just(0.0f32), 0.5f32..2.0]) {
        let schema = json!({ "type": "object", "additionalProperties": false, "required": ["a", "b"], "properties": {
            "a": { "enum": ["x", 1, null] }, "b": { "type": "array", "maxItems": 3, "items": { "type": "boolean" } } } });
        let grammar = compile(GrammarSpec::JsonSchema(schema));
        let sampling = crate::Sampling { temperature, ..crate::Sampling::default() };
        let sampler = Sampler::new(sampling, seed, &[1]);
        let (mut matcher, mut scratch, mut text) = (grammar.matcher(), Scratch::default(), Vec::new());
        for position in 0..2000u64 {
            let mut state = seed ^ position.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let mut logits: Vec<f32> = (0..END + 30).map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (state >> 40) as f32 / 2.0f32.powi(20)
            }).collect();
            let token = sampler.choose(&mut logits, position, &[], Some(matcher.mask().unwrap()), &mut scratch);
            if token == END || token == END + 7 {
                break;
            }
            text.extend_from_slice(tokenizer().token_bytes(token));
            matcher.accept(token).unwrap();
            if matcher.is_over().unwrap() {
                break;
            }
        }
        let value: Value = serde_json::from_slice(&text).unwrap();
        prop_assert!([json!("x"), json!(1), json!(null)].contains(&value["a"]), "{value}");
        prop_assert!(value["b"].as_array().is_some_and(|b| b.len() <= 3 && b.iter().all(Value::is_boolean)), "{value}");
        prop_assert_eq!(value.as_object().map(|o| o.len()), Some(2));
    }
}
