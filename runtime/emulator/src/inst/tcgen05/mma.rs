//! `tcgen05.mma`: D = A * B + D, with D in tensor memory.

mod product;

use super::super::work;
use super::operand::CHUNK;
use super::{group, tensor_address, tensor_addresses};
use crate::decode::{Address, Decoder, Run, Ty};
use crate::layout::instruction_descriptor::MmaKind;
use crate::ptx::{Malformed, Operand};
use crate::warp::{Source, lanes};
use product::{A, Product};

const KINDS: &[(&str, MmaKind)] = &[
    ("kind::f16", MmaKind::F16),
    ("kind::tf32", MmaKind::Tf32),
    ("kind::f8f6f4", MmaKind::F8f6f4),
    ("kind::i8", MmaKind::I8),
    ("kind::mxf8f6f4", MmaKind::Mxf8f6f4),
    ("kind::mxf4", MmaKind::Mxf4),
    ("kind::mxf4nvf4", MmaKind::Mxf4nvf4),
];

/// How many scales a row has along K.
#[derive(Clone, Copy)]
enum Vector {
    /// `.scale_vec::NX`.
    Parts(u32),
    /// `.block16` and `.block32`: elements of one scale.
    Block(u32),
}

const VECTORS: &[(&str, Vector)] = &[
    ("scale_vec::1X", Vector::Parts(1)),
    ("scale_vec::2X", Vector::Parts(2)),
    ("scale_vec::4X", Vector::Parts(4)),
    ("block16", Vector::Block(16)),
    ("block32", Vector::Block(32)),
];

/// Where A is.
enum Place {
    Shared(Source),
    Tensor(Address),
}

/// Scales of a row along K, 0 without scales.
fn parts(d: &mut Decoder<'_>, kind: MmaKind) -> Result<u32, Malformed> {
    let scaled = d.has("block_scale");
    if scaled != kind.is_block_scaled() {
        return d.refuse(".block_scale goes with the kinds mxf8f6f4, mxf4 and mxf4nvf4");
    }
    if !scaled {
        return Ok(0);
    }
    let vector = d.one_of(VECTORS);
    let allowed: &[u32] = match kind {
        MmaKind::Mxf8f6f4 => &[1],
        MmaKind::Mxf4 => &[2],
        _ => &[2, 4],
    };
    match vector {
        Some(Vector::Parts(n)) if allowed.contains(&n) => Ok(n),
        Some(Vector::Block(n)) if allowed.contains(&(kind.dense_k() / n)) => Ok(kind.dense_k() / n),
        Some(_) => d.refuse(format_args!("this kind has {allowed:?} scales of a row along K")),
        None if allowed.len() == 1 => Ok(allowed[0]),
        None => d.refuse("the size of a scale's block is missing"),
    }
}

/// `tcgen05.mma.cta_group.kind [d], a, b, descriptor, {lanes,} predicate {, scale}` and, with `.block_scale`,
/// `[d], a, b, descriptor, [scales of a], [scales of b], predicate`.
pub fn mma(d: &mut Decoder<'_>) -> Result<Run, Malformed> {
    let group = group(d)?;
    let weight_stationary = d.has("ws");
    let Some(kind) = d.one_of(KINDS) else {
        return d.refuse("a kind is missing");
    };
    if kind == MmaKind::I8 && d.chip.sm == 103 {
        return d.refuse("sm_103 has no integers here");
    }
    // What the collector keeps changes no result.
    let collector: Vec<&str> = d.words().iter().copied().filter(|w| w.starts_with("collector::")).collect();
    d.drop_all(&collector);
    let parts = parts(d, kind)?;
    let out = tensor_address(d, 0)?;
    let a = match d.operand(1)? {
        Operand::Address { .. } => Place::Tensor(tensor_address(d, 1)?),
        _ => Place::Shared(d.typed(1, Ty::U64)?),
    };
    let (b, descriptor) = (d.typed(2, Ty::U64)?, d.typed(3, Ty::U32)?);
    let mut next = 4;
    let scales = if parts > 0 {
        next = 6;
        Some((tensor_address(d, 4)?, tensor_address(d, 5)?))
    } else {
        None
    };
    let mut disabled = Vec::new();
    if scales.is_none() && matches!(d.operand(next)?, Operand::Vector(_)) {
        disabled = d.sources(next)?;
        next += 1;
        let wanted = 4 * usize::from(group);
        if disabled.len() != wanted {
            return d.refuse(format_args!("{} words of lanes; {wanted} are wanted", disabled.len()));
        }
    }
    let accumulates = d.pred(next)?;
    next += 1;
    let mut shift = 0;
    if d.count() > next && matches!(kind, MmaKind::F16 | MmaKind::Tf32) && !weight_stationary {
        shift = match d.constant(next)? {
            n @ 0..=15 => n as i32,
            n => return d.refuse(format_args!("scale-input-d {n}; it is 0 to 15")),
        };
        next += 1;
    }
    if d.count() != next {
        return d.refuse(format_args!("{} operands; the emulator knows {next} here", d.count()));
    }
    d.shared_access(CHUNK as u32);
    Ok(work(move |s| {
        let out = tensor_addresses(s, &out);
        let (b, descriptor) = (s.warp.get_wide(b), s.warp.get(descriptor));
        let of_scales = scales.as_ref().map(|(a, b)| (tensor_addresses(s, a), tensor_addresses(s, b)));
        let disabled: Vec<_> = disabled.iter().map(|&w| s.warp.get(w)).collect();
        let adds = s.warp.pred(accumulates.0) ^ if accumulates.1 { !0 } else { 0 };
        for lane in lanes(s.mask) {
            let a = match &a {
                Place::Shared(source) => A::Shared(s.warp.get_wide(*source)[lane]),
                Place::Tensor(at) => A::Tensor(tensor_addresses(s, at)[lane]),
            };
            let off = |first: usize| {
                let words = disabled.iter().skip(first).take(4).rev();
                words.fold(0u128, |m, row| m << 32 | u128::from(row[lane]))
            };
            Product {
                kind,
                group,
                weight_stationary,
                parts: parts as usize,
                out: out[lane],
                a,
                b: b[lane],
                descriptor: descriptor[lane],
                scales: of_scales.as_ref().map(|(a, b)| (a[lane], b[lane])),
                disabled: [off(0), off(4)],
                accumulates: adds >> lane & 1 == 1,
                shift,
                lane,
            }
            .execute(s)?;
        }
        Ok(())
    }))
}
