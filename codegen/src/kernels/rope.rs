//! Rotates the heads of a tensor, and what every kernel that rotates heads shares.
//!
//! For a head `h` of `head_dim` elements, rotated in its first `dim`, and `a = pos * freq[i]`, `i < dim / 2`:
//! `lo' = lo cos a - hi sin a`, `hi' = hi cos a + lo sin a` with `lo = h[i]`, `hi = h[i + dim / 2]`.
//!
//! A head is cut into units of 16 elements: 8 and their 8 partners half a rotation on, or 16 elements behind the rotated
//! ones. A group of adjacent lanes, one for each unit, serves one head. One block a token.

use super::{ArgKind, Count, Extent, Launch, grid_of};
use crate::builder::{Builder, F32, GlobalPtr, I1, I32, Special, Val};
use trtc_ir::DType;

/// Elements of a vector access.
pub(super) const VEC: u32 = 8;
/// Elements of a unit.
const UNIT: u32 = 2 * VEC;
/// Most threads of a block.
const THREADS: u32 = 512;
/// Most heads of a token: rounds over them are unrolled.
const HEADS: u32 = 1024;

/// Half a unit.
pub(super) type Half<'b> = [Val<'b, F32>; VEC as usize];

/// The heads of a token.
#[derive(Clone, Copy)]
pub(super) struct Heads {
    /// How many.
    pub(super) count: u32,
    /// Elements of a head.
    pub(super) head_dim: u32,
    /// Rotated elements of a head.
    pub(super) dim: u32,
}

/// A lane's unit.
#[derive(Clone, Copy)]
pub(super) struct Unit<'b> {
    /// False for a lane behind the last unit; it repeats that and must not store.
    pub(super) active: Val<'b, I1>,
    /// Whether it is rotated.
    turns: Val<'b, I1>,
    /// Where its halves lie in a head.
    pub(super) at: [Val<'b, I32>; 2],
    /// Its first frequency.
    frequency: Val<'b, I32>,
}

/// A head that a lane takes part in.
#[derive(Clone, Copy)]
pub(super) struct Head<'b> {
    /// Its number.
    pub(super) number: Val<'b, I32>,
    /// False for a group without a head; it repeats the last and must not store.
    pub(super) exists: Val<'b, I1>,
}

impl Heads {
    /// Why there is no kernel for such heads.
    pub(super) fn unsupported(self) -> Option<String> {
        let Heads { count, head_dim, dim } = self;
        if dim == 0 || !head_dim.is_multiple_of(UNIT) || !dim.is_multiple_of(UNIT) || dim > head_dim {
            return Some(format!(
                "heads of {head_dim} elements with {dim} rotated are not positive multiples of {UNIT}"
            ));
        }
        if count > HEADS {
            return Some(format!("{count} heads are above {HEADS}"));
        }
        (head_dim > UNIT * 32).then(|| format!("heads of {head_dim} elements are above {}", UNIT * 32))
    }

    fn units(self) -> u32 {
        self.head_dim / UNIT
    }

    /// Lanes that serve a head.
    pub(super) fn lanes(self) -> u32 {
        self.units().next_power_of_two()
    }

    /// Threads of a block.
    pub(super) fn threads(self) -> u32 {
        (self.count * self.lanes()).next_multiple_of(32).min(THREADS)
    }

    /// This thread's unit.
    pub(super) fn unit<'b>(self, b: &'b Builder) -> Unit<'b> {
        let lane = b.special(Special::ThreadX) & (self.lanes() as i32 - 1);
        let unit = lane.min(self.units() - 1);
        let active = if self.lanes() == self.units() { b.value(true) } else { lane.lt(self.units()) };
        let turning = self.dim / UNIT;
        let turns = if turning == self.units() { b.value(true) } else { unit.lt(turning) };
        // unit * 8 and its partner dim / 2 on, or 16 elements behind the rotated ones.
        let behind = (unit - turning) * UNIT + self.dim;
        let low = turns.select(unit * VEC, behind);
        let high = turns.select(unit * VEC + self.dim / 2, behind + VEC);
        Unit { active, turns, at: [low, high], frequency: turns.select(unit * VEC, 0) }
    }

    /// The heads of this thread's group, one a round: the block's threads are whole groups.
    pub(super) fn rounds<'b>(self, b: &'b Builder) -> impl Iterator<Item = Head<'b>> {
        let groups = b.threads() / self.lanes();
        let group = b.special(Special::ThreadX) / self.lanes();
        (0..self.count.div_ceil(groups)).map(move |round| {
            let wanted = group + round * groups;
            Head { number: wanted.min(self.count - 1), exists: wanted.lt(self.count) }
        })
    }
}

