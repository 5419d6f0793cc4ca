//! The instruction descriptor of `tcgen05.mma`: a 32-bit word that holds shapes, formats and orders of its matrices.
//!
//! Source: PTX ISA 9.7.16.4.2 ("Instruction descriptor") and 9.7.16.2.1 (table of shapes). It says nothing of where the
//! matrices lie: that is the matrix descriptors' and tensor memory's part.

use super::Major;

/// `.kind` of `tcgen05.mma`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MmaKind {
    /// f16 and bf16.
    F16,
    /// tf32.
    Tf32,
    /// Any two of the formats of 8, 6 and 4 bits.
    F8f6f4,
    /// 8-bit integers.
    I8,
    /// As [`MmaKind::F8f6f4`] with a ue8m0 scale for each 32 elements.
    Mxf8f6f4,
    /// e2m1 with a ue8m0 scale for each 32 elements.
    Mxf4,
    /// e2m1 with a scale for each 16 or 32 elements.
    Mxf4nvf4,
}

impl MmaKind {
    /// Whether the kind reads scale factors.
    pub const fn is_block_scaled(self) -> bool {
        matches!(self, MmaKind::Mxf8f6f4 | MmaKind::Mxf4 | MmaKind::Mxf4nvf4)
    }

    /// K of the dense instruction; twice as much of a sparse A.
    pub const fn dense_k(self) -> u32 {
        match self {
            MmaKind::Tf32 => 8,
            MmaKind::F16 => 16,
            MmaKind::F8f6f4 | MmaKind::I8 | MmaKind::Mxf8f6f4 => 32,
            MmaKind::Mxf4 | MmaKind::Mxf4nvf4 => 64,
        }
    }
}

/// The format of an element of A or B.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the names are the formats' own")]
pub enum OperandFormat {
    F16,
    Bf16,
    Tf32,
    E4m3,
    E5m2,
    E2m3,
    E3m2,
    E2m1,
    U8,
    S8,
}

/// The format of an element of D.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the names are the formats' own")]
pub enum AccumulatorFormat {
    F16,
    F32,
    S32,
}

/// The format of a scale factor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the names are the formats' own")]
pub enum ScaleFormat {
    Ue4m3,
    Ue8m0,
}

/// Scale factors of a block-scaled instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct BlockScale {
    /// Format of the scales of both operands.
    pub format: ScaleFormat,
    /// The byte of each 32-bit cell of tensor memory at which A's scales start.
    pub a_id: u8,
    /// The same for B.
    pub b_id: u8,
}

/// What the instruction says beside its descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct MmaForm {
    /// `.kind`.
    pub kind: MmaKind,
    /// CTAs that work together: 1 or 2.
    pub cta_group: u8,
    /// Whether it is the `.ws` form.
    pub weight_stationary: bool,
}

/// A decoded instruction descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct InstructionDescriptor {
    /// Rows of A and D, of both CTAs together.
    pub m: u32,
    /// Columns of B and D.
    pub n: u32,
    /// Columns of A and rows of B, with the zeros of a sparse A.
    pub k: u32,
    /// Format of A.
    pub a: OperandFormat,
    /// Format of B.
    pub b: OperandFormat,
    /// Format of D.
    pub d: AccumulatorFormat,
    /// Whether A is negated.
    pub negate_a: bool,
    /// Whether B is negated.
    pub negate_b: bool,
    /// Order of A in shared memory.
    pub a_major: Major,
    /// Order of B in shared memory.
    pub b_major: Major,
    /// Whether integer sums saturate.
    pub saturate: bool,
    /// Sparsity selector, where A is sparse.
    pub sparsity: Option<u8>,
    /// The largest shift of B that `.ws` may try: 0, 8, 16 or 32.
    pub max_shift: u8,
    /// Scale factors, of block-scaled kinds.
    pub scale: Option<BlockScale>,
}

/// What is wrong with an instruction descriptor.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InstructionDescriptorError {
    /// A bit is set that the kind does not define.
    #[error(
        "instruction descriptor {descriptor:#010x} of {kind:?} has bits {bits:#x} set; they must be 0 in this kind"
    )]
    ReservedBits {
        /// The word.
        descriptor: u32,
        /// The kind.
        kind: MmaKind,
        /// Its bits that must be 0.
        bits: u32,
    },
    /// A field holds a value that the kind does not have.
    #[error(
        "instruction descriptor {descriptor:#010x} of {kind:?} has {found} in {field}; allowed are {allowed}"
    )]
    Field {
        /// The word.
        descriptor: u32,
        /// The kind.
        kind: MmaKind,
        /// The field's name and bits.
        field: &'static str,
        /// What it holds.
        found: u32,
        /// What it may hold.
        allowed: &'static str,
    },
    /// M or N is not a shape of the instruction.
    #[error(
        "tcgen05.mma of {form:?}, {} A, has no shape M {m}, N {n}: {allowed}",
        if *sparse { "sparse" } else { "dense" }
    )]
    Shape {
        /// The instruction's form.
        form: MmaForm,
        /// Whether A is sparse.
        sparse: bool,
        /// M of the descriptor.
        m: u32,
        /// N of the descriptor.
        n: u32,
        /// The shapes it has.
        allowed: &'static str,
    },
    /// K = 96 was asked for.
    #[error("instruction descriptor asks for K 96 (bit 31), which only sm_103a has")]
    K96,
    /// A form that does not exist.
    #[error(
        "tcgen05.mma has no form {form:?}: .ws needs cta_group 1 and a kind without scales; cta_group is 1 or 2"
    )]
    Form {
        /// The form asked for.
        form: MmaForm,
    },
}

