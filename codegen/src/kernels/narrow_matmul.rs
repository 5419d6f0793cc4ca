//! `y = x w^T + bias + residual` for one token, or up to 16, on Hopper: each block has whole tiles of w, so that no sums pass between
//! blocks. Or `y = act(x wg^T + bg) * (x wu^T + bu)`, with wg above wu in w: half of a tile's rows are of either. For more tokens see
//! [`super::stream_matmul`].
//!
//! x `(M, K)`, w `(N, K)`, row-major, bf16 or e4m3 with scales. K is cut into equal *shares*, and a tile has R = 64 / shares rows of
//! w: so narrow that all [`MULTIPROCESSORS`] have equally many tiles. Weights are the first operand of `wgmma`, `(64, k) x (k, columns)`:
//! its row `j R + r` is row r of the tile within share j. The second operand has in column j what x of the token is within share j, or
//! in column `tokens j + t` what that of token t is. The sum of row r over share j is then in row `j R + r` and such a column of the results.
//! What is elsewhere counts for nothing, and all that was copied is multiplied once. Shares are added in their order, so
//! results are those of any kernel that prescribes it ([`Order`]).
//!
//! One thread brings weights by tensor copies through a ring; two warpgroups take tiles by turns. Weights are asked for before the
//! launch waits for those before it. x stays in shared memory (`source.rs`).
//!
//! A block takes more than half of a multiprocessor's shared memory. Where two fit, those of a launch that begins while others end
//! gather on the multiprocessors that are done first, and as many are left without one.

mod source;
mod store;

pub use source::Source;

use super::epilogue::Epilogue;
use super::operands::{Order, Product};
use super::ring::Ring;
use super::stream_matmul::CHUNK;
use super::{Extent, Launch, MULTIPROCESSORS, Map, grid_of};
use crate::builder::{Bf16, Builder, Evict, F32, I1, I32, SharedPtr, Special, TensorMap, Val};
use source::Made;

/// Bytes that the ring and x take together, unless x leaves the ring less than [`RING`]: more than half of what a
/// multiprocessor has, and little more, for blocks of attention and norms find room beside it.
const MEMORY: u32 = 124 << 10;
/// Least bytes of the ring.
const RING: u32 = 80 << 10;
/// Most bytes of both.
const MOST: u32 = 216 << 10;
/// Bytes of x that leave the ring what it is to have.
const FEW: u32 = 32 << 10;
/// Rows of the first operand.
const ROWS: u32 = 64;
/// Least columns of the second one. Most shares.
const COLUMNS: u32 = 8;
/// Threads of a warpgroup, and of those that multiply, the first of the block.
const GROUP: u32 = 128;
const WORKERS: u32 = 2 * GROUP;
/// Elements that a thread stores at once.
const VEC: u32 = 8;
/// Named barriers: of threads that make x, of warpgroups that exchange sums, of warpgroups that wait for their turn.
const MADE: u32 = 1;
const EXCHANGED: u32 = 2;
const TURNS: u32 = 4;

/// Constants of the kernel.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NarrowMatmul {
    /// What is computed.
    pub of: Product,
    /// Most tokens: 1, or 8 or 16 of which x is given.
    pub tokens: u32,
    /// The order of sums.
    pub order: Order,
    /// Where x comes from.
    pub x: Source,
}

/// The weights of a block on their way through the ring.
#[derive(Clone, Copy)]
struct Run<'b> {
    ring: Ring<'b>,
    /// The block's first tile, and the one behind its last.
    tiles: [Val<'b, I32>; 2],
}

impl NarrowMatmul {
    /// Why there is no kernel for these constants.
    pub fn unsupported(&self) -> Option<String> {
        let shares = self.shares();
        let narrow = || {
            (!self.serves(shares)).then(|| format!("tiles of 64 rows are not cut into {shares} whole parts"))
        };
        let wide = || {
            let least = self.kept_bytes() + RING;
            (least > MOST).then(|| format!("{} bytes of x leave no room for weights", self.kept_bytes()))
        };
        let makes = || {
            (self.tokens > 1 && self.x != Source::Given)
                .then(|| "x of several tokens is not made here".to_owned())
        };
        let x = || self.x.unsupported(&self.of);
        self.of.unsupported().or_else(x).or_else(makes).or_else(narrow).or_else(wide)
    }

