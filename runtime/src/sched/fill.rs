//! The last part of a plan: how many tokens of each running sequence go into the step. Pages are not its business.
//!
//! A *deterministic* scheduler keeps to one rule more: a token of a prompt is computed in a prefill step and a token of an
//! answer in a decode step, always, for kernels of one kind give the same bits whatever else is in the step, and those of the
//! other kind give others. Steps are then of one kind, in turn while there is work of both, and what a sequence had answered
//! before it lost its pages is computed again token by token.

use super::{Chunk, Plan, Scheduler, SeqId};
use trtc_engine::manifest::Steps;

impl Scheduler {
    /// Step 3: who computes what.
    pub(super) fn fill(&mut self, plan: &mut Plan) {
        if self.deterministic {
            self.fill_one_kind(plan);
            return;
        }
        for decodes in [true, false] {
            let mut others = 0;
            for &id in &self.running {
                let remaining = self.seq(id).remaining();
                if (remaining == 1) != decodes {
                    others += 1;
                    continue;
                }
                self.add_chunk(plan, id, remaining);
            }
            if others == 0 {
                break;
            }
        }
        plan.kind = Steps::of(plan.tokens, plan.chunks.len() as u32);
    }

    /// The same for a deterministic scheduler.
    fn fill_one_kind(&mut self, plan: &mut Plan) {
        let other = if self.last == Steps::Decode { Steps::Prefill } else { Steps::Decode };
        for kind in [other, self.last] {
            for &id in &self.running {
                let seq = self.seq(id);
                match kind {
                    Steps::Decode if seq.prompt_computed() && seq.remaining() > 0 => {
                        let start = seq.computed;
                        // A row of logits comes with each token, wanted or not.
                        plan.chunks.push(Chunk { seq: id, start, len: 1, rows: 1 });
                        plan.tokens += 1;
                        plan.rows += 1;
                    }
                    Steps::Prefill if !seq.prompt_computed() => {
                        let remaining = seq.prompt_len() - seq.computed;
                        self.add_chunk(plan, id, remaining);
                    }
                    _ => {}
                }
            }
            if !plan.chunks.is_empty() {
                (plan.kind, self.last) = (kind, kind);
                return;
            }
        }
    }

    /// As many of the next `most` tokens of a sequence as the step has room for.
    fn add_chunk(&self, plan: &mut Plan, id: SeqId, most: u32) {
        let seq = self.seq(id);
        let start = seq.computed;
        // Tokens before `logits_from` want no logits and are not bounded by the rows left.
        let first_row = start.max(seq.logits_from);
        let rows_end = first_row.saturating_add(self.limits.max_logit_rows - plan.rows);
        let len = most.min(self.limits.max_step_tokens - plan.tokens).min(rows_end - start);
        if len == 0 {
            return;
        }
        let rows = (start + len).saturating_sub(first_row);
        plan.chunks.push(Chunk { seq: id, start, len, rows });
        plan.tokens += len;
        plan.rows += rows;
    }
}
