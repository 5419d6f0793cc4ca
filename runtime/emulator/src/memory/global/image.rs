//! An allocation as plain data: taken before a launch, put back at the same address to execute the launch again.

use super::{Allocation, GAP, Global, copy_out, fill};
use crate::memory::address::{GLOBAL_START, SHARED_WINDOW};
use std::ops::Range;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// An allocation with its contents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// First address.
    pub base: u64,
    /// Bytes.
    pub bytes: u64,
    /// What it is for.
    pub what: String,
    /// True if kernels may only read it.
    pub read_only: bool,
    /// Ranges that were written, from the start of the allocation, ascending.
    pub known: Vec<Range<u64>>,
    /// Their bytes, one range after the other.
    pub contents: Vec<u8>,
}

impl Image {
    /// What is wrong with it, if anything.
    fn fault(&self) -> Option<&'static str> {
        let end = self.base.checked_add(self.bytes).and_then(|e| e.checked_add(GAP));
        if self.base < GLOBAL_START || end.is_none_or(|e| e > SHARED_WINDOW) {
            return Some("it does not lie in global memory");
        }
        if !self.base.is_multiple_of(4) {
            return Some("its address is not a multiple of 4");
        }
        let mut last = 0;
        for r in &self.known {
            if r.start < last || r.end <= r.start || r.end > self.bytes {
                return Some("its ranges are not ascending or not within it");
            }
            last = r.end;
        }
        let all: u64 = self.known.iter().map(|r| r.end - r.start).sum();
        (all != self.contents.len() as u64).then_some("its ranges do not have its contents' length")
    }
}

impl Allocation {
    /// Ranges that were written, from its start.
    fn known_ranges(&self) -> Vec<Range<u64>> {
        let Some(bits) = self.known.get() else {
            return (self.bytes > 0).then_some(0..self.bytes).into_iter().collect();
        };
        let mut out: Vec<Range<u64>> = Vec::new();
        let mut add = |r: Range<u64>| match out.last_mut() {
            Some(last) if last.end == r.start => last.end = r.end,
            _ => out.push(r),
        };
        for (i, word) in bits.iter().enumerate() {
            let (word, start) = (word.load(Relaxed), 32 * i as u64);
            match word {
                0 => {}
                u32::MAX => add(start..(start + 32).min(self.bytes)),
                _ => {
                    let set = (0..32).filter(|b| word >> b & 1 == 1).map(|b| start + b);
                    set.filter(|at| *at < self.bytes).for_each(|at| add(at..at + 1));
                }
            }
        }
        out
    }
}

impl Global {
    /// The allocation that holds an address, or ends at it, with its contents.
    pub fn image(&self, address: u64) -> Option<Image> {
        let a = self.find(address, 0)?;
        let known = a.known_ranges();
        let mut contents = vec![0; known.iter().map(|r| r.end - r.start).sum::<u64>() as usize];
        let mut at = 0;
        for r in &known {
            let len = (r.end - r.start) as usize;
            copy_out(a, a.base + r.start, &mut contents[at..at + len]);
            at += len;
        }
        let (what, read_only) = (a.what.clone(), a.read_only);
        Some(Image { base: a.base, bytes: a.bytes, what, read_only, known, contents })
    }

    /// Takes the memory of an image at its own address; what was not written in it is not to be read.
    ///
    /// # Errors
    /// The image is not consistent, or other memory lies there.
    pub fn restore(&mut self, image: &Image) -> Result<(), String> {
        let refuse = |why: &str| Err(format!("{} ({} bytes): {why}", image.what, image.bytes));
        if let Some(why) = image.fault() {
            return refuse(why);
        }
        let (base, end) = (image.base, image.base + image.bytes);
        let index = self.allocations.partition_point(|a| a.base <= base);
        let below = index.checked_sub(1).map(|i| &self.allocations[i]);
        // An empty allocation also has its address for itself.
        let free = below.is_none_or(|a| a.base < base && a.base + a.bytes <= base)
            && self.allocations.get(index).is_none_or(|a| a.base >= end);
        if !free {
            return refuse("other memory lies there");
        }
        let a = Allocation {
            base,
            bytes: image.bytes,
            what: image.what.clone(),
            words: (0..image.bytes.div_ceil(4)).map(|_| AtomicU32::new(0)).collect(),
            known: OnceLock::new(),
            read_only: image.read_only,
        };
        if image.contents.len() as u64 != image.bytes {
            a.mark(base, image.bytes, false);
        }
        let mut contents = &image.contents[..];
        for r in &image.known {
            let (now, rest) = contents.split_at((r.end - r.start) as usize);
            fill(&a, base + r.start, now);
            if a.known.get().is_some() {
                a.mark(base + r.start, r.end - r.start, true);
            }
            contents = rest;
        }
        self.allocations.insert(index, a);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_comes_back_with_what_was_not_written() {
        let mut g = Global::default();
        let (a, b) = (g.alloc(70, "a"), g.alloc_read_only(&[1, 2, 3], "b"));
        assert!(g.write(a, &[7; 70]) && g.forget(a + 10, 40) && g.write(a + 20, &[9]));
        let images = [a + 5, b].map(|at| g.image(at).unwrap());
        assert_eq!(images[0].known, [0..10, 20..21, 50..70]);
        assert_eq!((images[0].contents.len(), images[0].contents[10]), (31, 9));
        assert_eq!((images[1].contents.as_slice(), images[1].read_only), (&[1, 2, 3][..], true));
        let mut other = Global::default();
        for image in &images {
            other.restore(image).unwrap();
            assert_eq!(other.image(image.base).as_ref(), Some(image));
        }
        let known = |at, len| other.find(at, len).unwrap().check_known(at, len).is_ok();
        assert!(
            known(a, 10) && !known(a + 10, 1) && known(a + 20, 1) && !known(a + 49, 2) && known(a + 50, 20)
        );
        assert!(other.find(b, 3).unwrap().check_writable(b, 1).is_err());
        assert!(other.restore(&images[0]).is_err_and(|e| e.contains("other memory")));
        assert!(other.find(a + 71, 1).is_none());
    }

    #[test]
    fn images_that_make_no_sense_are_refused() {
        let good = Image {
            base: GLOBAL_START,
            bytes: 8,
            what: "x".into(),
            read_only: false,
            known: vec![0..2, 4..8],
            contents: vec![0; 6],
        };
        assert!(Global::default().restore(&good).is_ok());
        let bad = |change: fn(&mut Image)| {
            let mut image = good.clone();
            change(&mut image);
            assert!(Global::default().restore(&image).is_err(), "{image:?}");
        };
        bad(|i| i.base = 4);
        bad(|i| i.base += 1);
        bad(|i| i.bytes = u64::MAX);
        bad(|i| i.base = SHARED_WINDOW - 8);
        bad(|i| i.known[1] = 4..9);
        bad(|i| i.known[1] = 1..5);
        bad(|i| i.known[0] = 2..2);
        bad(|i| i.known[0] = Range { start: 2, end: 0 });
        bad(|i| i.contents.push(0));
    }
}
