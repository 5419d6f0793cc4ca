//! `llm.sample`: a token for each row of logits, and its log-probability.
//!
//! A row of `draws` says how: `(temperature, top_k, top_p, min_p, high, low, 0, 0)`. Of equal logits the token with the
//! lower id is the better one; NaN counts as minus infinity.
//!
//! With a temperature of 0, or a `top_k` of 1, it is the best token. Otherwise `w_i = e^((x_i - best) / temperature)`;
//! of the tokens, best first, `top_k` are kept (0: all), of those the fewest whose weights reach `top_p` of theirs
//! together, of those the ones with `w >= min_p`. Chosen is the first of them, by id, at which the running sum of
//! weights exceeds `u` times their sum, `u = (high * 2^16 + low) / 2^32`.
//!
//! The log-probability is of the row as it is: `x_i - ln(sum e^x)`.
//!
//! ```mlir
//! %token, %logprob = llm.sample %logits, %draws : tensor<Lxi32>, tensor<Lxf32>
//! ```

use super::{OpDef, Parts, TypeCx, check, reader::Reader};
use crate::dtype::DType;
use crate::entity::{ValueId, WeightId};
use crate::interp::{Data, EvalCx};
use crate::types::{TensorType, Type};
use std::cmp::Ordering;

/// Numbers that say how a row is sampled.
pub const DRAW: u64 = 8;

/// Chooses tokens.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// `(L, vocab)` f32.
    pub logits: ValueId,
    /// `(L, 8)` f32.
    pub draws: ValueId,
}

impl OpDef for Sample {
    const NAME: &'static str = "sample";
    const ATTRS: &'static [&'static str] = &[];

    fn parts(&self) -> Parts {
        Parts { operands: vec![self.logits, self.draws], ..Parts::default() }
    }

    fn from_parts(parts: Parts) -> Result<Self, String> {
        let mut r = Reader::new(Self::NAME, parts);
        let op = Sample { logits: r.operand("the logits")?, draws: r.operand("the draws")? };
        r.finish().map(|()| op)
    }

    fn operands_mut(&mut self) -> Vec<&mut ValueId> {
        vec![&mut self.logits, &mut self.draws]
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
        check::width(logits, "logits")?;
        let draws = check::float_operand(cx, self.draws, "draws")?;
        f32s(draws, "draws")?;
        check::width_is(draws, "draws", DRAW, "a draw")?;
        check::same_rows(draws, "draws", logits, "logits")?;
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
        let rows = logits.rows();
        let (mut tokens, mut logprobs) = (Vec::with_capacity(rows), Vec::with_capacity(rows));
        for (x, d) in logits.chunks(logits.width()).zip(draws.chunks(DRAW as usize)) {
            let token = choose(x, d);
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

/// The token that a draw chooses.
fn choose(x: &[f32], draw: &[f32]) -> usize {
    let kept = kept(x, draw);
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
pub fn distance(x: &[f32], draw: &[f32], token: usize) -> f32 {
    let kept = kept(x, draw);
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
        assert_eq!(choose(&x, &draw(0.0, 0.0, 1.0, 0.0, 0.9)), 2);
        assert_eq!(choose(&x, &draw(1.0, 1.0, 1.0, 0.0, 0.9)), 2);
        let sum = 2.0 + (-2.0f64).exp();
        assert!((f64::from(logprob(&x, 2)) + sum.ln()).abs() < 1e-6);
    }

    #[test]
    fn a_draw_goes_by_id_over_what_is_kept() {
        // Weights 0.25, 0.5, 1, 0.25: half of all is at token 2.
        let x = [0.25f32.ln(), 0.5f32.ln(), 0.0, 0.25f32.ln()];
        for (u, token) in [(0.0, 0), (0.124, 0), (0.126, 1), (0.374, 1), (0.376, 2), (0.874, 2), (0.876, 3)] {
            assert_eq!(choose(&x, &draw(1.0, 0.0, 1.0, 0.0, u)), token, "{u}");
            assert_eq!(distance(&x, &draw(1.0, 0.0, 1.0, 0.0, u), token), 0.0);
        }
        assert_eq!(choose(&x, &draw(1.0, 2.0, 1.0, 0.0, 0.1)), 1);
        assert_eq!(choose(&x, &draw(1.0, 3.0, 1.0, 0.0, 0.1)), 0);
        assert_eq!(choose(&x, &draw(1.0, 0.0, 0.5, 0.0, 0.99)), 2);
        assert_eq!(choose(&x, &draw(1.0, 0.0, 0.51, 0.0, 0.0)), 1);
        assert_eq!(choose(&x, &draw(1.0, 0.0, 1.0, 0.3, 0.99)), 2);
        assert_eq!(distance(&x, &draw(1.0, 0.0, 1.0, 0.3, 0.5), 0), 1.0);
        assert!((distance(&x, &draw(1.0, 0.0, 1.0, 0.0, 0.2), 0) - 0.075).abs() < 1e-6);
    }
}
