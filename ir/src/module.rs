//! The store: a module with its weights, and one function as a list of ops in SSA form.
//!
//! There is no control flow: a step of a model is a straight line. An op that was erased leaves its arena
//! slot behind but is no longer in `order`.

pub use crate::extract::extract;

use crate::entity::{Arena, OpId, ValueId, WeightId};
use crate::loc::Loc;
use crate::ops::Op;
use crate::types::{Sym, TensorType, Type};

/// A whole model at some phase of its compilation.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Module {
    /// Symbol, without the `@`.
    pub name: String,
    /// Model architecture as the frontend names it.
    pub arch: String,
    /// Name of the target row, once chosen.
    pub target: Option<String>,
    /// Name of the precision, once chosen.
    pub precision: Option<String>,
    /// True if kernels must be chosen such that a token of a request is the same to the bit whatever else is in a step. Text
    /// form: `deterministic`.
    pub deterministic: bool,
    /// Inclusive bounds of each symbolic dimension.
    pub dims: Vec<(Sym, u64, u64)>,
    /// Weights, in order of first use.
    pub weights: Arena<WeightId, Weight>,
    /// The step function: tokens of a batch in, logits out.
    pub func: Func,
    /// Bytes of the activation arena, once planned.
    pub arena: Option<u64>,
}

/// A constant tensor of the model, a symbol: the bytes stay in the checkpoint until they are packed.
#[derive(Clone, Debug, PartialEq)]
pub struct Weight {
    /// Symbol, without the `@`: `l0.attn.q`.
    pub name: String,
    /// Logical type, `(out, in)` for a matrix.
    pub ty: TensorType,
    /// Where the values come from.
    pub source: Source,
    /// How the bytes lie in the engine, once chosen.
    pub packing: Option<Packing>,
}

/// Where a weight's values come from.
#[derive(Clone, Debug, PartialEq)]
pub enum Source {
    /// Checkpoint tensors, stacked along dimension 0. Text form: `from ["a", "b" interleaved 8]`.
    Tensors(Vec<TensorRef>),
    /// The inverse frequencies of rotary embedding, computed. Text form: `from rope<64, 1e4, llama3 8 1 4 8192>`.
    Rope(RopeFreqs),
}

/// A checkpoint tensor and the order of its rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorRef {
    /// Name in the checkpoint.
    pub name: String,
    /// If set, rows are stored for interleaved rotary embedding of this many heads (as GGUF files of llama
    /// models are) and are read in the order that split halves need.
    pub interleaved_heads: Option<u32>,
}

/// The table of inverse frequencies that rotary embedding reads: `(dim / 2)` f32.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RopeFreqs {
    /// Rotated elements of a head.
    pub dim: u32,
    /// Base.
    pub theta: f64,
    /// Change of the plain frequencies for longer contexts.
    pub scaling: RopeScaling,
}

/// Change of the rotary frequencies for longer contexts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RopeScaling {
    /// `1 / theta^(2 i / dim)`.
    None,
    /// Divided by the factor.
    Linear {
        /// Divisor.
        factor: f64,
    },
    /// Llama 3.1: low frequencies divided by the factor, high ones kept, a ramp between.
    Llama3 {
        /// Divisor of low frequencies.
        factor: f64,
        /// Where "low" begins, in turns over the original context.
        low: f64,
        /// Where "high" begins.
        high: f64,
        /// Context length of the original training.
        original: f64,
    },
}

/// How a weight's bytes lie in the engine file. The byte-exact definition is in the engine crate's layout module.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Packing {
    /// Row-major, as the logical type reads.
    Rows,
    /// Panels of 16 output rows, inputs in pairs: the CPU's dot-product order.
    Panel16,
    /// Panels of 16 output rows in the order of a GPU's matrix fragments; for quantised matrices.
    Fragment16,
}

