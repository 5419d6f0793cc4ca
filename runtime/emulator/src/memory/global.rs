//! Memory of the device: allocations with gaps between them, so that an index off by a little hits nothing.
//!
//! Blocks run on several threads at once and may race as on a GPU; every word is an atomic, so that a race gives one
//! of the values and nothing worse.

mod image;

pub use image::Image;

use super::address::GLOBAL_START;
use crate::fault::{FaultKind, Outcome, trap};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Mutex, OnceLock};

/// Bytes that an allocation's address is a multiple of, as the driver's.
const ALIGN: u64 = 512;
/// Least bytes between allocations.
const GAP: u64 = 4096;

/// One allocation.
pub struct Allocation {
    base: u64,
    bytes: u64,
    /// What it is for.
    what: String,
    words: Box<[AtomicU32]>,
    /// A bit a byte, set if it was written; made when bytes are first forgotten.
    known: OnceLock<Box<[AtomicU32]>>,
    read_only: bool,
}

impl Allocation {
    /// Its name and the distance of an address from its start, for words.
    fn describe(&self, address: u64) -> String {
        let at = address.wrapping_sub(self.base) as i64;
        format!("byte {at} of {} ({} bytes)", self.what, self.bytes)
    }

    /// The word that holds a byte.
    fn word(&self, address: u64) -> &AtomicU32 {
        &self.words[((address - self.base) / 4) as usize]
    }

    fn bits(&self) -> &[AtomicU32] {
        let all = || (0..self.bytes.div_ceil(32)).map(|_| AtomicU32::new(!0)).collect();
        self.known.get_or_init(all)
    }

    fn mark(&self, address: u64, len: u64, known: bool) {
        let bits = self.bits();
        let (mut at, end) = (address - self.base, address - self.base + len);
        while at < end {
            let (first, count) = ((at % 32) as u32, (end - at).min(32 - at % 32) as u32);
            let mask = (((1u64 << count) - 1) as u32) << first;
            let word = &bits[(at / 32) as usize];
            if known {
                word.fetch_or(mask, Relaxed)
            } else {
                word.fetch_and(!mask, Relaxed)
            };
            at += u64::from(count);
        }
    }

    /// The first byte of a range that was not written, if there is one.
    fn first_unknown(&self, address: u64, len: u64) -> Option<u64> {
        let bits = self.known.get()?;
        (address..address + len)
            .find(|a| bits[((a - self.base) / 32) as usize].load(Relaxed) >> ((a - self.base) % 32) & 1 == 0)
    }

    /// Whether a range lies in here.
    pub fn holds(&self, address: u64, len: u64) -> bool {
        address >= self.base && address.checked_add(len).is_some_and(|end| end <= self.base + self.bytes)
    }

    /// Checks that a range that lies in here was written.
    pub fn check_known(&self, address: u64, len: u64) -> Outcome<()> {
        match self.first_unknown(address, len) {
            None => Ok(()),
            Some(at) => trap(
                FaultKind::UninitialisedMemory,
                format!("a read of memory that nobody has written: {}", self.describe(at)),
            ),
        }
    }

    /// Checks that a range in here may be written, and notes that it is.
    pub fn check_writable(&self, address: u64, len: u64) -> Outcome<()> {
        if self.read_only {
            let what = format!("a write to memory that is only to be read: {}", self.describe(address));
            return trap(FaultKind::ReadOnly, what);
        }
        if self.known.get().is_some() {
            self.mark(address, len, true);
        }
        Ok(())
    }

    /// A word; its address is a multiple of 4.
    #[inline]
    pub fn load(&self, address: u64) -> u32 {
        self.word(address).load(Relaxed)
    }

    /// Stores a word; its address is a multiple of 4.
    #[inline]
    pub fn store(&self, address: u64, value: u32) {
        self.word(address).store(value, Relaxed);
    }

    /// `bytes` (1, 2 or 4) bytes that do not cross a word.
    #[inline]
    pub fn load_part(&self, address: u64, bytes: u64) -> u32 {
        let word = self.word(address & !3).load(Relaxed) >> (8 * (address & 3));
        if bytes == 4 { word } else { word & ((1 << (8 * bytes)) - 1) }
    }

    /// Stores `bytes` (1, 2 or 4) bytes that do not cross a word.
    #[inline]
    pub fn store_part(&self, address: u64, bytes: u64, value: u32) {
        if bytes == 4 {
            return self.store(address, value);
        }
        let shift = 8 * (address & 3);
        let mask = ((1u32 << (8 * bytes)) - 1) << shift;
        let word = self.word(address & !3);
        let merge = |old| Some((old & !mask) | ((value << shift) & mask));
        // The closure always gives a value.
        let _ = word.fetch_update(Relaxed, Relaxed, merge);
    }

