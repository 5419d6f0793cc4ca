//! Matrices between shared memory and registers: `ldmatrix`, `stmatrix`, and `movmatrix`, which transposes in registers.
//!
//! Each row of a matrix lies at an address of its own, which a thread gives. Source: PTX ISA, "Warp-level matrix load
//! instruction", "store" and "transpose".

use super::{Rows, memory, work};
use crate::decode::{Address, Decoder, Run, Together, Ty};
use crate::fault::{FaultKind, Outcome, trap, trap_at};
use crate::layout::Packing;
use crate::layout::fragment::{
    Expansion, Place, b8_stmatrix_place, b8_transposed_place, b16_place, expand_row, m8n16_place,
    row_address_lane,
};
use crate::memory::address;
use crate::ptx::{Malformed, Space};
use crate::warp::{ALL, LANES, Row, Slot, Wide};
use crate::world::Step;
use std::array::from_fn;

pub const ROWS: Rows = &[
    ("ldmatrix.sync.aligned", ldmatrix),
    ("stmatrix.sync.aligned", stmatrix),
    ("movmatrix.sync.aligned.m8n8.trans.b16", movmatrix),
];

/// Rows of matrices, by the lane that gives the address.
type Bytes = [[u8; 16]; LANES];

const COUNTS: &[(&str, usize)] = &[("x1", 1), ("x2", 2), ("x4", 4)];

/// An address of shared memory, and whether it is a generic one.
fn shared_address(d: &mut Decoder<'_>, i: usize) -> Result<(Address, bool), Malformed> {
    let access = memory::access(d, i)?;
    match access.space {
        _ if access.strong => d.refuse("it has no order"),
        Some(Space::Shared) => Ok((access.at, false)),
        None => Ok((access.at, true)),
        Some(_) => d.refuse("matrices lie in shared memory"),
    }
}

/// The threads' addresses of rows, in shared memory; the first `count` of them are looked at.
fn addresses(s: &Step<'_, '_>, at: &Address, generic: bool, count: usize) -> Outcome<Wide> {
    if s.mask != ALL {
        let what = format!("only the threads {:#010x} execute a matrix instruction", s.mask);
        return trap(FaultKind::Divergence, what);
    }
    let mut out = memory::addresses(s, at);
    for (lane, out) in out.iter_mut().enumerate().take(count) {
        if generic {
            let (space, own) = address::split(*out);
            if space != Space::Shared {
                let what = format!("{out:#x} is no address of shared memory");
                return trap_at(FaultKind::OutOfBounds, lane, what);
            }
            *out = own;
        }
        if !out.is_multiple_of(16) {
            let what = format!("a row of a matrix at {out:#x} of shared memory, which is no multiple of 16");
            return trap_at(FaultKind::Misaligned, lane, what);
        }
    }
    Ok(out)
}

/// What a matrix is in memory and in registers.
#[derive(Clone, Copy)]
enum Form {
    /// 8 x 8 of 16 bits, transposed or not.
    Halves(bool),
    /// 8 x 16 of narrow elements, each to a byte.
    Narrow(Packing),
    /// 16 x 16 of bytes, transposed.
    Bytes,
    /// 16 x 16 of narrow elements, each to a byte, transposed.
    NarrowTransposed(Packing),
}

