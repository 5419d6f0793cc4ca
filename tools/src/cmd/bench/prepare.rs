//! A launch made ready to be timed: activations in the arena, copies of weights and cache that take turns.

use super::kernel::Case;
use super::timing::{Timing, time};
use crate::check::caches;
use crate::check::inputs::lay;
use crate::check::memory::Memory;
use crate::render::Failure;
use std::rc::Rc;
use trtc_engine::manifest::{Arg, Kv, KvLayer};
use trtc_ir::interp::KvState;
use trtc_ir::random::Random;
use trtc_runtime::device::{Buffer, Call, Device, Region, WeightRegions};

/// Inputs are made with this seed.
pub const SEED: u64 = 1;

/// Prepares inputs, weights and cache of a case, times it, and gives the memory back.
pub fn measure(memory: &mut Memory<'_>, case: &Case<'_>, repeat: u32) -> Result<Timing, Failure> {
    let mut random = Random::named(SEED, &case.kernel.1.name);
    memory.reset();
    case.requests.upload(memory)?;
    memory.bind.pages = u32::try_from(case.requests.pages()).unwrap_or(u32::MAX);
    // What the requests have in the cache is no matter of time.
    let cache = Rc::new(KvState::default());
    let laid = lay(memory, case.launch, &case.module, (&case.requests, case.dims), &cache, &mut random)?;
    let args = laid.args;
    let mut held = Vec::new();
    let mut round = Vec::new();
    let ready = (0..case.copies as u32).try_for_each(|copy| {
        round.push(turn(memory, case, &args, copy, &mut random, &mut held)?);
        Ok(())
    });
    let timed = ready.and_then(|()| {
        let calls: Vec<Call<'_>> =
            round.iter().map(|args| Call { kernel: case.kernel, args, loc: &case.launch.loc }).collect();
        Ok(time(&mut *memory.device, &calls, &memory.bind, case.dims, repeat)?)
    });
    held.into_iter().for_each(|buffer| memory.device.free(buffer));
    timed
}

/// The arguments of one turn, on its own copy of weights and cache; buffers taken for it go to `held`.
fn turn(
    memory: &mut Memory<'_>,
    case: &Case<'_>,
    args: &[Arg],
    copy: u32,
    random: &mut Random,
    held: &mut Vec<Buffer>,
) -> Result<Vec<Arg>, Failure> {
    let m = memory.manifest();
    let mut out = Vec::new();
    for arg in args {
        out.push(match *arg {
            Arg::Weight(i) => {
                let own = copy * m.weights.len() as u32 + i;
                if copy == 0 {
                    memory.bytes_of_weight(i)?;
                } else {
                    memory.bind.weights[own as usize] = again(memory, i)?;
                }
                let w = memory.bind.weights[own as usize];
                held.extend([Some(w.payload), w.scale, w.zero].into_iter().flatten().map(|r| r.buffer));
                Arg::Weight(own)
            }
            Arg::Kv(layer) => {
                let own = copy * m.kv.layers.len() as u32 + layer;
                let of = &m.kv.layers[layer as usize];
                let bytes = case.requests.pages() * m.kv.page_bytes(of);
                let buffer = memory.device.alloc(bytes, "KV cache")?;
                held.push(buffer);
                fill(&mut *memory.device, (buffer, bytes), (&m.kv, of), random)?;
                memory.bind.kv[own as usize] = buffer;
                Arg::Kv(own)
            }
            other => other,
        });
    }
    Ok(out)
}

/// Another copy of a weight that is bound.
fn again(memory: &mut Memory<'_>, index: u32) -> Result<WeightRegions, Failure> {
    let first = memory.bind.weights[index as usize];
    let device = &mut *memory.device;
    let mut one = |from: Region| -> Result<Region, Failure> {
        let to = Region { buffer: device.alloc(from.len, "a weight")?, ..from };
        device.copy(from, to)?;
        Ok(to)
    };
    Ok(WeightRegions {
        payload: one(first.payload)?,
        scale: first.scale.map(&mut one).transpose()?,
        zero: first.zero.map(&mut one).transpose()?,
    })
}

/// Fills a cache of whole pages with random numbers in -1..1, of which a piece is made and the rest copied from it.
fn fill(
    device: &mut dyn Device,
    (buffer, bytes): (Buffer, u64),
    (kv, layer): (&Kv, &KvLayer),
    random: &mut Random,
) -> Result<(), Failure> {
    let page_bytes = kv.page_bytes(layer);
    let mut done = 0;
    while done < bytes.min(1 << 20) {
        device.upload(buffer, done, &caches::page(kv, layer, random)?)?;
        done += page_bytes;
    }
    while done < bytes {
        let len = done.min(bytes - done);
        device.copy(Region { buffer, offset: 0, len }, Region { buffer, offset: done, len })?;
        done += len;
    }
    Ok(())
}
