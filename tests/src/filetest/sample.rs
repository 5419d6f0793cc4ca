//! Runs a module on random inputs: what its results are, and whether two modules have the same.
//!
//! An integer parameter's values follow from how it is read: tokens lie in their table, positions are those of the
//! batch, rows are rows. Inputs follow from seeds and parameters' names, so a module that a pass changed gets the
//! same ones.

use std::fmt::Write;
use std::rc::Rc;
use trtc_ir::interp::{Batch, Data, KvState, RandomWeights, Segment, Tensor, round, run};
use trtc_ir::ops::sample::DRAW;
use trtc_ir::random::Random;
use trtc_ir::{Diag, Dim, Module, Op, Sym, Type, ValueId};

/// Tokens that the first request of a batch already has in its cache.
const HISTORY: usize = 3;

/// Numbers of tokens to try, where the bounds of `T` allow them.
const TOKENS: [u64; 3] = [1, 5, 8];

/// A step's size and what it consists of.
struct Step {
    seed: u64,
    tokens: u64,
    rows: u64,
}

impl Step {
    fn new(module: &Module, seed: u64, tokens: u64) -> Step {
        let clamp = |sym, n: u64| {
            module.dims.iter().find(|d| d.0 == sym).map_or(n, |&(_, min, max)| n.clamp(min, max))
        };
        let tokens = clamp(Sym::T, tokens);
        Step { seed, tokens, rows: clamp(Sym::L, tokens.min(2)) }
    }

    /// One request that goes on and, if there are tokens for it, one that begins.
    fn batch(&self) -> Batch {
        let tokens = self.tokens as usize;
        let first = tokens.div_ceil(2);
        let mut segments = vec![Segment { seq: 4, start: HISTORY, len: first }];
        if tokens > first {
            segments.push(Segment { seq: 1, start: 0, len: tokens - first });
        }
        Batch { segments }
    }

    fn extent(&self, dim: Dim) -> usize {
        match dim {
            Dim::Const(n) => n as usize,
            Dim::Sym(Sym::L) => self.rows as usize,
            Dim::Sym(_) => self.tokens as usize,
        }
    }

    fn input(&self, module: &Module, param: ValueId) -> Data {
        let value = &module.func.values[param];
        let mut random = Random::named(self.seed, &value.name);
        match &value.ty {
            Type::Batch => Data::Batch(Rc::new(self.batch())),
            Type::Kv(kv) => {
                let width = (kv.heads * kv.head_dim) as usize;
                let mut row = || (0..width).map(|_| round(random.signed(), kv.dtype)).collect::<Vec<_>>();
                let rows = (0..HISTORY).map(|_| (row(), row())).collect();
                Data::Kv(Rc::new(KvState { seqs: [(4, rows)].into() }))
            }
            Type::Tensor(t) => {
                let dims: Vec<usize> = t.dims.iter().map(|d| self.extent(*d)).collect();
                let count = dims.iter().product();
                if is_draws(module, param) {
                    Data::Float(Tensor { dims, data: draws(count, &mut random) })
                } else if t.elem.plain().is_some_and(|d| d.is_float()) {
                    let data = (0..count).map(|_| random.signed()).collect();
                    Data::Float(Tensor { dims, data })
                } else {
                    Data::Int(self.integers(module, param, count, &mut random))
                }
            }
        }
    }

    fn integers(&self, module: &Module, param: ValueId, count: usize, random: &mut Random) -> Vec<i32> {
        let below = |n: u64, random: &mut Random| (0..count).map(|_| random.below(n) as i32).collect();
        let ops = module.func.order.iter().map(|&o| &module.func.ops[o].op);
        for op in ops {
            match op {
                Op::Embedding(e) if e.tokens == param => {
                    let vocab = module.weights[e.table].ty.shape().and_then(|s| s.first().copied());
                    return below(vocab.unwrap_or(1), random);
                }
                // Half of the bits of each word.
                Op::Sample(s) if s.masks == param => {
                    return (0..count).map(|_| (random.below(1 << 32) as u32).cast_signed()).collect();
                }
                Op::GatherRows(g) if g.rows == param => return self.last_rows(count),
                Op::Rope(r) if r.pos == param => return self.positions(count),
                Op::RopeKvAppend(r) if r.pos == param => return self.positions(count),
                _ => {}
            }
        }
        below(2, random)
    }

