//! `llm.sample`: a token for each row of logits, and its log-probability.
//!
//! A row of `draws` says how: `(temperature, top_k, top_p, min_p, high, low, mask, 0)`. Of equal logits the token with the
//! lower id is the better one; NaN counts as minus infinity.
//!
//! Where `mask` is not 0, row `mask - 1` of `masks` says which tokens may be chosen, a bit each, the lowest of a word first;
//! the logits of the others count as minus infinity. Where that leaves nothing but minus infinity, it is the first token
//! that may be chosen, and if none may, token 0. Of the masks only those that are named count.
//!
//! With a temperature of 0, or a `top_k` of 1, it is the best token. Otherwise `w_i = e^((x_i - best) / temperature)`;
//! of the tokens, best first, `top_k` are kept (0: all), of those the fewest whose weights reach `top_p` of theirs
//! together, of those the ones with `w >= min_p`. Chosen is the first of them, by id, at which the running sum of
//! weights exceeds `u` times their sum, `u = (high * 2^16 + low) / 2^32`.
//!
//! The log-probability is of the row as it is, without a mask: `x_i - ln(sum e^x)`.
//!
//! ```mlir
//! %token, %logprob = llm.sample %logits, %draws, %masks : tensor<Lxi32>, tensor<Lxf32>
//! ```

use super::{OpDef, Parts, TypeCx, check, reader::Reader};
use crate::dtype::DType;
use crate::entity::{ValueId, WeightId};
use crate::interp::{Data, EvalCx};
use crate::types::{Dim, TensorType, Type};
use std::borrow::Cow;
use std::cmp::Ordering;

/// Numbers that say how a row is sampled.
pub const DRAW: u64 = 8;
/// Which of them is the mask's.
pub const MASK: usize = 6;
/// Tokens of a word of a mask.
pub const WORD: u64 = 32;

/// Chooses tokens.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// `(L, vocab)` f32.
    pub logits: ValueId,
    /// `(L, 8)` f32.
    pub draws: ValueId,
    /// `(L, ceil(vocab / 32))` i32.
    pub masks: ValueId,
}

impl OpDef for Sample {
    const NAME: &'static str = "sample";
    const ATTRS: &'static [&'static str] = &[];

    fn parts(&self) -> Parts {
        Parts { operands: vec![self.logits, self.draws, self.masks], ..Parts::default() }
    }

    fn from_parts(parts: Parts) -> Result<Self, String> {
        let mut r = Reader::new(Self::NAME, parts);
        let (logits, draws) = (r.operand("the logits")?, r.operand("the draws")?);
        let op = Sample { logits, draws, masks: r.operand("the masks")? };
        r.finish().map(|()| op)
    }

    fn operands_mut(&mut self) -> Vec<&mut ValueId> {
        vec![&mut self.logits, &mut self.draws, &mut self.masks]
    }

    fn weights_mut(&mut self) -> Vec<&mut WeightId> {
        Vec::new()
    }

    fn check(&self, cx: &TypeCx<'_>, results: &[Type]) -> Result<(), String> {
        let [token, logprob] = check::results(results)?;
        let f32s = |t: &TensorType, what: &str| match t.elem.plain() {
            Some(DType::F32) => Ok(()),
            _ => Err(format!("{what} must be f32, found {t}")),
        };
        let logits = check::float_operand(cx, self.logits, "logits")?;
        f32s(logits, "logits")?;
        let words = check::width(logits, "logits")?.div_ceil(WORD);
        let draws = check::float_operand(cx, self.draws, "draws")?;
        f32s(draws, "draws")?;
        check::width_is(draws, "draws", DRAW, "a draw")?;
        check::same_rows(draws, "draws", logits, "logits")?;
        let masks = cx.tensor(self.masks, "the masks")?;
        if masks.dims != [check::rows(logits, "logits")?, Dim::Const(words)]
            || masks.elem.plain() != Some(DType::I32)
        {
            return Err(format!(
                "the masks must have a row for each of the logits, {words} words of i32, found {masks}"
            ));
        }
        check::ints_result(token, "the token", check::rows(logits, "logits")?)?;
        let logprob = check::float_result(logprob, "the log-probability")?;
        f32s(logprob, "the log-probability")?;
        check::same_rows(logprob, "the log-probability", logits, "logits")?;
        if logprob.dims.len() == 1 {
            Ok(())
        } else {
            Err(format!("the log-probability must be one number a row, found {logprob}"))
        }
    }

    fn eval(&self, cx: &mut EvalCx<'_>) -> Result<Vec<Data>, String> {
        let (logits, draws) = (cx.float(self.logits)?, cx.float(self.draws)?);
        let masks = cx.ints(self.masks)?;
        let rows = logits.rows();
        let (mut tokens, mut logprobs) = (Vec::with_capacity(rows), Vec::with_capacity(rows));
        for (x, d) in logits.chunks(logits.width()).zip(draws.chunks(DRAW as usize)) {
            let mask = mask_of(d, masks, x.len()).ok_or_else(|| {
                format!("a draw names mask {}, there are {rows}", d.get(MASK).copied().unwrap_or_default())
            })?;
            let token = choose(x, d, mask);
            tokens.push(token as i32);
            logprobs.push(logprob(x, token));
        }
        Ok(vec![Data::Int(tokens), cx.finish(1, rows, logprobs)?])
    }
}