use InstructionDescriptorError as Error;

/// Formats of 8, 6 and 4 bits by their code in bits 7..9 and 10..12.
fn narrow(code: u32) -> Option<OperandFormat> {
    Some(match code {
        0 => OperandFormat::E4m3,
        1 => OperandFormat::E5m2,
        3 => OperandFormat::E2m3,
        4 => OperandFormat::E3m2,
        5 => OperandFormat::E2m1,
        _ => return None,
    })
}

/// The operand format of `code` in `kind`, or the codes that the kind has.
fn operand(kind: MmaKind, code: u32) -> Result<OperandFormat, &'static str> {
    match kind {
        MmaKind::F16 => match code {
            0 => Ok(OperandFormat::F16),
            1 => Ok(OperandFormat::Bf16),
            _ => Err("0 (f16) and 1 (bf16)"),
        },
        MmaKind::Tf32 if code == 2 => Ok(OperandFormat::Tf32),
        MmaKind::Tf32 => Err("2 (tf32)"),
        MmaKind::I8 => match code {
            0 => Ok(OperandFormat::U8),
            1 => Ok(OperandFormat::S8),
            _ => Err("0 (u8) and 1 (s8)"),
        },
        MmaKind::F8f6f4 | MmaKind::Mxf8f6f4 => {
            narrow(code).ok_or("0 (e4m3), 1 (e5m2), 3 (e2m3), 4 (e3m2) and 5 (e2m1)")
        }
        MmaKind::Mxf4 | MmaKind::Mxf4nvf4 if code == 1 => Ok(OperandFormat::E2m1),
        MmaKind::Mxf4 | MmaKind::Mxf4nvf4 => Err("1 (e2m1)"),
    }
}

/// Bits that must be 0 in each kind.
const fn reserved(kind: MmaKind) -> u32 {
    const SATURATE: u32 = 1 << 3;
    const NEGATE: u32 = 0b11 << 13;
    const TRANSPOSE: u32 = 0b11 << 15;
    match kind {
        MmaKind::F16 | MmaKind::Tf32 | MmaKind::F8f6f4 => 1 << 6 | 1 << 23 | 1 << 29 | SATURATE,
        MmaKind::I8 => 1 << 6 | 1 << 23 | 1 << 29 | NEGATE,
        MmaKind::Mxf8f6f4 => 0b11 | 1 << 3 | 1 << 6 | 0b111 << 24 | 1 << 31,
        MmaKind::Mxf4 | MmaKind::Mxf4nvf4 => 0b11 | 1 << 3 | 1 << 6 | 0b111 << 24 | 1 << 12 | TRANSPOSE,
    }
}

/// Whether M and N are a shape of the form, and the shapes it has.
fn shape(form: MmaForm, sparse: bool, m: u32, n: u32) -> (bool, &'static str) {
    let step = |least: u32, step: u32| n >= least && n <= 256 && n.is_multiple_of(step);
    if form.weight_stationary {
        let ok = matches!(m, 32 | 64 | 128) && (matches!(n, 64 | 128) || n == 256 && !sparse);
        return (ok, "M is 32, 64 or 128 and N is 64, 128 or (dense) 256");
    }
    match (form.kind, form.cta_group) {
        (MmaKind::I8, 1) => (
            matches!(m, 64 | 128) && (n == 8 || n == 24 || step(16, 16)),
            "M is 64 or 128 and N is 8, 16, 24, 32, 48, .. 256",
        ),
        (MmaKind::I8, _) => {
            (matches!(m, 128 | 256) && step(32, 32), "M is 128 or 256 and N is 32, 64, .. 256")
        }
        (kind, 1) if kind.is_block_scaled() => (m == 128 && step(8, 8), "M is 128 and N is 8, 16, .. 256"),
        (_, 1) => (matches!(m, 64 | 128) && step(8, 8), "M is 64 or 128 and N is 8, 16, .. 256"),
        (kind, _) if kind.is_block_scaled() && sparse => {
            (m == 256 && step(16, 16), "M is 256 and N is 16, 32, .. 256")
        }
        (_, _) => (matches!(m, 128 | 256) && step(16, 16), "M is 128 or 256 and N is 16, 32, .. 256"),
    }
}

