//! What a caller asks for and what it gets back.
//!
//! Plain data and its checks; no state of the engine.

use crate::error::Error;
use crate::grammar::Grammar;
use trtc_engine::manifest::Dims;

/// Most answers to one prompt.
pub const MAX_ANSWERS: u32 = 1024;

/// How the next token is chosen. Every field is honoured; contradictions are refused by [`Sampling::check`].
#[derive(Clone, Debug, PartialEq)]
pub struct Sampling {
    /// 0 takes the best token; otherwise logits are divided by it.
    pub temperature: f32,
    /// Only the `top_k` most likely tokens; 0 keeps all.
    pub top_k: u32,
    /// Only the most likely tokens whose probabilities sum to this; 1 keeps all.
    pub top_p: f32,
    /// Only tokens with at least this fraction of the best token's probability; 0 keeps all.
    pub min_p: f32,
    /// Logits of tokens in prompt or answer are divided (if positive) or multiplied (if negative) by it; 1 is off.
    pub repetition_penalty: f32,
    /// Subtracted from the logits of tokens in the answer; 0 is off.
    pub presence_penalty: f32,
    /// Subtracted once for each time that a token is in the answer; 0 is off.
    pub frequency_penalty: f32,
    /// Added to the logits of tokens.
    pub logit_bias: Vec<(u32, f32)>,
    /// With (seed, position) a choice is determined; `None` takes a seed from the request's number.
    pub seed: Option<u64>,
}

impl Default for Sampling {
    fn default() -> Sampling {
        Sampling {
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            logit_bias: Vec::new(),
            seed: None,
        }
    }
}

impl Sampling {
    /// The best token at each step.
    pub fn greedy() -> Sampling {
        Sampling { temperature: 0.0, ..Sampling::default() }
    }

    /// Refuses values out of range and contradictions; `vocab` bounds the biased tokens.
    pub fn check(&self, vocab: u32) -> Result<(), Error> {
        let range = |name: &str, x: f32, ok: bool, want: &str| {
            if ok { Ok(()) } else { Err(Error::user(format!("{name} is {x}")).help(format!("give {want}"))) }
        };
        range(
            "temperature",
            self.temperature,
            (0.0..=100.0).contains(&self.temperature),
            "a number from 0 to 100",
        )?;
        range("top_p", self.top_p, self.top_p > 0.0 && self.top_p <= 1.0, "a number above 0, at most 1")?;
        range("min_p", self.min_p, (0.0..=1.0).contains(&self.min_p), "a number from 0 to 1")?;
        let rep = self.repetition_penalty;
        range("repetition_penalty", rep, rep > 0.0 && rep.is_finite(), "a positive number")?;
        for (name, x) in
            [("presence_penalty", self.presence_penalty), ("frequency_penalty", self.frequency_penalty)]
        {
            range(name, x, (-2.0..=2.0).contains(&x), "a number from -2 to 2")?;
        }
        for &(token, bias) in &self.logit_bias {
            if token >= vocab {
                return Err(Error::user(format!(
                    "logit_bias names token {token}, the vocabulary has {vocab}"
                )));
            }
            range("logit_bias", bias, (-100.0..=100.0).contains(&bias), "biases from -100 to 100")?;
        }
        Ok(())
    }
}

/// One prompt and what is wanted of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// Prompt.
    pub prompt: Vec<u32>,
    /// Most tokens of the answer.
    pub max_tokens: u32,
    /// Least tokens of the answer: before, stop tokens are not chosen and stop strings do not end it.
    pub min_tokens: u32,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// Answers to the same prompt; answer `i` uses seed + i.
    pub n: u32,
    /// Tokens that end the answer, besides the model's own.
    pub stop_ids: Vec<u32>,
    /// Texts that end the answer; they are not part of it.
    pub stop: Vec<String>,
    /// Do not end at the model's end-of-sequence tokens.
    pub ignore_eos: bool,
    /// Alternatives to report with each token of the answer; `None` reports no log-probabilities at all.
    pub logprobs: Option<u32>,
    /// Likewise for each token of the prompt but the first.
    pub prompt_logprobs: Option<u32>,
    /// Higher goes first.
    pub priority: i32,
    /// What answers must look like. They end where it does, also before `min_tokens`.
    pub grammar: Option<Grammar>,
}

