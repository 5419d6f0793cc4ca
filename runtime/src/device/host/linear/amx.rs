//! Dot products of bf16 pairs in tile registers (AMX): a tile of up to 16 rows of x times panels of bf16 weights.
//!
//! A panel's 16 pairs of inputs are a tile as they lie, rows of x too. `tdpbf16ps` takes 32 inputs at once; its order
//! is fixed and does not depend on the number of rows: for each (x row, output row) the even inputs are added up from
//! 0 in ascending order, the odd ones beside them, and then the sum of both is added to what was there. Denormals are
//! 0. So one row of x alone has the same result, to the bit, as among others, and costs no less: the time is that of
//! bringing a panel's tile in.

use super::LANES;
use std::arch::asm;

/// Most rows of x in a tile.
pub const MAX_ROWS: usize = 16;

/// Inputs of a tile.
pub const INPUTS: usize = 32;

/// Pairs of inputs of a tile.
const PAIRS: usize = INPUTS / 2;

/// What `ldtilecfg` reads.
#[repr(C, align(64))]
struct Config {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    /// Bytes of a row of each register.
    row_bytes: [u16; 16],
    /// Rows of each register.
    rows: [u8; 16],
}

/// This thread's tile registers. Dropped, they are given back: the system need not keep them for a thread that does
/// something else.
#[derive(Default)]
pub struct Registers {
    /// Rows of x and pairs of the last, shorter tile that they are set up for.
    shape: Option<(usize, usize)>,
    /// They are the thread's own.
    _thread: std::marker::PhantomData<*const ()>,
}

/// One product.
#[derive(Clone, Copy)]
pub struct Tile<'a> {
    /// `[pair][row][2]` of the first panel.
    pub weights: &'a [u8],
    /// Bytes from one panel to the next.
    pub stride: usize,
    /// `(rows, 2 * pairs)`.
    pub x: &'a [half::bf16],
    /// Elements from one row of x to the next.
    pub x_stride: usize,
    /// Rows of x, at most [`MAX_ROWS`].
    pub rows: usize,
    /// Pairs of inputs.
    pub pairs: usize,
    /// True if sums start from 0, not from what is in `sums`.
    pub fresh: bool,
}

impl Registers {
    /// `sums[panel][x row][row] += weights x`, for any number of panels.
    ///
    /// # Safety
    /// The process may use AMX tiles and their BF16 products.
    pub unsafe fn product(&mut self, t: &Tile<'_>, panels: usize, sums: &mut [f32]) {
        assert!((1..=MAX_ROWS).contains(&t.rows));
        if panels == 0 || t.pairs == 0 {
            return;
        }
        assert!(t.weights.len() >= (panels - 1) * t.stride + t.pairs * PAIR_BYTES);
        assert!(t.x.len() >= (t.rows - 1) * t.x_stride + 2 * t.pairs);
        assert!(sums.len() >= panels * t.rows * LANES);
        // SAFETY: the caller's word.
        unsafe { self.set_up(t.rows, t.pairs % PAIRS) };
        let mut raw = Raw {
            weights: t.weights.as_ptr(),
            stride: t.stride,
            x: t.x.as_ptr(),
            x_stride: t.x_stride * size_of::<half::bf16>(),
            tiles: t.pairs / PAIRS,
            rest: !t.pairs.is_multiple_of(PAIRS),
            fresh: t.fresh,
            sums: sums.as_mut_ptr(),
            sums_stride: t.rows * LANES * size_of::<f32>(),
        };
        for two in 0..panels / 2 {
            raw.weights = t.weights.as_ptr().wrapping_add(2 * two * t.stride);
            raw.sums = sums.as_mut_ptr().wrapping_add(2 * two * t.rows * LANES);
            // SAFETY: the slices hold what two panels touch, the registers have their shapes.
            unsafe { two_panels(&raw) };
        }
        if panels % 2 == 1 {
            raw.weights = t.weights.as_ptr().wrapping_add((panels - 1) * t.stride);
            raw.sums = sums.as_mut_ptr().wrapping_add((panels - 1) * t.rows * LANES);
            // SAFETY: as above.
            unsafe { one_panel(&raw) };
        }
    }

