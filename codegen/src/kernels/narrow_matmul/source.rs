//! Where a block has x from: it is there, or of a single token each block makes its norm or its quantisation by itself, which is
//! otherwise a launch of its own.
//!
//! Every block needs all of x. It stays in shared memory, `(step, column, 128 bytes)`, swizzled as tensor copies put it. Those bring several
//! tokens; one by itself is put there by the threads that multiply, and columns of shares that there are not are zeros. How a row
//! is shared out to threads, and with it the order of sums, is that of [`RmsNorm`]. The ring fills meanwhile. With each
//! token more a block would need some 0.7 us more to make x, and all blocks do the same work: from two tokens on a launch by itself is faster.

use super::super::ArgKind;
use super::super::block_row::{BlockRow, Part};
use super::super::operands::{Operands, Params, Product};
use super::super::quantize::Quantize;
use super::super::rms_norm::RmsNorm;
use super::{CHUNK, COLUMNS, MADE, NarrowMatmul, WORKERS};
use crate::builder::{
    Barrier, Bf16, Builder, Evict, F32, FloatPtr, GlobalPtr, I32, SharedPtr, Special, TensorMap, Val,
};
use crate::tile::Tile;
use trtc_ir::DType;

/// Most rounds over the row: more do not fit the registers of a thread.
const ROUNDS: u32 = 7;
/// Most elements of a row of a norm: longer ones have other threads there, and another order of sums.
const WIDEST_NORM: u32 = 8192;
/// What lies together in shared memory: a step of all shares.
const STEP: Tile = Tile { rows: COLUMNS, row_bytes: CHUNK };

/// What x is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Source {
    /// An argument.
    Given,
    /// A norm of each row, rounded to the element type of x.
    Norm(RmsNorm),
    /// Rows of floats in e4m3.
    Quantize(Quantize),
}

/// The parameters that x is made of.
#[derive(Clone, Copy)]
pub(super) enum Inputs<'b> {
    /// x, in units of 16 bits.
    Given(GlobalPtr<'b, Bf16>),
    /// A row, and the weight of its norm.
    Made(FloatPtr<'b>, Option<FloatPtr<'b>>),
}

/// x as a block has it.
#[derive(Clone, Copy)]
pub(super) struct Made<'b> {
    /// `(step, column, 128 bytes)`.
    pub(super) memory: SharedPtr<'b, Bf16>,
    /// The token's scale, of e4m3 that the block has made.
    pub(super) scale: Option<SharedPtr<'b, F32>>,
    /// A barrier for each unit, if x is copied.
    copied: Option<Barrier<'b>>,
}

impl<'b> Made<'b> {
    /// Makes its barriers, one thread; the block meets after it.
    pub(super) fn begin(&self, units: u32) {
        self.copied.into_iter().for_each(|copied| (0..units).for_each(|unit| copied.at(unit).init(1)));
    }

    /// Waits for a unit.
    pub(super) fn wait(&self, unit: Val<'b, I32>) {
        if let Some(copied) = self.copied {
            copied.at(unit).wait(0);
        }
    }
}

impl Source {
    /// Why a product cannot begin with it.
    pub(super) fn unsupported(&self, of: &Product) -> Option<String> {
        let Product { k, rows, operands, .. } = *of;
        let (width, per_row, counted, out) = match self {
            Source::Given => (k, 1, rows, operands.dtype()),
            Source::Norm(norm) => (norm.width, norm.per_row, norm.rows, norm.out),
            Source::Quantize(quantize) => (quantize.width, 1, quantize.rows, DType::F8E4M3),
        };
        let same = width == k && per_row == 1 && counted == rows && out == operands.dtype();
        let sums = matches!(self, Source::Norm(norm) if norm.residual.is_some() || width > WIDEST_NORM);
        match (same, sums) {
            (false, _) => Some(format!("rows of {width} elements in {out} are not x")),
            (true, true) => Some(format!(
                "a norm of {width} elements, or with a sum in front of it, is a launch by itself"
            )),
            (true, false) => BlockRow::unsupported(width, WORKERS, ROUNDS),
        }
    }

    /// What it has in place of x among the arguments, if it makes x.
    pub(super) fn args(&self) -> Vec<ArgKind> {
        match self {
            Source::Given => Vec::new(),
            Source::Norm(_) => vec![ArgKind::Pointer; 2],
            Source::Quantize(_) => vec![ArgKind::Pointer],
        }
    }

    /// Its parameters, and the others of the product.
    pub(super) fn inputs<'b>(&self, b: &'b Builder, of: &Product) -> (Inputs<'b>, Params<'b>) {
        let made = match self {
            Source::Given => {
                let (x, params) = of.params(b);
                return (Inputs::Given(x.data), params);
            }
            Source::Norm(norm) => {
                Inputs::Made(b.param_floats(norm.x), Some(b.param_const_floats(norm.weight)))
            }
            Source::Quantize(quantize) => Inputs::Made(b.param_floats(quantize.x), None),
        };
        (made, of.params_without_x(b))
    }
}

