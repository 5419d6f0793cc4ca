//! What makes a manifest consistent in itself: format, limits, names, ranges, indices, offsets, arguments.
//!
//! Runs on anything that parses as a manifest: it never panics and allocates no more than the manifest itself does.
//! The tensors of the file are compared in `read.rs`.

mod ops;
mod signature;

use crate::container;
use crate::error::EngineError;
use crate::layout::{Part, sizes};
use crate::manifest::{
    Arg, Code, Count, Dims, Dtype, Extent, FORMAT, Launch, Manifest, MapRows, PtxKernel, Shares, Weight,
};
pub use signature::{Slot, signature};
use std::collections::BTreeSet;

/// Offsets in the activation arena are multiples of this, bytes.
pub const ARENA_ALIGN: u64 = 16;

/// Most bytes of an activation arena: beyond this a manifest is taken for damaged.
const MAX_ARENA: u64 = 1 << 42;

/// Most bytes of all weights, likewise.
const MAX_WEIGHTS: u64 = 1 << 46;

fn bad(at: impl Into<String>, found: impl Into<String>) -> EngineError {
    EngineError::Manifest { at: at.into(), found: found.into() }
}

/// The error of a launch, whose place within it begins with a comma.
fn within(number: usize, launch: &Launch, error: EngineError) -> EngineError {
    match error {
        EngineError::Manifest { at, found } => bad(format!("launch {number} ({}){at}", launch.loc), found),
        other => other,
    }
}

/// Refuses a number outside `1..=max`.
fn bounded(at: &str, name: &str, value: u32, max: u32) -> Result<(), EngineError> {
    if (1..=max).contains(&value) {
        Ok(())
    } else {
        Err(bad(at, format!("{name} is {value}, not in 1..={max}")))
    }
}

impl Dims {
    /// The most that a count can be in a step.
    pub fn most(&self, count: Count) -> u64 {
        u64::from(match count {
            Count::One => 1,
            Count::Tokens => self.max_step_tokens,
            Count::Rows => self.max_logit_rows,
            Count::Seqs => self.max_batch,
        })
    }
}

impl Manifest {
    /// Bytes and counters that serve every kernel's scratch memory in any step within `dims`.
    pub fn scratch(&self, dims: &Dims) -> (u64, u64) {
        let each = self.kernels.iter().filter_map(|k| match &k.code {
            Code::Ptx(ptx) => ptx.scratch,
            Code::Host(_) => None,
        });
        each.fold((0, 0), |(bytes, counters), s| {
            let most = dims.most(s.of);
            let all = most.saturating_mul(s.bytes);
            (bytes.max(all), counters.max(most * u64::from(s.counters)))
        })
    }

    /// Refuses a manifest that contradicts itself; the error names the place.
    pub fn check(&self) -> Result<(), EngineError> {
        if self.format != FORMAT {
            return Err(EngineError::Format { found: u64::from(self.format) });
        }
        self.check_limits()?;
        self.check_target()?;
        self.check_names()?;
        let mut bytes = 0u64;
        for weight in &self.weights {
            bytes = bytes.saturating_add(check_weight(weight)?);
        }
        if bytes > MAX_WEIGHTS {
            return Err(bad("weights", format!("{bytes} bytes of them")));
        }
        for kernel in &self.kernels {
            if let Code::Ptx(ptx) = &kernel.code {
                check_ptx(&format!("kernel {:?}", kernel.name), ptx)?;
            }
        }
        let (scratch, _) = self.scratch(&self.dims);
        if scratch > MAX_ARENA {
            return Err(bad("kernels", format!("{scratch} bytes of scratch memory")));
        }
        if self.launches.is_empty() {
            return Err(bad("launches", "there are none"));
        }
        for (i, launch) in self.launches.iter().enumerate() {
            self.check_launch(launch).map_err(|e| within(i, launch, e))?;
        }
        self.check_ops()?;
        if let Some(sampled) = self.sampled {
            self.check_arena("sampled tokens", sampled.tokens, Count::Rows, 1, 4)?;
            self.check_arena("sampled log-probabilities", sampled.logprobs, Count::Rows, 1, 4)?;
        }
        self.check_arena("logits", self.logits, Count::Rows, u64::from(self.model.vocab), 4)
    }