fn clean(x: f32) -> f32 {
    if x.is_nan() { f32::NEG_INFINITY } else { x + 0.0 }
}

/// `x[token] - ln(sum e^x)`; minus infinity for a token that is none.
pub fn logprob(x: &[f32], token: usize) -> f32 {
    let most = x.iter().copied().map(clean).fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = x.iter().map(|&x| f64::from(clean(x) - most).exp()).sum();
    x.get(token).map_or(f32::NEG_INFINITY, |&x| (f64::from(clean(x) - most) - sum.ln()) as f32)
}

/// The mask that a draw of a row of `vocab` logits names; none in `Some` if it names none, `None` if it is not there.
pub fn mask_of<'a>(draw: &[f32], masks: &'a [i32], vocab: usize) -> Option<Option<&'a [i32]>> {
    let named = *draw.get(MASK)?;
    if named == 0.0 {
        return Some(None);
    }
    let words = vocab.div_ceil(WORD as usize);
    let whole = named > 0.0 && named.fract() == 0.0;
    if whole { masks.chunks_exact(words).nth(named as usize - 1).map(Some) } else { None }
}

/// True if a mask has a token.
fn allows(mask: &[i32], token: usize) -> bool {
    mask.get(token / WORD as usize).is_some_and(|word| word >> (token % WORD as usize) & 1 == 1)
}

/// A row with minus infinity for what its mask does not have.
fn masked<'a>(x: &'a [f32], mask: Option<&[i32]>) -> Cow<'a, [f32]> {
    let Some(mask) = mask else { return Cow::Borrowed(x) };
    let one = |(token, &x): (usize, &f32)| if allows(mask, token) { x } else { f32::NEG_INFINITY };
    Cow::Owned(x.iter().enumerate().map(one).collect())
}

/// The token where a mask leaves no probability.
fn left(x: &[f32], mask: Option<&[i32]>) -> Option<usize> {
    let mask = mask.filter(|_| x.iter().all(|&x| clean(x) == f32::NEG_INFINITY))?;
    Some((0..x.len()).find(|&token| allows(mask, token)).unwrap_or(0))
}

/// A token that can be chosen, with its weight.
struct Candidate {
    token: usize,
    logit: f32,
    weight: f64,
}

