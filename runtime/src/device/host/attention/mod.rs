//! Attention over the paged cache: which queries are done together, by whom, and how their parts are put together.
//!
//! The positions of a request are cut into segments of [`SEGMENT`], counted from its beginning. Each segment has a
//! softmax of its own; the segments' results are merged in ascending order. Neither the number of queries done
//! together, nor the cut of a prompt into chunks, nor the threads change any of these steps, so a query's result is
//! the same to the bit in every batch.

mod segment;
mod softmax;
mod values;

pub use segment::Run;

use super::batch::Batch;
use super::cache::{Geometry, Pages};
use super::elem::{Elem, Floats, FloatsMut};
use super::isa::Isa;
#[cfg(target_arch = "x86_64")]
use super::linear::dp;
use super::linear::pack::Tiles;
use super::linear::{LANES, fma};
use super::memory::Shards;
use super::scratch::{Cx, Local};
use crate::error::Error;
use half::bf16;
use std::ops::Range;

/// Positions whose softmax is computed at once.
const SEGMENT: usize = 256;

/// Query rows (token, head) that share loaded keys and values, if one token's heads are not more.
const ROWS: usize = 48;

/// Products of a query and a key element from which a second thread is worth its wake-up.
const ALONE: usize = 32 << 10;

/// Most elements of partial results: beyond it segments are not shared out.
const MOST_PARTIAL: usize = 16 << 20;

/// One attention; the slices hold exactly what the shape needs.
pub struct Attention<'a> {
    /// `(tokens, heads, head_dim)`.
    pub q: Floats<'a>,
    /// The step.
    pub batch: Batch<'a>,
    /// The cache's shape.
    pub cache: Geometry,
    /// The cache.
    pub pages: Pages<'a>,
    /// Query heads, a multiple of the cache's.
    pub heads: usize,
    /// Factor on the scores.
    pub scale: f32,
    /// `cap * tanh(score / cap)`.
    pub softcap: Option<f32>,
    /// Whether each head of q is rounded to e4m3 times a power of two first, and weights of an e4m3 cache's values are too.
    pub rounds: bool,
    /// `(tokens, heads, head_dim)`.
    pub out: FloatsMut<'a>,
}

/// How scores are computed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Dot {
    /// bf16 dot products of pairs.
    #[cfg(target_arch = "x86_64")]
    Bf16,
    /// f32.
    F32,
}

/// What every part of one attention knows.
struct Job<'a> {
    isa: Isa,
    dot: Dot,
    q: Floats<'a>,
    batch: Batch<'a>,
    cache: Geometry,
    pages: Pages<'a>,
    heads: usize,
    /// Query heads that share a key/value head.
    group: usize,
    scale: f32,
    softcap: Option<f32>,
    rounds: bool,
}

/// Consecutive tokens of a request, with the query heads of one key/value head. Row `r` is token `r / group`, head
/// `r % group`.
#[derive(Clone, Debug)]
pub struct Unit {
    request: usize,
    head: usize,
    tokens: Range<usize>,
    /// Position of the first token.
    position: usize,
}

/// One segment of one unit, computed by itself.
#[derive(Clone, Copy, Debug)]
pub struct Task {
    unit: usize,
    segment: usize,
    /// First element of its result.
    at: usize,
}

/// Lists that are kept from launch to launch.
#[derive(Default)]
pub struct Lists {
    units: Vec<Unit>,
    tasks: Vec<Task>,
}

impl Job<'_> {
    /// Rows of a unit.
    fn rows(&self, unit: &Unit) -> usize {
        unit.tokens.len() * self.group
    }

    /// Cuts a unit's rows into tiles of the kernels' size.
    fn tiles(&self, rows: usize) -> Tiles {
        let most = fma::max_tokens(self.isa);
        #[cfg(target_arch = "x86_64")]
        let most = if self.dot == Dot::Bf16 { most.min(dp::MAX_TOKENS) } else { most };
        Tiles::new(rows, most)
    }

    /// Panels of 16 elements of a head.
    fn panels(&self) -> usize {
        self.cache.head_dim.div_ceil(LANES)
    }

    /// Elements of a partial result of so many rows: greatest scores, sums of probabilities, weighted values.
    fn part_len(&self, rows: usize) -> usize {
        rows * (2 + self.panels() * LANES)
    }

    /// The segments that a unit sees.
    fn segments(&self, unit: &Unit) -> Range<usize> {
        let end = unit.position + unit.tokens.len();
        self.cache.first_seen(unit.position) / SEGMENT..end.div_ceil(SEGMENT)
    }
}

