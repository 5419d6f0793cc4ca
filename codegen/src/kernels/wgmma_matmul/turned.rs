//! From a warpgroup's sums of a turned tile, outputs by rows, to rows of y: some rows at a time pass through shared memory, where each
//! thread finds eight columns of one row.

use super::super::epilogue::Epilogue;
use super::super::gated_act::activate;
use super::{Block, CONSUMERS, WgmmaMatmul};
use crate::builder::{Builder, F32, I1, I32, I64, SharedPtr, Special, Val};
use std::collections::VecDeque;

/// Rows of w of a tile of sums.
const OUTPUTS: u32 = 64;
/// Columns of y that a thread stores at once.
const VEC: u32 = 8;
/// Floats between rows in shared memory: banks of neighbouring rows differ.
const PITCH: u32 = OUTPUTS + 4;
/// Named barriers of the warpgroups, 1 and those that follow.
const TURN: u32 = 1;
/// Rounds whose residual and scales are under way: about the latency of the second-level cache.
const AHEAD: usize = 4;

/// Most shared memory that turning takes: that of gated products.
pub(super) const TURN_BYTES: u32 = CONSUMERS * (128 * VEC / (OUTPUTS / 2)) * PITCH * 4;

/// Eight columns of a row.
type Eight<'b> = [Val<'b, F32>; VEC as usize];
/// Scales and bias of a thread's columns, of y and, if it is gated, of up.
type Columns<'b> = [Option<Eight<'b>>; 2];

/// What a round needs of a thread's row: where it is in y, whether it exists, its scale, and its residual.
struct Row<'b> {
    at: Val<'b, I64>,
    exists: Val<'b, I1>,
    scale: Option<Val<'b, F32>>,
    residual: Option<Eight<'b>>,
}

impl WgmmaMatmul {
    /// Columns of y in a tile of sums.
    fn outputs_of_turn(&self) -> u32 {
        OUTPUTS / self.of.halves()
    }

    /// Rows whose sums are turned together: one for as many threads as have its columns.
    fn rows_of_turn(&self) -> u32 {
        128 * VEC / self.outputs_of_turn()
    }

    /// Shared memory in which warpgroups turn their sums.
    pub(super) fn turn<'b>(&self, b: &'b Builder) -> Option<SharedPtr<'b, F32>> {
        self.tiling.turned.then(|| b.shared(CONSUMERS * self.rows_of_turn() * PITCH, 16))
    }

    /// Stores a warpgroup's turned tile at `[row, column]` of y, tiles of sums one after the other.
    pub(super) fn store_turned<'b>(
        &self,
        block: Block<'b>,
        warp: Val<'b, I32>,
        epilogue: Epilogue<'b>,
        [row, column]: [Val<'b, I32>; 2],
        sums: &[Vec<Val<'b, F32>>],
        memory: SharedPtr<'b, F32>,
    ) {
        let b = block.b;
        let (lane, group, warp) = (b.special(Special::Lane), warp / 4, warp % 4);
        let (own, together) = (self.outputs_of_turn(), self.rows_of_turn());
        let memory = memory.at(group * (together * PITCH));
        // Of 8 rows of y a thread has columns g and g + 8 of its warp's 16, rows 2q and 2q + 1 (`builder/wgmma.rs`).
        let put = memory.at((lane & 3) * (2 * PITCH) + warp * 16 + (lane >> 2));
        let thread = warp * 32 + lane;
        let (of_thread, chunk) = (thread / (own / VEC), thread % (own / VEC) * VEC);
        let get = memory.at(of_thread * PITCH + chunk);
        let sync = || b.sync_some(group + TURN, 128);
        for (i, sums) in sums.iter().enumerate() {
            let all = 2 * sums.len() as u32;
            let column = column + (i as u32 * own) + chunk;
            let (column, inside) = if epilogue.ragged {
                (column.min(epilogue.n - VEC), Some(column.lt(epilogue.n)))
            } else {
                (column, None)
            };
            let columns = of_columns(epilogue, column);
            let ups = epilogue.gate.map(|act| (act, of_columns(epilogue, column + epilogue.n)));
            let read = |from: u32| {
                let (within, rows) = (of_thread + from, together.min(all - from));
                let exists = (row + within).lt(epilogue.m);
                let exists = if rows < together { exists & of_thread.lt(rows) } else { exists };
                let exists = inside.map_or(exists, |inside| exists & inside);
                let row = (row + within).min(epilogue.m - 1);
                let at = row.to_i64() * i64::from(epilogue.n) + column.to_i64();
                Row {
                    at,
                    exists,
                    scale: epilogue.scales.map(|s| s.rows.of(row)),
                    residual: epilogue.residual.map(|residual| residual.at64(at).load()),
                }
            };
            let mut rounds = (0..all).step_by(together as usize);
            let mut waiting: VecDeque<(u32, Row<'b>)> =
                rounds.by_ref().take(AHEAD).map(|from| (from, read(from))).collect();
            while let Some((from, row)) = waiting.pop_front() {
                waiting.extend(rounds.next().map(|from| (from, read(from))));
                // The warpgroup has read what was there.
                sync();
                for t in (from..all.min(from + together)).step_by(8) {
                    for j in 0..4 {
                        let sum = sums[(t / 2 + j) as usize];
                        put.at((t - from + j % 2) * PITCH + j / 2 * 8).store(sum);
                    }
                }
                sync();
                let eight = |from: SharedPtr<'b, F32>| -> Eight<'b> {
                    let halves = [0, 4].map(|i: u32| from.at(i).load_vector::<4>().elements());
                    std::array::from_fn(|i| halves[i / 4][i % 4])
                };
                let value = finish(eight(get), row.scale, columns);
                let value = ups.map_or(value, |(act, columns)| {
                    let up = finish(eight(get.at(own)), row.scale, columns);
                    std::array::from_fn(|i| activate(act, value[i]) * up[i])
                });
                let value = add(value, row.residual);
                b.if_(row.exists, || epilogue.y.at64(row.at).store(value));
            }
        }
    }
}

/// Scales and bias of eight columns.
fn of_columns<'b>(epilogue: Epilogue<'b>, column: Val<'b, I32>) -> Columns<'b> {
    let scales = epilogue.scales.map(|s| {
        let halves = [0, 4].map(|i: u32| s.columns.at(column + i).load_vector::<4>().elements());
        std::array::from_fn(|i| halves[i / 4][i % 4])
    });
    [scales, epilogue.bias.map(|bias| bias.at(column).load())]
}

/// Sums of a row with their scales and bias.
fn finish<'b>(sums: Eight<'b>, row: Option<Val<'b, F32>>, [scales, bias]: Columns<'b>) -> Eight<'b> {
    let sums = match (row, scales) {
        (Some(row), Some(columns)) => std::array::from_fn(|i| sums[i] * (row * columns[i])),
        _ => sums,
    };
    add(sums, bias)
}

fn add<'b>(a: Eight<'b>, more: Option<Eight<'b>>) -> Eight<'b> {
    more.map_or(a, |more| std::array::from_fn(|i| a[i] + more[i]))
}
