//! The arguments that each host kernel takes, as data: the table behind the argument checks.
//!
//! One arm a kernel, in the order of `HostKernel`'s documentation. Computes nothing.

use crate::manifest::{Count, Dtype, Encoding, HostKernel, KvLayer, Layout, Weight};

/// What a kernel takes in one place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slot {
    /// `(count, width)` in the arena.
    Arena {
        /// Counts rows.
        count: Count,
        /// Elements of a row.
        width: u64,
        /// Element type.
        dtype: Dtype,
    },
    /// A weight of two dimensions, in any encoding.
    Matrix {
        /// Outputs.
        n: u64,
        /// True if there may be more outputs than `n`.
        more: bool,
        /// Inputs.
        k: u64,
    },
    /// A weight of one dimension: f32, and bf16 where `bf16` says so.
    Vector {
        /// Elements.
        len: u64,
        /// True if bf16 is taken too.
        bf16: bool,
    },
    /// A layer's cache.
    Kv,
    /// `(count)` i32 in the arena.
    Ints {
        /// Counts them.
        count: Count,
    },
    /// Token ids: the step's, or `(T)` i32 in the arena.
    Tokens,
    /// Positions.
    Positions,
    /// Rows for logits.
    Rows,
    /// How rows are sampled.
    Draws,
    /// Tokens that may be chosen.
    Masks,
    /// Segments, contexts, tables.
    Batch,
}

impl Slot {
    /// Refuses a weight of another shape or kind; one sentence.
    pub fn check_weight(&self, weight: &Weight) -> Result<(), String> {
        let found = || format!("{:?} {:?} {:?}", weight.shape, weight.encoding, weight.layout);
        match *self {
            Slot::Matrix { n, more, k } => match weight.shape[..] {
                [rows, width] if width == k && (rows == n || more && rows > n) => Ok(()),
                _ => Err(format!("it is {}, the kernel takes [{n}, {k}]", found())),
            },
            Slot::Vector { len, bf16 } => {
                let kind = weight.encoding == Encoding::F32 || bf16 && weight.encoding == Encoding::Bf16;
                if weight.shape[..] == [len] && weight.layout == Layout::Rows && kind {
                    Ok(())
                } else {
                    let types = if bf16 { "f32 or bf16" } else { "f32" };
                    Err(format!("it is {}, the kernel takes [{len}] in {types}, row-major", found()))
                }
            }
            _ => Err(format!("the kernel takes {self:?}")),
        }
    }
}

fn rows(count: Count, width: u64, dtype: Dtype) -> Slot {
    Slot::Arena { count, width, dtype }
}

fn tokens(width: u64, dtype: Dtype) -> Slot {
    rows(Count::Tokens, width, dtype)
}

/// Rows in any type: those of e4m3 are followed by their scales.
fn scaled(count: Count, width: u64, dtype: Dtype) -> impl Iterator<Item = Slot> {
    let scales = (dtype == Dtype::F8E4M3).then(|| rows(count, 1, Dtype::F32));
    std::iter::once(rows(count, width, dtype)).chain(scales)
}

/// Refuses e4m3 where a kernel computes in floats of 16 bits and more.
fn plain(dtypes: &[Dtype]) -> Result<(), String> {
    if dtypes.contains(&Dtype::F8E4M3) {
        return Err("an argument is e4m3 where the kernel takes f32 or bf16".into());
    }
    Ok(())
}

fn norm(len: u32) -> Slot {
    Slot::Vector { len: u64::from(len), bf16: true }
}

fn f32s(len: u32) -> Slot {
    Slot::Vector { len: u64::from(len), bf16: false }
}

/// Refuses zeros among a kernel's extents.
fn extents(values: &[u32]) -> Result<(), String> {
    if values.contains(&0) { Err(format!("an extent is 0 in {values:?}")) } else { Ok(()) }
}

fn floats(values: &[f32]) -> Result<(), String> {
    if values.iter().all(|v| v.is_finite()) {
        Ok(())
    } else {
        Err(format!("a constant is not finite: {values:?}"))
    }
}

fn rotated(dim: u32, head_dim: u32) -> Result<(), String> {
    if dim > 0 && dim.is_multiple_of(2) && dim <= head_dim {
        Ok(())
    } else {
        Err(format!("{dim} rotated elements in a head of {head_dim}"))
    }
}

fn grouped(heads: u32, kv: Option<&KvLayer>) -> Result<(u64, &KvLayer), String> {
    let kv = kv.ok_or("no argument is a cache")?;
    if heads == 0 || kv.heads == 0 || !heads.is_multiple_of(kv.heads) {
        return Err(format!("{heads} query heads over {} key heads", kv.heads));
    }
    Ok((u64::from(heads), kv))
}