/// What a draw leaves of a row, by id.
fn kept(x: &[f32], draw: &[f32]) -> Vec<Candidate> {
    let [temperature, top_k, top_p, min_p] = [draw[0], draw[1], draw[2], draw[3]];
    let most = x.iter().copied().map(clean).fold(f32::NEG_INFINITY, f32::max);
    let one = |(token, &x): (usize, &f32)| {
        let logit = clean(x);
        let weight = if logit == most { 1.0 } else { f64::from((logit - most) / temperature).exp() };
        Candidate { token, logit, weight }
    };
    let mut all: Vec<Candidate> = x.iter().enumerate().map(one).collect();
    let better = |a: &Candidate, b: &Candidate| match b.logit.total_cmp(&a.logit) {
        Ordering::Equal => a.token.cmp(&b.token),
        other => other,
    };
    all.sort_by(better);
    if temperature == 0.0 || top_k == 1.0 {
        all.truncate(1);
        return all;
    }
    if top_k > 0.0 {
        all.truncate(top_k as usize);
    }
    if top_p < 1.0 {
        let mass = f64::from(top_p) * all.iter().map(|c| c.weight).sum::<f64>();
        let sums = all.iter().scan(0.0, |sum, c| {
            let before = *sum;
            *sum += c.weight;
            Some(before)
        });
        let n = sums.take_while(|before| *before < mass).count();
        all.truncate(n.max(1));
    }
    all.retain(|c| c.weight >= f64::from(min_p));
    all.sort_by_key(|c| c.token);
    all
}

/// The token that a draw chooses, of those that a mask has.
fn choose(x: &[f32], draw: &[f32], mask: Option<&[i32]>) -> usize {
    let x = masked(x, mask);
    if let Some(token) = left(&x, mask) {
        return token;
    }
    let kept = kept(&x, draw);
    let u = (f64::from(draw[4]) * 65536.0 + f64::from(draw[5])) / 4_294_967_296.0;
    let wanted = u * kept.iter().map(|c| c.weight).sum::<f64>();
    let mut sum = 0.0;
    for c in &kept {
        sum += c.weight;
        if sum > wanted {
            return c.token;
        }
    }
    kept.iter().rev().find(|c| c.weight > 0.0).map_or(0, |c| c.token)
}

