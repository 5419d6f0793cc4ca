//! One block a row: how its threads share the row out, and how they store it, in e4m3 too.
//!
//! Each thread takes [`BlockRow::VEC`] elements a round, and keeps them in registers until the row is stored. In e4m3 a
//! row has one scale, `max |y| / 448`, which all threads find together before any of them stores.

use super::ArgKind;
use crate::builder::{Builder, Carried, F32, FloatPtr, GlobalPtr, I1, I32, Special, Val};
use trtc_ir::DType;

/// How a block shares out a row.
#[derive(Clone, Copy)]
pub(super) struct BlockRow {
    /// Elements of the row.
    pub width: u32,
    /// Threads of the block.
    pub threads: u32,
}

/// Elements of one thread and round.
pub(super) type Part<'b> = [Val<'b, F32>; BlockRow::VEC as usize];

/// Where one thread is in one round.
#[derive(Clone, Copy)]
pub(super) struct Column<'b> {
    /// The first element.
    pub at: Val<'b, I32>,
    /// Whether it is inside the row; `None`: it always is.
    inside: Option<Val<'b, I1>>,
}

impl BlockRow {
    /// Elements of a vector access.
    pub const VEC: u32 = 8;

    /// Why rows of this width are not served by blocks of up to `threads` threads and `rounds` rounds.
    pub fn unsupported(width: u32, threads: u32, rounds: u32) -> Option<String> {
        if width == 0 || !width.is_multiple_of(Self::VEC) {
            return Some(format!("the width {width} is not a positive multiple of {}", Self::VEC));
        }
        let most = Self::VEC * rounds * threads;
        (width > most).then(|| format!("the width {width} is above {most}"))
    }

    /// Most rounds of [`BlockRow::even`]: more would leave too few registers for what is under way.
    const ROUNDS: u32 = 4;
    /// Most threads of it, and most where those do: several blocks on a multiprocessor, so that one loads while another
    /// stores.
    const THREADS: [u32; 2] = [1024, 512];

    /// As few rounds as the width allows, all of them as full as can be.
    pub fn even(width: u32) -> BlockRow {
        let vectors = width / Self::VEC;
        let [most, few] = Self::THREADS;
        let rounds = vectors.div_ceil(if vectors <= Self::ROUNDS * few { few } else { most });
        BlockRow { width, threads: vectors.div_ceil(rounds.max(1)).next_multiple_of(32) }
    }

    /// Why rows of this width are not served by [`BlockRow::even`].
    pub fn even_unsupported(width: u32) -> Option<String> {
        Self::unsupported(width, Self::THREADS[0], Self::ROUNDS)
    }

    /// Rounds over the row.
    pub fn rounds(self) -> u32 {
        (self.width / Self::VEC).div_ceil(self.threads)
    }

    /// Where this thread is in each round.
    pub fn columns<'b>(self, b: &'b Builder) -> Vec<Column<'b>> {
        let thread = b.special(Special::ThreadX);
        (0..self.rounds())
            .map(|i| {
                let at = (thread + i * self.threads) * Self::VEC;
                let ragged = (i + 1) * self.threads * Self::VEC > self.width;
                Column { at, inside: ragged.then(|| at.lt(self.width)) }
            })
            .collect()
    }
}

impl<'b> Column<'b> {
    /// What `read` gives, or zeros outside of the row.
    pub fn read<C: Zeros<'b>>(self, b: &'b Builder, read: impl FnOnce() -> C) -> C {
        match self.inside {
            None => read(),
            Some(inside) => b.if_else(inside, read, || C::zeros(b)),
        }
    }

    /// `write()` inside of the row.
    pub fn write(self, b: &'b Builder, write: impl FnOnce()) {
        match self.inside {
            None => write(),
            Some(inside) => b.if_(inside, write),
        }
    }
}

/// Values that a thread has outside of a row.
pub(super) trait Zeros<'b>: Carried<'b> {
    /// Zeros.
    fn zeros(b: &'b Builder) -> Self;
}

impl<'b> Zeros<'b> for Val<'b, F32> {
    fn zeros(b: &'b Builder) -> Self {
        b.value(0.0f32)
    }
}

impl<'b, Z: Zeros<'b>, const N: usize> Zeros<'b> for [Z; N] {
    fn zeros(b: &'b Builder) -> Self {
        std::array::from_fn(|_| Z::zeros(b))
    }
}

/// A result, its type chosen when the kernel is built: floats, or e4m3 with an f32 scale for each row.
#[derive(Clone, Copy)]
pub(super) enum RowsOut<'b> {
    /// f32 or bf16.
    Floats(FloatPtr<'b>),
    /// Codes four to a word, and scales.
    E4m3(GlobalPtr<'b, I32>, GlobalPtr<'b, F32>),
}

impl<'b> RowsOut<'b> {
    /// What the parameter is in a launch.
    pub fn arg(dtype: DType) -> ArgKind {
        if dtype == DType::F8E4M3 { ArgKind::Scaled } else { ArgKind::Pointer }
    }

    /// The next parameter.
    pub fn param(b: &'b Builder, dtype: DType) -> RowsOut<'b> {
        if dtype == DType::F8E4M3 {
            RowsOut::E4m3(b.param_ptr(), b.param_ptr())
        } else {
            RowsOut::Floats(b.param_floats(dtype))
        }
    }

    /// The row of this number, of `width` elements.
    pub fn row(self, row: Val<'b, I32>, width: u32) -> RowsOut<'b> {
        let words = |per: u32| row.to_i64() * row.builder().value(i64::from(width / per));
        match self {
            RowsOut::Floats(y) => RowsOut::Floats(y.at64(words(1))),
            RowsOut::E4m3(y, scales) => RowsOut::E4m3(y.at64(words(4)), scales.at(row)),
        }
    }

    /// Stores this thread's parts of the row. All threads of the block take part.
    pub fn store(self, b: &'b Builder, parts: &[(Column<'b>, Part<'b>)]) {
        match self {
            RowsOut::Floats(y) => {
                parts.iter().for_each(|&(column, part)| column.write(b, || y.at(column.at).store(part)));
            }
            RowsOut::E4m3(y, scale) => {
                let all = parts.iter().flat_map(|(_, part)| part);
                let amax = b.max_block(all.fold(b.value(0.0f32), |max, v| max.max(v.abs())));
                let by = b.e4m3_scale(amax);
                b.if_(b.special(Special::ThreadX).eq(0), || scale.store(by[0]));
                for &(column, part) in parts {
                    let codes = b.e4m3_codes(part, by);
                    column.write(b, || y.at(column.at / 4).store_vector(codes));
                }
            }
        }
    }
}
