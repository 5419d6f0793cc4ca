//! Moves: registers, parts of registers, special registers, addresses from one space to another.

use super::{Rows, work};
use crate::decode::{Decoder, Run, Ty};
use crate::memory::address;
use crate::ptx::{Malformed, Operand, Space};
use crate::warp::{ALL, LANES, Slot, Source};
use crate::world::Step;

pub const ROWS: Rows = &[("mov", mov), ("cvta", cvta), ("isspacep", isspacep), ("activemask", activemask)];

fn mov(d: &mut Decoder<'_>) -> Result<Run, Malformed> {
    let ty = d.ty()?;
    match (d.operand(0)?, d.operand(1)?) {
        (Operand::Vector(_), _) => unpack(d, ty),
        (_, Operand::Vector(_)) => pack(d, ty),
        (_, Operand::Special(name)) => special(d, ty, name),
        _ if ty == Ty::Pred => {
            let (out, (a, negated)) = (d.typed_dest(0, ty)?, d.pred(1)?);
            let flip = if negated { ALL } else { 0 };
            Ok(work(move |s| {
                let a = s.warp.pred(a) ^ flip;
                s.warp.set_pred(out, s.mask, a);
                Ok(())
            }))
        }
        _ if ty == Ty::B128 => {
            let (out, a) = (d.typed_dest(0, ty)?, d.typed(1, ty)?);
            Ok(work(move |s| {
                let Source::Slot(Slot(from)) = a else { return Ok(()) };
                for i in 0..4 {
                    let row = s.warp.get(Source::Slot(Slot(from + i)));
                    s.warp.set(Slot(out.0 + i), s.mask, &row);
                }
                Ok(())
            }))
        }
        _ if ty.bits() == 64 => {
            let (out, a) = (d.typed_dest(0, ty)?, d.typed(1, ty)?);
            Ok(work(move |s| {
                let a = s.warp.get_wide(a);
                s.warp.set_wide(out, s.mask, &a);
                Ok(())
            }))
        }
        _ => {
            let (out, a) = (d.typed_dest(0, ty)?, d.typed(1, ty)?);
            let cut = if ty.bits() == 32 { !0 } else { (1 << ty.bits()) - 1 };
            Ok(work(move |s| {
                let a = s.warp.get(a);
                s.warp.set(out, s.mask, &a.map(|x| x & cut));
                Ok(())
            }))
        }
    }
}

/// Rows of a value, 32 bits each.
fn rows(s: &Step<'_, '_>, source: Source, count: u32) -> Vec<[u32; LANES]> {
    (0..count)
        .map(|i| match source {
            Source::Slot(Slot(at)) => s.warp.rows[(at + i) as usize],
            Source::Constant(c) => [c.checked_shr(32 * i).unwrap_or(0) as u32; LANES],
        })
        .collect()
}

/// `{a, b} = c`: the first has the lowest bits.
fn unpack(d: &mut Decoder<'_>, ty: Ty) -> Result<Run, Malformed> {
    let outs = d.dests(0)?;
    let (a, words) = (d.typed(1, ty)?, ty.bits().div_ceil(32));
    let part = ty.bits() / (outs.len() as u32).max(1);
    if part * outs.len() as u32 != ty.bits() || !matches!(part, 8 | 16 | 32 | 64) {
        return d.refuse(format_args!("{} bits in {} parts", ty.bits(), outs.len()));
    }
    Ok(work(move |s| {
        let all = rows(s, a, words);
        for (i, out) in outs.iter().enumerate() {
            let Some(out) = *out else { continue };
            let bit = i as u32 * part;
            match part {
                64 => {
                    s.warp.set(out, s.mask, &all[2 * i]);
                    s.warp.set(Slot(out.0 + 1), s.mask, &all[2 * i + 1]);
                }
                32 => s.warp.set(out, s.mask, &all[i]),
                _ => {
                    let row = all[(bit / 32) as usize];
                    let mask = (1u32 << part) - 1;
                    s.warp.set(out, s.mask, &row.map(|x| x >> (bit % 32) & mask));
                }
            }
        }
        Ok(())
    }))
}

