//! The inputs of a test, chosen anew from the seed whenever they are needed. Nothing of what is computed from them.

use crate::numbers::{F32, F64, Format, MODES, Mode, mask};
use crate::rng::Rng;
use crate::test::{Fill, Kind, Range, Test};

/// All bytes that a test's kernel reads.
pub fn inputs(test: &Test, seed: u64) -> Vec<u8> {
    let mut rng = Rng::new(seed, &test.name);
    let mut bytes = vec![0; test.input_bytes()];
    let (offsets, size) = Test::record(&test.ins);
    let edges: Vec<Vec<u64>> = test.ins.iter().map(|k| edge_values(*k)).collect();
    let tuples = edges.iter().fold(1usize, |n, e| n.saturating_mul(e.len()));
    for thread in 0..test.total() {
        let mode = MODES[thread / test.block as usize % MODES.len()];
        let record = match test.fill {
            Fill::Matrix => test.ins.iter().map(|k| element_values(*k, mode, &mut rng)).collect(),
            // All tuples of edge values, if they fit in two thirds of the threads.
            Fill::Threads if tuples <= test.total() * 2 / 3 && thread < tuples => tuple(&edges, thread),
            Fill::Threads => thread_values(&test.ins, &edges, &mut rng),
        };
        for ((value, at), kind) in record.iter().zip(&offsets).zip(&test.ins) {
            let at = thread * size + at;
            bytes[at..at + kind.bytes()].copy_from_slice(&value.to_le_bytes()[..kind.bytes()]);
        }
    }
    let mut at = test.shared_at();
    for block in 0..test.blocks as usize {
        let mode = if test.fill == Fill::Matrix { MODES[block % MODES.len()] } else { Mode::Bits };
        for (run, format) in &test.shared {
            elements(&mut bytes[at..at + *run as usize], *format, mode, &mut rng);
            at += *run as usize;
        }
    }
    bytes
}

/// Fills bytes with elements of a format, the first in the lowest bits.
fn elements(bytes: &mut [u8], format: Format, mode: Mode, rng: &mut Rng) {
    for word in bytes.chunks_mut(8) {
        let value = pack(format, 64 / format.bits, || format.random(mode, rng));
        word.copy_from_slice(&value.to_le_bytes()[..word.len()]);
    }
}

fn pack(format: Format, count: u32, mut element: impl FnMut() -> u64) -> u64 {
    (0..count).fold(0, |word, i| word | element() << (i * format.bits))
}

/// Keeps a value within what makes sense.
fn fit(kind: Kind, value: u64, rng: &mut Rng) -> u64 {
    match kind.range {
        Range::Any => value,
        Range::NotZero if value & mask(kind.bits) == 0 => 1 + rng.below(9),
        Range::NotZero => value,
        Range::Below(n) => rng.below(n),
        Range::Mask(bits) => value & bits,
    }
}

fn element_values(kind: Kind, mode: Mode, rng: &mut Rng) -> u64 {
    let value = pack(kind.format, kind.count, || kind.format.random(mode, rng));
    fit(kind, value, rng)
}

/// Edge values of a register: the same element throughout.
fn edge_values(kind: Kind) -> Vec<u64> {
    match kind.range {
        Range::Below(n) => return (0..n).collect(),
        Range::Any | Range::NotZero | Range::Mask(_) => {}
    }
    let mut all: Vec<u64> =
        kind.format.edges().iter().map(|e| pack(kind.format, kind.count, || *e)).collect();
    match kind.range {
        Range::NotZero => all.retain(|v| *v != 0),
        Range::Mask(bits) => all.iter_mut().for_each(|v| *v &= bits),
        _ => {}
    }
    all
}

/// The `index`th tuple.
fn tuple(edges: &[Vec<u64>], mut index: usize) -> Vec<u64> {
    let mut pick = |e: &Vec<u64>| {
        let value = e[index % e.len()];
        index /= e.len();
        value
    };
    edges.iter().map(&mut pick).collect()
}

