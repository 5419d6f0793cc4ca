//! Arithmetic of `f64` in every rounding mode.
//!
//! To nearest the processor's own operations are correctly rounded. The other modes form the exact result, or enough
//! bits of it with a flag for what is beyond them, and round once. NaN and infinity do not depend on the mode.
//!
//! The bits of a NaN are left open by the PTX ISA ("Floating point instructions"). The hardware gives that of an operand,
//! made quiet (of several the one that `first_nan`'s callers name first), and otherwise a negative NaN without payload.

use super::format::Round;

/// The bit of a NaN that says that it does not signal.
const QUIET: u64 = 1 << 51;

/// What an invalid operation on numbers gives.
const INVALID: f64 = f64::from_bits(0xfff8_0000_0000_0000);

/// A NaN that does not signal, of the same sign and payload.
#[must_use]
#[inline(always)]
pub fn quiet(nan: f64) -> f64 {
    f64::from_bits(nan.to_bits() | QUIET)
}

/// `result`, or the first NaN of the operands, made quiet, where it is one.
#[inline(always)]
fn first_nan<const N: usize>(result: f64, operands: [f64; N]) -> f64 {
    if !result.is_nan() {
        return result;
    }
    operands.into_iter().find(|x| x.is_nan()).map_or(INVALID, quiet)
}

/// `mantissa * 2^exponent`, negated where `negative` says so, and a little more in magnitude where `more` does.
#[derive(Clone, Copy, Debug)]
struct Exact {
    negative: bool,
    mantissa: u128,
    exponent: i32,
    /// Less than one unit of `mantissa`, which then has more than 100 bits.
    more: bool,
}

/// Bits of a mantissa with room for a carry and a sign.
const TOP: u32 = 125;

impl Exact {
    /// A finite number.
    fn of(x: f64) -> Exact {
        let bits = x.to_bits();
        let (field, fraction) = ((bits >> 52 & 0x7ff) as i32, bits & ((1 << 52) - 1));
        let mantissa = if field == 0 { fraction } else { fraction | 1 << 52 };
        Exact {
            negative: x.is_sign_negative(),
            mantissa: mantissa.into(),
            exponent: field.max(1) - 1075,
            more: false,
        }
    }

    /// The same with the mantissa's first bit at `TOP`; not of zero.
    fn normalised(self) -> Exact {
        let shift = self.mantissa.leading_zeros() as i32 - (127 - TOP as i32);
        let mantissa = if shift >= 0 { self.mantissa << shift } else { self.mantissa };
        Exact { mantissa, exponent: self.exponent - shift.max(0), ..self }
    }

    /// Rounded to `f64`.
    fn round(self, round: Round) -> f64 {
        let Exact { negative, mantissa, exponent, more } = self;
        if mantissa == 0 {
            return if negative { -0.0 } else { 0.0 };
        }
        // The exponent of the result's last place.
        let last = (exponent + mantissa.ilog2() as i32 - 52).max(-1074);
        let drop = last - exponent;
        let code = if drop <= 0 {
            (mantissa << -drop) as u64
        } else {
            // Of a shift by more than all bits only "less than one half" is left.
            let drop = drop.min(129) as u32;
            let whole = mantissa.checked_shr(drop).unwrap_or(0) as u64;
            let half = mantissa.checked_shr(drop - 1).unwrap_or(0) & 1 == 1;
            let below = more || mantissa & !u128::MAX.checked_shl(drop - 1).unwrap_or(0) != 0;
            let up = match round {
                Round::Near => half && (below || whole & 1 == 1),
                Round::NearAway => half,
                Round::Zero => false,
                Round::Up => !negative && (half || below),
                Round::Down => negative && (half || below),
            };
            whole + u64::from(up)
        };
        // The hidden bit of `code` adds one to the exponent field, a carry another.
        let bits = ((last + 1074) as u64).saturating_mul(1 << 52).saturating_add(code);
        let magnitude = if bits >= f64::INFINITY.to_bits() {
            let toward_zero = match round {
                Round::Near | Round::NearAway => false,
                Round::Zero => true,
                Round::Up => negative,
                Round::Down => !negative,
            };
            if toward_zero { f64::MAX } else { f64::INFINITY }
        } else {
            f64::from_bits(bits)
        };
        if negative { -magnitude } else { magnitude }
    }
}

