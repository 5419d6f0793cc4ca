//! `y = x w^T + bias + residual` with weights of 8 or 4 bits: x `(M, K)` bf16, y `(M, N)`, f32 accumulators.
//!
//! Weights are operand A of `mma.sync.m16n8k16`, a panel of 16 outputs a tile; tokens are operand B, eight a tile.
//! Panels lie in the order of fragments, as `trtc_engine::layout` defines it, so a lane loads 16 bytes and has its part
//! of A: no shuffle, no `ldmatrix`. It widens them in registers (`weights`); every integer is exact in bf16, so nothing
//! is rounded before the product. int4: the sum of a group is multiplied by the group's scale and added. int8: the
//! channel's scale comes at the end. Two forms share this: `few`, where weights stream, and `many`, where they are
//! reused.

mod few;
mod many;
mod weights;

pub use many::{LARGE, SMALL, Tiling};

use self::weights::Weights;
use super::epilogue::Epilogue;
use super::{ArgKind, Count, Extent, Launch, grid_of};
use crate::builder::{Bf16, Builder, F32, GlobalPtr, I8, I32, Special, Val};
use trtc_ir::DType;

/// Outputs of a panel.
const PANEL: u32 = 16;
/// Tokens of a tile.
const TILE: u32 = 8;

/// How the weights are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Payload {
    /// i8 with an f32 scale for each output.
    I8,
    /// i4 with a bf16 scale and an i8 zero point for each group of so many inputs.
    I4(u32),
}

impl Payload {
    /// Inputs of 1024 bytes of a panel. Inputs are padded to a multiple of it.
    fn span(self) -> u32 {
        match self {
            Payload::I8 => 64,
            Payload::I4(_) => 128,
        }
    }
}

/// Bytes of a span of a panel.
const SPAN: u32 = 1024;

/// How the work is shared out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Up to 8, 16 or 32 tokens a block, one to four panels; its warps share out K.
    Few(u32),
    /// A tile of tokens and panels a block, shared out among its warps.
    Many(Tiling),
}

/// Constants of the kernel.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct QuantMatmul {
    /// Outputs.
    pub n: u32,
    /// Inputs.
    pub k: u32,
    /// Weights.
    pub payload: Payload,
    /// Counts M.
    pub rows: Count,
    /// Element type of the bias, if there is one.
    pub bias: Option<DType>,
    /// Element type of the residual, if there is one.
    pub residual: Option<DType>,
    /// Element type of y.
    pub out: DType,
    /// How the work is shared out.
    pub form: Form,
}

/// Sums of a warp: `[panel][tile]`, four a lane: rows `g` and `g + 8` of the panel, tokens `2 q` and `2 q + 1` each.
type Sums<'b> = Vec<Vec<[Val<'b, F32>; 4]>>;

/// What a block works with.
#[derive(Clone, Copy)]
struct Block<'b> {
    x: GlobalPtr<'b, Bf16>,
    w: Weights<'b>,
    epilogue: Epilogue<'b>,
    /// Its first token.
    token: Val<'b, I32>,
    /// Its first panel.
    panel: Val<'b, I32>,
    /// `lane / 4` and `lane % 4`.
    g: Val<'b, I32>,
    q: Val<'b, I32>,
    lane: Val<'b, I32>,
    warp: Val<'b, I32>,
}

impl QuantMatmul {
    /// Why there is no kernel for these constants.
    pub fn unsupported(&self) -> Option<String> {
        let QuantMatmul { n, k, payload, .. } = *self;
        if n == 0 || k == 0 || !n.is_multiple_of(8) || !k.is_multiple_of(8) {
            return Some(format!("{n} outputs by {k} inputs are not positive multiples of 8"));
        }
        match payload {
            Payload::I4(group) if ![32, 64, 128].contains(&group) => {
                Some(format!("groups of {group} inputs are not of 32, 64 or 128"))
            }
            _ => None,
        }
    }

    /// Panels of the matrix.
    fn panels(&self) -> u32 {
        self.n.div_ceil(PANEL)
    }

    /// Spans of a panel.
    fn spans(&self) -> u32 {
        self.k.div_ceil(self.payload.span())
    }

    /// Tokens and panels of a block.
    fn block(&self) -> (u32, u32) {
        match self.form {
            Form::Few(tokens) => (tokens, self.few_panels(tokens)),
            Form::Many(t) => (t.tokens, t.panels),
        }
    }

    /// Geometry. Arguments: `[x, weight, bias?, residual?, y]`; the weight is two or three parameters.
    pub fn launch(&self) -> Launch {
        let weight = match self.payload {
            Payload::I8 => ArgKind::Scaled,
            Payload::I4(_) => ArgKind::ScaledZero,
        };
        let more = 1 + usize::from(self.bias.is_some()) + usize::from(self.residual.is_some());
        let mut args = vec![ArgKind::Pointer, weight];
        args.extend(vec![ArgKind::Pointer; more]);
        let (tokens, panels) = self.block();
        let grid =
            grid_of(Extent { of: self.rows, div: tokens, plus: None, mul: self.panels().div_ceil(panels) });
        let threads = match self.form {
            Form::Few(_) => few::THREADS,
            Form::Many(t) => t.threads(),
        };
        Launch::new(grid, threads, args)
    }

    /// The kernel.
    pub fn build(&self, b: &Builder) {
        let x = b.param_ptr::<Bf16>();
        let w = Weights {
            payload: b.param_const::<I8>(),
            scale: b.param_const::<I8>(),
            zero: matches!(self.payload, Payload::I4(_)).then(|| b.param_const::<I8>()),
        };
        let bias = self.bias.map(|d| b.param_const_floats(d));
        let residual = self.residual.map(|d| b.param_floats(d));
        let y = b.param_floats(self.out);
        let m = self.rows.of(b.param_dims());
        let (tokens, panels) = self.block();
        let ragged = !self.n.is_multiple_of(panels * PANEL);
        let epilogue = Epilogue { n: self.n, ragged, m, gate: None, scales: None, bias, residual, y };

        // Blocks that read the same weights are neighbours, so that the second finds them in the L2 cache.
        let block = b.special(Special::BlockX);
        let tiles = m.div_ceil(tokens);
        let (token, panel) = (block % tiles * tokens, block / tiles * panels);
        let (lane, warp) = b.lane_and_warp();
        let at = Block { x, w, epilogue, token, panel, g: lane >> 2, q: lane & 3, lane, warp };
        match self.form {
            Form::Few(tokens) => self.build_few(b, at, tokens),
            Form::Many(tiling) => self.build_many(b, at, tiling),
        }
    }
}
