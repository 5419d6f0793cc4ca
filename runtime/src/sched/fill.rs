//! The last part of a plan: how many tokens of each running sequence go into the step. Pages are not its business.

use super::{Chunk, Plan, Scheduler};

impl Scheduler {
    /// Step 3: who computes what.
    pub(super) fn fill(&self, plan: &mut Plan) {
        for decodes in [true, false] {
            let mut others = 0;
            for &id in &self.running {
                let seq = self.seq(id);
                if (seq.remaining() == 1) != decodes {
                    others += 1;
                    continue;
                }
                let start = seq.computed;
                // Tokens before `logits_from` want no logits and are not bounded by the rows left.
                let first_row = start.max(seq.logits_from);
                let rows_end = first_row.saturating_add(self.limits.max_logit_rows - plan.rows);
                let len =
                    seq.remaining().min(self.limits.max_step_tokens - plan.tokens).min(rows_end - start);
                if len == 0 {
                    continue;
                }
                let rows = (start + len).saturating_sub(first_row);
                plan.chunks.push(Chunk { seq: id, start, len, rows });
                plan.tokens += len;
                plan.rows += rows;
            }
            if others == 0 {
                break;
            }
        }
    }
}
