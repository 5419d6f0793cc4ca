//! Shapes and types of `wgmma.mma_async`, and how a warp's part of the accumulator lies in registers.

use crate::decode::Decoder;
use crate::number::dot::{Arithmetic, Generation, Overflow, arithmetic};
use crate::number::format::{Format, Round, Saturate};
use crate::ptx::Malformed;
use crate::warp::{LANES, Slot, Warp};

/// What is added, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Floats.
    Float {
        /// Elements of A.
        a: Format,
        /// Elements of B.
        b: Format,
        /// The sums.
        arithmetic: Arithmetic,
        /// Registers of sums.
        accumulator: Accumulator,
    },
    /// Integers of 8 bits.
    Integer {
        /// Whether elements of A and B have a sign.
        signed: [bool; 2],
        /// What a sum beyond 32 bits becomes.
        overflow: Overflow,
    },
    /// Single bits, of which those that are set in A and in B are counted.
    Bits,
}

/// The shape m64nNkK and the types.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Columns.
    pub n: usize,
    /// Elements of a product; of single bits, the bytes that they fill.
    pub k: usize,
    /// Types.
    pub kind: Kind,
}

/// Formats by name, with the bits of an element.
const FORMATS: &[(&str, Format)] = &[
    ("f16", Format::F16),
    ("bf16", Format::Bf16),
    ("tf32", Format::Tf32),
    ("e4m3", Format::E4m3),
    ("e5m2", Format::E5m2),
];
const INTEGERS: &[(&str, bool)] = &[("s8", true), ("u8", false)];
/// Bits of K elements, of all types.
const K_BITS: usize = 256;

/// An integer of 8 bits as one of 32.
pub fn widen(x: u8, signed: bool) -> i32 {
    if signed { i32::from(x as i8) } else { i32::from(x) }
}

fn bits(format: Format) -> usize {
    match format {
        Format::Tf32 => 32,
        Format::F16 | Format::Bf16 => 16,
        _ => 8,
    }
}

impl Shape {
    /// Takes `m64n128k16.f32.bf16.bf16` of an opcode.
    pub fn of(d: &mut Decoder<'_>) -> Result<Shape, Malformed> {
        let clamps = d.has("satfinite");
        let counts = [d.has("and"), d.has("popc")];
        let [shape, out, a, b] = *d.words() else {
            return d.refuse("a shape and three types are wanted");
        };
        let numbers = shape.strip_prefix("m64n").and_then(|r| r.split_once('k'));
        let numbers = numbers.and_then(|(n, k)| Some((n.parse().ok()?, k.parse().ok()?)));
        let Some((n, k)): Option<(usize, usize)> = numbers else {
            return d.refuse(format_args!("{shape} is no shape"));
        };
        let named = |name| FORMATS.iter().find(|(f, _)| *f == name).map(|(_, f)| *f);
        let integer = |name| INTEGERS.iter().find(|(f, _)| *f == name).map(|(_, f)| *f);
        let (kind, wanted) = if (out, a, b) == ("s32", "b1", "b1") {
            if clamps || counts != [true; 2] {
                return d.refuse("products of bits are .and.popc");
            }
            (Kind::Bits, K_BITS)
        } else if counts != [false; 2] {
            return d.refuse(".and.popc is for bits");
        } else if let (Some(a), Some(b), "s32") = (integer(a), integer(b), out) {
            let overflow = if clamps { Overflow::Clamp } else { Overflow::Wrap };
            (Kind::Integer { signed: [a, b], overflow }, K_BITS / 8)
        } else {
            let accumulator = match out {
                "f32" => Accumulator::Words,
                "f16" => Accumulator::Halves,
                _ => return d.refuse(format_args!("sums of {out}")),
            };
            let found = named(a).zip(named(b)).and_then(|(a, b)| {
                let sum = if accumulator == Accumulator::Words { Format::F32 } else { Format::F16 };
                let arithmetic = arithmetic(Generation::Hopper, a, b, sum)?;
                Some((Kind::Float { a, b, arithmetic, accumulator }, K_BITS / bits(a)))
            });
            match found {
                Some(found) if !clamps => found,
                _ => return d.refuse(format_args!("there is no {out} of {a} and {b}")),
            }
        };
        let steps = if matches!(kind, Kind::Integer { .. } | Kind::Bits) && n > 32 { 16 } else { 8 };
        if k != wanted || !(8..=256).contains(&n) || n % steps != 0 {
            return d.refuse(format_args!(
                "there is no {shape} of {a}: k is {wanted}, n a multiple of {steps} to 256"
            ));
        }
        d.name(4);
        Ok(Shape { n, k: if kind == Kind::Bits { k / 8 } else { k }, kind })
    }

    /// True of floats.
    pub fn float(&self) -> bool {
        matches!(self.kind, Kind::Float { .. })
    }

    /// True if the opcode says how operands lie in shared memory: elements of 16 bits.
    pub fn transposable(&self) -> bool {
        matches!(self.kind, Kind::Float { a: Format::F16 | Format::Bf16, .. })
    }

