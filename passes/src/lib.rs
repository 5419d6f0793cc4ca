//! Passes of trtc over the graph IR, one file a pass, and the manager that runs them.
//!
//! A pass is a row of data and a pure function on a module: what it reads besides the module is in [`PassCx`],
//! and it keeps nothing. No pass does IO, reads the environment or knows a model by name.
#![deny(missing_docs)]

pub mod canonicalize;
pub mod fuse;
pub mod kv_layout;
pub mod manager;
pub mod plan_memory;
pub mod precision;
pub mod property;
pub mod quantize;
pub mod registry;
pub mod rewrite;
pub mod sample;

pub use kv_layout::KvOptions;
pub use manager::{Options, Report, Step, Timing, run_passes};
pub use precision::Precision;
pub use property::Property;
pub use quantize::Recipe;

use trtc_ir::types::Sym;
use trtc_ir::{Diag, Module, Target};

/// A pass: one row of the registry.
#[derive(Clone, Copy, Debug)]
pub struct Pass {
    /// What `--pass` takes, in kebab case.
    pub name: &'static str,
    /// One sentence for help texts.
    pub summary: &'static str,
    /// What has to hold of the module before.
    pub requires: &'static [Property],
    /// What holds of the module after.
    pub ensures: &'static [Property],
    /// The pass itself.
    pub run: fn(&mut Module, &PassCx<'_>) -> Result<Changed, Diag>,
}

/// Whether a pass did anything.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Changed {
    /// The module is as it was.
    No,
    /// The module is another.
    Yes,
}

impl Changed {
    /// True for [`Changed::Yes`].
    pub fn yes(self) -> bool {
        self == Changed::Yes
    }
}

impl From<bool> for Changed {
    fn from(changed: bool) -> Changed {
        if changed { Changed::Yes } else { Changed::No }
    }
}

impl std::ops::BitOr for Changed {
    type Output = Changed;
    fn bitor(self, other: Changed) -> Changed {
        Changed::from(self.yes() || other.yes())
    }
}

/// Everything a pass may read besides the module.
#[derive(Clone, Debug)]
pub struct PassCx<'a> {
    /// The chip to build for.
    pub target: &'static Target,
    /// The precision; `None` takes the one that the module's header names.
    pub precision: Option<&'static Precision>,
    /// Options of the cache.
    pub kv: KvOptions,
    /// Overrides of the precision for single weights.
    pub recipe: &'a Recipe,
    /// Limits that are fixed when the engine is built; `None` takes the module's own bounds as they are.
    pub limits: Option<Limits>,
}

impl PassCx<'static> {
    /// Defaults for a target: no precision, an empty recipe, the module's own limits.
    pub fn new(target: &'static Target) -> PassCx<'static> {
        PassCx { target, precision: None, kv: KvOptions::default(), recipe: Recipe::NONE, limits: None }
    }
}

/// Limits that are fixed when the engine is built.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Most requests in a step.
    pub max_batch: u64,
    /// Most tokens of a request, prompt and answer together.
    pub max_seq_len: u64,
    /// Most tokens in a step: the bound of `T`.
    pub max_step_tokens: u64,
    /// Most rows of logits in a step: the bound of `L`.
    pub max_logit_rows: u64,
}

impl Limits {
    /// The limits as bounds of symbolic dimensions, for [`Module::dims`].
    pub fn dims(&self) -> Vec<(Sym, u64, u64)> {
        vec![(Sym::T, 1, self.max_step_tokens), (Sym::L, 1, self.max_logit_rows)]
    }
}
