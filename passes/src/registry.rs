//! The registry: one line a pass, in the order in which a pipeline usually runs them.
//!
//! Which passes a build runs is the compiler's choice, not this table's.

use crate::{Pass, canonicalize, fuse, kv_layout, plan_memory, quantize, sample};

/// Every pass.
pub const PASSES: &[&Pass] = &[
    &canonicalize::PASS,
    &quantize::PASS,
    &fuse::qkv::PASS,
    &fuse::gate_up::PASS,
    &fuse::gated_act::PASS,
    &fuse::gated_linear::PASS,
    &fuse::rope_kv::PASS,
    &fuse::epilogue::PASS,
    &fuse::add_norm::PASS,
    &fuse::sink_gather::PASS,
    &fuse::quantize::PASS,
    &sample::PASS,
    &kv_layout::PASS,
    &plan_memory::PASS,
];

/// The pass called `name`.
pub fn find(name: &str) -> Option<&'static Pass> {
    PASSES.iter().copied().find(|p| p.name == name)
}

/// All passes, for help texts.
pub fn all() -> impl Iterator<Item = &'static Pass> {
    PASSES.iter().copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_kebab_case_and_summaries_are_phrases() {
        for (i, pass) in all().enumerate() {
            assert!(pass.name.chars().all(|c| c.is_ascii_lowercase() || c == '-'), "{}", pass.name);
            assert!(PASSES[..i].iter().all(|p| p.name != pass.name), "{} is there twice", pass.name);
            assert!(!pass.summary.is_empty() && !pass.summary.ends_with('.'), "{}", pass.name);
            assert_eq!(find(pass.name).map(|p| p.summary), Some(pass.summary));
        }
        assert!(find("no-such-pass").is_none());
    }
}
