//! Where an engine's weights and cache lie on a device. Done once, when it is loaded.

use crate::device::{Buffer, Device, Region, WeightRegions};
use crate::error::Error;
use trtc_engine::EngineFile;
use trtc_engine::dummy;
use trtc_engine::layout::{Part, sizes};
use trtc_engine::manifest::{Manifest, Weight};

/// Alignment of made-up weights in their buffer, bytes: the file's own.
const ALIGN: u64 = trtc_engine::container::ALIGN;

/// Made-up weights are made and copied in pieces of this size, bytes.
const PIECE: u64 = 32 << 20;

/// Share of the device's free memory that caches take at most when nothing is asked for, in percent.
pub const CACHE_SHARE: u64 = 80;

/// How large the cache is.
#[derive(Clone, Copy, Debug, PartialEq, Default)]
pub enum CacheSize {
    /// Enough for a full batch of the longest sequences, but at most 80 % of the device's free memory.
    #[default]
    Auto,
    /// So many pages.
    Pages(u32),
    /// As many pages as so many bytes hold.
    Bytes(u64),
    /// Enough for a full batch of the longest sequences, but at most what so many bytes hold.
    AtMost(u64),
    /// All pages that fit when the device is filled up to this part of all its memory, above 0 and at most 1. What is
    /// in use counts, whoever uses it: weights, activations, other programs.
    Fraction(f64),
}

/// True if a weight's bytes are not in the file.
fn is_made_up(manifest: &Manifest, weight: &Weight) -> bool {
    manifest.dummy_seed.is_some() && !weight.computed
}

/// Where a part of `len` bytes lies behind those that end at `end`, which it moves to its own end.
fn append(end: &mut u64, len: u64) -> u64 {
    let at = end.next_multiple_of(ALIGN);
    *end = at + len;
    at
}

/// Bytes of the buffer that all made-up weights lie in.
pub(super) fn made_up_weights(manifest: &Manifest) -> Result<u64, Error> {
    let mut end = 0u64;
    for weight in manifest.weights.iter().filter(|w| is_made_up(manifest, w)) {
        let bytes = sizes(&weight.shape, weight.encoding, weight.layout).map_err(Error::from)?;
        for len in [Part::Payload, Part::Scale, Part::Zero].map(|part| bytes.of(part)) {
            if len > 0 {
                append(&mut end, len);
            }
        }
    }
    Ok(end)
}

/// Regions of all weights: those of the file in place, made-up ones in a buffer of their own.
pub(super) fn weights(
    device: &mut dyn Device,
    file: &EngineFile,
    threads: usize,
) -> Result<Vec<WeightRegions>, Error> {
    let manifest = file.manifest();
    let shared = device.share(file.bytes(), "weights")?;
    let made_up = |w: &Weight| is_made_up(manifest, w);

    // First where, then the buffer, then the bytes.
    let mut end = 0u64;
    let mut places = Vec::with_capacity(manifest.weights.len());
    for weight in &manifest.weights {
        let bytes = sizes(&weight.shape, weight.encoding, weight.layout).map_err(Error::from)?;
        let mut place = |part: Part| -> Result<Option<(u64, u64)>, Error> {
            let len = bytes.of(part);
            if len == 0 {
                return Ok(None);
            }
            if !made_up(weight) {
                let range = file.tensor_range(&part.tensor(&weight.name)).map_err(Error::from)?;
                return Ok(Some((range.start as u64, len)));
            }
            Ok(Some((append(&mut end, len), len)))
        };
        let payload = place(Part::Payload)?.unwrap_or((0, 0));
        places.push((payload, place(Part::Scale)?, place(Part::Zero)?));
    }
    let made = if end > 0 { Some(device.alloc(end, "weights")?) } else { None };
    let mut regions = Vec::with_capacity(places.len());
    for (weight, (payload, scale, zero)) in manifest.weights.iter().zip(places) {
        let buffer = made.filter(|_| made_up(weight)).unwrap_or(shared);
        let region = |(offset, len): (u64, u64)| Region { buffer, offset, len };
        regions.push(WeightRegions {
            payload: region(payload),
            scale: scale.map(region),
            zero: zero.map(region),
        });
    }
    if let Some(seed) = manifest.dummy_seed {
        let mut piece = Vec::new();
        for (index, (weight, at)) in manifest.weights.iter().zip(&regions).enumerate() {
            if !made_up(weight) {
                continue;
            }
            for (part, region) in
                [(Part::Payload, Some(at.payload)), (Part::Scale, at.scale), (Part::Zero, at.zero)]
            {
                let Some(region) = region else { continue };
                let make = Make { weight, index: index as u32, seed, part, threads };
                make.upload(device, region, &mut piece)?;
            }
        }
    }
    Ok(regions)
}

