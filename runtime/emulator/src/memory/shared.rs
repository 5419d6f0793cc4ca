//! Shared memory of a block, with who last wrote and read each cell of it.
//!
//! A *cell* is as many bytes as the kernel's narrowest access to shared memory. Of its readers since the last write two
//! are kept, of different warps: enough to find a write that is not ordered after the reads of the others, whoever of
//! them was last.

use super::clocks::{Clocks, Stamp};
use crate::fault::{FaultKind, Outcome, trap_at};

/// Who accesses.
#[derive(Clone, Copy, Debug)]
pub struct Who {
    /// Warp in the cluster.
    pub warp: usize,
    /// Thread in the warp.
    pub lane: usize,
    /// What the access leaves behind.
    pub stamp: Stamp,
}

#[derive(Clone, Copy, Default)]
struct Cell {
    write: Stamp,
    reads: [Stamp; 2],
}

impl Cell {
    #[inline(always)]
    fn read(&mut self, stamp: Stamp) {
        if self.reads[0].agent != stamp.agent {
            self.reads[1] = self.reads[0];
        }
        self.reads[0] = stamp;
    }
}

/// Shared memory of a block.
#[derive(Default)]
pub struct Shared {
    bytes: Vec<u8>,
    cells: Vec<Cell>,
    /// log2 of a cell's bytes.
    granule: u32,
    /// First address.
    start: u64,
    /// The last write that a read was found to be ordered after, and whose read: what is ordered stays so.
    passed: Option<(usize, usize, bool, Stamp)>,
    /// Changes so far.
    version: u64,
}

impl Shared {
    /// Makes it `len` bytes from `start` on, in cells of `1 << granule` bytes. What was there is older than the clocks.
    pub fn start(&mut self, start: u64, len: u64, granule: u32, worn_out: bool) {
        let cells = (len as usize).div_ceil(1 << granule);
        if worn_out || granule != self.granule {
            self.cells.clear();
        }
        self.bytes.resize(len as usize, 0);
        self.cells.resize(cells, Cell::default());
        (self.granule, self.start) = (granule, start);
        self.passed = None;
        self.version += 1;
    }

    /// Checks that an access lies in here and is aligned; gives the index of its first byte.
    #[inline]
    pub fn place(&self, address: u64, len: u64, align: u64, lane: usize, doing: &str) -> Outcome<usize> {
        let index = address.wrapping_sub(self.start);
        let end = index.checked_add(len);
        if end.is_none_or(|end| end > self.bytes.len() as u64) || !address.is_multiple_of(align) {
            return self.misplaced(address, len, align, lane, doing);
        }
        Ok(index as usize)
    }

    #[cold]
    fn misplaced(&self, address: u64, len: u64, align: u64, lane: usize, doing: &str) -> Outcome<usize> {
        let end = address.wrapping_sub(self.start).checked_add(len);
        if end.is_none_or(|end| end > self.bytes.len() as u64) {
            let (size, start) = (self.bytes.len(), self.start);
            let what = format!(
                "{doing} of {len} bytes at {address:#x} of shared memory, which has {size} bytes from {start:#x} on"
            );
            return trap_at(FaultKind::OutOfBounds, lane, what);
        }
        let what = format!("{doing} at {address:#x} of shared memory, which is no multiple of {align}");
        trap_at(FaultKind::Misaligned, lane, what)
    }

    fn cells(&self, index: usize, len: usize) -> std::ops::Range<usize> {
        index >> self.granule..(index + len).div_ceil(1 << self.granule)
    }

    /// Notes a read of bytes at an index, and checks that it may be.
    #[inline]
    pub fn note_read(&mut self, clocks: &Clocks, index: usize, len: usize, who: Who) -> Outcome<()> {
        for i in self.cells(index, len) {
            let cell = &mut self.cells[i];
            let written = cell.write;
            let pair = Some((who.warp, who.lane, who.stamp.asynchronous, written));
            if self.passed != pair {
                if !clocks.current(written) {
                    return self.fault(clocks, FaultKind::UninitialisedMemory, i, who, written);
                }
                let both_atomic = who.stamp.atomic && written.atomic;
                let ordered = clocks.ordered(who.warp, who.lane, written);
                if !both_atomic && !ordered {
                    return self.fault(clocks, FaultKind::Race, i, who, written);
                }
                if who.stamp.asynchronous && !clocks.visible(who.warp, written) {
                    return self.fault(clocks, FaultKind::MissingProxyFence, i, who, written);
                }
                if ordered {
                    self.passed = pair;
                }
            }
            cell.read(who.stamp);
        }
        Ok(())
    }

