//! A tokenizer's vocabulary as llguidance wants it: the bytes of each token in a trie.

use crate::error::Error;
use crate::text::Tokenizer;
use llguidance::toktrie::{TokRxInfo, TokTrie};

/// The bytes of each of `vocab` tokens. Special tokens have a mark before their names that no text has; what is no token has
/// no bytes and is never allowed.
pub(super) fn trie(tokenizer: &Tokenizer, vocab: u32, ends: &[u32]) -> Result<TokTrie, Error> {
    let none = || {
        Error::unsupported("the model has no end-of-sequence token, and answers of a grammar end with one")
            .help("ask without a grammar")
    };
    let &end = ends.first().ok_or_else(none)?;
    if tokenizer.puts_spaces() {
        return Err(Error::unsupported(
            "the tokenizer puts spaces between tokens, and grammars are of what tokens say",
        )
        .help("ask without a grammar"));
    }
    let special = |name: String| [&[TokTrie::SPECIAL_TOKEN_MARKER], name.as_bytes()].concat();
    let bytes = |id: u32| {
        if id >= tokenizer.vocab() {
            // An end that the tokenizer does not know must have a name as well.
            return if ends.contains(&id) { special(format!("<end {id}>")) } else { Vec::new() };
        }
        match tokenizer.token_bytes(id) {
            [] => tokenizer.token(id).map(special).unwrap_or_default(),
            text => text.to_vec(),
        }
    };
    let words: Vec<Vec<u8>> = (0..vocab).map(bytes).collect();
    let info = TokRxInfo {
        vocab_size: vocab,
        tok_eos: end,
        tok_bos: None,
        tok_pad: None,
        tok_unk: None,
        tok_end_of_turn: None,
    };
    Ok(TokTrie::from(&info, &words).with_eos_tokens(ends))
}