/// `c = {a, b}`.
fn pack(d: &mut Decoder<'_>, ty: Ty) -> Result<Run, Malformed> {
    let parts = d.sources(1)?;
    let out = d.typed_dest(0, ty)?;
    let part = ty.bits() / (parts.len() as u32).max(1);
    if part * parts.len() as u32 != ty.bits() || !matches!(part, 8 | 16 | 32 | 64) {
        return d.refuse(format_args!("{} bits in {} parts", ty.bits(), parts.len()));
    }
    let words = ty.bits().div_ceil(32) as usize;
    Ok(work(move |s| {
        let mut all = vec![[0u32; LANES]; words];
        for (i, &source) in parts.iter().enumerate() {
            let bit = i as u32 * part;
            match part {
                64 => {
                    let two = rows(s, source, 2);
                    all[2 * i..2 * i + 2].copy_from_slice(&two);
                }
                32 => all[i] = s.warp.get(source),
                _ => {
                    let (row, mask) = (s.warp.get(source), (1u32 << part) - 1);
                    let into = &mut all[(bit / 32) as usize];
                    for l in 0..LANES {
                        into[l] |= (row[l] & mask) << (bit % 32);
                    }
                }
            }
        }
        for (i, row) in all.iter().enumerate() {
            s.warp.set(Slot(out.0 + i as u32), s.mask, row);
        }
        Ok(())
    }))
}

/// Index of a dimension: `x` of `%tid.x`.
fn dimension(name: &str, of: &str) -> Option<usize> {
    let rest = name.strip_prefix(of)?.strip_prefix('.')?;
    ["x", "y", "z"].iter().position(|d| *d == rest)
}

/// What a special register holds for the threads of a warp.
fn special(d: &mut Decoder<'_>, ty: Ty, name: &str) -> Result<Run, Malformed> {
    type Read = Box<dyn Fn(&Step<'_, '_>) -> [u32; LANES] + Send + Sync>;
    fn same(f: impl Fn(&Step<'_, '_>) -> u32 + Send + Sync + 'static) -> Read {
        Box::new(move |s| [f(s); LANES])
    }
    /// Blocks of the grid, counted in clusters, along a dimension.
    fn clusters(s: &Step<'_, '_>, d: usize) -> u32 {
        s.world.launch.grid[d] / s.world.launch.cluster[d]
    }
    let read: Read = if let Some(i) = dimension(name, "%tid") {
        Box::new(move |s| {
            let first = (s.warp.index * LANES) as u32;
            std::array::from_fn(|l| s.world.launch.thread(first + l as u32)[i])
        })
    } else if let Some(i) = dimension(name, "%ntid") {
        same(move |s| s.world.launch.block[i])
    } else if let Some(i) = dimension(name, "%ctaid") {
        same(move |s| s.world.blocks[s.warp.block].id[i])
    } else if let Some(i) = dimension(name, "%nctaid") {
        same(move |s| s.world.launch.grid[i])
    } else if let Some(i) = dimension(name, "%clusterid") {
        same(move |s| s.world.blocks[s.warp.block].id[i] / s.world.launch.cluster[i])
    } else if let Some(i) = dimension(name, "%nclusterid") {
        same(move |s| clusters(s, i))
    } else if let Some(i) = dimension(name, "%cluster_ctaid") {
        same(move |s| s.world.blocks[s.warp.block].id[i] % s.world.launch.cluster[i])
    } else if let Some(i) = dimension(name, "%cluster_nctaid") {
        same(move |s| s.world.launch.cluster[i])
    } else {
        match name {
            "%cluster_ctarank" => same(|s| s.warp.block as u32),
            "%cluster_nctarank" => same(|s| s.world.blocks.len() as u32),
            "%laneid" => Box::new(|_| std::array::from_fn(|l| l as u32)),
            "%lanemask_eq" => Box::new(|_| std::array::from_fn(|l| 1 << l)),
            "%lanemask_lt" => Box::new(|_| std::array::from_fn(|l| (1 << l) - 1)),
            "%lanemask_le" => Box::new(|_| std::array::from_fn(|l| !(!1 << l))),
            "%lanemask_gt" => Box::new(|_| std::array::from_fn(|l| !1 << l)),
            "%lanemask_ge" => Box::new(|_| std::array::from_fn(|l| !0 << l)),
            "%warpid" => same(|s| s.warp.index as u32),
            "%nwarpid" => same(|s| s.world.launch.warps() as u32),
            "%smid" | "%gridid" => same(|_| 0),
            "%nsmid" => same(|_| 1),
            // A clock that counts the warp's own instructions.
            "%clock" | "%clock64" | "%globaltimer" | "%globaltimer_lo" => same(|s| s.warp.steps as u32),
            "%clock_hi" | "%globaltimer_hi" => same(|s| (s.warp.steps >> 32) as u32),
            "%dynamic_smem_size" => same(|s| s.world.launch.dynamic_shared),
            "%total_smem_size" => same(|s| s.world.launch.dynamic_shared + s.world.kernel.shared as u32),
            "WARP_SZ" => same(|_| LANES as u32),
            _ => return d.refuse(format_args!("the emulator does not know the special register {name}")),
        }
    };
    let out = d.typed_dest(0, ty)?;
    let (wide, cut) = (ty.bits() == 64, if ty.bits() == 16 { 0xffff } else { !0 });
    Ok(work(move |s| {
        let value = read(s).map(|x| x & cut);
        if wide {
            s.warp.set_wide(out, s.mask, &value.map(u64::from));
        } else {
            s.warp.set(out, s.mask, &value);
        }
        Ok(())
    }))
}

