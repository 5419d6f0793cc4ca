//! Numbers about an engine's work, for reports and benchmarks. Counting only: nothing depends on them.

use std::time::Duration;

/// Totals of one kind of step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StepTotals {
    /// Steps.
    pub steps: u64,
    /// Tokens computed.
    pub tokens: u64,
    /// Time that the host gave to the device: upload, start, and waiting for what comes back. What a step computes while
    /// the host reads the one before is not in it.
    pub device: Duration,
    /// Time in everything else: planning, choosing tokens, text.
    pub host: Duration,
}

impl StepTotals {
    /// Time in all.
    pub fn time(&self) -> Duration {
        self.device + self.host
    }

    fn add(&mut self, step: &Step) {
        self.steps += 1;
        self.tokens += u64::from(step.tokens);
        self.device += step.device;
        self.host += step.host;
    }
}

/// One step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Step {
    /// Tokens computed.
    pub tokens: u32,
    /// Rows of logits.
    pub rows: u32,
    /// Sequences.
    pub seqs: u32,
    /// True if each sequence computed the one token that followed its last.
    pub decode_only: bool,
    /// Time in the device.
    pub device: Duration,
    /// Time in everything else.
    pub host: Duration,
}

/// Totals since the engine was loaded, and how full it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Requests taken in.
    pub requests: u64,
    /// Tokens of prompts taken in, once for each answer.
    pub prompt_tokens: u64,
    /// Tokens of answers.
    pub answer_tokens: u64,
    /// Tokens that were found in the cache instead of computed.
    pub reused_tokens: u64,
    /// Times that a sequence lost its pages to another.
    pub preemptions: u64,
    /// Steps with a part of a prompt in them (or of a sequence that comes back).
    pub prefill: StepTotals,
    /// Steps in which every sequence computed one token.
    pub decode: StepTotals,
    /// The last step.
    pub last: Step,
    /// Sequences that wait.
    pub waiting: usize,
    /// Sequences that run.
    pub running: usize,
    /// Pages of the cache.
    pub pages: u32,
    /// Pages that sequences hold.
    pub pages_held: u32,
    /// Pages that are kept for reuse.
    pub pages_idle: u32,
}

impl Stats {
    /// Counts a step.
    pub(crate) fn step(&mut self, step: Step) {
        if step.decode_only {
            self.decode.add(&step)
        } else {
            self.prefill.add(&step)
        }
        self.last = step;
    }
}