    fn check_limits(&self) -> Result<(), EngineError> {
        let d = &self.dims;
        bounded("dims", "max_batch", d.max_batch, 1 << 16)?;
        bounded("dims", "max_seq_len", d.max_seq_len, 1 << 26)?;
        bounded("dims", "max_step_tokens", d.max_step_tokens, 1 << 20)?;
        bounded("dims", "max_logit_rows", d.max_logit_rows, 1 << 20)?;
        let m = &self.model;
        bounded("model", "vocab", m.vocab, 1 << 24)?;
        bounded("model", "hidden", m.hidden, 1 << 20)?;
        bounded("model", "layers", m.layers, 1 << 12)?;
        bounded("kv", "page_tokens", self.kv.page_tokens, 1 << 12)?;
        if self.kv.layers.len() > 1 << 12 {
            return Err(bad("kv", format!("{} layers", self.kv.layers.len())));
        }
        for (i, layer) in self.kv.layers.iter().enumerate() {
            let at = format!("kv layer {i}");
            bounded(&at, "heads", layer.heads, 1 << 12)?;
            bounded(&at, "head_dim", layer.head_dim, 1 << 12)?;
            if layer.window == Some(0) {
                return Err(bad(at, "a window of 0 tokens sees nothing"));
            }
        }
        let (page, kv) = (self.kv.page_tokens, &self.kv);
        if kv.dtype == Dtype::F8E4M3 && kv.layers.iter().any(|l| (l.head_dim * page) % 2 != 0) {
            return Err(bad("kv", format!("the scales of e4m3 pages of {page} tokens are not aligned")));
        }
        if self.arena > MAX_ARENA {
            return Err(bad("arena", format!("{} bytes", self.arena)));
        }
        if self.text.as_ref().is_some_and(|t| t.add_bos) {
            match m.bos {
                Some(bos) if bos < m.vocab => {}
                bos => {
                    return Err(bad("text", format!("prompts begin with the BOS token, which is {bos:?}")));
                }
            }
        }
        let g = &self.generation;
        let floats = [g.temperature, g.top_p, g.min_p, g.repetition_penalty];
        if floats.iter().flatten().any(|x| !x.is_finite() || *x < 0.0) {
            return Err(bad("generation", format!("a number is negative or not finite: {g:?}")));
        }
        Ok(())
    }

    /// Host engines have host kernels and no capability, all others PTX and one.
    fn check_target(&self) -> Result<(), EngineError> {
        let host = self.target == "host";
        if host != self.capability.is_none() {
            return Err(bad("target", format!("{:?} with capability {:?}", self.target, self.capability)));
        }
        for kernel in &self.kernels {
            if matches!(kernel.code, Code::Host(_)) != host {
                let kind = if host { "PTX" } else { "a host function" };
                return Err(bad(
                    format!("kernel {:?}", kernel.name),
                    format!("{kind} in an engine for {}", self.target),
                ));
            }
        }
        Ok(())
    }

    /// Names of tensors and of kernels are plain and unique.
    fn check_names(&self) -> Result<(), EngineError> {
        let plain = |name: &str| {
            (1..=512).contains(&name.len()) && !name.chars().any(char::is_control) && name != "__metadata__"
        };
        let mut tensors = BTreeSet::new();
        let mut tensor = |name: String| {
            if !plain(&name) || name.starts_with("pad.") {
                return Err(bad("names", format!("{name:?} cannot name a tensor")));
            }
            if tensors.contains(&name) {
                return Err(bad("names", format!("two tensors are called {name:?}")));
            }
            tensors.insert(name);
            Ok(())
        };
        for weight in &self.weights {
            let bytes = sizes(&weight.shape, weight.encoding, weight.layout)
                .map_err(|e| bad(format!("weight {:?}", weight.name), e.to_string()))?;
            for part in Part::ALL.into_iter().filter(|&p| bytes.of(p) > 0) {
                tensor(part.tensor(&weight.name))?;
            }
        }
        for name in container::extra_names(self) {
            tensor(name.to_string())?;
        }
        let mut kernels = BTreeSet::new();
        for kernel in &self.kernels {
            if !plain(&kernel.name) || !kernels.insert(&kernel.name) {
                return Err(bad(
                    "names",
                    format!("{:?} is no name or not a unique name of a kernel", kernel.name),
                ));
            }
        }
        Ok(())
    }

