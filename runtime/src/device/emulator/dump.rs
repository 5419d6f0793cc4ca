//! A launch as a file: the kernel's PTX, its sizes and parameters, and the memory that they point to, as it was before.
//!
//! The file is the words `trtc launch\0`, the version and the header's length (u32, little-endian), a header in JSON, the
//! PTX, and what was written of each allocation, one after the other. Nothing in a file is trusted.

use super::tensor_map;
use crate::device::launch::Param;
use crate::device::meminfo;
use crate::error::Error;
use serde::{Deserialize, Serialize};
use std::ops::Range;
use std::path::{Path, PathBuf};
use trtc_emulator::{Global, Image, Sizes};

/// What a file begins with.
const MAGIC: &[u8; 12] = b"trtc launch\0";
/// Version of the format; another one is refused.
const VERSION: u32 = 2;
/// Where the header begins.
const HEADER_AT: usize = MAGIC.len() + 8;

/// Where launches are written to, and which of them.
#[derive(Debug)]
pub struct Dump {
    folder: PathBuf,
    /// True for every launch, false for one that faults.
    all: bool,
    written: u32,
}

impl Dump {
    /// Writes to files in `folder`, which is made if it is not there: every launch before it is executed, or just what
    /// has a fault.
    pub fn new(folder: &Path, all: bool) -> Dump {
        Dump { folder: folder.to_owned(), all, written: 0 }
    }

    /// Writes a launch that is about to be executed, if every one is wanted; and where to.
    pub(super) fn before(&mut self, launch: &DumpedLaunch) -> Result<Option<PathBuf>, Error> {
        if self.all { self.write(launch).map(Some) } else { Ok(None) }
    }

    /// Writes a launch, and says where to.
    pub(super) fn write(&mut self, launch: &DumpedLaunch) -> Result<PathBuf, Error> {
        let fit = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '_' };
        // File systems take 255 bytes.
        let name: String = launch.kernel.chars().map(fit).take(200).collect();
        let path = self.folder.join(format!("{:05}-{name}.launch", self.written));
        self.written += 1;
        std::fs::create_dir_all(&self.folder)
            .and_then(|()| std::fs::write(&path, launch.to_bytes()))
            .map_err(|e| Error::user(format!("cannot write '{}': {e}", path.display())))?;
        Ok(path)
    }
}

/// A launch that can be executed again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DumpedLaunch {
    /// The kernel's name.
    pub kernel: String,
    /// Its entry point.
    pub entry: String,
    /// Where in the model the launch comes from.
    pub loc: String,
    /// Blocks.
    pub grid: [u32; 3],
    /// Threads of a block.
    pub block: [u32; 3],
    /// Bytes of dynamic shared memory.
    pub shared: u32,
    /// Parameters.
    pub params: Vec<Param>,
    /// PTX.
    pub text: String,
    /// Memory before the launch.
    pub memory: Vec<Image>,
}

/// The header of a file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    kernel: String,
    entry: String,
    loc: String,
    grid: [u32; 3],
    block: [u32; 3],
    shared: u32,
    params: Vec<Param>,
    /// Bytes of the PTX.
    text: u64,
    memory: Vec<Region>,
}

/// An allocation in a header.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Region {
    what: String,
    base: u64,
    bytes: u64,
    read_only: bool,
    /// First byte and end of each range whose bytes the file has.
    known: Vec<(u64, u64)>,
}

/// The allocations that parameters point to.
pub(super) fn memory(global: &Global, params: &[Param]) -> Vec<Image> {
    let mut out: Vec<Image> = Vec::new();
    for p in params.iter().map(Param::address) {
        if out.iter().all(|i| !(i.base..=i.base + i.bytes).contains(&p)) {
            out.extend(global.image(p));
        }
    }
    out
}

/// Decodes an entry point.
pub(super) fn entry(kernel: &str, entry: &str, text: &str) -> Result<trtc_emulator::Kernel, Error> {
    let all = trtc_emulator::load(text).map_err(|e| {
        let line = text.lines().nth((e.line as usize).saturating_sub(1)).unwrap_or("").trim();
        Error::unsupported(format!("the emulator does not execute kernel {kernel}: {e}: {line}"))
    })?;
    let found = all.into_iter().find(|k| k.name == entry);
    found.ok_or_else(|| Error::user(format!("the PTX of kernel {kernel} has no entry point {entry}")))
}