    /// Notes reads of `len` bytes at each of many indices, as [`Shared::note_read`] does.
    pub fn note_reads(&mut self, clocks: &Clocks, indices: &[usize], len: usize, who: Who) -> Outcome<()> {
        // Who is ordered after an agent's write is ordered after all that it did before.
        let mut passed = Stamp::default();
        for &index in indices {
            for i in self.cells(index, len) {
                let cell = &mut self.cells[i];
                let written = cell.write;
                if written.agent == passed.agent && written.clock <= passed.clock && clocks.current(written) {
                    cell.read(who.stamp);
                    continue;
                }
                self.note_read(clocks, i << self.granule, 1, who)?;
                // Not only because it was the same thread's.
                let nobody = usize::MAX;
                if clocks.ordered(who.warp, nobody, written) && !written.atomic {
                    passed = written;
                }
            }
        }
        Ok(())
    }

    /// The last write of each agent that has written `len` bytes at some of many indices, as if by no thread in particular.
    pub fn writers(&self, indices: &[usize], len: usize) -> Vec<Stamp> {
        let mut out: Vec<Stamp> = Vec::new();
        for cell in indices.iter().flat_map(|&index| self.cells(index, len)) {
            let write = Stamp { lane: u8::MAX, ..self.cells[cell].write };
            match out.iter_mut().find(|w| w.agent == write.agent) {
                Some(w) if w.clock >= write.clock => {}
                Some(w) => *w = write,
                None => out.push(write),
            }
        }
        out
    }

    /// True if threads of the same warp have just written the same bytes there. Of threads that write to one place with
    /// one instruction any may come last (CUDA programming guide, SIMT architecture): equal bytes leave nothing open.
    #[inline]
    pub fn repeats(&self, index: usize, bytes: &[u8], who: Who) -> bool {
        let now = |c: &Cell| c.write == Stamp { lane: c.write.lane, ..who.stamp };
        self.cells[self.cells(index, bytes.len())].iter().all(now) && self.slice(index, bytes.len()) == bytes
    }

    /// Notes a write of bytes at an index, and checks that it may be.
    #[inline]
    pub fn note_write(&mut self, clocks: &Clocks, index: usize, len: usize, who: Who) -> Outcome<()> {
        for i in self.cells(index, len) {
            let cell = &mut self.cells[i];
            for before in [cell.write, cell.reads[0], cell.reads[1]] {
                let both_atomic = who.stamp.atomic && before.atomic;
                if !both_atomic && !clocks.ordered(who.warp, who.lane, before) {
                    return self.fault(clocks, FaultKind::Race, i, who, before);
                }
            }
            if who.stamp.asynchronous && !clocks.visible(who.warp, cell.write) {
                let written = cell.write;
                return self.fault(clocks, FaultKind::MissingProxyFence, i, who, written);
            }
            cell.write = who.stamp;
        }
        Ok(())
    }

    #[cold]
    fn fault(&self, clocks: &Clocks, kind: FaultKind, cell: usize, who: Who, other: Stamp) -> Outcome<()> {
        let address = self.start + ((cell as u64) << self.granule);
        let wrote = other == self.cells[cell].write;
        let (warp, what) = clocks.describe(other);
        let by = match warp {
            None => what.to_owned(),
            Some(warp) if what == "thread" => format!("thread {} of warp {warp}", other.lane),
            Some(warp) => format!("{what} warp {warp}"),
        };
        let did = if wrote { "written" } else { "read" };
        let what = match kind {
            FaultKind::UninitialisedMemory => {
                format!("a read of shared memory at {address:#x}, which nobody has written")
            }
            FaultKind::MissingProxyFence => format!(
                "the asynchronous proxy accesses shared memory at {address:#x}, which was written by {by} without \
                 fence.proxy.async since"
            ),
            _ => format!(
                "an access to shared memory at {address:#x}, which was {did} by {by}, and no barrier is between the two"
            ),
        };
        trap_at(kind, who.lane, what)
    }

    /// Bytes from an index on; within a place that was checked.
    #[inline]
    pub fn get<const N: usize>(&self, index: usize) -> [u8; N] {
        let mut out = [0; N];
        out.copy_from_slice(&self.bytes[index..index + N]);
        out
    }

    /// Stores bytes at an index.
    #[inline]
    pub fn put(&mut self, index: usize, bytes: &[u8]) {
        self.version += 1;
        self.bytes[index..index + bytes.len()].copy_from_slice(bytes);
    }

    /// A range of bytes.
    pub fn slice(&self, index: usize, len: usize) -> &[u8] {
        &self.bytes[index..index + len]
    }

    /// A number that changes whenever a byte does.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Bytes of a cell.
    pub fn cell_bytes(&self) -> u64 {
        1 << self.granule
    }

    /// Bytes that there are.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
}

/// Memory of the threads of a warp, each its own.
#[derive(Default)]
pub struct Local {
    bytes: Vec<u8>,
    known: Vec<bool>,
    each: usize,
}

impl Local {
    /// Makes it `each` bytes a thread, none of them written.
    pub fn start(&mut self, each: u64) {
        self.each = each as usize;
        self.bytes.resize(32 * self.each, 0);
        self.known.clear();
        self.known.resize(32 * self.each, false);
    }