    /// Errors have the place within the launch, with a comma before it.
    fn check_launch(&self, launch: &Launch) -> Result<(), EngineError> {
        if launch.args.len() > 64 {
            return Err(bad("", format!("{} arguments", launch.args.len())));
        }
        for (i, arg) in launch.args.iter().enumerate() {
            let within = match *arg {
                Arg::Arena(offset) => offset % ARENA_ALIGN == 0 && offset <= self.arena,
                Arg::Weight(w) => (w as usize) < self.weights.len(),
                Arg::Kv(l) => (l as usize) < self.kv.layers.len(),
                Arg::Tokens | Arg::Positions | Arg::Rows | Arg::Draws | Arg::Masks | Arg::Batch => true,
            };
            if !within {
                return Err(bad(
                    format!(", argument {i}"),
                    format!("{arg:?} is out of range or not aligned"),
                ));
            }
        }
        for choice in &launch.choices {
            let kernel = self.kernels.get(choice.kernel as usize);
            let kernel =
                kernel.ok_or_else(|| bad(", choices", format!("there is no kernel {}", choice.kernel)))?;
            if let Code::Ptx(ptx) = &kernel.code {
                self.check_maps(&launch.args, ptx)
                    .map_err(|found| bad(format!(", kernel {:?}", kernel.name), found))?;
            }
            if let Code::Host(host) = &kernel.code {
                let layer = launch
                    .args
                    .iter()
                    .find_map(|a| if let Arg::Kv(l) = a { Some(*l as usize) } else { None });
                let layer = layer.and_then(|l| self.kv.layers.get(l));
                let slots = signature(host, layer, self.model.vocab);
                let slots = slots.map_err(|e| bad(format!(", kernel {:?}", kernel.name), e))?;
                self.check_args(&launch.args, &slots)?;
            }
        }
        Ok(())
    }

    /// Every map of a kernel lies within its argument; one sentence if not.
    fn check_maps(&self, args: &[Arg], ptx: &PtxKernel) -> Result<(), String> {
        for map in &ptx.maps {
            let arg = args
                .get(map.arg as usize)
                .ok_or_else(|| format!("a tensor map over no argument: {map:?}"))?;
            let fits = match (*arg, map.rows) {
                (Arg::Kv(layer), MapRows::Paged(rows)) => {
                    let layer = self.kv.layers.get(layer as usize);
                    let page = layer.map_or(0, |l| self.kv.page_bytes(l));
                    // Pages lie without gaps, and so do a map's rows.
                    u64::from(rows) * map.row_bytes() == page
                }
                (Arg::Arena(offset), MapRows::Fixed(_) | MapRows::Most(_)) => {
                    let end =
                        map.rows.count(&self.dims, 0).saturating_mul(map.row_bytes()).saturating_add(offset);
                    end <= self.arena
                }
                (Arg::Weight(w), MapRows::Fixed(rows)) => {
                    let weight = self.weights.get(w as usize);
                    let held = weight.and_then(|w| sizes(&w.shape, w.encoding, w.layout).ok());
                    let end = u64::from(rows).saturating_mul(map.row_bytes());
                    held.is_some_and(|s| end <= s.of(Part::Payload))
                }
                _ => false,
            };
            if !fits {
                return Err(format!("a tensor map that does not fit {arg:?}: {map:?}"));
            }
        }
        Ok(())
    }