/// The step function.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Func {
    /// Symbol, without the `@`.
    pub name: String,
    /// All values ever made.
    pub values: Arena<ValueId, Value>,
    /// All ops ever made.
    pub ops: Arena<OpId, OpData>,
    /// The live ops, in execution order.
    pub order: Vec<OpId>,
    /// Parameters.
    pub params: Vec<ValueId>,
    /// What the function returns.
    pub results: Vec<ValueId>,
}

/// An SSA value.
#[derive(Clone, Debug, PartialEq)]
pub struct Value {
    /// Name in the text form, without the `%`; unique within the function.
    pub name: String,
    /// Type.
    pub ty: Type,
    /// Who makes it.
    pub def: Def,
    /// Byte offset in the arena, once planned.
    pub offset: Option<u64>,
}

/// Who makes a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Def {
    /// The n-th parameter.
    Param(u32),
    /// The n-th result of an op.
    Op(OpId, u32),
}

/// An op with its results.
#[derive(Clone, Debug, PartialEq)]
pub struct OpData {
    /// What it computes and from what.
    pub op: Op,
    /// Values it makes.
    pub results: Vec<ValueId>,
    /// Where it comes from.
    pub loc: Loc,
    /// Which kernel serves which steps and token counts, once selected. For either kind of step ranges are adjacent, and
    /// cover `T` together with those of chains ([`KernelChoice::with`]) that compute the op too.
    pub kernels: Vec<KernelChoice>,
}

/// Steps that a kernel serves, by what they hold of each request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Steps {
    /// All of them.
    Any,
    /// One token of each request.
    Decode,
    /// Several tokens of at least one.
    Prefill,
    /// Of a prefill step the requests at its beginning that have one token each; the kernel for prefill steps then leaves
    /// them out.
    Single,
}

impl Steps {
    /// The two kinds; every step is of one of them.
    pub const KINDS: [Steps; 2] = [Steps::Decode, Steps::Prefill];

    /// Names in the text form.
    const NAMES: [(Steps, &'static str); 4] = [
        (Steps::Any, "any"),
        (Steps::Decode, "decode"),
        (Steps::Prefill, "prefill"),
        (Steps::Single, "single"),
    ];

    /// Name in the text form: `any`, `decode`, `prefill`, `single`.
    pub fn name(self) -> &'static str {
        Steps::NAMES[self as usize].1
    }

    /// The steps that are called `name`.
    pub fn parse(name: &str) -> Option<Steps> {
        Steps::NAMES.iter().find(|row| row.1 == name).map(|row| row.0)
    }

    /// True if steps of this kind are among them.
    pub fn serve(self, kind: Steps) -> bool {
        self == kind || self == Steps::Any && kind != Steps::Single
    }
}

/// The kernel that serves a range of token counts: of one op, or of a chain of two.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct KernelChoice {
    /// Least token count, inclusive.
    pub from: u64,
    /// Greatest token count, inclusive.
    pub to: u64,
    /// Steps.
    pub steps: Steps,
    /// The operand whose maker the kernel computes too, so that nothing is launched for that op; nobody else reads what
    /// it makes. A tensor between the two is not written.
    pub with: Option<ValueId>,
    /// Kernel's name.
    pub kernel: String,
}

impl Packing {
    /// Names in the text form.
    const NAMES: [(Packing, &'static str); 3] =
        [(Packing::Rows, "rows"), (Packing::Panel16, "panel16"), (Packing::Fragment16, "fragment16")];

    /// Every packing.
    pub fn all() -> impl Iterator<Item = Packing> {
        Packing::NAMES.iter().map(|row| row.0)
    }

    /// Name in the text form: `rows`, `panel16`, `fragment16`.
    pub fn name(self) -> &'static str {
        Packing::NAMES[self as usize].1
    }

    /// The packing that is called `name`.
    pub fn parse(name: &str) -> Option<Packing> {
        Packing::NAMES.iter().find(|row| row.1 == name).map(|row| row.0)
    }
}

impl Module {
    /// The weight that is called `name`.
    pub fn weight_named(&self, name: &str) -> Option<WeightId> {
        self.weights.iter().find(|(_, w)| w.name == name).map(|(id, _)| id)
    }