    /// Registers of a thread's sums.
    pub fn registers(&self) -> usize {
        match self.kind {
            Kind::Float { accumulator: Accumulator::Halves, .. } => self.n / 4,
            _ => self.n / 2,
        }
    }

    /// A number that accumulators of the same shape and type have in common; never 0.
    pub fn code(&self) -> u32 {
        let ty = match self.kind {
            Kind::Float { accumulator: Accumulator::Words, .. } => 1,
            Kind::Float { accumulator: Accumulator::Halves, .. } => 2,
            Kind::Integer { .. } => 3,
            Kind::Bits => 4,
        };
        (self.n as u32) << 16 | (self.k as u32) << 4 | ty
    }
}

/// How sums lie in registers: element (g + 8h, 8t + 2q + e) of the warp's 16 x N is element 4t + 2h + e of the thread
/// 4g + q (`layout::fragment::wgmma_accumulator`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accumulator {
    /// A register each.
    Words,
    /// Two f16 in a register; values outside are f32.
    Halves,
}

impl Accumulator {
    /// Hands 8 elements of a row at a time to `put`: the index of the first in the row-major 16 x N, and their bits.
    #[inline(always)]
    pub fn read(
        self,
        warp: &Warp,
        registers: &[(Slot, u32)],
        n: usize,
        mut put: impl FnMut(usize, [u32; 8]),
    ) {
        for tile in 0..n / 8 {
            for half in 0..2 {
                let start = half * 8 * n + tile * 8;
                let (even, odd) = match self {
                    Accumulator::Words => {
                        let i = 4 * tile + 2 * half;
                        (warp.rows[registers[i].0.0 as usize], warp.rows[registers[i + 1].0.0 as usize])
                    }
                    Accumulator::Halves => {
                        let row = &warp.rows[registers[2 * tile + half].0.0 as usize];
                        let decode = |bits: u32| Format::F16.decode(bits & 0xffff).to_bits();
                        (row.map(decode), row.map(|x| decode(x >> 16)))
                    }
                };
                for g in 0..8 {
                    let mut line = [0; 8];
                    for q in 0..4 {
                        line[2 * q] = even[4 * g + q];
                        line[2 * q + 1] = odd[4 * g + q];
                    }
                    put(start + g * n, line);
                }
            }
        }
    }

    /// Stores 8 elements of a row at a time as `get` has them.
    #[inline(always)]
    pub fn write(
        self,
        warp: &mut Warp,
        registers: &[(Slot, u32)],
        n: usize,
        get: impl Fn(usize) -> [u32; 8],
    ) {
        for tile in 0..n / 8 {
            for half in 0..2 {
                let start = half * 8 * n + tile * 8;
                let mut both = [[0; LANES]; 2];
                for g in 0..8 {
                    let line = get(start + g * n);
                    for q in 0..4 {
                        both[0][4 * g + q] = line[2 * q];
                        both[1][4 * g + q] = line[2 * q + 1];
                    }
                }
                match self {
                    Accumulator::Words => {
                        let i = 4 * tile + 2 * half;
                        warp.rows[registers[i].0.0 as usize] = both[0];
                        warp.rows[registers[i + 1].0.0 as usize] = both[1];
                    }
                    Accumulator::Halves => {
                        let encode = |bits: u32| {
                            Format::F16.encode(f32::from_bits(bits).into(), Round::Near, Saturate::NONE)
                        };
                        let row = std::array::from_fn(|l| encode(both[0][l]) | encode(both[1][l]) << 16);
                        warp.rows[registers[2 * tile + half].0.0 as usize] = row;
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::fragment::wgmma_accumulator;

    #[test]
    fn elements_lie_as_the_layout_says() {
        let n = 24;
        for (accumulator, count) in [(Accumulator::Words, n / 2), (Accumulator::Halves, n / 4)] {
            let registers: Vec<(Slot, u32)> = (0..count as u32).map(|i| (Slot(i), i)).collect();
            let mut warp = Warp { rows: vec![[0; LANES]; count], ..Warp::default() };
            accumulator
                .write(&mut warp, &registers, n, |i| std::array::from_fn(|j| ((i + j) as f32).to_bits()));
            for lane in 0..LANES {
                for index in 0..n / 2 {
                    let place = wgmma_accumulator(lane, index);
                    let value = (place.row * n + place.column) as f32;
                    let found = match accumulator {
                        Accumulator::Words => f32::from_bits(warp.rows[index][lane]),
                        Accumulator::Halves => {
                            Format::F16.decode(warp.rows[index / 2][lane] >> (16 * (index % 2)) & 0xffff)
                        }
                    };
                    assert_eq!(found, value);
                }
            }
            accumulator.read(&warp, &registers, n, |i, bits| {
                assert_eq!(bits.map(f32::from_bits), std::array::from_fn(|j| (i + j) as f32));
            });
        }
    }
}
