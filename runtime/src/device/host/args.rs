//! A launch's arguments as typed slices: what the manifest says of each is checked against the buffers here, so that
//! kernels work on slices of exactly the right length.

use super::batch::Batch;
use super::cache::{Geometry, Pages, PagesMut};
use super::elem::{Elem, Floats, FloatsMut, Rows, RowsMut};
use super::linear::{LANES, Source};
use super::memory::Views;
use crate::device::{Bindings, Buffer, Region, StepDims, WeightRegions};
use crate::error::Error;
use half::bf16;
use std::borrow::Cow;
use std::cell::Cell;
use trtc_engine::manifest::{Arg, Count, DRAW, Dims, Dtype, Encoding, Kv, Layout, Weight};

/// What kernels need to know of the engine.
#[derive(Clone, Debug, PartialEq)]
pub struct Loaded {
    /// In the order of [`Arg::Weight`].
    pub weights: Vec<Weight>,
    /// The cache.
    pub kv: Kv,
    /// Limits.
    pub dims: Dims,
}

/// The arguments of one launch, taken in order.
pub struct Args<'a> {
    views: Views<'a>,
    loaded: &'a Loaded,
    bind: &'a Bindings,
    dims: StepDims,
    list: &'a [Arg],
    next: Cell<usize>,
}

