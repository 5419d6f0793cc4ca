//! The tensors of a checkpoint: memory-mapped files, and rows of them as f32 on demand.
//!
//! Nothing is copied whole, so packing streams whatever the model's size. Which tensors a model needs is not
//! known here.

mod scales;

use crate::frontend::gguf::dequant::Encoding;
use memmap2::Mmap;
pub use scales::Scales;
use std::collections::BTreeMap;
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use trtc_ir::{Diag, Loc, TensorRef};

/// A file mapped into memory.
pub struct MappedFile {
    path: PathBuf,
    map: Mmap,
}

impl MappedFile {
    /// Maps a file.
    pub fn open(path: &Path) -> Result<MappedFile, Diag> {
        let fail = |e: std::io::Error| {
            Diag::user(&Loc::name(path.display().to_string()), format!("cannot be read: {e}"))
        };
        let file = File::open(path).map_err(fail)?;
        if !file.metadata().map_err(fail)?.is_file() {
            return Err(Diag::user(&Loc::name(path.display().to_string()), "is not a file"));
        }
        // SAFETY: the map is read-only and private to this process. Someone who truncates the file meanwhile
        // makes reads fault, which no reader can prevent; every length is taken from the map itself.
        let map = unsafe { Mmap::map(&file) }.map_err(fail)?;
        Ok(MappedFile { path: path.to_owned(), map })
    }

    /// The contents.
    pub fn bytes(&self) -> &[u8] {
        &self.map
    }

    /// The path, as a location.
    pub fn loc(&self) -> Loc {
        Loc::name(self.path.display().to_string())
    }
}

/// A tensor as the checkpoint declares it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// Extents, outermost first.
    pub shape: Vec<u64>,
    /// Element type by the checkpoint's own name: `BF16`, `Q4_K`, `I64`.
    pub dtype: String,
}

/// Where a tensor's bytes lie. Readers of a format make these.
pub struct Tensor {
    /// What the checkpoint declares.
    pub info: TensorInfo,
    /// Element type, if it can be read.
    pub encoding: Option<Encoding>,
    /// Index of the file.
    pub file: usize,
    /// Bytes within the file; checked against its length.
    pub bytes: Range<usize>,
    /// What its elements are multiplied with, if they have scales.
    pub scales: Option<Scales>,
}

/// All tensors of a checkpoint, or the reason why there are none.
#[derive(Default)]
pub struct CheckpointWeights {
    files: Vec<MappedFile>,
    tensors: BTreeMap<String, Tensor>,
    absent: Option<Diag>,
}

impl CheckpointWeights {
    /// No weights, and why: a configuration alone can only be built with dummy weights.
    pub fn absent(why: Diag) -> CheckpointWeights {
        CheckpointWeights { absent: Some(why), ..CheckpointWeights::default() }
    }

    /// Adds a file with its tensors; their `file` is set here. The error names a tensor that is there already.
    pub fn add(
        &mut self,
        file: MappedFile,
        tensors: impl IntoIterator<Item = (String, Tensor)>,
    ) -> Result<(), Diag> {
        let index = self.files.len();
        for (name, tensor) in tensors {
            if let Some(other) = self.tensors.get(&name) {
                let first = &self.files[other.file].path;
                return Err(Diag::user(
                    &file.loc(),
                    format!("tensor {name:?} is also in {}", first.display()),
                )
                .help("remove the file that does not belong to this model"));
            }
            if file.bytes().get(tensor.bytes.clone()).is_none() {
                return Err(Diag::bug(
                    &file.loc(),
                    format!("tensor {name:?} was not checked against the file's length"),
                ));
            }
            self.tensors.insert(name, Tensor { file: index, ..tensor });
        }
        self.files.push(file);
        Ok(())
    }

    /// The contents of the `index`-th file; empty if there is none.
    pub(crate) fn file_bytes(&self, index: usize) -> &[u8] {
        self.files.get(index).map_or(&[], MappedFile::bytes)
    }

    /// True if there are weights.
    pub fn present(&self) -> bool {
        self.absent.is_none()
    }

    /// An error that says why there are no weights and what to do, if there are none.
    pub fn require(&self) -> Result<(), Diag> {
        self.absent.clone().map_or(Ok(()), Err)
    }

    /// A tensor's shape and type.
    pub fn info(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors.get(name).map(|t| &t.info)
    }

    /// Leaves a tensor out.
    pub fn forget(&mut self, name: &str) {
        self.tensors.remove(name);
    }

    /// True if a tensor's element type can be read.
    pub fn readable(&self, name: &str) -> bool {
        self.tensors.get(name).is_some_and(|t| t.encoding.is_some())
    }

    /// Names of all tensors, ascending.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// The file that holds a tensor, as a location.
    pub fn loc(&self, name: &str) -> Loc {
        self.tensors.get(name).map_or(Loc::name(name), |t| self.files[t.file].loc())
    }

    /// Rows and row width of a tensor as [`CheckpointWeights::read_rows`] counts them: the outermost extent, and
    /// the product of the others. The elements of a vector are rows of width 1.
    pub fn extent(&self, name: &str) -> Option<(u64, u64)> {
        self.info(name).map(|i| rows_and_width(&i.shape))
    }

