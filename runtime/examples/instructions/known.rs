//! Differences between devices that are no faults, and how large they may be.

/// Bounds of a difference: it is within them if it is within any of those that are set.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Known {
    /// Name of the tests; `*` stands for any characters.
    pub pattern: &'static str,
    /// Values between the two.
    pub ulp: u64,
    /// Of the larger magnitude.
    pub relative: f64,
    /// Absolute.
    pub absolute: f64,
    /// Why there is one.
    pub why: &'static str,
}

const NONE: Known = Known { pattern: "", ulp: 0, relative: 0.0, absolute: 0.0, why: "" };

/// 2^-n for small n.
const fn power(n: u32) -> f64 {
    1.0 / (1u64 << n) as f64
}

/// The bounds are the errors that the PTX ISA's sections on the instructions allow, and half of a unit for a device
/// that rounds correctly.
pub const KNOWN: &[Known] = &[
    Known { pattern: "ex2.approx*.f32*", ulp: 3, why: "approximate: 2 ulp", ..NONE },
    Known {
        pattern: "lg2.approx*.f32*",
        ulp: 4,
        absolute: power(22),
        why: "approximate: 2^-22, absolute around 1 and relative elsewhere",
        ..NONE
    },
    Known { pattern: "sin.approx*.f32", absolute: power(20), why: "approximate: 2^-20.5", ..NONE },
    Known { pattern: "cos.approx*.f32", absolute: power(20), why: "approximate: 2^-20.5", ..NONE },
    Known { pattern: "rcp.approx*.f32*", ulp: 2, why: "approximate: 1 ulp", ..NONE },
    Known { pattern: "rsqrt.approx*.f32*", ulp: 3, why: "approximate: 2^-22.9", ..NONE },
    Known { pattern: "sqrt.approx*.f32", ulp: 2, why: "approximate: 2^-23", ..NONE },
    Known { pattern: "div.approx*.f32", ulp: 3, why: "approximate: 2 ulp", ..NONE },
    Known { pattern: "div.full*.f32", ulp: 3, why: "approximate: 2 ulp", ..NONE },
    Known { pattern: "tanh.approx.f32*", relative: power(10), why: "approximate: 2^-11", ..NONE },
    Known { pattern: "tanh.approx.f16*", absolute: power(10), why: "approximate: 2^-10.987", ..NONE },
    Known { pattern: "tanh.approx.bf16*", absolute: power(7), why: "approximate: 2^-8", ..NONE },
    Known {
        pattern: "ex2.approx.f16*",
        ulp: 1,
        relative: power(9),
        why: "approximate: 2^-9.9, and a subnormal result has few places",
        ..NONE
    },
    Known { pattern: "ex2.approx.ftz.bf16*", relative: power(6), why: "approximate: 2^-7", ..NONE },
    Known { pattern: "rcp.approx.ftz.f64", relative: power(19), why: "approximate in its high word", ..NONE },
    Known { pattern: "rsqrt.approx*.f64", relative: power(19), why: "approximate in its high word", ..NONE },
];

/// The first row for a test.
pub fn known<'a>(table: &'a [Known], name: &str) -> Option<&'a Known> {
    table.iter().find(|k| matches(k.pattern, name))
}

/// True if a pattern stands for a name.
fn matches(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or("");
    let Some(mut rest) = name.strip_prefix(first) else {
        return false;
    };
    let parts: Vec<&str> = parts.collect();
    let Some((last, middle)) = parts.split_last() else {
        return rest.is_empty();
    };
    for part in middle {
        match rest.split_once(part) {
            Some((_, after)) => rest = after,
            None => return false,
        }
    }
    rest.ends_with(last)
}

impl Known {
    /// True if two values that lie `steps` apart differ no more than this.
    pub fn allows(&self, a: f64, b: f64, steps: u64) -> bool {
        if a.is_nan() || b.is_nan() {
            return a.is_nan() && b.is_nan();
        }
        if a.is_infinite() || b.is_infinite() {
            return a == b || steps <= self.ulp;
        }
        let distance = (a - b).abs();
        steps <= self.ulp || distance <= self.absolute || distance <= self.relative * a.abs().max(b.abs())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_whole_names() {
        assert!(matches("ex2.approx*.f32*", "ex2.approx.ftz.f32/sweep"));
        assert!(matches("a*c", "abc") && matches("a*c", "ac") && matches("abc", "abc"));
        assert!(!matches("a*c", "abd") && !matches("abc", "abcd") && !matches("a*b*c", "acb"));
    }

    #[test]
    fn bounds_are_alternatives() {
        let k = Known { ulp: 2, absolute: 0.5, ..NONE };
        assert!(k.allows(1.0, 1.4, 1000) && k.allows(1e30, 1.1e30, 2) && !k.allows(1.0, 2.0, 3));
        assert!(k.allows(f64::NAN, f64::NAN, 99) && !k.allows(f64::NAN, 1.0, 0));
        assert!(!k.allows(f64::INFINITY, 1.0, 9) && !k.allows(f64::INFINITY, f64::NEG_INFINITY, 9));
    }
}
