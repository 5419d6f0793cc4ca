//! What a block makes of x by itself, of a single token: its norm, or its quantisation, which is otherwise a launch of its own.
//!
//! Every block needs the whole row for its scale, but of the result only the units that it multiplies. Those stay in
//! shared memory, `(unit, chunk, 8 tokens, 128 bytes)`, swizzled as tensor copies would put them; the other seven tokens are zeros.
//! How the row is shared out to threads, and with it the order of sums, is that of [`RmsNorm`]. The ring fills meanwhile. With each
//! token more a block would need some 0.7 us more, and all blocks do the same work: from two tokens on a launch by itself is faster.

use super::super::block_row::{BlockRow, Part};
use super::super::operands::Operands;
use super::super::quantize::Quantize;
use super::super::rms_norm::RmsNorm;
use super::super::{ArgKind, Count};
use super::{CHUNK, StreamMatmul};
use crate::builder::{Bf16, Builder, F32, FloatPtr, I32, SharedPtr, Special, Val};
use trtc_ir::DType;

/// Named barrier of the threads that multiply.
const MADE: u32 = 1;
/// Most rounds over the row: more do not fit the registers of a thread.
const ROUNDS: u32 = 7;
/// Most elements of a row of a norm: longer ones have other threads there, and another order of sums.
const WIDEST_NORM: u32 = 8192;

/// The op that makes x.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Prologue {
    /// A norm of each row, rounded to the element type of x.
    Norm(RmsNorm),
    /// Rows of floats in e4m3.
    Quantize(Quantize),
}

/// The parameters of a prologue.
#[derive(Clone, Copy)]
pub(super) struct Inputs<'b> {
    x: FloatPtr<'b>,
    weight: Option<FloatPtr<'b>>,
}

/// x as a block has it.
#[derive(Clone, Copy)]
pub(super) struct Made<'b> {
    /// `(unit, chunk, token, 128 bytes)`; the first unit is the block's first.
    memory: SharedPtr<'b, Bf16>,
    /// The token's scale, of e4m3.
    pub(super) scale: Option<SharedPtr<'b, F32>>,
    /// The block's first unit.
    first: Val<'b, I32>,
}

impl Prologue {
    /// Why a product with rows of `k` elements, of which there are `rows`, cannot begin with it.
    pub(super) fn unsupported(&self, k: u32, rows: Count, operands: Operands) -> Option<String> {
        let (width, per_row, counted, out) = match self {
            Prologue::Norm(norm) => (norm.width, norm.per_row, norm.rows, norm.out),
            Prologue::Quantize(quantize) => (quantize.width, 1, quantize.rows, DType::F8E4M3),
        };
        let same = width == k && per_row == 1 && counted == rows && out == operands.dtype();
        let sums = matches!(self, Prologue::Norm(norm) if norm.residual.is_some() || width > WIDEST_NORM);
        match (same, sums) {
            (false, _) => Some(format!("rows of {width} elements in {out} are not x")),
            (true, true) => Some(format!(
                "a norm of {width} elements, or with a sum in front of it, is a launch by itself"
            )),
            (true, false) => BlockRow::unsupported(width, StreamMatmul::WORKERS, ROUNDS),
        }
    }

    /// What it has in place of x among the arguments.
    pub(super) fn args(&self) -> Vec<ArgKind> {
        vec![ArgKind::Pointer; if matches!(self, Prologue::Norm(_)) { 2 } else { 1 }]
    }

    pub(super) fn inputs<'b>(&self, b: &'b Builder) -> Inputs<'b> {
        match self {
            Prologue::Norm(norm) => {
                Inputs { x: b.param_floats(norm.x), weight: Some(b.param_const_floats(norm.weight)) }
            }
            Prologue::Quantize(quantize) => Inputs { x: b.param_floats(quantize.x), weight: None },
        }
    }

    fn row(&self) -> BlockRow {
        let width = match self {
            Prologue::Norm(norm) => norm.width,
            Prologue::Quantize(quantize) => quantize.width,
        };
        BlockRow { width, threads: StreamMatmul::WORKERS }
    }
}

impl StreamMatmul {
    /// Units of x that a block keeps: those of a row, or as many as are dealt out to it.
    fn kept(&self) -> u32 {
        self.units().min(self.grains().div_ceil(self.blocks()) * self.grain())
    }

    /// Bytes of a unit of x.
    fn unit_bytes(&self) -> u32 {
        self.chunks() * CHUNK * self.tokens
    }