/// How far a token is from being the one that a draw chooses: the distance of `u` from the token's share of the
/// kept weights, 0 for the chosen one. 1 for a token that is not kept. For checks of kernels that add in another order.
pub fn distance(x: &[f32], draw: &[f32], mask: Option<&[i32]>, token: usize) -> f32 {
    let x = masked(x, mask);
    if let Some(only) = left(&x, mask) {
        return if only == token { 0.0 } else { 1.0 };
    }
    let kept = kept(&x, draw);
    let all: f64 = kept.iter().map(|c| c.weight).sum();
    let u = (f64::from(draw[4]) * 65536.0 + f64::from(draw[5])) / 4_294_967_296.0;
    let before: f64 = kept.iter().take_while(|c| c.token != token).map(|c| c.weight).sum();
    match kept.iter().find(|c| c.token == token) {
        Some(c) => (before / all - u).max(u - (before + c.weight) / all).max(0.0) as f32,
        None => 1.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draw(temperature: f32, top_k: f32, top_p: f32, min_p: f32, u: f64) -> [f32; 8] {
        let bits = (u * 4_294_967_296.0) as u32;
        [temperature, top_k, top_p, min_p, (bits >> 16) as f32, (bits & 0xffff) as f32, 0.0, 0.0]
    }

    #[test]
    fn the_best_is_chosen_without_temperature_and_the_lower_id_of_equals() {
        let x = [1.0, f32::NAN, 3.0, 3.0];
        assert_eq!(choose(&x, &draw(0.0, 0.0, 1.0, 0.0, 0.9), None), 2);
        assert_eq!(choose(&x, &draw(1.0, 1.0, 1.0, 0.0, 0.9), None), 2);
        let sum = 2.0 + (-2.0f64).exp();
        assert!((f64::from(logprob(&x, 2)) + sum.ln()).abs() < 1e-6);
    }

    #[test]
    fn a_draw_goes_by_id_over_what_is_kept() {
        // Weights 0.25, 0.5, 1, 0.25: half of all is at token 2.
        let x = [0.25f32.ln(), 0.5f32.ln(), 0.0, 0.25f32.ln()];
        for (u, token) in [(0.0, 0), (0.124, 0), (0.126, 1), (0.374, 1), (0.376, 2), (0.874, 2), (0.876, 3)] {
            assert_eq!(choose(&x, &draw(1.0, 0.0, 1.0, 0.0, u), None), token, "{u}");
            assert_eq!(distance(&x, &draw(1.0, 0.0, 1.0, 0.0, u), None, token), 0.0);
        }
        assert_eq!(choose(&x, &draw(1.0, 2.0, 1.0, 0.0, 0.1), None), 1);
        assert_eq!(choose(&x, &draw(1.0, 3.0, 1.0, 0.0, 0.1), None), 0);
        assert_eq!(choose(&x, &draw(1.0, 0.0, 0.5, 0.0, 0.99), None), 2);
        assert_eq!(choose(&x, &draw(1.0, 0.0, 0.51, 0.0, 0.0), None), 1);
        assert_eq!(choose(&x, &draw(1.0, 0.0, 1.0, 0.3, 0.99), None), 2);
        assert_eq!(distance(&x, &draw(1.0, 0.0, 1.0, 0.3, 0.5), None, 0), 1.0);
        assert!((distance(&x, &draw(1.0, 0.0, 1.0, 0.0, 0.2), None, 0) - 0.075).abs() < 1e-6);
    }

    #[test]
    fn a_mask_takes_the_probability_from_all_other_tokens() {
        let x: Vec<f32> = (0..40).map(|i| [0.0, 3.0, f32::NEG_INFINITY, f32::NAN][i % 4]).collect();
        let mask = |tokens: &[usize]| {
            tokens.iter().fold([0; 2], |mut m: [i32; 2], t| {
                m[t / 32] |= 1 << (t % 32);
                m
            })
        };
        let greedy = draw(0.0, 0.0, 1.0, 0.0, 0.9);
        let even = draw(1.0, 0.0, 1.0, 0.0, 0.7);
        for (tokens, best, drawn) in [
            (&[8, 33, 37][..], 33, 37),
            // The highest bit of a word, and equal ones.
            (&[0, 4, 32], 0, 32),
            // Nothing that has a probability, and nothing at all.
            (&[31, 34], 31, 31),
            (&[], 0, 0),
        ] {
            let mask = mask(tokens);
            assert_eq!(choose(&x, &greedy, Some(&mask)), best, "{tokens:?}");
            assert_eq!(choose(&x, &even, Some(&mask)), drawn, "{tokens:?}");
            assert_eq!(distance(&x, &even, Some(&mask), drawn), 0.0);
            assert!(distance(&x, &greedy, Some(&mask), 1) > 0.5);
        }
        // Bounds count what the mask leaves.
        assert_eq!(choose(&x, &draw(1.0, 2.0, 1.0, 0.0, 0.9), Some(&mask(&[4, 8, 12]))), 8);
        assert_eq!(choose(&x, &draw(1.0, 0.0, 0.5, 0.0, 0.9), Some(&mask(&[4, 8, 12]))), 8);
    }

    #[test]
    fn a_draw_names_a_mask_that_is_there() {
        let masks = [1, 2, 3, 4];
        let of = |named: f32| mask_of(&[0.0, 0.0, 0.0, 0.0, 0.0, 0.0, named, 0.0], &masks, 33);
        assert_eq!([of(0.0), of(1.0), of(2.0)], [Some(None), Some(Some(&[1, 2][..])), Some(Some(&[3, 4]))]);
        assert_eq!([of(3.0), of(1.5), of(-1.0), of(f32::NAN)], [None; 4]);
    }
}
