//! `kv-layout`: the page size and the element type of every cache.
//!
//! A page holds `(2, heads, page_tokens, head_dim)` of one layer, and of an e4m3 cache as many f32 scales as it has keys
//! and values of heads. Larger pages mean longer runs of contiguous keys
//! for a kernel; smaller ones waste less at the end of a sequence and share more prefixes. Not here: how many
//! pages there are (the runtime decides by the memory it finds).

use crate::{Changed, Pass, PassCx, Property};
use trtc_ir::{DType, Diag, Loc, Module, Type};

/// The pass.
pub const PASS: Pass = Pass {
    name: "kv-layout",
    summary: "sets the page size and the element type of every cache",
    requires: &[],
    ensures: &[Property::KvLaidOut],
    run,
};

/// Options of the cache.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct KvOptions {
    /// Tokens in a page, a power of two; `None` takes the target's default.
    pub page_tokens: Option<u32>,
    /// Element type; `None` takes the precision's, or leaves it where there is no precision.
    pub dtype: Option<DType>,
}

/// What `--kv-precision` takes.
pub const KV_PRECISIONS: [(&str, DType); 3] =
    [("fp32", DType::F32), ("bf16", DType::Bf16), ("fp8", DType::F8E4M3)];

/// The element type of a cache of the precision called `name`.
pub fn kv_precision(name: &str) -> Option<DType> {
    KV_PRECISIONS.iter().find(|(n, _)| *n == name).map(|(_, dtype)| *dtype)
}

/// Tokens in a page on the CPU, where a page of one head fits the first-level cache.
const HOST_PAGE: u32 = 32;
/// Tokens in a page on a GPU: one tile of keys of the attention kernels.
const GPU_PAGE: u32 = 64;

fn run(module: &mut Module, cx: &PassCx<'_>) -> Result<Changed, Diag> {
    let here = Loc::name(&module.name);
    let page = cx.kv.page_tokens.unwrap_or(if cx.target.gpu.is_some() { GPU_PAGE } else { HOST_PAGE });
    if !page.is_power_of_two() {
        return Err(Diag::user(&here, format!("a cache page of {page} tokens"))
            .help("choose a power of two: 16, 32, 64 and 128 are usual"));
    }
    if let Some(d) = cx.kv.dtype.filter(|d| KV_PRECISIONS.iter().all(|(_, known)| known != d)) {
        return Err(Diag::unsupported(&here, format!("a cache of {d}")).help("choose bf16, f32 or e4m3"));
    }
    let converts = cx.target.gpu.as_ref().is_none_or(|g| g.matrix_types.contains(&DType::F8E4M3));
    if cx.kv.dtype == Some(DType::F8E4M3) && !converts {
        let what = format!("{} has no instructions for an e4m3 cache ({})", cx.target.name, cx.target.title);
        return Err(Diag::unsupported(&here, what).help("choose a cache of bf16"));
    }
    let dtype = cx.kv.dtype.or(cx.precision.map(|p| p.kv));
    let mut changed = false;
    for id in module.func.values.ids() {
        if let Type::Kv(kv) = &mut module.func.values[id].ty {
            let old = kv.clone();
            kv.page = Some(page);
            kv.dtype = dtype.unwrap_or(kv.dtype);
            changed |= *kv != old;
        }
    }
    Ok(changed.into())
}