    /// Bytes of x that a block keeps.
    pub(super) fn kept_bytes(&self) -> u32 {
        if self.prologue.is_some() { self.kept() * self.unit_bytes() } else { 0 }
    }

    /// Makes x for a block whose first unit is `first`, the threads that multiply. The weight is read, and the memory is
    /// cleared, before earlier launches are waited for.
    pub(super) fn make_x<'b>(
        &self,
        b: &'b Builder,
        prologue: Prologue,
        inputs: Inputs<'b>,
        first: Val<'b, I32>,
    ) -> Made<'b> {
        let scaled = self.of.operands == Operands::E4m3;
        let made = Made {
            memory: b.shared(self.kept_bytes() / 2, 1024),
            scale: scaled.then(|| b.shared(1, 4)),
            first,
        };
        let thread = b.special(Special::ThreadX);
        // Of tokens that are not there, and of inputs behind the last.
        let words = made.memory.cast::<I32>();
        b.for_(thread, self.kept_bytes() / 16, Self::WORKERS, (), |i, ()| {
            words.at(i * 4).store_vector(b.vector([b.value(0); 4]));
        });
        let columns = prologue.row().columns(b);
        let norm = match prologue {
            Prologue::Norm(norm) => Some(norm),
            Prologue::Quantize(_) => None,
        };
        let weights = inputs.weight.map(|weight| -> Vec<Part<'b>> {
            let offset = norm.map_or(0.0, |norm| norm.offset);
            let read = |w: Part<'b>| if offset == 0.0 { w } else { w.map(|w| w + offset) };
            columns.iter().map(|c| c.read(b, || read(weight.at(c.at).load()))).collect()
        });
        b.after_grids();
        let sync = || b.sync_some(MADE, Self::WORKERS);
        let mut row: Vec<Part<'b>> = columns.iter().map(|c| c.read(b, || inputs.x.at(c.at).load())).collect();
        if let (Some(norm), Some(weights)) = (norm, &weights) {
            let squares = row.iter().flatten().fold(b.value(0.0f32), |sum, &v| v.fma(v, sum));
            let sum = b.reduce_some(squares, Self::WORKERS, &sync, |a, b| a + b);
            let scale = (sum * (1.0 / norm.width as f32) + norm.eps).rsqrt();
            for (part, w) in row.iter_mut().zip(weights) {
                *part = std::array::from_fn(|j| part[j] * scale * w[j]);
            }
        }
        let by = made.scale.map(|scale| {
            let most = row.iter().flatten().fold(b.value(0.0f32), |max, v| max.max(v.abs()));
            let by = b.e4m3_scale(b.reduce_some(most, Self::WORKERS, &sync, |a, b| a.max(b)));
            b.if_(thread.eq(0), || scale.store(by[0]));
            by
        });
        for (column, &part) in columns.iter().zip(&row) {
            column.write(b, || self.keep(b, &made, column.at, part, by));
        }
        b.fence_async();
        sync();
        made
    }

    /// Puts elements from a column on where products read them, if they are of a unit that the block keeps.
    fn keep<'b>(
        &self,
        b: &'b Builder,
        made: &Made<'b>,
        column: Val<'b, I32>,
        part: Part<'b>,
        by: Option<[Val<'b, F32>; 2]>,
    ) {
        let byte = column * self.of.operands.bytes();
        let (unit, within) = (byte / (self.chunks() * CHUNK), byte % (self.chunks() * CHUNK));
        let place = self.place(made, unit);
        // The first of eight rows is not swizzled.
        let at = within / CHUNK * (CHUNK * self.tokens) + within % CHUNK + place * self.unit_bytes();
        b.if_(place.lt(self.kept()), || {
            let to = made.memory.at_bytes(at);
            match by {
                None => to.store_vector(b.vector(part).to_bf16()),
                Some(by) => to.cast::<I32>().store_vector(b.e4m3_codes(part, by)),
            }
        });
    }

    /// Where a unit along K lies, counted from the block's first one around the end of a row.
    fn place<'b>(&self, made: &Made<'b>, unit: Val<'b, I32>) -> Val<'b, I32> {
        let after = unit - made.first % self.units();
        after.lt(0).select(after + self.units(), after)
    }

    /// x of the block's unit `unit`.
    pub(super) fn made_unit<'b>(&self, made: &Made<'b>, unit: Val<'b, I32>) -> SharedPtr<'b, Bf16> {
        made.memory.at_bytes((unit - made.first) % self.units() * self.unit_bytes())
    }
}