    /// Replaces a word by what `change` makes of it, and returns what it was.
    pub fn update(&self, address: u64, change: impl Fn(u32) -> u32) -> u32 {
        let changed = self.word(address).fetch_update(Relaxed, Relaxed, |old| Some(change(old)));
        changed.unwrap_or_else(|old| old)
    }
}

/// All memory of a device.
#[derive(Default)]
pub struct Global {
    /// By address.
    allocations: Vec<Allocation>,
    /// Held during an atomic operation on two words.
    pairs: Mutex<()>,
}

impl Global {
    /// Takes zeroed memory; `what` names it in faults.
    pub fn alloc(&mut self, bytes: u64, what: &str) -> u64 {
        self.take(bytes, what, false)
    }

    /// Takes memory that kernels may only read.
    pub fn alloc_read_only(&mut self, contents: &[u8], what: &str) -> u64 {
        let address = self.take(contents.len() as u64, what, true);
        if let Some(a) = self.find(address, contents.len() as u64) {
            fill(a, address, contents);
        }
        address
    }

    fn take(&mut self, bytes: u64, what: &str, read_only: bool) -> u64 {
        // The first gap that is wide enough: addresses of freed memory are used again.
        let need = bytes + GAP;
        let mut base = GLOBAL_START;
        let mut index = self.allocations.len();
        for (i, a) in self.allocations.iter().enumerate() {
            if a.base.saturating_sub(base) >= need {
                index = i;
                break;
            }
            base = (a.base + a.bytes + GAP).next_multiple_of(ALIGN);
        }
        let words = (0..bytes.div_ceil(4)).map(|_| AtomicU32::new(0)).collect();
        let allocation =
            Allocation { base, bytes, what: what.to_owned(), words, known: OnceLock::new(), read_only };
        self.allocations.insert(index, allocation);
        base
    }

    /// Gives the allocation at an address back.
    pub fn free(&mut self, address: u64) {
        self.allocations.retain(|a| a.base != address);
    }

    /// The allocation that holds a range.
    #[inline]
    pub fn find(&self, address: u64, len: u64) -> Option<&Allocation> {
        let index = self.allocations.partition_point(|a| a.base <= address);
        let a = self.allocations.get(index.checked_sub(1)?)?;
        a.holds(address, len).then_some(a)
    }

    /// The same, or the fault that an access to nothing is.
    pub fn expect(&self, address: u64, len: u64, doing: &str) -> Outcome<&Allocation> {
        if let Some(a) = self.find(address, len) {
            return Ok(a);
        }
        let index = self.allocations.partition_point(|a| a.base <= address);
        let below = index.checked_sub(1).and_then(|i| self.allocations.get(i));
        let near = [below, self.allocations.get(index)].into_iter().flatten();
        let near = near.min_by_key(|a| (a.base.abs_diff(address)).min((a.base + a.bytes).abs_diff(address)));
        let near = near.map_or_else(String::new, |a| format!("; nearest is {}", a.describe(address)));
        trap(
            FaultKind::OutOfBounds,
            format!("{doing} of {len} bytes at {address:#x}, where nothing is allocated{near}"),
        )
    }

    /// The same for accesses one after the other, most of which lie in the allocation that was `found` last.
    #[inline]
    pub fn expect_next<'a>(
        &'a self,
        found: &mut Option<&'a Allocation>,
        address: u64,
        len: u64,
        doing: &str,
    ) -> Outcome<&'a Allocation> {
        match *found {
            Some(a) if a.holds(address, len) => Ok(a),
            _ => Ok(found.insert(self.expect(address, len, doing)?)),
        }
    }

    /// Says that what lies here is not to be read before it is written again.
    pub fn forget(&self, address: u64, len: u64) -> bool {
        let found = self.find(address, len);
        if let Some(a) = found {
            a.mark(address, len, false);
        }
        found.is_some()
    }

    /// Copies bytes in; false if they do not lie in one allocation.
    pub fn write(&self, address: u64, bytes: &[u8]) -> bool {
        let Some(a) = self.find(address, bytes.len() as u64) else {
            return false;
        };
        fill(a, address, bytes);
        if a.known.get().is_some() {
            a.mark(address, bytes.len() as u64, true);
        }
        true
    }

    /// Copies bytes out; false if they do not lie in one allocation.
    pub fn read(&self, address: u64, into: &mut [u8]) -> bool {
        let Some(a) = self.find(address, into.len() as u64) else {
            return false;
        };
        copy_out(a, address, into);
        true
    }

    /// Replaces `bytes` (2, 4 or 8) bytes that lie in `a` by what `f` makes of them; gives what was there.
    pub fn change(&self, a: &Allocation, address: u64, bytes: u64, f: impl Fn(u64) -> u64) -> u64 {
        match bytes {
            8 => {
                // Words are of 32 bits; operations on two of them are one after the other.
                let _held = self.pairs.lock();
                let old = u64::from(a.load(address)) | u64::from(a.load(address + 4)) << 32;
                let new = f(old);
                a.store(address, new as u32);
                a.store(address + 4, (new >> 32) as u32);
                old
            }
            4 => a.update(address, |old| f(old.into()) as u32).into(),
            _ => {
                let (shift, mask) = (8 * (address & 2), 0xffffu32);
                let part = |w: u32| w >> shift & mask;
                let put = |w: u32| w & !(mask << shift) | (f(part(w).into()) as u32 & mask) << shift;
                part(a.update(address & !3, put)).into()
            }
        }
    }

    /// Bytes of all allocations.
    pub fn used(&self) -> u64 {
        self.allocations.iter().map(|a| a.bytes).sum()
    }
}