/// What a host kernel takes, place by place; `kv` is the cache among the arguments, `vocab` bounds token ids.
/// The error is one sentence about the kernel's constants.
pub fn signature(kernel: &HostKernel, kv: Option<&KvLayer>, vocab: u32) -> Result<Vec<Slot>, String> {
    let wide = u64::from;
    Ok(match *kernel {
        HostKernel::Embedding { width, scale, out } => {
            extents(&[width])?;
            floats(&[scale])?;
            plain(&[out])?;
            vec![
                Slot::Tokens,
                Slot::Matrix { n: wide(vocab), more: true, k: wide(width) },
                tokens(wide(width), out),
            ]
        }
        HostKernel::RmsNorm { width, per_token, eps, offset, rows: count, x, out } => {
            extents(&[width, per_token])?;
            floats(&[eps, offset])?;
            plain(&[x])?;
            if out == Dtype::F8E4M3 && per_token != 1 {
                return Err(format!("{per_token} normalised rows share a scale"));
            }
            let all = wide(width) * wide(per_token);
            let mut slots = vec![rows(count, all, x), norm(width)];
            slots.extend(scaled(count, all, out));
            slots
        }
        HostKernel::Quantize { width, rows: count, x } => {
            extents(&[width])?;
            plain(&[x])?;
            let mut slots = vec![rows(count, wide(width), x)];
            slots.extend(scaled(count, wide(width), Dtype::F8E4M3));
            slots
        }
        HostKernel::AddRmsNorm { width, eps, offset, rows: count, x, residual, h, out } => {
            extents(&[width])?;
            floats(&[eps, offset])?;
            plain(&[x, residual, h])?;
            let w = wide(width);
            let mut slots = vec![rows(count, w, x), rows(count, w, residual), norm(width), rows(count, w, h)];
            slots.extend(scaled(count, w, out));
            slots
        }
        HostKernel::Linear { n, k, rows: count, bias, residual, x, out } => {
            extents(&[n, k])?;
            plain(&[residual.unwrap_or(out), out])?;
            let mut slots: Vec<Slot> = scaled(count, wide(k), x).collect();
            slots.push(Slot::Matrix { n: wide(n), more: false, k: wide(k) });
            slots.extend(bias.then(|| f32s(n)));
            slots.extend(residual.map(|dtype| rows(count, wide(n), dtype)));
            slots.push(rows(count, wide(n), out));
            slots
        }
        HostKernel::Slice { of, start, width, x } => {
            extents(&[of, width])?;
            plain(&[x])?;
            if wide(start) + wide(width) > wide(of) {
                return Err(format!("columns {start}..{start} + {width} of {of}"));
            }
            vec![tokens(wide(of), x), tokens(wide(width), x)]
        }
        HostKernel::Add { width, rows: count, lhs, rhs, out } => {
            extents(&[width])?;
            plain(&[lhs, rhs, out])?;
            [lhs, rhs, out].map(|dtype| rows(count, wide(width), dtype)).into()
        }
        HostKernel::Rope { heads, head_dim, dim, x, out } => {
            extents(&[heads])?;
            rotated(dim, head_dim)?;
            plain(&[x, out])?;
            let all = wide(heads) * wide(head_dim);
            vec![tokens(all, x), Slot::Positions, f32s(dim / 2), tokens(all, out)]
        }
        HostKernel::KvAppend { x } => {
            let kv = kv.ok_or("no argument is a cache")?;
            plain(&[x])?;
            let width = wide(kv.heads) * wide(kv.head_dim);
            vec![tokens(width, x), tokens(width, x), Slot::Batch, Slot::Kv]
        }
        HostKernel::RopeKvAppend { heads, dim, q_norm, k_norm, x, out } => {
            let (heads, kv) = grouped(heads, kv)?;
            rotated(dim, kv.head_dim)?;
            plain(&[x, out])?;
            for (eps, offset) in q_norm.iter().chain(&k_norm) {
                floats(&[*eps, *offset])?;
            }
            let qkv = (heads + 2 * wide(kv.heads)) * wide(kv.head_dim);
            let mut slots = vec![tokens(qkv, x), Slot::Positions, f32s(dim / 2)];
            slots.extend(q_norm.map(|_| norm(kv.head_dim)));
            slots.extend(k_norm.map(|_| norm(kv.head_dim)));
            slots.extend([Slot::Batch, Slot::Kv, tokens(heads * wide(kv.head_dim), out)]);
            slots
        }
        HostKernel::Attention { heads, scale, softcap, products, x, out } => {
            let (heads, kv) = grouped(heads, kv)?;
            floats(&[scale, softcap.unwrap_or(0.0)])?;
            plain(&[x])?;
            if let Some(other) = products.filter(|dtype| *dtype != Dtype::F8E4M3) {
                return Err(format!("attention multiplies {other:?}, where e4m3 is served"));
            }
            let width = heads * wide(kv.head_dim);
            let mut slots = vec![tokens(width, x), Slot::Batch, Slot::Kv];
            slots.extend(scaled(Count::Tokens, width, out));
            slots
        }
        HostKernel::GatedAct { width, act: _, packed, rows: count, x, out } => {
            extents(&[width])?;
            plain(&[x])?;
            let w = wide(width);
            let mut slots = if packed { vec![rows(count, 2 * w, x)] } else { vec![rows(count, w, x); 2] };
            slots.extend(scaled(count, w, out));
            slots
        }
        HostKernel::Feed { last } => {
            extents(&[last])?;
            vec![Slot::Tokens, Slot::Ints { count: Count::Rows }, Slot::Ints { count: Count::Tokens }]
        }
        HostKernel::Sample { vocab: width } => {
            extents(&[width])?;
            if width != vocab {
                return Err(format!("rows of {width} logits, the vocabulary has {vocab}"));
            }
            let f32s = |width| rows(Count::Rows, width, Dtype::F32);
            vec![f32s(wide(vocab)), Slot::Draws, Slot::Masks, Slot::Ints { count: Count::Rows }, f32s(1)]
        }
        HostKernel::GatherRows { width, x } => {
            extents(&[width])?;
            plain(&[x])?;
            vec![tokens(wide(width), x), Slot::Rows, rows(Count::Rows, wide(width), x)]
        }
    })
}
