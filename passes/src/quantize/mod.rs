//! `quantize`: sets the element type of every weight, by the precision and the recipe's overrides, and quantises what
//! linears with FP8 weights read.
//!
//! The precision is the caller's, or else the one that the module's header names. Only types change: values are
//! rounded when the engine is packed. A weight falls into one of three kinds by what reads it. A *table* is read by
//! `embedding`, or is the matrix of a linear with `L` rows (the one that makes logits); a tied table is both and
//! stays one symbol. A *matrix* is read by other linears. Everything else (norm weights, biases, rotary frequencies)
//! is f32. Weights that a checkpoint holds quantised keep their scheme. Activations that nothing quantises keep the type
//! that the importer gave them.

mod fp8;
mod int4;
mod int8;
mod plain;
mod recipe;

pub use fp8::FP8;
pub use int4::INT4;
pub use int8::INT8;
pub use plain::{BF16, FP32};
pub use recipe::{Recipe, Rule};

use crate::{Changed, Pass, PassCx, Precision, Property};
use trtc_ir::types::Sym;
use trtc_ir::{DType, Diag, Dim, Elem, Loc, Module, Op, WeightId};

/// The pass.
pub const PASS: Pass = Pass {
    name: "quantize",
    summary: "sets the element type of every weight, by the precision and the recipe, and quantises what FP8 reads",
    requires: &[],
    ensures: &[Property::Quantized],
    run,
};

/// How a weight matrix can be stored: one row, defined in a file of its own.
#[derive(Clone, Copy, Debug)]
pub struct WeightScheme {
    /// What a recipe takes.
    pub name: &'static str,
    /// The element type for rows of this many inputs; `None` where the scheme cannot divide them.
    pub elem: fn(u64) -> Option<Elem>,
    /// What a precision takes instead where the scheme cannot divide the inputs.
    pub otherwise: Option<&'static WeightScheme>,
    /// What the scheme needs of the number of inputs, for error messages.
    pub needs: &'static str,
}

/// Every scheme a recipe can name.
pub const SCHEMES: &[&WeightScheme] = &[&FP8, &INT8, &INT4, &BF16, &FP32];

impl WeightScheme {
    /// The scheme called `name`.
    pub fn named(name: &str) -> Option<&'static WeightScheme> {
        SCHEMES.iter().copied().find(|s| s.name == name)
    }

    /// The element type for rows of `inputs`, falling back as the scheme says.
    fn elem_or_otherwise(&self, inputs: u64) -> Option<Elem> {
        (self.elem)(inputs).or_else(|| self.otherwise.and_then(|s| s.elem_or_otherwise(inputs)))
    }
}

/// What a weight is to the ops that read it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Kind {
    /// Norm weight, bias, frequencies, or not read at all.
    Vector,
    /// Matrix of a linear.
    Matrix,
    /// Read by `embedding`, or makes logits.
    Table,
}

/// The kind of each weight, by index; the greatest of what its readers say.
fn kinds(module: &Module) -> Vec<Kind> {
    let mut kinds = vec![Kind::Vector; module.weights.len()];
    let mut raise = |w: WeightId, kind: Kind| {
        let slot = &mut kinds[w.0 as usize];
        *slot = (*slot).max(kind);
    };
    for &id in &module.func.order {
        let data = &module.func.ops[id];
        match &data.op {
            Op::Embedding(e) => raise(e.table, Kind::Table),
            Op::Linear(l) => {
                let result = data.results.first().and_then(|&r| module.func.values[r].ty.tensor());
                let logits = result.is_some_and(|t| t.dims.first() == Some(&Dim::Sym(Sym::L)));
                raise(l.weight, if logits { Kind::Table } else { Kind::Matrix });
            }
            Op::GatedLinear(l) => raise(l.weight, Kind::Matrix),
            _ => {}
        }
    }
    kinds
}

/// The matrices of a module's linears, those that make logits left out, in the order of its weights.
pub fn matrices(module: &Module) -> Vec<WeightId> {
    let kinds = kinds(module);
    module.weights.ids().filter(|id| kinds[id.0 as usize] == Kind::Matrix).collect()
}

