//! Every host kernel through the device's own interface, against naive references in f64.
//!
//! Inputs are random with a fixed seed; outputs are filled with NaN before a launch, so a place that a kernel forgets
//! is seen. Expected values are computed from the same rounded inputs and dequantised weights.

mod attention;
mod device;
mod e4m3;
mod linear;
mod rope;
mod rows;
mod sampling;

use super::{HostDevice, HostOptions, Isa};
use crate::device::{Bindings, Buffer, Call, Device, Region, StepDims, WeightRegions};
use crate::error::Error;
use half::bf16;
use trtc_engine::layout::{self, F8Row, I4Row, I8Row, PANEL, Packed, Part};
use trtc_engine::manifest::*;

/// xorshift64*.
struct Rng(u64);

impl Rng {
    fn new(seed: u64) -> Rng {
        Rng(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Below `n`.
    fn below(&mut self, n: usize) -> usize {
        (self.next() >> 33) as usize % n
    }

    /// Within -1..1.
    fn unit(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    fn units(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.unit()).collect()
    }
}

/// The instruction sets of this processor.
fn isas() -> impl Iterator<Item = Isa> {
    Isa::ALL.into_iter().filter(|i| i.available())
}

const DTYPES: [Dtype; 2] = [Dtype::F32, Dtype::Bf16];

fn round(x: f32, dtype: Dtype) -> f32 {
    if dtype == Dtype::F32 { x } else { bf16::from_f32(x).to_f32() }
}

fn rounded(x: &[f32], dtype: Dtype) -> Vec<f32> {
    x.iter().map(|&v| round(v, dtype)).collect()
}

fn encode(x: &[f32], dtype: Dtype) -> Vec<u8> {
    let mut out = Vec::new();
    match dtype {
        Dtype::F8E4M3 => out.resize(x.len(), 0xff),
        _ => layout::pack_rows(x, dtype, &mut out).unwrap(),
    }
    out
}

/// Rows in e4m3 by the definition: codes, and a scale for each row.
fn quantised(x: &[f32], width: usize) -> (Vec<u8>, Vec<f32>) {
    quantised_by(x, width, |greatest| match greatest / 448.0 {
        scale if scale < f32::MIN_POSITIVE => 1.0,
        scale => scale,
    })
}

/// The same with scales that follow from the greatest magnitudes.
fn quantised_by(x: &[f32], width: usize, scale: impl Fn(f32) -> f32) -> (Vec<u8>, Vec<f32>) {
    let numbers: Vec<f32> = (0..0x7f).map(layout::e4m3).collect();
    let nearest = |x: f32| {
        let above = numbers.partition_point(|&n| n < x.abs()).min(0x7e);
        let below = above.saturating_sub(1);
        let (down, up) = (x.abs() - numbers[below], numbers[above] - x.abs());
        let code = if up < down || up == down && above % 2 == 0 { above } else { below };
        code as u8 | if x.is_sign_negative() { 0x80 } else { 0 }
    };
    let mut scales = vec![];
    let codes = x.chunks_exact(width).flat_map(|row| {
        let scale = scale(row.iter().fold(0f32, |m, v| m.max(v.abs())));
        scales.push(scale);
        row.iter().map(move |v| nearest(v / scale)).collect::<Vec<u8>>()
    });
    (codes.collect(), scales)
}

/// What is left of rows that are stored in a type.
fn kept(x: &[f32], width: usize, dtype: Dtype) -> Vec<f32> {
    if dtype != Dtype::F8E4M3 {
        return rounded(x, dtype);
    }
    let (codes, scales) = quantised(x, width);
    let rows = codes.chunks_exact(width).zip(scales);
    rows.flat_map(|(row, s)| row.iter().map(move |&c| layout::e4m3(c) * s)).collect()
}

/// Distance that rounding to `dtype` may add to `x`, and some for the order of f32 sums of size `sum`.
fn tolerance(x: f64, sum: f64, dtype: Dtype) -> f64 {
    let rounding = if dtype == Dtype::F32 { 6e-8 } else { 1.0 / 256.0 };
    rounding * x.abs() + 2e-6 * sum + 1e-12
}

/// A step's requests: tokens before the step, tokens of the step, pages.
#[derive(Clone, Debug)]
struct Seq {
    past: usize,
    new: usize,
    pages: Vec<i32>,
}

/// One device with what a kernel needs around it.
struct Rig {
    device: HostDevice,
    manifest: Manifest,
    bind: Bindings,
    /// Bytes of the arena in use.
    used: u64,
    dims: StepDims,
}

const ARENA: u64 = 24 << 20;
const MAX_SEQ: u32 = 4096;

impl Rig {
    fn new(isa: Isa, threads: usize) -> Rig {
        Rig::with_cache(isa, threads, Kv { page_tokens: 1, dtype: Dtype::F32, layers: vec![] }, 0)
    }

    fn with_cache(isa: Isa, threads: usize, kv: Kv, pages: u64) -> Rig {
        let mut device = HostDevice::with_isa(HostOptions { threads: Some(threads) }, isa).unwrap();
        let mut take = |bytes: u64| device.alloc(bytes, "test").unwrap();
        let layers: Vec<Buffer> = kv.layers.iter().map(|l| take(pages * kv.page_bytes(l))).collect();
        let bind = Bindings {
            arena: take(ARENA),
            weights: vec![],
            kv: layers,
            tokens: take(1 << 16),
            positions: take(1 << 16),
            rows: take(1 << 16),
            draws: take(1 << 16),
            masks: take(1 << 12),
            query_start: take(1 << 12),
            context: take(1 << 12),
            block_table: take(1 << 20),
            table_width: 0,
            pages: 0,
            limits: Dims::default(),
            scratch: take(0),
            counters: take(0),
        };
        Rig { device, manifest: manifest(kv), bind, used: 0, dims: StepDims::NONE }
    }

    fn place(&mut self, bytes: &[u8]) -> Arg {
        let at = self.used;
        self.used = (at + bytes.len() as u64).next_multiple_of(64);
        assert!(self.used <= ARENA);
        self.device.upload(self.bind.arena, at, bytes).unwrap();
        Arg::Arena(at)
    }

    /// Activations.
    fn input(&mut self, x: &[f32], dtype: Dtype) -> Arg {
        self.place(&encode(x, dtype))
    }

    /// Rows of activations: one argument, or two.
    fn rows(&mut self, x: &[f32], width: usize, dtype: Dtype) -> Vec<Arg> {
        if dtype != Dtype::F8E4M3 {
            return vec![self.input(x, dtype)];
        }
        let (codes, scales) = quantised(x, width);
        vec![self.place(&codes), self.input(&scales, Dtype::F32)]
    }

    /// Room for a result, full of NaN.
    fn output(&mut self, count: usize, dtype: Dtype) -> Arg {
        self.place(&encode(&vec![f32::NAN; count], dtype))
    }

    fn read(&mut self, arg: Arg, count: usize, dtype: Dtype) -> Vec<f32> {
        let Arg::Arena(at) = arg else { panic!("{arg:?} is not in the arena") };
        self.read_buffer(self.bind.arena, at, count, dtype)
    }

    fn read_buffer(&mut self, buffer: Buffer, at: u64, count: usize, dtype: Dtype) -> Vec<f32> {
        let mut bytes = vec![0; count * dtype.bytes() as usize];
        self.device.download(buffer, at, &mut bytes).unwrap();
        decode(&bytes, dtype)
    }

    /// Places a weight; its tensors are the parts.
    fn weight(&mut self, shape: &[usize], encoding: Encoding, layout: Layout, parts: &Packed) -> Arg {
        let mut region = |bytes: &[u8]| {
            let buffer = self.device.alloc(bytes.len() as u64, "weight").unwrap();
            self.device.upload(buffer, 0, bytes).unwrap();
            Region { buffer, offset: 0, len: bytes.len() as u64 }
        };
        let payload = region(&parts.payload);
        let scale = (!parts.scale.is_empty()).then(|| region(&parts.scale));
        let zero = (!parts.zero.is_empty()).then(|| region(&parts.zero));
        self.bind.weights.push(WeightRegions { payload, scale, zero });
        let name = format!("w{}", self.manifest.weights.len());
        let shape = shape.iter().map(|&d| d as u64).collect();
        self.manifest.weights.push(Weight { name, shape, encoding, layout, computed: false });
        Arg::Weight(self.manifest.weights.len() as u32 - 1)
    }

    /// A vector in f32.
    fn vector(&mut self, x: &[f32]) -> Arg {
        let parts = Packed { payload: encode(x, Dtype::F32), ..Packed::default() };
        self.weight(&[x.len()], Encoding::F32, Layout::Rows, &parts)
    }

    /// Step's requests: fills segments, contexts, tables and positions.
    fn batch(&mut self, seqs: &[Seq]) {
        let width = seqs.iter().map(|s| s.pages.len()).max().unwrap_or(0);
        self.bind.table_width = width as u32;
        let mut starts = vec![0];
        let (mut contexts, mut table, mut positions) = (vec![], vec![], vec![]);
        for s in seqs {
            starts.push(starts[starts.len() - 1] + s.new as i32);
            contexts.push((s.past + s.new) as i32);
            positions.extend(s.past as i32..(s.past + s.new) as i32);
            table.extend(s.pages.iter().copied().chain(std::iter::repeat(-1)).take(width));
        }
        self.dims =
            StepDims { tokens: positions.len() as u32, rows: 0, seqs: seqs.len() as u32, ..StepDims::NONE };
        let b = self.bind.clone();
        for (buffer, list) in
            [(b.query_start, starts), (b.context, contexts), (b.block_table, table), (b.positions, positions)]
        {
            self.ints(buffer, &list);
        }
    }

    fn ints(&mut self, buffer: Buffer, list: &[i32]) {
        let bytes: Vec<u8> = list.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.device.upload(buffer, 0, &bytes).unwrap();
    }

    fn try_run(&mut self, kernel: HostKernel, args: &[Arg]) -> Result<(), Error> {
        let kernel = Kernel { name: "test".into(), code: Code::Host(kernel), contract: String::new() };
        self.device.load(&self.manifest, &|_| Ok(vec![])).unwrap();
        self.device.launch(Call { kernel: (0, &kernel), args, loc: "" }, &self.bind, self.dims)
    }

    fn run(&mut self, kernel: HostKernel, args: &[Arg]) {
        self.try_run(kernel, args).unwrap();
    }
}

fn decode(bytes: &[u8], dtype: Dtype) -> Vec<f32> {
    match dtype {
        Dtype::F32 => bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect(),
        Dtype::Bf16 => bytes.chunks_exact(2).map(|b| bf16::from_le_bytes([b[0], b[1]]).to_f32()).collect(),
        Dtype::F8E4M3 => bytes.iter().map(|&b| layout::e4m3(b)).collect(),
    }
}

fn manifest(kv: Kv) -> Manifest {
    Manifest {
        format: FORMAT,
        target: "host".into(),
        capability: None,
        precision: "bf16".into(),
        deterministic: false,
        model: Model {
            name: "test".into(),
            arch: "test".into(),
            vocab: 1,
            hidden: 1,
            layers: 1,
            parameters: 1,
            bos: None,
            eos: vec![],
            context: MAX_SEQ,
        },
        dims: Dims { max_batch: 64, max_seq_len: MAX_SEQ, max_step_tokens: 4096, max_logit_rows: 64 },
        arena: ARENA,
        kv,
        weights: vec![],
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

/// Any number in e4m3.
fn e4m3_code(rng: &mut Rng) -> u8 {
    let code = rng.below(256) as u8;
    if code & 0x7f == 0x7f { 0 } else { code }
}

/// A random matrix: its tensors and its values.
struct Matrix {
    n: usize,
    k: usize,
    encoding: Encoding,
    layout: Layout,
    parts: Packed,
    /// `(n, k)`, what the stored form stands for.
    values: Vec<f32>,
}

impl Matrix {
    fn random(rng: &mut Rng, n: usize, k: usize, encoding: Encoding, layout: Layout) -> Matrix {
        let mut parts = Packed::default();
        let x = rng.units(n * k);
        let rows: Vec<&[f32]> = x.chunks_exact(k).collect();
        match (layout, encoding) {
            (Layout::Rows, Encoding::F32) => layout::pack_rows(&x, Dtype::F32, &mut parts.payload).unwrap(),
            (Layout::Rows, Encoding::Bf16) => layout::pack_rows(&x, Dtype::Bf16, &mut parts.payload).unwrap(),
            (_, Encoding::F32) => {
                rows.chunks(PANEL).for_each(|p| layout::pack_panel_f32(p, &mut parts.payload).unwrap());
            }
            (_, Encoding::Bf16) => {
                rows.chunks(PANEL).for_each(|p| layout::pack_panel_bf16(p, &mut parts.payload).unwrap());
            }
            (Layout::Rows, _) => panic!("{encoding:?} does not lie in rows here"),
            (_, Encoding::I8Channel) => {
                let q: Vec<i8> = (0..n * k).map(|_| rng.below(256) as u8 as i8).collect();
                let rows: Vec<I8Row<'_>> =
                    q.chunks_exact(k).map(|q| I8Row { q, scale: 0.001 + rng.unit().abs() * 0.01 }).collect();
                rows.chunks(PANEL).for_each(|p| layout::pack_panel_i8(p, layout, &mut parts).unwrap());
            }
            (_, Encoding::F8Channel) => {
                let q: Vec<u8> = (0..n * k).map(|_| e4m3_code(rng)).collect();
                let rows: Vec<F8Row<'_>> =
                    q.chunks_exact(k).map(|q| F8Row { q, scale: 0.001 + rng.unit().abs() * 0.01 }).collect();
                rows.chunks(PANEL).for_each(|p| layout::pack_panel_f8(p, &mut parts).unwrap());
            }
            (_, Encoding::I4Group { group }) => {
                let groups = k.div_ceil(group as usize);
                let mut nibbles = |n: usize| (0..n).map(|_| rng.below(16) as i8 - 8).collect::<Vec<i8>>();
                let (q, zero) = (nibbles(n * k), nibbles(n * groups));
                let scale: Vec<bf16> =
                    (0..n * groups).map(|_| bf16::from_f32(0.01 + rng.unit().abs() * 0.1)).collect();
                let rows: Vec<I4Row<'_>> = (0..n)
                    .map(|r| I4Row {
                        q: &q[r * k..(r + 1) * k],
                        scale: &scale[r * groups..(r + 1) * groups],
                        zero: &zero[r * groups..(r + 1) * groups],
                    })
                    .collect();
                rows.chunks(PANEL).for_each(|p| layout::pack_panel_i4(p, group, layout, &mut parts).unwrap());
            }
        }
        let weight =
            Weight { name: "w".into(), shape: vec![n as u64, k as u64], encoding, layout, computed: false };
        let mut values = vec![0.0; n * k];
        let [payload, scale, zero] = [Part::Payload, Part::Scale, Part::Zero].map(|p| parts.part(p));
        for (i, row) in values.chunks_exact_mut(k).enumerate() {
            layout::unpack_row(&weight, payload, scale, zero, i as u64, row).unwrap();
        }
        Matrix { n, k, encoding, layout, parts, values }
    }

    fn place(&self, rig: &mut Rig) -> Arg {
        rig.weight(&[self.n, self.k], self.encoding, self.layout, &self.parts)
    }
}

/// All forms of a matrix that kernels read.
const FORMS: [(Encoding, Layout); 9] = [
    (Encoding::F32, Layout::Rows),
    (Encoding::Bf16, Layout::Rows),
    (Encoding::F32, Layout::Panel16),
    (Encoding::Bf16, Layout::Panel16),
    (Encoding::I8Channel, Layout::Panel16),
    (Encoding::F8Channel, Layout::Panel16),
    (Encoding::I4Group { group: 32 }, Layout::Panel16),
    (Encoding::I4Group { group: 64 }, Layout::Panel16),
    (Encoding::I4Group { group: 128 }, Layout::Panel16),
];
