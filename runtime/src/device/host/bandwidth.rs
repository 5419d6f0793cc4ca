//! The machine's read bandwidth: the yardstick beside which decoding is measured.

use super::isa::{Isa, per_isa};
use super::memory::Owned;
use super::pool::Pool;
use std::time::Instant;

/// Bytes that each thread reads: beyond any cache.
const BYTES: usize = 256 << 20;

/// Bytes that a thread reads at once.
const CHUNK: usize = 1 << 20;

/// Passes, of which the best counts.
const PASSES: usize = 8;

/// Bytes a second that `threads` threads read together in a plain loop over memory: the best of several passes.
/// 0 if there is not enough memory, or not so many threads can be started.
pub fn read_bandwidth(threads: u32) -> f64 {
    let Ok(mut pool) = Pool::new(threads as usize) else {
        return 0.0;
    };
    let total = BYTES * pool.threads();
    let Some(mut memory) = Owned::zeroed(total) else {
        return 0.0;
    };
    // Pages that were never written may share one page of zeros.
    let all = memory.bytes_mut();
    all.fill(1);
    let (all, isa) = (&*all, Isa::detect());
    let mut best = 0f64;
    for _ in 0..PASSES {
        let start = Instant::now();
        let done = pool.split(total / CHUNK, 1, &|_, range| {
            std::hint::black_box(read(isa, &all[range.start * CHUNK..range.end * CHUNK]));
        });
        if done.is_ok() {
            best = best.max(total as f64 / start.elapsed().as_secs_f64());
        }
    }
    best
}

per_isa! {
    /// Combines all bytes, eight lines at a time.
    fn read<>(bytes: &[u8]) -> u8 = read_body
}

#[inline(always)]
fn read_body<const FMA: bool>(bytes: &[u8]) -> u8 {
    let mut lanes = [0u8; 512];
    for chunk in bytes.chunks_exact(512) {
        for (lane, byte) in lanes.iter_mut().zip(chunk) {
            *lane ^= byte;
        }
    }
    lanes.iter().fold(0, |a, b| a ^ b)
}
