//! Rebuilt tokenizers, loaded by the library that the runtime uses.

use super::*;
use crate::frontend::gguf::fixture::Gguf;
use crate::frontend::gguf::parse_header;
use tokenizers::Tokenizer;

fn read(file: &Gguf) -> Result<(TokenizerData, Vec<u32>, Option<u32>), Diag> {
    let bytes = file.build();
    let loc = Loc::name("m.gguf");
    let header = parse_header(&bytes, &loc)?;
    let v = Vocabulary::read(&header, &bytes, &loc)?.expect("there is a vocabulary");
    Ok((v.tokenizer()?, v.ends(), v.bos()))
}

fn error(file: &Gguf) -> String {
    read(file).expect_err("the vocabulary is broken").to_string()
}

fn ids(json: &str, text: &str) -> Vec<u32> {
    Tokenizer::from_bytes(json.as_bytes()).unwrap().encode(text, true).unwrap().get_ids().to_vec()
}

fn decode(json: &str, ids: &[u32]) -> String {
    Tokenizer::from_bytes(json.as_bytes()).unwrap().decode(ids, false).unwrap()
}

/// SentencePiece: pieces, their scores and kinds.
fn spm(pieces: &[(&str, f32, i32)]) -> Gguf {
    let words: Vec<&str> = pieces.iter().map(|p| p.0).collect();
    let scores: Vec<f32> = pieces.iter().map(|p| p.1).collect();
    let kinds: Vec<i32> = pieces.iter().map(|p| p.2).collect();
    Gguf::default()
        .str("tokenizer.ggml.model", "llama")
        .strings("tokenizer.ggml.tokens", &words)
        .f32s("tokenizer.ggml.scores", &scores)
        .i32s("tokenizer.ggml.token_type", &kinds)
}

const PIECES: [(&str, f32, i32); 14] = [
    ("<unk>", 0.0, 2),
    ("<s>", 0.0, 3),
    ("</s>", 0.0, 3),
    ("<0x0A>", 0.0, 6),
    ("<0xC3>", 0.0, 6),
    ("<0xA9>", 0.0, 6),
    ("▁a", -1.0, 1),
    ("bc", -2.0, 1),
    ("ab", -3.0, 1),
    ("▁", -4.0, 1),
    ("a", -5.0, 1),
    ("b", -6.0, 1),
    ("c", -7.0, 1),
    ("▁▁", 0.0, 4),
];

#[test]
fn sentencepiece_joins_the_best_piece_first() {
    let (t, ends, bos) = read(&spm(&PIECES)).unwrap();
    // The prefix space makes "▁abc": "▁a" beats "ab", then "bc".
    assert_eq!(ids(&t.json, "abc"), [6, 7]);
    // A new line and an é have no piece: bytes.
    assert_eq!(ids(&t.json, "a\n\u{e9}"), [6, 3, 4, 5]);
    // Something without piece or bytes is unknown.
    assert_eq!(ids(&t.json, "a?"), [6, 0]);
    assert_eq!(decode(&t.json, &[6, 7, 3]), "abc\n");
    assert_eq!((t.add_bos, bos, ends), (true, Some(1), vec![2]));
    assert_eq!((t.bos_token.as_deref(), t.eos_token.as_deref()), (Some("<s>"), Some("</s>")));
}

#[test]
fn special_and_user_defined_pieces_are_found_in_the_text() {
    let plain = spm(&PIECES).bool("tokenizer.ggml.add_space_prefix", false);
    let (t, ..) = read(&plain).unwrap();
    assert_eq!(ids(&t.json, "abc"), [10, 7]);
    // Two spaces are the user-defined piece, although the file writes it with the marks of spaces.
    assert_eq!(ids(&t.json, "c  c</s>"), [12, 13, 12, 2]);
    assert_eq!(decode(&t.json, &[12, 13, 12]), "c  c");
    assert_eq!(decode(&t.json, &[6, 12]), " ac");
}

fn bpe(pre: &str) -> Gguf {
    Gguf::default()
        .str("tokenizer.ggml.model", "gpt2")
        .str("tokenizer.ggml.pre", pre)
        .strings(
            "tokenizer.ggml.tokens",
            &["<|endoftext|>", "a", "b", "1", "2", "12", "ab", "Ġ", "Ġa", "abb", "<|im_end|>", "<tool>"],
        )
        .i32s("tokenizer.ggml.token_type", &[3, 1, 1, 1, 1, 1, 1, 1, 1, 1, 3, 4])
        .strings("tokenizer.ggml.merges", &["Ġ a", "a b", "1 2"])
        .u32("tokenizer.ggml.eos_token_id", 0)
        .str("tokenizer.chat_template", "{{ messages }}")
}

