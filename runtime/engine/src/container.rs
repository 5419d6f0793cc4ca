//! Which tensors an engine file has, in which order and where: a pure function of the manifest.
//!
//! Used by the writer to lay the file out and by the reader to compare. Says nothing of the header's text.
//!
//! Weights come first in the manifest's order (payload, scale, zero), then the modules of PTX kernels in the order
//! in which kernels first name them, each with its binary if it has one, then the tokenizer. Each tensor begins at a multiple of 64 bytes: where one
//! does not end there, a tensor `pad.N` of zeros follows, because the container allows no holes.

use crate::error::EngineError;
use crate::layout::{Part, panels, sizes};
use crate::manifest::{Code, Encoding, Layout, Manifest, Weight};

/// Every tensor begins at a multiple of this many bytes of the file.
pub const ALIGN: u64 = 64;

/// Metadata key of the manifest.
pub const MANIFEST_KEY: &str = "trtc";

/// Metadata key of the hash.
pub const HASH_KEY: &str = "trtc.hash";

/// Element types of the container that engine files use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Element {
    /// Bytes, and nibbles.
    U8,
    /// i8.
    I8,
    /// f32.
    F32,
    /// bf16.
    Bf16,
    /// OCP FP8 E4M3.
    F8E4M3,
}

impl Element {
    /// The container's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Element::U8 => "U8",
            Element::I8 => "I8",
            Element::F32 => "F32",
            Element::Bf16 => "BF16",
            Element::F8E4M3 => "F8_E4M3",
        }
    }
}

/// One tensor of the container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tensor {
    /// Name.
    pub name: String,
    /// Element type.
    pub element: Element,
    /// Extents, outermost first.
    pub shape: Vec<u64>,
    /// First byte, counted from the end of the header.
    pub offset: u64,
    /// Bytes.
    pub bytes: u64,
}

impl Tensor {
    /// True for the zeros between tensors.
    pub fn is_pad(&self) -> bool {
        self.name.starts_with("pad.")
    }
}

/// Extents of a weight's part as the container shows them.
fn extents(weight: &Weight, part: Part) -> Result<(Element, Vec<u64>), EngineError> {
    if weight.layout == Layout::Rows {
        return Ok(match (weight.encoding, part) {
            (Encoding::F8Channel, Part::Payload) => (Element::F8E4M3, weight.shape.clone()),
            (Encoding::F8Channel, _) => (Element::F32, weight.shape[..1].to_vec()),
            (Encoding::F32, _) => (Element::F32, weight.shape.clone()),
            _ => (Element::Bf16, weight.shape.clone()),
        });
    }
    let p = panels(&weight.shape, weight.encoding, weight.layout)?;
    if weight.layout == Layout::Fragment16 && part == Part::Payload {
        // 32 lanes of 16 bytes.
        let (element, inputs) =
            if weight.encoding == Encoding::I8Channel { (Element::I8, 32) } else { (Element::U8, 64) };
        return Ok((element, vec![p.count, p.inputs / inputs, 32, 16]));
    }
    Ok(match (weight.encoding, part) {
        (Encoding::F32, _) => (Element::F32, vec![p.count, p.inputs, 16]),
        (Encoding::Bf16, _) => (Element::Bf16, vec![p.count, p.inputs / 2, 16, 2]),
        (Encoding::I8Channel, Part::Payload) => (Element::I8, vec![p.count, p.inputs / 2, 16, 2]),
        (Encoding::F8Channel, Part::Payload) => (Element::F8E4M3, vec![p.count, p.inputs / 2, 16, 2]),
        (Encoding::I8Channel | Encoding::F8Channel, _) => (Element::F32, vec![p.count, 16]),
        (Encoding::I4Group { .. }, Part::Payload) => (Element::U8, vec![p.count, p.inputs / 8, 32, 2]),
        (Encoding::I4Group { .. }, Part::Scale) => (Element::Bf16, vec![p.count, p.groups, 16]),
        (Encoding::I4Group { .. }, Part::Zero) => (Element::I8, vec![p.count, p.groups, 16]),
    })
}

