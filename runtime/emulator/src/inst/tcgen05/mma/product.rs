//! One product of one thread: operands gathered, sums made, D written.

use super::super::operand::{Matrix, TensorA, check_lane, float, packing, scales, tensor_a};
use super::super::{blocks, issue, note, of_descriptor, of_memory, within};
use crate::fault::{FaultKind, Outcome, trap};
use crate::layout::instruction_descriptor::{
    AccumulatorFormat, InstructionDescriptor, MmaForm, MmaKind, OperandFormat, ScaleFormat,
};
use crate::layout::tensor_memory::{AccumulatorPlace, Cell, DataPath};
use crate::memory::clocks::{Engine, Stamp};
use crate::memory::shared::Who;
use crate::number::dot::{Generation, Overflow, Scales, arithmetic, matmul, matmul_i32, matmul_scaled};
use crate::number::format::{Format, Round, Saturate};
use crate::tensor_memory::Units;
use crate::world::Step;
use std::ops::Range;

/// Where A is: a descriptor, or an address.
pub enum A {
    /// In shared memory.
    Shared(u64),
    /// In tensor memory.
    Tensor(u32),
}

/// A product.
pub struct Product {
    pub kind: MmaKind,
    /// Blocks that work together.
    pub group: u8,
    pub weight_stationary: bool,
    /// Scales of a row along K; 0 without scales.
    pub parts: usize,
    /// Address of D.
    pub out: u32,
    pub a: A,
    /// Descriptor of B.
    pub b: u64,
    /// Of the instruction.
    pub descriptor: u32,
    /// Addresses of the scales of A and B.
    pub scales: Option<(u32, u32)>,
    /// Lanes of each block that are not written.
    pub disabled: [u128; 2],
    /// False: D begins as zero.
    pub accumulates: bool,
    /// D is multiplied by 2^-shift before.
    pub shift: i32,
    /// The thread.
    pub lane: usize,
}

/// Columns of a row of D that lie beside each other.
struct Run {
    /// Which of the blocks that work together.
    cta: usize,
    first: Cell,
    /// Of its first element, counted row by row.
    at: usize,
    len: usize,
}

/// M, N, K.
type Shape = [usize; 3];

impl Product {
    /// Does it.
    pub fn execute(&self, s: &mut Step<'_, '_>) -> Outcome<()> {
        let form =
            MmaForm { kind: self.kind, cta_group: self.group, weight_stationary: self.weight_stationary };
        let i = of_descriptor(InstructionDescriptor::decode(self.descriptor, form))?;
        if i.sparsity.is_some() {
            let what = format!(
                "instruction descriptor {:#010x} says that A is sparse, and the instruction has no .sp",
                self.descriptor
            );
            return trap(FaultKind::Descriptor, what);
        }
        let path = of_memory(DataPath::of(i.m, self.group, self.weight_stationary, false))?;
        let shape @ [m, n, k] = [i.m, i.n, i.k].map(|x| x as usize);
        let stamp = issue(s, Engine::Matrix);
        s.warp.pending.tensor.issued_by(self.lane, stamp);
        let who = Who { warp: s.warp.actor, lane: self.lane, stamp };
        let blocks = blocks(s, self.group)?;
        // Each block has its part of the rows of A, and of B.
        let (mut a, mut b) = (Vec::with_capacity(m * k), Vec::with_capacity(n * k));
        let (rows_a, rows_b) = (m / blocks.len(), n / blocks.len());
        for (cta, block) in blocks.clone().enumerate() {
            a.extend(match self.a {
                A::Shared(word) => {
                    Matrix::new(word, block, i.a_major, packing(self.kind, i.a))?.read(s, rows_a, k, who)?
                }
                A::Tensor(address) => {
                    let a = TensorA { address, kind: self.kind, format: i.a, path };
                    tensor_a(s, block, &a, [cta * rows_a, rows_a, k], stamp)?
                }
            });
            b.extend(
                Matrix::new(self.b, block, i.b_major, packing(self.kind, i.b))?.read(s, rows_b, k, who)?,
            );
        }
        let b = transposed(&b, n, k);
        let runs = self.runs(s, &blocks, path, shape)?;
        let mut old = vec![0; m * n];
        if self.accumulates {
            // Of lanes that are not written nothing is read.
            for run in runs.iter().filter(|r| self.enabled(r)) {
                let tensor = &s.world.blocks[blocks.start + run.cta].tensor;
                tensor.get_run(run.first, &mut old[run.at..run.at + run.len], "tcgen05.mma")?;
            }
        }
        let new = match (float(i.a), float(i.b)) {
            (Some(fa), Some(fb)) => self.floats(s, &blocks, &i, shape, (fa, &a), (fb, &b), &old, stamp)?,
            _ => integers(&i, shape, &a, &b, &old)?,
        };
        for (cta, block) in blocks.enumerate() {
            let own = runs.iter().filter(|r| r.cta == cta && self.enabled(r));
            let mut units = Units::default();
            own.clone().for_each(|r| units.add_run(r.first, r.len));
            note(s, block, Engine::Matrix, stamp, &units, true)?;
            let tensor = &mut s.world.blocks[block].tensor;
            own.for_each(|r| tensor.put_run(r.first, &new[r.at..r.at + r.len]));
        }
        Ok(())
    }

    fn enabled(&self, run: &Run) -> bool {
        self.disabled[run.cta % 2] >> run.first.lane & 1 == 0
    }