fn run(module: &mut Module, cx: &PassCx<'_>) -> Result<Changed, Diag> {
    let here = Loc::name(&module.name);
    let precision = match (cx.precision, module.precision.as_deref()) {
        (Some(chosen), _) => chosen,
        (None, Some(name)) => Precision::named(name).ok_or_else(|| {
            Diag::user(&here, format!("the module's header names the precision {name:?}, which there is not"))
                .help(format!("choose one of {}", Precision::names()))
        })?,
        (None, None) => {
            return Err(Diag::user(&here, "quantize needs a precision, and none is given")
                .help(format!("choose one of {}", Precision::names())));
        }
    };
    let kinds = kinds(module);
    let overrides = overrides(module, cx.recipe, &kinds)?;
    let mut changed = module.precision.as_deref() != Some(precision.name);
    module.precision = Some(precision.name.to_owned());
    for id in module.weights.ids() {
        let weight = &module.weights[id];
        let elem = match (kinds[id.0 as usize], overrides[id.0 as usize]) {
            // Quantised in the checkpoint: `overrides` has refused a rule for it.
            _ if weight.ty.elem.plain().is_none() => continue,
            (Kind::Vector, _) => Elem::Plain(DType::F32),
            (_, Some(rule)) => (rule.scheme.elem)(inputs(module, id)?).ok_or_else(|| {
                Diag::user(
                    &rule.loc,
                    format!("{} cannot be stored as {}: it is {}", weight.name, rule.scheme.name, weight.ty),
                )
                .note(format!("{} needs {}", rule.scheme.name, rule.scheme.needs))
                .help("choose another scheme for this weight on a later line of the recipe")
            })?,
            (kind, None) => {
                let scheme = if kind == Kind::Table { precision.table } else { precision.linear };
                scheme.elem_or_otherwise(inputs(module, id)?).ok_or_else(|| {
                    Diag::unsupported(
                        &here,
                        format!(
                            "no scheme of precision {} stores {}: it is {}",
                            precision.name, weight.name, weight.ty
                        ),
                    )
                })?
            }
        };
        let ty = &mut module.weights[id].ty;
        changed |= ty.elem != elem;
        ty.elem = elem;
    }
    fp8::served(module, cx.target)?;
    Ok(Changed::from(changed) | fp8::quantize_operands(module))
}

/// True if the module names a precision and every weight that is neither matrix nor table is f32.
pub(crate) fn holds(module: &Module) -> bool {
    let kinds = kinds(module);
    let vector = |id: WeightId| kinds[id.0 as usize] == Kind::Vector;
    module.precision.as_deref().and_then(Precision::named).is_some()
        && module.weights.iter().all(|(id, w)| !vector(id) || w.ty.elem == DType::F32.into())
}

/// Inputs of a matrix: its last extent.
fn inputs(module: &Module, id: WeightId) -> Result<u64, Diag> {
    let weight = &module.weights[id];
    match weight.ty.dims.last() {
        Some(Dim::Const(n)) => Ok(*n),
        _ => Err(Diag::bug(
            &Loc::name(&weight.name),
            format!("{} has no fixed width: it is {}", weight.name, weight.ty),
        )),
    }
}

/// The rule for each weight, by index: the last line of the recipe whose pattern fits. A rule that fits no
/// matrix, or one that the checkpoint holds quantised, is the user's error.
fn overrides<'r>(module: &Module, recipe: &'r Recipe, kinds: &[Kind]) -> Result<Vec<Option<&'r Rule>>, Diag> {
    let mut chosen = vec![None; kinds.len()];
    for rule in &recipe.rules {
        let fits: Vec<WeightId> = module
            .weights
            .iter()
            .filter(|(id, w)| kinds[id.0 as usize] != Kind::Vector && rule.fits(&w.name))
            .map(|(id, _)| id)
            .collect();
        if fits.is_empty() {
            let all = module.weights.iter().filter(|(id, _)| kinds[id.0 as usize] != Kind::Vector);
            let some: Vec<&str> = all.map(|(_, w)| w.name.as_str()).take(8).collect();
            return Err(Diag::user(&rule.loc, format!("{:?} fits no matrix of the model", rule.pattern))
                .note(format!("the first matrices are {}", some.join(", ")))
                .help("name weights as `trtc dump --phase import` prints them; `*` stands for any run of characters"));
        }
        for id in fits {
            let weight = &module.weights[id];
            if let Elem::Quant(scheme) = weight.ty.elem {
                return Err(Diag::user(
                    &rule.loc,
                    format!("{} is already quantised in the checkpoint, as {scheme}", weight.name),
                )
                .help("make the pattern narrower, or start from a checkpoint that is not quantised"));
            }
            chosen[id.0 as usize] = Some(rule);
        }
    }
    Ok(chosen)
}