impl DumpedLaunch {
    /// As a file.
    pub fn to_bytes(&self) -> Vec<u8> {
        let region = |i: &Image| Region {
            what: i.what.clone(),
            base: i.base,
            bytes: i.bytes,
            read_only: i.read_only,
            known: i.known.iter().map(|r| (r.start, r.end)).collect(),
        };
        let header = Header {
            kernel: self.kernel.clone(),
            entry: self.entry.clone(),
            loc: self.loc.clone(),
            grid: self.grid,
            block: self.block,
            shared: self.shared,
            params: self.params.clone(),
            text: self.text.len() as u64,
            memory: self.memory.iter().map(region).collect(),
        };
        let header = serde_json::json!(header).to_string();
        let mut out = MAGIC.to_vec();
        out.extend(VERSION.to_le_bytes());
        out.extend((header.len() as u32).to_le_bytes());
        out.extend(header.as_bytes());
        out.extend(self.text.as_bytes());
        self.memory.iter().for_each(|i| out.extend(&i.contents));
        out
    }

    /// Reads a file.
    ///
    /// # Errors
    /// It is not such a file, of another version, or not whole.
    pub fn from_bytes(file: &[u8]) -> Result<DumpedLaunch, Error> {
        let wrong = |what: &str| Error::user(format!("this is not a launch of the emulator: {what}"));
        let cut = || wrong("the file is cut off");
        if !file.starts_with(MAGIC) {
            return Err(wrong("it begins with something else")
                .help("trtc check ENGINE --device emulator --dump DIR writes such files"));
        }
        let word = |at: usize| {
            let bytes = file.get(at..at + 4).and_then(|b| <[u8; 4]>::try_from(b).ok());
            bytes.map(u32::from_le_bytes).ok_or_else(cut)
        };
        let version = word(MAGIC.len())?;
        if version != VERSION {
            return Err(wrong(&format!("its version is {version}, this trtc reads {VERSION}"))
                .help("write it again with this version of trtc"));
        }
        let mut rest = file.get(HEADER_AT..).ok_or_else(cut)?;
        let mut take = |bytes: u64| {
            let (now, left) = usize::try_from(bytes).ok().and_then(|n| rest.split_at_checked(n))?;
            rest = left;
            Some(now)
        };
        let header = take(u64::from(word(MAGIC.len() + 4)?)).ok_or_else(cut)?;
        let header: Header =
            serde_json::from_slice(header).map_err(|e| wrong(&format!("its header is wrong: {e}")))?;
        let text = take(header.text).ok_or_else(cut)?;
        let text = std::str::from_utf8(text).map_err(|_| wrong("its PTX is not text"))?.to_owned();
        let mut memory = Vec::new();
        for r in header.memory {
            let lengths = r.known.iter().map(|&(start, end)| end.checked_sub(start));
            let all = lengths.into_iter().try_fold(0u64, |sum, len| sum.checked_add(len?));
            let all = all.ok_or_else(|| wrong(&format!("the ranges of {} are wrong", r.what)))?;
            let contents = take(all).ok_or_else(cut)?.to_vec();
            let known: Vec<Range<u64>> = r.known.iter().map(|&(start, end)| start..end).collect();
            memory.push(Image {
                base: r.base,
                bytes: r.bytes,
                what: r.what,
                read_only: r.read_only,
                known,
                contents,
            });
        }
        if !rest.is_empty() {
            return Err(wrong(&format!("{} bytes are left over", rest.len())));
        }
        let Header { kernel, entry, loc, grid, block, shared, params, .. } = header;
        Ok(DumpedLaunch { kernel, entry, loc, grid, block, shared, params, text, memory })
    }

    /// The kernel, decoded.
    ///
    /// # Errors
    /// The text is not PTX, has an instruction that is not known, or lacks the entry point.
    pub fn decode(&self) -> Result<trtc_emulator::Kernel, Error> {
        entry(&self.kernel, &self.entry, &self.text)
    }

    /// The bytes of each parameter.
    ///
    /// # Errors
    /// A tensor map that no GPU takes.
    pub fn params(&self) -> Result<Vec<Vec<u8>>, Error> {
        tensor_map::bytes(&self.params)
    }

    /// Blocks, threads, shared memory.
    pub fn sizes(&self) -> Sizes {
        Sizes { grid: self.grid, block: self.block, shared: self.shared }
    }

    /// The memory as it was before the launch.
    ///
    /// # Errors
    /// It does not make sense, or is more than this machine has.
    pub fn restore(&self) -> Result<Global, Error> {
        let all = self.memory.iter().try_fold(0u64, |sum, i| sum.checked_add(i.bytes));
        if all.is_none_or(|all| all > meminfo::room()) {
            return Err(Error::user("the launch has more memory than this machine has free"));
        }
        let mut global = Global::default();
        for image in &self.memory {
            global
                .restore(image)
                .map_err(|e| Error::user(format!("the launch's memory makes no sense: {e}")))?;
        }
        Ok(global)
    }
}
