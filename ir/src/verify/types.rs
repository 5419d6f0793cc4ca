//! Checks of single types and weights. Each error is one sentence.

use crate::dtype::DType;
use crate::module::{Module, Packing, RopeScaling, Source, Weight};
use crate::types::{Dim, Elem, KvType, TensorType};

/// Most bytes of a tensor, so that sums of sizes cannot overflow.
const MAX_BYTES: u64 = 1 << 56;

/// Bytes at the greatest extents; `None` if a symbol has no bounds or the size has been reported as too large.
pub(super) fn max_bytes(module: &Module, t: &TensorType) -> Option<u64> {
    let bytes = t.bytes(|s| module.max_dim(s))?.total()?;
    (bytes <= MAX_BYTES).then_some(bytes)
}

pub(super) fn tensor(module: &Module, t: &TensorType) -> Result<(), String> {
    for (i, d) in t.dims.iter().enumerate() {
        match d {
            Dim::Const(0) => return Err(format!("{t} has an extent of 0")),
            Dim::Sym(s) if module.max_dim(*s).is_none() => {
                return Err(format!("{t} has {s}, which has no bounds"));
            }
            Dim::Sym(_) if i > 0 => {
                return Err(format!("{t} has a symbolic dimension that is not outermost"));
            }
            _ => {}
        }
    }
    if let Elem::Quant(scheme) = t.elem {
        scheme.check()?;
        if !scheme.is_activation() {
            return Err(format!("{t} is quantised as only weights are: values have a scale for each token"));
        }
        if t.dims.len() != 2 {
            return Err(format!("{t} is quantised, so it must be (rows, width)"));
        }
    }
    max_bytes(module, t).map(|_| ()).ok_or_else(|| format!("{t} is too large"))
}

pub(super) fn cache(kv: &KvType) -> Result<(), String> {
    if kv.heads == 0 || kv.head_dim == 0 || kv.window == Some(0) || kv.page == Some(0) {
        return Err(format!("{kv} has a part that is 0"));
    }
    if !kv.dtype.is_float() {
        return Err(format!("{kv} must have float elements"));
    }
    Ok(())
}

pub(super) fn weight(w: &Weight) -> Result<(), String> {
    let Some(shape) = w.ty.shape() else {
        return Err(format!("{} has a symbolic dimension", w.ty));
    };
    if shape.is_empty() || shape.contains(&0) {
        return Err(format!("{} must have at least one extent and none of 0", w.ty));
    }
    if max_bytes(&Module::default(), &w.ty).is_none() {
        return Err(format!("{} is too large", w.ty));
    }
    if let Elem::Quant(scheme) = w.ty.elem {
        scheme.check()?;
    }
    if matches!(w.packing, Some(Packing::Panel16 | Packing::Fragment16)) && shape.len() != 2 {
        return Err(format!("{} is packed in panels but is not a matrix", w.ty));
    }
    if w.packing == Some(Packing::Fragment16) && w.ty.elem.plain().is_some() {
        return Err(format!("{} is packed in fragments but is not quantised", w.ty));
    }
    match &w.source {
        Source::Tensors(parts) if parts.is_empty() => Err("it has no source".into()),
        Source::Tensors(parts) => {
            match parts.iter().find(|p| p.name.is_empty() || p.interleaved_heads == Some(0)) {
                Some(p) => Err(format!("its source {:?} has no name, or no heads", p.name)),
                None => Ok(()),
            }
        }
        Source::Rope(rope) => {
            if shape != [u64::from(rope.dim / 2)]
                || !rope.dim.is_multiple_of(2)
                || w.ty.elem.plain() != Some(DType::F32)
            {
                return Err(format!(
                    "{} is not the table of {} rotated elements, f32 and half as long",
                    w.ty, rope.dim
                ));
            }
            let numbers = match rope.scaling {
                RopeScaling::None => vec![rope.theta],
                RopeScaling::Linear { factor } => vec![rope.theta, factor],
                RopeScaling::Llama3 { factor, low, high, original } => {
                    vec![rope.theta, factor, low, high, original]
                }
            };
            match numbers.iter().find(|x| !(x.is_finite() && **x > 0.0)) {
                Some(x) => {
                    Err(format!("the numbers of a rotary table must be positive and finite, found {x}"))
                }
                None => Ok(()),
            }
        }
    }
}