const SPACES: &[(&str, Space)] = &[
    ("global", Space::Global),
    ("const", Space::Const),
    ("shared", Space::Shared),
    ("shared::cta", Space::Shared),
    ("shared::cluster", Space::Shared),
    ("local", Space::Local),
    ("param", Space::Param),
];

/// `cvta` to a generic address, `cvta.to` from one.
fn cvta(d: &mut Decoder<'_>) -> Result<Run, Malformed> {
    let to = d.has("to");
    let Some(space) = d.one_of(SPACES) else {
        return d.refuse("a space is missing");
    };
    let ty = d.ty()?;
    let (out, a) = (d.typed_dest(0, ty)?, d.typed(1, ty)?);
    if ty.bits() != 64 {
        return d.refuse("generic addresses have 64 bits");
    }
    Ok(work(move |s| {
        let a = s.warp.get_wide(a);
        let convert = |x: u64| if to { address::split(x).1 } else { address::generic(space, x) };
        s.warp.set_wide(out, s.mask, &a.map(convert));
        Ok(())
    }))
}

fn isspacep(d: &mut Decoder<'_>) -> Result<Run, Malformed> {
    let Some(space) = d.one_of(SPACES) else {
        return d.refuse("a space is missing");
    };
    let (out, a) = (d.typed_dest(0, Ty::Pred)?, d.typed(1, Ty::U64)?);
    Ok(work(move |s| {
        let a = s.warp.get_wide(a);
        let bits = (0..LANES).fold(0, |m, i| m | u32::from(address::split(a[i]).0 == space) << i);
        s.warp.set_pred(out, s.mask, bits);
        Ok(())
    }))
}

fn activemask(d: &mut Decoder<'_>) -> Result<Run, Malformed> {
    let ty = d.ty()?;
    let out = d.typed_dest(0, ty)?;
    Ok(work(move |s| {
        s.warp.set(out, s.mask, &[s.mask; LANES]);
        Ok(())
    }))
}
