//! Small tokenizers of both families, against the tokenizers crate; streams against whole texts; templates.

use super::*;
use crate::error::Fault;
use proptest::prelude::*;
use serde_json::json;
use std::sync::{Arc, LazyLock};

/// A byte-level BPE: all 256 bytes, a few merges, two special tokens and one that is not.
fn byte_level() -> serde_json::Value {
    let plain = |b: u32| (33..=126).contains(&b) || (161..=172).contains(&b) || (174..=255).contains(&b);
    let mut next = 256;
    let chars: Vec<String> = (0..256u32)
        .map(|b| {
            let c = if plain(b) {
                b
            } else {
                next += 1;
                next - 1
            };
            char::from_u32(c).unwrap().to_string()
        })
        .collect();
    let merges = ["h e", "l l", "he ll", "hell o", "\u{120} w", "\u{c3} \u{a4}"];
    let mut vocab: Vec<String> = chars;
    vocab.extend(merges.iter().map(|m| m.replace(' ', "")));
    let vocab: serde_json::Map<String, serde_json::Value> =
        vocab.into_iter().enumerate().map(|(i, t)| (t, i.into())).collect();
    let n = vocab.len();
    let added = |id: usize, content: &str, special: bool| {
        json!({ "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": special })
    };
    json!({
        "version": "1.0", "normalizer": null, "post_processor": null,
        // Both must be switched off.
        "truncation": { "direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0 },
        "padding": { "strategy": { "Fixed": 7 }, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 0,
                     "pad_type_id": 0, "pad_token": "!" },
        "added_tokens": [added(n, "<s>", true), added(n + 1, "</s>", true), added(n + 2, "<think\u{4e00}>", false)],
        "pre_tokenizer": { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true },
        "decoder": { "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true },
        "model": { "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                   "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
                   "vocab": vocab, "merges": merges },
    })
}

/// A SentencePiece-like BPE with byte fallback.
fn sentence_piece(decoder: serde_json::Value) -> serde_json::Value {
    let mut tokens = vec!["<unk>".to_string(), "<s>".into(), "</s>".into()];
    tokens.extend((0..256).map(|b| format!("<0x{b:02X}>")));
    tokens.extend(["\u{2581}", "a", "b", "\u{e4}", "\u{2581}a", "\u{2581}\u{2581}", "ab"].map(String::from));
    let vocab: serde_json::Map<String, serde_json::Value> =
        tokens.into_iter().enumerate().map(|(i, t)| (t, i.into())).collect();
    let special = |id: u32, content: &str| {
        json!({ "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": true })
    };
    json!({
        "version": "1.0", "truncation": null, "padding": null, "post_processor": null, "pre_tokenizer": null,
        "added_tokens": [special(0, "<unk>"), special(1, "<s>"), special(2, "</s>")],
        "normalizer": { "type": "Sequence", "normalizers": [
            { "type": "Prepend", "prepend": "\u{2581}" },
            { "type": "Replace", "pattern": { "String": " " }, "content": "\u{2581}" } ] },
        "decoder": decoder,
        "model": { "type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null,
                   "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "ignore_merges": false,
                   "vocab": vocab, "merges": ["\u{2581} \u{2581}", "\u{2581} a", "a b"] },
    })
}

fn llama_decoder() -> serde_json::Value {
    json!({ "type": "Sequence", "decoders": [
        { "type": "Replace", "pattern": { "String": "\u{2581}" }, "content": " " },
        { "type": "ByteFallback" }, { "type": "Fuse" },
        { "type": "Strip", "content": " ", "start": 1, "stop": 0 } ] })
}

fn metaspace_decoder(scheme: &str) -> serde_json::Value {
    json!({ "type": "Metaspace", "replacement": "\u{2581}", "prepend_scheme": scheme, "split": true })
}

fn load(json: &serde_json::Value) -> Tokenizer {
    Tokenizer::new(json.to_string().as_bytes(), None).unwrap()
}

/// All the kinds of decoders, each with the crate's own tokenizer beside it.
static ALL: LazyLock<Vec<(Tokenizer, tokenizers::Tokenizer)>> = LazyLock::new(|| {
    let jsons = [
        byte_level(),
        sentence_piece(llama_decoder()),
        sentence_piece(metaspace_decoder("always")),
        sentence_piece(metaspace_decoder("never")),
        sentence_piece(serde_json::Value::Null),
    ];
    jsons.iter().map(|j| (load(j), tokenizers::Tokenizer::from_bytes(j.to_string()).unwrap())).collect()
});

#[test]
fn encoding_adds_bos_only_when_asked_twice() {
    let json = byte_level().to_string();
    let without = Tokenizer::new(json.as_bytes(), None).unwrap();
    let (hello, bos) = (without.token_id("hello").unwrap(), without.token_id("<s>").unwrap());
    let with = Tokenizer::new(json.as_bytes(), Some(bos)).unwrap();
    let w = with.token_id("\u{120}w").unwrap();
    assert_eq!(with.encode("hello w", true).unwrap(), [bos, hello, w]);
    assert_eq!(with.encode("<s>hello w", true).unwrap(), [bos, hello, w]);
    assert_eq!(with.encode("hello w", false).unwrap(), [hello, w]);
    assert_eq!(without.encode("hello w", true).unwrap(), [hello, w]);
    // Longer than the truncation, shorter than the padding of the file; special tokens are recognised.
    assert_eq!(without.encode("<s>hello w<s>", false).unwrap(), [bos, hello, w, bos]);
    assert!(with.is_special(bos) && !with.is_special(hello) && !with.is_special(u32::MAX));
    assert_eq!(with.token(bos).as_deref(), Some("<s>"));
}

#[test]
fn known_texts() {
    let t = load(&byte_level());
    assert_eq!(
        t.decode(&t.encode("hello w\u{e4}\u{1f600} <think\u{4e00}>", false).unwrap()),
        "hello w\u{e4}\u{1f600} <think\u{4e00}>"
    );
    assert_eq!(t.decode(&[t.token_id("<s>").unwrap(), t.token_id("hello").unwrap(), 9_999_999]), "hello");
    assert_eq!(t.decode(&[0xf0, u32::from(b'a')].map(|b| byte_id(&t, b as u8))), "\u{fffd}a");
    assert_eq!(t.decode(&[byte_id(&t, 0xe4)]), "\u{fffd}");

    let t = load(&sentence_piece(llama_decoder()));
    assert_eq!(t.decode(&t.encode("a b\u{1f600}  ab", false).unwrap()), "a b\u{1f600}  ab");
    let id = |s: &str| t.token_id(s).unwrap();
    // One space of the beginning goes, wherever special tokens are; later ones stay.
    assert_eq!(t.decode(&[id("\u{2581}\u{2581}"), id("\u{2581}a")]), "  a");
    assert_eq!(t.decode(&[1, id("\u{2581}"), id("\u{2581}a"), 2, id("\u{2581}")]), " a ");
    assert_eq!(t.decode(&[id("b"), id("\u{2581}a")]), "b a");
}

/// The token of a byte of the byte-level vocabulary.
fn byte_id(t: &Tokenizer, byte: u8) -> u32 {
    (0..256).find(|&i| t.token_bytes(i) == [byte]).unwrap()
}

#[test]
fn tokenizers_that_do_not_fit_are_refused() {
    let fault = |json: &[u8]| Tokenizer::new(json, None).unwrap_err().fault;
    assert_eq!(fault(b"{}"), Fault::User);
    assert_eq!(fault(b"\xff\0"), Fault::User);
    let word_piece = sentence_piece(json!({ "type": "WordPiece", "prefix": "##", "cleanup": true }));
    assert_eq!(fault(word_piece.to_string().as_bytes()), Fault::Unsupported);
}

#[test]
fn a_stream_holds_back_characters_and_stops() {
    let t = Arc::new(load(&byte_level()));
    let mut s = TextStream::new(Arc::clone(&t), vec!["wo".into()]);
    let text = |s: &mut TextStream, b: u8, may_stop: bool| {
        let mut out = "before".to_owned();
        let stopped = s.push(byte_id(&t, b), may_stop, &mut out);
        (out.strip_prefix("before").unwrap().to_owned(), stopped)
    };
    let rest = |s: &mut TextStream| {
        let mut out = String::new();
        s.finish(&mut out);
        out
    };
    let mut push = |b: u8| text(&mut s, b, true);
    assert_eq!(push(0xc3), (String::new(), false));
    assert_eq!(push(0xa4), ("\u{e4}".into(), false));
    assert_eq!(push(b'w'), (String::new(), false));
    assert_eq!(push(b'x'), ("wx".into(), false));
    assert_eq!(push(b'w'), (String::new(), false));
    assert_eq!(push(b'o'), (String::new(), true));
    assert_eq!(rest(&mut s), "");

    let mut s = TextStream::new(Arc::clone(&t), vec!["wo".into()]);
    assert_eq!(text(&mut s, b'w', false).0, "");
    assert_eq!(text(&mut s, b'o', false), ("wo".into(), false));
    assert_eq!(text(&mut s, b'w', false).0, "");
    assert_eq!(text(&mut s, 0xe4, false).0, "");
    assert_eq!(rest(&mut s), "w\u{fffd}");
}

proptest! {
    #[test]
    fn decoding_is_that_of_the_tokenizers_crate(text in "[ab\u{e4}\u{1f600} hello]{0,30}", which in 0usize..5) {
        let (t, reference) = &ALL[which];
        let ids = t.encode(&text, false).unwrap();
        prop_assert_eq!(t.decode(&ids), reference.decode(&ids, true).unwrap());
    }

    #[test]
    fn any_tokens_stream_as_they_decode(ids in proptest::collection::vec(0u32..300, 0..40), which in 0usize..5) {
        let (t, reference) = &ALL[which];
        let mut stream = Detokenizer::default();
        let mut whole = String::new();
        for &id in &ids {
            let mut piece = String::new();
            stream.push(t, id, &mut piece);
            whole.push_str(&piece);
        }
        stream.finish(&mut whole);
        prop_assert_eq!(&whole, &t.decode(&ids));
        // The crate replaces each byte of a run that is no UTF-8 and joins without a decoder; else they agree.
        let want = reference.decode(&ids, true).unwrap();
        if which == 0 || !whole.contains('\u{fffd}') && !want.contains('\u{fffd}') && which != 4 {
            prop_assert_eq!(whole, want);
        }
    }

    #[test]
    fn stops_do_not_depend_on_the_pieces(
        text in "[ab\u{e4}]{0,24}", stops in proptest::collection::vec("[ab\u{e4}]{0,4}", 0..4),
        cuts in proptest::collection::vec(0usize..6, 1..20),
    ) {
        // By the definition: the stop string that is complete first, of those the one that begins first.
        let found = stops.iter().filter(|s| !s.is_empty()).filter_map(|s| text.find(s.as_str()).map(|b| (b + s.len(), b)));
        let want = found.min().map_or(text.as_str(), |(_, begin)| &text[..begin]);
        let mut matcher = StopMatcher::new(stops.clone(), 0);
        let mut out = String::new();
        let chars: Vec<char> = text.chars().collect();
        let (mut at, mut stopped) = (0, false);
        for cut in cuts.iter().cycle().take(200) {
            let piece: String = chars[at.min(chars.len())..(at + cut).min(chars.len())].iter().collect();
            at += cut;
            let begin = out.len();
            out.push_str(&piece);
            stopped |= matcher.filter(&mut out, begin, true);
            prop_assert!(text.starts_with(&out));
        }
        matcher.finish(&mut out);
        if cuts.iter().any(|&c| c > 0) && at >= chars.len() {
            prop_assert_eq!(&out, want);
            prop_assert_eq!(stopped, want.len() < text.len() || stops.iter().any(|s| !s.is_empty() && text.ends_with(s.as_str())));
        }
    }
}

const CHATML: &str = "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + \
    '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

fn message(role: &str, content: &str) -> Message {
    Message::new(role, content)
}

fn render(source: &str) -> Result<String, crate::Error> {
    ChatTemplate::new(source, Some("<s>"), None)?.render(
        &[message("user", "a <b> & \u{e4}"), message("x", " y ")],
        &[],
        true,
    )
}

#[test]
fn chat_templates() {
    let t = ChatTemplate::new(CHATML, None, None).unwrap();
    let chat = [message("user", "hi"), message("assistant", "yes?")];
    let plain = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\nyes?<|im_end|>\n";
    assert_eq!(t.render(&chat, &[], false).unwrap(), plain);
    assert_eq!(t.render(&chat, &[], true).unwrap(), format!("{plain}<|im_start|>assistant\n"));
    for (source, want) in [
        ("{{ bos_token }}{{ eos_token }}.", "<s>."),
        ("{% if true %}\n  a\n{% endif %}\nb", "  a\nb"),
        ("{{ messages[1].content.strip() | upper }}", "Y"),
        ("{{ messages[0]['content'].split(' ')[-1] }}", "\u{e4}"),
        (
            "{% set ns = namespace(x=1) %}{% for m in messages %}{% set ns.x = ns.x + 1 %}{% endfor %}{{ ns.x }}",
            "3",
        ),
        (
            "{% for m in messages %}{% if loop.index0 == 1 %}{% break %}{% endif %}{{ m.role }}{% endfor %}",
            "user",
        ),
        ("{% for m in messages[::-1] %}{{ m.role }}{% endfor %}", "xuser"),
        ("{{ {'a': [1, 'a <b>'], 'b': none} | tojson }}", "{\"a\": [1, \"a <b>\"], \"b\": null}"),
        ("{{ [1] | tojson(indent=2) }}", "[\n  1\n]"),
        ("{%- generation -%} a {%- endgeneration -%} b", "ab"),
        ("{% if tools is defined and tools %}t{% else %}n{% endif %}", "n"),
        ("{% if not strftime_now('%Y').startswith('20') %}when?{% endif %}", ""),
        ("{% macro f(x) %}[{{ x }}]{% endmacro %}{{ f(1) }}", "[1]"),
    ] {
        assert_eq!(render(source).as_deref(), Ok(want), "{source}");
    }
}

#[test]
fn chat_templates_that_fail_say_why() {
    let error = |source: &str| render(source).unwrap_err();
    assert_eq!(
        error("{{ raise_exception('roles must alternate') }}").message,
        "the model's chat template: roles must alternate"
    );
    assert!(error("{% if %}").message.contains("line 1"));
    assert!(error("{{ strftime_now('%Q') }}").message.contains("%Q"));
    assert!(error("{{ [1] | tojson(sort_keys=true) }}").message.contains("sort_keys"));
    let endless = "{% macro f() %}{% for i in range(10000) %}{% for j in range(10000) %}{% endfor %}{% endfor %}\
        {% endmacro %}{{ f() }}";
    assert!(error(endless).message.contains("does not come to an end"));
    // Values that would overflow the stack, take all memory, or be printed without end.
    let kept = |value: &str, then: &str| {
        error(&format!("{{% set ns = namespace(x=[1]) %}}{{% for i in range(90000) %}}{{% set ns.x = {value} %}}{{% endfor %}}{then}"))
            .message
    };
    assert!(kept("[ns.x]", "{{ ns.x }}").contains("too deeply"));
    assert!(kept("{'a': ns.x}", "{{ ns.x == ns.x }}").contains("too deeply"));
    assert!(kept("[ns.x, ns.x]", "{{ ns.x | tojson }}").contains("too many values"));
    assert!(kept("ns", "{{ ns | tojson }}").contains("a namespace in a namespace"));
    assert!(kept("ns.x ~ ns.x", "").contains("does not come to an end"));
    let straight = format!("{{% set x = 1 %}}{}{{{{ x }}}}", "{% set x = [x] %}".repeat(5000));
    assert!(error(&straight).message.contains("too deeply"));
    assert!(error("{% set __trtc_budget = 1 %}{% set x = 2 %}").message.contains("not its own"));
    assert!(error("{{ '%999999999d' | format(1) }}").message.contains("does not come to an end"));
    assert!(
        [CHATML, "{{ nothing.at.all }}", "{% for %}", "{{"]
            .iter()
            .all(|s| render(s).map_err(|e| e.fault) != Err(Fault::Bug))
    );
}
