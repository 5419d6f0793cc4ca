//! Opens an engine file: memory-maps it and refuses whatever does not fit its manifest.
//!
//! Every tensor is where `container.rs` says it has to be: present, of the right type and shape, without gaps,
//! overlaps or anything besides. Nothing is copied, nothing is repaired.

use crate::container::{self, HASH_KEY, Hasher, MANIFEST_KEY, Tensor};
use crate::error::EngineError;
use crate::manifest::{FORMAT, Manifest};
use safetensors::SafeTensors;
use std::collections::HashMap;
use std::fs::File;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

/// Read-only bytes that several owners share: a mapped file.
pub type SharedBytes = Arc<dyn AsRef<[u8]> + Send + Sync>;

/// Whether opening reads the whole file to compare its hash. Everything else is always checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Verify {
    /// If the file is small enough that it takes about a second from memory: under 4 GiB.
    #[default]
    Small,
    /// Whatever the size.
    Always,
    /// Only when [`EngineFile::verify_hash`] is called.
    Never,
}

/// Files under this size are hashed when they are opened.
const SMALL: u64 = 4 << 30;

/// An engine file that passed every check.
pub struct EngineFile {
    bytes: SharedBytes,
    manifest: Manifest,
    manifest_json: String,
    hash: String,
    /// In the file's order; offsets count from the beginning of the file.
    tensors: Vec<Tensor>,
    index: HashMap<String, usize>,
}

impl std::fmt::Debug for EngineFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EngineFile").field("hash", &self.hash).field("tensors", &self.tensors.len()).finish()
    }
}

impl EngineFile {
    /// Opens and checks a file; its hash as [`Verify::Small`] says. The file must not be changed while it is open
    /// (`trtc build` never does: it writes another file and renames).
    pub fn open(path: &Path) -> Result<EngineFile, EngineError> {
        EngineFile::open_with(path, Verify::default())
    }

    /// Opens and checks a file.
    pub fn open_with(path: &Path, verify: Verify) -> Result<EngineFile, EngineError> {
        if path.is_dir() {
            let found = "a folder".to_string();
            return Err(
                EngineError::NotAnEngine { found, checkpoint: path.join("config.json").exists() }.at(path)
            );
        }
        let io = |doing| move |error| EngineError::Io { doing, error }.at(path);
        let file = File::open(path).map_err(io("open the file"))?;
        if file.metadata().map_err(io("open the file"))?.len() == 0 {
            return Err(
                EngineError::NotAnEngine { found: "an empty file".into(), checkpoint: false }.at(path)
            );
        }
        // SAFETY: the mapping is private and read-only. Changing the file meanwhile is excluded by the contract of
        // `open`, as for every memory-mapped format.
        let map = unsafe { memmap2::Mmap::map(&file) }.map_err(io("map the file into memory"))?;
        let file = EngineFile::from_shared(Arc::new(map)).map_err(|e| e.at(path))?;
        let hash = match verify {
            Verify::Always => true,
            Verify::Small => file.len() < SMALL,
            Verify::Never => false,
        };
        if hash {
            file.verify_hash().map_err(|e| e.at(path))?;
        }
        Ok(file)
    }

    /// An engine file in memory, without its hash compared.
    pub fn parse(bytes: &[u8]) -> Result<EngineFile, EngineError> {
        EngineFile::from_shared(Arc::new(bytes.to_vec()))
    }