/// One thread's operands: each on its own, but some times two alike, or a sum that cancels.
fn thread_values(kinds: &[Kind], edges: &[Vec<u64>], rng: &mut Rng) -> Vec<u64> {
    let mut values: Vec<u64> = Vec::with_capacity(kinds.len());
    for (kind, edges) in kinds.iter().zip(edges) {
        let value = match rng.below(8) {
            0 => rng.of(edges),
            1 => pack(kind.format, kind.count, || rng.of(&kind.format.edges())),
            2 => element_values(*kind, Mode::Bits, rng),
            3 => pack(kind.format, kind.count, || kind.format.tie(rng)),
            4 => element_values(*kind, Mode::Wide, rng),
            _ => element_values(*kind, Mode::Ordinary, rng),
        };
        let value = match values.last() {
            Some(before) if rng.once_in(8) => near(*kind, *before, rng),
            _ => value,
        };
        values.push(fit(*kind, value, rng));
    }
    if let ([a, b, c], [k, ..]) = (&mut values[..], kinds)
        && kinds.iter().all(|other| other == k)
        && rng.once_in(6)
    {
        *c = cancelling(*k, *a, *b, rng).unwrap_or(*c);
    }
    values
}

/// A value beside another one, or its negative.
fn near(kind: Kind, value: u64, rng: &mut Rng) -> u64 {
    let sign = 1u64 << (kind.format.bits - 1);
    let flip = if rng.once_in(2) { pack(kind.format, kind.count, || sign) } else { 0 };
    (value ^ flip).wrapping_add(rng.of(&[0, 0, 1, u64::MAX])) & mask(kind.bits)
}

/// What nearly cancels a product.
fn cancelling(kind: Kind, a: u64, b: u64, rng: &mut Rng) -> Option<u64> {
    if kind.count != 1 {
        return None;
    }
    let near = rng.of(&[0, 1, u64::MAX]);
    let product = -(kind.format.value(a) * kind.format.value(b));
    if product.is_nan() {
        return None;
    }
    match kind.format {
        F32 => Some(u64::from((product as f32).to_bits()).wrapping_add(near) & mask(32)),
        F64 => Some(product.to_bits().wrapping_add(near)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::numbers::{B16, BF16};
    use crate::test::{one, packed};

    fn values(test: &Test, bytes: &[u8], operand: usize) -> Vec<u64> {
        let (offsets, size) = Test::record(&test.ins);
        let at = |thread| thread * size + offsets[operand];
        (0..test.total()).map(|t| Test::read(bytes, at(t), test.ins[operand])).collect()
    }

    #[test]
    fn inputs_depend_on_the_seed_and_the_name_alone() {
        let test = Test::new("a", &[one(F32)], &[one(F32), one(F64)], "").with_shared(2048, BF16);
        let other = Test { name: "b".into(), ..test.clone() };
        assert_eq!(inputs(&test, 1), inputs(&test, 1));
        assert_ne!(inputs(&test, 1), inputs(&test, 2));
        assert_ne!(inputs(&test, 1), inputs(&other, 1));
        assert_eq!(inputs(&test, 1).len(), 1024 * 16 + 8 * 2048);
    }

    #[test]
    fn ranges_hold_and_all_pairs_of_edges_are_there() {
        let kinds = [one(F32), one(F32), one(B16).within(Range::NotZero), one(B16).within(Range::Below(7))];
        let test = Test::new("t", &[one(F32)], &kinds, "");
        let bytes = inputs(&test, 9);
        assert!(values(&test, &bytes, 2).iter().all(|v| *v != 0));
        assert!(values(&test, &bytes, 3).iter().all(|v| *v < 7));
        let test = Test::new("t", &[one(F32)], &kinds[..2], "").threads(2048);
        let bytes = inputs(&test, 9);
        let pairs: Vec<(u64, u64)> =
            values(&test, &bytes, 0).into_iter().zip(values(&test, &bytes, 1)).collect();
        let edges = F32.edges();
        assert!(edges.iter().all(|a| edges.iter().all(|b| pairs.contains(&(*a, *b)))));
    }

    #[test]
    fn blocks_of_matrices_take_the_modes_in_turn() {
        let pair = packed(BF16, 2);
        let test = Test::new("m", &[pair], &[pair; 4], "").matrix(32, 7);
        let all = values(&test, &inputs(&test, 3), 0);
        let zeros = |mode| {
            let at = MODES.iter().position(|m| *m == mode).unwrap() * 32;
            all[at..at + 32].iter().filter(|v| **v & 0xffff == 0).count()
        };
        assert_eq!(zeros(Mode::Ordinary), 0);
        assert!(zeros(Mode::Sparse) > 16);
    }
}
