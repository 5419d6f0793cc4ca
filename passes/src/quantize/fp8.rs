//! `fp8`: e4m3 weights with an f32 scale for each output channel, and e4m3 activations with one for each token.
//!
//! Any width divides. A linear with such a weight multiplies e4m3 by e4m3, so what it reads is quantised too: here is
//! where `llm.quantize` comes from. A value that several of them read is quantised once. Not here: storing a value
//! quantised in the first place (`fuse-quantize`).

use super::WeightScheme;
use crate::Changed;
use crate::rewrite::{Res, Rewriter};
use std::collections::HashMap;
use trtc_ir::ops::{Linear, Quantize};
use trtc_ir::{DType, Diag, Dim, Elem, Loc, Module, Op, Scheme, Target, TensorType, Type, ValueId};

/// FP8 weights, and FP8 activations where they are read.
pub const FP8: WeightScheme =
    WeightScheme { name: "fp8", elem: |_| Some(Elem::Quant(Scheme::FP8)), otherwise: None, needs: "nothing" };

/// Refuses e4m3 weights for a GPU whose matrix instructions do not multiply them.
pub(super) fn served(module: &Module, target: &Target) -> Result<(), Diag> {
    let native = |gpu: &trtc_ir::target::Gpu| gpu.matrix_types.contains(&DType::F8E4M3);
    let asked = module.weights.iter().find(|(_, w)| w.ty.elem == Elem::Quant(Scheme::FP8));
    match (asked, &target.gpu) {
        (Some((_, weight)), Some(gpu)) if !native(gpu) => {
            let what = format!("{} has no matrix instructions for fp8 ({})", target.name, target.title);
            Err(Diag::unsupported(&Loc::name(&weight.name), what)
                .note(format!("{} would be {}", weight.name, weight.ty))
                .help("choose int8: it takes as many bytes and runs on every target"))
        }
        _ => Ok(()),
    }
}

/// Puts an `llm.quantize` between each linear with an FP8 weight and the floats that it reads.
pub(super) fn quantize_operands(module: &mut Module) -> Changed {
    let mut rw = Rewriter::new(module);
    let mut made: HashMap<ValueId, ValueId> = HashMap::new();
    for id in rw.order() {
        let Op::Linear(linear) = rw.op(id).clone() else { continue };
        let Some(ty) = quantised(&rw, &linear) else { continue };
        let x = made.get(&linear.x).copied().unwrap_or_else(|| {
            let name = format!("{}_q", rw.module().func.values[linear.x].name);
            let op = Quantize { x: linear.x };
            let loc = rw.loc(id).clone();
            let op = rw.insert_before(id, op.into(), &[Res::New(&name, ty)], loc);
            rw.result(op, 0)
        });
        made.insert(linear.x, x);
        rw.replace_op(id, Linear { x, ..linear }.into());
    }
    rw.finish()
}

/// The type that what a linear reads takes, if its weight is FP8 and what it reads is not quantised yet.
fn quantised(rw: &Rewriter<'_>, linear: &Linear) -> Option<Type> {
    let weight = rw.module().weights[linear.weight].ty.elem;
    let x = rw.ty(linear.x).tensor()?;
    if weight != Elem::Quant(Scheme::FP8) || x.elem.plain().is_none() {
        return None;
    }
    let dims = vec![*x.dims.first()?, Dim::Const(x.width()?)];
    Some(TensorType { dims, elem: Elem::Quant(Scheme::FP8_TOKEN) }.into())
}