impl<'b> Unit<'b> {
    /// Cosines and sines of `position * freqs[i]` for this unit's pairs.
    pub(super) fn rotation(self, freqs: GlobalPtr<'b, F32>, position: Val<'b, I32>) -> [Half<'b>; 2] {
        let position = position.to_f32();
        let frequency = freqs.at(self.frequency).load_vector::<{ VEC as usize }>().elements();
        let turns = frequency.map(|f| cos_sin(position * f));
        [turns.map(|[cos, _]| cos), turns.map(|[_, sin]| sin)]
    }

    /// The unit after its rotation, or as it is.
    pub(super) fn turn(self, [cos, sin]: [Half<'b>; 2], [lo, hi]: [Half<'b>; 2]) -> [Half<'b>; 2] {
        let turned: [[Val<'b, F32>; 2]; VEC as usize] =
            std::array::from_fn(|i| turn([cos[i], sin[i]], [lo[i], hi[i]]));
        [
            std::array::from_fn(|i| self.turns.select(turned[i][0], lo[i])),
            std::array::from_fn(|i| self.turns.select(turned[i][1], hi[i])),
        ]
    }
}

/// Cosine and sine of an angle.
///
/// `sin.approx` and `cos.approx` are good to 2^-20.5 in -pi..pi only. The angle is brought there by subtracting
/// `n = round(angle / 2 pi)` turns, 2 pi in three parts: `n * TURN[0]` is cancelled exactly by the first fma, the
/// others add what f32 lacks, so the error stays below 2^-22 for angles up to 10^6.
pub(super) fn cos_sin(angle: Val<'_, F32>) -> [Val<'_, F32>; 2] {
    /// 2 pi = 6.2831855 - 1.7484555e-7 - ...
    const TURN: [f32; 2] = [6.283_185_5, -1.748_455_5e-7];
    let turns = -(angle * (1.0 / std::f32::consts::TAU)).round_even();
    let angle = turns.fma(TURN[1], turns.fma(TURN[0], angle));
    [angle.cos_approx(), angle.sin_approx()]
}

/// A pair after its rotation.
pub(super) fn turn<'b>([cos, sin]: [Val<'b, F32>; 2], [lo, hi]: [Val<'b, F32>; 2]) -> [Val<'b, F32>; 2] {
    [lo.fma(cos, -(hi * sin)), hi.fma(cos, lo * sin)]
}

/// Constants of the kernel.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rope {
    /// Heads of a token.
    pub heads: u32,
    /// Elements of a head.
    pub head_dim: u32,
    /// Rotated elements of a head.
    pub dim: u32,
    /// Element type of x.
    pub x: DType,
    /// Element type of y.
    pub out: DType,
}

impl Rope {
    fn heads(&self) -> Heads {
        Heads { count: self.heads, head_dim: self.head_dim, dim: self.dim }
    }

    /// Why there is no kernel for these constants.
    pub fn unsupported(&self) -> Option<String> {
        self.heads().unsupported()
    }

    /// Geometry. Arguments: `[x, positions, freqs, y]`.
    pub fn launch(&self) -> Launch {
        let grid = grid_of(Extent { of: Count::Tokens, div: 1, plus: None, mul: 1 });
        Launch::new(grid, self.heads().threads(), vec![ArgKind::Pointer; 4])
    }

    /// The kernel.
    pub fn build(&self, b: &Builder) {
        let x = b.param_floats(self.x);
        let positions = b.param_ptr::<I32>();
        let freqs = b.param_const::<F32>();
        let y = b.param_floats(self.out);
        b.param_dims();

        let token = b.special(Special::BlockX);
        let unit = self.heads().unit(b);
        let rotation = unit.rotation(freqs, positions.at(token).load());
        let row = token.to_i64() * i64::from(self.heads * self.head_dim);
        let (x, y) = (x.at64(row), y.at64(row));
        for head in self.heads().rounds(b) {
            b.if_(unit.active & head.exists, || {
                let at = unit.at.map(|at| head.number * self.head_dim + at);
                let [lo, hi] = unit.turn(rotation, at.map(|at| x.at(at).load()));
                y.at(at[0]).store(lo);
                y.at(at[1]).store(hi);
            });
        }
    }
}
