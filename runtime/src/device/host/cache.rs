//! Where keys and values lie in a layer's cache.
//!
//! A page holds the keys of all its heads, then the values. The values of a head are rows, one a token. Its keys lie as
//! weights do, in panels of 16 tokens, so that the kernels of linears compute scores from the cache as it is:
//! `(page_tokens / 16, head_dim, 16)`, elements of bf16 in pairs `(page_tokens / 16, head_dim / 2, 16, 2)`. A page of e4m3
//! has them as f32 has, and behind them an f32 scale for each key and each value: `(2, heads, page_tokens)`.

use super::elem::{Elem, Floats};
use super::isa::{Isa, per_isa};
use super::linear::LANES;
use super::memory::{Pod, Shards};
use super::scratch::Aligned;
use super::{e4m3, simd};
use crate::error::Error;
use half::bf16;
use std::ops::Range;
use trtc_engine::manifest::{Dtype, Kv};

/// One layer's cache, `(pages, 2, heads, page_tokens * head_dim)`, pages of e4m3 with their scales.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Key/value heads.
    pub heads: usize,
    /// Elements of a head.
    pub head_dim: usize,
    /// Tokens of a page, a multiple of 16.
    pub page_tokens: usize,
    /// Tokens that a query sees, itself included.
    pub window: Option<usize>,
    /// Pages that the buffer holds.
    pub pages: usize,
    /// True if elements are bytes of e4m3, and scales follow them.
    pub scaled: bool,
}

impl Geometry {
    /// Elements of a page; its scales count as bytes.
    pub fn page_elems(&self) -> usize {
        let vectors = 2 * self.heads * self.page_tokens;
        vectors * (self.head_dim + if self.scaled { size_of::<f32>() } else { 0 })
    }

    /// First element of the keys of a head (`which` 0) or its values (1) in a page.
    fn head(&self, page: usize, which: usize, head: usize) -> usize {
        page * self.page_elems() + (which * self.heads + head) * self.page_tokens * self.head_dim
    }

    /// First byte of the scale of a key or value.
    fn scale(&self, page: usize, which: usize, head: usize, slot: usize) -> usize {
        let vectors = (which * self.heads + head) * self.page_tokens + slot;
        page * self.page_elems()
            + 2 * self.heads * self.page_tokens * self.head_dim
            + vectors * size_of::<f32>()
    }

    /// Elements of a panel of keys.
    pub fn panel_elems(&self) -> usize {
        LANES * self.head_dim
    }

    /// First element of the panel with the key of the token in `slot`.
    pub fn panel(&self, page: usize, head: usize, slot: usize) -> usize {
        self.head(page, 0, head) + slot / LANES * self.panel_elems()
    }

    /// First element of the value of the token in `slot`.
    pub fn value(&self, page: usize, head: usize, slot: usize) -> usize {
        self.head(page, 1, head) + slot * self.head_dim
    }

    /// First position that the query at `position` sees.
    pub fn first_seen(&self, position: usize) -> usize {
        self.window.map_or(0, |w| (position + 1).saturating_sub(w))
    }
}

/// Refuses caches that do not lie in whole panels.
pub fn check(kv: &Kv) -> Result<(), Error> {
    if !kv.layers.is_empty() && (kv.page_tokens == 0 || !(kv.page_tokens as usize).is_multiple_of(LANES)) {
        return Err(Error::unsupported(format!(
            "pages of the cache hold {} tokens; this device takes multiples of {LANES}",
            kv.page_tokens
        )));
    }
    match kv.layers.iter().find(|l| kv.dtype == Dtype::Bf16 && !l.head_dim.is_multiple_of(2)) {
        Some(odd) => Err(Error::unsupported(format!(
            "a bf16 cache of heads of {} elements; this device takes even numbers",
            odd.head_dim
        ))),
        None => Ok(()),
    }
}

/// Stores the key of a token in its panel, elements rounded. Portable code: AVX-512 would make scatters of it, which
/// are slower.
pub fn put_key<K: Elem>(key: &[f32], slot: usize, panel: &mut [K]) {
    let lane = slot % LANES;
    if K::PAIRS {
        for (pair, row) in key.as_chunks::<2>().0.iter().zip(panel.chunks_exact_mut(2 * LANES)) {
            (row[2 * lane], row[2 * lane + 1]) = (K::put(pair[0]), K::put(pair[1]));
        }
    } else {
        for (k, row) in key.iter().zip(panel.chunks_exact_mut(LANES)) {
            row[lane] = K::put(*k);
        }
    }
}

