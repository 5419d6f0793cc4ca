//! `mma.sync`: products of matrices that lie in the registers of a warp.
//!
//! What is done at decoding: the place of each register's first element in its matrix. What is done at each execution:
//! registers to row-major matrices, the product of [`crate::number::dot`], and back. Sparse products and the shapes of
//! sm_70 are not known. Source: PTX ISA, "Matrix multiply-accumulate operation using mma instruction".

mod float;
mod fragment;
mod whole;

use super::Rows;
use crate::decode::{Decoder, Run, Together};
use crate::fault::{FaultKind, Outcome, trap};
use crate::number::format::Format;
use crate::ptx::Malformed;
use crate::warp::ALL;
use crate::world::Step;

pub const ROWS: Rows = &[("mma.sync.aligned", mma)];

/// m, n, k.
type Shape = [usize; 3];

const SHAPES: &[(&str, Shape)] = &[
    ("m8n8k4", [8, 8, 4]),
    ("m8n8k16", [8, 8, 16]),
    ("m8n8k32", [8, 8, 32]),
    ("m8n8k128", [8, 8, 128]),
    ("m16n8k4", [16, 8, 4]),
    ("m16n8k8", [16, 8, 8]),
    ("m16n8k16", [16, 8, 16]),
    ("m16n8k32", [16, 8, 32]),
    ("m16n8k64", [16, 8, 64]),
    ("m16n8k128", [16, 8, 128]),
    ("m16n8k256", [16, 8, 256]),
];

/// Most elements of A.
const MOST: usize = 16 * 64;
/// Most elements of D.
const MOST_D: usize = 16 * 8;

/// What elements are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Element {
    Float(Format),
    Double,
    /// Bits, and whether they have a sign.
    Integer(u32, bool),
    Bit,
}

const ELEMENTS: &[(&str, Element)] = &[
    ("f16", Element::Float(Format::F16)),
    ("bf16", Element::Float(Format::Bf16)),
    ("tf32", Element::Float(Format::Tf32)),
    ("f32", Element::Float(Format::F32)),
    ("e4m3", Element::Float(Format::E4m3)),
    ("e5m2", Element::Float(Format::E5m2)),
    ("e3m2", Element::Float(Format::E3m2)),
    ("e2m3", Element::Float(Format::E2m3)),
    ("e2m1", Element::Float(Format::E2m1)),
    ("f64", Element::Double),
    ("s32", Element::Integer(32, true)),
    ("s8", Element::Integer(8, true)),
    ("u8", Element::Integer(8, false)),
    ("s4", Element::Integer(4, true)),
    ("u4", Element::Integer(4, false)),
    ("b1", Element::Bit),
];

fn mma(d: &mut Decoder<'_>) -> Result<Run, Malformed> {
    d.together = Together::Warp;
    let Some(shape) = d.one_of(SHAPES) else {
        return d.refuse("its shape is not known");
    };
    if !d.has("row") || !d.has("col") {
        return d.refuse("A is .row and B is .col");
    }
    let kind = d.one_of(float::KINDS);
    let mut types = [Element::Bit; 4];
    for ty in &mut types {
        let Some(found) = d.one_of(ELEMENTS) else {
            return d.refuse("it needs four types");
        };
        *ty = found;
    }
    let [of_d, a, b, c] = types;
    if of_d != c {
        return d.refuse("D and C have one type");
    }
    match (a, b, c) {
        (Element::Float(a), Element::Float(b), Element::Float(c)) => float::decode(d, shape, [a, b, c], kind),
        _ if kind.is_some() => d.refuse("this kind is for small floats"),
        (Element::Integer(bits, a), Element::Integer(same, b), Element::Integer(32, true))
            if bits == same =>
        {
            whole::integers(d, shape, bits, [a, b])
        }
        (Element::Bit, Element::Bit, Element::Integer(32, true)) => whole::bits(d, shape),
        (Element::Double, Element::Double, Element::Double) => whole::doubles(d, shape),
        _ => d.refuse("there is no product of these types"),
    }
}

/// All threads hold parts of the matrices.
fn whole_warp(s: &Step<'_, '_>) -> Outcome<()> {
    if s.mask == ALL {
        return Ok(());
    }
    trap(FaultKind::Divergence, format!("only the threads {:#010x} execute a matrix instruction", s.mask))
}
