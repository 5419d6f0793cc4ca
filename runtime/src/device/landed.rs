//! Results that were copied at once and wait to be asked for: [`super::Device::fetch`] of a device that executes
//! launches as they come.

use super::Fetch;

/// Copies by number; memory is used again.
#[derive(Debug, Default)]
pub struct Landed {
    slots: Vec<Vec<u8>>,
    free: Vec<u32>,
}

impl Landed {
    /// Room for a copy of `bytes` bytes, to be filled now.
    pub fn land(&mut self, bytes: usize) -> (Fetch, &mut [u8]) {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Vec::new());
            self.free.reserve(self.slots.len());
            self.slots.len() as u32 - 1
        });
        let memory = &mut self.slots[slot as usize];
        memory.resize(bytes, 0);
        (Fetch(slot), memory)
    }

    /// Gives a copy away and frees its place.
    pub fn take(&mut self, fetch: Fetch, take: &mut dyn FnMut(&[u8])) {
        if let Some(bytes) = self.slots.get(fetch.0 as usize) {
            take(bytes);
            self.free.push(fetch.0);
        }
    }
}
