//! What an answer may look like: grammars, compiled to the tokens that may come next.
//!
//! A [`GrammarSpec`] is what a caller writes; [`Grammars`] compiles it for a vocabulary, on any thread, to a [`Grammar`] that
//! requests share; a [`Matcher`] follows one answer. Parsing and the masks are llguidance's
//! (<https://github.com/guidance-ai/llguidance>); which token is chosen of those that are allowed is [`crate::sample`]'s business.

mod spec;
#[cfg(test)]
mod tests;
mod vocabulary;

pub use spec::{GrammarSpec, lark_json};

use crate::error::Error;
use crate::text::Tokenizer;
use llguidance::api::ParserLimits;
use llguidance::toktrie::{ApproximateTokEnv, SimpleVob, TokEnv};
use llguidance::{ParserFactory, TokenParser};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// Compiled grammars that are kept: clients send the same few with every request.
const KEPT: usize = 64;

/// Copies of what the parsers of a grammar learn of texts, at most: parsers that share one wait for each other.
pub const LANES: usize = 16;

/// Compiles grammars for one vocabulary. What all of them share is made with the first.
pub struct Grammars {
    tokenizer: Arc<Tokenizer>,
    /// Entries of a row of logits; the tokenizer may have fewer tokens.
    vocab: u32,
    /// Tokens that end an answer.
    ends: Vec<u32>,
    factory: OnceLock<Result<ParserFactory, Error>>,
    /// The latest is the last.
    kept: Mutex<VecDeque<Grammar>>,
}

impl std::fmt::Debug for Grammars {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Grammars")
            .field("vocab", &self.vocab)
            .field("ends", &self.ends)
            .finish_non_exhaustive()
    }
}

impl Grammars {
    /// For rows of logits of `vocab` entries, where answers end with one of `ends`.
    pub fn new(tokenizer: Arc<Tokenizer>, vocab: u32, ends: &[u32]) -> Grammars {
        let ends = ends.iter().copied().filter(|&t| t < vocab).collect();
        Grammars { tokenizer, vocab, ends, factory: OnceLock::new(), kept: Mutex::default() }
    }

    /// Compiles a grammar; takes a millisecond or so, and up to seconds for huge ones.
    ///
    /// # Errors
    /// It is none, asks for what cannot be honoured, matches nothing, or is too large.
    pub fn compile(&self, spec: &GrammarSpec) -> Result<Grammar, Error> {
        let kept = || self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = kept().iter().find(|g| g.0.spec == *spec) {
            return Ok(found.clone());
        }
        let factory = self.factory.get_or_init(|| self.factory()).as_ref().map_err(Clone::clone)?;
        let wrong =
            |e: String| Error::user(format!("{} is not taken: {}", spec.name(), e.trim())).help(spec.help());
        let parser =
            factory.create_parser(spec.lower().map_err(wrong)?).map_err(|e| wrong(format!("{e:#}")))?;
        let mut first = Matcher::new(parser);
        // A grammar that nothing matches, or whose first mask is beyond all bounds.
        let mask = first.mask().map_err(|e| wrong(e.message))?;
        if mask.iter().all(|&word| word == 0) {
            return Err(wrong("no text matches it".to_owned()));
        }
        let lanes = Mutex::new(vec![Lane { first: first.inner, live: Arc::new(()) }]);
        let grammar = Grammar(Arc::new(Compiled { spec: spec.clone(), lanes }));
        let mut kept = kept();
        if kept.len() == KEPT {
            kept.pop_front();
        }
        kept.push_back(grammar.clone());
        Ok(grammar)
    }

    fn factory(&self) -> Result<ParserFactory, Error> {
        let trie = vocabulary::trie(&self.tokenizer, self.vocab, &self.ends)?;
        let env: TokEnv = Arc::new(ApproximateTokEnv::new(trie));
        let mut factory = ParserFactory::new_simple(&env)
            .map_err(|e| Error::bug(format!("grammars cannot be made for this vocabulary: {e:#}")))?;
        // Errors are told to clients: not with the text of their answers, and not on stderr.
        factory.quiet();
        *factory.limits_mut() = ParserLimits { verbose_errors: false, ..ParserLimits::default() };
        Ok(factory)
    }
}