    fn from_shared(bytes: SharedBytes) -> Result<EngineFile, EngineError> {
        let data: &[u8] = (*bytes).as_ref();
        let head = Head::parse(data)?;
        check_format(&head.manifest_json)?;
        let manifest: Manifest = serde_json::from_str(&head.manifest_json)
            .map_err(|e| EngineError::Manifest { at: "JSON".into(), found: e.to_string() })?;
        manifest.check()?;

        let found: HashMap<&str, &Tensor> = head.tensors.iter().map(|t| (t.name.as_str(), t)).collect();
        let size = |name: &str| found.get(name).map(|t| t.bytes);
        let mut tensors = container::tensors(&manifest, &size).map_err(|e| match e {
            EngineError::Layout(text) => EngineError::Damaged(text),
            other => other,
        })?;
        for want in &tensors {
            match found.get(want.name.as_str()) {
                None => return Err(EngineError::Damaged(format!("tensor {:?} is missing", want.name))),
                Some(&t) if t != want => {
                    return Err(EngineError::Damaged(format!("found {}, expected {}", show(t), show(want))));
                }
                Some(_) => {}
            }
        }
        if found.len() != tensors.len() {
            let known: std::collections::HashSet<&str> = tensors.iter().map(|t| t.name.as_str()).collect();
            let other = head.tensors.iter().find(|t| !known.contains(t.name.as_str()));
            let name = other.map_or("?", |t| &t.name);
            return Err(EngineError::Damaged(format!("tensor {name:?} is not in the manifest")));
        }
        // The container was checked to end where the last tensor does, so these stay inside the file.
        tensors.iter_mut().for_each(|t| t.offset += head.data_at);
        let index = tensors.iter().enumerate().map(|(i, t)| (t.name.clone(), i)).collect();
        let Head { manifest_json, hash, .. } = head;
        Ok(EngineFile { bytes, manifest, manifest_json, hash, tensors, index })
    }

    /// Reads everything and compares with the hash that the file gives.
    pub fn verify_hash(&self) -> Result<(), EngineError> {
        let mut hasher = Hasher::new(&self.manifest_json);
        for t in &self.tensors {
            hasher.tensor(&t.name, t.bytes);
            hasher.update(&self.as_slice()[range(t)]);
        }
        let found = hasher.hex();
        if found == self.hash {
            Ok(())
        } else {
            Err(EngineError::Damaged(format!("its hash is {found}, it should be {}", self.hash)))
        }
    }

    /// The manifest, checked.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The manifest as the file has it.
    pub fn manifest_json(&self) -> &str {
        &self.manifest_json
    }

    /// The hash over everything, 32 hexadecimal digits, as the file gives it.
    pub fn hash(&self) -> &str {
        &self.hash
    }

    /// Bytes of the file.
    pub fn len(&self) -> u64 {
        self.as_slice().len() as u64
    }

    /// Never true: an empty file is no engine.
    pub fn is_empty(&self) -> bool {
        self.as_slice().is_empty()
    }

    /// All tensors in the file's order, paddings included; offsets count from the beginning of the file.
    pub fn tensors(&self) -> &[Tensor] {
        &self.tensors
    }

    /// Bytes of a tensor.
    pub fn tensor(&self, name: &str) -> Result<&[u8], EngineError> {
        Ok(&self.as_slice()[self.tensor_range(name)?])
    }

    /// Where a tensor lies in the file.
    pub fn tensor_range(&self, name: &str) -> Result<Range<usize>, EngineError> {
        let missing = || EngineError::Contract(format!("the engine has no tensor {name:?}"));
        self.index.get(name).and_then(|&i| self.tensors.get(i)).map(range).ok_or_else(missing)
    }

    /// The whole file, shared.
    pub fn bytes(&self) -> SharedBytes {
        Arc::clone(&self.bytes)
    }

    fn as_slice(&self) -> &[u8] {
        (*self.bytes).as_ref()
    }
}

fn range(t: &Tensor) -> Range<usize> {
    t.offset as usize..(t.offset + t.bytes) as usize
}

fn show(t: &Tensor) -> String {
    format!(
        "tensor {:?} {} {:?} at {}..{}",
        t.name,
        t.element.as_str(),
        t.shape,
        t.offset,
        t.offset + t.bytes
    )
}

/// The container's header.
struct Head {
    manifest_json: String,
    hash: String,
    tensors: Vec<Tensor>,
    data_at: u64,
}

