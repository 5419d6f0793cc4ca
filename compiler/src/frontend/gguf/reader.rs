//! The GGUF container, versions 2 and 3: metadata and the table of tensors. What keys mean is not known here.
//!
//! Nothing is allocated from a length or count before the file is known to be long enough to hold it; arrays of
//! metadata stay in the file and are decoded when they are asked for.
//!
//! Layout, little-endian: `GGUF`, version u32, tensors u64, entries u64; entries of (key, type u32, value);
//! tensors of (name, dimensions u32, extents u64 innermost first, type u32, offset u64); padding to the
//! alignment; data. A string is its length u64 and its bytes; an array is its type u32, its count u64, its elements.

use crate::frontend::gguf::cursor::{Cursor, Meta};
use crate::frontend::gguf::dequant::Encoding;
use crate::frontend::weights::{Tensor, TensorInfo};
use std::collections::BTreeMap;
use trtc_ir::{Diag, Loc};

/// Alignment of the data where the file states none.
const ALIGNMENT: u64 = 32;
/// Most extents of a tensor.
const MAX_DIMS: u32 = 4;

/// Everything before the data.
pub struct Header {
    /// Metadata by key.
    pub meta: BTreeMap<String, Meta>,
    /// Tensors by name, in file order, their bytes checked against the file's length.
    pub tensors: Vec<(String, Tensor)>,
}

/// Reads and checks the header of a file; `bytes` is the whole file and `loc` names it. Never panics.
pub fn parse_header(bytes: &[u8], loc: &Loc) -> Result<Header, Diag> {
    let mut r = Cursor::new(bytes, loc);
    if r.take(4, "the magic number")? != b"GGUF" {
        return Err(r.user("is not a GGUF file: it does not begin with GGUF"));
    }
    match r.u32("the version")? {
        2 | 3 => {}
        v if v.swap_bytes() < 16 && v > 16 => {
            return Err(Diag::unsupported(loc, "is a big-endian GGUF file")
                .help("convert it for little-endian machines"));
        }
        v => {
            return Err(Diag::unsupported(loc, format!("is GGUF version {v}; versions 2 and 3 can be read"))
                .help("convert the model again with a current converter"));
        }
    }
    let (tensor_count, entry_count) = (r.u64("the tensor count")?, r.u64("the metadata count")?);
    let mut meta = BTreeMap::new();
    for i in 0..entry_count {
        let key = r.string(&format!("metadata key {i} of {entry_count}"))?.to_owned();
        let ty = r.u32(&key)?;
        let value = r.value(ty, &key, 0)?;
        if meta.contains_key(&key) {
            return Err(r.user(format!("has the metadata key `{key}` twice")));
        }
        meta.insert(key, value);
    }
    let mut infos = Vec::new();
    for i in 0..tensor_count {
        infos.push(r.tensor(&format!("tensor {i} of {tensor_count}"))?);
    }
    let alignment = match meta.get("general.alignment") {
        None => ALIGNMENT,
        Some(Meta::Uint(n)) if n.is_power_of_two() && *n <= 1 << 20 => *n,
        Some(other) => {
            return Err(r.user(format!("`general.alignment` must be a power of two, found {other:?}")));
        }
    };
    // A file may end before the padding does: then it has no data.
    let start = (r.at() as u64).next_multiple_of(alignment).min(bytes.len() as u64);
    let tensors = place(infos, start, alignment, bytes.len() as u64, loc)?;
    Ok(Header { meta, tensors })
}

/// A tensor's entry, not yet checked against the data.
struct Entry {
    name: String,
    shape: Vec<u64>,
    encoding: Option<Encoding>,
    dtype: String,
    offset: u64,
    /// `None` where the encoding is not known.
    size: Option<u64>,
}

/// Checks that tensors lie within the file and apart from each other.
fn place(
    entries: Vec<Entry>,
    start: u64,
    alignment: u64,
    file: u64,
    loc: &Loc,
) -> Result<Vec<(String, Tensor)>, Diag> {
    let user = |m: String| Diag::user(loc, m).help("the file is damaged or not complete: fetch it again");
    let data = file.saturating_sub(start);
    let mut out: Vec<(String, Tensor)> = Vec::new();
    let mut spans = Vec::new();
    for (i, e) in entries.iter().enumerate() {
        if !e.offset.is_multiple_of(alignment) {
            return Err(user(format!(
                "tensor {:?} begins at {}, not a multiple of {alignment}",
                e.name, e.offset
            )));
        }
        // Without a known size, the offset is all that can be checked; such a tensor is never read.
        let size = e.size.unwrap_or(0);
        let end = e.offset.checked_add(size).filter(|&end| end <= data);
        let Some(end) = end else {
            let message = format!(
                "tensor {:?} takes {size} bytes from {} of the data, which has {data}",
                e.name, e.offset
            );
            return Err(user(message));
        };
        spans.push((e.offset, end, i));
    }
    spans.sort_unstable();
    for pair in spans.windows(2) {
        if pair[1].0 < pair[0].1 {
            let (a, b) = (&entries[pair[0].2].name, &entries[pair[1].2].name);
            return Err(user(format!("tensors {a:?} and {b:?} overlap")));
        }
    }
    let mut seen = std::collections::BTreeSet::new();
    for e in entries {
        if !seen.insert(e.name.clone()) {
            return Err(user(format!("has the tensor {:?} twice", e.name)));
        }
        let from = (start + e.offset) as usize;
        let bytes = from..from + e.size.unwrap_or(0) as usize;
        let info = TensorInfo { shape: e.shape, dtype: e.dtype };
        out.push((e.name, Tensor { info, encoding: e.encoding, file: 0, bytes, scales: None }));
    }
    Ok(out)
}

impl Cursor<'_, '_> {
    /// One entry of the table of tensors.
    fn tensor(&mut self, what: &str) -> Result<Entry, Diag> {
        let name = self.string(&what)?.to_owned();
        let dims = self.u32(what)?;
        if dims > MAX_DIMS {
            return Err(
                self.user(format!("tensor {name:?} has {dims} dimensions; at most {MAX_DIMS} are allowed"))
            );
        }
        let mut shape = Vec::new();
        for _ in 0..dims {
            shape.push(self.u64(what)?);
        }
        let number = self.u32(what)?;
        let offset = self.u64(what)?;
        let elems = shape.iter().try_fold(1u64, |n, &d| n.checked_mul(d)).filter(|&n| n > 0 && n < 1 << 62);
        let Some(elems) = elems else {
            return Err(self.user(format!("tensor {name:?} has the impossible extents {shape:?}")));
        };
        let inner = shape.first().copied().unwrap_or(1);
        shape.reverse();
        let Some(encoding) = Encoding::of_ggml(number) else {
            let dtype = format!("number {number}");
            return Ok(Entry { name, shape, encoding: None, dtype, offset, size: None });
        };
        if !inner.is_multiple_of(encoding.block_elems() as u64) {
            let message = format!(
                "tensor {name:?} has rows of {inner} elements, not a multiple of {}, which {} needs",
                encoding.block_elems(),
                encoding.name()
            );
            return Err(self.user(message));
        }
        let Some(size) = encoding.bytes(elems) else {
            return Err(self.user(format!("tensor {name:?} has the impossible extents {shape:?}")));
        };
        Ok(Entry {
            name,
            shape,
            encoding: Some(encoding),
            dtype: encoding.name().into(),
            offset,
            size: Some(size),
        })
    }
}

#[cfg(test)]
#[path = "reader_tests.rs"]
mod tests;