    /// The last token of each request, over and over.
    fn last_rows(&self, count: usize) -> Vec<i32> {
        let batch = self.batch();
        let lengths = batch.segments.iter().map(|s| s.len as i32);
        let ends: Vec<i32> = lengths
            .scan(0, |end, len| {
                *end += len;
                Some(*end - 1)
            })
            .collect();
        ends.into_iter().cycle().take(count).collect()
    }

    fn positions(&self, count: usize) -> Vec<i32> {
        let batch = self.batch();
        let all = batch.segments.iter().flat_map(|s| s.start..s.start + s.len).map(|p| p as i32);
        all.chain(std::iter::repeat(0)).take(count).collect()
    }

    fn run(&self, module: &Module, weights: &RandomWeights) -> Result<Vec<Data>, Diag> {
        let inputs: Vec<Data> = module.func.params.iter().map(|&p| self.input(module, p)).collect();
        run(module, weights, &inputs)
    }
}

/// True if a parameter says how rows are sampled.
fn is_draws(module: &Module, param: ValueId) -> bool {
    let draws = |op: &Op| matches!(op, Op::Sample(s) if s.draws == param);
    module.func.order.iter().any(|&o| draws(&module.func.ops[o].op))
}

/// Draws of some temperature without bounds, every second one with the mask of its row.
fn draws(count: usize, random: &mut Random) -> Vec<f32> {
    let one = |row: usize, random: &mut Random| {
        let mask = if row % 2 == 1 { (row + 1) as f32 } else { 0.0 };
        let u = [(); 2].map(|()| random.below(1 << 16) as f32);
        [0.5 + random.signed().abs(), 0.0, 1.0, 0.0, u[0], u[1], mask, 0.0]
    };
    (0..count / DRAW as usize).flat_map(|row| one(row, random)).collect()
}

/// The results of one step as text, five significant digits.
pub(super) fn results(module: &Module) -> Result<String, Diag> {
    let step = Step::new(module, 1, 3);
    let made = step.run(module, &RandomWeights::new(1).learn(module))?;
    let mut out = String::new();
    for (data, &id) in made.iter().zip(&module.func.results) {
        let name = &module.func.values[id].name;
        // Writing to a String cannot fail.
        let _ = match data {
            Data::Float(t) => {
                let _ = writeln!(out, "%{name} {:?}", t.dims);
                t.data.chunks(t.width().max(1)).try_for_each(|row| writeln!(out, "  {}", numbers(row)))
            }
            Data::Int(v) => writeln!(out, "%{name} {v:?}"),
            Data::Batch(b) => writeln!(out, "%{name} {b:?}"),
            Data::Kv(kv) => {
                let _ = writeln!(out, "%{name} cache");
                kv.seqs
                    .iter()
                    .flat_map(|(seq, rows)| rows.iter().enumerate().map(move |(p, row)| (seq, p, row)))
                    .try_for_each(|(seq, position, (k, v))| {
                        writeln!(
                            out,
                            "  request {seq} position {position}: k {} v {}",
                            numbers(k),
                            numbers(v)
                        )
                    })
            }
        };
    }
    Ok(out)
}

fn numbers(row: &[f32]) -> String {
    // Adding 0 makes -0 print as 0.
    row.iter().map(|x| format!("{:.4e}", x + 0.0)).collect::<Vec<_>>().join(" ")
}