    /// Whether a tile can be of so many shares: a thread stores [`VEC`] outputs.
    fn serves(&self, shares: u32) -> bool {
        shares <= COLUMNS && ROWS.is_multiple_of(shares * VEC * self.of.halves())
    }

    /// Shares of K: as prescribed, or so many that the block with the most tiles has little to do, and x is short.
    fn shares(&self) -> u32 {
        if let Order::Shares(shares) = self.order {
            return shares;
        }
        let can = || [1, 2, 4, 8].into_iter().filter(|&shares| self.serves(shares));
        let work = |shares: u32| self.tiles_of(shares).div_ceil(MULTIPROCESSORS) * self.steps_of(shares);
        let least = can().map(work).min().unwrap_or(0);
        let good = || can().filter(|&shares| work(shares) * 50 <= least * 51);
        let short = good().find(|&shares| self.kept_of(shares) <= FEW);
        short.or_else(|| good().min_by_key(|&shares| self.kept_of(shares))).unwrap_or(1)
    }

    /// Rows of w in a tile.
    fn rows(&self) -> u32 {
        ROWS / self.shares()
    }

    /// Columns of y of a tile.
    fn outputs(&self) -> u32 {
        self.rows() / self.of.halves()
    }

    fn tiles_of(&self, shares: u32) -> u32 {
        self.of.outputs().div_ceil(ROWS / shares / self.of.halves())
    }

    fn tiles(&self) -> u32 {
        self.tiles_of(self.shares())
    }

    /// Steps along a share, each of [`CHUNK`] bytes; behind the end of K there are zeros.
    fn steps_of(&self, shares: u32) -> u32 {
        (self.of.k * self.of.operands.bytes()).div_ceil(CHUNK).div_ceil(shares)
    }

    fn steps(&self) -> u32 {
        self.steps_of(self.shares())
    }

    /// Columns of the second operand: shares of a token, or the tokens of each share.
    fn columns_of(&self, shares: u32) -> u32 {
        if self.tokens == 1 { COLUMNS } else { shares * self.tokens }
    }

    fn columns(&self) -> u32 {
        self.columns_of(self.shares())
    }

    /// Bytes of x that a block keeps, `(step, column, chunk)`.
    fn kept_of(&self, shares: u32) -> u32 {
        self.steps_of(shares) * self.columns_of(shares) * CHUNK
    }

    /// Bytes of x in shared memory.
    pub(crate) fn kept_bytes(&self) -> u32 {
        self.kept_of(self.shares())
    }

    /// Steps of a unit: what a stage of the ring has, of all shares.
    fn unit_steps(&self) -> u32 {
        if self.steps().is_multiple_of(2) { 2 } else { 1 }
    }

    /// Units of a tile.
    fn units(&self) -> u32 {
        self.steps() / self.unit_steps()
    }

    fn stage_bytes(&self) -> u32 {
        self.unit_steps() * ROWS * CHUNK
    }

    fn stages(&self) -> u32 {
        RING.max(MEMORY.saturating_sub(self.kept_bytes())).div_ceil(self.stage_bytes())
    }

    fn blocks(&self) -> u32 {
        self.tiles().min(MULTIPROCESSORS)
    }

    /// Geometry. Arguments: those of the product, with what x is made of in place of x.
    pub fn launch(&self) -> Launch {
        let own = self.x.args();
        // Of w all rows of a tile, or gate's and up's by themselves.
        let w = self.of.map_w(self.outputs(), CHUNK);
        let args: Vec<_> = match own.as_slice() {
            [] => self.of.args(),
            own => own.iter().copied().chain(self.of.args().into_iter().skip(1)).collect(),
        };
        let x = (self.tokens > 1).then(|| self.of.map_x(self.tokens, CHUNK));
        let maps: Vec<_> = x.into_iter().chain([Map { arg: own.len().max(1) as u32, ..w }]).collect();
        let grid = grid_of(Extent { mul: self.blocks(), ..Extent::ONE });
        // Warps of which one thread brings something: weights, and x of several tokens.
        let leaders = maps.len() as u32;
        Launch { maps, ..Launch::new(grid, WORKERS + 32 * leaders, args) }
    }