/// `larger + smaller`, neither of them zero, `larger` of the larger magnitude.
fn sum(larger: Exact, smaller: Exact, round: Round) -> f64 {
    let (larger, smaller) = (larger.normalised(), smaller.normalised());
    let by = (larger.exponent - smaller.exponent) as u32;
    let shifted = smaller.mantissa.checked_shr(by).unwrap_or(0);
    let lost = by >= 128 || smaller.mantissa & !(u128::MAX << by) != 0;
    if larger.negative == smaller.negative {
        return Exact { mantissa: larger.mantissa + shifted, more: lost, ..larger }.round(round);
    }
    let mantissa = larger.mantissa - shifted - u128::from(lost);
    if mantissa == 0 && !lost {
        return if round == Round::Down { -0.0 } else { 0.0 };
    }
    Exact { mantissa, more: lost, ..larger }.round(round)
}

/// The product of two finite numbers.
fn product(a: f64, b: f64) -> Exact {
    let (a, b) = (Exact::of(a), Exact::of(b));
    Exact {
        negative: a.negative != b.negative,
        mantissa: a.mantissa * b.mantissa,
        exponent: a.exponent + b.exponent,
        more: false,
    }
}

/// `fma.f64`.
#[must_use]
pub fn fma(a: f64, b: f64, c: f64, round: Round) -> f64 {
    let near = a.mul_add(b, c);
    if round == Round::Near || !(a.is_finite() && b.is_finite() && c.is_finite()) {
        return first_nan(near, [b, c, a]);
    }
    let product = product(a, b);
    let addend = Exact::of(c);
    match (product.mantissa, addend.mantissa) {
        // Zeros of one sign keep it.
        (0, 0) if product.negative == addend.negative => c,
        (0, 0) if round == Round::Down => -0.0,
        (0, 0) => 0.0,
        (0, _) => c,
        (_, 0) => product.round(round),
        _ => {
            let key = |x: Exact| {
                let x = x.normalised();
                (x.exponent, x.mantissa)
            };
            if key(product) >= key(addend) {
                sum(product, addend, round)
            } else {
                sum(addend, product, round)
            }
        }
    }
}

/// `add.f64`.
#[must_use]
pub fn add(a: f64, b: f64, round: Round) -> f64 {
    if round == Round::Near || !(a.is_finite() && b.is_finite()) {
        return first_nan(a + b, [b, a]);
    }
    fma(a, 1.0, b, round)
}

/// `sub.f64`.
#[must_use]
pub fn sub(a: f64, b: f64, round: Round) -> f64 {
    // A NaN keeps its sign.
    add(a, if b.is_nan() { b } else { -b }, round)
}

/// `mul.f64`.
#[must_use]
pub fn mul(a: f64, b: f64, round: Round) -> f64 {
    if round == Round::Near || !(a.is_finite() && b.is_finite()) {
        return first_nan(a * b, [b, a]);
    }
    product(a, b).round(round)
}

/// `div.f64`.
#[must_use]
pub fn div(a: f64, b: f64, round: Round) -> f64 {
    let near = a / b;
    if round == Round::Near || !(a.is_finite() && b.is_finite()) || a == 0.0 || b == 0.0 {
        return first_nan(near, [a, b]);
    }
    let (x, y) = (Exact::of(a).normalised(), Exact::of(b));
    // At least 126 - 53 bits; one more in front of them makes room for `more`.
    let by = y.mantissa.leading_zeros() as i32 - 75;
    let divisor = y.mantissa << by;
    let (first, rest) = (x.mantissa / divisor, x.mantissa % divisor);
    let (second, rest) = ((rest << 60) / divisor, (rest << 60) % divisor);
    let mantissa = first << 30 | second >> 30;
    let more = rest != 0 || second & ((1 << 30) - 1) != 0;
    let exponent = x.exponent - (y.exponent - by) - 30;
    Exact { negative: x.negative != y.negative, mantissa, exponent, more }.round(round)
}

