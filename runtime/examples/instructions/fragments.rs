//! Which elements of A, B and C made an output of `mma.sync`: for people who look into a difference. Fragments are as
//! PTX ISA's sections on the matrix fragments of mma lay them out.

use crate::numbers::{Format, mask};
use crate::test::{Kind, Test};
use std::fmt::Write;

/// One side of a product: elements in their order along k.
struct Side {
    format: Format,
    bits: Vec<u64>,
}

/// The inputs of element `element` of output register `register` of a thread; `None` if the test is not of `mma.sync`.
pub fn terms(test: &Test, given: &[u8], thread: usize, register: usize, element: usize) -> Option<String> {
    let (m, n, k) = shape(&test.name)?;
    let counts = [m * k, k * n, m * n];
    let (first, lane) = (thread / 32 * 32, thread % 32);
    let (group, quad) = (lane / 4, lane % 4);
    // Register r of D has rows 8 apart: two columns each of which a register of 32 or 64 bits holds one.
    let out = test.outs.get(register)?;
    let index = register * out.count as usize + element;
    let (row, column) = (group + 8 * (index / 2), 2 * quad + index % 2);
    let (a, b, c) = (0, registers(test, 0, counts[0])?, registers(test, 0, counts[0])?);
    let c = c + registers(test, b, counts[1])?;
    let (kind_a, kind_b, kind_c) = (*test.ins.get(a)?, *test.ins.get(b)?, *test.ins.get(c)?);
    let read = |lane: usize, register: usize, element: usize, kind: Kind| {
        let (offsets, size) = Test::record(&test.ins);
        let at = (first + lane) * size + offsets.get(register).copied().unwrap_or(0);
        Test::read(given, at, kind) >> (element as u32 * kind.format.bits) & mask(kind.format.bits)
    };
    // A register of A or B has `count` neighbours along k for each thread of a group of four, and the registers
    // continue along k; those of A do so in pairs of which the second is 8 rows further down.
    let side = |kind: Kind, first: usize, line: usize, rows: usize| {
        let each = kind.count as usize;
        let bits = (0..k).map(|i| {
            let block = i / (4 * each);
            let register = first + if rows == 16 { 2 * block + line / 8 } else { block };
            read(line % 8 * 4 + i / each % 4, register, i % each, kind)
        });
        Side { format: kind.format, bits: bits.collect() }
    };
    let each = kind_c.count as usize;
    let addend = read(lane, c + index / each, index % each, kind_c);
    let mut text = format!("row {row}, column {column}: c {}", show(kind_c.format, addend));
    for (name, side) in [("a", side(kind_a, a, row, m)), ("b", side(kind_b, b, column, 8))] {
        let _ = write!(text, "\n      {name}");
        for bits in &side.bits {
            let _ = write!(text, " {}", show(side.format, *bits));
        }
    }
    Some(text)
}

/// How many operands from one on together hold this many elements for each thread of a warp.
fn registers(test: &Test, from: usize, elements: usize) -> Option<usize> {
    let kind = test.ins.get(from)?;
    Some(elements / 32 / kind.count as usize)
}

/// m, n and k in `mma.sync.aligned.m16n8k32...`.
fn shape(name: &str) -> Option<(usize, usize, usize)> {
    let rest = name.strip_prefix("mma.sync.aligned.m")?.split('.').next()?;
    let (m, rest) = rest.split_once('n')?;
    let (n, k) = rest.split_once('k')?;
    Some((m.parse().ok()?, n.parse().ok()?, k.parse().ok()?))
}

/// `3f800000=1`.
pub fn show(format: Format, bits: u64) -> String {
    let digits = format.bits.div_ceil(4) as usize;
    if format.bits == 64 && format.is_integer() {
        return format!("{bits:0digits$x}");
    }
    format!("{bits:0digits$x}={:e}", format.value(bits))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::numbers::{BF16, F16, F32};
    use crate::test::packed;

    /// A thread's record: four registers of A, two of B, four of C.
    fn test() -> Test {
        let pair = packed(BF16, 2);
        let ins = [vec![pair; 6], vec![packed(F32, 1); 4]].concat();
        let name = "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32";
        Test::new(name, &[packed(F32, 1); 4], &ins, "").matrix(32, 2)
    }

    #[test]
    fn terms_are_those_of_a_row_and_a_column() {
        let test = test();
        // A[r][c] = 16 r + c and B[r][c] = 2^-(8 r + c mod 8)... as patterns that name their place.
        let mut given = vec![0u8; test.input_bytes()];
        let (offsets, size) = Test::record(&test.ins);
        for lane in 0..32 {
            let (g, q) = (lane / 4, lane % 4);
            let at = |register: usize| (32 + lane) * size + offsets[register];
            for register in 0..4 {
                for element in 0..2 {
                    let (row, column) = (g + 8 * (register % 2), 2 * q + element + 8 * (register / 2));
                    given[at(register) + 2 * element] = (16 * row + column) as u8;
                }
            }
            for register in 0..2 {
                for element in 0..2 {
                    let (row, column) = (2 * q + element + 8 * register, g);
                    given[at(4 + register) + 2 * element] = (8 * row + column) as u8;
                }
            }
            given[at(6 + 3)] = lane as u8;
        }
        // Thread 32 + 9 (group 2, quad 1), d3: row 10, column 3.
        let text = terms(&test, &given, 32 + 9, 3, 0).unwrap();
        assert!(text.starts_with("row 10, column 3: c 00000009="), "{text}");
        let numbers = |line: &str| -> Vec<u64> {
            let words = line.split_whitespace().skip(1);
            words.map(|w| u64::from_str_radix(w.split('=').next().unwrap(), 16).unwrap()).collect()
        };
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(numbers(lines[1]), (160..176).collect::<Vec<u64>>());
        assert_eq!(numbers(lines[2]), (0..16).map(|i| 8 * i + 3).collect::<Vec<u64>>());
    }

    #[test]
    fn other_tests_have_no_terms() {
        let plain = Test::new("add.f16", &[packed(F16, 1)], &[packed(F16, 1); 2], "");
        assert_eq!(terms(&plain, &[], 0, 0, 0), None);
    }
}