impl Form {
    fn decode(d: &mut Decoder<'_>) -> Result<Form, Malformed> {
        let shapes = [("m8n8", 0), ("m8n16", 1), ("m16n16", 2)];
        let Some(shape) = d.one_of(&shapes) else {
            return d.refuse("its shape is not known");
        };
        let trans = d.has("trans");
        let narrow = |d: &mut Decoder<'_>| {
            let packings = [("b4x16_p64", Packing::Bits4In16Bytes), ("b6x16_p32", Packing::Bits6In16Bytes)];
            d.has("b8x16").then(|| d.one_of(&packings)).flatten()
        };
        let form = match (shape, trans, narrow(d)) {
            (0, trans, None) if d.has("b16") => Form::Halves(trans),
            (1, false, Some(packing)) => Form::Narrow(packing),
            (2, true, Some(packing)) => Form::NarrowTransposed(packing),
            (2, true, None) if d.has("b8") => Form::Bytes,
            _ => return d.refuse("there is no such matrix"),
        };
        if !matches!(form, Form::Halves(_)) && (d.chip.sm < 100 || !d.chip.special) {
            return d.refuse("this matrix is of sm_100a and later");
        }
        Ok(form)
    }

    fn rows(self) -> usize {
        match self {
            Form::Halves(_) | Form::Narrow(_) => 8,
            Form::Bytes | Form::NarrowTransposed(_) => 16,
        }
    }

    /// Bytes of a row that hold elements.
    fn used(self) -> usize {
        match self {
            Form::Halves(_) | Form::Bytes => 16,
            Form::Narrow(p) | Form::NarrowTransposed(p) => 2 * p.element_bits() as usize,
        }
    }

    /// The register `register` that lanes have of matrix `matrix`.
    fn register(self, bytes: &Bytes, matrix: usize, register: usize) -> Row {
        let first = row_address_lane(self.rows(), matrix, 0);
        match self {
            Form::Halves(false) => halves::<false>(bytes, first),
            Form::Halves(true) => halves::<true>(bytes, first),
            Form::Narrow(_) => quads(bytes, first, m8n16_place),
            Form::Bytes | Form::NarrowTransposed(_) => {
                quads(bytes, first, |lane, e| b8_transposed_place(lane, register, e))
            }
        }
    }
}

/// Two elements of 16 bits for each lane.
fn halves<const TRANS: bool>(bytes: &Bytes, first: usize) -> Row {
    let mut rows = [[0; 8]; 8];
    for (row, bytes) in rows.iter_mut().zip(&bytes[first..]) {
        for (half, pair) in row.iter_mut().zip(bytes.as_chunks().0) {
            *half = u16::from_le_bytes(*pair);
        }
    }
    let mut out = [0; LANES];
    for (lane, out) in out.iter_mut().enumerate() {
        let half = |e: usize| {
            let place = b16_place(TRANS, lane, e);
            u32::from(rows[place.row][place.column])
        };
        *out = half(0) | half(1) << 16;
    }
    out
}

/// Four elements of a byte for each lane.
fn quads(bytes: &Bytes, first: usize, place: impl Fn(usize, usize) -> Place) -> Row {
    from_fn(|lane| {
        let byte = |e: usize| {
            let place = place(lane, e);
            bytes[first + place.row][place.column]
        };
        u32::from_le_bytes(from_fn(byte))
    })
}

/// `ldmatrix d, [p]`: lanes give the addresses of the rows of the first matrix, then of the second, and so on.
fn ldmatrix(d: &mut Decoder<'_>) -> Result<Run, Malformed> {
    d.together = Together::Warp;
    let form = Form::decode(d)?;
    let Some(count) = d.one_of(COUNTS) else {
        return d.refuse("how many matrices is missing");
    };
    let rows = form.rows() * count;
    if rows > LANES {
        return d.refuse("there are not so many addresses");
    }
    // Registers of each matrix.
    let each = form.rows() / 8;
    let dests: Vec<Slot> = d.dests(0)?.into_iter().flatten().collect();
    if dests.len() != each * count {
        return d.refuse(format_args!("it fills {} registers", each * count));
    }
    let (at, generic) = shared_address(d, 1)?;
    d.shared_access(if form.used() == 16 { 16 } else { 4 });
    let packing = match form {
        Form::Narrow(p) | Form::NarrowTransposed(p) => Some(p),
        _ => None,
    };
    Ok(work(move |s| {
        let at = addresses(s, &at, generic, rows)?;
        let mut bytes: Bytes = [[0; 16]; LANES];
        for lane in 0..rows {
            bytes[lane] = match packing {
                None => s.read_shared::<16>(lane, at[lane], false)?,
                Some(packing) => narrow_row(s, lane, at[lane], packing, form.used())?,
            };
        }
        for (i, slot) in dests.iter().enumerate() {
            let row = form.register(&bytes, i / each, i % each);
            s.warp.set(*slot, ALL, &row);
        }
        Ok(())
    }))
}

