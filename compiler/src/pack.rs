//! Streams a weight's values from the mapped checkpoint into the engine's layout.
//!
//! Rows are read as f32, quantised by the IR's definition, and packed a panel at a time; nothing larger than a batch
//! of panels is held, beside the scales of one weight. What a weight's type and layout are was decided before.

use crate::frontend::CheckpointWeights;
use half::bf16;
use std::io::Write;
use std::ops::Range;
use trtc_engine::error::EngineError;
use trtc_engine::layout::{self, F8Row, I4Row, I8Row, PANEL, Packed};
use trtc_engine::manifest as eng;
use trtc_ir::quant::quantize_row;
use trtc_ir::{Diag, Elem, Loc, Scheme, Source, TensorRef, Weight};

/// Bytes of f32 rows that are in memory at a time, over all threads.
const BATCH_BYTES: u64 = 16 << 20;

/// Bytes of a weight's side tensors, in layout order; filled while the payload is written.
#[derive(Default)]
pub(crate) struct Side {
    pub scale: Vec<u8>,
    pub zero: Vec<u8>,
}

/// What went wrong while a weight was packed.
pub(crate) enum PackError {
    /// The checkpoint.
    Checkpoint(Diag),
    /// The output.
    Io(std::io::Error),
    /// The engine file.
    Engine(EngineError),
}

impl From<EngineError> for PackError {
    fn from(e: EngineError) -> PackError {
        PackError::Engine(e)
    }
}

impl From<Diag> for PackError {
    fn from(d: Diag) -> PackError {
        PackError::Checkpoint(d)
    }
}

impl From<std::io::Error> for PackError {
    fn from(e: std::io::Error) -> PackError {
        PackError::Io(e)
    }
}

/// Writes a weight's payload to `out` and returns its scales and zeros. `progress` is told of bytes written.
pub(crate) fn payload(
    weight: &Weight,
    packed: &eng::Weight,
    checkpoint: &CheckpointWeights,
    out: &mut dyn Write,
    progress: &mut dyn FnMut(u64),
) -> Result<Side, PackError> {
    let rows = Rows::of(weight, checkpoint)?;
    let scheme = match weight.ty.elem {
        Elem::Plain(_) => None,
        Elem::Quant(scheme) => Some(scheme),
    };
    // Whole panels, so that batches join without gaps; Rows has no panels, and any number does.
    let per_batch = (BATCH_BYTES / (4 * rows.width.max(1))).max(1).next_multiple_of(PANEL as u64);
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get()) as u64;
    let mut side = Side::default();
    let mut first = 0;
    while first < rows.count {
        let last = (first + per_batch).min(rows.count);
        let share = (last - first).div_ceil(threads).next_multiple_of(PANEL as u64);
        let parts: Vec<Range<u64>> = (0..threads)
            .map(|t| (first + t * share).min(last)..(first + (t + 1) * share).min(last))
            .collect();
        let done: Vec<Result<Packed, Diag>> = std::thread::scope(|scope| {
            let rows = &rows;
            let workers: Vec<_> = parts
                .into_iter()
                .filter(|part| !part.is_empty())
                .map(|part| scope.spawn(move || rows.pack(part, packed, scheme)))
                .collect();
            workers
                .into_iter()
                .map(|w| {
                    w.join().unwrap_or_else(|_| Err(Diag::bug(&Loc::Unknown, "a packing thread panicked")))
                })
                .collect()
        });
        for part in done {
            let part = part?;
            out.write_all(&part.payload)?;
            progress(part.payload.len() as u64);
            side.scale.extend(part.scale);
            side.zero.extend(part.zero);
        }
        first = last;
    }
    Ok(side)
}

/// A weight as rows of f32: the sources, stacked.
struct Rows<'a> {
    weight: &'a Weight,
    checkpoint: &'a CheckpointWeights,
    /// The source tensors with the weight's rows that each gives.
    sources: Vec<(Range<u64>, &'a TensorRef)>,
    count: u64,
    width: u64,
}