#[test]
fn each_way_of_splitting_loads_and_splits() {
    // (name, digits one by one, a word that is a token is taken whole, BOS by default)
    let cases = [
        ("gpt-2", false, false),
        ("default", false, false),
        ("smollm", true, false),
        ("qwen2", true, false),
        ("tekken", true, true),
        ("llama-bpe", false, true),
        ("gpt-4o", false, false),
        ("deepseek-v3", false, false),
        ("dbrx", false, false),
    ];
    for (pre, digits, whole) in cases {
        let file = bpe(pre).bool("tokenizer.ggml.add_bos_token", false);
        let (t, ends, bos) = read(&file).unwrap();
        assert_eq!(ids(&t.json, "12"), if digits { vec![3, 4] } else { vec![5] }, "{pre}");
        assert_eq!(ids(&t.json, "abb"), if whole { vec![9] } else { vec![6, 2] }, "{pre}");
        assert_eq!(ids(&t.json, "b a<|im_end|>a<tool>"), [2, 8, 10, 1, 11], "{pre}");
        assert_eq!(decode(&t.json, &[2, 8, 10]), "b a<|im_end|>", "{pre}");
        assert_eq!((bos, ends), (None, vec![0, 10]));
        assert_eq!(t.chat_template.as_deref(), Some("{{ messages }}"));
    }
}

#[test]
fn the_same_file_gives_the_same_bytes() {
    assert_eq!(read(&bpe("qwen2")).unwrap().0, read(&bpe("qwen2")).unwrap().0);
}

#[test]
fn a_file_without_a_vocabulary() {
    let bytes = Gguf::default().u32("n", 1).build();
    let header = parse_header(&bytes, &Loc::Unknown).unwrap();
    assert!(Vocabulary::read(&header, &bytes, &Loc::Unknown).unwrap().is_none());
}

#[test]
fn errors_name_the_key() {
    assert!(error(&bpe("brand-new")).contains("`tokenizer.ggml.pre` is \"brand-new\""));
    assert!(error(&bpe("brand-new")).contains("smollm"));
    let bert = Gguf::default().str("tokenizer.ggml.model", "bert").strings("tokenizer.ggml.tokens", &["a"]);
    assert!(error(&bert).contains("`tokenizer.ggml.model` is \"bert\""));
    let empty = Gguf::default().str("tokenizer.ggml.model", "llama");
    assert!(error(&empty).contains("`tokenizer.ggml.tokens` is missing"));
    let twice = spm(&[("a", 0.0, 1), ("b", 0.0, 1), ("a", 0.0, 1)]);
    assert!(error(&twice).contains("tokens 0 and 2 of the vocabulary are both \"a\""));
    assert!(error(&bpe("gpt-2").u32("tokenizer.ggml.bos_token_id", 99)).contains("a token id below 12"));
    assert!(error(&bpe("llama-bpe")).contains("`tokenizer.ggml.bos_token_id` is missing"));
    assert!(error(&bpe("gpt-2").u32("tokenizer.ggml.add_bos_token", 1)).contains("must be true or false"));
    let short = Gguf::default()
        .str("tokenizer.ggml.model", "llama")
        .strings("tokenizer.ggml.tokens", &["a", "b"])
        .f32s("tokenizer.ggml.scores", &[0.0]);
    assert!(error(&short).contains("has 1 entries for 2 tokens"));
    let no_merges =
        Gguf::default().str("tokenizer.ggml.model", "gpt2").strings("tokenizer.ggml.tokens", &["a"]);
    assert!(error(&no_merges).contains("`tokenizer.ggml.merges` is missing"));
    for merge in ["ab", "a x", "", " "] {
        let file = Gguf::default()
            .str("tokenizer.ggml.model", "gpt2")
            .strings("tokenizer.ggml.tokens", &["a", "b"])
            .strings("tokenizer.ggml.merges", &[merge]);
        assert!(error(&file).contains("merge 0"), "{merge:?}");
    }
}
