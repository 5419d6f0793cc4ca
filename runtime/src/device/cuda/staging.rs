//! Page-locked memory between the host and the GPU: copies from and to it are queued and nobody waits for them.
//!
//! Small uploads go through a ring of slots; results of steps land in slots of their own until they are asked for.
//! Large copies do not come here.

use super::driver::{Address, Failure, Mark, Pinned, Stream};

/// Bytes of a slot.
const PIECE: usize = 64 << 10;
/// Slots of the ring, 8 MiB: more than two steps take. Of a step's uploads, masks are the largest by far: 4 MiB for 256 answers
/// of 128k tokens. Before they are known, those of the step before have been copied.
const SLOTS: usize = 128;
/// Most bytes of an upload that is staged: a part of the ring, which steps under way leave free.
pub const STAGED: usize = PIECE * SLOTS / 2;

/// A slot: memory, and the point at which the copy from or to it is done.
struct Slot {
    memory: Pinned,
    done: Mark,
}

/// The ring of uploads.
#[derive(Default)]
pub struct Uploads {
    slots: Vec<Slot>,
    next: usize,
}

impl Uploads {
    /// Queues a copy of at most [`STAGED`] bytes.
    ///
    /// # Safety
    /// As for [`Stream::write`].
    pub unsafe fn write(&mut self, stream: &Stream, at: Address, bytes: &[u8]) -> Result<(), Failure> {
        let places = (at..).step_by(PIECE);
        // SAFETY: the caller's word, for each part of the range.
        places.zip(bytes.chunks(PIECE)).try_for_each(|(at, piece)| unsafe { self.piece(stream, at, piece) })
    }

    /// Queues a copy of at most [`PIECE`] bytes.
    ///
    /// # Safety
    /// As for [`Stream::write`].
    unsafe fn piece(&mut self, stream: &Stream, at: Address, bytes: &[u8]) -> Result<(), Failure> {
        if self.slots.len() <= self.next {
            self.slots.push(Slot { memory: Pinned::take(PIECE)?, done: stream.mark()? });
        }
        let slot = &mut self.slots[self.next];
        // The copy before last round's: done long ago, as a rule.
        slot.done.wait()?;
        let memory = &mut slot.memory.bytes_mut()[..bytes.len()];
        memory.copy_from_slice(bytes);
        // SAFETY: the caller's word; the slot is not written again before its mark is passed.
        unsafe { stream.write(at, memory) }?;
        stream.mark_again(&slot.done)?;
        self.next = (self.next + 1) % SLOTS;
        Ok(())
    }
}

/// Results under way.
#[derive(Default)]
pub struct Landings {
    slots: Vec<Slot>,
    /// Bytes of each slot that are wanted; `None`: the slot is free.
    wanted: Vec<Option<usize>>,
}

impl Landings {
    /// Queues a copy of `bytes` bytes from the device; gives the slot.
    ///
    /// # Safety
    /// The range is memory that is held until the copy is done.
    pub unsafe fn start(&mut self, stream: &Stream, at: Address, bytes: usize) -> Result<usize, Failure> {
        let fits = |i: &usize| self.wanted[*i].is_none() && self.slots[*i].memory.len() >= bytes;
        let i = match (0..self.slots.len()).find(fits) {
            Some(i) => i,
            None => {
                let memory = Pinned::take(bytes.next_power_of_two().max(1 << 12))?;
                self.slots.push(Slot { memory, done: stream.mark()? });
                self.wanted.push(None);
                self.slots.len() - 1
            }
        };
        let slot = &mut self.slots[i];
        // SAFETY: the caller's word; nobody reads the slot before its mark is passed.
        unsafe { stream.read_later(at, &mut slot.memory.bytes_mut()[..bytes]) }?;
        stream.mark_again(&slot.done)?;
        self.wanted[i] = Some(bytes);
        Ok(i)
    }

    /// Waits for a slot's copy, gives its bytes away and frees it. False if there is no such copy.
    pub fn finish(&mut self, slot: usize, take: &mut dyn FnMut(&[u8])) -> Result<bool, Failure> {
        let Some(bytes) = self.wanted.get_mut(slot).and_then(Option::take) else {
            return Ok(false);
        };
        self.slots[slot].done.wait()?;
        take(&self.slots[slot].memory.bytes_mut()[..bytes]);
        Ok(true)
    }
}
