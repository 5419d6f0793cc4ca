//! Numbers that follow from a manifest: what an engine weighs and what a step reads.

use std::collections::{BTreeMap, BTreeSet};
use trtc_engine::layout::sizes;
use trtc_engine::manifest::{Arg, Choice, Encoding, Kernel, Manifest, Weight};
use trtc_ir::text::parse;
use trtc_ir::{Module, Op};

/// Bytes of one weight with its scales and zeros; 0 for a combination that no engine holds.
pub fn weight_bytes(w: &Weight) -> u64 {
    sizes(&w.shape, w.encoding, w.layout).map_or(0, |s| s.payload + s.scale + s.zero)
}

/// Bytes of all weights.
pub fn all_weights(m: &Manifest) -> u64 {
    m.weights.iter().map(weight_bytes).sum()
}

/// Bytes by how they are stored, largest first.
pub fn by_encoding(m: &Manifest) -> Vec<(String, usize, u64)> {
    let mut sums: BTreeMap<String, (usize, u64)> = BTreeMap::new();
    for w in &m.weights {
        let sum = sums.entry(encoding(w.encoding)).or_default();
        sum.0 += 1;
        sum.1 += weight_bytes(w);
    }
    let mut out: Vec<_> = sums.into_iter().map(|(name, (count, bytes))| (name, count, bytes)).collect();
    out.sort_by_key(|(_, _, bytes)| std::cmp::Reverse(*bytes));
    out
}

/// Name of an encoding for people.
pub fn encoding(e: Encoding) -> String {
    match e {
        Encoding::F32 => "f32".to_owned(),
        Encoding::Bf16 => "bf16".to_owned(),
        Encoding::F8Channel => "fp8, a scale a channel".to_owned(),
        Encoding::I8Channel => "int8, a scale a channel".to_owned(),
        Encoding::I4Group { group } => format!("int4, groups of {group}"),
    }
}

/// Bytes of weights that a step of few tokens reads: every weight that a launch uses, once; of a table that is only
/// looked up, a row for each token, nothing to speak of.
pub fn read_per_step(m: &Manifest) -> u64 {
    let looks_up = |kernel: &Kernel| {
        parse(&kernel.contract, "contract").is_ok_and(|Module { func, .. }| {
            func.order.iter().any(|&op| matches!(func.ops[op].op, Op::Embedding(_)))
        })
    };
    let lookups: Vec<bool> = m.kernels.iter().map(looks_up).collect();
    let is_lookup = |choice: &Choice| lookups.get(choice.kernel as usize) == Some(&true);
    let mut used = BTreeSet::new();
    for launch in m.launches.iter().filter(|l| !l.choices.iter().any(is_lookup)) {
        used.extend(
            launch.args.iter().filter_map(|a| if let Arg::Weight(w) = a { Some(*w as usize) } else { None }),
        );
    }
    used.into_iter().filter_map(|w| m.weights.get(w)).map(weight_bytes).sum()
}

/// Bytes of the cache for one token.
pub fn kv_per_token(m: &Manifest) -> u64 {
    m.kv.bytes_per_page() / u64::from(m.kv.page_tokens.max(1))
}

/// `1.50 GiB`, `17 B`.
pub fn human(bytes: u64) -> String {
    let units = [(30, "GiB"), (20, "MiB"), (10, "KiB")];
    match units.iter().find(|(shift, _)| bytes >> shift > 0) {
        Some((shift, unit)) => format!("{:.2} {unit}", bytes as f64 / f64::from(1u32 << shift)),
        None => format!("{bytes} B"),
    }
}

/// `134 515 008`.
pub fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(' ');
        }
        out.push(c);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_for_people() {
        assert_eq!(human(17), "17 B");
        assert_eq!(human(3 << 29), "1.50 GiB");
        assert_eq!(grouped(134_515_008), "134 515 008");
        assert_eq!(grouped(12), "12");
    }
}