impl<'a> Args<'a> {
    /// Begins with the first argument.
    pub fn new(
        views: Views<'a>,
        loaded: &'a Loaded,
        bind: &'a Bindings,
        dims: StepDims,
        list: &'a [Arg],
    ) -> Args<'a> {
        Args { views, loaded, bind, dims, list, next: Cell::new(0) }
    }

    /// Rows that a kernel works on.
    pub fn rows(&self, of: Count) -> usize {
        let rows = match of {
            Count::One => 1,
            Count::Tokens => self.dims.tokens,
            Count::Rows => self.dims.rows,
            Count::Seqs => self.dims.seqs,
        };
        rows as usize
    }

    /// Refuses arguments that the kernel has not taken.
    pub fn end(&self) -> Result<(), Error> {
        let (taken, given) = (self.next.get(), self.list.len());
        if taken == given {
            return Ok(());
        }
        Err(Error::bug(format!("{given} arguments are given, {taken} are used")))
    }

    fn take(&self) -> Option<Arg> {
        let i = self.next.get();
        self.next.set(i + 1);
        self.list.get(i).copied()
    }

    fn wrong<T>(&self, what: &str, want: &str, found: Option<Arg>) -> Result<T, Error> {
        let at = self.next.get();
        Err(Error::bug(format!("argument {at} ({what}) must be {want}, found {found:?}")))
    }

    fn arena(&self, what: &str) -> Result<Region, Error> {
        match self.take() {
            Some(Arg::Arena(offset)) => Ok(Region { buffer: self.bind.arena, offset, len: u64::MAX }),
            found => self.wrong(what, "in the arena", found),
        }
    }

    /// Activations to read.
    pub fn floats(&self, what: &str, dtype: Dtype, count: usize) -> Result<Floats<'a>, Error> {
        self.region_floats(what, self.arena(what)?, dtype, count)
    }

    fn region_floats(
        &self,
        what: &str,
        region: Region,
        dtype: Dtype,
        count: usize,
    ) -> Result<Floats<'a>, Error> {
        Ok(match dtype {
            Dtype::F32 => Floats::F32(self.views.read(what, region, count)?),
            Dtype::Bf16 => Floats::Bf16(self.views.read(what, region, count)?),
            Dtype::F8E4M3 => return Err(no_e4m3(what)),
        })
    }

    /// Activations to write.
    pub fn floats_mut(&self, what: &str, dtype: Dtype, count: usize) -> Result<FloatsMut<'a>, Error> {
        self.region_floats_mut(what, self.arena(what)?, dtype, count)
    }

    fn region_floats_mut(
        &self,
        what: &str,
        region: Region,
        dtype: Dtype,
        count: usize,
    ) -> Result<FloatsMut<'a>, Error> {
        Ok(match dtype {
            Dtype::F32 => FloatsMut::F32(self.views.write(what, region, count)?),
            Dtype::Bf16 => FloatsMut::Bf16(self.views.write(what, region, count)?),
            Dtype::F8E4M3 => return Err(no_e4m3(what)),
        })
    }

    /// Rows of activations to read: codes and scales are two arguments.
    pub fn rows_of(&self, what: &str, dtype: Dtype, rows: usize, width: usize) -> Result<Rows<'a>, Error> {
        if dtype != Dtype::F8E4M3 {
            return self.floats(what, dtype, rows * width).map(Rows::Floats);
        }
        let codes = self.views.read(what, self.arena(what)?, rows * width)?;
        Ok(Rows::E4m3(codes, self.views.read("scales", self.arena("scales")?, rows)?))
    }

    /// Rows of activations to write, likewise.
    pub fn rows_mut(
        &self,
        what: &str,
        dtype: Dtype,
        rows: usize,
        width: usize,
    ) -> Result<RowsMut<'a>, Error> {
        if dtype != Dtype::F8E4M3 {
            return self.floats_mut(what, dtype, rows * width).map(RowsMut::Floats);
        }
        let codes = self.views.write(what, self.arena(what)?, rows * width)?;
        Ok(RowsMut::E4m3(codes, self.views.write("scales", self.arena("scales")?, rows)?))
    }

    fn ints(&self, what: &str, want: Arg, buffer: Buffer, count: usize) -> Result<&'a [i32], Error> {
        match self.take() {
            Some(arg) if arg == want => self.whole(what, buffer, count),
            found => self.wrong(what, &format!("{want:?}"), found),
        }
    }

    fn whole(&self, what: &str, buffer: Buffer, count: usize) -> Result<&'a [i32], Error> {
        self.views.read(what, Region { buffer, offset: 0, len: u64::MAX }, count)
    }

    /// The step's tokens, each below `vocab`.
    pub fn tokens(&self, vocab: usize) -> Result<&'a [i32], Error> {
        let tokens = self.any_tokens()?;
        below("token", tokens, vocab)
    }

    /// The step's tokens as they were given or as they lie in the arena, unchecked.
    pub fn any_tokens(&self) -> Result<&'a [i32], Error> {
        let count = self.rows(Count::Tokens);
        match self.take() {
            Some(Arg::Tokens) => self.whole("tokens", self.bind.tokens, count),
            Some(Arg::Arena(offset)) => {
                self.views.read("tokens", Region { buffer: self.bind.arena, offset, len: u64::MAX }, count)
            }
            found => self.wrong("tokens", "token ids", found),
        }
    }

    /// Integers in the arena to read.
    pub fn numbers(&self, what: &str, count: usize) -> Result<&'a [i32], Error> {
        self.views.read(what, self.arena(what)?, count)
    }

    /// Integers in the arena to write.
    pub fn numbers_mut(&self, what: &str, count: usize) -> Result<&'a mut [i32], Error> {
        self.views.write(what, self.arena(what)?, count)
    }

    /// How the rows of logits are sampled, [`DRAW`] numbers each.
    pub fn draws(&self) -> Result<&'a [f32], Error> {
        let count = self.rows(Count::Rows) * DRAW as usize;
        match self.take() {
            Some(Arg::Draws) => {
                let region = Region { buffer: self.bind.draws, offset: 0, len: u64::MAX };
                self.views.read("draws", region, count)
            }
            found => self.wrong("draws", "Draws", found),
        }
    }

    /// Which tokens may be chosen: all words of all masks.
    pub fn masks(&self) -> Result<&'a [u32], Error> {
        match self.take() {
            Some(Arg::Masks) => {
                let len = self.views.len(self.bind.masks)?;
                let region = Region { buffer: self.bind.masks, offset: 0, len };
                self.views.read("masks", region, len as usize / 4)
            }
            found => self.wrong("masks", "Masks", found),
        }
    }

    /// The tokens' positions, each below the longest sequence.
    pub fn positions(&self) -> Result<&'a [i32], Error> {
        let positions =
            self.ints("positions", Arg::Positions, self.bind.positions, self.rows(Count::Tokens))?;
        below("position", positions, self.loaded.dims.max_seq_len as usize)
    }

    /// The rows for which logits are wanted, each below the number of tokens.
    pub fn logit_rows(&self) -> Result<&'a [i32], Error> {
        let rows = self.ints("rows", Arg::Rows, self.bind.rows, self.rows(Count::Rows))?;
        below("row", rows, self.rows(Count::Tokens))
    }

    /// The batch and the cache: `[Batch, Kv]`.
    pub fn cache(&self) -> Result<(Batch<'a>, Geometry, Region), Error> {
        match self.take() {
            Some(Arg::Batch) => {}
            found => return self.wrong("batch", "Batch", found),
        }
        let (arg, index) = match self.take() {
            Some(arg @ Arg::Kv(i)) => (arg, i as usize),
            found => return self.wrong("cache", "a cache", found),
        };
        let kv = &self.loaded.kv;
        let (Some(layer), Some(&buffer)) = (kv.layers.get(index), self.bind.kv.get(index)) else {
            return self.wrong("cache", "a cache that is bound", Some(arg));
        };
        let pages = self.views.len(buffer)? / kv.page_bytes(layer).max(1);
        let geometry = Geometry {
            heads: layer.heads as usize,
            head_dim: layer.head_dim as usize,
            page_tokens: kv.page_tokens as usize,
            window: layer.window.map(|w| w as usize),
            pages: pages as usize,
            scaled: kv.dtype == Dtype::F8E4M3,
        };
        let (seqs, width) = (self.dims.seqs as usize, self.bind.table_width as usize);
        let batch = Batch::new(
            self.rows(Count::Tokens),
            self.whole("query_start", self.bind.query_start, seqs + 1)?,
            self.whole("context", self.bind.context, seqs)?,
            self.whole("block_table", self.bind.block_table, seqs * width)?,
            width,
            &geometry,
        )?;
        Ok((batch, geometry, Region { buffer, offset: 0, len: u64::MAX }))
    }

    /// All pages of a cache, to read.
    pub fn pages(&self, g: &Geometry, region: Region) -> Result<Pages<'a>, Error> {
        let (dtype, count) = (self.loaded.kv.dtype, g.pages * g.page_elems());
        if dtype == Dtype::F8E4M3 {
            return self.views.read("cache", region, count).map(Pages::E4m3);
        }
        self.region_floats("cache", region, dtype, count).map(Pages::Floats)
    }

    /// All pages of a cache, to write.
    pub fn pages_mut(&self, g: &Geometry, region: Region) -> Result<PagesMut<'a>, Error> {
        let count = g.pages * g.page_elems();
        Ok(match self.loaded.kv.dtype {
            Dtype::F32 => PagesMut::F32(self.views.write("cache", region, count)?),
            Dtype::Bf16 => PagesMut::Bf16(self.views.write("cache", region, count)?),
            Dtype::F8E4M3 => PagesMut::E4m3(self.views.write("cache", region, count)?),
        })
    }

    fn weight(&self, what: &str, shape: &[usize]) -> Result<(&'a Weight, WeightRegions), Error> {
        let (arg, index) = match self.take() {
            Some(arg @ Arg::Weight(i)) => (arg, i as usize),
            found => return self.wrong(what, "a weight", found),
        };
        let (Some(weight), Some(&regions)) = (self.loaded.weights.get(index), self.bind.weights.get(index))
        else {
            return self.wrong(what, "a weight that is bound", Some(arg));
        };
        let same =
            weight.shape.len() == shape.len() && weight.shape.iter().zip(shape).all(|(a, &b)| *a == b as u64);
        if !same {
            let (name, found) = (&weight.name, &weight.shape);
            return Err(Error::bug(format!("weight {name} ({what}) must be {shape:?}, found {found:?}")));
        }
        Ok((weight, regions))
    }

    /// A vector of `width` elements, as f32.
    pub fn vector(&self, what: &str, width: usize) -> Result<Cow<'a, [f32]>, Error> {
        let (weight, regions) = self.weight(what, &[width])?;
        match (weight.encoding, weight.layout) {
            (Encoding::F32, Layout::Rows) => {
                Ok(Cow::Borrowed(self.views.read(what, regions.payload, width)?))
            }
            (Encoding::Bf16, Layout::Rows) => {
                let x: &[bf16] = self.views.read(what, regions.payload, width)?;
                Ok(Cow::Owned(x.iter().map(|v| v.get()).collect()))
            }
            (encoding, layout) => Err(form(weight, encoding, layout)),
        }
    }

    /// A matrix `(n, k)`.
    pub fn matrix(&self, what: &str, n: usize, k: usize) -> Result<Source<'a>, Error> {
        let (weight, regions) = self.weight(what, &[n, k])?;
        let payload = regions.payload;
        let panels = n.div_ceil(LANES);
        let padded = panels * LANES * k.next_multiple_of(2);
        let unpadded = panels * LANES * k;
        let scale_region = |r: Option<Region>| {
            r.ok_or_else(|| Error::bug(format!("weight {} has no scales bound", weight.name)))
        };
        Ok(match (weight.encoding, weight.layout) {
            (Encoding::F32, Layout::Rows) => Source::RowsF32(self.views.read(what, payload, n * k)?),
            (Encoding::Bf16, Layout::Rows) => Source::RowsBf16(self.views.read(what, payload, n * k)?),
            (Encoding::F32, Layout::Panel16) => Source::F32(self.views.read(what, payload, unpadded)?),
            (Encoding::Bf16, Layout::Panel16) => Source::Bf16(self.views.read(what, payload, padded)?),
            (Encoding::I8Channel, Layout::Panel16) => Source::I8 {
                q: self.views.read(what, payload, padded)?,
                scale: self.views.read("scales", scale_region(regions.scale)?, panels * LANES)?,
            },
            (Encoding::F8Channel, Layout::Panel16) => Source::F8 {
                q: self.views.read(what, payload, padded)?,
                scale: self.views.read("scales", scale_region(regions.scale)?, panels * LANES)?,
            },
            (Encoding::I4Group { group }, Layout::Panel16) if group > 0 && group % 8 == 0 => {
                let scales = panels * k.div_ceil(group as usize) * LANES;
                Source::I4 {
                    q: self.views.read(what, payload, panels * k.div_ceil(8) * 64)?,
                    scale: self.views.read("scales", scale_region(regions.scale)?, scales)?,
                    zero: regions.zero.map(|r| self.views.read("zeros", r, scales)).transpose()?,
                    group: group as usize,
                }
            }
            (encoding, layout) => return Err(form(weight, encoding, layout)),
        })
    }
}

fn form(weight: &Weight, encoding: Encoding, layout: Layout) -> Error {
    Error::unsupported(format!(
        "weight {} is {encoding:?} in {layout:?}, which no host kernel reads",
        weight.name
    ))
    .help("build the engine again with this version, --target host")
}

fn no_e4m3(what: &str) -> Error {
    Error::bug(format!("this kernel does not take {what} in e4m3"))
}

fn below<'a>(what: &str, list: &'a [i32], end: usize) -> Result<&'a [i32], Error> {
    match list.iter().find(|&&v| !usize::try_from(v).is_ok_and(|v| v < end)) {
        None => Ok(list),
        Some(v) => Err(Error::bug(format!("{what} {v} is not within 0..{end}"))),
    }
}