/// `sqrt.f64`.
#[must_use]
pub fn sqrt(a: f64, round: Round) -> f64 {
    if round == Round::Near || a.is_nan() || a <= 0.0 || a.is_infinite() {
        return first_nan(a.sqrt(), [a]);
    }
    let x = Exact::of(a).normalised();
    // An even exponent, so that the root of the power is one.
    let (mantissa, exponent) =
        if x.exponent % 2 == 0 { (x.mantissa, x.exponent) } else { (x.mantissa << 1, x.exponent - 1) };
    let root = mantissa.isqrt();
    Exact { negative: false, mantissa: root, exponent: exponent / 2, more: root * root != mantissa }
        .round(round)
}

/// `cvt.f64` of an integer.
#[must_use]
pub fn from_integer(value: i128, round: Round) -> f64 {
    let (negative, mantissa) = (value < 0, value.unsigned_abs());
    Exact { negative, mantissa, exponent: 0, more: false }.round(round)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const EDGES: [f64; 12] = [
        0.0,
        -0.0,
        1.0,
        -1.5,
        f64::MAX,
        f64::MIN_POSITIVE,
        5e-324,
        -5e-324,
        1e-300,
        1.000_000_000_000_000_2,
        f64::INFINITY,
        3.0,
    ];

    fn number() -> impl Strategy<Value = f64> {
        prop_oneof![
            proptest::sample::select(&EDGES[..]),
            any::<u64>().prop_map(f64::from_bits),
            (1u64..1 << 52, 1020u64..1027, any::<bool>())
                .prop_map(|(f, e, s)| f64::from_bits(f | e << 52 | u64::from(s) << 63)),
        ]
    }

    fn same(a: f64, b: f64) -> bool {
        a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan()
    }

    /// The exact path under `.rn` is what the processor does; the other modes enclose it.
    fn check(near: f64, of: impl Fn(Round) -> f64) {
        let (down, up, zero) = (of(Round::Down), of(Round::Up), of(Round::Zero));
        if near.is_nan() {
            assert!(down.is_nan() && up.is_nan() && zero.is_nan());
            return;
        }
        assert!(down <= near && near <= up, "{down:e} {near:e} {up:e}");
        assert!(down == up || down.next_up() == up, "{down:e} {up:e}");
        assert!(same(zero, if near.is_sign_negative() { up } else { down }) || near == 0.0, "{zero:e}");
        assert!(near == down || near == up);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4000))]
        #[test]
        fn modes_enclose_the_nearest(a in number(), b in number(), c in number()) {
            check(a.mul_add(b, c), |r| fma(a, b, c, r));
            check(a + b, |r| add(a, b, r));
            check(a - b, |r| sub(a, b, r));
            check(a * b, |r| mul(a, b, r));
            check(a / b, |r| div(a, b, r));
            check(a.sqrt(), |r| sqrt(a, r));
        }

        #[test]
        fn exact_sums_round_to_nearest(a in number(), b in number(), c in number()) {
            if !(a.is_finite() && b.is_finite() && a != 0.0 && b != 0.0) {
                return Ok(());
            }
            prop_assert!(same(product(a, b).round(Round::Near), a * b));
            if !c.is_finite() || c == 0.0 {
                return Ok(());
            }
            let (x, y) = (product(a, b), Exact::of(c));
            let key = |x: Exact| { let x = x.normalised(); (x.exponent, x.mantissa) };
            let (x, y) = if key(x) >= key(y) { (x, y) } else { (y, x) };
            prop_assert!(same(sum(x, y, Round::Near), a.mul_add(b, c)));
        }

        #[test]
        fn integers(x in any::<i64>()) {
            prop_assert!(same(from_integer(x.into(), Round::Near), x as f64));
            check(x as f64, |r| from_integer(x.into(), r));
        }
    }

    #[test]
    fn values_of_the_modes() {
        assert_eq!(add(1.0, 5e-324, Round::Up), 1.0 + f64::EPSILON);
        assert_eq!(add(1.0, -5e-324, Round::Zero), 1.0 - f64::EPSILON / 2.0);
        assert_eq!(mul(f64::MAX, 2.0, Round::Zero), f64::MAX);
        assert_eq!(mul(-f64::MAX, 2.0, Round::Down), f64::NEG_INFINITY);
        assert!(sub(1.0, 1.0, Round::Down).is_sign_negative());
        assert_eq!(div(1.0, 3.0, Round::Up), (1.0f64 / 3.0).next_up());
        assert_eq!(sqrt(2.0, Round::Down), 2f64.sqrt().next_down());
    }
}
