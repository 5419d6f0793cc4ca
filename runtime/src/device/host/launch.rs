//! One launch: takes the kernel's arguments and calls the function. One arm for each kernel of the manifest.

use super::args::{Args, Loaded};
use super::attention::{Attention, attention};
use super::cache::typed_pages;
use super::elem::{Floats, FloatsMut, typed, typed_mut};
use super::isa::Isa;
use super::linear::{Linear, linear};
use super::memory::{Memory, Views};
use super::pool::Pool;
use super::rope::{self, RopeKvAppend, Tables};
use super::rows::{self, Norm};
use super::scratch::{Cx, Scratch};
use crate::device::{Bindings, StepDims};
use crate::error::Error;
use trtc_engine::manifest::{Arg, Count, DRAW, Dtype, HostKernel};

/// Everything that launches change besides the buffers.
pub struct Machine {
    /// Threads.
    pub pool: Pool,
    /// Instructions.
    pub isa: Isa,
    /// Working memory.
    pub scratch: Scratch,
    /// Sines and cosines.
    pub tables: Tables,
}

/// Executes one kernel.
pub fn execute(
    machine: &mut Machine,
    memory: &mut Memory,
    loaded: &Loaded,
    kernel: &HostKernel,
    list: &[Arg],
    bind: &Bindings,
    dims: StepDims,
) -> Result<(), Error> {
    let args = Args::new(Views::new(memory), loaded, bind, dims, list);
    let (pool, isa) = (&mut machine.pool, machine.isa);
    let tokens = args.rows(Count::Tokens);
    match *kernel {
        HostKernel::Embedding { width, scale, out } => {
            let width = width as usize;
            let vocab = vocabulary(loaded, list);
            let ids = args.tokens(vocab)?;
            let table = args.matrix("table", vocab, width)?;
            let out = args.floats_mut("out", out, tokens * width)?;
            args.end()?;
            typed_mut!(out = out => rows::embedding(pool, isa, ids, &table, width, scale, out))
        }
        HostKernel::RmsNorm { width, per_token, eps, offset, rows: of, x, out } => {
            let width = width as usize;
            let rows = args.rows(of) * per_token as usize;
            let x = args.floats("x", x, rows * width)?;
            let weight = args.vector("weight", width)?;
            let out = args.rows_mut("out", out, rows, width)?;
            args.end()?;
            let norm = Norm { weight: &weight, eps, offset };
            let mut cx = Cx { pool, isa, scratch: &mut machine.scratch };
            typed!(x = x => rows::rms_norm(&mut cx, x, norm, out))
        }
        HostKernel::Quantize { width, rows: of, x } => {
            let (rows, width) = (args.rows(of), width as usize);
            let x = args.floats("x", x, rows * width)?;
            let out = args.rows_mut("out", Dtype::F8E4M3, rows, width)?;
            args.end()?;
            let mut cx = Cx { pool, isa, scratch: &mut machine.scratch };
            typed!(x = x => rows::quantize(&mut cx, width, x, out))
        }
        HostKernel::AddRmsNorm { width, eps, offset, rows: of, x, residual, h, out } => {
            let (width, rows) = (width as usize, args.rows(of));
            let count = rows * width;
            let x = args.floats("x", x, count)?;
            let residual = args.floats("residual", residual, count)?;
            let weight = args.vector("weight", width)?;
            let h = args.floats_mut("h", h, count)?;
            let out = args.rows_mut("n", out, rows, width)?;
            args.end()?;
            let norm = Norm { weight: &weight, eps, offset };
            let mut cx = Cx { pool, isa, scratch: &mut machine.scratch };
            typed!(x = x => typed!(r = residual => typed_mut!(h = h =>
                rows::add_rms_norm(&mut cx, (x, r), norm, h, out))))
        }
        HostKernel::Linear { n, k, rows: of, bias, residual, x, out } => {
            let (n, k, rows) = (n as usize, k as usize, args.rows(of));
            let x = args.rows_of("x", x, rows, k)?;
            let weight = args.matrix("weight", n, k)?;
            let bias = if bias { Some(args.vector("bias", n)?) } else { None };
            let residual = residual.map(|d| args.floats("residual", d, rows * n)).transpose()?;
            let out = args.floats_mut("out", out, rows * n)?;
            args.end()?;
            let mut cx = Cx { pool, isa, scratch: &mut machine.scratch };
            linear(&mut cx, Linear { rows, n, k, x, weight, bias: bias.as_deref(), residual, out })
        }
        HostKernel::Slice { of, start, width, x } => {
            let (of, start, width) = (of as usize, start as usize, width as usize);
            if start + width > of {
                return Err(Error::bug(format!("columns {start}..{} of rows of {of}", start + width)));
            }
            let (from, to) = (args.floats("x", x, tokens * of)?, args.floats_mut("out", x, tokens * width)?);
            args.end()?;
            copy(pool, from, of, start, width, &|i| i, to)
        }
        HostKernel::GatherRows { width, x } => {
            let width = width as usize;
            let from = args.floats("x", x, tokens * width)?;
            let picked = args.logit_rows()?;
            let to = args.floats_mut("out", x, picked.len() * width)?;
            args.end()?;
            copy(pool, from, width, 0, width, &|i| picked[i] as usize, to)
        }
        HostKernel::Feed { last } => {
            let from = args.any_tokens()?;
            let last = args.numbers("last", last as usize)?;
            let to = args.numbers_mut("out", tokens)?;
            args.end()?;
            for (to, &token) in to.iter_mut().zip(from) {
                let picked = usize::try_from(-1 - i64::from(token)).map_or(Some(&token), |row| last.get(row));
                *to = *picked.ok_or_else(|| Error::bug(format!("token {token} stands for no row")))?;
            }
            Ok(())
        }
        HostKernel::Sample { vocab } => {
            let (rows, vocab) = (args.rows(Count::Rows), vocab as usize);
            let logits = args.floats("logits", Dtype::F32, rows * vocab)?;
            let (draws, masks) = (args.draws()?, args.masks()?);
            let to = args.numbers_mut("token", rows)?;
            let logprobs = args.floats_mut("logprob", Dtype::F32, rows)?;
            args.end()?;
            let (Floats::F32(logits), FloatsMut::F32(logprobs)) = (logits, logprobs) else {
                return Err(Error::bug("logits and their probabilities are not f32"));
            };
            let each = logits.chunks_exact(vocab).zip(draws.chunks_exact(DRAW as usize));
            for ((row, draw), (to, logprob)) in each.zip(to.iter_mut().zip(logprobs)) {
                (*to, *logprob) = crate::sample::device_draw(row, draw, masks)?;
            }
            Ok(())
        }
        HostKernel::Add { width, rows: of, lhs, rhs, out } => {
            let (width, count) = (width as usize, args.rows(of) * width as usize);
            let lhs = args.floats("lhs", lhs, count)?;
            let rhs = args.floats("rhs", rhs, count)?;
            let out = args.floats_mut("out", out, count)?;
            args.end()?;
            typed!(l = lhs => typed!(r = rhs => typed_mut!(out = out => rows::add(pool, isa, width, l, r, out))))
        }
        HostKernel::GatedAct { width, act, packed, rows: of, x, out } => {
            let (width, rows) = (width as usize, args.rows(of));
            let count = rows * width;
            let gate =
                args.floats(if packed { "x" } else { "gate" }, x, if packed { 2 * count } else { count })?;
            let up = if packed { None } else { Some(args.floats("up", x, count)?) };
            let out = args.rows_mut("out", out, rows, width)?;
            args.end()?;
            let mut cx = Cx { pool, isa, scratch: &mut machine.scratch };
            match (gate, up) {
                (g, None) => typed!(g = g => rows::gated_act(&mut cx, act, width, (g, None), out)),
                (Floats::F32(g), Some(Floats::F32(u))) => {
                    rows::gated_act(&mut cx, act, width, (g, Some(u)), out)
                }
                (Floats::Bf16(g), Some(Floats::Bf16(u))) => {
                    rows::gated_act(&mut cx, act, width, (g, Some(u)), out)
                }
                _ => Err(Error::bug("gate and up have different types")),
            }
        }
        HostKernel::Rope { heads, head_dim, dim, x, out } => {
            let (head_dim, count) = (head_dim as usize, tokens * heads as usize * head_dim as usize);
            let half = half_of(dim, head_dim)?;
            let from = args.floats("x", x, count)?;
            let positions = args.positions()?;
            let freqs = args.vector("freqs", half)?;
            let to = args.floats_mut("out", out, count)?;
            args.end()?;
            let angles = machine.tables.angles(&freqs, end_of(positions));
            typed!(x = from => typed_mut!(o = to => rope::rope(pool, isa, x, positions, angles, head_dim, o)))
        }
        HostKernel::KvAppend { x } => {
            let (kv_heads, head_dim) = cache_heads(loaded, list);
            let k = args.floats("k", x, tokens * kv_heads * head_dim)?;
            let v = args.floats("v", x, tokens * kv_heads * head_dim)?;
            let (batch, cache, region) = args.cache()?;
            let pages = args.pages_mut(&cache, region)?;
            args.end()?;
            let mut cx = Cx { pool, isa, scratch: &mut machine.scratch };
            match (k, v) {
                (Floats::F32(k), Floats::F32(v)) => typed_pages!(p = pages =>
                    rope::kv_append(&mut cx, (k, v), batch, cache, p)),
                (Floats::Bf16(k), Floats::Bf16(v)) => typed_pages!(p = pages =>
                    rope::kv_append(&mut cx, (k, v), batch, cache, p)),
                _ => Err(Error::bug("k and v have different types")),
            }
        }
        HostKernel::RopeKvAppend { heads, dim, q_norm, k_norm, x, out } => {
            let (heads, (kv_heads, head_dim)) = (heads as usize, cache_heads(loaded, list));
            let half = half_of(dim, head_dim)?;
            let qkv = args.floats("qkv", x, tokens * (heads + 2 * kv_heads) * head_dim)?;
            let positions = args.positions()?;
            let freqs = args.vector("freqs", half)?;
            let q_weight = q_norm.map(|_| args.vector("q_norm", head_dim)).transpose()?;
            let k_weight = k_norm.map(|_| args.vector("k_norm", head_dim)).transpose()?;
            let (batch, cache, region) = args.cache()?;
            let pages = args.pages_mut(&cache, region)?;
            let q = args.floats_mut("q", out, tokens * heads * head_dim)?;
            args.end()?;
            let angles = machine.tables.angles(&freqs, end_of(positions));
            let q_norm = norm(q_weight.as_deref(), q_norm);
            let k_norm = norm(k_weight.as_deref(), k_norm);
            let mut cx = Cx { pool, isa, scratch: &mut machine.scratch };
            typed!(qkv = qkv => typed_pages!(pages = pages => typed_mut!(q = q => {
                let job = RopeKvAppend { qkv, positions, angles, heads, q_norm, k_norm, batch, cache, pages, q };
                rope::rope_kv_append(&mut cx, job)
            })))
        }
        HostKernel::Attention { heads, scale, softcap, products, x, out } => {
            let (heads, (kv_heads, head_dim)) = (heads as usize, cache_heads(loaded, list));
            if kv_heads == 0 || heads % kv_heads != 0 {
                return Err(Error::bug(format!("{heads} query heads share {kv_heads} key/value heads")));
            }
            let count = tokens * heads * head_dim;
            let q = args.floats("q", x, count)?;
            let (batch, cache, region) = args.cache()?;
            let pages = args.pages(&cache, region)?;
            let out = args.floats_mut("out", out, count)?;
            args.end()?;
            let mut cx = Cx { pool, isa, scratch: &mut machine.scratch };
            let rounds = products.is_some();
            attention(&mut cx, Attention { q, batch, cache, pages, heads, scale, softcap, rounds, out })
        }
    }
}