impl Head {
    /// Reads the header. The container crate refuses offsets that overlap, leave holes or do not end with the file.
    fn parse(data: &[u8]) -> Result<Head, EngineError> {
        if let Some((found, checkpoint)) = other_format(data) {
            return Err(EngineError::NotAnEngine { found: found.into(), checkpoint });
        }
        let declared = data.first_chunk::<8>().map(|b| u64::from_le_bytes(*b));
        let (len, metadata) = match SafeTensors::read_metadata(data) {
            Ok(read) => read,
            // The end of a long file is what is missing most often: say so where the header can tell.
            Err(e) => {
                let begins = data.get(8..).is_some_and(|d| d.starts_with(b"{\"__metadata__\":{\"trtc"));
                let short = declared.is_some_and(|n| n > data.len() as u64);
                return Err(match begins {
                    true if short => EngineError::Damaged("it ends within its header".into()),
                    true => EngineError::Damaged(format!("{e} (the file has {} bytes)", data.len())),
                    false => EngineError::NotAnEngine { found: e.to_string(), checkpoint: false },
                });
            }
        };
        let texts = metadata.metadata().as_ref();
        let Some(manifest_json) = texts.and_then(|t| t.get(MANIFEST_KEY)) else {
            return Err(EngineError::NotAnEngine {
                found: "a safetensors checkpoint".into(),
                checkpoint: true,
            });
        };
        let Some(hash) = texts.and_then(|t| t.get(HASH_KEY)) else {
            return Err(EngineError::Damaged(format!("the header has no {HASH_KEY}")));
        };
        let mut tensors = Vec::new();
        for (name, info) in metadata.tensors() {
            use container::Element;
            let element = match info.dtype {
                safetensors::Dtype::U8 => Element::U8,
                safetensors::Dtype::I8 => Element::I8,
                safetensors::Dtype::F32 => Element::F32,
                safetensors::Dtype::BF16 => Element::Bf16,
                safetensors::Dtype::F8_E4M3 => Element::F8E4M3,
                other => {
                    return Err(EngineError::Damaged(format!("tensor {name:?} has element type {other:?}")));
                }
            };
            let (from, to) = info.data_offsets;
            let shape = info.shape.iter().map(|&n| n as u64).collect();
            tensors.push(Tensor { name, element, shape, offset: from as u64, bytes: (to - from) as u64 });
        }
        tensors.sort_by(|a, b| (a.offset, &a.name).cmp(&(b.offset, &b.name)));
        let (manifest_json, hash) = (manifest_json.clone(), hash.clone());
        Ok(Head { manifest_json, hash, tensors, data_at: 8 + len as u64 })
    }
}

/// Names what a file is by its first bytes, and whether `trtc build` reads it.
fn other_format(data: &[u8]) -> Option<(&'static str, bool)> {
    const KNOWN: &[(&[u8], &str, bool)] = &[
        (b"GGUF", "a GGUF checkpoint", true),
        (b"PK\x03\x04", "a PyTorch checkpoint or another zip archive", false),
        (b"\x7fELF", "a program", false),
        (b"\x1f\x8b", "a gzip archive", false),
        (b"{", "a JSON file", true),
        (b"version https://git-lfs", "a Git LFS pointer, not the file itself", false),
    ];
    KNOWN
        .iter()
        .find(|(magic, ..)| data.starts_with(magic))
        .filter(|k| !looks_contained(data, k.0))
        .map(|k| (k.1, k.2))
}

/// True if what looks like a magic number is the length of a container's header.
fn looks_contained(data: &[u8], magic: &[u8]) -> bool {
    magic.len() < 4 && data.get(8..).is_some_and(|d| d.starts_with(b"{\""))
}

/// Reads the format version alone, so that another version is named as such and not by what it has in other places.
fn check_format(manifest_json: &str) -> Result<(), EngineError> {
    #[derive(serde::Deserialize)]
    struct Probe {
        format: u64,
    }
    match serde_json::from_str::<Probe>(manifest_json) {
        Ok(Probe { format }) if format == u64::from(FORMAT) => Ok(()),
        Ok(Probe { format }) => Err(EngineError::Format { found: format }),
        Err(e) => Err(EngineError::Manifest { at: "JSON".into(), found: e.to_string() }),
    }
}

#[cfg(test)]
mod tests;
