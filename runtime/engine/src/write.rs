//! Writes an engine file, tensor by tensor, in constant memory.
//!
//! The header is laid out from the manifest alone, so its size is known before the first tensor; only the hash is
//! put into its place at the end. The same inputs give the same bytes. An unfinished file never has the final name.

use crate::container::{self, ALIGN, HASH_KEY, Hasher, MANIFEST_KEY, Tensor};
use crate::error::EngineError;
use crate::manifest::Manifest;
use std::fs::File;
use std::io::{BufWriter, ErrorKind, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// Digits of the hash.
const HASH_LEN: usize = 32;

/// The header, its 8 bytes of length included, padded so that data begins at a multiple of [`ALIGN`]; with a
/// hash of zeros. Also where the hash goes.
fn header(manifest_json: &str, tensors: &[Tensor]) -> (Vec<u8>, u64) {
    let quoted = |s: &str| serde_json::Value::from(s).to_string();
    let mut text = format!("{{\"__metadata__\":{{{}:\"", quoted(HASH_KEY));
    let hash_at = 8 + text.len() as u64;
    text.push_str(&"0".repeat(HASH_LEN));
    text.push_str(&format!("\",{}:{}}}", quoted(MANIFEST_KEY), quoted(manifest_json)));
    for t in tensors {
        text.push_str(&format!(
            ",{}:{{\"dtype\":\"{}\",\"shape\":{},\"data_offsets\":[{},{}]}}",
            quoted(&t.name),
            t.element.as_str(),
            serde_json::Value::from(t.shape.as_slice()),
            t.offset,
            t.offset + t.bytes
        ));
    }
    text.push('}');
    let len = (8 + text.len()).next_multiple_of(ALIGN as usize) - 8;
    text.push_str(&" ".repeat(len - text.len()));
    let mut bytes = (len as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(text.as_bytes());
    (bytes, hash_at)
}

/// What was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// Bytes of the file.
    pub bytes: u64,
    /// The hash, 32 hexadecimal digits.
    pub hash: String,
}

/// An engine file in the making. Dropped unfinished, it leaves nothing behind.
pub struct EngineWriter {
    path: PathBuf,
    part: PathBuf,
    file: Option<BufWriter<File>>,
    hasher: Hasher,
    hash_at: u64,
    tensors: Vec<Tensor>,
    next: usize,
    total: u64,
    written: u64,
}

impl EngineWriter {
    /// Checks the manifest, lays the file out and writes its header. `extras` are the tensors that are no weights,
    /// with their sizes in bytes: exactly those of [`container::extra_names`], in any order.
    ///
    /// Refuses a manifest that contradicts itself, a folder that cannot be written to, and a disk with too little
    /// space for the whole file.
    pub fn create(
        path: &Path,
        manifest: &Manifest,
        extras: &[(&str, u64)],
    ) -> Result<EngineWriter, EngineError> {
        let contract = |text: String| EngineError::Contract(text);
        manifest.check().map_err(|e| contract(e.to_string()))?;
        let names = container::extra_names(manifest);
        for name in &names {
            if extras.iter().filter(|(n, _)| n == name).count() != 1 {
                return Err(contract(format!("the size of tensor {name:?} is not given once")));
            }
        }
        if let Some((name, _)) = extras.iter().find(|(n, _)| !names.contains(n)) {
            return Err(contract(format!("the manifest has no tensor {name:?}")));
        }
        let size = |name: &str| extras.iter().find(|(n, _)| *n == name).map(|&(_, bytes)| bytes);
        let tensors = container::tensors(manifest, &size)?;
        let json =
            serde_json::to_string(manifest).map_err(|e| contract(format!("the manifest as JSON: {e}")))?;
        let (head, hash_at) = header(&json, &tensors);
        let total = head.len() as u64 + tensors.last().map_or(0, |t| t.offset + t.bytes);

        if path.is_dir() {
            let error = std::io::Error::from(ErrorKind::IsADirectory);
            return Err(EngineError::Io { doing: "write the engine", error }.at(path));
        }
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        let mut part = path.as_os_str().to_owned();
        part.push(format!(".part-{}-{}", std::process::id(), COUNTER.fetch_add(1, Ordering::Relaxed)));
        let part = PathBuf::from(part);
        let file = File::create(&part)
            .map_err(|error| EngineError::Io { doing: "create the file", error }.at(path))?;
        let mut writer = EngineWriter {
            path: path.to_path_buf(),
            part,
            file: Some(BufWriter::with_capacity(1 << 20, file)),
            hasher: Hasher::new(&json),
            hash_at,
            tensors,
            next: 0,
            total,
            written: 0,
        };
        if let Some(free) = free_space(&writer.part).filter(|&free| free < total) {
            return Err(EngineError::NoSpace { need: total, free }.at(path));
        }
        writer.put(&head)?;
        writer.pads()?;
        Ok(writer)
    }

    /// The next tensor to be written; `None` when all are.
    pub fn next_tensor(&self) -> Option<&Tensor> {
        self.tensors.get(self.next)
    }

    /// Every tensor in the order in which they are written, paddings included.
    pub fn tensors(&self) -> &[Tensor] {
        &self.tensors
    }

    /// Bytes of the whole file.
    pub fn total_bytes(&self) -> u64 {
        self.total
    }

    /// Writes the next tensor, which has to be `name`: `fill` writes exactly its bytes, in pieces of any size.
    /// An error of writing is given back as such, whatever `fill` made of it.
    pub fn tensor<E: From<EngineError>>(
        &mut self,
        name: &str,
        fill: impl FnOnce(&mut dyn Write) -> Result<(), E>,
    ) -> Result<(), E> {
        let Some(tensor) = self.tensors.get(self.next).filter(|t| t.name == name) else {
            let expected = self.next_tensor().map_or("the end", |t| &t.name);
            return Err(
                EngineError::Contract(format!("tensor {name:?} was given, {expected:?} is next")).into()
            );
        };
        let bytes = tensor.bytes;
        self.hasher.tensor(name, bytes);
        let mut sink = Sink { writer: self, left: bytes, error: None };
        let filled = fill(&mut sink);
        let (left, error) = (sink.left, sink.error);
        if let Some(error) = error {
            return Err(error.into());
        }
        filled?;
        if left > 0 {
            return Err(
                EngineError::Contract(format!("{left} of {bytes} bytes of {name:?} were not given")).into()
            );
        }
        self.next += 1;
        Ok(self.pads()?)
    }

    /// Puts the hash into its place and gives the file its name.
    pub fn finish(mut self) -> Result<Written, EngineError> {
        if let Some(tensor) = self.next_tensor() {
            return Err(EngineError::Contract(format!("tensor {:?} was not written", tensor.name)));
        }
        let hash = self.hasher.hex();
        let Some(file) = self.file.take() else {
            return Err(EngineError::Contract("the file is already closed".into()));
        };
        let done = file.into_inner().map_err(|e| e.into_error()).and_then(|mut file| {
            file.seek(SeekFrom::Start(self.hash_at))?;
            file.write_all(hash.as_bytes())
        });
        done.map_err(|e| self.io(e))?;
        std::fs::rename(&self.part, &self.path)
            .map_err(|error| EngineError::Io { doing: "give the file its name", error }.at(&self.path))?;
        Ok(Written { bytes: self.total, hash })
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), EngineError> {
        let Some(file) = &mut self.file else {
            return Err(EngineError::Contract("the file is already closed".into()));
        };
        match file.write_all(bytes) {
            Ok(()) => {
                self.written += bytes.len() as u64;
                Ok(())
            }
            Err(e) => Err(self.io(e)),
        }
    }

    fn pads(&mut self) -> Result<(), EngineError> {
        while let Some(pad) = self.tensors.get(self.next).filter(|t| t.is_pad()) {
            let zeros = [0u8; ALIGN as usize];
            let zeros = &zeros[..(pad.bytes as usize).min(zeros.len())];
            self.hasher.tensor(&pad.name, pad.bytes);
            self.hasher.update(zeros);
            self.put(zeros)?;
            self.next += 1;
        }
        Ok(())
    }

    fn io(&self, error: std::io::Error) -> EngineError {
        let full = matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded);
        match free_space(&self.part) {
            Some(free) if full => {
                EngineError::NoSpace { need: self.total, free: free.saturating_add(self.written) }
            }
            _ => EngineError::Io { doing: "write the engine", error },
        }
        .at(&self.path)
    }
}

