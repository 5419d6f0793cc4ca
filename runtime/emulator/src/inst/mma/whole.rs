//! Products of integers, bits and doubles, whose sums are exact or rounded one after the other.

use super::fragment::{Fragment, Side};
use super::{MOST, MOST_D, Shape, whole_warp};
use crate::decode::{Decoder, Run};
use crate::fault::{FaultKind, trap};
use crate::inst::work;
use crate::number::dot::{Overflow, matmul_i32};
use crate::number::double;
use crate::number::format::Round;
use crate::ptx::Malformed;

/// Products of `s8`, `u8`, `s4` and `u4`; `signed` says which of A and B have signs.
pub fn integers(d: &mut Decoder<'_>, shape: Shape, bits: u32, signed: [bool; 2]) -> Result<Run, Malformed> {
    let shapes: &[Shape] = match bits {
        8 => &[[8, 8, 16], [16, 8, 16], [16, 8, 32]],
        4 => &[[8, 8, 32], [16, 8, 32], [16, 8, 64]],
        _ => &[],
    };
    if !shapes.contains(&shape) {
        return d.refuse("there is no such shape for its types");
    }
    let overflow = if d.has("satfinite") { Overflow::Clamp } else { Overflow::Wrap };
    let of_a = Fragment::of(d, Side::A, shape, bits)?;
    let of_b = Fragment::of(d, Side::B, shape, bits)?;
    let of_c = Fragment::accumulator(d, shape, 32)?;
    let dests = of_c.dests(d)?;
    let (a, b, c) = (of_a.sources(d, 1)?, of_b.sources(d, 2)?, of_c.sources(d, 3)?);
    let [m, n, k] = shape;
    let unused = 32 - bits;
    let widen = move |x: u32, signed: bool| {
        if signed { (x << unused) as i32 >> unused } else { (x << unused >> unused) as i32 }
    };
    Ok(work(move |s| {
        whole_warp(s)?;
        let (mut x, mut y, mut z) = ([0; MOST], [0; MOST / 2], [0; MOST_D]);
        let (x, y, z) = (&mut x[..m * k], &mut y[..k * n], &mut z[..m * n]);
        of_a.gather(s.warp, &a, |v| widen(v, signed[0]), x);
        of_b.gather(s.warp, &b, |v| widen(v, signed[1]), y);
        of_c.gather(s.warp, &c, |v| v as i32, z);
        matmul_i32(overflow, shape, x, y, z).or_else(|e| trap(FaultKind::Undefined, e.to_string()))?;
        of_c.scatter(s.warp, &dests, |v| v as u32, z);
        Ok(())
    }))
}

/// Products of bits: the sum is of the bits that are set in `a ^ b` or `a & b`. 32 of k lie in a register as an element
/// of 32 bits does.
pub fn bits(d: &mut Decoder<'_>, shape: Shape) -> Result<Run, Malformed> {
    let [m, n, k] = shape;
    if !matches!(shape, [8, 8, 128] | [16, 8, 128] | [16, 8, 256]) {
        return d.refuse("there is no such shape for its types");
    }
    let Some(and) = d.one_of(&[("and", true), ("xor", false)]) else {
        return d.refuse(".xor or .and is missing");
    };
    if !d.has("popc") {
        return d.refuse(".popc is missing");
    }
    let words = k / 32;
    let of_a = Fragment::of(d, Side::A, [m, n, words], 32)?;
    let of_b = Fragment::of(d, Side::B, [m, n, words], 32)?;
    let of_c = Fragment::accumulator(d, shape, 32)?;
    let dests = of_c.dests(d)?;
    let (a, b, c) = (of_a.sources(d, 1)?, of_b.sources(d, 2)?, of_c.sources(d, 3)?);
    Ok(work(move |s| {
        whole_warp(s)?;
        let (mut x, mut y, mut z) = ([0u32; MOST], [0u32; MOST], [0u32; MOST_D]);
        of_a.gather(s.warp, &a, |v| v, &mut x);
        of_b.gather(s.warp, &b, |v| v, &mut y);
        of_c.gather(s.warp, &c, |v| v, &mut z);
        for i in 0..m {
            for j in 0..n {
                let pairs = (0..words).map(|w| (x[i * words + w], y[w * n + j]));
                let sum: u32 = pairs.map(|(x, y)| if and { x & y } else { x ^ y }.count_ones()).sum();
                z[i * n + j] = z[i * n + j].wrapping_add(sum);
            }
        }
        of_c.scatter(s.warp, &dests, |v| v, &z);
        Ok(())
    }))
}

/// Products of `f64`. The ISA leaves the order of the sums open; here each product is added by one `fma`, along k.
pub fn doubles(d: &mut Decoder<'_>, shape: Shape) -> Result<Run, Malformed> {
    let [m, n, k] = shape;
    if !matches!(shape, [8, 8, 4] | [16, 8, 4 | 8 | 16]) {
        return d.refuse("there is no such shape for its types");
    }
    let roundings = [("rn", Round::Near), ("rz", Round::Zero), ("rm", Round::Down), ("rp", Round::Up)];
    let round = d.one_of(&roundings).unwrap_or_default();
    let of_a = Fragment::of(d, Side::A, shape, 64)?;
    let of_b = Fragment::of(d, Side::B, shape, 64)?;
    let of_c = Fragment::accumulator(d, shape, 64)?;
    let dests = of_c.dests(d)?;
    let (a, b, c) = (of_a.sources(d, 1)?, of_b.sources(d, 2)?, of_c.sources(d, 3)?);
    Ok(work(move |s| {
        whole_warp(s)?;
        let (mut x, mut y, mut z) = ([0.0; MOST], [0.0; MOST], [0.0; MOST_D]);
        of_a.gather_wide(s.warp, &a, &mut x);
        of_b.gather_wide(s.warp, &b, &mut y);
        of_c.gather_wide(s.warp, &c, &mut z);
        for i in 0..m {
            for j in 0..n {
                let start = z[i * n + j];
                z[i * n + j] =
                    (0..k).fold(start, |sum, l| double::fma(x[i * k + l], y[l * n + j], sum, round));
            }
        }
        of_c.scatter_wide(s.warp, &dests, &z);
        Ok(())
    }))
}