impl Request {
    /// A request with the defaults: 128 tokens at temperature 1, one answer.
    pub fn new(prompt: Vec<u32>) -> Request {
        Request {
            prompt,
            max_tokens: 128,
            min_tokens: 0,
            sampling: Sampling::default(),
            n: 1,
            stop_ids: Vec::new(),
            stop: Vec::new(),
            ignore_eos: false,
            logprobs: None,
            prompt_logprobs: None,
            priority: 0,
            grammar: None,
        }
    }

    /// Refuses what cannot be done and what contradicts itself. `vocab` bounds the tokens, `dims` the lengths;
    /// `text` says whether the engine has a tokenizer.
    pub fn check(&self, vocab: u32, dims: &Dims, text: bool) -> Result<(), Error> {
        self.check_prompt(vocab, dims)?;
        self.check_lengths(dims)?;
        if self.grammar.is_some() && self.ignore_eos {
            return Err(Error::user("a grammar says where answers end, and ignore_eos that they do not")
                .help("leave one of them out"));
        }
        if self.n == 0 || self.n > MAX_ANSWERS {
            return Err(
                Error::user(format!("n is {}", self.n)).help(format!("give 1 to {MAX_ANSWERS} answers"))
            );
        }
        if let Some(&id) = self.stop_ids.iter().find(|&&id| id >= vocab) {
            return Err(Error::user(format!("stop_ids names token {id}, the vocabulary has {vocab}")));
        }
        if self.stop.iter().any(String::is_empty) {
            return Err(Error::user("a stop string is empty").help("leave it out"));
        }
        if !self.stop.is_empty() && !text {
            return Err(
                Error::user("stop strings are given, the engine has no tokenizer").help("use stop_ids")
            );
        }
        for (name, k) in [("logprobs", self.logprobs), ("prompt_logprobs", self.prompt_logprobs)] {
            if let Some(k) = k.filter(|&k| k > vocab) {
                return Err(Error::user(format!(
                    "{name} asks for {k} alternatives, the vocabulary has {vocab}"
                )));
            }
        }
        self.sampling.check(vocab)
    }

    fn check_prompt(&self, vocab: u32, dims: &Dims) -> Result<(), Error> {
        if self.prompt.is_empty() {
            return Err(Error::user("the prompt is empty").help("give at least one token"));
        }
        if let Some((at, token)) = self.prompt.iter().enumerate().find(|&(_, &t)| t >= vocab) {
            return Err(Error::user(format!(
                "token {at} of the prompt is {token}, the vocabulary has {vocab}"
            )));
        }
        // An answer needs room for one token at least.
        let most = u64::from(dims.max_seq_len) - u64::from(self.max_tokens.min(1));
        if self.prompt.len() as u64 > most {
            return Err(Error::user(format!(
                "the prompt has {} tokens, this engine takes {most} (sequences of at most {})",
                self.prompt.len(),
                dims.max_seq_len
            ))
            .help("shorten the prompt, or build the engine with a larger --max-seq-len"));
        }
        Ok(())
    }

    fn check_lengths(&self, dims: &Dims) -> Result<(), Error> {
        if self.max_tokens == 0 && self.prompt_logprobs.is_none() {
            return Err(Error::user("max_tokens is 0").help("ask for a token or for prompt_logprobs"));
        }
        if self.max_tokens == 0 && (self.n != 1 || self.logprobs.is_some()) {
            let what = if self.n != 1 { "several answers are" } else { "logprobs of the answer are" };
            return Err(Error::user(format!("max_tokens is 0 and {what} asked for")));
        }
        if self.min_tokens > self.max_tokens {
            let (min, max) = (self.min_tokens, self.max_tokens);
            return Err(Error::user(format!("min_tokens is {min}, more than max_tokens, which is {max}")));
        }
        let room = u64::from(dims.max_seq_len).saturating_sub(self.prompt.len() as u64);
        if u64::from(self.min_tokens) > room {
            return Err(Error::user(format!(
                "min_tokens is {}, there is room for {room} after the prompt",
                self.min_tokens
            ))
            .help("shorten the prompt, or build the engine with a larger --max-seq-len"));
        }
        Ok(())
    }
}