/// A head's norm, if the kernel has one.
fn norm(weight: Option<&[f32]>, with: Option<(f32, f32)>) -> Option<Norm<'_>> {
    weight.zip(with).map(|(weight, (eps, offset))| Norm { weight, eps, offset })
}

/// Rows of a table that is an argument.
fn vocabulary(loaded: &Loaded, list: &[Arg]) -> usize {
    let table =
        list.iter().find_map(|a| if let Arg::Weight(i) = a { loaded.weights.get(*i as usize) } else { None });
    table.and_then(|w| w.shape.first()).map_or(0, |&n| n as usize)
}

/// Heads and elements of a head of the cache that is an argument.
fn cache_heads(loaded: &Loaded, list: &[Arg]) -> (usize, usize) {
    let layer =
        list.iter().find_map(|a| if let Arg::Kv(i) = a { loaded.kv.layers.get(*i as usize) } else { None });
    layer.map_or((0, 0), |l| (l.heads as usize, l.head_dim as usize))
}

/// Half of the rotated elements.
fn half_of(dim: u32, head_dim: usize) -> Result<usize, Error> {
    if dim.is_multiple_of(2) && dim as usize <= head_dim {
        return Ok(dim as usize / 2);
    }
    Err(Error::bug(format!("{dim} elements of a head of {head_dim} cannot be rotated")))
}

/// One more than the greatest position.
fn end_of(positions: &[i32]) -> usize {
    positions.iter().max().map_or(0, |&p| p as usize + 1)
}

/// Copies columns of picked rows between arguments of one type.
fn copy(
    pool: &mut Pool,
    from: Floats<'_>,
    of: usize,
    start: usize,
    width: usize,
    picked: &(dyn Fn(usize) -> usize + Sync),
    to: FloatsMut<'_>,
) -> Result<(), Error> {
    match (from, to) {
        (Floats::F32(x), FloatsMut::F32(o)) => rows::copy_rows(pool, x, of, start, width, picked, o),
        (Floats::Bf16(x), FloatsMut::Bf16(o)) => rows::copy_rows(pool, x, of, start, width, picked, o),
        _ => Err(Error::bug("x and out have different types")),
    }
}
