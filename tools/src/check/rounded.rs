//! Whether a kernel rounds attention's queries: whoever does gives the same results, to the bit, when they were rounded before.
//!
//! A comparison with the reference does not tell where weights may be rounded too (`Tolerance`): what queries lose is as little.

use super::inputs::{Kind, dtype_of};
use super::memory::{Memory, Place};
use super::{appends, op_of};
use crate::render::Failure;
use trtc_engine::manifest::Arg;
use trtc_ir::interp::Data;
use trtc_ir::quant::round_row;
use trtc_ir::{Module, Op};

/// True unless `results` of a launch that has run are other ones with queries that were rounded before. Of a contract without
/// such queries, or whose kernel makes them itself, nothing is launched again.
pub fn holds(
    memory: &mut Memory<'_>,
    module: &Module,
    (args, inputs): (&[Arg], &[Data]),
    results: &[(Place, Kind)],
    launch: impl FnOnce(&mut Memory<'_>) -> Result<(), Failure>,
) -> Result<bool, Failure> {
    let op = match op_of(module) {
        Some(Op::Attention(op)) if op.products.is_some() && !appends(module) => op,
        _ => return Ok(true),
    };
    let at = module.func.params.iter().position(|&param| param == op.q);
    let ty = module.func.values[op.q].ty.tensor();
    let (Some(ty), Some(Data::Float(q)), Some(&Arg::Arena(first))) =
        (ty, at.and_then(|i| inputs.get(i)), args.first())
    else {
        return Err(Failure::bug("a kernel of attention does not take its queries first"));
    };
    let dtype = dtype_of(ty)?;
    // As the launch has them, of its type.
    let queries = Place { at: first, len: q.data.len() as u64 * dtype.bytes() };
    let (mut rounded, _) = memory.read(queries, dtype)?;
    let head_dim = q.dims.last().copied().unwrap_or(1).max(1);
    rounded.chunks_exact_mut(head_dim).for_each(round_row);
    let read = |memory: &mut Memory<'_>| {
        results.iter().map(|(place, _)| memory.read_bytes(*place)).collect::<Result<Vec<_>, _>>()
    };
    let before = read(memory)?;
    memory.write(queries, &rounded, dtype)?;
    for (place, _) in results {
        memory.write_bytes(*place, &vec![0xff; place.len as usize])?;
    }
    launch(memory)?;
    Ok(read(memory)? == before)
}