/// Copies a range that lies in `a` out of it.
pub fn copy_out(a: &Allocation, address: u64, into: &mut [u8]) {
    if address.is_multiple_of(4) && into.len().is_multiple_of(4) {
        for (i, chunk) in into.chunks_exact_mut(4).enumerate() {
            chunk.copy_from_slice(&a.load(address + 4 * i as u64).to_le_bytes());
        }
        return;
    }
    for (i, byte) in into.iter_mut().enumerate() {
        *byte = a.load_part(address + i as u64, 1) as u8;
    }
}

/// Copies bytes to a range that lies in `a`.
pub fn fill(a: &Allocation, address: u64, bytes: &[u8]) {
    if address.is_multiple_of(4) {
        let whole = bytes.chunks_exact(4);
        let rest = whole.remainder();
        for (i, chunk) in whole.enumerate() {
            let word = chunk.iter().rev().fold(0, |w, &b| w << 8 | u32::from(b));
            a.store(address + 4 * i as u64, word);
        }
        let start = address + (bytes.len() - rest.len()) as u64;
        for (i, &b) in rest.iter().enumerate() {
            a.store_part(start + i as u64, 1, u32::from(b));
        }
        return;
    }
    for (i, &b) in bytes.iter().enumerate() {
        a.store_part(address + i as u64, 1, u32::from(b));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_back() {
        let mut g = Global::default();
        let (a, b) = (g.alloc(10, "a"), g.alloc(100, "b"));
        assert!(g.write(a + 1, &[1, 2, 3, 4, 5, 6, 7, 8, 9]));
        assert!(!g.write(a + 2, &[0; 9]));
        let mut out = [0; 10];
        assert!(g.read(a, &mut out));
        assert_eq!(out, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
        assert!(b >= a + 10 + GAP);
        assert_eq!(g.used(), 110);
        g.free(a);
        assert!(!g.read(a, &mut out));
        assert_eq!(g.alloc(10, "c"), a);
    }

    #[test]
    fn parts_of_words() {
        let mut g = Global::default();
        let at = g.alloc(8, "a");
        let a = g.find(at, 8).unwrap();
        a.store(at, 0x0403_0201);
        a.store_part(at + 2, 2, 0xbeef);
        assert_eq!((a.load(at), a.load_part(at + 1, 1), a.load_part(at + 2, 2)), (0xbeef_0201, 2, 0xbeef));
    }

    #[test]
    fn what_is_forgotten_must_be_written_again() {
        let mut g = Global::default();
        let at = g.alloc(64, "a");
        let a = |g: &Global, at, len| g.find(at, len).unwrap().check_known(at, len).is_ok();
        assert!(a(&g, at, 64));
        assert!(g.forget(at + 3, 40));
        assert!(a(&g, at, 3) && a(&g, at + 43, 21) && !a(&g, at, 4) && !a(&g, at + 42, 1));
        assert!(g.write(at + 3, &[0; 39]));
        assert!(a(&g, at, 42) && !a(&g, at, 43));
        assert!(g.find(at + 42, 1).unwrap().check_writable(at + 42, 1).is_ok());
        assert!(a(&g, at, 64));
    }

    #[test]
    fn an_access_to_nothing_names_its_neighbour() {
        let mut g = Global::default();
        let at = g.alloc_read_only(&[1, 2, 3, 4], "weights");
        let what = g.expect(at + 4, 4, "a read").err().unwrap().what;
        assert!(what.contains("nearest is byte 4 of weights (4 bytes)"), "{what}");
        assert_eq!(g.find(at, 4).unwrap().check_writable(at, 4).err().unwrap().kind, FaultKind::ReadOnly);
    }
}