    /// Greatest value of a symbolic dimension.
    pub fn max_dim(&self, sym: Sym) -> Option<u64> {
        self.dims.iter().find(|(s, ..)| *s == sym).map(|&(_, _, max)| max)
    }
}

impl Func {
    /// Adds a parameter.
    pub fn add_param(&mut self, name: &str, ty: impl Into<Type>) -> ValueId {
        let def = Def::Param(self.params.len() as u32);
        let id = self.new_value(name, ty.into(), def);
        self.params.push(id);
        id
    }

    /// Makes a value whose name is `name`, or `name` with a number where that is taken.
    fn new_value(&mut self, name: &str, ty: Type, def: Def) -> ValueId {
        let taken = |n: &str| self.values.iter().any(|(_, v)| v.name == n);
        let name = if taken(name) {
            let stem = name.trim_end_matches(|c: char| c.is_ascii_digit()).trim_end_matches('_');
            // The arena's length is greater than any number given before, so the first try is nearly always free.
            let numbered = (self.values.len()..).map(|n| format!("{stem}_{n}"));
            numbered.into_iter().find(|n| !taken(n)).unwrap_or_else(|| name.to_owned())
        } else {
            name.to_owned()
        };
        self.values.push(Value { name, ty, def, offset: None })
    }

    /// Makes an op with results of the given names and types, without placing it in the order.
    pub fn new_op(&mut self, op: Op, results: &[(&str, Type)], loc: Loc) -> OpId {
        let id = self.ops.push(OpData { op, results: Vec::new(), loc, kernels: Vec::new() });
        let made = results
            .iter()
            .enumerate()
            .map(|(i, (name, ty))| self.new_value(name, ty.clone(), Def::Op(id, i as u32)))
            .collect();
        self.ops[id].results = made;
        id
    }

    /// Makes an op at the end of the order; returns its results.
    pub fn append(&mut self, op: Op, results: &[(&str, Type)], loc: Loc) -> Vec<ValueId> {
        let id = self.new_op(op, results, loc);
        self.order.push(id);
        self.ops[id].results.clone()
    }

    /// The op that makes `value`, if it is not a parameter.
    pub fn def_op(&self, value: ValueId) -> Option<OpId> {
        match self.values[value].def {
            Def::Op(op, _) => Some(op),
            Def::Param(_) => None,
        }
    }

    /// How many operands and function results read `value`.
    pub fn use_count(&self, value: ValueId) -> usize {
        let in_ops =
            self.order.iter().map(|&o| self.ops[o].op.operands().iter().filter(|&&v| v == value).count());
        in_ops.sum::<usize>() + self.results.iter().filter(|&&v| v == value).count()
    }

    /// The op that the kernel of a choice computes too, if it serves a chain.
    pub fn chained(&self, choice: &KernelChoice) -> Option<OpId> {
        match self.values.get(choice.with?)?.def {
            Def::Op(maker, _) => Some(maker),
            Def::Param(_) => None,
        }
    }

    /// Every choice of a kernel that serves a chain, with the op that it computes too.
    pub fn chains(&self) -> impl Iterator<Item = (OpId, &KernelChoice)> {
        let choices = self.order.iter().filter_map(|&id| self.ops.get(id)).flat_map(|data| &data.kernels);
        choices.filter_map(|k| Some((self.chained(k)?, k)))
    }

    /// Makes every reader of `old` read `new`.
    pub fn replace_uses(&mut self, old: ValueId, new: ValueId) {
        for &o in &self.order {
            let data = &mut self.ops[o];
            let chained = data.kernels.iter_mut().filter_map(|k| k.with.as_mut());
            for v in data.op.operands_mut().into_iter().chain(chained) {
                if *v == old {
                    *v = new;
                }
            }
        }
        for v in &mut self.results {
            if *v == old {
                *v = new;
            }
        }
    }

    /// Takes an op out of the order. Its results must have no readers.
    pub fn erase(&mut self, op: OpId) {
        self.order.retain(|&o| o != op);
    }
}
