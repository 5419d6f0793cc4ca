//! What a step computes: the scheduler's result, as plain data.

use super::SeqId;
use trtc_engine::manifest::{Dims, Steps};

/// A run of one sequence's tokens in a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// Whose.
    pub seq: SeqId,
    /// Position of the first token.
    pub start: u32,
    /// Tokens.
    pub len: u32,
    /// How many of the last tokens want logits.
    pub rows: u32,
}

/// What a step computes. Reuse it: its memory is kept.
#[derive(Clone, Debug)]
pub struct Plan {
    /// One entry a sequence.
    pub chunks: Vec<Chunk>,
    /// Which kernels compute it.
    pub kind: Steps,
    /// Tokens in all.
    pub tokens: u32,
    /// Rows of logits in all.
    pub rows: u32,
    /// Sequences that lost their pages.
    pub preempted: u32,
    /// Tokens that were found in the cache.
    pub reused: u32,
    /// Highest priority among the preempted: nobody up to it starts in the same step.
    pub(super) barrier: Option<i32>,
}

impl Default for Plan {
    fn default() -> Plan {
        let chunks = Vec::new();
        Plan { chunks, kind: Steps::Prefill, tokens: 0, rows: 0, preempted: 0, reused: 0, barrier: None }
    }
}

impl Plan {
    /// A plan with room for any step within the limits.
    pub fn new(limits: &Dims) -> Plan {
        Plan { chunks: Vec::with_capacity(limits.max_batch as usize), ..Plan::default() }
    }

    /// True if this is a decode step, in which every sequence computes one token, that wants logits of each.
    pub fn decode_only(&self) -> bool {
        self.kind == Steps::Decode && self.chunks.iter().all(|c| c.rows == 1)
    }

    /// How many of the first sequences have one token each: what has kernels of its own in a prefill step, if the engine has them.
    pub fn single(&self) -> u32 {
        self.chunks.iter().take_while(|c| c.len == 1).count() as u32
    }

    pub(super) fn clear(&mut self) {
        self.chunks.clear();
        (self.tokens, self.rows, self.preempted, self.reused, self.barrier) = (0, 0, 0, 0, None);
    }
}