impl Drop for EngineWriter {
    fn drop(&mut self) {
        // After a rename there is nothing of this name; nobody is left to hear of another failure.
        drop(self.file.take().map(|f| f.into_parts()));
        let _ = std::fs::remove_file(&self.part);
    }
}

/// Takes a tensor's bytes, counts and hashes them.
struct Sink<'a> {
    writer: &'a mut EngineWriter,
    left: u64,
    error: Option<EngineError>,
}

impl Write for Sink<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let result = match self.left.checked_sub(bytes.len() as u64) {
            _ if self.error.is_some() => return Err(std::io::Error::other("writing has failed before")),
            None => Err(EngineError::Contract(format!("more bytes than the {} left of a tensor", self.left))),
            Some(left) => self.writer.put(bytes).map(|()| left),
        };
        match result {
            Ok(left) => {
                self.left = left;
                self.writer.hasher.update(bytes);
                Ok(bytes.len())
            }
            Err(error) => {
                let text = std::io::Error::other(error.to_string());
                self.error = Some(error);
                Err(text)
            }
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Free bytes of the disk that `path` is on, for this user.
#[cfg(unix)]
fn free_space(path: &Path) -> Option<u64> {
    use std::os::unix::ffi::OsStrExt;
    let path = std::ffi::CString::new(path.as_os_str().as_bytes()).ok()?;
    // SAFETY: statvfs is plain numbers, for which zeros are valid.
    let mut stat: libc::statvfs = unsafe { std::mem::zeroed() };
    // SAFETY: the path ends with a zero byte and both pointers live through the call.
    let failed = unsafe { libc::statvfs(path.as_ptr(), &mut stat) };
    (failed == 0).then(|| (stat.f_bavail as u64).saturating_mul(stat.f_frsize as u64))
}

/// Not known on this system: a full disk shows itself in writing.
#[cfg(not(unix))]
fn free_space(_: &Path) -> Option<u64> {
    None
}

#[cfg(test)]
mod tests;
