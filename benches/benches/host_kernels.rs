//! The host device's kernels at the shapes of small models: decoding (T = 1, 8) beside the machine's read bandwidth,
//! prefill (T = 512) in GFLOP/s.
//!
//! Weights are rotated past the last-level cache. Figures are printed; nothing is asserted.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use std::time::{Duration, Instant};
use trtc_engine::layout::sizes;
use trtc_engine::manifest::*;
use trtc_runtime::device::host::{HostDevice, HostOptions, cores, read_bandwidth};
use trtc_runtime::device::{Bindings, Buffer, Call, Device, Region, StepDims, WeightRegions};
use trtc_runtime::error::Error;

/// Bytes of weights that launches rotate through.
const ROTATED: u64 = 160 << 20;

/// One device with one kernel and the copies of its weight.
pub struct Bench {
    device: HostDevice,
    kernel: Kernel,
    calls: Vec<Vec<Arg>>,
    bind: Bindings,
    dims: StepDims,
    next: usize,
    /// Bytes of weights that one launch reads.
    pub bytes: u64,
    /// Floating-point operations of one launch.
    pub flops: u64,
}

/// Bytes that stand for weights: small bf16 and f32 values, any i8 and i4.
fn fill(bytes: u64, encoding: Encoding, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let mut word = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let mut out = Vec::with_capacity(bytes as usize + 8);
    while (out.len() as u64) < bytes {
        let bits = word();
        // Exponents of values around 2^-6.
        let small = bits & 0x807f_807f_807f_807f | 0x3c00_3c00_3c00_3c00;
        let floats = matches!(encoding, Encoding::F32 | Encoding::Bf16);
        out.extend_from_slice(&(if floats { small } else { bits }).to_le_bytes());
    }
    out.truncate(bytes as usize);
    out
}

fn place(device: &mut HostDevice, bytes: &[u8]) -> Result<Region, Error> {
    let buffer = device.alloc(bytes.len() as u64, "weights")?;
    device.upload(buffer, 0, bytes)?;
    Ok(Region { buffer, offset: 0, len: bytes.len() as u64 })
}

fn bindings(device: &mut HostDevice, arena: u64) -> Result<Bindings, Error> {
    let mut take = |bytes: u64| -> Result<Buffer, Error> { device.alloc(bytes, "bench") };
    Ok(Bindings {
        arena: take(arena)?,
        weights: vec![],
        kv: vec![],
        tokens: take(64)?,
        positions: take(64)?,
        rows: take(64)?,
        draws: take(64)?,
        masks: take(64)?,
        query_start: take(1 << 12)?,
        context: take(1 << 12)?,
        block_table: take(1 << 16)?,
        table_width: 0,
        pages: 0,
        limits: Dims::default(),
        scratch: take(0)?,
        counters: take(0)?,
    })
}

fn manifest(weights: Vec<Weight>, kv: Kv) -> Manifest {
    Manifest {
        format: FORMAT,
        target: "host".into(),
        capability: None,
        precision: "bf16".into(),
        deterministic: false,
        model: Model {
            name: "bench".into(),
            arch: "bench".into(),
            vocab: 1,
            hidden: 1,
            layers: 1,
            parameters: 1,
            bos: None,
            eos: vec![],
            context: 1,
        },
        dims: Dims { max_batch: 64, max_seq_len: 8192, max_step_tokens: 8192, max_logit_rows: 64 },
        arena: 0,
        kv,
        weights,
        dummy_seed: None,
        kernels: vec![],
        launches: vec![],
        logits: 0,
        sampled: None,
        text: None,
        generation: Generation::default(),
        provenance: Provenance::default(),
    }
}

