//! What the ops' checks have in common. Every function's error is one sentence with both shapes in it.

use super::{RmsNormWeight, TypeCx};
use crate::dtype::DType;
use crate::entity::{ValueId, WeightId};
use crate::types::{Dim, KvType, Sym, TensorType, Type};

/// The declared result types, which have to be `N`.
pub(super) fn results<const N: usize>(results: &[Type]) -> Result<&[Type; N], String> {
    results.try_into().map_err(|_| format!("expected {N} result(s), found {}", results.len()))
}

/// A result that has to be a float tensor.
pub(super) fn float_result<'a>(ty: &'a Type, what: &str) -> Result<&'a TensorType, String> {
    let t = ty.tensor().ok_or_else(|| format!("{what} must be a tensor, found {ty}"))?;
    float(t, what)?;
    Ok(t)
}

/// An operand that has to be a float tensor of at least one dimension.
pub(super) fn float_operand<'a>(
    cx: &TypeCx<'a>,
    value: ValueId,
    what: &str,
) -> Result<&'a TensorType, String> {
    let t = cx.tensor(value, what)?;
    float(t, what)?;
    Ok(t)
}

/// An operand that has to be a tensor of floats, or quantised.
pub(super) fn stored_operand<'a>(
    cx: &TypeCx<'a>,
    value: ValueId,
    what: &str,
) -> Result<&'a TensorType, String> {
    let t = cx.tensor(value, what)?;
    if t.elem.plain().is_some() { float(t, what).map(|()| t) } else { Ok(t) }
}

/// A result that has to be a tensor of floats, or quantised: of the ops whose kernels have a whole row at hand.
pub(super) fn stored_result<'a>(ty: &'a Type, what: &str) -> Result<&'a TensorType, String> {
    match ty.tensor() {
        Some(t) if t.elem.plain().is_none() => Ok(t),
        _ => float_result(ty, what),
    }
}

fn float(t: &TensorType, what: &str) -> Result<(), String> {
    if t.dims.is_empty() {
        return Err(format!("{what} must have at least one dimension, found {t}"));
    }
    match t.elem.plain() {
        Some(d) if d.is_float() => Ok(()),
        _ => Err(format!("elements of {what} must be plain floats, found {t}")),
    }
}

/// An operand that has to be a vector of i32; returns its extent.
pub(super) fn ints(cx: &TypeCx<'_>, value: ValueId, what: &str) -> Result<Dim, String> {
    let t = cx.tensor(value, what)?;
    match t.dims.as_slice() {
        [one] if t.elem.plain() == Some(DType::I32) => Ok(*one),
        _ => Err(format!("{what} must be a vector of i32, found {t}")),
    }
}

/// A result that has to be a vector of i32 of this extent.
pub(super) fn ints_result(ty: &Type, what: &str, rows: Dim) -> Result<(), String> {
    match ty.tensor() {
        Some(t) if t.dims == [rows] && t.elem.plain() == Some(DType::I32) => Ok(()),
        _ => Err(format!("{what} must be {rows} numbers of i32, found {ty}")),
    }
}

/// An operand that has to be a cache.
pub(super) fn kv<'a>(cx: &TypeCx<'a>, value: ValueId) -> Result<&'a KvType, String> {
    cx.ty(value).kv().ok_or_else(|| format!("the cache must be an llm.kv, found {}", cx.ty(value)))
}

/// An operand that has to be the batch.
pub(super) fn batch(cx: &TypeCx<'_>, value: ValueId) -> Result<(), String> {
    match cx.ty(value) {
        Type::Batch => Ok(()),
        other => Err(format!("the batch must be an !llm.batch, found {other}")),
    }
}

/// The outermost extent.
pub(super) fn rows(t: &TensorType, what: &str) -> Result<Dim, String> {
    t.dims.first().copied().ok_or_else(|| format!("{what} must have rows, found {t}"))
}

/// Product of all extents but the first.
pub(super) fn width(t: &TensorType, what: &str) -> Result<u64, String> {
    t.width().ok_or_else(|| format!("{what} must have known inner dimensions, found {t}"))
}

/// Two tensors must have the same number of rows.
pub(super) fn same_rows(a: &TensorType, a_is: &str, b: &TensorType, b_is: &str) -> Result<(), String> {
    if rows(a, a_is)? == rows(b, b_is)? {
        return Ok(());
    }
    Err(format!("{a_is} is {a} and {b_is} is {b}, but they must have the same number of rows"))
}

/// Two tensors must have the same extents.
pub(super) fn same_dims(a: &TensorType, a_is: &str, b: &TensorType, b_is: &str) -> Result<(), String> {
    if a.dims == b.dims {
        return Ok(());
    }
    Err(format!("{a_is} is {a} and {b_is} is {b}, but they must have the same dimensions"))
}