/// All pages of a cache, to read.
#[derive(Clone, Copy, Debug)]
pub enum Pages<'a> {
    /// Floats.
    Floats(Floats<'a>),
    /// Codes, and the bytes of scales.
    E4m3(&'a [u8]),
}

/// All pages of a cache, to write.
#[derive(Debug)]
pub enum PagesMut<'a> {
    /// f32.
    F32(&'a mut [f32]),
    /// bf16.
    Bf16(&'a mut [bf16]),
    /// Codes, and the bytes of scales.
    E4m3(&'a mut [E4m3]),
}

/// Evaluates an expression with each named `PagesMut` bound to its slice.
macro_rules! typed_pages {
    ($x:pat = $value:expr => $body:expr) => {
        match $value {
            $crate::device::host::cache::PagesMut::F32($x) => $body,
            $crate::device::host::cache::PagesMut::Bf16($x) => $body,
            $crate::device::host::cache::PagesMut::E4m3($x) => $body,
        }
    };
}
pub(super) use typed_pages;

impl Pages<'_> {
    /// Asks for elements that will be read soon.
    pub fn prefetch(&self, range: Range<usize>) {
        match self {
            Pages::Floats(Floats::F32(x)) => simd::prefetch(&x[range]),
            Pages::Floats(Floats::Bf16(x)) => simd::prefetch(&x[range]),
            Pages::E4m3(x) => simd::prefetch(&x[range]),
        }
    }
}

/// A byte of an e4m3 cache.
#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
pub struct E4m3(u8);

/// The place of a token's key or value.
#[derive(Clone, Copy)]
pub struct Slot {
    /// Page.
    pub page: usize,
    /// Key/value head.
    pub head: usize,
    /// Token of the page.
    pub slot: usize,
}

/// What a cache can hold.
pub trait Stored: Pod {
    /// Stores a key.
    ///
    /// # Safety
    /// No other thread is at the head's places.
    unsafe fn put_key(
        isa: Isa,
        g: &Geometry,
        pages: &Shards<'_, Self>,
        at: Slot,
        key: &[f32],
        local: &mut Aligned,
    );

    /// Stores a value.
    ///
    /// # Safety
    /// No other thread is at the head's places.
    unsafe fn put_value<X: Elem>(isa: Isa, g: &Geometry, pages: &Shards<'_, Self>, at: Slot, value: &[X]);
}

impl<K: Elem + Pod> Stored for K {
    unsafe fn put_key(_: Isa, g: &Geometry, pages: &Shards<'_, K>, at: Slot, key: &[f32], _: &mut Aligned) {
        let first = g.panel(at.page, at.head, at.slot);
        // SAFETY: the caller's word.
        put_key(key, at.slot, unsafe { pages.part(first..first + g.panel_elems()) });
    }

    unsafe fn put_value<X: Elem>(isa: Isa, g: &Geometry, pages: &Shards<'_, K>, at: Slot, value: &[X]) {
        let first = g.value(at.page, at.head, at.slot);
        // SAFETY: the caller's word.
        copy_row(isa, value, unsafe { pages.part(first..first + g.head_dim) });
    }
}

impl Stored for E4m3 {
    unsafe fn put_key(
        isa: Isa,
        g: &Geometry,
        pages: &Shards<'_, E4m3>,
        at: Slot,
        key: &[f32],
        local: &mut Aligned,
    ) {
        let codes = local.bytes(key.len());
        let scale = e4m3::quantize(isa, key, codes);
        let first = g.panel(at.page, at.head, at.slot);
        // SAFETY: the caller's word.
        let panel = unsafe { pages.part(first..first + g.panel_elems()) };
        let lane = panel.iter_mut().skip(at.slot % LANES).step_by(LANES);
        lane.zip(codes).for_each(|(place, code)| *place = E4m3(*code));
        // SAFETY: the caller's word.
        unsafe { put_scale(g, pages, 0, at, scale) };
    }

    unsafe fn put_value<X: Elem>(isa: Isa, g: &Geometry, pages: &Shards<'_, E4m3>, at: Slot, value: &[X]) {
        let first = g.value(at.page, at.head, at.slot);
        // SAFETY: the caller's word; a transparent byte is a byte.
        let codes = unsafe {
            let out = pages.part(first..first + g.head_dim);
            std::slice::from_raw_parts_mut(out.as_mut_ptr().cast::<u8>(), out.len())
        };
        let scale = e4m3::quantize(isa, value, codes);
        // SAFETY: the caller's word.
        unsafe { put_scale(g, pages, 1, at, scale) };
    }
}

/// Stores the scale of a key or value.
///
/// # Safety
/// No other thread is at the head's places.
unsafe fn put_scale(g: &Geometry, pages: &Shards<'_, E4m3>, which: usize, at: Slot, scale: f32) {
    let first = g.scale(at.page, which, at.head, at.slot);
    // SAFETY: the caller's word.
    let out = unsafe { pages.part(first..first + size_of::<f32>()) };
    out.iter_mut().zip(scale.to_le_bytes()).for_each(|(place, byte)| *place = E4m3(byte));
}

per_isa! {
    /// A row in another type.
    pub fn copy_row<X: Elem, O: Elem>(x: &[X], out: &mut [O]) = copy_body
}

#[inline(always)]
fn copy_body<const FMA: bool, X: Elem, O: Elem>(x: &[X], out: &mut [O]) {
    out.iter_mut().zip(x).for_each(|(o, v)| *o = O::put(v.get()));
}

/// Keys of whole panels as f32 panels: those of a head from a slot on, which is a multiple of 16.
pub fn read_keys(isa: Isa, g: &Geometry, pages: &[u8], from: Slot, out: &mut [f32]) {
    let first = g.panel(from.page, from.head, from.slot);
    for (i, out) in out.chunks_exact_mut(g.panel_elems()).enumerate() {
        let at = first + i * g.panel_elems();
        let scales = g.scale(from.page, 0, from.head, from.slot + i * LANES);
        let scales: [f32; LANES] =
            std::array::from_fn(|lane| f32_at(pages, scales + lane * size_of::<f32>()));
        e4m3::dequantize_panel(isa, &pages[at..at + g.panel_elems()], &scales, out);
    }
}

/// Values of a head from a slot on as f32 rows.
pub fn read_values(isa: Isa, g: &Geometry, pages: &[u8], from: Slot, out: &mut [f32]) {
    for (i, out) in out.chunks_exact_mut(g.head_dim).enumerate() {
        let at = g.value(from.page, from.head, from.slot + i);
        let scale = f32_at(pages, g.scale(from.page, 1, from.head, from.slot + i));
        e4m3::dequantize(isa, &pages[at..at + g.head_dim], scale, out);
    }
}

fn f32_at(bytes: &[u8], at: usize) -> f32 {
    bytes[at..].first_chunk().map_or(0.0, |b| f32::from_le_bytes(*b))
}
