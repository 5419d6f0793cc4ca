//! The device's buffers, and the one place where bytes become typed slices.
//!
//! A kernel claims every range that it reads or writes through [`Views`], which checks bounds, alignment and
//! overlap; after that it works with ordinary slices.

use super::cache::E4m3;
use super::simd::prefetch_to_write;
use crate::device::{Buffer, Region, SharedBytes};
use crate::error::Error;
use half::bf16;
use std::cell::RefCell;
use std::marker::PhantomData;
use std::ops::Range;
use std::ptr::NonNull;

/// Buffers from this size on are mapped by themselves, so that pages never touched cost nothing.
#[cfg(target_os = "linux")]
const MAPPED: usize = 1 << 20;

/// Alignment of every buffer: a cache line, and the widest vector.
const ALIGN: usize = 64;

/// Zeroed memory.
pub struct Owned {
    ptr: NonNull<u8>,
    len: usize,
}

// SAFETY: an `Owned` is the only owner of its memory.
unsafe impl Send for Owned {}
// SAFETY: a shared `Owned` gives out nothing but its address and length.
unsafe impl Sync for Owned {}

impl Owned {
    /// `len` zeroed bytes, or `None` if there are not so many.
    pub fn zeroed(len: usize) -> Option<Owned> {
        if len == 0 {
            return Some(Owned { ptr: NonNull::dangling(), len });
        }
        #[cfg(target_os = "linux")]
        if len >= MAPPED {
            // SAFETY: a private anonymous mapping at an address of the system's choice touches nothing of ours.
            let ptr = unsafe {
                libc::mmap(
                    std::ptr::null_mut(),
                    len,
                    libc::PROT_READ | libc::PROT_WRITE,
                    libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                    -1,
                    0,
                )
            };
            if ptr == libc::MAP_FAILED {
                return None;
            }
            // Fewer TLB misses; whether the system follows the advice does not matter.
            // SAFETY: the range is the mapping just made.
            unsafe { libc::madvise(ptr, len, libc::MADV_HUGEPAGE) };
            return NonNull::new(ptr.cast()).map(|ptr| Owned { ptr, len });
        }
        let layout = std::alloc::Layout::from_size_align(len, ALIGN).ok()?;
        // SAFETY: the size is not 0.
        NonNull::new(unsafe { std::alloc::alloc_zeroed(layout) }).map(|ptr| Owned { ptr, len })
    }

    /// The bytes.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: the memory is ours alone and initialised.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.as_ptr(), self.len) }
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        if self.len == 0 {
            return;
        }
        #[cfg(target_os = "linux")]
        if self.len >= MAPPED {
            // SAFETY: the mapping was made by `zeroed` with this length, and nobody refers to it any more.
            unsafe { libc::munmap(self.ptr.as_ptr().cast(), self.len) };
            return;
        }
        if let Ok(layout) = std::alloc::Layout::from_size_align(self.len, ALIGN) {
            // SAFETY: allocated by `zeroed` with this layout.
            unsafe { std::alloc::dealloc(self.ptr.as_ptr(), layout) };
        }
    }
}

/// What holds a buffer's bytes.
enum Store {
    Owned(Owned),
    Shared(SharedBytes),
}

impl Store {
    fn base(&self) -> (*mut u8, usize, bool) {
        match self {
            Store::Owned(o) => (o.ptr.as_ptr(), o.len, true),
            Store::Shared(s) => {
                let bytes = (**s).as_ref();
                (bytes.as_ptr().cast_mut(), bytes.len(), false)
            }
        }
    }
}

/// All buffers of a device.
#[derive(Default)]
pub struct Memory {
    slots: Vec<Option<Store>>,
}

impl Memory {
    /// Takes zeroed memory; `what` names its purpose in the error.
    pub fn alloc(&mut self, bytes: u64, what: &str) -> Result<Buffer, Error> {
        let owned = usize::try_from(bytes).ok().and_then(Owned::zeroed).ok_or_else(|| {
            Error::unsupported(format!("cannot take {bytes} bytes of memory for {what}"))
                .help("use a smaller batch, a shorter sequence length or a smaller cache")
        })?;
        self.place(Store::Owned(owned))
    }

    /// Refers to bytes in place.
    pub fn share(&mut self, bytes: SharedBytes) -> Result<Buffer, Error> {
        self.place(Store::Shared(bytes))
    }

    fn place(&mut self, store: Store) -> Result<Buffer, Error> {
        let free = self.slots.iter().position(Option::is_none);
        let index = free.unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        self.slots[index] = Some(store);
        u32::try_from(index).map(Buffer).map_err(|_| Error::bug("more buffers than a handle can number"))
    }

    /// Gives a buffer back; an unknown handle is ignored.
    pub fn free(&mut self, buffer: Buffer) {
        if let Some(slot) = self.slots.get_mut(buffer.0 as usize) {
            *slot = None;
        }
    }

