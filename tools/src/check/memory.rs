//! The device memory of a check: one arena of poisoned regions, weights, caches, the step's tables.

use crate::render::Failure;
use std::rc::Rc;
use trtc_engine::EngineFile;
use trtc_engine::dummy;
use trtc_engine::layout::{Part, sizes, unpack_row};
use trtc_engine::manifest::{Arg, DRAW, Dims, Dtype, Encoding, Launch, Layout, Manifest};
use trtc_ir::interp::Tensor;
use trtc_ir::random::Random;
use trtc_runtime::device::{Bindings, Buffer, Device, Region, WeightRegions};

/// Bytes behind each region that must stay as they are.
const GUARD: u64 = 256;
/// What memory is filled with: NaN in every type.
const POISON: u8 = 0xff;

/// A region of the arena.
#[derive(Clone, Copy)]
pub struct Place {
    /// First byte.
    pub at: u64,
    /// Bytes.
    pub len: u64,
}

/// All of it.
pub struct Memory<'a> {
    pub device: Box<dyn Device>,
    pub bind: Bindings,
    file: &'a EngineFile,
    arena: u64,
    used: u64,
    seed: u64,
    scratch: u64,
    counters: u64,
}

impl<'a> Memory<'a> {
    /// Takes an arena of `arena` bytes, tables for `tokens` tokens, and caches of `pages` pages.
    pub fn new(
        mut device: Box<dyn Device>,
        file: &'a EngineFile,
        (arena, tokens, pages): (u64, u64, u64),
        seed: u64,
    ) -> Result<Memory<'a>, Failure> {
        let m = file.manifest();
        let width = m.dims.max_seq_len.div_ceil(m.kv.page_tokens.max(1));
        let d = &mut *device;
        let mut ints = |n: u64, what: &str| d.alloc(4 * n, what);
        let (token_ids, positions, rows) =
            (ints(tokens, "token ids")?, ints(tokens, "positions")?, ints(tokens, "rows")?);
        let (query_start, context) = (ints(tokens + 1, "segments")?, ints(tokens, "contexts")?);
        let block_table = ints(tokens * u64::from(width), "block tables")?;
        let kv = m.kv.layers.iter().map(|l| device.alloc(pages * m.kv.page_bytes(l), "KV cache"));
        let kv = kv.collect::<Result<_, _>>()?;
        let all = u32::try_from(tokens).unwrap_or(u32::MAX);
        let dims = Dims { max_batch: all, max_step_tokens: all, max_logit_rows: all, ..m.dims };
        let (scratch, counters) = m.scratch(&dims);
        let none = Region { buffer: Buffer(0), offset: 0, len: 0 };
        let bind = Bindings {
            arena: device.alloc(arena, "arena")?,
            weights: vec![WeightRegions { payload: none, scale: None, zero: None }; m.weights.len()],
            kv,
            tokens: token_ids,
            positions,
            rows,
            draws: device.alloc(4 * u64::from(DRAW) * tokens, "draws")?,
            masks: device.alloc(4 * m.mask_words() as u64 * tokens, "masks")?,
            query_start,
            context,
            block_table,
            table_width: width,
            pages: u32::try_from(pages).unwrap_or(u32::MAX),
            limits: dims,
            scratch: device.alloc(scratch, "scratch memory")?,
            counters: device.alloc(4 * counters, "counters")?,
        };
        Ok(Memory { device, bind, file, arena, used: 0, seed, scratch, counters })
    }

    /// The engine.
    pub fn manifest(&self) -> &'a Manifest {
        self.file.manifest()
    }

    /// Forgets the regions.
    pub fn reset(&mut self) {
        self.used = 0;
    }

    /// Forgets the regions and fills the arena and the scratch memory with NaN, which nobody is to read.
    pub fn clear(&mut self) -> Result<(), Failure> {
        self.reset();
        for (buffer, len) in [(self.bind.scratch, self.scratch), (self.bind.arena, self.arena)] {
            self.device.upload(buffer, 0, &vec![POISON; len as usize])?;
            self.device.forget(Region { buffer, offset: 0, len })?;
        }
        Ok(())
    }

    /// Fills the cache that a launch uses with NaN. Whole pages may be copied; nothing is to come of what no kernel stored.
    pub fn poison_cache(&mut self, launch: &Launch) -> Result<(), Failure> {
        for layer in
            launch.args.iter().filter_map(|a| if let Arg::Kv(i) = a { Some(*i as usize) } else { None })
        {
            let kv = &self.manifest().kv;
            let len = u64::from(self.bind.pages) * kv.page_bytes(&kv.layers[layer]);
            self.device.upload(self.bind.kv[layer], 0, &vec![POISON; len as usize])?;
        }
        Ok(())
    }

    /// A layer's cache as it lies on the device.
    pub fn cache(&mut self, layer: usize) -> Result<Vec<u8>, Failure> {
        let kv = &self.manifest().kv;
        let mut bytes = vec![0; (u64::from(self.bind.pages) * kv.page_bytes(&kv.layers[layer])) as usize];
        self.device.download(self.bind.kv[layer], 0, &mut bytes)?;
        Ok(bytes)
    }

    /// True if all counters are 0, as a kernel has to leave them.
    pub fn counters_rest(&mut self) -> Result<bool, Failure> {
        let mut counters = vec![0; 4 * self.counters as usize];
        self.device.download(self.bind.counters, 0, &mut counters)?;
        Ok(counters.iter().all(|&b| b == 0))
    }

    /// Bytes of the arena that a region of `bytes` bytes takes.
    pub fn room(bytes: u64) -> u64 {
        (bytes + GUARD).next_multiple_of(256)
    }

    /// Takes a region for `count` elements.
    pub fn place(&mut self, count: usize, dtype: Dtype) -> Result<Place, Failure> {
        let place = Place { at: self.used, len: count as u64 * dtype.bytes() };
        self.used = place.at + Self::room(place.len);
        if self.used > self.arena {
            return Err(Failure::bug("the arena of a check is too small"));
        }
        Ok(place)
    }

    /// Stores rounded elements.
    pub fn write(&mut self, to: Place, values: &[f32], dtype: Dtype) -> Result<(), Failure> {
        Ok(self.device.upload(self.bind.arena, to.at, &encode(values, dtype))?)
    }

    /// Reads elements back; the second value is true if nothing was written behind them.
    pub fn read(&mut self, from: Place, dtype: Dtype) -> Result<(Vec<f32>, bool), Failure> {
        let (bytes, whole) = self.read_bytes(from)?;
        Ok((decode(&bytes, dtype), whole))
    }

    /// Reads bytes back, as [`Memory::read`] does elements.
    pub fn read_bytes(&mut self, from: Place) -> Result<(Vec<u8>, bool), Failure> {
        let mut bytes = vec![0; (from.len + GUARD) as usize];
        self.device.download(self.bind.arena, from.at, &mut bytes)?;
        let guard = bytes.split_off(from.len as usize);
        Ok((bytes, guard.iter().all(|&b| b == POISON)))
    }

    /// Stores bytes as they are.
    pub fn write_bytes(&mut self, to: Place, bytes: &[u8]) -> Result<(), Failure> {
        Ok(self.device.upload(self.bind.arena, to.at, bytes)?)
    }

    /// Stores integers in a region.
    pub fn write_ints(&mut self, to: Place, values: &[i32]) -> Result<(), Failure> {
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        Ok(self.device.upload(self.bind.arena, to.at, &bytes)?)
    }

    /// Reads integers back, as [`Memory::read`] does floats.
    pub fn read_ints(&mut self, from: Place) -> Result<(Vec<i32>, bool), Failure> {
        let (floats, whole) = self.read(from, Dtype::F32)?;
        Ok((floats.into_iter().map(|x| x.to_bits() as i32).collect(), whole))
    }

    /// Stores floats of a table.
    pub fn floats(&mut self, to: Buffer, values: &[f32]) -> Result<(), Failure> {
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        Ok(self.device.upload(to, 0, &bytes)?)
    }

    /// Stores integers of a table.
    pub fn ints(&mut self, to: Buffer, values: &[i32]) -> Result<(), Failure> {
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        Ok(self.device.upload(to, 0, &bytes)?)
    }

    /// Makes random values for a weight, binds them, and gives them as the reference sees them, `(n, k)`.
    pub fn weight(&mut self, index: u32) -> Result<Rc<Tensor>, Failure> {
        let parts = self.bytes_of_weight(index)?;
        let weight = &self.file.manifest().weights[index as usize];
        let dims: Vec<usize> = weight.shape.iter().map(|&d| d as usize).collect();
        let k = dims.last().copied().unwrap_or(1).max(1);
        let mut data = vec![0f32; dims.iter().product()];
        for (row, out) in data.chunks_exact_mut(k).enumerate() {
            unpack_row(weight, &parts[0], &parts[1], &parts[2], row as u64, out)?;
        }
        Ok(Rc::new(Tensor { dims, data }))
    }

    /// Makes random values for a weight, binds them, and gives their bytes: payload, scales, zeros.
    pub fn bytes_of_weight(&mut self, index: u32) -> Result<[Vec<u8>; 3], Failure> {
        let weight = &self.file.manifest().weights[index as usize];
        let len = sizes(&weight.shape, weight.encoding, weight.layout)?;
        let part = |part: Part| -> Result<Vec<u8>, Failure> {
            if weight.computed {
                return Ok(self
                    .file
                    .tensor(&part.tensor(&weight.name))
                    .map(<[u8]>::to_vec)
                    .unwrap_or_default());
            }
            if weight.shape.len() == 1 && weight.layout == Layout::Rows {
                // Made-up vectors would be ones, which any kernel multiplies with.
                let mut random = Random::named(self.seed, &weight.name);
                let values: Vec<f32> = (0..weight.shape[0]).map(|_| 1.0 + random.signed() / 2.0).collect();
                let dtype = if weight.encoding == Encoding::Bf16 { Dtype::Bf16 } else { Dtype::F32 };
                return Ok(if part == Part::Payload { encode(&values, dtype) } else { Vec::new() });
            }
            let mut bytes = vec![0; len.of(part) as usize];
            dummy::fill(weight, index, self.seed, part, 0, &mut bytes)?;
            Ok(bytes)
        };
        let parts = [part(Part::Payload)?, part(Part::Scale)?, part(Part::Zero)?];
        let mut regions = Vec::new();
        for bytes in &parts {
            if bytes.is_empty() {
                regions.push(None);
                continue;
            }
            let buffer = self.device.alloc(bytes.len() as u64, &weight.name)?;
            self.device.upload(buffer, 0, bytes)?;
            regions.push(Some(Region { buffer, offset: 0, len: bytes.len() as u64 }));
        }
        let payload = regions[0].ok_or_else(|| Failure::bug(format!("{} is empty", weight.name)))?;
        self.bind.weights[index as usize] = WeightRegions { payload, scale: regions[1], zero: regions[2] };
        Ok(parts)
    }

    /// Gives a weight's memory back.
    pub fn forget(&mut self, index: u32) {
        let w = self.bind.weights[index as usize];
        for region in [Some(w.payload), w.scale, w.zero].into_iter().flatten() {
            if region.len > 0 {
                self.device.free(region.buffer);
            }
        }
    }
}

/// Elements as a device stores them; those of e4m3 without a scale.
pub fn encode(values: &[f32], dtype: Dtype) -> Vec<u8> {
    match dtype {
        Dtype::F32 => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        Dtype::Bf16 => values
            .iter()
            .flat_map(|v| {
                ((trtc_ir::numerics::round(*v, trtc_ir::DType::Bf16).to_bits() >> 16) as u16).to_le_bytes()
            })
            .collect(),
        Dtype::F8E4M3 => {
            values.iter().filter_map(|v| trtc_ir::numerics::encode(*v, trtc_ir::DType::F8E4M3)).collect()
        }
    }
}

fn decode(bytes: &[u8], dtype: Dtype) -> Vec<f32> {
    match dtype {
        Dtype::F32 => bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
        Dtype::Bf16 => bytes
            .as_chunks::<2>()
            .0
            .iter()
            .map(|b| f32::from_bits(u32::from(u16::from_le_bytes(*b)) << 16))
            .collect(),
        Dtype::F8E4M3 => bytes.iter().map(|b| trtc_engine::layout::e4m3(*b)).collect(),
    }
}
