//! Matrices in registers: from rows of registers to row-major matrices and back.

use super::Shape;
use crate::decode::Decoder;
use crate::layout::fragment::{MmaShape, Place, mma_accumulator};
use crate::ptx::Malformed;
use crate::warp::{ALL, LANES, Slot, Source, Warp};
use std::array::from_fn;

/// Which matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    A,
    B,
    /// The accumulator.
    C,
}

/// Where the elements of a matrix lie.
pub struct Fragment {
    /// Registers of a lane.
    pub registers: usize,
    /// Bits of an element.
    bits: u32,
    /// Elements of a register.
    count: usize,
    /// From one element of a register to the next in the row-major matrix.
    stride: usize,
    /// Index of the first element: of register r of a lane at `r * LANES + lane`.
    base: Vec<u16>,
}

impl Fragment {
    /// The fragment of elements of up to 64 bits; those of 64 bits lie as 32-bit ones do.
    pub fn of(d: &Decoder<'_>, side: Side, [m, n, k]: Shape, bits: u32) -> Result<Fragment, Malformed> {
        let slot_bits = bits.min(32);
        let count = (32 / slot_bits) as usize;
        // Places continue beyond a shape's own registers, so that the shape of 256 bits stands for longer ones.
        let Ok(shape) = MmaShape::new(slot_bits, (k as u32).min(256 / slot_bits)) else {
            return d.refuse("there is no such shape for its types");
        };
        let elements = match side {
            Side::A => m * k,
            Side::B => k * n,
            Side::C => m * n,
        };
        let registers = elements / (LANES * count);
        let place = |register: usize, lane: usize| match side {
            Side::A if m == 16 => shape.a(lane, register, 0),
            Side::A => {
                let of_b = shape.b(lane, register, 0);
                Place { row: of_b.column, column: of_b.row }
            }
            Side::B => shape.b(lane, register, 0),
            Side::C => mma_accumulator(lane, register * count),
        };
        let (columns, stride) = match side {
            Side::A => (k, 1),
            Side::B => (n, n),
            Side::C => (n, 1),
        };
        let all = (0..registers).flat_map(|r| (0..LANES).map(move |lane| (r, lane)));
        let base = all.map(|(r, lane)| {
            let Place { row, column } = place(r, lane);
            (row * columns + column) as u16
        });
        Ok(Fragment { registers, bits, count, stride, base: base.collect() })
    }

    /// The fragment of an accumulator: its elements' places do not depend on k.
    pub fn accumulator(d: &Decoder<'_>, [m, n, _]: Shape, bits: u32) -> Result<Fragment, Malformed> {
        Fragment::of(d, Side::C, [m, n, 256 / bits.min(32) as usize], bits)
    }

    /// The registers of operand `i`.
    pub fn sources(&self, d: &mut Decoder<'_>, i: usize) -> Result<Vec<Source>, Malformed> {
        let sources = d.sources(i)?;
        self.counted(d, i, sources.len())?;
        Ok(sources)
    }

    /// The registers of the result.
    pub fn dests(&self, d: &mut Decoder<'_>) -> Result<Vec<Slot>, Malformed> {
        let dests: Vec<Slot> = d.dests(0)?.into_iter().flatten().collect();
        self.counted(d, 0, dests.len())?;
        Ok(dests)
    }

    fn counted(&self, d: &Decoder<'_>, i: usize, found: usize) -> Result<(), Malformed> {
        if found == self.registers {
            return Ok(());
        }
        d.refuse(format_args!("operand {} has {found} registers where {} are wanted", i + 1, self.registers))
    }

    /// Registers to a matrix. `decode` is given an element in the low bits, with others above it.
    #[inline(always)]
    pub fn gather<T: Copy>(&self, warp: &Warp, sources: &[Source], decode: impl Fn(u32) -> T, out: &mut [T]) {
        for (source, base) in sources.iter().zip(self.base.as_chunks::<LANES>().0) {
            let row = warp.get(*source);
            for e in 0..self.count {
                let values: [T; LANES] = from_fn(|lane| decode(row[lane] >> (e as u32 * self.bits)));
                for lane in 0..LANES {
                    out[usize::from(base[lane]) + e * self.stride] = values[lane];
                }
            }
        }
    }

    /// A matrix to registers of 32 bits; `encode` gives an element in the low bits.
    #[inline(always)]
    pub fn scatter<T: Copy>(&self, warp: &mut Warp, dests: &[Slot], encode: impl Fn(T) -> u32, values: &[T]) {
        for (slot, base) in dests.iter().zip(self.base.as_chunks::<LANES>().0) {
            let row = from_fn(|lane| {
                let first = usize::from(base[lane]);
                (0..self.count)
                    .fold(0, |w, e| w | encode(values[first + e * self.stride]) << (e as u32 * self.bits))
            });
            warp.set(*slot, ALL, &row);
        }
    }

    /// The same as `gather` of 64-bit registers.
    pub fn gather_wide(&self, warp: &Warp, sources: &[Source], out: &mut [f64]) {
        for (source, base) in sources.iter().zip(self.base.as_chunks::<LANES>().0) {
            let row = warp.get_wide(*source);
            for lane in 0..LANES {
                out[usize::from(base[lane])] = f64::from_bits(row[lane]);
            }
        }
    }

    /// The same as `scatter` of 64-bit registers.
    pub fn scatter_wide(&self, warp: &mut Warp, dests: &[Slot], values: &[f64]) {
        for (slot, base) in dests.iter().zip(self.base.as_chunks::<LANES>().0) {
            warp.set_wide(*slot, ALL, &from_fn(|lane| values[usize::from(base[lane])].to_bits()));
        }
    }
}