    fn base(&self, buffer: Buffer) -> Result<(*mut u8, usize, bool), Error> {
        let store = self.slots.get(buffer.0 as usize).and_then(Option::as_ref);
        store.map(Store::base).ok_or_else(|| Error::bug(format!("buffer {} does not exist", buffer.0)))
    }

    /// Bytes of a buffer.
    pub fn len(&self, buffer: Buffer) -> Result<u64, Error> {
        self.base(buffer).map(|(_, len, _)| len as u64)
    }

    /// Copies bytes into a buffer.
    pub fn upload(&mut self, to: Buffer, offset: u64, bytes: &[u8]) -> Result<(), Error> {
        let views = Views::new(self);
        let into = views.write::<u8>("upload", Region { buffer: to, offset, len: u64::MAX }, bytes.len())?;
        into.copy_from_slice(bytes);
        Ok(())
    }

    /// Copies bytes out of a buffer.
    pub fn download(&mut self, from: Buffer, offset: u64, into: &mut [u8]) -> Result<(), Error> {
        let views = Views::new(self);
        into.copy_from_slice(views.read(
            "download",
            Region { buffer: from, offset, len: u64::MAX },
            into.len(),
        )?);
        Ok(())
    }

    /// Copies from one region to another of the same length; they must not overlap.
    pub fn copy(&mut self, from: Region, to: Region) -> Result<(), Error> {
        let views = Views::new(self);
        let bytes = usize::try_from(from.len).unwrap_or(usize::MAX);
        let source = views.read::<u8>("copy", from, bytes)?;
        views.write::<u8>("copy", to, bytes)?.copy_from_slice(source);
        Ok(())
    }
}

/// Types whose every bit pattern is a value.
///
/// # Safety
/// The type has no padding and no invalid bit patterns.
pub unsafe trait Pod: Copy + Send + Sync + 'static {}
// SAFETY: plain number.
unsafe impl Pod for u8 {}
// SAFETY: plain number.
unsafe impl Pod for i8 {}
// SAFETY: plain number.
unsafe impl Pod for i32 {}
// SAFETY: plain number.
unsafe impl Pod for u32 {}
// SAFETY: plain number.
unsafe impl Pod for f32 {}
// SAFETY: a transparent u16.
unsafe impl Pod for bf16 {}
// SAFETY: a transparent u8.
unsafe impl Pod for E4m3 {}

/// Typed slices of the buffers for one launch. Ranges that overlap are given out only if all of them are read.
pub struct Views<'a> {
    memory: &'a Memory,
    /// Address ranges given out, and whether they are written.
    taken: RefCell<Vec<(Range<usize>, bool)>>,
    /// No other access to the memory while slices of it live.
    exclusive: PhantomData<&'a mut Memory>,
}

impl<'a> Views<'a> {
    /// Takes the memory for one launch.
    pub fn new(memory: &'a mut Memory) -> Views<'a> {
        Views { memory, taken: RefCell::new(Vec::with_capacity(16)), exclusive: PhantomData }
    }

    /// `count` elements at the start of a region, to read.
    pub fn read<T: Pod>(&self, what: &str, region: Region, count: usize) -> Result<&'a [T], Error> {
        let ptr = self.claim::<T>(what, region, count, false)?;
        // SAFETY: `claim` has checked bounds and alignment, and that no slice to write overlaps; `Views` holds the
        // memory exclusively for 'a.
        Ok(unsafe { std::slice::from_raw_parts(ptr, count) })
    }

    /// `count` elements at the start of a region, to write.
    #[allow(clippy::mut_from_ref, reason = "ranges are disjoint, which `claim` checks")]
    pub fn write<T: Pod>(&self, what: &str, region: Region, count: usize) -> Result<&'a mut [T], Error> {
        let ptr = self.claim::<T>(what, region, count, true)?;
        // SAFETY: as above, and no other slice at all overlaps.
        Ok(unsafe { std::slice::from_raw_parts_mut(ptr, count) })
    }

    /// Bytes of a buffer.
    pub fn len(&self, buffer: Buffer) -> Result<u64, Error> {
        self.memory.len(buffer)
    }

    fn claim<T: Pod>(&self, what: &str, region: Region, count: usize, write: bool) -> Result<*mut T, Error> {
        let (base, len, writable) = self.memory.base(region.buffer)?;
        let bytes = count.saturating_mul(size_of::<T>());
        let offset = usize::try_from(region.offset).unwrap_or(usize::MAX);
        let fits = offset.checked_add(bytes).is_some_and(|end| end <= len) && bytes as u64 <= region.len;
        if !fits {
            return Err(Error::bug(format!(
                "{what} needs {bytes} bytes at offset {offset} of buffer {} ({len} bytes, region of {})",
                region.buffer.0, region.len
            )));
        }
        if write && !writable {
            return Err(Error::bug(format!("{what} would write to shared read-only bytes")));
        }
        if bytes == 0 {
            return Ok(NonNull::dangling().as_ptr());
        }
        let ptr = base.wrapping_add(offset);
        let start = ptr as usize;
        if !start.is_multiple_of(align_of::<T>()) {
            return Err(Error::bug(format!(
                "{what} lies at offset {offset} of buffer {}, which is not aligned to {} bytes",
                region.buffer.0,
                align_of::<T>()
            )));
        }
        let range = start..start + bytes;
        let mut taken = self.taken.borrow_mut();
        if taken.iter().any(|(r, w)| (write || *w) && r.start < range.end && range.start < r.end) {
            return Err(Error::bug(format!("{what} overlaps another argument that is written or read")));
        }
        taken.push((range, write));
        Ok(ptr.cast())
    }
}