    /// Rows `rows` of a tensor as f32, scales included, in the order that the reference asks for. `out` is
    /// `(rows, width)`, see [`CheckpointWeights::extent`].
    pub fn read_rows(&self, tensor: &TensorRef, rows: Range<u64>, out: &mut [f32]) -> Result<(), Diag> {
        let (t, reader) = self.reader(tensor, &rows, out.len())?;
        if tensor.interleaved_heads.is_none() && t.scales.is_none() {
            reader.read(rows.start as usize, out);
            return Ok(());
        }
        for (row, out) in rows.zip(out.chunks_exact_mut(reader.width.max(1))) {
            let row = self.stored_row(tensor, t, row)?;
            reader.read(row as usize, out);
            if let Some(scales) = &t.scales {
                let factors = self.scales_of_row(scales, row, reader.width);
                for (out, factor) in out.chunks_mut(scales.columns()).zip(factors) {
                    out.iter_mut().for_each(|x| *x *= factor);
                }
            }
        }
        Ok(())
    }

    /// Rows of an e4m3 tensor as they are stored, `(rows, width)` codes and `(rows)` scales. False, and nothing done,
    /// if the tensor is of another type, or parts of a row have scales of their own.
    pub fn read_e4m3(
        &self,
        tensor: &TensorRef,
        rows: Range<u64>,
        codes: &mut [u8],
        scales: &mut [f32],
    ) -> Result<bool, Diag> {
        let (t, reader) = self.reader(tensor, &rows, codes.len())?;
        let whole = t.scales.as_ref().is_none_or(|s| s.columns() >= reader.width);
        if reader.encoding != Encoding::F8E4M3 || !whole {
            return Ok(false);
        }
        let each = codes.chunks_exact_mut(reader.width.max(1)).zip(scales);
        for (row, (codes, scale)) in rows.zip(each) {
            let row = self.stored_row(tensor, t, row)?;
            codes.copy_from_slice(&reader.bytes[row as usize * reader.width..][..reader.width]);
            *scale = t.scales.as_ref().map_or(1.0, |s| self.scales_of_row(s, row, 1)[0]);
        }
        Ok(true)
    }

    /// A tensor and what reads it, for `rows` rows of `elements` elements in all.
    fn reader(
        &self,
        tensor: &TensorRef,
        rows: &Range<u64>,
        elements: usize,
    ) -> Result<(&Tensor, Reader<'_>), Diag> {
        self.require()?;
        let name = &tensor.name;
        let Some(t) = self.tensors.get(name) else {
            return Err(Diag::user(&Loc::name(name.as_str()), "there is no such tensor in the checkpoint"));
        };
        let loc = self.files[t.file].loc();
        let Some(encoding) = t.encoding else {
            return Err(unreadable(&loc, name, &t.info.dtype));
        };
        let (count, width) = rows_and_width(&t.info.shape);
        let wanted = rows.end.saturating_sub(rows.start);
        if rows.end > count || rows.start > rows.end || wanted.checked_mul(width) != Some(elements as u64) {
            let message = format!(
                "read of rows {rows:?} into {elements} elements of tensor {name:?}, which is {count} x {width}"
            );
            return Err(Diag::bug(&loc, message));
        }
        let bytes = &self.files[t.file].bytes()[t.bytes.clone()];
        Ok((t, Reader { bytes, encoding, width: width as usize }))
    }

    /// The row of the file that is row `row` of the reference.
    fn stored_row(&self, tensor: &TensorRef, t: &Tensor, row: u64) -> Result<u64, Diag> {
        let (Some(heads), (count, _)) = (tensor.interleaved_heads, rows_and_width(&t.info.shape)) else {
            return Ok(row);
        };
        tensor.stored_row(row, count).ok_or_else(|| {
            let message =
                format!("{count} rows of tensor {:?} do not split into {heads} even heads", tensor.name);
            Diag::bug(&self.files[t.file].loc(), message)
        })
    }
}

/// The error for a tensor whose element type is not supported.
pub fn unreadable(loc: &Loc, name: &str, dtype: &str) -> Diag {
    Diag::unsupported(loc, format!("tensor {name:?} has element type {dtype}")).help(format!(
        "convert the checkpoint to one of the types that can be read: {}",
        Encoding::names().join(", ")
    ))
}