    /// Gives the registers their shapes: 0 and 1 sums, 2 and 3 x, 4 to 7 weights; of x and weights the odd ones are
    /// for the last tile of `rest` pairs.
    ///
    /// # Safety
    /// As for [`Registers::product`].
    unsafe fn set_up(&mut self, rows: usize, rest: usize) {
        if self.shape.is_some_and(|(r, p)| r == rows && (p == rest || rest == 0)) {
            return;
        }
        let row = (LANES * size_of::<f32>()) as u16;
        let (x, w, part) = (rows as u8, PAIRS as u8, rest as u8);
        let mut config =
            Config { palette: 1, start_row: 0, reserved: [0; 14], row_bytes: [0; 16], rows: [0; 16] };
        let shapes = [
            (x, row),
            (x, row),
            (x, row),
            (x, 4 * rest as u16),
            (w, row),
            (part, row),
            (w, row),
            (part, row),
        ];
        for (i, (rows, bytes)) in shapes.into_iter().enumerate().filter(|(_, s)| s.0 > 0 && s.1 > 0) {
            (config.rows[i], config.row_bytes[i]) = (rows, bytes);
        }
        // SAFETY: the configuration is 64 bytes of palette 1: at most 16 rows of at most 64 bytes.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const config, options(nostack, preserves_flags)) };
        self.shape = Some((rows, rest));
    }
}

impl Drop for Registers {
    fn drop(&mut self) {
        if self.shape.is_some() {
            // SAFETY: the registers have been set up, so the instruction is there.
            unsafe { asm!("tilerelease", options(nostack, preserves_flags)) };
        }
    }
}

/// Bytes of one pair of inputs of a panel.
const PAIR_BYTES: usize = LANES * 2 * size_of::<half::bf16>();

/// A product as the kernels see it; strides are in bytes.
struct Raw {
    weights: *const u8,
    stride: usize,
    x: *const half::bf16,
    x_stride: usize,
    /// Whole tiles of inputs.
    tiles: usize,
    /// Whether there is a shorter one after them.
    rest: bool,
    fresh: bool,
    sums: *mut f32,
    sums_stride: usize,
}

/// Two panels: each tile of x is brought in once for both.
///
/// # Safety
/// The pointers are good for what the shapes say, and the registers have been set up for them.
unsafe fn two_panels(a: &Raw) {
    // SAFETY: the caller's word.
    unsafe {
        asm!(
            "test {fresh:e}, {fresh:e}",
            "jz 2f",
            "tilezero tmm0",
            "tilezero tmm1",
            "jmp 3f",
            "2:",
            "tileloadd tmm0, [{sums} + {line}]",
            "tileloadd tmm1, [{more} + {line}]",
            "3:",
            "test {tiles}, {tiles}",
            "jz 5f",
            "4:",
            "tileloadd tmm2, [{x} + {x_stride}]",
            "tileloadd tmm4, [{w} + {line}]",
            "tdpbf16ps tmm0, tmm2, tmm4",
            "tileloadd tmm6, [{v} + {line}]",
            "tdpbf16ps tmm1, tmm2, tmm6",
            "add {x}, 64",
            "add {w}, 1024",
            "add {v}, 1024",
            "dec {tiles}",
            "jnz 4b",
            "5:",
            "test {rest:e}, {rest:e}",
            "jz 6f",
            "tileloadd tmm3, [{x} + {x_stride}]",
            "tileloadd tmm5, [{w} + {line}]",
            "tdpbf16ps tmm0, tmm3, tmm5",
            "tileloadd tmm7, [{v} + {line}]",
            "tdpbf16ps tmm1, tmm3, tmm7",
            "6:",
            "tilestored [{sums} + {line}], tmm0",
            "tilestored [{more} + {line}], tmm1",
            fresh = in(reg) u32::from(a.fresh),
            rest = in(reg) u32::from(a.rest),
            tiles = inout(reg) a.tiles => _,
            x = inout(reg) a.x => _,
            x_stride = in(reg) a.x_stride,
            w = inout(reg) a.weights => _,
            v = inout(reg) a.weights.wrapping_add(a.stride) => _,
            line = in(reg) 64usize,
            sums = in(reg) a.sums,
            more = in(reg) a.sums.wrapping_byte_add(a.sums_stride),
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        );
    }
}

