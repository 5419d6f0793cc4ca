//! Working memory of the kernels: aligned to cache lines, kept from launch to launch, so that a step in the steady
//! state allocates nothing.

use super::attention::{Lists, Run};
use super::isa::Isa;
use super::memory::Pod;
use super::pool::Pool;
use half::bf16;

/// A cache line.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u32; 16]);

/// A growing, aligned, untyped array. What it holds between uses is unspecified.
#[derive(Default)]
pub struct Aligned {
    lines: Vec<Line>,
}

impl Aligned {
    /// The first `len` elements.
    fn slice<T: Pod>(&mut self, len: usize) -> &mut [T] {
        let lines = (len * size_of::<T>()).div_ceil(size_of::<Line>());
        if self.lines.len() < lines {
            self.lines.resize(lines, Line([0; 16]));
        }
        // SAFETY: the lines hold at least `len` elements, are aligned for any `Pod`, and every bit pattern of a
        // `Pod` is a value.
        unsafe { std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), len) }
    }

    /// As f32.
    pub fn f32(&mut self, len: usize) -> &mut [f32] {
        self.slice(len)
    }

    /// As bf16.
    pub fn bf16(&mut self, len: usize) -> &mut [bf16] {
        self.slice(len)
    }

    /// As bytes.
    pub fn bytes(&mut self, len: usize) -> &mut [u8] {
        self.slice(len)
    }

    /// As u32.
    pub fn u32(&mut self, len: usize) -> &mut [u32] {
        self.slice(len)
    }
}

/// The bytes of a slice.
pub fn bytes<T: Pod>(x: &[T]) -> &[u8] {
    // SAFETY: a `Pod` has no padding.
    unsafe { std::slice::from_raw_parts(x.as_ptr().cast(), size_of_val(x)) }
}

/// Pairs of bf16 as words, if the slice is aligned to a word.
pub fn pairs(x: &[bf16]) -> Option<&[u32]> {
    let aligned = (x.as_ptr() as usize).is_multiple_of(align_of::<u32>());
    // SAFETY: aligned, and within the slice.
    aligned.then(|| unsafe { std::slice::from_raw_parts(x.as_ptr().cast(), x.len() / 2) })
}

/// Working memory of one thread.
#[derive(Default)]
pub struct Local {
    /// A block of weights, unpacked.
    pub block: Aligned,
    /// Sums; scores.
    pub sums: Aligned,
    /// Packed queries; a key.
    pub x: Aligned,
    /// Attention's result before it is normed.
    pub out: Aligned,
    /// Attention's result of one segment.
    pub part: Aligned,
    /// Places of values.
    pub runs: Vec<Run>,
}

/// What kernels work with besides their arguments.
pub struct Cx<'a> {
    /// Threads.
    pub pool: &'a mut Pool,
    /// Instructions.
    pub isa: Isa,
    /// Working memory.
    pub scratch: &'a mut Scratch,
}

/// Working memory of all threads.
pub struct Scratch {
    /// Activations in the kernels' order.
    pub x: Aligned,
    /// Activations of e4m3 as bf16.
    pub wide: Aligned,
    /// Sums of activations over quantisation groups; partial results of attention.
    pub sums: Aligned,
    /// Attention's lists of work.
    pub lists: Lists,
    /// One for each thread.
    pub local: Vec<Local>,
}

impl Scratch {
    /// For so many threads.
    pub fn new(threads: usize) -> Scratch {
        Scratch {
            x: Aligned::default(),
            wide: Aligned::default(),
            sums: Aligned::default(),
            lists: Lists::default(),
            local: (0..threads).map(|_| Local::default()).collect(),
        }
    }
}
