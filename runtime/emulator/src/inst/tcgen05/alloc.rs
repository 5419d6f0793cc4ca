//! `tcgen05.alloc`, `dealloc` and `relinquish_alloc_permit`.
//!
//! With `.cta_group::2` a warp of each block of a pair executes them; here each does its own block's part and does not wait
//! for the other, so that both get the same address if both ask for the same columns in the same order.

use super::super::memory::addresses;
use super::super::work;
use super::{aligned, common, group, of_memory};
use crate::decode::{Decoder, Next, Run, Ty};
use crate::fault::{FaultKind, trap, trap_at};
use crate::layout::tensor_memory::{Cell, check_allocation};
use crate::memory::address;
use crate::ptx::{Malformed, Space};
use crate::tensor_memory::Allocation;
use crate::warp::Wait;

/// `tcgen05.alloc.cta_group.sync.aligned{.shared::cta}.b32 [a], columns`: the address goes to shared memory. Who finds too
/// few columns waits.
pub fn alloc(d: &mut Decoder<'_>) -> Result<Run, Malformed> {
    group(d)?;
    aligned(d)?;
    d.has("b32");
    let shared = d.has("shared::cta");
    let ((to, _), columns) = (d.address(0)?, d.typed(1, Ty::U32)?);
    let generic = !shared && to.space.is_none();
    d.shared_access(4);
    Ok(Box::new(move |s| {
        let lane = s.mask.trailing_zeros() as usize;
        let columns = common(&s.warp.get(columns), s.mask, "the number of columns")?;
        of_memory(check_allocation(columns))?;
        let mut to = addresses(s, &to)[lane];
        if generic {
            let (space, at) = address::split(to);
            if space != Space::Shared {
                let what = format!("tcgen05.alloc writes to {space:?} memory: it must be shared");
                return trap_at(FaultKind::OutOfBounds, lane, what);
            }
            to = at;
        }
        let (warp, line) = (s.warp.actor, s.line);
        let tensor = &mut s.block().tensor;
        if tensor.relinquished {
            let what = "tcgen05.alloc after tcgen05.relinquish_alloc_permit";
            return trap(FaultKind::TensorMemory, what);
        }
        let Some(first) = tensor.fits(columns) else {
            return Ok(Next::Retry(s.mask, Wait::Columns(columns)));
        };
        tensor.allocate(Allocation { first, columns, warp, line });
        let address = Cell { lane: 0, column: first }.address();
        s.write_shared(lane, to, &address.to_le_bytes(), false)?;
        Ok(Next::On)
    }))
}

/// `tcgen05.dealloc.cta_group.sync.aligned.b32 a, columns`.
pub fn dealloc(d: &mut Decoder<'_>) -> Result<Run, Malformed> {
    group(d)?;
    aligned(d)?;
    d.has("b32");
    let (at, columns) = (d.typed(0, Ty::U32)?, d.typed(1, Ty::U32)?);
    Ok(work(move |s| {
        let at = common(&s.warp.get(at), s.mask, "the address")?;
        let columns = common(&s.warp.get(columns), s.mask, "the number of columns")?;
        of_memory(check_allocation(columns))?;
        let cell = of_memory(Cell::from_address(at))?;
        if cell.lane != 0 {
            let what = format!("tcgen05.dealloc at lane {}; an allocation begins at lane 0", cell.lane);
            return trap(FaultKind::TensorMemory, what);
        }
        let tensor = &mut s.world.blocks[s.warp.block].tensor;
        tensor.deallocate(s.world.clocks, s.warp.actor, cell.column, columns)
    }))
}

/// `tcgen05.relinquish_alloc_permit.cta_group.sync.aligned`.
pub fn relinquish(d: &mut Decoder<'_>) -> Result<Run, Malformed> {
    group(d)?;
    aligned(d)?;
    Ok(work(|s| {
        s.block().tensor.relinquished = true;
        Ok(())
    }))
}
