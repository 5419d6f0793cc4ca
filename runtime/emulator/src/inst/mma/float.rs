//! Products of floats of up to 32 bits, with and without scales of blocks.

use super::fragment::{Fragment, Side};
use super::{MOST, MOST_D, Shape, whole_warp};
use crate::decode::{Decoder, Run};
use crate::fault::{FaultKind, Outcome, trap};
use crate::inst::work;
use crate::layout::fragment::{FragmentError, ScaleSelector, ScaleVector};
use crate::number::dot::{Arithmetic, Generation, Scales, arithmetic, matmul, matmul_scaled, mma_arithmetic};
use crate::number::format::Format;
use crate::number::half::f16_rn;
use crate::ptx::Malformed;
use crate::warp::{LANES, Row, Slot, Source, Warp};

/// `.kind`: products of small floats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Elements in bytes, without scales.
    F8f6f4,
    /// Elements in bytes, with scales of 32 elements.
    Mxf8f6f4,
    /// Packed elements of 4 bits, with scales of 32 elements.
    Mxf4,
    /// Packed elements of 4 bits, with scales of 16 or 32 elements.
    Mxf4nvf4,
}

pub const KINDS: &[(&str, Kind)] = &[
    ("kind::f8f6f4", Kind::F8f6f4),
    ("kind::mxf8f6f4", Kind::Mxf8f6f4),
    ("kind::mxf4", Kind::Mxf4),
    ("kind::mxf4nvf4", Kind::Mxf4nvf4),
];

/// k of the shapes that a type has, all with m = 16 and n = 8.
fn lengths(a: Format, kind: Option<Kind>) -> &'static [usize] {
    match (kind, a) {
        (Some(Kind::F8f6f4 | Kind::Mxf8f6f4), _) => &[32],
        (Some(Kind::Mxf4 | Kind::Mxf4nvf4), Format::E2m1) => &[64],
        (None, Format::F16 | Format::Bf16) => &[8, 16],
        (None, Format::Tf32) => &[4, 8],
        (None, Format::E4m3 | Format::E5m2) => &[16, 32],
        _ => &[],
    }
}

fn small(format: Format) -> bool {
    matches!(format, Format::E4m3 | Format::E5m2 | Format::E3m2 | Format::E2m3 | Format::E2m1)
}

/// What is needed to execute a product.
struct Product {
    arithmetic: Arithmetic,
    shape: Shape,
    /// Of A, B and the accumulator.
    formats: [Format; 3],
    /// Bits below an element of A and of B in its place: elements of 4 bits lie in bits 2 to 5 of a byte.
    shifts: [u32; 2],
    fragments: [Fragment; 3],
    sources: [Vec<Source>; 3],
    dests: Vec<Slot>,
}

pub fn decode(
    d: &mut Decoder<'_>,
    shape: Shape,
    formats: [Format; 3],
    kind: Option<Kind>,
) -> Result<Run, Malformed> {
    let [a, b, c] = formats;
    let [m, n, k] = shape;
    if [m, n] != [16, 8] || !lengths(a, kind).contains(&k) {
        return d.refuse("there is no such shape for its types");
    }
    if if small(a) { !small(b) } else { a != b } {
        return d.refuse("there is no product of these types");
    }
    let found = Generation::of(d.chip.sm).and_then(|generation| match kind {
        None => mma_arithmetic(generation, a, b, c),
        Some(_) if generation != Generation::RtxBlackwell || !d.chip.special => None,
        Some(_) => arithmetic(generation, a, b, c),
    });
    let Some(arithmetic) = found else {
        let sm = d.chip.sm;
        return d.refuse(format_args!("the tensor cores of sm_{sm} do not have this product"));
    };
    let packed = matches!(kind, Some(Kind::Mxf4 | Kind::Mxf4nvf4));
    if packed && b != Format::E2m1 {
        return d.refuse("elements have 4 bits");
    }
    let bits = |format: Format| if packed { 4 } else { format.bits().max(8).next_power_of_two() };
    let shift = |format: Format| if format == Format::E2m1 && !packed { 2 } else { 0 };
    let fragments = [
        Fragment::of(d, Side::A, shape, bits(a))?,
        Fragment::of(d, Side::B, shape, bits(b))?,
        Fragment::accumulator(d, shape, c.bits())?,
    ];
    let [of_a, of_b, of_c] = &fragments;
    let dests = of_c.dests(d)?;
    let sources = [of_a.sources(d, 1)?, of_b.sources(d, 2)?, of_c.sources(d, 3)?];
    let shifts = [shift(a), shift(b)];
    let product = Product { arithmetic, shape, formats, shifts, fragments, sources, dests };
    match kind {
        None | Some(Kind::F8f6f4) => Ok(work(move |s| {
            whole_warp(s)?;
            product.run(s.warp, |arithmetic, [m, n, k], a, b, d| {
                matmul(arithmetic, m, n, k, a, b, d).or_else(|e| trap(FaultKind::Undefined, e.to_string()))
            })
        })),
        Some(kind) => scaled(d, product, kind),
    }
}

/// Reads a matrix of `f32` values.
#[inline(always)]
fn read(fragment: &Fragment, warp: &Warp, sources: &[Source], format: Format, shift: u32, out: &mut [f32]) {
    match format {
        Format::F32 => fragment.gather(warp, sources, f32::from_bits, out),
        Format::Tf32 => fragment.gather(warp, sources, |x| Format::Tf32.decode(x), out),
        Format::Bf16 => fragment.gather(warp, sources, |x| f32::from_bits(x << 16), out),
        Format::F16 => fragment.gather(warp, sources, |x| Format::F16.decode(x & 0xffff), out),
        _ => {
            let table = format.table();
            fragment.gather(warp, sources, |x| table[usize::from((x >> shift) as u8)], out);
        }
    }
}