/// One panel.
///
/// # Safety
/// As for [`two_panels`].
unsafe fn one_panel(a: &Raw) {
    // SAFETY: the caller's word.
    unsafe {
        asm!(
            "test {fresh:e}, {fresh:e}",
            "jz 2f",
            "tilezero tmm0",
            "jmp 3f",
            "2:",
            "tileloadd tmm0, [{sums} + {line}]",
            "3:",
            "test {tiles}, {tiles}",
            "jz 5f",
            "4:",
            "tileloadd tmm2, [{x} + {x_stride}]",
            "tileloadd tmm4, [{w} + {line}]",
            "tdpbf16ps tmm0, tmm2, tmm4",
            "add {x}, 64",
            "add {w}, 1024",
            "dec {tiles}",
            "jnz 4b",
            "5:",
            "test {rest:e}, {rest:e}",
            "jz 6f",
            "tileloadd tmm3, [{x} + {x_stride}]",
            "tileloadd tmm5, [{w} + {line}]",
            "tdpbf16ps tmm0, tmm3, tmm5",
            "6:",
            "tilestored [{sums} + {line}], tmm0",
            fresh = in(reg) u32::from(a.fresh),
            rest = in(reg) u32::from(a.rest),
            tiles = inout(reg) a.tiles => _,
            x = inout(reg) a.x => _,
            x_stride = in(reg) a.x_stride,
            w = inout(reg) a.weights => _,
            line = in(reg) 64usize,
            sums = in(reg) a.sums,
            out("tmm0") _, out("tmm2") _, out("tmm3") _, out("tmm4") _, out("tmm5") _,
            options(nostack),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::host::isa::Isa;
    use half::bf16;

    /// Denormals are 0.
    fn flush(x: f32) -> f32 {
        if x.is_subnormal() { 0f32.copysign(x) } else { x }
    }

    /// The order and the rounding of `tdpbf16ps`.
    fn model(mut sum: f32, x: &[bf16], w: impl Fn(usize) -> bf16) -> f32 {
        for (tile, x) in x.chunks(INPUTS).enumerate() {
            let mut chains = [0f32; 2];
            for (i, x) in x.iter().enumerate() {
                let (x, w) = (flush(x.to_f32()), flush(w(tile * INPUTS + i).to_f32()));
                chains[i % 2] = flush(x.mul_add(w, chains[i % 2]));
            }
            sum = flush(sum + flush(chains[0] + chains[1]));
        }
        sum
    }

    #[test]
    fn the_order_is_the_same_for_every_shape_and_range_of_values() {
        if !Isa::Amx.available() {
            return;
        }
        let mut state = 0x9e37_79b9_7f4a_7c15u64;
        let mut next = || {
            state ^= state >> 12;
            state ^= state << 25;
            state ^= state >> 27;
            state.wrapping_mul(0x2545_f491_4f6c_dd1d)
        };
        let mut registers = Registers::default();
        // Exponents near 1; far apart; whose products are denormal.
        for (exponent, range) in [(120, 8), (90, 70), (60, 12)] {
            for (rows, panels, pairs) in
                [(1, 1, 16), (3, 2, 16), (16, 3, 32), (8, 4, 7), (5, 1, 23), (16, 2, 1), (1, 5, 288)]
            {
                let mut value = || {
                    let bits = next();
                    let exponent = exponent + (bits >> 40) % range;
                    bf16::from_bits((bits << 15 & 0x8000 | exponent << 7 | bits >> 8 & 0x7f) as u16)
                };
                let x: Vec<bf16> = (0..rows * 2 * pairs).map(|_| value()).collect();
                let w: Vec<bf16> = (0..panels * pairs * 2 * LANES).map(|_| value()).collect();
                let before: Vec<f32> = (0..panels * rows * LANES).map(|_| value().to_f32()).collect();
                for fresh in [true, false] {
                    let mut sums = before.clone();
                    let tile = Tile {
                        weights: crate::device::host::scratch::bytes(&w),
                        stride: pairs * PAIR_BYTES,
                        x: &x,
                        x_stride: 2 * pairs,
                        rows,
                        pairs,
                        fresh,
                    };
                    // SAFETY: it is available.
                    unsafe { registers.product(&tile, panels, &mut sums) };
                    for (i, (sum, before)) in sums.iter().zip(&before).enumerate() {
                        let (panel, row, r) = (i / LANES / rows, i / LANES % rows, i % LANES);
                        let w = |i: usize| w[(panel * pairs + i / 2) * 2 * LANES + 2 * r + i % 2];
                        let x = &x[row * 2 * pairs..][..2 * pairs];
                        let want = model(if fresh { 0.0 } else { *before }, x, w);
                        assert_eq!(
                            sum.to_bits(),
                            want.to_bits(),
                            "{rows} {panels} {pairs} {fresh}: {sum:e} {want:e}"
                        );
                    }
                }
            }
        }
    }
}