/// Runs both modules on steps of several sizes and compares their results.
pub(super) fn agree(before: &Module, after: &Module, tolerance: f32) -> Result<(), String> {
    for (seed, tokens) in TOKENS.into_iter().enumerate() {
        let step = Step::new(before, seed as u64 + 1, tokens);
        let weights = || RandomWeights::new(step.seed).learn(before);
        let old = step.run(before, &weights()).map_err(|d| format!("the interpreter, before: {d}"))?;
        let new = step.run(after, &weights()).map_err(|d| format!("the interpreter, after: {d}"))?;
        if old.len() != new.len() {
            return Err(format!("there were {} results, now there are {}", old.len(), new.len()));
        }
        for (i, (old, new)) in old.iter().zip(&new).enumerate() {
            let size = format!("result {i} of a step of {} tokens", step.tokens);
            close(old, new, tolerance)
                .map_err(|e| format!("{size} is not the same before and after: {e}"))?;
        }
    }
    Ok(())
}

/// An error if two results differ by more than the tolerance, relative to the largest element or to 1.
fn close(old: &Data, new: &Data, tolerance: f32) -> Result<(), String> {
    match (old, new) {
        (Data::Float(a), Data::Float(b)) if a.dims == b.dims => elements(&a.data, &b.data, tolerance),
        (Data::Kv(a), Data::Kv(b)) => {
            let flat = |kv: &KvState| -> Vec<f32> {
                kv.seqs.values().flatten().flat_map(|(k, v)| k.iter().chain(v).copied()).collect()
            };
            let lengths =
                |kv: &KvState| -> Vec<_> { kv.seqs.iter().map(|(s, rows)| (*s, rows.len())).collect() };
            if lengths(a) != lengths(b) {
                return Err(format!("requests and tokens {:?}, {:?}", lengths(a), lengths(b)));
            }
            elements(&flat(a), &flat(b), tolerance)
        }
        (a, b) if a == b => Ok(()),
        _ => Err("they differ in kind or shape".into()),
    }
}

fn elements(a: &[f32], b: &[f32], tolerance: f32) -> Result<(), String> {
    if a.len() != b.len() {
        return Err(format!("{} and {} elements", a.len(), b.len()));
    }
    let largest = a.iter().fold(1f32, |m, x| m.max(x.abs()));
    for (i, (x, y)) in a.iter().zip(b).enumerate() {
        // Written so that NaN fails.
        let difference = (x - y).abs();
        if difference.is_nan() || difference > tolerance * largest {
            return Err(format!("element {i} was {x}, is {y}, with a tolerance of {tolerance} of {largest}"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use trtc_ir::text::parse;

    fn module(body: &str) -> Module {
        let source = format!(
            "llm.module @m dims(T in 1..16) {{
              llm.weight @w : tensor<4x4xf32> from [\"w\"]
              llm.func @f(%x: tensor<Tx4xf32>) {{
                {body}
                llm.return %y
              }}
            }}"
        );
        parse(&source, "t").unwrap_or_else(|d| panic!("{}", d[0]))
    }

    #[test]
    fn a_wrong_rewrite_is_found() {
        let right = module("%y = llm.linear %x, @w : tensor<Tx4xf32>");
        assert_eq!(agree(&right, &right, 0.0), Ok(()));
        let rounded = module("%y = llm.linear %x, @w : tensor<Tx4xbf16>");
        assert_eq!(agree(&right, &rounded, 0.004), Ok(()));
        assert!(
            agree(&right, &rounded, 1e-5).unwrap_err().contains("not the same before and after: element")
        );
        let doubled =
            module("%z = llm.linear %x, @w : tensor<Tx4xf32>\n%y = llm.add %z, %z : tensor<Tx4xf32>");
        assert!(agree(&right, &doubled, 0.1).is_err());
        let narrower = module(
            "%z = llm.linear %x, @w : tensor<Tx4xf32>\n%y = llm.slice %z {start = 0} : tensor<Tx2xf32>",
        );
        assert!(agree(&right, &narrower, 1.0).unwrap_err().contains("kind or shape"));
        assert!(elements(&[f32::NAN], &[f32::NAN], 1.0).is_err());
    }
}