/// A compiled grammar, to be shared by requests.
#[derive(Clone)]
pub struct Grammar(Arc<Compiled>);

struct Compiled {
    spec: GrammarSpec,
    /// The first is there from the beginning.
    lanes: Mutex<Vec<Lane>>,
}

/// What parsers share.
struct Lane {
    /// At the beginning of a text.
    first: llguidance::Matcher,
    /// Held by each matcher of the lane.
    live: Arc<()>,
}

impl Grammar {
    /// What it was compiled from.
    pub fn spec(&self) -> &GrammarSpec {
        &self.0.spec
    }

    /// Follows one answer from its beginning, in the lane that has the fewest.
    pub fn matcher(&self) -> Matcher {
        let mut lanes = self.0.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        let load = |lane: &Lane| Arc::strong_count(&lane.live);
        let least = (0..lanes.len()).min_by_key(|&i| load(&lanes[i])).unwrap_or_default();
        let lane = if load(&lanes[least]) > 1 && lanes.len() < LANES {
            let first = lanes[0].first.deep_clone();
            lanes.push(Lane { first, live: Arc::new(()) });
            lanes.len() - 1
        } else {
            least
        };
        let Lane { first, live } = &lanes[lane];
        Matcher { inner: first.clone(), mask: None, last: None, lane: Some((lane, Arc::clone(live))) }
    }
}

impl std::fmt::Debug for Grammar {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Grammar").field(self.spec()).finish()
    }
}

impl PartialEq for Grammar {
    fn eq(&self, other: &Grammar) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.spec() == other.spec()
    }
}

/// Follows one answer.
pub struct Matcher {
    inner: llguidance::Matcher,
    /// Of the place where it is, once it was asked for.
    mask: Option<SimpleVob>,
    /// The last token, if the parser was not told yet.
    last: Option<u32>,
    /// Its lane, below [`LANES`], and what tells the lane that it is alive; none for the first of a grammar.
    lane: Option<(usize, Arc<()>)>,
}

impl std::fmt::Debug for Matcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Matcher").finish_non_exhaustive()
    }
}

impl Matcher {
    fn new(parser: TokenParser) -> Matcher {
        Matcher { inner: llguidance::Matcher::new(Ok(parser)), mask: None, last: None, lane: None }
    }

    /// Matchers of one lane wait for each other, so one thread should make their masks.
    pub fn lane(&self) -> usize {
        self.lane.as_ref().map_or(0, |(lane, _)| *lane)
    }

    /// The tokens that may come next, a bit each, the lowest of a word first. An end-of-sequence token is among them where
    /// the text may end.
    ///
    /// # Errors
    /// The grammar is so ambiguous here that the parser gave up.
    pub fn mask(&mut self) -> Result<&[u32], Error> {
        self.catch_up()?;
        if self.mask.is_none() {
            self.mask = Some(self.inner.compute_mask_or_eos().map_err(gave_up)?);
        }
        Ok(self.mask.as_ref().map_or(&[], |m| m.as_slice()))
    }

    /// Goes on with a token that the mask allows. The parser is told when it is asked next, which may be on another thread.
    ///
    /// # Errors
    /// The mask did not allow the token before, or the parser gave up.
    pub fn accept(&mut self, token: u32) -> Result<(), Error> {
        self.catch_up()?;
        (self.mask, self.last) = (None, Some(token));
        Ok(())
    }

    /// True if nothing can follow.
    ///
    /// # Errors
    /// The mask did not allow the last token, or the parser gave up.
    pub fn is_over(&mut self) -> Result<bool, Error> {
        self.catch_up()?;
        Ok(self.inner.is_stopped())
    }

    fn catch_up(&mut self) -> Result<(), Error> {
        self.last.take().map_or(Ok(()), |token| self.inner.consume_token(token).map_err(gave_up))
    }
}

fn gave_up(e: impl std::fmt::Display) -> Error {
    Error::unsupported(format!("the grammar cannot be followed: {e:#}"))
        .help("make it simpler, or less ambiguous")
}

/// True if a mask has a token.
pub(crate) fn allows(mask: &[u32], token: u32) -> bool {
    mask.get(token as usize / 32).is_some_and(|word| word >> (token % 32) & 1 == 1)
}
