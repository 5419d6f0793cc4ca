//! What a client holds of its request while it waits, and what it learns of it. Where requests wait is `desk.rs`.

use crate::desk::Desk;
use crate::error::ApiError;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use trtc_runtime::{Finish, TokenLogprob};

/// What becomes of one prompt of a request.
#[derive(Clone, Debug, PartialEq)]
pub enum Update {
    /// The engine has taken it in.
    Taken {
        /// How long it waited for that.
        waited: Duration,
    },
    /// Log-probabilities of the prompt's tokens but the first.
    Prompt {
        /// Which prompt.
        part: u32,
        /// Which answer to it.
        index: u32,
        /// One a token.
        logprobs: Vec<TokenLogprob>,
    },
    /// A token of an answer.
    Token {
        /// Which prompt.
        part: u32,
        /// Which answer to it.
        index: u32,
        /// The token.
        token: u32,
        /// Text that is complete with it.
        text: String,
        /// If asked for.
        logprob: Option<TokenLogprob>,
    },
    /// The end of an answer.
    Done {
        /// Which prompt.
        part: u32,
        /// Which answer to it.
        index: u32,
        /// Why.
        finish: Finish,
        /// Text that was held back.
        text: String,
        /// Tokens of the prompt that were in the cache already.
        cached: u32,
    },
    /// None of its answers will come to an end.
    Failed(ApiError),
}

/// What a client holds of its request. Dropped before all answers have ended, it gives them up.
#[derive(Debug)]
pub struct Ticket {
    desk: Arc<Desk>,
    numbers: Range<u64>,
    /// Answers that have not ended.
    open: u64,
    updates: mpsc::Receiver<Update>,
}

impl Ticket {
    /// Of prompts with these numbers, which wait for so many answers.
    pub(crate) fn new(
        desk: Arc<Desk>,
        numbers: Range<u64>,
        open: u64,
        updates: mpsc::Receiver<Update>,
    ) -> Ticket {
        Ticket { desk, numbers, open, updates }
    }

    /// Waits for news and takes all there are, in order; nothing comes after the last answer.
    pub async fn receive(&mut self, news: &mut Vec<Update>) {
        const MOST: usize = 256;
        if self.open == 0 {
            return;
        }
        let before = news.len();
        if self.updates.recv_many(news, MOST).await == 0 {
            let why = self.desk.closed().unwrap_or("the server gave the request up");
            news.push(Update::Failed(ApiError::unavailable(why)));
        }
        for update in &news[before..] {
            match update {
                Update::Done { .. } => self.open -= 1,
                Update::Failed(_) => {
                    // The prompts that share it are given up with it.
                    return;
                }
                _ => {}
            }
        }
    }

    /// True once all answers have ended.
    pub fn is_done(&self) -> bool {
        self.open == 0
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if self.open > 0 {
            self.desk.cancel(self.numbers.clone());
        }
    }
}