    fn place(&self, lane: usize, address: u64, len: u64, doing: &str) -> Outcome<usize> {
        if address.checked_add(len).is_none_or(|end| end > self.each as u64) {
            let what = format!(
                "{doing} of {len} bytes at {address:#x} of local memory, which has {} bytes",
                self.each
            );
            return trap_at(FaultKind::OutOfBounds, lane, what);
        }
        if !address.is_multiple_of(len) {
            let what = format!("{doing} at {address:#x} of local memory, which is no multiple of {len}");
            return trap_at(FaultKind::Misaligned, lane, what);
        }
        Ok(lane * self.each + address as usize)
    }

    /// Reads a power of two of bytes, least significant first.
    pub fn load(&self, lane: usize, address: u64, len: u64) -> Outcome<&[u8]> {
        let at = self.place(lane, address, len, "a read")?;
        if self.known[at..at + len as usize].contains(&false) {
            let what = format!("a read of local memory at {address:#x}, which this thread has not written");
            return trap_at(FaultKind::UninitialisedMemory, lane, what);
        }
        Ok(&self.bytes[at..at + len as usize])
    }

    /// Stores a power of two of bytes.
    pub fn store(&mut self, lane: usize, address: u64, bytes: &[u8]) -> Outcome<()> {
        let at = self.place(lane, address, bytes.len() as u64, "a write")?;
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
        self.known[at..at + bytes.len()].fill(true);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::clocks::Knowledge;
    use super::*;

    fn who(c: &Clocks, warp: usize, lane: usize) -> Who {
        Who { warp, lane, stamp: c.own(warp, lane) }
    }

    fn fresh() -> (Clocks, Shared) {
        let (mut c, mut s) = (Clocks::default(), Shared::default());
        c.start(3);
        s.start(1024, 256, 2, false);
        (c, s)
    }

    fn kind(o: Outcome<()>) -> Option<FaultKind> {
        o.err().map(|t| t.kind)
    }

    #[test]
    fn reads_want_an_ordered_write() {
        let (mut c, mut s) = fresh();
        assert_eq!(kind(s.note_read(&c, 0, 4, who(&c, 0, 0))), Some(FaultKind::UninitialisedMemory));
        s.note_write(&c, 0, 8, who(&c, 0, 0)).unwrap();
        s.note_read(&c, 4, 4, who(&c, 0, 0)).unwrap();
        assert_eq!(kind(s.note_read(&c, 4, 4, who(&c, 0, 1))), Some(FaultKind::Race));
        c.warp_synchronised(0);
        s.note_read(&c, 4, 4, who(&c, 0, 1)).unwrap();
        assert_eq!(kind(s.note_read(&c, 0, 4, who(&c, 1, 1))), Some(FaultKind::Race));
    }

    #[test]
    fn writes_want_ordered_reads() {
        // Whoever writes, and in whatever order the two read.
        for (first, second, writer) in [(0, 1, 0), (0, 1, 1), (1, 0, 1), (0, 1, 2)] {
            let (mut c, mut s) = fresh();
            let mut barrier = Knowledge::default();
            s.note_write(&c, 0, 4, who(&c, 0, 0)).unwrap();
            for w in 0..3 {
                c.release(w, &mut barrier);
                c.warp_synchronised(w);
            }
            for w in 0..3 {
                c.acquire(w, &barrier);
            }
            for w in [first, second] {
                s.note_read(&c, 0, 4, who(&c, w, 0)).unwrap();
            }
            assert_eq!(kind(s.note_write(&c, 0, 4, who(&c, writer, 0))), Some(FaultKind::Race));
            let mut barrier = Knowledge::default();
            for w in 0..3 {
                c.release(w, &mut barrier);
            }
            c.acquire(writer, &barrier);
            s.note_write(&c, 0, 4, who(&c, writer, 0)).unwrap();
        }
    }

    #[test]
    fn places_are_checked() {
        let (_, s) = fresh();
        assert_eq!(s.place(1028, 4, 4, 0, "a read").unwrap(), 4);
        let kind = |a, n| s.place(a, n, n, 0, "a read").err().map(|t| t.kind);
        assert_eq!(kind(1026, 4), Some(FaultKind::Misaligned));
        assert_eq!(kind(1024 + 253, 4), Some(FaultKind::OutOfBounds));
        assert_eq!(kind(1023, 1), Some(FaultKind::OutOfBounds));
        assert_eq!(kind(u64::MAX, 4), Some(FaultKind::OutOfBounds));
    }

    #[test]
    fn local_memory_is_each_threads_own() {
        let mut l = Local::default();
        l.start(16);
        l.store(3, 8, &[1, 2, 3, 4]).unwrap();
        assert_eq!(l.load(3, 8, 4).unwrap(), [1, 2, 3, 4]);
        assert_eq!(l.load(4, 8, 4).err().map(|t| t.kind), Some(FaultKind::UninitialisedMemory));
        assert_eq!(l.load(3, 16, 4).err().map(|t| t.kind), Some(FaultKind::OutOfBounds));
        assert_eq!(l.load(3, 9, 2).err().map(|t| t.kind), Some(FaultKind::Misaligned));
    }
}
