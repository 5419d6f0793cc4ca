//! The tokenizer of an engine: a `tokenizer.json` and the rule for the BOS token.

use crate::error::Error;

/// Turns text into tokens and back.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    bos: Option<u32>,
}

impl Tokenizer {
    /// Reads a `tokenizer.json`. `bos` is the token that prompts begin with, if the model wants one.
    pub fn new(json: &[u8], bos: Option<u32>) -> Result<Tokenizer, Error> {
        let inner = tokenizers::Tokenizer::from_bytes(json)
            .map_err(|e| Error::user(format!("the engine's tokenizer cannot be read: {e}")).help("build the engine again"))?;
        Ok(Tokenizer { inner, bos })
    }

    /// Tokens of a text. Special tokens written out in the text are taken as such. A BOS token comes first if the
    /// model wants one and the text does not begin with it.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, Error> {
        let encoded = self
            .inner
            .encode_fast(text, false)
            .map_err(|e| Error::user(format!("the text cannot be tokenised: {e}")))?;
        let ids = encoded.get_ids();
        let bos = self.bos.filter(|bos| ids.first() != Some(bos));
        Ok(bos.into_iter().chain(ids.iter().copied()).collect())
    }

    /// Text of tokens; special ones have none. A cut character shows as U+FFFD.
    pub fn decode(&self, tokens: &[u32]) -> Result<String, Error> {
        self.inner.decode(tokens, true).map_err(|e| Error::bug(format!("tokens cannot be turned into text: {e}")))
    }

    /// A token as the vocabulary spells it, special ones too.
    pub fn piece(&self, token: u32) -> Option<String> {
        self.inner.id_to_token(token)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A byte-level vocabulary of the 256 bytes, one merge and an end token.
    pub fn bytes() -> Tokenizer {
        let alphabet: Vec<char> = {
            let printable = |b: &u32| matches!(b, 33..=126 | 161..=172 | 174..=255);
            let mut spare = 256..;
            (0..256).map(|b| if printable(&b) { b } else { spare.next().unwrap() }).filter_map(char::from_u32).collect()
        };
        let mut vocab: serde_json::Map<String, serde_json::Value> =
            alphabet.iter().enumerate().map(|(i, c)| (c.to_string(), i.into())).collect();
        vocab.insert("ab".into(), 256.into());
        let json = serde_json::json!({
            "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "post_processor": null,
            "added_tokens": [{ "id": 257, "content": "<end>", "special": true, "single_word": false, "lstrip": false,
                               "rstrip": false, "normalized": false }],
            "pre_tokenizer": { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false },
            "decoder": { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false },
            "model": { "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                       "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
                       "vocab": vocab, "merges": [["a", "b"]] }
        });
        Tokenizer::new(json.to_string().as_bytes(), None).unwrap()
    }

    /// Words with a leading mark for the space before them, and bytes for what is not in the vocabulary.
    pub fn pieces(bos: Option<u32>) -> Tokenizer {
        let mut vocab = serde_json::Map::new();
        for (i, piece) in ["<unk>", "<s>", "</s>", "▁a", "▁b", "a", "b", "▁"].iter().enumerate() {
            vocab.insert((*piece).into(), i.into());
        }
        for b in 0..256 {
            vocab.insert(format!("<0x{b:02X}>"), (8 + b).into());
        }
        let json = serde_json::json!({
            "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "post_processor": null,
            "added_tokens": [{ "id": 1, "content": "<s>", "special": true, "single_word": false, "lstrip": false,
                               "rstrip": false, "normalized": false }],
            "pre_tokenizer": { "type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": false },
            "decoder": { "type": "Sequence", "decoders": [
                { "type": "Replace", "pattern": { "String": "▁" }, "content": " " }, { "type": "ByteFallback" },
                { "type": "Fuse" }, { "type": "Strip", "content": " ", "start": 1, "stop": 0 }] },
            "model": { "type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null,
                       "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "ignore_merges": false,
                       "vocab": vocab, "merges": [["▁", "a"], ["▁", "b"]] }
        });
        Tokenizer::new(json.to_string().as_bytes(), bos).unwrap()
    }

    #[test]
    fn text_and_back() {
        let t = bytes();
        let ids = t.encode("ab é<end>").unwrap();
        assert_eq!(ids, [256, 32, 0xc3, 0xa9, 257]);
        assert_eq!(t.decode(&ids).unwrap(), "ab é");
        assert_eq!(t.piece(257).as_deref(), Some("<end>"));
    }

    #[test]
    fn bos_comes_once() {
        let t = pieces(Some(1));
        assert_eq!(t.encode("a b").unwrap(), [1, 3, 4]);
        assert_eq!(t.encode("<s>a").unwrap()[0], 1);
        assert_ne!(t.encode("<s>a").unwrap()[1], 1);
        assert_eq!(t.decode(&[1, 3, 4]).unwrap(), "a b");
    }

    #[test]
    fn not_a_tokenizer() {
        assert!(Tokenizer::new(b"{}", None).is_err());
    }
}
