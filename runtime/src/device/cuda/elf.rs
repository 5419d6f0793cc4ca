//! Whether a GPU binary is a whole ELF file: the driver is told where it begins, and not where it ends.

/// Length of the file's header, bytes.
const HEADER: usize = 64;
/// A section that takes no bytes of the file.
const NOBITS: u32 = 8;

/// True for a 64-bit little-endian ELF file whose tables, and all segments and sections that they name, lie within
/// `bytes`.
pub fn is_whole(bytes: &[u8]) -> bool {
    whole(bytes).is_some()
}

/// `None` where something is missing.
fn whole(bytes: &[u8]) -> Option<()> {
    // Magic number, 64 bits, little-endian, version 1.
    bytes.starts_with(b"\x7fELF\x02\x01\x01").then_some(())?;
    bytes.get(..HEADER)?;
    // Of the segments' and of the sections' table: where it is, the size of an entry, their number.
    let segments = table(bytes, long(bytes, 32)?, short(bytes, 54)?, short(bytes, 56)?, 56)?;
    for at in segments {
        within(bytes, long(bytes, at + 8)?, long(bytes, at + 32)?)?;
    }
    let sections = table(bytes, long(bytes, 40)?, short(bytes, 58)?, short(bytes, 60)?, 64)?;
    for at in sections {
        if word(bytes, at + 4)? != NOBITS {
            within(bytes, long(bytes, at + 24)?, long(bytes, at + 32)?)?;
        }
    }
    Some(())
}

/// Where the entries of a table begin; an entry has `size` bytes, or the table is empty.
fn table(bytes: &[u8], at: u64, entry: u16, count: u16, size: u16) -> Option<Vec<usize>> {
    if count == 0 {
        return Some(Vec::new());
    }
    (entry == size).then_some(())?;
    within(bytes, at, u64::from(entry) * u64::from(count))?;
    let at = usize::try_from(at).ok()?;
    Some((0..usize::from(count)).map(|i| at + i * usize::from(entry)).collect())
}

fn within(bytes: &[u8], at: u64, len: u64) -> Option<()> {
    (at.checked_add(len)? <= bytes.len() as u64).then_some(())
}

fn short(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn long(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file with one segment, a section of 8 bytes and one that takes none.
    fn file() -> Vec<u8> {
        let mut f = vec![0u8; HEADER + 56 + 8 + 2 * 64];
        let mut put = |at: usize, bytes: &[u8]| f[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, b"\x7fELF\x02\x01\x01");
        put(32, &64u64.to_le_bytes());
        put(40, &128u64.to_le_bytes());
        for (at, n) in [(54, 56u16), (56, 1), (58, 64), (60, 2)] {
            put(at, &n.to_le_bytes());
        }
        for (at, n) in [(64 + 8, 120u64), (64 + 32, 8), (128 + 24, 120), (128 + 32, 8), (192 + 24, 120)] {
            put(at, &n.to_le_bytes());
        }
        put(128 + 4, &1u32.to_le_bytes());
        put(192 + 4, &NOBITS.to_le_bytes());
        put(192 + 32, &(1u64 << 40).to_le_bytes());
        f
    }

    #[test]
    fn whole_files_are_told_from_parts() {
        let whole = file();
        assert!(is_whole(&whole));
        (0..whole.len()).for_each(|keep| assert!(!is_whole(&whole[..keep]), "{keep} bytes"));
        // Magic, class, byte order; sizes and numbers of entries; an offset and lengths out of the file.
        let changes =
            [(0, b'x'), (4, 1), (5, 2), (54, 55), (56, 200), (60, 200), (39, 255), (97, 255), (161, 255)];
        for (at, value) in changes {
            let mut changed = whole.clone();
            changed[at] = value;
            assert!(!is_whole(&changed), "byte {at}");
        }
        assert!(!is_whole(b".version 8.0\n"));
    }
}