/// One part of a made-up weight.
struct Make<'a> {
    weight: &'a Weight,
    index: u32,
    seed: u64,
    part: Part,
    threads: usize,
}

impl Make<'_> {
    fn upload(&self, device: &mut dyn Device, to: Region, piece: &mut Vec<u8>) -> Result<(), Error> {
        let mut start = 0;
        while start < to.len {
            let len = PIECE.min(to.len - start);
            piece.resize(len as usize, 0);
            self.fill(start, piece)?;
            device.upload(to.buffer, to.offset + start, piece)?;
            start += len;
        }
        Ok(())
    }

    /// Fills `out`, which begins at byte `start` of the part, on all threads.
    fn fill(&self, start: u64, out: &mut [u8]) -> Result<(), Error> {
        let share =
            out.len().div_ceil(self.threads.max(1)).next_multiple_of(dummy::STEP as usize).max(1 << 16);
        let one = |i: usize, out: &mut [u8]| {
            let at = start + (i * share) as u64;
            dummy::fill(self.weight, self.index, self.seed, self.part, at, out).map_err(Error::from)
        };
        if out.len() <= share {
            return one(0, out);
        }
        std::thread::scope(|scope| {
            let one = &one;
            let work: Vec<_> =
                out.chunks_mut(share).enumerate().map(|(i, out)| scope.spawn(move || one(i, out))).collect();
            work.into_iter()
                .try_for_each(|w| w.join().unwrap_or_else(|_| Err(Error::bug("making dummy weights failed"))))
        })
    }
}

/// Bytes until `fraction` of a device's memory is in use.
fn left(device: &dyn Device, fraction: f64) -> Result<u64, Error> {
    if !(fraction > 0.0 && fraction <= 1.0) {
        return Err(Error::user(format!("the cache is to fill the device up to {fraction} of its memory"))
            .help("give a number above 0 and at most 1"));
    }
    let (all, free) = (device.total_memory(), device.free_memory());
    Ok(((all as f64 * fraction) as u64).saturating_sub(all.saturating_sub(free)))
}

/// The cache's buffers, one a layer, and how many pages they have; with `spare` there is one more behind them, for
/// requests that only fill a step up.
pub(super) fn cache(
    device: &mut dyn Device,
    manifest: &Manifest,
    size: CacheSize,
    spare: bool,
) -> Result<(u32, Vec<Buffer>), Error> {
    let (d, page) = (manifest.dims, manifest.kv.bytes_per_page());
    let full = u64::from(d.max_batch) * u64::from(d.max_seq_len.div_ceil(manifest.kv.page_tokens));
    // Without a layer that caches, pages are only counted.
    let fit = |bytes: u64| bytes.checked_div(page).unwrap_or(full);
    let (pages, limit) = match size {
        CacheSize::Auto => {
            let bytes = device.free_memory() / 100 * CACHE_SHARE;
            (full.min(fit(bytes)), bytes)
        }
        CacheSize::Pages(pages) => (u64::from(pages), u64::from(pages) * page),
        CacheSize::Bytes(bytes) => (fit(bytes), bytes),
        CacheSize::AtMost(bytes) => (full.min(fit(bytes)), bytes),
        CacheSize::Fraction(fraction) => {
            let bytes = left(device, fraction)?;
            (fit(bytes).min(i32::MAX as u64), bytes)
        }
    };
    let pages = u32::try_from(pages).ok().filter(|&p| p <= i32::MAX as u32);
    let pages = pages.ok_or_else(|| Error::user("the KV cache has more than 2147483647 pages"))?;
    if pages == 0 {
        let (all, free) = (device.total_memory(), device.free_memory());
        let in_use = match size {
            CacheSize::Fraction(fraction) => {
                format!("; of {all} bytes that the device has, {free} are free and {fraction} may be used")
            }
            _ => String::new(),
        };
        return Err(Error::user(format!(
            "no room for the KV cache: {limit} bytes, a page of {} tokens takes {page}{in_use}",
            manifest.kv.page_tokens
        ))
        .help("give the cache more memory"));
    }
    let mut buffers = Vec::with_capacity(manifest.kv.layers.len());
    for layer in &manifest.kv.layers {
        buffers.push(
            device
                .alloc((u64::from(pages) + u64::from(spare)) * manifest.kv.page_bytes(layer), "KV cache")?,
        );
    }
    Ok((pages, buffers))
}