/// A slice that several threads write at once, each in places of its own.
pub struct Shards<'a, T> {
    ptr: *mut T,
    len: usize,
    slice: PhantomData<&'a mut [T]>,
}

// SAFETY: the only access is through `part`, whose caller keeps threads apart.
unsafe impl<T: Send> Sync for Shards<'_, T> {}

impl<'a, T> Shards<'a, T> {
    /// Takes a slice apart.
    pub fn new(slice: &'a mut [T]) -> Shards<'a, T> {
        Shards { ptr: slice.as_mut_ptr(), len: slice.len(), slice: PhantomData }
    }

    /// Asks for a part that will be written soon; panics if it lies outside.
    pub fn prefetch(&self, range: Range<usize>) {
        assert!(range.start <= range.end && range.end <= self.len);
        prefetch_to_write(self.ptr.wrapping_add(range.start), range.len());
    }

    /// A part of the slice; panics if it lies outside.
    ///
    /// # Safety
    /// Parts that live at the same time must not overlap.
    #[allow(clippy::mut_from_ref, reason = "the caller keeps parts apart")]
    pub unsafe fn part(&self, range: Range<usize>) -> &'a mut [T] {
        assert!(
            range.start <= range.end && range.end <= self.len,
            "part {range:?} of a slice of {}",
            self.len
        );
        // SAFETY: within the slice, and the caller keeps parts apart.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.add(range.start), range.len()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    fn region(buffer: Buffer, offset: u64, len: u64) -> Region {
        Region { buffer, offset, len }
    }

    #[test]
    fn bounds_alignment_and_overlap_are_checked() {
        let mut memory = Memory::default();
        let b = memory.alloc(64, "test").unwrap();
        let shared = memory.share(Arc::new(vec![7u8; 16])).unwrap();
        let views = Views::new(&mut memory);
        assert!(views.read::<f32>("x", region(b, 0, 64), 16).is_ok());
        assert!(views.read::<f32>("x", region(b, 4, 64), 16).unwrap_err().message.contains("needs 64 bytes"));
        assert!(views.read::<f32>("x", region(b, 0, 32), 16).is_err());
        assert!(views.read::<f32>("x", region(b, 2, 64), 1).unwrap_err().message.contains("aligned"));
        assert!(views.read::<f32>("x", region(Buffer(9), 0, 64), 1).is_err());
        assert!(views.read::<f32>("x", region(b, u64::MAX, 64), 1).is_err());
        assert!(views.read::<f32>("x", region(b, 0, u64::MAX), usize::MAX).is_err());
        assert!(views.write::<f32>("y", region(b, 32, 32), 8).unwrap_err().message.contains("overlaps"));
        assert!(views.write::<u8>("y", region(shared, 0, 1), 1).unwrap_err().message.contains("read-only"));
        drop(views);
        let views = Views::new(&mut memory);
        let w = views.write::<f32>("y", region(b, 0, 32), 8).unwrap();
        assert!(views.read::<f32>("x", region(b, 28, 32), 1).is_err());
        let r = views.read::<f32>("x", region(b, 32, 32), 8).unwrap();
        w.copy_from_slice(r);
    }

    #[test]
    fn copies_go_both_ways() {
        for bytes in [16u64, 3 << 20] {
            let mut memory = Memory::default();
            let b = memory.alloc(bytes, "test").unwrap();
            memory.upload(b, 3, &[1, 2, 3]).unwrap();
            let mut back = [9; 5];
            memory.download(b, 2, &mut back).unwrap();
            assert_eq!(back, [0, 1, 2, 3, 0]);
            assert!(memory.upload(b, bytes - 2, &[1, 2, 3]).is_err());
            assert!(memory.download(b, bytes, &mut back).is_err());
            memory.copy(region(b, 2, 4), region(b, 8, 4)).unwrap();
            memory.download(b, 7, &mut back).unwrap();
            assert_eq!(back, [0, 0, 1, 2, 3]);
            assert!(memory.copy(region(b, 0, 4), region(b, 3, 4)).unwrap_err().message.contains("overlaps"));
            assert!(memory.copy(region(b, 0, 4), region(b, bytes - 3, 4)).is_err());
            memory.free(b);
            assert!(memory.upload(b, 0, &[1]).is_err());
            assert_eq!(memory.alloc(8, "again").unwrap(), b);
        }
        assert!(Memory::default().alloc(u64::MAX / 2, "test").is_err());
    }
}