/// A token with its log-probability under the model (temperature, penalties and masks not applied).
#[derive(Clone, Debug, PartialEq)]
pub struct TokenLogprob {
    /// The token.
    pub token: u32,
    /// Its natural-log probability.
    pub logprob: f32,
    /// The most likely tokens, best first.
    pub top: Vec<(u32, f32)>,
}

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// A stop token or string, or end of sequence.
    Stop,
    /// `max_tokens`, or the engine's limit on a sequence.
    Length,
    /// The caller gave it up.
    Cancelled,
    /// The grammar's parser gave up: the grammar is too ambiguous.
    Lost,
}

impl Finish {
    /// The word that reports use.
    pub fn as_str(self) -> &'static str {
        match self {
            Finish::Stop => "stop",
            Finish::Length => "length",
            Finish::Cancelled => "cancelled",
            Finish::Lost => "lost",
        }
    }
}

/// Which answer an event belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AnswerId {
    /// Number of the request, as [`crate::Engine::submit`] gave it.
    pub request: u64,
    /// Which of its `n` answers.
    pub index: u32,
}

/// What a step brings. Text is a `String` of its own, or a `&str` into [`crate::Events`].
#[derive(Clone, Debug, PartialEq)]
pub enum Event<Text = String> {
    /// Log-probabilities of the prompt's tokens but the first, once, before the first token.
    Prompt {
        /// Whose.
        id: AnswerId,
        /// One a token.
        logprobs: Vec<TokenLogprob>,
    },
    /// A token of an answer.
    Token {
        /// Whose.
        id: AnswerId,
        /// The token.
        token: u32,
        /// Text that is complete with it; may be empty, never splits a character.
        text: Text,
        /// If asked for.
        logprob: Option<TokenLogprob>,
    },
    /// The end of an answer.
    Done {
        /// Whose.
        id: AnswerId,
        /// Why.
        finish: Finish,
        /// Text that was held back for a character or stop string and is now complete.
        text: Text,
        /// Tokens of the prompt whose keys and values were in the cache already when the answer was begun.
        cached: u32,
    },
}

impl<Text> Event<Text> {
    /// The same event with another text.
    pub fn map_text<Other>(self, map: impl FnOnce(Text) -> Other) -> Event<Other> {
        match self {
            Event::Prompt { id, logprobs } => Event::Prompt { id, logprobs },
            Event::Token { id, token, text, logprob } => Event::Token { id, token, text: map(text), logprob },
            Event::Done { id, finish, text, cached } => Event::Done { id, finish, text: map(text), cached },
        }
    }

    /// Whose event it is.
    pub fn id(&self) -> AnswerId {
        match *self {
            Event::Prompt { id, .. } | Event::Token { id, .. } | Event::Done { id, .. } => id,
        }
    }
}

/// A whole answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// Which.
    pub id: AnswerId,
    /// Tokens, the stop token not included.
    pub tokens: Vec<u32>,
    /// Text; empty for an engine without a tokenizer.
    pub text: String,
    /// One a token, if asked for.
    pub logprobs: Vec<TokenLogprob>,
    /// One a prompt token but the first, if asked for.
    pub prompt_logprobs: Vec<TokenLogprob>,
    /// Why it ended.
    pub finish: Finish,
    /// Tokens of the prompt whose keys and values were in the cache already.
    pub cached: u32,
}

impl Answer {
    /// One of which nothing has come yet.
    pub fn new(id: AnswerId) -> Answer {
        Answer {
            id,
            tokens: Vec::new(),
            text: String::new(),
            logprobs: Vec::new(),
            prompt_logprobs: Vec::new(),
            finish: Finish::Cancelled,
            cached: 0,
        }
    }

    /// Takes what an event of its brings.
    pub fn add<Text: AsRef<str>>(&mut self, event: Event<Text>) {
        match event {
            Event::Prompt { logprobs, .. } => self.prompt_logprobs = logprobs,
            Event::Token { token, text, logprob, .. } => {
                self.tokens.push(token);
                self.text.push_str(text.as_ref());
                self.logprobs.extend(logprob);
            }
            Event::Done { finish, text, cached, .. } => {
                self.text.push_str(text.as_ref());
                (self.finish, self.cached) = (finish, cached);
            }
        }
    }
}