impl InstructionDescriptor {
    /// Decodes `descriptor` for an instruction of this form.
    pub fn decode(
        descriptor: u32,
        form: MmaForm,
    ) -> Result<InstructionDescriptor, InstructionDescriptorError> {
        let kind = form.kind;
        let forms = match form.cta_group {
            1 => !(form.weight_stationary && kind.is_block_scaled()),
            2 => !form.weight_stationary,
            _ => false,
        };
        if !forms {
            return Err(Error::Form { form });
        }
        let set = descriptor & reserved(kind);
        if set != 0 {
            return Err(Error::ReservedBits { descriptor, kind, bits: set });
        }
        let bits = |low: u32, count: u32| descriptor >> low & ((1 << count) - 1);
        let bit = |low: u32| bits(low, 1) == 1;
        let major = |low: u32| if bit(low) { Major::Mn } else { Major::K };
        let wrong = |field, found, allowed| Error::Field { descriptor, kind, field, found, allowed };

        let a = operand(kind, bits(7, 3))
            .map_err(|allowed| wrong("the format of A (bits 7..9)", bits(7, 3), allowed))?;
        let b = operand(kind, bits(10, 3))
            .map_err(|allowed| wrong("the format of B (bits 10..12)", bits(10, 3), allowed))?;
        let sparse = bit(2);
        if !sparse && !kind.is_block_scaled() && bits(0, 2) != 0 {
            return Err(wrong("the sparsity selector (bits 0..1)", bits(0, 2), "0, since A is dense"));
        }
        let d = if kind.is_block_scaled() { AccumulatorFormat::F32 } else { accumulator(descriptor, kind)? };
        let scale = if kind.is_block_scaled() { Some(block_scale(descriptor, kind)?) } else { None };
        if matches!(kind, MmaKind::Mxf4 | MmaKind::Mxf4nvf4) && bit(31) {
            return Err(Error::K96);
        }
        let shift = if kind.is_block_scaled() { 0 } else { bits(30, 2) };
        if shift != 0 && !form.weight_stationary {
            return Err(wrong("the largest shift of B (bits 30..31)", shift, "0 without .ws"));
        }
        // M lacks its 4 low bits; the 3 reserved bits of block-scaled kinds are the next of them.
        let (m, n) = (bits(24, 5) << 4, bits(17, 6) << 3);
        let (ok, allowed) = shape(form, sparse, m, n);
        if !ok {
            return Err(Error::Shape { form, sparse, m, n, allowed });
        }
        let b_major = major(16);
        let narrow_b =
            matches!(b, OperandFormat::E4m3 | OperandFormat::E5m2 | OperandFormat::U8 | OperandFormat::S8);
        if b_major == Major::Mn && narrow_b && !n.is_multiple_of(16 * u32::from(form.cta_group)) {
            let allowed = "multiples of 16 times the number of CTAs, where an 8-bit B is transposed";
            return Err(Error::Shape { form, sparse, m, n, allowed });
        }
        Ok(InstructionDescriptor {
            m,
            n,
            k: kind.dense_k() * if sparse { 2 } else { 1 },
            a,
            b,
            d,
            negate_a: bit(13),
            negate_b: bit(14),
            a_major: major(15),
            b_major,
            saturate: kind == MmaKind::I8 && bit(3),
            sparsity: sparse.then_some(bits(0, 2) as u8),
            max_shift: [0, 8, 16, 32][shift as usize],
            scale,
        })
    }
}

/// Bits 4..5 of kinds without scales.
fn accumulator(descriptor: u32, kind: MmaKind) -> Result<AccumulatorFormat, InstructionDescriptorError> {
    let found = descriptor >> 4 & 0b11;
    let (format, allowed) = match (kind, found) {
        (MmaKind::F16 | MmaKind::F8f6f4, 0) => (Some(AccumulatorFormat::F16), ""),
        (MmaKind::F16 | MmaKind::F8f6f4 | MmaKind::Tf32, 1) => (Some(AccumulatorFormat::F32), ""),
        (MmaKind::I8, 2) => (Some(AccumulatorFormat::S32), ""),
        (MmaKind::I8, _) => (None, "2 (s32)"),
        (MmaKind::Tf32, _) => (None, "1 (f32)"),
        (_, _) => (None, "0 (f16) and 1 (f32)"),
    };
    let field = "the format of D (bits 4..5)";
    format.ok_or(Error::Field { descriptor, kind, field, found, allowed })
}

/// Bits 4..5, 23 and 29..30 of block-scaled kinds.
fn block_scale(descriptor: u32, kind: MmaKind) -> Result<BlockScale, InstructionDescriptorError> {
    let wrong = |field, found, allowed| Error::Field { descriptor, kind, field, found, allowed };
    let format = match (kind, descriptor >> 23 & 1) {
        (MmaKind::Mxf4nvf4, 0) => ScaleFormat::Ue4m3,
        (_, 1) => ScaleFormat::Ue8m0,
        (_, found) => return Err(wrong("the format of the scales (bit 23)", found, "1 (ue8m0)")),
    };
    let id = |low: u32, field| {
        let found = descriptor >> low & 0b11;
        let half = kind != MmaKind::Mxf8f6f4;
        if half && found & 1 == 1 { Err(wrong(field, found, "0 and 2")) } else { Ok(found as u8) }
    };
    Ok(BlockScale {
        format,
        a_id: id(29, "the scale factor id of A (bits 29..30)")?,
        b_id: id(4, "the scale factor id of B (bits 4..5)")?,
    })
}

#[cfg(test)]
mod tests;