/// Names of the tensors that are not weights: PTX modules with their binaries, then the tokenizer.
pub fn extra_names(manifest: &Manifest) -> Vec<&str> {
    let mut seen = std::collections::BTreeSet::new();
    let modules = manifest.kernels.iter().flat_map(|k| match &k.code {
        Code::Ptx(ptx) => [Some(ptx.module.as_str()), ptx.cubin.as_deref()],
        Code::Host(_) => [None, None],
    });
    modules
        .flatten()
        .chain(manifest.text.iter().map(|t| t.tokenizer.as_str()))
        .filter(|name| seen.insert(*name))
        .collect()
}

/// All tensors in the file's order, `pad.N` included; `extra_bytes` gives the size of a tensor that is no weight.
pub fn tensors(
    manifest: &Manifest,
    extra_bytes: &dyn Fn(&str) -> Option<u64>,
) -> Result<Vec<Tensor>, EngineError> {
    let mut list = List { tensors: Vec::new(), end: 0, pads: 0 };
    for weight in &manifest.weights {
        if manifest.dummy_seed.is_some() && !weight.computed {
            continue;
        }
        let bytes = sizes(&weight.shape, weight.encoding, weight.layout)?;
        for part in Part::ALL {
            if bytes.of(part) > 0 {
                let (element, shape) = extents(weight, part)?;
                list.push(part.tensor(&weight.name), element, shape, bytes.of(part))?;
            }
        }
    }
    for name in extra_names(manifest) {
        let bytes =
            extra_bytes(name).ok_or_else(|| EngineError::Damaged(format!("tensor {name:?} is missing")))?;
        list.push(name.to_string(), Element::U8, vec![bytes], bytes)?;
    }
    Ok(list.tensors)
}

struct List {
    tensors: Vec<Tensor>,
    end: u64,
    pads: u64,
}

impl List {
    fn push(
        &mut self,
        name: String,
        element: Element,
        shape: Vec<u64>,
        bytes: u64,
    ) -> Result<(), EngineError> {
        let gap = self.end.next_multiple_of(ALIGN) - self.end;
        if gap > 0 {
            let name = format!("pad.{}", self.pads);
            self.tensors.push(Tensor {
                name,
                element: Element::U8,
                shape: vec![gap],
                offset: self.end,
                bytes: gap,
            });
            self.pads += 1;
            self.end += gap;
        }
        let end = self.end.checked_add(bytes).filter(|&e| e <= isize::MAX as u64);
        let end = end.ok_or_else(|| {
            EngineError::Layout("the tensors together are larger than a file can be".into())
        })?;
        self.tensors.push(Tensor { name, element, shape, offset: self.end, bytes });
        self.end = end;
        Ok(())
    }
}

/// The hash over everything: `xxh3-128(len m, m, for each tensor: len name, name, len data, data)` with lengths as
/// little-endian u64 and `m` the manifest's JSON.
pub struct Hasher(xxhash_rust::xxh3::Xxh3);

impl Hasher {
    /// Begins with the manifest's JSON.
    pub fn new(manifest_json: &str) -> Hasher {
        let mut hasher = Hasher(xxhash_rust::xxh3::Xxh3::new());
        hasher.sized(manifest_json.as_bytes());
        hasher
    }

    /// Bytes with their length before them.
    fn sized(&mut self, bytes: &[u8]) {
        self.0.update(&(bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
    }

    /// Begins a tensor; its `bytes` bytes must follow.
    pub fn tensor(&mut self, name: &str, bytes: u64) {
        self.sized(name.as_bytes());
        self.0.update(&bytes.to_le_bytes());
    }

    /// Bytes of the tensor.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// 32 hexadecimal digits.
    pub fn hex(&self) -> String {
        format!("{:032x}", self.0.digest128())
    }
}
