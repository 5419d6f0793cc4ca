//! Swizzles of shared memory: which bits of a byte address are xored into which (PTX ISA 5.5.7, "Swizzling modes").
//!
//! A swizzle is a function of the absolute shared-memory address, so a tile that starts in the middle of a pattern
//! continues that pattern. It is neither a tile layout nor a check of alignment.

/// How chunks of shared memory are permuted within a span, so that a column of rows falls into different banks.
///
/// With bits of the byte address counted from 0, a line is 128 bytes (bits 7 and up count lines).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Swizzle {
    /// Addresses stay as they are.
    None,
    /// 16-byte chunks within 32 bytes: bit 4 ^= bit 7.
    B32,
    /// 16-byte chunks within 64 bytes: bits 5..4 ^= bits 8..7.
    B64,
    /// 16-byte chunks within 128 bytes: bits 6..4 ^= bits 9..7.
    B128,
    /// 32-byte chunks within 128 bytes: bits 6..5 ^= bits 8..7.
    B128Atom32,
    /// As [`Swizzle::B128Atom32`], and the 8-byte halves of each 16 bytes change places in odd lines: bit 3 ^= bit 7.
    B128Atom32Flip8,
    /// 64-byte chunks within 128 bytes: bit 6 ^= bit 7.
    B128Atom64,
}

impl Swizzle {
    /// Every swizzle, for tables and tests.
    pub const ALL: [Swizzle; 7] = [
        Swizzle::None,
        Swizzle::B32,
        Swizzle::B64,
        Swizzle::B128,
        Swizzle::B128Atom32,
        Swizzle::B128Atom32Flip8,
        Swizzle::B128Atom64,
    ];

    /// The place of a byte whose address without a swizzle is `address`. Its own inverse, since the bits that select
    /// are not changed.
    pub const fn apply(self, address: u64) -> u64 {
        self.apply_from(address, 0)
    }

    /// As [`Swizzle::apply`], where the pattern starts at a line whose number is `base_offset` modulo 8, as the base
    /// offset of a matrix descriptor says.
    pub const fn apply_from(self, address: u64, base_offset: u8) -> u64 {
        let line = (address >> 7).wrapping_sub(base_offset as u64);
        address
            ^ match self {
                Swizzle::None => 0,
                Swizzle::B32 => (line & 1) << 4,
                Swizzle::B64 => (line & 3) << 4,
                Swizzle::B128 => (line & 7) << 4,
                Swizzle::B128Atom32 => (line & 3) << 5,
                Swizzle::B128Atom32Flip8 => ((line & 3) << 5) | ((line & 1) << 3),
                Swizzle::B128Atom64 => (line & 1) << 6,
            }
    }

    /// Bytes within which chunks move, which bound the inner dimension of a tensor map's box; no bound without a
    /// swizzle.
    pub const fn span_bytes(self) -> Option<u64> {
        match self {
            Swizzle::None => None,
            Swizzle::B32 => Some(32),
            Swizzle::B64 => Some(64),
            Swizzle::B128 | Swizzle::B128Atom32 | Swizzle::B128Atom32Flip8 | Swizzle::B128Atom64 => Some(128),
        }
    }

    /// Bytes after which the pattern repeats; a tile aligned to them starts its own pattern.
    pub const fn repeat_bytes(self) -> u64 {
        match self {
            Swizzle::None => 16,
            Swizzle::B32 | Swizzle::B128Atom64 => 256,
            Swizzle::B64 | Swizzle::B128Atom32 | Swizzle::B128Atom32Flip8 => 512,
            Swizzle::B128 => 1024,
        }
    }

    /// Bytes that stay together: a run this long and so aligned is moved whole.
    pub const fn atom_bytes(self) -> u64 {
        match self {
            Swizzle::None | Swizzle::B32 | Swizzle::B64 | Swizzle::B128 => 16,
            Swizzle::B128Atom32Flip8 => 8,
            Swizzle::B128Atom32 => 32,
            Swizzle::B128Atom64 => 64,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The 16-byte cell of the source that each of the 8 cells of a line holds, as the ISA's tables draw it.
    fn line(swizzle: Swizzle, line: u64) -> [u64; 8] {
        let mut cells = [0; 8];
        for cell in 0..8 {
            let place = swizzle.apply(line * 128 + cell * 16) - line * 128;
            cells[place as usize / 16] = cell;
        }
        cells
    }

    #[test]
    fn lines_are_those_of_the_tables_of_the_isa() {
        assert_eq!(line(Swizzle::B32, 0), [0, 1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(line(Swizzle::B32, 1), [1, 0, 3, 2, 5, 4, 7, 6]);
        assert_eq!(line(Swizzle::B32, 2), [0, 1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(line(Swizzle::B64, 2), [2, 3, 0, 1, 6, 7, 4, 5]);
        assert_eq!(line(Swizzle::B64, 3), [3, 2, 1, 0, 7, 6, 5, 4]);
        assert_eq!(line(Swizzle::B128, 3), [3, 2, 1, 0, 7, 6, 5, 4]);
        assert_eq!(line(Swizzle::B128, 5), [5, 4, 7, 6, 1, 0, 3, 2]);
        assert_eq!(line(Swizzle::B128, 7), [7, 6, 5, 4, 3, 2, 1, 0]);
        assert_eq!(line(Swizzle::B128Atom32, 1), [2, 3, 0, 1, 6, 7, 4, 5]);
        assert_eq!(line(Swizzle::B128Atom32, 2), [4, 5, 6, 7, 0, 1, 2, 3]);
        assert_eq!(line(Swizzle::B128Atom32, 3), [6, 7, 4, 5, 2, 3, 0, 1]);
        assert_eq!(line(Swizzle::B128Atom64, 1), [4, 5, 6, 7, 0, 1, 2, 3]);
        assert_eq!(line(Swizzle::B128Atom64, 2), [0, 1, 2, 3, 4, 5, 6, 7]);
    }

    #[test]
    fn halves_of_sixteen_bytes_change_places_in_odd_lines_only() {
        assert_eq!(Swizzle::B128Atom32Flip8.apply(0), 0);
        assert_eq!(Swizzle::B128Atom32Flip8.apply(128), 128 + 32 + 8);
        assert_eq!(Swizzle::B128Atom32Flip8.apply(256), 256 + 64);
    }

    proptest! {
        #[test]
        fn a_swizzle_is_its_own_inverse_and_stays_in_its_span(address in 0u64..1 << 18, index in 0usize..7, base in 0u8..8) {
            let swizzle = Swizzle::ALL[index];
            let place = swizzle.apply_from(address, base);
            prop_assert_eq!(swizzle.apply_from(place, base), address);
            let span = swizzle.span_bytes().unwrap_or(1);
            prop_assert_eq!(place / span, address / span);
            prop_assert_eq!(place % 8, address % 8);
        }

        #[test]
        fn the_pattern_repeats(address in 0u64..1 << 18, index in 0usize..7) {
            let swizzle = Swizzle::ALL[index];
            let repeat = swizzle.repeat_bytes();
            prop_assert_eq!(swizzle.apply(address + repeat), swizzle.apply(address) + repeat);
        }

        #[test]
        fn atoms_move_whole(address in 0u64..1 << 18, index in 0usize..7) {
            let swizzle = Swizzle::ALL[index];
            let atom = swizzle.atom_bytes();
            let start = address / atom * atom;
            prop_assert_eq!(swizzle.apply(address) - swizzle.apply(start), address - start);
        }
    }
}