impl NarrowMatmul {
    /// Takes shared memory for x.
    pub(super) fn place_of_x<'b>(&self, b: &'b Builder) -> Made<'b> {
        let scaled = self.of.operands == Operands::E4m3 && self.x != Source::Given;
        Made {
            memory: b.shared(self.kept_bytes() / 2, 1024),
            scale: scaled.then(|| b.shared(1, 4)),
            copied: (self.tokens > 1).then(|| b.barriers(self.units())),
        }
    }

    /// Brings x of several tokens, one thread: `(step, share, token, 128 bytes)`.
    pub(super) fn bring_x<'b>(&self, b: &'b Builder, made: &Made<'b>, map: Val<'b, TensorMap>) {
        let Some(copied) = made.copied else { return };
        let often = b.cache_policy(Evict::Last);
        let columns = CHUNK / self.of.operands.bytes();
        let bytes = self.columns() * CHUNK;
        b.for_(0, self.units(), 1, (), |unit, ()| {
            let here = copied.at(unit);
            here.arrive_expect(self.unit_steps() * bytes);
            for step in 0..self.unit_steps() {
                let step = unit * self.unit_steps() + step;
                for share in 0..self.shares() {
                    let to = made.memory.at_bytes(step * bytes + share * self.tokens * CHUNK);
                    let at = [(step + share * self.steps()) * columns, b.value(0)];
                    b.tensor_load(to, map, &at, here, Some(often));
                }
            }
        });
    }

    /// Makes x of a token, the threads that multiply. Weights are read, and memory is cleared, before earlier launches are waited for.
    pub(super) fn make_x<'b>(&self, b: &'b Builder, made: &Made<'b>, inputs: Inputs<'b>) {
        if self.tokens > 1 {
            b.after_grids();
            return;
        }
        let thread = b.special(Special::ThreadX);
        // Of shares that there are not, and of inputs behind the last.
        let words = made.memory.cast::<I32>();
        b.for_(thread, self.kept_bytes() / 16, WORKERS, (), |i, ()| {
            words.at(i * 4).store_vector(b.vector([b.value(0); 4]));
        });
        match inputs {
            Inputs::Given(x) => self.copy(b, made, x),
            Inputs::Made(x, weight) => self.compute(b, made, x, weight),
        }
        b.fence_async();
        b.sync_some(MADE, WORKERS);
    }

    /// How threads share out the row.
    fn row(&self) -> BlockRow {
        BlockRow { width: self.of.k, threads: WORKERS }
    }

    /// Puts x where products read it.
    fn copy<'b>(&self, b: &'b Builder, made: &Made<'b>, x: GlobalPtr<'b, Bf16>) {
        let columns = self.row().columns(b);
        b.after_grids();
        // The zeros are there.
        b.sync_some(MADE, WORKERS);
        let read = |at: Val<'b, I32>| -> Vec<Val<'b, I32>> {
            let from = x.cast::<I32>().at(at * self.of.operands.bytes() / 4);
            match self.of.operands {
                Operands::Bf16 => from.load_vector::<4>().elements().to_vec(),
                Operands::E4m3 => from.load_vector::<2>().elements().to_vec(),
            }
        };
        for column in columns {
            column.write(b, || {
                let to = self.place(made, column.at).cast::<I32>();
                match read(column.at).as_slice() {
                    &[w0, w1, w2, w3] => to.store_vector(b.vector([w0, w1, w2, w3])),
                    few => to.store_vector(b.vector([few[0], few[1]])),
                }
            });
        }
    }

    /// Norms or quantises the row, and puts it where products read it.
    fn compute<'b>(&self, b: &'b Builder, made: &Made<'b>, x: FloatPtr<'b>, weight: Option<FloatPtr<'b>>) {
        let thread = b.special(Special::ThreadX);
        let columns = self.row().columns(b);
        let norm = match self.x {
            Source::Norm(norm) => Some(norm),
            Source::Given | Source::Quantize(_) => None,
        };
        let weights = weight.map(|weight| -> Vec<Part<'b>> {
            let offset = norm.map_or(0.0, |norm| norm.offset);
            let read = |w: Part<'b>| if offset == 0.0 { w } else { w.map(|w| w + offset) };
            columns.iter().map(|c| c.read(b, || read(weight.at(c.at).load()))).collect()
        });
        b.after_grids();
        let sync = || b.sync_some(MADE, WORKERS);
        let mut row: Vec<Part<'b>> = columns.iter().map(|c| c.read(b, || x.at(c.at).load())).collect();
        if let (Some(norm), Some(weights)) = (norm, &weights) {
            let squares = row.iter().flatten().fold(b.value(0.0f32), |sum, &v| v.fma(v, sum));
            let sum = b.reduce_some(squares, WORKERS, &sync, |a, b| a + b);
            let scale = (sum * (1.0 / norm.width as f32) + norm.eps).rsqrt();
            for (part, w) in row.iter_mut().zip(weights) {
                *part = std::array::from_fn(|j| part[j] * scale * w[j]);
            }
        }
        let by = made.scale.map(|scale| {
            let most = row.iter().flatten().fold(b.value(0.0f32), |max, v| max.max(v.abs()));
            let by = b.e4m3_scale(b.reduce_some(most, WORKERS, &sync, |a, b| a.max(b)));
            b.if_(thread.eq(0), || scale.store(by[0]));
            by
        });
        for (column, &part) in columns.iter().zip(&row) {
            column.write(b, || {
                let to = self.place(made, column.at);
                match by {
                    None => to.store_vector(b.vector(part).to_bf16()),
                    Some(by) => to.cast::<I32>().store_vector(b.e4m3_codes(part, by)),
                }
            });
        }
    }

    /// Where eight elements from a column on lie.
    fn place<'b>(&self, made: &Made<'b>, column: Val<'b, I32>) -> SharedPtr<'b, Bf16> {
        let byte = column * self.of.operands.bytes();
        let (chunk, within) = (byte / CHUNK, byte % CHUNK);
        let (share, step) = (chunk / self.steps(), chunk % self.steps());
        made.memory.at_bytes(step * STEP.bytes() + STEP.offset(share, within / 16) + within % 16)
    }
}