    /// The kernel.
    pub fn build(&self, b: &Builder) {
        let (inputs, params) = self.x.inputs(b, &self.of);
        let x_map = (self.tokens > 1).then(|| b.param_tensor_map());
        let map = b.param_tensor_map();
        let m = self.of.rows.of(b.param_dims_early());
        let ring = Ring::new(b, self.stages(), self.stage_bytes());
        let made = self.place_of_x(b);
        let thread = b.special(Special::ThreadX);
        let leads = |i: u32| thread.eq(WORKERS + 32 * i);
        b.if_(leads(0), || {
            x_map.into_iter().chain([map]).for_each(|map| b.prefetch_tensor_map(map));
            made.begin(self.units());
            ring.begin(b, 1);
        });
        b.sync();
        let block = b.special(Special::BlockX);
        let run = Run { ring, tiles: [block, block + 1].map(|block| block * self.tiles() / self.blocks()) };
        b.if_(leads(0), || self.bring_weights(b, &run, map));
        if let Some(map) = x_map {
            b.if_(leads(1), || {
                b.after_grids();
                self.bring_x(b, &made, map);
            });
        }
        b.if_(thread.lt(WORKERS), || {
            self.make_x(b, &made, inputs);
            let params = made.scale.map_or(params, |scale| params.scaled_by(scale));
            let ragged = !self.of.outputs().is_multiple_of(self.outputs());
            self.multiply(b, &run, &made, self.of.epilogue(params, m, ragged));
        });
    }