impl Bench {
    /// A linear `(n, k)` of `tokens` tokens.
    pub fn linear(
        (n, k): (u64, u64),
        (encoding, x): (Encoding, Dtype),
        tokens: u64,
        threads: usize,
    ) -> Result<Bench, Error> {
        let mut device = HostDevice::new(HostOptions { threads: Some(threads) })?;
        let out = Dtype::F32;
        let (x_bytes, out_bytes) = (tokens * k * x.bytes(), tokens * n * out.bytes());
        let out_at = x_bytes.next_multiple_of(64);
        let mut bind = bindings(&mut device, out_at + out_bytes)?;
        device.upload(bind.arena, 0, &fill(x_bytes, Encoding::Bf16, 7))?;
        let size = sizes(&[n, k], encoding, Layout::Panel16).map_err(|e| Error::bug(e.to_string()))?;
        let bytes = size.payload + size.scale + size.zero;
        let mut weights = vec![];
        for copy in 0..ROTATED.div_ceil(bytes).min(64) {
            let payload = place(&mut device, &fill(size.payload, encoding, copy + 1))?;
            let scale = place(&mut device, &fill(size.scale, Encoding::Bf16, copy + 2))?;
            let zero = place(&mut device, &vec![1; size.zero as usize])?;
            let region = |r: Region| (r.len > 0).then_some(r);
            bind.weights.push(WeightRegions { payload, scale: region(scale), zero: region(zero) });
            let (name, shape) = (format!("w{copy}"), vec![n, k]);
            weights.push(Weight { name, shape, encoding, layout: Layout::Panel16, computed: false });
        }
        let calls =
            (0..weights.len() as u32).map(|i| vec![Arg::Arena(0), Arg::Weight(i), Arg::Arena(out_at)]);
        let calls = calls.collect();
        device.load(&manifest(weights, Kv { page_tokens: 1, dtype: x, layers: vec![] }), &|_| Ok(vec![]))?;
        let rows = Count::Tokens;
        let code = HostKernel::Linear { n: n as u32, k: k as u32, rows, bias: false, residual: None, x, out };
        let kernel = Kernel { name: "linear".into(), code: Code::Host(code), contract: String::new() };
        let dims = StepDims { tokens: tokens as u32, rows: 0, seqs: 0, ..StepDims::NONE };
        Ok(Bench { device, kernel, calls, bind, dims, next: 0, bytes, flops: 2 * n * k * tokens })
    }

    /// Attention of the last `tokens` of `context` tokens of `seqs` requests; bytes are those of keys and values.
    pub fn attention(
        (heads, kv_heads, head_dim): (u64, u64, u64),
        (x, kv_type): (Dtype, Dtype),
        (seqs, tokens, context): (u64, u64, u64),
        threads: usize,
    ) -> Result<Bench, Error> {
        let mut device = HostDevice::new(HostOptions { threads: Some(threads) })?;
        let page_tokens = 32u64;
        let width = context.div_ceil(page_tokens);
        let bytes = x.bytes() * seqs * tokens * heads * head_dim;
        let out_at = bytes.next_multiple_of(64);
        let mut bind = bindings(&mut device, out_at + bytes)?;
        device.upload(bind.arena, 0, &fill(bytes, Encoding::Bf16, 7))?;
        let layer = KvLayer { heads: kv_heads as u32, head_dim: head_dim as u32, window: None };
        let kv = Kv { page_tokens: page_tokens as u32, dtype: kv_type, layers: vec![layer] };
        bind.kv =
            vec![place(&mut device, &fill(seqs * width * kv.page_bytes(&layer), Encoding::Bf16, 3))?.buffer];
        bind.table_width = width as u32;
        let ints = |list: Vec<u64>| list.iter().flat_map(|&v| (v as i32).to_le_bytes()).collect::<Vec<u8>>();
        device.upload(bind.query_start, 0, &ints((0..=seqs).map(|s| s * tokens).collect()))?;
        device.upload(bind.context, 0, &ints(vec![context; seqs as usize]))?;
        device.upload(bind.block_table, 0, &ints((0..seqs * width).collect()))?;
        device.load(&manifest(vec![], kv), &|_| Ok(vec![]))?;
        let out = x;
        let scale = 1.0 / (head_dim as f32).sqrt();
        let code =
            HostKernel::Attention { heads: heads as u32, scale, softcap: None, products: None, x, out };
        let kernel = Kernel { name: "attention".into(), code: Code::Host(code), contract: String::new() };
        let calls = vec![vec![Arg::Arena(0), Arg::Batch, Arg::Kv(0), Arg::Arena(out_at)]];
        let dims = StepDims { tokens: (seqs * tokens) as u32, rows: 0, seqs: seqs as u32, ..StepDims::NONE };
        let pairs: u64 = (context - tokens + 1..=context).sum::<u64>() * seqs;
        let (bytes, flops) =
            (2 * kv_type.bytes() * seqs * context * kv_heads * head_dim, 4 * pairs * heads * head_dim);
        Ok(Bench { device, kernel, calls, bind, dims, next: 0, bytes, flops })
    }

