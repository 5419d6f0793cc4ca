//! GGUF files: one file with metadata, tokenizer and quantised tensors.

mod cursor;
pub mod dequant;
#[cfg(test)]
pub(crate) mod fixture;
mod names;
pub mod reader;
pub mod tokenizer;

use crate::frontend::weights::{CheckpointWeights, MappedFile};
use crate::frontend::{Checkpoint, Generation, arch, name_of};
use std::io::Read;
use std::path::Path;
use trtc_ir::{Diag, Loc};

pub use cursor::{Array, Meta};
pub use reader::{Header, parse_header};

/// True if a file begins as a GGUF file does.
pub fn is_gguf(path: &Path) -> bool {
    let mut magic = [0; 4];
    std::fs::File::open(path).and_then(|mut f| f.read_exact(&mut magic)).is_ok() && &magic == b"GGUF"
}

/// Opens a file.
pub fn open(path: &Path) -> Result<Checkpoint, Diag> {
    let loc = Loc::name(path.display().to_string());
    let file = MappedFile::open(path)?;
    let header = parse_header(file.bytes(), &loc)?;
    if let Some(Meta::Uint(n)) =
        header.meta.get("split.count").filter(|&m| *m != Meta::Uint(0) && *m != Meta::Uint(1))
    {
        return Err(Diag::unsupported(&loc, format!("is one of {n} parts of a model"))
            .help("join them first: llama-gguf-split --merge"));
    }
    let arch = arch::of_gguf(names::architecture(&header, &loc)?, &loc)?;
    let vocabulary = tokenizer::Vocabulary::read(&header, file.bytes(), &loc)?;
    let ends = vocabulary.as_ref().map(tokenizer::Vocabulary::ends).unwrap_or_default();
    let tokenizer = vocabulary.as_ref().map(tokenizer::Vocabulary::tokenizer).transpose()?;
    let bos = vocabulary.as_ref().and_then(|v| v.bos());
    let tokens = vocabulary.as_ref().map_or(0, |v| v.size());
    // The tables of metadata are read from the bytes once more after the file has moved into the weights.
    let Header { meta, tensors } = header;
    let mut weights = CheckpointWeights::default();
    weights.add(file, tensors)?;
    let header = Header { meta, tensors: Vec::new() };
    let facts = names::facts(&header, weights.file_bytes(0), &weights, &ends, &loc)?;
    if let Some(rows) = facts.u32("vocab_size")?.filter(|&rows| tokens > rows as usize) {
        let message = format!("the tokenizer has {tokens} tokens, and the embedding table {rows} rows");
        return Err(
            Diag::user(&loc, message).help("convert the model again with the tokenizer that belongs to it")
        );
    }
    let mut config = (arch.config)(&facts)?;
    config.bos = bos.or(config.bos);
    Ok(Checkpoint {
        config,
        weights,
        tokenizer,
        generation: Generation::default(),
        name: name_of(path, ".gguf"),
        loc,
    })
}