impl Product {
    fn run(
        &self,
        warp: &mut Warp,
        multiply: impl Fn(&Arithmetic, Shape, &[f32], &[f32], &mut [f32]) -> Outcome<()>,
    ) -> Outcome<()> {
        let [m, n, k] = self.shape;
        let (mut a, mut b, mut d) = ([0.0; MOST], [0.0; MOST / 2], [0.0; MOST_D]);
        let (a, b, d) = (&mut a[..m * k], &mut b[..k * n], &mut d[..m * n]);
        let [of_a, of_b, of_c] = &self.fragments;
        let [from_a, from_b, from_c] = &self.sources;
        let [format_a, format_b, format_c] = self.formats;
        read(of_a, warp, from_a, format_a, self.shifts[0], a);
        read(of_b, warp, from_b, format_b, self.shifts[1], b);
        read(of_c, warp, from_c, format_c, 0, d);
        multiply(&self.arithmetic, self.shape, a, b, d)?;
        match format_c {
            Format::F16 => of_c.scatter(warp, &self.dests, |x| f16_rn(x).into(), d),
            _ => of_c.scatter(warp, &self.dests, f32::to_bits, d),
        }
        Ok(())
    }
}

/// Registers of the scales of one operand, and what selects among them.
struct ScaleOperand {
    register: Source,
    byte: Source,
    thread: Source,
}

impl ScaleOperand {
    fn decode(d: &mut Decoder<'_>, i: usize) -> Result<ScaleOperand, Malformed> {
        let register = d.source(i)?;
        let [byte, thread] = d.sources(i + 1)?[..] else {
            return d.refuse(format_args!("operand {} is {{byte id, thread id}}", i + 2));
        };
        Ok(ScaleOperand { register, byte, thread })
    }

    fn selector(
        &self,
        warp: &Warp,
        vector: ScaleVector,
        of: fn(ScaleVector, u16, u16) -> Result<ScaleSelector, FragmentError>,
    ) -> Outcome<ScaleSelector> {
        let (byte, thread) = (warp.get(self.byte), warp.get(self.thread));
        if byte != [byte[0]; LANES] || thread != [thread[0]; LANES] {
            return trap(FaultKind::Undefined, "threads select different scales");
        }
        of(vector, byte[0] as u16, thread[0] as u16).or_else(|e| trap(FaultKind::Undefined, e.to_string()))
    }
}

fn code(row: &Row, (lane, byte): (usize, usize)) -> u8 {
    (row[lane] >> (8 * byte)) as u8
}

fn scaled(d: &mut Decoder<'_>, product: Product, kind: Kind) -> Result<Run, Malformed> {
    if !d.has("block_scale") {
        return d.refuse(".block_scale is missing");
    }
    let vectors = [
        ("scale_vec::1X", ScaleVector::X1),
        ("scale_vec::2X", ScaleVector::X2),
        ("scale_vec::4X", ScaleVector::X4),
    ];
    let written = d.one_of(&vectors);
    let Some(format) = d.one_of(&[("ue8m0", Format::Ue8m0), ("ue4m3", Format::Ue4m3)]) else {
        return d.refuse("the type of the scales is missing");
    };
    let vector = match (kind, written, format) {
        (Kind::Mxf8f6f4, None | Some(ScaleVector::X1), Format::Ue8m0) => ScaleVector::X1,
        (Kind::Mxf4, None | Some(ScaleVector::X2), Format::Ue8m0) => ScaleVector::X2,
        (Kind::Mxf4nvf4, Some(ScaleVector::X2), Format::Ue8m0) => ScaleVector::X2,
        (Kind::Mxf4nvf4, Some(ScaleVector::X4), _) => ScaleVector::X4,
        _ => return d.refuse("it has no such scales"),
    };
    if product.formats[2] != Format::F32 {
        return d.refuse("scaled sums are of f32");
    }
    let (of_a, of_b) = (ScaleOperand::decode(d, 4)?, ScaleOperand::decode(d, 6)?);
    let four_bit = kind != Kind::Mxf8f6f4;
    let factors = vector.factors();
    Ok(work(move |s| {
        whole_warp(s)?;
        let selects_a = of_a.selector(s.warp, vector, ScaleSelector::a)?;
        let selects_b = of_b.selector(s.warp, vector, ScaleSelector::b)?;
        let (row_a, row_b) = (s.warp.get(of_a.register), s.warp.get(of_b.register));
        let [m, n, k] = product.shape;
        // Row-major: m x factors, and factors x n.
        let a: Vec<u8> =
            (0..m * factors).map(|i| code(&row_a, selects_a.of_row(i / factors, i % factors))).collect();
        let b: Vec<u8> = (0..factors * n).map(|i| code(&row_b, selects_b.of_column(i % n, i / n))).collect();
        let scales = Scales { format, block: k / factors, a: &a, b: &b };
        product.run(s.warp, |arithmetic, shape, a, b, d| {
            matmul_scaled(arithmetic, four_bit, shape, a, b, scales, d)
                .or_else(|e| trap(FaultKind::Undefined, e.to_string()))
        })
    }))
}
