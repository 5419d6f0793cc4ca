//! `tcgen05.cp`: rows of shared memory to lanes of tensor memory.

use super::super::work;
use super::operand::{CHUNK, Matrix};
use super::{blocks, group, issue, note, of_memory, tensor_address, tensor_addresses, within};
use crate::decode::{Decoder, Run, Ty};
use crate::fault::Outcome;
use crate::layout::tensor_memory::{Cell, CopyShape};
use crate::layout::{Major, Packing};
use crate::memory::clocks::Engine;
use crate::memory::shared::Who;
use crate::ptx::Malformed;
use crate::tensor_memory::Units;
use crate::warp::lanes;
use crate::world::Step;

const SHAPES: &[(&str, Option<&str>, CopyShape)] = &[
    ("128x256b", None, CopyShape::Rows128Bits256),
    ("4x256b", None, CopyShape::Rows4Bits256),
    ("128x128b", None, CopyShape::Rows128Bits128),
    ("64x128b", Some("warpx2::02_13"), CopyShape::Rows64Bits128Warps02And13),
    ("64x128b", Some("warpx2::01_23"), CopyShape::Rows64Bits128Warps01And23),
    ("32x128b", Some("warpx4"), CopyShape::Rows32Bits128Warps4),
];

/// `tcgen05.cp.cta_group.shape{.multicast} [a], descriptor`.
pub fn copy(d: &mut Decoder<'_>) -> Result<Run, Malformed> {
    let group = group(d)?;
    let has = |word: &str| d.words().contains(&word);
    let found = SHAPES.iter().find(|(shape, cast, _)| has(shape) && cast.is_none_or(has));
    let Some(&(shape, cast, form)) = found else {
        return d.refuse("a shape, or the multicast that goes with it, is missing");
    };
    d.has(shape);
    cast.map(|c| d.has(c));
    let (at, descriptor) = (tensor_address(d, 0)?, d.typed(1, Ty::U64)?);
    d.shared_access(CHUNK as u32);
    Ok(work(move |s| {
        let (at, descriptor) = (tensor_addresses(s, &at), s.warp.get_wide(descriptor));
        for lane in lanes(s.mask) {
            let stamp = issue(s, Engine::Matrix);
            s.warp.pending.tensor.issued_by(lane, stamp);
            let who = Who { warp: s.warp.actor, lane, stamp };
            for block in blocks(s, group)? {
                one(s, block, form, at[lane], descriptor[lane], who)?;
            }
        }
        Ok(())
    }))
}

/// The copy within a block.
fn one(
    s: &mut Step<'_, '_>,
    block: usize,
    form: CopyShape,
    at: u32,
    descriptor: u64,
    who: Who,
) -> Outcome<()> {
    let first = of_memory(Cell::from_address(at))?;
    within(s, block, first, form.columns(), "the target of tcgen05.cp")?;
    let mut source = Matrix::new(descriptor, block, Major::K, Packing::Bits32)?;
    let (rows, columns) = (form.rows() as usize, form.columns() as usize);
    let words = source.read(s, rows, columns, who)?;
    let mut cells = Vec::with_capacity(4 * words.len());
    let mut units = Units::default();
    for (row, words) in words.chunks_exact(columns).enumerate() {
        for to in form.lanes(row as u32) {
            for (column, &word) in words.iter().enumerate() {
                let cell = of_memory(first.plus(Cell { lane: to, column: column as u32 }))?;
                units.add(cell);
                cells.push((cell, word));
            }
        }
    }
    note(s, block, Engine::Matrix, who.stamp, &units, true)?;
    let tensor = &mut s.world.blocks[block].tensor;
    for (cell, word) in cells {
        tensor.put(cell, word);
    }
    Ok(())
}