impl<'a> Rows<'a> {
    fn of(weight: &'a Weight, checkpoint: &'a CheckpointWeights) -> Result<Rows<'a>, Diag> {
        let loc = Loc::name(weight.name.as_str());
        let shape = weight.ty.shape().ok_or_else(|| Diag::bug(&loc, "a weight has a symbolic dimension"))?;
        // A vector is one row for packing, though the checkpoint counts its elements as rows of width 1.
        let (count, width) = match shape.as_slice() {
            [n] => (1, *n),
            [n, rest @ ..] => (*n, rest.iter().product()),
            [] => return Err(Diag::bug(&loc, "a weight has no dimensions")),
        };
        let mut sources = Vec::new();
        if let Source::Tensors(tensors) = &weight.source {
            let mut at = 0;
            for tensor in tensors {
                let (rows, _) = checkpoint.extent(&tensor.name).ok_or_else(|| {
                    Diag::user(&checkpoint.loc(&tensor.name), format!("tensor {:?} is missing", tensor.name))
                })?;
                sources.push((at..at + rows, tensor));
                at += rows;
            }
            let wanted = if shape.len() == 1 { width } else { count };
            if at != wanted {
                let message = format!("@{} takes {wanted} rows, its tensors have {at}", weight.name);
                return Err(Diag::user(&loc, message));
            }
        }
        Ok(Rows { weight, checkpoint, sources, count, width })
    }

    /// Rows of the weight as f32, `(rows, width)`.
    fn read(&self, rows: Range<u64>, out: &mut [f32]) -> Result<(), Diag> {
        match &self.weight.source {
            Source::Rope(freqs) => {
                out.copy_from_slice(&freqs.values());
                return Ok(());
            }
            Source::Tensors(_) => {}
        }
        // In a vector the checkpoint's rows are the elements.
        let (rows, width) =
            if self.weight.ty.dims.len() == 1 { (0..self.width, 1) } else { (rows, self.width) };
        for (tensor, rows, into) in self.pieces(rows) {
            let into = &mut out[into.start * width as usize..into.end * width as usize];
            self.checkpoint.read_rows(tensor, rows, into)?;
        }
        Ok(())
    }

    /// The source tensors of some rows: which, its rows, and where they are among the rows asked for.
    fn pieces(&self, rows: Range<u64>) -> impl Iterator<Item = (&TensorRef, Range<u64>, Range<usize>)> {
        self.sources.iter().filter_map(move |(range, tensor)| {
            let (from, to) = (rows.start.max(range.start), rows.end.min(range.end));
            let into = (from - rows.start) as usize..(to.max(from) - rows.start) as usize;
            (from < to).then(|| (*tensor, from - range.start..to - range.start, into))
        })
    }

    /// An error if a value of rows from `first` on is not finite.
    fn finite(&self, values: &[f32], first: u64) -> Result<(), Diag> {
        let Some(bad) = values.iter().position(|v| !v.is_finite()) else {
            return Ok(());
        };
        let (row, column) = (first + bad as u64 / self.width, bad as u64 % self.width);
        let message = format!("@{} has {} at row {row}, column {column}", self.weight.name, values[bad]);
        Err(Diag::user(&Loc::name(self.weight.name.as_str()), message)
            .help("the checkpoint is damaged, or its training went wrong: fetch it again"))
    }

    fn pack(&self, rows: Range<u64>, packed: &eng::Weight, scheme: Option<Scheme>) -> Result<Packed, Diag> {
        let width = self.width as usize;
        let mut part = Packed::default();
        let mut values = vec![0.0f32; PANEL * width];
        let mut from = rows.start;
        while from < rows.end {
            let to = (from + PANEL as u64).min(rows.end);
            if let (Some(scheme), eng::Encoding::F8Channel) = (scheme, packed.encoding) {
                self.pack_e4m3(from..to, scheme, packed.layout, &mut part)?;
                from = to;
                continue;
            }
            let values = &mut values[..(to - from) as usize * width];
            self.read(from..to, values)?;
            self.finite(values, from)?;
            let panel: Vec<&[f32]> = values.chunks_exact(width).collect();
            let done = match (scheme, packed.layout, packed.encoding) {
                (Some(scheme), layout @ (eng::Layout::Panel16 | eng::Layout::Fragment16), encoding) => {
                    self.pack_quantised(&panel, scheme, (encoding, layout), &mut part)
                }
                (None, eng::Layout::Rows, encoding) => {
                    let dtype =
                        if encoding == eng::Encoding::Bf16 { eng::Dtype::Bf16 } else { eng::Dtype::F32 };
                    layout::pack_rows(values, dtype, &mut part.payload).map_err(|e| e.to_string())
                }
                (None, eng::Layout::Panel16, eng::Encoding::Bf16) => {
                    layout::pack_panel_bf16(&panel, &mut part.payload).map_err(|e| e.to_string())
                }
                (None, eng::Layout::Panel16, _) => {
                    layout::pack_panel_f32(&panel, &mut part.payload).map_err(|e| e.to_string())
                }
                (Some(_), eng::Layout::Rows, _) | (None, eng::Layout::Fragment16, _) => {
                    let message = format!("@{} cannot lie in {:?}", self.weight.name, packed.layout);
                    return Err(Diag::bug(&Loc::name(self.weight.name.as_str()), message));
                }
            };
            done.map_err(|e| Diag::bug(&Loc::name(self.weight.name.as_str()), e))?;
            from = to;
        }
        Ok(part)
    }

    /// Packs up to 16 rows in e4m3. Those that the checkpoint has in e4m3 with one scale are kept as they are.
    fn pack_e4m3(
        &self,
        rows: Range<u64>,
        scheme: Scheme,
        layout: eng::Layout,
        part: &mut Packed,
    ) -> Result<(), Diag> {
        let bug = |e: String| Diag::bug(&Loc::name(self.weight.name.as_str()), e);
        let (width, count) = (self.width as usize, (rows.end - rows.start) as usize);
        let (mut codes, mut scales) = (vec![0u8; count * width], vec![0f32; count]);
        for (tensor, from, into) in self.pieces(rows.clone()) {
            let first = rows.start + into.start as u64;
            let scales = &mut scales[into.clone()];
            let codes = &mut codes[into.start * width..into.end * width];
            if self.checkpoint.read_e4m3(tensor, from.clone(), codes, scales)? {
                // Read once more as numbers: a scale or an element that is none is a fault of the checkpoint.
                let found = |q: &[u8], s: f32| q.iter().map(|&q| layout::e4m3(q) * s).collect::<Vec<f32>>();
                for ((row, q), &s) in (first..).zip(codes.chunks_exact(width)).zip(&*scales) {
                    self.finite(&found(q, s), row)?;
                }
                continue;
            }
            let mut values = vec![0f32; codes.len()];
            self.checkpoint.read_rows(tensor, from, &mut values)?;
            self.finite(&values, first)?;
            let mut quants = vec![0i8; width];
            let each = codes.chunks_exact_mut(width).zip(scales);
            for (row, (codes, scale)) in values.chunks_exact(width).zip(each) {
                quantize_row(row, scheme, &mut quants, std::slice::from_mut(scale), &mut [])
                    .map_err(|e| bug(e.to_string()))?;
                codes.iter_mut().zip(&quants).for_each(|(code, q)| *code = *q as u8);
            }
        }
        let rows: Vec<F8Row<'_>> =
            codes.chunks_exact(width).zip(&scales).map(|(q, &scale)| F8Row { q, scale }).collect();
        let done = match layout {
            eng::Layout::Rows => layout::pack_rows_f8(&rows, part),
            eng::Layout::Panel16 => layout::pack_panel_f8(&rows, part),
            eng::Layout::Fragment16 => return Err(bug("e4m3 weights do not lie in fragments".into())),
        };
        done.map_err(|e| bug(e.to_string()))
    }

    fn pack_quantised(
        &self,
        panel: &[&[f32]],
        scheme: Scheme,
        (encoding, layout): (eng::Encoding, eng::Layout),
        part: &mut Packed,
    ) -> Result<(), String> {
        let (width, rows) = (self.width as usize, panel.len());
        let per_row = scheme.scales_per_row(self.width) as usize;
        let mut quants = vec![0i8; rows * width];
        let mut scales = vec![0f32; rows * per_row];
        let mut zeros = vec![0i8; rows * per_row];
        for (r, row) in panel.iter().enumerate() {
            let (elements, groups) = (r * width..(r + 1) * width, r * per_row..(r + 1) * per_row);
            quantize_row(row, scheme, &mut quants[elements], &mut scales[groups.clone()], &mut zeros[groups])
                .map_err(|e| e.to_string())?;
        }
        let quants = quants.chunks_exact(width);
        match encoding {
            eng::Encoding::I4Group { group } => {
                // The definition rounds scales to bf16, so this loses nothing.
                let scales: Vec<bf16> = scales.iter().map(|s| bf16::from_f32(*s)).collect();
                let groups = scales.chunks_exact(per_row).zip(zeros.chunks_exact(per_row));
                let rows: Vec<I4Row<'_>> =
                    quants.zip(groups).map(|(q, (scale, zero))| I4Row { q, scale, zero }).collect();
                layout::pack_panel_i4(&rows, group, layout, part).map_err(|e| e.to_string())
            }
            _ => {
                let rows: Vec<I8Row<'_>> =
                    quants.zip(&scales).map(|(q, scale)| I8Row { q, scale: *scale }).collect();
                layout::pack_panel_i8(&rows, layout, part).map_err(|e| e.to_string())
            }
        }
    }
}