    fn check_args(&self, args: &[Arg], slots: &[Slot]) -> Result<(), EngineError> {
        if args.len() != slots.len() {
            return Err(bad("", format!("{} arguments, the kernel takes {}", args.len(), slots.len())));
        }
        for (i, (arg, slot)) in args.iter().zip(slots).enumerate() {
            let at = format!(", argument {i}");
            match (*arg, *slot) {
                (Arg::Arena(offset), Slot::Arena { count, width, dtype }) => {
                    self.check_arena(&at, offset, count, width, dtype.bytes())?;
                }
                (Arg::Arena(offset), Slot::Ints { count }) => {
                    self.check_arena(&at, offset, count, 1, 4)?;
                }
                (Arg::Arena(offset), Slot::Tokens) => {
                    self.check_arena(&at, offset, Count::Tokens, 1, 4)?;
                }
                (Arg::Weight(w), Slot::Matrix { .. } | Slot::Vector { .. }) => {
                    let weight = self.weights.get(w as usize);
                    let weight = weight.ok_or_else(|| bad(at.clone(), format!("there is no weight {w}")))?;
                    slot.check_weight(weight)
                        .map_err(|e| bad(at, format!("weight {:?}: {e}", weight.name)))?;
                }
                (Arg::Kv(_), Slot::Kv)
                | (Arg::Tokens, Slot::Tokens)
                | (Arg::Positions, Slot::Positions)
                | (Arg::Rows, Slot::Rows)
                | (Arg::Draws, Slot::Draws)
                | (Arg::Masks, Slot::Masks)
                | (Arg::Batch, Slot::Batch) => {}
                (arg, slot) => return Err(bad(at, format!("{arg:?} where the kernel takes {slot:?}"))),
            }
        }
        Ok(())
    }

    /// `(count, width)` elements of `bytes` bytes lie inside the arena, whatever the step.
    fn check_arena(
        &self,
        at: &str,
        offset: u64,
        count: Count,
        width: u64,
        bytes: u64,
    ) -> Result<(), EngineError> {
        let len = self.dims.most(count).checked_mul(width).and_then(|n| n.checked_mul(bytes));
        let end = len.and_then(|n| n.checked_add(offset));
        if !offset.is_multiple_of(ARENA_ALIGN) || end.is_none_or(|e| e > self.arena) {
            let found = format!("{len:?} bytes at {offset} do not lie in an arena of {} bytes", self.arena);
            return Err(bad(at, found));
        }
        Ok(())
    }
}

/// Bytes of a weight.
fn check_weight(weight: &Weight) -> Result<u64, EngineError> {
    let at = || format!("weight {:?}", weight.name);
    if weight.shape.len() > 4 {
        return Err(bad(at(), format!("{} dimensions", weight.shape.len())));
    }
    let bytes = sizes(&weight.shape, weight.encoding, weight.layout).map_err(|e| bad(at(), e.to_string()))?;
    Ok(Part::ALL.into_iter().fold(0, |sum: u64, part| sum.saturating_add(bytes.of(part))))
}

fn check_ptx(at: &str, ptx: &PtxKernel) -> Result<(), EngineError> {
    let first = |c: char| c.is_ascii_alphabetic() || c == '_' || c == '$';
    let word = ptx.entry.starts_with(first) && ptx.entry.chars().all(|c| first(c) || c.is_ascii_digit());
    if !word || ptx.entry.len() > 512 {
        return Err(bad(at, format!("{:?} is no entry point", ptx.entry)));
    }
    if ptx.cubin.as_ref() == Some(&ptx.module) {
        return Err(bad(at, format!("its PTX and its binary are both {:?}", ptx.module)));
    }
    if let Some(Extent { div, mul, .. }) =
        ptx.grid.iter().find(|e| e.div == 0 || e.mul == 0 || e.mul > 1 << 24)
    {
        return Err(bad(at, format!("a grid extent with the divisor {div} and the factor {mul}")));
    }
    if let Some(Shares { keys, most, .. }) = ptx.shares
        && (keys == 0 || most == 0 || most > 1 << 16)
    {
        return Err(bad(at, format!("contexts shared out to {most} blocks of {keys} positions")));
    }
    // Limits of every GPU: 1024 threads, 64 of them in z, 256 KiB of shared memory.
    let [x, y, z] = ptx.block.map(u64::from);
    let threads = if x.max(y).max(z) <= 1024 { x * y * z } else { 0 };
    if !(1..=1024).contains(&threads) || z > 64 {
        return Err(bad(at, format!("a block of {:?} threads", ptx.block)));
    }
    if ptx.maps.len() > 16 {
        return Err(bad(at, format!("{} tensor maps", ptx.maps.len())));
    }
    if let Some(wrong) = ptx.maps.iter().find_map(|m| m.wrong()) {
        return Err(bad(at, wrong));
    }
    if ptx.shared > 256 << 10 {
        return Err(bad(at, format!("{} bytes of shared memory", ptx.shared)));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
