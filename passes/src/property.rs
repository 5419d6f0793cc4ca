//! What passes require and ensure: facts that can be read off a module at any time.
//!
//! A property is a question to the module, not a flag that someone has to remember to clear: a pass that undoes
//! one needs to say nothing.

use crate::{canonicalize, quantize};
use std::collections::BTreeSet;
use trtc_ir::{Module, OpId, Type};

/// A fact of a module.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Property {
    /// `canonicalize` would change nothing.
    Canonical,
    /// A precision is named, and `quantize` has set the types of weights by it.
    Quantized,
    /// Every cache has a page size.
    KvLaidOut,
    /// Every op has its kernels, or belongs to a chain.
    Selected,
    /// Every tensor that an op makes has its place in the arena.
    Planned,
}

impl Property {
    /// True if the module has it.
    pub fn holds(self, module: &Module) -> bool {
        let func = &module.func;
        match self {
            Property::Canonical => !canonicalize::simplify(&mut module.clone()).yes(),
            Property::Quantized => quantize::holds(module),
            Property::KvLaidOut => {
                let made = func.order.iter().flat_map(|&o| &func.ops[o].results);
                func.params
                    .iter()
                    .chain(made)
                    .all(|&v| func.values[v].ty.kv().is_none_or(|k| k.page.is_some()))
            }
            Property::Selected => {
                let chained: BTreeSet<OpId> = func.chains().map(|(op, _)| op).collect();
                func.order.iter().all(|o| !func.ops[*o].kernels.is_empty() || chained.contains(o))
            }
            Property::Planned => {
                let placed =
                    |v| !matches!(func.values[v].ty, Type::Tensor(_)) || func.values[v].offset.is_some();
                module.arena.is_some()
                    && func.order.iter().all(|&o| func.ops[o].results.iter().all(|&v| placed(v)))
            }
        }
    }

    /// What to do to get it, for error messages.
    pub fn remedy(self) -> &'static str {
        match self {
            Property::Canonical => "run canonicalize first",
            Property::Quantized => "run quantize first",
            Property::KvLaidOut => "run kv-layout first",
            Property::Selected => "select kernels first",
            Property::Planned => "run plan-memory first",
        }
    }
}
