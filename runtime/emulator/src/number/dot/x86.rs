//! The kernels of the fast path for AVX-512 and AVX2.
//!
//! Both are the same steps on registers of 16 (`lanes16`) and of 8 lanes (`lanes8`); `portable` says the same with
//! arrays.

mod lanes16;
mod lanes8;

use super::fast::{Columns, HALF, Kernel, Rounding, Row, Task, blocks, dropped, nearest_f16, safe};
use super::{SPECIAL, Sum, ZERO};

/// With AVX-512, 16 lanes. Whether the processor has it; the task is then done.
pub fn matmul_16(task: Task, d: &mut [f32]) -> bool {
    let found = is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512dq");
    if found {
        // SAFETY: the processor has the instructions.
        unsafe { avx512(task, d) };
    }
    found
}

/// With AVX2, 8 lanes. Whether the processor has it; the task is then done.
pub fn matmul_8(task: Task, d: &mut [f32]) -> bool {
    let found = is_x86_feature_detected!("avx2");
    if found {
        // SAFETY: the processor has the instructions.
        unsafe { avx2(task, d) };
    }
    found
}

#[target_feature(enable = "avx512f,avx512dq")]
fn avx512(task: Task, d: &mut [f32]) {
    blocks(Avx512(()), task, d);
}

#[target_feature(enable = "avx2")]
fn avx2(task: Task, d: &mut [f32]) {
    blocks(Avx2(()), task, d);
}

/// Made only in `avx512`: where there is one, the processor has the instructions.
#[derive(Clone, Copy)]
struct Avx512(());

/// Made only in `avx2`.
#[derive(Clone, Copy)]
struct Avx2(());

/// The kernel of a type, of the operations in a module.
macro_rules! kernel {
    ($name:ident, $lanes:literal, $module:ident, $features:literal) => {
        impl Kernel<$lanes> for $name {
            #[inline(always)]
            fn sum(
                self,
                rounding: Rounding,
                row: Row,
                columns: &Columns<$lanes>,
                shift: Option<&[i32; $lanes]>,
                c: &mut [f32; $lanes],
            ) -> bool {
                // SAFETY: a value of this type is made only where the processor has the instructions.
                unsafe { Self::steps(rounding, row, columns, shift, c) }
            }
        }

        impl $name {
            #[target_feature(enable = $features)]
            #[inline]
            fn steps(
                rounding: Rounding,
                row: Row,
                columns: &Columns<$lanes>,
                shift: Option<&[i32; $lanes]>,
                c: &mut [f32; $lanes],
            ) -> bool {
                use $module::*;
                let bits = all(rounding.fraction_bits);
                let old = load(c);

                let mut largest = all(ZERO);
                for (of_a, of_b) in row.exponents.iter().zip(&columns.exponents) {
                    largest = max(largest, add(all(*of_a), load_ints(of_b)));
                }

                // The exponents of c, as `exponent` has them.
                let magnitude = clear_sign(old);
                let field = sub(exponent_field(magnitude), all(127));
                let of_c = max(field, all(rounding.result.min_exponent()));
                let of_c = select(less(all(127), field), all(SPECIAL), of_c);
                let of_c = select(less(magnitude, all(1)), all(ZERO), of_c);

                let shift = shift.map_or(all(0), |shift| load_ints(shift));
                let both = max(add(largest, shift), of_c);
                // All addends are zero: any exponent does.
                let zero = less(both, all(ZERO / 2));
                let largest = select(zero, all(0), both);
                let of_products = select(zero, all(0), sub(both, shift));
                let (low, span) = safe(rounding.fraction_bits);
                if outside(of_products, all(low), all(low + span))
                    || outside(largest, all(low), all(low + span))
                {
                    return false;
                }

                let scale = power_of_two(sub(bits, of_products));
                let mut sums = [all(0); 2];
                let (low, high) = row.values.split_at(row.values.len().min(HALF));
                for (sum, (values, columns)) in
                    sums.iter_mut().zip([low, high].into_iter().zip(columns.values.as_chunks::<HALF>().0))
                {
                    for (a, b) in values.iter().zip(columns) {
                        *sum = add(*sum, truncate(mul(mul(all_floats(*a), load(b)), scale)));
                    }
                }
                let addend = truncate(mul(old, power_of_two(sub(bits, largest))));
                // At most 33 bits.
                let totals = total(sums, addend);
                let power = sub(largest, bits);
                if rounding.result == Sum::F16 {
                    let (totals, power) = (store_doubles(totals), store_ints(power));
                    for (out, (sum, power)) in c.iter_mut().zip(totals.iter().zip(power)) {
                        *out = nearest_f16(*sum, power);
                    }
                } else {
                    *c = store(mul(narrow(totals, !dropped(rounding.result)), power_of_two(power)));
                }
                true
            }
        }
    };
}

kernel!(Avx512, 16, lanes16, "avx512f,avx512dq");
kernel!(Avx2, 8, lanes8, "avx2");