    /// Executes once, with the next copy of the weight.
    pub fn launch(&mut self) -> Result<(), Error> {
        self.next = (self.next + 1) % self.calls.len();
        let call = Call { kernel: (0, &self.kernel), args: &self.calls[self.next], loc: "" };
        self.device.launch(call, &self.bind, self.dims)
    }

    /// Time of `count` launches.
    pub fn time(&mut self, count: u64) -> Result<Duration, Error> {
        let start = Instant::now();
        (0..count).try_for_each(|_| self.launch())?;
        Ok(start.elapsed())
    }
}

/// `(n, k)` of the matrices of a layer, and of the head.
pub const SHAPES: [(&str, u64, u64); 10] = [
    ("smollm2 qkv", 960, 576),
    ("smollm2 o", 576, 576),
    ("smollm2 gate_up", 3072, 576),
    ("smollm2 down", 576, 1536),
    ("smollm2 head", 49152, 576),
    ("qwen2.5 qkv", 1152, 896),
    ("qwen2.5 o", 896, 896),
    ("qwen2.5 gate_up", 9728, 896),
    ("qwen2.5 down", 896, 4864),
    ("qwen2.5 head", 151_936, 896),
];

/// Encodings by name, each with the type of the activations that it is multiplied with.
pub const ENCODINGS: [(&str, (Encoding, Dtype)); 5] = [
    ("fp32", (Encoding::F32, Dtype::F32)),
    ("bf16", (Encoding::Bf16, Dtype::F32)),
    ("bf16 by bf16", (Encoding::Bf16, Dtype::Bf16)),
    ("int8", (Encoding::I8Channel, Dtype::Bf16)),
    ("int4", (Encoding::I4Group { group: 64 }, Dtype::Bf16)),
];

/// Types of queries and cache.
pub const TYPES: [(Dtype, Dtype); 3] =
    [(Dtype::F32, Dtype::F32), (Dtype::F32, Dtype::Bf16), (Dtype::Bf16, Dtype::Bf16)];

fn run(c: &mut Criterion, group: &str, id: BenchmarkId, made: Result<Bench, Error>, throughput: Throughput) {
    let mut bench = match made {
        Ok(bench) => bench,
        Err(e) => return eprintln!("{group}: {e}"),
    };
    let mut group = c.benchmark_group(group);
    group.throughput(throughput);
    group.bench_function(id, |b| {
        b.iter_custom(|count| {
            bench.time(count).unwrap_or_else(|e| {
                eprintln!("{e}");
                Duration::ZERO
            })
        });
    });
    group.finish();
}

fn linears(c: &mut Criterion) {
    let threads = cores();
    println!("read bandwidth, {threads} threads: {:.1} GB/s", read_bandwidth(threads as u32) / 1e9);
    for tokens in [1, 8, 512] {
        for (encoding_name, encoding) in ENCODINGS {
            for (name, n, k) in SHAPES {
                // The head is computed for the last token of a prompt only.
                if tokens > 8 && name.ends_with("head") {
                    continue;
                }
                let made = Bench::linear((n, k), encoding, tokens, threads);
                let throughput = match &made {
                    Ok(b) if tokens > 8 => Throughput::Elements(b.flops),
                    Ok(b) => Throughput::Bytes(b.bytes),
                    Err(_) => Throughput::Elements(1),
                };
                let id = BenchmarkId::new(encoding_name, name);
                run(c, &format!("linear T={tokens}"), id, made, throughput);
            }
        }
    }
}

fn attentions(c: &mut Criterion) {
    let threads = cores();
    for (name, heads, kv_heads) in [("smollm2", 9, 3), ("qwen2.5", 14, 2)] {
        for types in TYPES {
            for part in [(1, 1, 512), (8, 1, 512), (1, 1, 4096), (1, 512, 512), (1, 512, 4096)] {
                let made = Bench::attention((heads, kv_heads, 64), types, part, threads);
                let flops = made.as_ref().map_or(1, |b| b.flops);
                let id = BenchmarkId::new(name, format!("{types:?} {part:?}"));
                run(c, "attention", id, made, Throughput::Elements(flops));
            }
        }
    }
}

fn config() -> Criterion {
    Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(600))
}

criterion_group! { name = benches; config = config(); targets = linears, attentions }
criterion_main!(benches);
