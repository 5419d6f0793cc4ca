//! Masks of a step on the host's side: which tokens may be chosen, and which masks the device does not have yet.
//!
//! A mask of 128k tokens is 16 kB, and that of an answer is often the same from step to step: only those that changed are
//! copied. What they mean is not known here.

use super::words::bytes;
use crate::device::{Buffer, Device};
use crate::error::Error;
use std::ops::Range;

/// Masks by number.
#[derive(Debug, Default)]
pub struct Masks {
    /// Words of a mask.
    words: usize,
    /// All of them, one after the other: what the device has, but for those of `changed`.
    all: Vec<u32>,
    /// Runs of masks, in order as a rule.
    changed: Vec<Range<usize>>,
}

impl Masks {
    /// None yet, of `words` words each.
    pub fn new(words: usize) -> Masks {
        Masks { words, ..Masks::default() }
    }

    /// Sets a mask; words that it does not have are 0, those behind a mask's last are left out.
    pub fn set(&mut self, index: usize, mask: &[u32]) {
        let (from, to) = (index * self.words, (index + 1) * self.words);
        if self.all.len() < to {
            // What a device has at first is 0 as well.
            self.all.resize(to, 0);
        }
        let (own, rest) = self.all[from..to].split_at_mut(mask.len().min(self.words));
        let mask = &mask[..own.len()];
        if own == mask && rest.iter().all(|&word| word == 0) {
            return;
        }
        own.copy_from_slice(mask);
        rest.fill(0);
        match self.changed.last_mut() {
            Some(run) if run.end == index => run.end += 1,
            _ => self.changed.push(index..index + 1),
        }
    }

    /// Copies those that changed.
    ///
    /// # Errors
    /// The device's; they are copied the next time.
    pub fn upload(&mut self, device: &mut dyn Device, to: Buffer) -> Result<(), Error> {
        for run in &self.changed {
            let words = &self.all[run.start * self.words..run.end * self.words];
            device.upload(to, 4 * (run.start * self.words) as u64, bytes(words))?;
        }
        self.changed.clear();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_that_the_device_has_are_not_copied_again() {
        let mut masks = Masks::new(2);
        let changes = |masks: &mut Masks| masks.changed.drain(..).collect::<Vec<_>>();
        masks.set(0, &[1, 2]);
        masks.set(1, &[3]);
        masks.set(3, &[4, 5, 6]);
        assert_eq!((changes(&mut masks), &masks.all), (vec![0..2, 3..4], &vec![1, 2, 3, 0, 0, 0, 4, 5]));
        masks.set(0, &[1, 2, 9]);
        masks.set(1, &[3, 0]);
        masks.set(2, &[]);
        assert!(changes(&mut masks).is_empty());
        masks.set(1, &[]);
        masks.set(3, &[4]);
        assert_eq!((changes(&mut masks), &masks.all), (vec![1..2, 3..4], &vec![1, 2, 0, 0, 0, 0, 4, 0]));
    }
}
