//! Compiled kernels as the manifest describes them: geometry, tensor maps, and the names of their tensors.

use crate::gpu::GpuCode;
use trtc_codegen::kernels::{Count as Counted, Map, MapElem, MapRows};
use trtc_engine::manifest::{self as eng, Count};
use trtc_ir::{Diag, Loc};

/// The container's tensor with a kernel's PTX.
pub(crate) fn ptx_tensor(kernel: &str) -> String {
    format!("kernel/{kernel}.ptx")
}

/// The container's tensor with a kernel's binary.
pub(crate) fn cubin_tensor(kernel: &str) -> String {
    format!("kernel/{kernel}.cubin")
}

/// How a compiled kernel is launched. `first` gives where each of its arguments begins among those of a launch.
pub(super) fn ptx_kernel(
    compiled: &GpuCode,
    name: &str,
    first: &[u32],
    loc: &Loc,
) -> Result<eng::PtxKernel, Diag> {
    let kernel = compiled.kernels.iter().find(|k| k.name == name);
    let kernel = kernel.ok_or_else(|| Diag::bug(loc, format!("kernel {name} was not compiled")))?;
    let count = |of| match of {
        Counted::One => Count::One,
        Counted::Tokens => Count::Tokens,
        Counted::Rows => Count::Rows,
        Counted::Seqs => Count::Seqs,
    };
    Ok(eng::PtxKernel {
        module: ptx_tensor(name),
        cubin: compiled.cubins.contains_key(name).then(|| cubin_tensor(name)),
        entry: kernel.entry.clone(),
        grid: kernel.grid.map(|e| eng::Extent {
            of: count(e.of),
            div: e.div,
            plus: e.plus.map(count),
            mul: e.mul,
        }),
        shares: kernel.shares.map(|s| eng::Shares { keys: s.keys, most: s.most, few: s.few }),
        block: kernel.block,
        shared: kernel.shared,
        scratch: kernel.scratch.map(|s| eng::Scratch {
            of: count(s.of),
            bytes: s.bytes,
            counters: s.counters,
        }),
        maps: kernel.maps.iter().map(|m| map(m, first, count, loc)).collect::<Result<_, _>>()?,
        dependent: kernel.dependent,
    })
}

/// A tensor map of a kernel.
fn map(m: &Map, first: &[u32], count: impl Fn(Counted) -> Count, loc: &Loc) -> Result<eng::Map, Diag> {
    let arg = first.get(m.arg as usize).copied();
    let arg = arg.ok_or_else(|| Diag::bug(loc, format!("a tensor map over argument {}", m.arg)))?;
    let elem = match m.elem {
        MapElem::U8 => eng::MapElem::U8,
        MapElem::Bf16 => eng::MapElem::Bf16,
        MapElem::F32 => eng::MapElem::F32,
    };
    let rows = match m.rows {
        MapRows::Fixed(n) => eng::MapRows::Fixed(n),
        MapRows::Most(of) => eng::MapRows::Most(count(of)),
        MapRows::Paged(n) => eng::MapRows::Paged(n),
    };
    Ok(eng::Map { arg, elem, width: m.width, rows, tile: m.tile, swizzle: m.swizzle })
}