    /// Where D lies: each row is one, two or four runs of columns.
    fn runs(
        &self,
        s: &Step<'_, '_>,
        blocks: &Range<usize>,
        path: DataPath,
        [m, n, _]: Shape,
    ) -> Outcome<Vec<Run>> {
        let first = of_memory(Cell::from_address(self.out))?;
        check_lane(path, first, "D")?;
        let place = |row: usize, column: usize| path.accumulator(row as u32, column as u32, n as u32);
        let len = place(0, n - 1).cell.column as usize + 1;
        for block in blocks.clone() {
            within(s, block, first, len as u32, "D")?;
        }
        let mut runs = Vec::with_capacity(m * n / len);
        for row in 0..m {
            for column in (0..n).step_by(len) {
                let AccumulatorPlace { cta, cell } = place(row, column);
                let first = of_memory(first.plus(cell))?;
                runs.push(Run { cta: cta as usize, first, at: row * n + column, len });
            }
        }
        Ok(runs)
    }

    #[allow(clippy::too_many_arguments, reason = "the parts of one product")]
    fn floats(
        &self,
        s: &mut Step<'_, '_>,
        blocks: &Range<usize>,
        i: &InstructionDescriptor,
        shape: Shape,
        (fa, a): (Format, &[u32]),
        (fb, b): (Format, &[u32]),
        old: &[u32],
        stamp: Stamp,
    ) -> Outcome<Vec<u32>> {
        let out = if i.d == AccumulatorFormat::F16 { Format::F16 } else { Format::F32 };
        let Some(arithmetic) = arithmetic(Generation::Blackwell, fa, fb, out) else {
            let what = format!("tcgen05.mma has no product of {fa:?} and {fb:?} with sums of {out:?}");
            return trap(FaultKind::Descriptor, what);
        };
        let decode = |format: Format, bits: &[u32], negative: bool| -> Vec<f32> {
            let sign = if negative { -1.0 } else { 1.0 };
            bits.iter().map(|&b| sign * format.decode(b)).collect()
        };
        let (a, b) = (decode(fa, a, i.negate_a), decode(fb, b, i.negate_b));
        let scale = 0.5f32.powi(self.shift);
        let mut sums: Vec<f32> = old.iter().map(|&w| scale * out.decode(w)).collect();
        let [m, n, k] = shape;
        match (i.scale, self.scales) {
            (Some(of), Some((at_a, at_b))) => {
                let format = match of.format {
                    ScaleFormat::Ue8m0 => Format::Ue8m0,
                    ScaleFormat::Ue4m3 => Format::Ue4m3,
                };
                let parts = self.parts;
                if parts == 4 && (of.a_id, of.b_id) != (0, 0) || parts == 2 && format == Format::Ue4m3 {
                    let what = format!(
                        "{parts} scales of {format:?} a row from the bytes {} and {} on: 4 begin at byte 0, 2 are ue8m0",
                        of.a_id, of.b_id
                    );
                    return trap(FaultKind::Descriptor, what);
                }
                // Each block has the scales of its rows of A, and all of B's.
                let (mut scales_a, mut by_column) = (Vec::with_capacity(m * parts), Vec::new());
                for block in blocks.clone() {
                    scales_a.extend(scales(s, block, at_a, of.a_id, [m / blocks.len(), parts], stamp)?);
                    let found = scales(s, block, at_b, of.b_id, [n, parts], stamp)?;
                    if block > blocks.start && found != by_column {
                        return trap(
                            FaultKind::TensorMemory,
                            "the scales of B are not the same in both blocks",
                        );
                    }
                    by_column = found;
                }
                let scales_b = transposed(&by_column, n, parts);
                let scales = Scales { format, block: k / parts, a: &scales_a, b: &scales_b };
                let four_bit = self.kind != MmaKind::Mxf8f6f4;
                of_descriptor(matmul_scaled(&arithmetic, four_bit, shape, &a, &b, scales, &mut sums))?;
            }
            _ => of_descriptor(matmul(&arithmetic, m, n, k, &a, &b, &mut sums))?,
        }
        let encode = |x: &f32| match out {
            Format::F16 => Format::F16.encode(f64::from(*x), Round::Near, Saturate::NONE),
            _ => x.to_bits(),
        };
        Ok(sums.iter().map(encode).collect())
    }
}

/// Rows of `k` as columns: B's rows are D's columns.
fn transposed<T: Copy>(rows: &[T], n: usize, k: usize) -> Vec<T> {
    (0..k).flat_map(|i| (0..n).map(move |j| rows[j * k + i])).collect()
}

fn integers(i: &InstructionDescriptor, shape: Shape, a: &[u32], b: &[u32], old: &[u32]) -> Outcome<Vec<u32>> {
    let widen = |format: OperandFormat, bits: &[u32]| -> Vec<i32> {
        let signed = format == OperandFormat::S8;
        bits.iter().map(|&b| if signed { i32::from(b as u8 as i8) } else { i32::from(b as u8) }).collect()
    };
    let overflow = if i.saturate { Overflow::Clamp } else { Overflow::Wrap };
    let mut sums: Vec<i32> = old.iter().map(|&w| w as i32).collect();
    of_descriptor(matmul_i32(overflow, shape, &widen(i.a, a), &widen(i.b, b), &mut sums))?;
    Ok(sums.iter().map(|&x| x as u32).collect())
}