/// Computes an attention.
pub fn attention(cx: &mut Cx<'_>, a: Attention<'_>) -> Result<(), Error> {
    let Cx { pool, isa, scratch } = cx;
    let (isa, scratch) = (*isa, &mut **scratch);
    let (cache, heads) = (a.cache, a.heads);
    let dot = match (a.q, a.pages) {
        // Processors with AMX do two fused multiply-adds in less time than one `vdpbf16ps`.
        #[cfg(target_arch = "x86_64")]
        (Floats::Bf16(_), Pages::Floats(Floats::Bf16(_))) if isa == Isa::Avx512Bf16 => Dot::Bf16,
        _ => Dot::F32,
    };
    let job = Job {
        isa,
        dot,
        q: a.q,
        batch: a.batch,
        cache,
        pages: a.pages,
        heads,
        group: heads / cache.heads.max(1),
        scale: a.scale,
        softcap: a.softcap,
        rounds: a.rounds,
    };
    let out = match a.out {
        FloatsMut::F32(out) => Out::F32(Shards::new(out)),
        FloatsMut::Bf16(out) => Out::Bf16(Shards::new(out)),
    };
    let Lists { units, tasks } = &mut scratch.lists;
    units.clear();
    let step = (ROWS / job.group.max(1)).max(1);
    let mut work = 0;
    for request in 0..job.batch.len() {
        let segment = job.batch.segment(request);
        work += segment.tokens.len() * (segment.start + segment.tokens.len()) * heads * cache.head_dim;
        for from in segment.tokens.clone().step_by(step) {
            let tokens = from..(from + step).min(segment.tokens.end);
            let position = segment.start + (from - segment.tokens.start);
            let unit = |head| Unit { request, head, tokens: tokens.clone(), position };
            units.extend((0..cache.heads).map(unit));
        }
    }
    let units = &*units;
    let whole = |items: usize| if work < ALONE { items } else { 1 };
    let partial: usize = units.iter().map(|u| job.segments(u).len() * job.part_len(job.rows(u))).sum();
    let cut = units.len() < 4 * pool.threads()
        && units.iter().any(|u| job.segments(u).len() > 1)
        && partial <= MOST_PARTIAL;
    let locals = Shards::new(&mut scratch.local);
    if !cut {
        return pool.split(units.len(), whole(units.len()), &|thread, range| {
            // SAFETY: each thread has an index of its own.
            let [local] = (unsafe { locals.part(thread..thread + 1) }) else {
                return;
            };
            for unit in &units[range] {
                job.unit(unit, local, &out);
            }
        });
    }
    tasks.clear();
    let mut at = 0;
    for (i, unit) in units.iter().enumerate() {
        for segment in job.segments(unit) {
            tasks.push(Task { unit: i, segment, at });
            at += job.part_len(job.rows(unit));
        }
    }
    let (tasks, parts) = (&*tasks, scratch.sums.f32(at));
    let shards = Shards::new(&mut *parts);
    pool.split(tasks.len(), whole(tasks.len()), &|thread, range| {
        // SAFETY: each thread has an index of its own.
        let [local] = (unsafe { locals.part(thread..thread + 1) }) else {
            return;
        };
        for task in &tasks[range] {
            let unit = &units[task.unit];
            // SAFETY: tasks have places of their own.
            let part = unsafe { shards.part(task.at..task.at + job.part_len(job.rows(unit))) };
            job.pack_q(unit, local);
            job.segment(unit, task.segment, local, part);
        }
    })?;
    let mut next = tasks.iter().peekable();
    let Some(local) = scratch.local.first_mut() else {
        return Ok(());
    };
    for (i, unit) in units.iter().enumerate() {
        let rows = job.rows(unit);
        let sum = local.out.f32(job.part_len(rows));
        softmax::clear(sum, rows);
        while let Some(task) = next.next_if(|t| t.unit == i) {
            job.merge(rows, sum, &parts[task.at..task.at + job.part_len(rows)]);
        }
        job.store(unit, sum, &out);
    }
    Ok(())
}

/// Where results go, by type.
enum Out<'a> {
    F32(Shards<'a, f32>),
    Bf16(Shards<'a, bf16>),
}

impl Job<'_> {
    /// All segments of a unit, one after the other.
    fn unit(&self, unit: &Unit, local: &mut Local, out: &Out<'_>) {
        let rows = self.rows(unit);
        let len = self.part_len(rows);
        self.pack_q(unit, local);
        // Taken out of the thread's memory, so that the segments may use the rest of it.
        let (mut sum, mut part) = (std::mem::take(&mut local.out), std::mem::take(&mut local.part));
        let (total, one) = (sum.f32(len), part.f32(len));
        softmax::clear(total, rows);
        for segment in self.segments(unit) {
            self.segment(unit, segment, local, one);
            self.merge(rows, total, one);
        }
        self.store(unit, total, out);
        (local.out, local.part) = (sum, part);
    }

    /// Adds a segment's result to what the segments before it gave.
    fn merge(&self, rows: usize, total: &mut [f32], part: &[f32]) {
        let tiles = self.tiles(rows);
        for (from, count) in (0..tiles.count()).map(|i| tiles.get(i)) {
            softmax::merge(self.isa, rows, from, count, self.panels(), total, part);
        }
    }

    /// Divides by the sums of probabilities and stores.
    fn store(&self, unit: &Unit, total: &[f32], out: &Out<'_>) {
        let rows = self.rows(unit);
        let dim = self.cache.head_dim;
        let tiles = self.tiles(rows);
        for (from, count) in (0..tiles.count()).map(|i| tiles.get(i)) {
            for row in from..from + count {
                let head = unit.head * self.group + row % self.group;
                let at = ((unit.tokens.start + row / self.group) * self.heads + head) * dim;
                let values = &total[2 * rows + from * self.panels() * LANES..];
                let values = |panel: usize| &values[(panel * count + row - from) * LANES..][..LANES];
                let sum = total[rows + row];
                // SAFETY: rows have places of their own.
                unsafe {
                    match out {
                        Out::F32(out) => store_row(values, sum, out.part(at..at + dim)),
                        Out::Bf16(out) => store_row(values, sum, out.part(at..at + dim)),
                    }
                }
            }
        }
    }
}

fn store_row<'v, O: Elem>(values: impl Fn(usize) -> &'v [f32], sum: f32, out: &mut [O]) {
    for (panel, out) in out.chunks_mut(LANES).enumerate() {
        for (o, v) in out.iter_mut().zip(values(panel)) {
            *o = O::put(v / sum);
        }
    }
}