/// Two tensors must have the same element type.
pub(super) fn same_elem(a: &TensorType, a_is: &str, b: &TensorType, b_is: &str) -> Result<(), String> {
    if a.elem == b.elem {
        return Ok(());
    }
    Err(format!("{a_is} is {a} and {b_is} is {b}, but they must have the same element type"))
}

/// A tensor's rows must be as wide as `wanted`.
pub(super) fn width_is(t: &TensorType, what: &str, wanted: u64, because: &str) -> Result<(), String> {
    if width(t, what)? == wanted {
        return Ok(());
    }
    Err(format!("{what} is {t}, but {because} needs {wanted} columns"))
}

/// A matrix weight; returns `(out, in)`.
pub(super) fn matrix(cx: &TypeCx<'_>, weight: WeightId) -> Result<(u64, u64), String> {
    let w = cx.weight(weight);
    match w.ty.shape().as_deref() {
        Some(&[out, input]) => Ok((out, input)),
        _ => Err(format!("weight @{} must be a matrix, found {}", w.name, w.ty)),
    }
}

/// A vector weight of plain floats; returns its length.
pub(super) fn vector(cx: &TypeCx<'_>, weight: WeightId) -> Result<u64, String> {
    let w = cx.weight(weight);
    match (w.ty.shape().as_deref(), w.ty.elem.plain()) {
        (Some(&[n]), Some(d)) if d.is_float() => Ok(n),
        _ => Err(format!("weight @{} must be a vector of plain floats, found {}", w.name, w.ty)),
    }
}

/// A norm over rows of `wanted` elements of `what`.
pub(super) fn norm(cx: &TypeCx<'_>, norm: &RmsNormWeight, wanted: u64, what: &str) -> Result<(), String> {
    let n = vector(cx, norm.weight)?;
    if n != wanted {
        let w = cx.weight(norm.weight);
        return Err(format!("weight @{} is {} but {what} has rows of {wanted}", w.name, w.ty));
    }
    if !(norm.eps >= 0.0 && norm.eps.is_finite() && norm.offset.is_finite()) {
        return Err(format!(
            "the norm's eps must be finite and not negative and its offset finite, found {:?} and {:?}",
            norm.eps, norm.offset
        ));
    }
    Ok(())
}

/// The last extent of a tensor, which has to be known.
pub(super) fn last(t: &TensorType, what: &str) -> Result<u64, String> {
    match t.dims.last() {
        Some(Dim::Const(n)) => Ok(*n),
        _ => Err(format!("{what} must have a known last dimension, found {t}")),
    }
}

/// Heads of `(rows, heads, head_dim)`.
pub(super) fn heads(t: &TensorType, what: &str) -> Result<(u64, u64), String> {
    match t.dims.as_slice() {
        [_, Dim::Const(heads), Dim::Const(dim)] => Ok((*heads, *dim)),
        _ => Err(format!("{what} must be (tokens, heads, head_dim), found {t}")),
    }
}

/// A table of rotary frequencies for heads of `head_dim`; returns the rotated elements of a head.
pub(super) fn freqs(cx: &TypeCx<'_>, weight: WeightId, head_dim: u64) -> Result<u64, String> {
    let n = vector(cx, weight)?;
    match n.checked_mul(2) {
        Some(dim) if dim <= head_dim => Ok(dim),
        _ => {
            let w = cx.weight(weight);
            Err(format!(
                "weight @{} is {}, which rotates more than a head's {head_dim} elements",
                w.name, w.ty
            ))
        }
    }
}

/// Caches and the batch go with tokens: an op that touches them has `T` rows, or a fixed number.
pub(super) fn token_rows(t: &TensorType, what: &str) -> Result<(), String> {
    match rows(t, what)? {
        Dim::Sym(Sym::T) | Dim::Const(_) => Ok(()),
        Dim::Sym(_) => Err(format!("{what} must have one row for each token, found {t}")),
    }
}

/// A finite attribute.
pub(super) fn finite(x: f32, attr: &str) -> Result<(), String> {
    if x.is_finite() { Ok(()) } else { Err(format!("attribute '{attr}' must be finite, found {x}")) }
}

/// The operand of a product with a weight, and the product's outputs: x is as wide as the matrix has inputs, and a bias
/// has an element for each output.
pub(super) fn product<'a>(
    cx: &TypeCx<'a>,
    x: ValueId,
    weight: WeightId,
    bias: Option<WeightId>,
) -> Result<(&'a TensorType, u64), String> {
    let x = stored_operand(cx, x, "x")?;
    let (out, input) = matrix(cx, weight)?;
    let w = cx.weight(weight);
    let of = format!("weight @{} ({})", w.name, w.ty);
    width_is(x, "x", input, &of)?;
    if let Some(bias) = bias {
        let n = vector(cx, bias)?;
        if n != out {
            return Err(format!(
                "bias @{} has {n} elements but {of} has {out} outputs",
                cx.weight(bias).name
            ));
        }
    }
    Ok((x, out))
}
