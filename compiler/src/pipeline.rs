//! The one list of passes of a build, by phase. A pass that is not listed here runs only when it is asked for.

use crate::phase::Phase;
use trtc_ir::{Diag, Loc, Module};
use trtc_passes::{Changed, Pass, PassCx, Property, registry};

/// The passes of each phase, in order. Phases that are no passes (import, codegen, pack) are not listed.
pub const PIPELINE: &[(Phase, &[&str])] = &[
    (Phase::Canonicalize, &["canonicalize"]),
    (Phase::Quantize, &["quantize"]),
    (
        Phase::Fuse,
        &[
            "fuse-qkv",
            "fuse-gate-up",
            "fuse-gated-act",
            "fuse-gated-linear",
            "fuse-rope-kv",
            "fuse-epilogue",
            "fuse-add-norm",
            "sink-gather",
            "fuse-quantize",
            "sample",
            "canonicalize",
        ],
    ),
    (Phase::KvLayout, &["kv-layout"]),
    (Phase::Select, &["select"]),
    (Phase::Plan, &["plan-memory"]),
];

/// Kernel selection as a pass: it lives in codegen, which alone knows the recipes.
const SELECT: Pass = Pass {
    name: "select",
    summary: "chooses a kernel for each op and range of token counts, and the weights' packing",
    requires: &[Property::KvLaidOut],
    ensures: &[],
    run: select,
};

fn select(module: &mut Module, cx: &PassCx<'_>) -> Result<Changed, Diag> {
    trtc_codegen::select::select(module, cx.target).map(|selection| selection.changed.into())
}

/// The pass called `name`: one of the registry, or `select`.
pub fn find(name: &str) -> Option<&'static Pass> {
    if name == SELECT.name { Some(&SELECT) } else { registry::find(name) }
}

/// Every pass that [`find`] knows.
pub fn all() -> impl Iterator<Item = &'static Pass> {
    registry::all().chain(std::iter::once(&SELECT))
}

/// Passes that a build may leave out: an engine without them is slower and does the same.
pub fn optional() -> impl Iterator<Item = &'static str> {
    PIPELINE.iter().filter(|(p, _)| *p == Phase::Fuse).flat_map(|(_, names)| names.iter().copied())
}

/// The passes of a phase, in order.
pub(crate) fn passes_of(phase: Phase) -> Result<Vec<&'static Pass>, Diag> {
    let names = PIPELINE.iter().filter(|(p, _)| *p == phase).flat_map(|(_, names)| names.iter());
    names
        .map(|name| {
            find(name).ok_or_else(|| Diag::bug(&Loc::Unknown, format!("the pipeline names no pass '{name}'")))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_a_pass_and_phases_are_in_order() {
        for (phase, names) in PIPELINE {
            assert_eq!(passes_of(*phase).map(|p| p.len()).ok(), Some(names.len()));
        }
        assert!(PIPELINE.is_sorted_by_key(|(phase, _)| *phase));
    }
}