fn rows_and_width(shape: &[u64]) -> (u64, u64) {
    match shape.split_first() {
        None => (1, 1),
        // Readers check that the product fits.
        Some((rows, rest)) => (*rows, rest.iter().product()),
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    encoding: Encoding,
    width: usize,
}

impl Reader<'_> {
    /// Elements from the first one of row `row`. Blocks may be cut where rows are shorter than a block.
    fn read(&self, row: usize, out: &mut [f32]) {
        let (elems, bytes) = (self.encoding.block_elems(), self.encoding.block_bytes());
        let first = row * self.width;
        let block = |i: usize| self.bytes.get(i * bytes..).unwrap_or_default();
        if first.is_multiple_of(elems) && out.len().is_multiple_of(elems) {
            return self.encoding.dequantize(block(first / elems), out);
        }
        let mut whole = vec![0.0; elems];
        let mut done = 0;
        while done < out.len() {
            let (i, skip) = ((first + done) / elems, (first + done) % elems);
            self.encoding.dequantize(block(i).get(..bytes).unwrap_or_default(), &mut whole);
            let n = (elems - skip).min(out.len() - done);
            out[done..done + n].copy_from_slice(&whole[skip..skip + n]);
            done += n;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    /// A checkpoint of one file with one tensor.
    fn one(bytes: &[u8], shape: &[u64], encoding: Encoding) -> CheckpointWeights {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(bytes).unwrap();
        let info = TensorInfo { shape: shape.to_vec(), dtype: encoding.name().into() };
        let tensor = Tensor { info, encoding: Some(encoding), file: 0, bytes: 0..bytes.len(), scales: None };
        let mut weights = CheckpointWeights::default();
        weights.add(MappedFile::open(file.path()).unwrap(), [("w".to_string(), tensor)]).unwrap();
        weights
    }

    fn by_name(interleaved_heads: Option<u32>) -> TensorRef {
        TensorRef { name: "w".into(), interleaved_heads }
    }

    fn floats(n: usize) -> Vec<u8> {
        (0..n).flat_map(|i| (i as f32).to_le_bytes()).collect()
    }

    #[test]
    fn a_range_of_rows_of_a_matrix_and_of_a_vector() {
        let w = one(&floats(12), &[4, 3], Encoding::F32);
        let mut out = [0.0; 6];
        w.read_rows(&by_name(None), 1..3, &mut out).unwrap();
        assert_eq!(out, [3.0, 4.0, 5.0, 6.0, 7.0, 8.0]);
        let v = one(&floats(12), &[12], Encoding::F32);
        assert_eq!(v.extent("w"), Some((12, 1)));
        v.read_rows(&by_name(None), 2..8, &mut out).unwrap();
        assert_eq!(out, [2.0, 3.0, 4.0, 5.0, 6.0, 7.0]);
    }

    #[test]
    fn interleaved_rows_come_back_in_halves() {
        // Two heads of 4: the published order 0 1 2 3 is stored as 0 2 1 3, that is (i, half).
        let stored: Vec<u8> =
            [0, 2, 1, 3, 4, 6, 5, 7].iter().flat_map(|&i| (i as f32).to_le_bytes()).collect();
        let w = one(&stored, &[8, 1], Encoding::F32);
        let mut out = [0.0; 8];
        w.read_rows(&by_name(Some(2)), 0..8, &mut out).unwrap();
        assert_eq!(out, [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]);
        let mut part = [0.0; 3];
        w.read_rows(&by_name(Some(2)), 3..6, &mut part).unwrap();
        assert_eq!(part, [3.0, 4.0, 5.0]);
    }

    #[test]
    fn a_quantised_vector_is_read_across_blocks() {
        let mut bytes = Vec::new();
        for b in 0..2i8 {
            bytes.extend(half::f16::from_f32(0.5).to_le_bytes());
            bytes.extend((0..32i8).map(|i| (b * 32 + i) as u8));
        }
        let w = one(&bytes, &[64], Encoding::Q8_0);
        let mut out = [0.0; 5];
        w.read_rows(&by_name(None), 30..35, &mut out).unwrap();
        assert_eq!(out, [15.0, 15.5, 16.0, 16.5, 17.0]);
    }

    #[test]
    fn wrong_requests_are_errors() {
        let w = one(&floats(12), &[4, 3], Encoding::F32);
        assert!(w.read_rows(&by_name(None), 3..5, &mut [0.0; 6]).is_err());
        assert!(w.read_rows(&by_name(None), 0..2, &mut [0.0; 5]).is_err());
        assert!(w.read_rows(&by_name(Some(3)), 0..1, &mut [0.0; 3]).is_err());
        let other = TensorRef { name: "x".into(), interleaved_heads: None };
        assert!(w.read_rows(&other, 0..1, &mut [0.0; 3]).unwrap_err().to_string().contains("no such tensor"));
        let none = CheckpointWeights::absent(Diag::user(&Loc::Unknown, "no weights here"));
        assert!(
            none.read_rows(&by_name(None), 0..1, &mut [0.0]).unwrap_err().message.contains("no weights here")
        );
    }

    #[test]
    fn the_same_tensor_in_two_files_is_an_error() {
        let mut w = one(&floats(1), &[1], Encoding::F32);
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&floats(1)).unwrap();
        let info = TensorInfo { shape: vec![1], dtype: "F32".into() };
        let again = Tensor { info, encoding: Some(Encoding::F32), file: 0, bytes: 0..4, scales: None };
        let e = w.add(MappedFile::open(file.path()).unwrap(), [("w".to_string(), again)]).unwrap_err();
        assert!(e.message.contains("\"w\" is also in"), "{e}");
    }
}