/// A row of narrow elements as bytes; what lies behind them is not read.
fn narrow_row(
    s: &mut Step<'_, '_>,
    lane: usize,
    at: u64,
    packing: Packing,
    used: usize,
) -> Outcome<[u8; 16]> {
    let mut row = [0; 16];
    for (i, four) in row.as_chunks_mut::<4>().0.iter_mut().enumerate().take(used / 4) {
        *four = s.read_shared::<4>(lane, at + 4 * i as u64, false)?;
    }
    match expand_row(packing, Expansion::Low, row) {
        Some(row) => Ok(row),
        None => trap(FaultKind::Undefined, "elements of a matrix that are not narrow"),
    }
}

/// `stmatrix [p], d`: lanes give the addresses of the 8 rows of the first matrix, then of the second, and so on.
fn stmatrix(d: &mut Decoder<'_>) -> Result<Run, Malformed> {
    d.together = Together::Warp;
    let Some(halves) = d.one_of(&[("m8n8", true), ("m16n8", false)]) else {
        return d.refuse("its shape is not known");
    };
    let trans = d.has("trans");
    if !(if halves { d.has("b16") } else { trans && d.has("b8") }) {
        return d.refuse("there is no such matrix");
    }
    if d.chip.sm < 90 || !halves && (d.chip.sm < 100 || !d.chip.special) {
        return d.refuse("the chip does not have this instruction");
    }
    let Some(count) = d.one_of(COUNTS) else {
        return d.refuse("how many matrices is missing");
    };
    let (at, generic) = shared_address(d, 0)?;
    let sources = d.sources(1)?;
    if sources.len() != count {
        return d.refuse(format_args!("it stores {count} registers"));
    }
    d.shared_access(16);
    Ok(work(move |s| {
        let at = addresses(s, &at, generic, 8 * count)?;
        let mut bytes: Bytes = [[0; 16]; LANES];
        for (matrix, source) in sources.iter().enumerate() {
            let values = s.warp.get(*source);
            for (lane, value) in values.into_iter().enumerate() {
                let value = value.to_le_bytes();
                for e in 0..if halves { 2 } else { 4 } {
                    if halves {
                        let place = b16_place(trans, lane, e);
                        let row = &mut bytes[row_address_lane(8, matrix, place.row)];
                        row[2 * place.column..][..2].copy_from_slice(&value[2 * e..][..2]);
                    } else {
                        let place = b8_stmatrix_place(lane, e);
                        bytes[row_address_lane(8, matrix, place.row)][place.column] = value[e];
                    }
                }
            }
        }
        for lane in 0..8 * count {
            s.write_shared(lane, at[lane], &bytes[lane], false)?;
        }
        Ok(())
    }))
}

/// `movmatrix`: an 8 x 8 matrix of 16 bits, transposed.
fn movmatrix(d: &mut Decoder<'_>) -> Result<Run, Malformed> {
    d.together = Together::Warp;
    let (out, from) = (d.typed_dest(0, Ty::B32)?, d.typed(1, Ty::B32)?);
    Ok(work(move |s| {
        if s.mask != ALL {
            let what = format!("only the threads {:#010x} execute a matrix instruction", s.mask);
            return trap(FaultKind::Divergence, what);
        }
        let values = s.warp.get(from);
        let mut matrix = [[0u16; 8]; 8];
        for (lane, value) in values.into_iter().enumerate() {
            for e in 0..2 {
                let place = b16_place(false, lane, e);
                matrix[place.row][place.column] = (value >> (16 * e)) as u16;
            }
        }
        let transposed: Row = from_fn(|lane| {
            (0..2).fold(0, |w, e| {
                let place = b16_place(true, lane, e);
                w | u32::from(matrix[place.row][place.column]) << (16 * e)
            })
        });
        s.warp.set(out, ALL, &transposed);
        Ok(())
    }))
}