    /// Brings the weights of the block's tiles into the ring, one thread. Nobody writes them: they are asked for whenever
    /// there is room, and not too many at once.
    fn bring_weights<'b>(&self, b: &'b Builder, run: &Run<'b>, map: Val<'b, TensorMap>) {
        let Run { ring, tiles: [first, behind] } = *run;
        let once = b.cache_policy(Evict::First);
        let columns = CHUNK / self.of.operands.bytes();
        b.for_(first, behind, 1, ring.start(b), |tile, cursor| {
            b.for_(0, self.units(), 1, cursor, |unit, cursor| {
                let full = ring.full.at(cursor[0]);
                ring.wait_left(cursor);
                ring.wait_few(cursor);
                full.arrive_expect(self.stage_bytes());
                let stage = ring.slot(cursor);
                for step in 0..self.unit_steps() {
                    for share in 0..self.shares() {
                        let column = (unit * self.unit_steps() + (share * self.steps() + step)) * columns;
                        for half in 0..self.of.halves() {
                            let row = step * ROWS + share * self.rows() + half * self.outputs();
                            let at = [column, tile * self.outputs() + half * self.of.outputs()];
                            b.tensor_load(stage.at_bytes(row * CHUNK), map, &at, full, Some(once));
                        }
                    }
                }
                ring.next(cursor)
            })
        });
    }

    /// Multiplies what comes, tile by tile, and stores it.
    fn multiply<'b>(&self, b: &'b Builder, run: &Run<'b>, made: &Made<'b>, epilogue: Epilogue<'b>) {
        let Run { ring, tiles: [first, behind] } = *run;
        let thread = b.special(Special::ThreadX);
        let (group, within) = (thread / GROUP, thread % GROUP);
        let places = self.tokens * store::PITCH;
        let memory = b.shared::<F32>(WORKERS / GROUP * places, 16).at(group * places);
        // The number of a barrier at which a warpgroup waits for its turn.
        let turn_of = |group: Val<'b, I32>| group + TURNS;
        b.for_(first + group, behind, WORKERS / GROUP, (), |tile, ()| {
            b.if_(tile.ne(first), || b.sync_some(turn_of(group), WORKERS));
            // What is not sums is read while they are made. All threads do, of which few store.
            let [token, column] = self.stored_by(within);
            let (row, column) = epilogue.nearest([token, tile * self.outputs() + column], VEC);
            let read = epilogue.read([row, column]);
            let zero = vec![b.value(0.0f32); self.columns() as usize / 2];
            let init = (zero, ring.cursor_of((tile - first) * self.units()));
            let (of_shares, _) = b.for_(0, self.units(), 1, init, |unit, (sums, cursor)| {
                made.wait(unit);
                ring.wait_full(cursor);
                let x = made.memory.at_bytes(unit * (self.unit_steps() * self.columns() * CHUNK));
                let sums = self.product(b, [ring.slot(cursor), x], sums, unit.ne(0));
                b.if_(within.eq(0), || ring.leave(cursor));
                (sums, ring.next(cursor))
            });
            // All before the next tile is done: its warpgroup finds the ring where it expects it.
            b.if_((tile + 1).lt(behind), || b.arrive_some(turn_of(group ^ 1), WORKERS));
            self.store(b, &of_shares, tile, (memory, group, within), (epilogue, read));
        });
    }

    /// `sums` (or nothing, if it is not `more`) and the product of a unit of weights and one of x, a warpgroup.
    fn product<'b>(
        &self,
        b: &'b Builder,
        [weights, x]: [SharedPtr<'b, Bf16>; 2],
        sums: Vec<Val<'b, F32>>,
        more: Val<'b, I1>,
    ) -> Vec<Val<'b, F32>> {
        let chunk = |step: u32| {
            let columns = x.at_bytes(step * self.columns() * CHUNK);
            [weights.at_bytes(step * ROWS * CHUNK), columns]
        };
        let chunks: Vec<_> = (0..self.unit_steps()).map(chunk).collect();
        self.of.add_unit(b, &chunks, sums, (more, self.order))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::Count;
    use crate::kernels::operands::Operands;
    use trtc_ir::DType;
    use trtc_ir::ops::Act;

    fn kernel(n: u32, k: u32, operands: Operands, gate: Option<Act>) -> NarrowMatmul {
        let (bias, residual, append) = (None, None, None);
        let of =
            Product { n, k, operands, rows: Count::Tokens, bias, residual, out: DType::Bf16, gate, append };
        NarrowMatmul { of, tokens: 1, order: Order::Free, x: Source::Given }
    }

    #[test]
    fn tiles_are_as_narrow_as_dealing_them_out_evenly_asks_for() {
        use Operands::{Bf16, E4m3};
        let of = |n, k, operands, gate| {
            let kernel = kernel(n, k, operands, gate);
            assert_eq!(kernel.unsupported(), None);
            let per_block = f64::from(kernel.tiles()) / f64::from(MULTIPROCESSORS);
            (kernel.shares(), (100.0 * per_block / per_block.ceil()).round() as u32)
        };
        // Llama 3.1 8B in e4m3, with half as wide tiles where x would be long; Llama 3.2 1B in bf16.
        assert_eq!(of(6144, 4096, E4m3, None), (4, 97));
        assert_eq!(of(4096, 4096, E4m3, None), (2, 97));
        assert_eq!(of(4096, 14336, E4m3, None), (4, 97));
        assert_eq!(of(28672, 4096, E4m3, Some(Act::Silu)), (2, 97));
        assert_eq!(of(3072, 2048, Bf16, None), (8, 97));
        assert_eq!(of(2048, 8192, Bf16, None), (4, 97));
        assert_eq!(of(16384, 2048, Bf16, Some(Act::Silu)), (1, 97));
        // Few outputs: as many blocks as can be.
        assert_eq!(of(576, 1536, Bf16, None).0, 8);
        assert_eq!(of(1024, 1024, Bf16, Some(Act::Silu)).0, 4);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let one = kernel(4096, 14336, Operands::Bf16, None);
        let why = |kernel: NarrowMatmul| kernel.unsupported().unwrap_or_default();
        assert_eq!(why(one), "");
        assert!(why(NarrowMatmul { tokens: 8, ..one }).contains("no room"));
        assert!(why(NarrowMatmul { order: Order::Shares(16), ..one }).contains("16 whole parts"));
        let gated = kernel(4096, 4096, Operands::Bf16, Some(Act::Silu));
        assert!(why(NarrowMatmul { order: Order::Shares(8), ..gated }).contains("8 whole parts"));
    }
}
