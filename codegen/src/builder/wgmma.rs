//! `wgmma`: matrix products of a warpgroup (128 threads) with operands in shared memory.
//!
//! Accumulators are tied to the instruction and to the wait, so that nothing reads them between. Thread `t` with
//! `w = t / 32`, `g = t % 32 / 4`, `q = t % 4` holds `d[j]`, `j < n / 2`: row `16 w + g + 8 (j / 2 % 2)`, column
//! `8 (j / 4) + 2 q + j % 2`.

use super::{Builder, F32, I1, I32, I64, IntoVal, SharedPtr, Ty, Val};
use trtc_ir::target::MatrixUnit;

/// Element type of both operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WgmmaType {
    /// 16 elements along k.
    Bf16,
    /// As many.
    F16,
    /// 32 elements along k.
    E4m3,
}

/// How an operand with consecutive k lies in shared memory: rows of this many bytes, 8 rows a group, 16-byte chunks
/// exchanged by the row. The tile is aligned to 8 rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Smem {
    /// 128-byte rows: chunk `c ^ (row % 8)`.
    Rows128,
    /// 64-byte rows: chunk `c ^ (row / 2 % 4)`.
    Rows64,
    /// 32-byte rows: chunk `c ^ (row / 4 % 2)`.
    Rows32,
}

impl Smem {
    /// The descriptor's bits but the address: leading offset 1 (unused), stride between groups of 8 rows, swizzle.
    pub fn descriptor_bits(self) -> u64 {
        let (row_bytes, swizzle) = match self {
            Smem::Rows128 => (128, 1),
            Smem::Rows64 => (64, 2),
            Smem::Rows32 => (32, 3),
        };
        (1 << 16) | ((8 * row_bytes as u64 / 16) << 32) | (swizzle << 62)
    }
}

