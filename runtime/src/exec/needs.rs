//! How much memory an engine takes on a device besides its cache: known from its file, before anything is placed.

use super::place::made_up_weights;
use crate::error::Error;
use trtc_engine::EngineFile;
use trtc_engine::manifest::{DRAW, Manifest};

/// Bytes of the buffers that steps are computed in, one a field of `Bindings`.
pub(super) struct Needs {
    pub arena: u64,
    pub tokens: u64,
    pub positions: u64,
    pub rows: u64,
    pub draws: u64,
    pub masks: u64,
    pub query_start: u64,
    pub context: u64,
    pub block_table: u64,
    pub scratch: u64,
    pub counters: u64,
    /// Entries of a block table's row; no bytes.
    pub table_width: u32,
    /// Words of a mask, 0 if tokens are not chosen on the device; no bytes.
    pub mask_words: usize,
}

impl Needs {
    /// Of the largest steps that a manifest allows.
    pub(super) fn of(manifest: &Manifest) -> Needs {
        let d = manifest.dims;
        let ints = |n: u64| 4 * n;
        let (step, batch) = (u64::from(d.max_step_tokens), u64::from(d.max_batch));
        let rows = u64::from(d.max_logit_rows);
        let table_width = d.max_seq_len.div_ceil(manifest.kv.page_tokens);
        let mask_words = if manifest.sampled.is_some() { manifest.mask_words() } else { 0 };
        let (scratch, counters) = manifest.scratch(&d);
        Needs {
            arena: manifest.arena,
            tokens: ints(step),
            positions: ints(step),
            rows: ints(rows),
            draws: ints(rows * u64::from(DRAW)),
            masks: ints(batch * mask_words as u64),
            query_start: ints(batch + 1),
            context: ints(batch),
            block_table: ints(batch * u64::from(table_width)),
            scratch,
            counters: ints(counters),
            table_width,
            mask_words,
        }
    }

    fn sum(&self) -> u64 {
        let tables = [self.tokens, self.positions, self.rows, self.draws, self.query_start, self.context];
        let rest = [self.arena, self.masks, self.block_table, self.scratch, self.counters];
        tables.into_iter().chain(rest).fold(0, u64::saturating_add)
    }
}

/// Bytes that an engine takes on a device besides its cache: the file with its weights, weights that are made up, and
/// the buffers of its steps. What a driver takes for code and recordings is not in it.
///
/// # Errors
/// A weight's size cannot be told.
pub fn footprint(file: &EngineFile) -> Result<u64, Error> {
    let bytes = file.bytes();
    let shared = (*bytes).as_ref().len() as u64;
    let made_up = made_up_weights(file.manifest())?;
    Ok(shared.saturating_add(made_up).saturating_add(Needs::of(file.manifest()).sum()))
}