/// The first operand.
#[derive(Clone, Copy)]
pub enum WgmmaA<'b> {
    /// In shared memory, by its descriptor.
    Shared(Val<'b, I64>),
    /// In registers.
    Registers([Val<'b, I32>; 4]),
}

impl Builder {
    fn need_wgmma(&self) {
        self.need("wgmma", self.gpu.matrix.contains(&MatrixUnit::Wgmma));
        self.need_arch();
    }

    /// Descriptor of an operand tile. Add `bytes / 16` to step along k within a row, or over whole groups of rows.
    pub fn wgmma_descriptor<'b, E: Ty>(&'b self, tile: SharedPtr<'b, E>, layout: Smem) -> Val<'b, I64> {
        self.descriptor(tile, layout.descriptor_bits())
    }

    /// Descriptor of a transposed second operand of 16-bit elements: `(k, 64)` tiles of 128-byte rows, swizzled as
    /// [`Smem::Rows128`], one for each 64 columns, `leading` bytes apart. Add `2048 / 16` to step over 16 rows of k.
    pub fn wgmma_descriptor_transposed<'b, E: Ty>(
        &'b self,
        tile: SharedPtr<'b, E>,
        leading: u32,
    ) -> Val<'b, I64> {
        let unused = 1 << 16;
        let leading = u64::from(leading / 16) << 16;
        self.descriptor(tile, Smem::Rows128.descriptor_bits() - unused + leading)
    }

    fn descriptor<'b, E: Ty>(&'b self, tile: SharedPtr<'b, E>, bits: u64) -> Val<'b, I64> {
        let address = (tile.address() >> 4) & 0x3FFF;
        let address: Val<'b, I64> = self.op(format_args!("llvm.zext {address} : i32 to i64"));
        address | (bits as i64)
    }

    /// Orders register and shared-memory writes before the products that follow.
    pub fn wgmma_fence(&self) {
        self.need_wgmma();
        self.stmt(format_args!("nvvm.wgmma.fence.aligned"));
    }

    /// The same, with registers whose values are there before it, constants too.
    pub fn wgmma_fence_on<'b>(&'b self, registers: &[Val<'b, F32>]) -> Vec<Val<'b, F32>> {
        self.need_wgmma();
        self.ptx_tied("wgmma.fence.sync.aligned;", registers, &[])
    }

    /// `d = a b + (accumulate ? d : 0)`, a `(64, k)`, b `(k, n)`, `n = 2 d.len()`; asynchronous.
    pub fn wgmma<'b>(
        &'b self,
        ty: WgmmaType,
        d: &[Val<'b, F32>],
        a: WgmmaA<'b>,
        b: Val<'b, I64>,
        accumulate: impl IntoVal<'b, I1>,
    ) -> Vec<Val<'b, F32>> {
        self.products(ty, d, a, (b, false), accumulate.into_val(self))
    }

    /// The same product of 16-bit elements with b by [`Builder::wgmma_descriptor_transposed`].
    pub fn wgmma_transposed<'b>(
        &'b self,
        ty: WgmmaType,
        d: &[Val<'b, F32>],
        a: WgmmaA<'b>,
        b: Val<'b, I64>,
        accumulate: impl IntoVal<'b, I1>,
    ) -> Vec<Val<'b, F32>> {
        self.products(ty, d, a, (b, true), accumulate.into_val(self))
    }

    fn products<'b>(
        &'b self,
        ty: WgmmaType,
        d: &[Val<'b, F32>],
        a: WgmmaA<'b>,
        (b, transposed): (Val<'b, I64>, bool),
        accumulate: Val<'b, I1>,
    ) -> Vec<Val<'b, F32>> {
        self.need_wgmma();
        let n = 2 * d.len();
        self.need("wgmma of this width", n.is_multiple_of(8) && (8..=256).contains(&n));
        let (k, element) = match ty {
            WgmmaType::Bf16 => (16, "bf16"),
            WgmmaType::F16 => (16, "f16"),
            WgmmaType::E4m3 => (32, "e4m3"),
        };
        let mut inputs = vec![];
        let mut next = 2 * d.len();
        let mut operand = |inputs: &mut Vec<super::Raw>, raw| {
            inputs.push(raw);
            next += 1;
            format!("${}", next - 1)
        };
        let (a_text, a_trans) = match a {
            WgmmaA::Shared(desc) => (operand(&mut inputs, desc.raw()), ", 0"),
            WgmmaA::Registers(words) => {
                let names: Vec<String> = words.iter().map(|w| operand(&mut inputs, w.raw())).collect();
                (format!("{{{}}}", names.join(", ")), "")
            }
        };
        let b_text = operand(&mut inputs, b.raw());
        let scale = operand(&mut inputs, accumulate.to_i32().raw());
        // 16-bit types say whether an operand is transposed; 8-bit types cannot be.
        let trans = match ty {
            WgmmaType::Bf16 | WgmmaType::F16 => format!("{a_trans}, {}", u8::from(transposed)),
            WgmmaType::E4m3 => String::new(),
        };
        let sums: Vec<String> = (0..d.len()).map(|i| format!("${i}")).collect();
        let text = format!(
            "{{ .reg .pred p; setp.ne.b32 p, {scale}, 0; \
             wgmma.mma_async.sync.aligned.m64n{n}k{k}.f32.{element}.{element} {{{}}}, {a_text}, {b_text}, p, 1, 1{trans}; }}",
            sums.join(", ")
        );
        self.ptx_tied(&text, d, &inputs)
    }

    /// Closes a group of products.
    pub fn wgmma_commit(&self) {
        self.need_wgmma();
        self.stmt(format_args!("nvvm.wgmma.commit.group.sync.aligned"));
    }

    /// Waits until at most `pending` groups are under way; the accumulators may be read after it.
    pub fn wgmma_wait<'b>(&'b self, pending: u32, d: &[Val<'b, F32>]) -> Vec<Val<'b, F32>> {
        self.need_wgmma();
        self.ptx_tied(&format!("wgmma.wait_group.sync.aligned {pending};"), d, &[])
    }

    /// Waits until at most `pending` groups are under way, for the sake of operands in shared memory that the others
    /// have read: accumulators stay in flight, for products that add to them.
    pub fn wgmma_wait_operands(&self, pending: u32) {
        self.need_wgmma();
        self.ptx(&format!("wgmma.wait_group.sync.aligned {pending};"), &[]);
    }
}
