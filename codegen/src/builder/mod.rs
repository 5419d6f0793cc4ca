//! The kernel builder: a thin, typed layer that writes one kernel as MLIR text of the llvm and nvvm dialects.
//!
//! Rust functions over values ([`Val`]) read like the algorithm; what they append is checked when the text is parsed
//! and verified (`crate::mlir`). Loops over constants are unrolled by plain Rust loops. A function that needs an
//! instruction which the target lacks makes [`Builder::finish`] fail. Nothing here knows of the graph IR's ops.

mod asm;
mod bulk;
mod cluster;
mod flow;
mod math;
mod matrix;
mod memory;
mod value;
mod vector;
mod warp;
mod wgmma;

pub use bulk::{Barrier, Evict};
pub use flow::Carried;
pub use memory::FloatPtr;
pub use value::{
    Bf16, Cluster, F32, Global, GlobalPtr, I1, I8, I16, I32, I64, Int, IntoVal, Num, Ptr, Raw, Shared,
    SharedPtr, Space, TensorMap, Ty, Val,
};
pub use vector::Vector;
pub use wgmma::{Smem, WgmmaA, WgmmaType};

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt::{self, Write as _};
use std::marker::PhantomData;
use trtc_ir::target::Gpu;
use trtc_ir::{Diag, Loc};

/// Most shared memory that a kernel can have without asking for it at launch.
const STATIC_SHARED: u32 = 48 * 1024;

/// A kernel under construction.
pub struct Builder {
    name: String,
    gpu: Gpu,
    block: [u32; 3],
    state: RefCell<State>,
}

#[derive(Default)]
struct State {
    /// Next value.
    next: u32,
    /// Next block label.
    label: u32,
    /// Parameters of the function.
    params: Vec<String>,
    /// Constants, at the top of the entry block.
    prologue: String,
    body: String,
    /// Constants by spelling.
    constants: HashMap<String, u32>,
    /// Bytes of shared memory, and its alignment.
    shared: u32,
    shared_align: u32,
    /// Value that holds the base of shared memory.
    shared_base: Option<u32>,
    /// Blocks of a cluster.
    cluster: Option<[u32; 3]>,
    /// Blocks that should fit on a multiprocessor.
    min_blocks: Option<u32>,
    /// True if an instruction of `Gpu::arch` is used that `Gpu::base_arch` lacks.
    arch_specific: bool,
    /// PTX version that is needed.
    ptx: u32,
    /// Whether the kernel waits for the grids before it.
    waits: Waits,
    /// What was used and the target lacks.
    lacking: Vec<String>,
}

/// Whether a kernel has come to the point where it waits for the grids before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Waits {
    /// Nothing has asked for it.
    #[default]
    No,
    /// The kernel said that it will.
    Later,
    /// It does.
    Yes,
}

/// A finished kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Built {
    /// Entry point.
    pub entry: String,
    /// MLIR.
    pub mlir: String,
    /// `.target`.
    pub arch: &'static str,
    /// `.version`, major * 10 + minor.
    pub ptx: u32,
    /// Threads of a block.
    pub block: [u32; 3],
    /// Shared memory to ask for at launch, bytes; 0 if it is all static.
    pub dynamic_shared: u32,
    /// True if it waits by itself for the grids before it.
    pub dependent: bool,
}

/// Sizes of the step, the last three parameters of every kernel.
#[derive(Clone, Copy)]
pub struct StepDims<'b> {
    /// T, tokens.
    pub tokens: Val<'b, I32>,
    /// L, rows of logits.
    pub rows: Val<'b, I32>,
    /// S, requests.
    pub seqs: Val<'b, I32>,
}

/// A special register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Special {
    /// Thread in the block, x.
    ThreadX,
    /// Block in the grid, x.
    BlockX,
    /// Block in the grid, y.
    BlockY,
    /// Block in the grid, z.
    BlockZ,
    /// Blocks of the grid, x.
    GridX,
    /// Lane in the warp.
    Lane,
    /// Multiprocessor.
    Sm,
}

impl Builder {
    /// An empty kernel; `name` must be a PTX identifier.
    pub fn new(name: &str, gpu: &Gpu, block: [u32; 3]) -> Builder {
        let state = State { shared_align: 16, ptx: gpu.ptx, ..State::default() };
        Builder { name: name.to_owned(), gpu: gpu.clone(), block, state: RefCell::new(state) }
    }

    /// The target.
    pub fn gpu(&self) -> &Gpu {
        &self.gpu
    }

    /// Threads of a block.
    pub fn threads(&self) -> u32 {
        self.block.iter().product()
    }

    fn fresh(&self) -> u32 {
        let mut state = self.state.borrow_mut();
        state.next += 1;
        state.next - 1
    }

    fn val<T>(&self, id: u32) -> Val<'_, T> {
        Val { b: self, id, ty: PhantomData }
    }

    /// Appends an op with one result.
    fn op<T: Ty>(&self, text: fmt::Arguments<'_>) -> Val<'_, T> {
        let id = self.fresh();
        self.line(format_args!("  %{id} = {text}"));
        self.val(id)
    }

    /// Appends an op without results.
    fn stmt(&self, text: fmt::Arguments<'_>) {
        self.line(format_args!("  {text}"));
    }

    fn line(&self, text: fmt::Arguments<'_>) {
        let body = &mut self.state.borrow_mut().body;
        // Writing to a String does not fail.
        let _ = writeln!(body, "{text}");
    }

    /// A constant by its attribute (`1 : i32`); one op for each spelling, where it dominates everything.
    fn constant_attr<T: Ty>(&self, attr: String) -> Val<'_, T> {
        if let Some(&id) = self.state.borrow().constants.get(&attr) {
            return self.val(id);
        }
        let id = self.fresh();
        let state = &mut *self.state.borrow_mut();
        let _ = writeln!(state.prologue, "  %{id} = llvm.mlir.constant({attr}) : {}", T::mlir());
        state.constants.insert(attr, id);
        self.val(id)
    }

    /// An integer constant.
    fn constant<T: Int>(&self, value: i64) -> Val<'_, T> {
        let ty = T::mlir();
        if ty == "i1" {
            return self.constant_attr((if value == 0 { "false" } else { "true" }).to_owned());
        }
        self.constant_attr(format!("{value} : {ty}"))
    }

    /// A constant by its bits, so that nothing is lost in print.
    fn constant_f32(&self, value: f32) -> Val<'_, F32> {
        self.constant_attr(format!("0x{:08X} : f32", value.to_bits()))
    }

    /// A number as a value; for initial values of loops.
    pub fn value<'b, T>(&'b self, value: impl IntoVal<'b, T>) -> Val<'b, T> {
        value.into_val(self)
    }

    fn add_param<T: Ty>(&self, attrs: &str) -> Val<'_, T> {
        let id = self.fresh();
        self.state.borrow_mut().params.push(format!("%{id}: {}{attrs}", T::mlir()));
        self.val(id)
    }

    /// The next parameter: a number.
    pub fn param<T: Num>(&self) -> Val<'_, T> {
        self.add_param("")
    }

    /// The next parameter: a pointer to what this or other kernels write.
    pub fn param_ptr<E: Ty>(&self) -> GlobalPtr<'_, E> {
        self.add_param("")
    }

    /// The next parameter: a pointer to what no kernel writes; loads may go through the read-only cache.
    pub fn param_const<E: Ty>(&self) -> GlobalPtr<'_, E> {
        self.add_param(" {llvm.noalias, llvm.readonly}")
    }

    /// The next two parameters, those of scratch memory: bytes, counters.
    pub fn param_scratch(&self) -> (GlobalPtr<'_, I8>, GlobalPtr<'_, I32>) {
        (self.param_ptr(), self.param_ptr())
    }

    /// The next parameter: a tensor map, 128 bytes by value.
    pub fn param_tensor_map(&self) -> Val<'_, TensorMap> {
        self.need("tensor maps", self.gpu.tma);
        self.add_param(" {llvm.byval = !llvm.array<128 x i8>, llvm.align = 64 : i64, nvvm.grid_constant}")
    }

    /// The last three parameters of every kernel. On targets with dependent launch the kernel lets the next one start and
    /// waits for those before it: what follows may touch any memory.
    pub fn param_dims(&self) -> StepDims<'_> {
        let dims = self.param_dims_early();
        self.after_grids();
        dims
    }

    /// The same without waiting: until [`Builder::after_grids`] the kernel may touch what no kernel writes, weights, and
    /// its own shared memory. Every thread that touches more, and one of each block at least, has to wait.
    pub fn param_dims_early(&self) -> StepDims<'_> {
        if self.gpu.pdl {
            self.state.borrow_mut().waits = Waits::Later;
        }
        StepDims { tokens: self.param(), rows: self.param(), seqs: self.param() }
    }

    /// A special register.
    pub fn special(&self, which: Special) -> Val<'_, I32> {
        let name = match which {
            Special::ThreadX => "tid.x",
            Special::BlockX => "ctaid.x",
            Special::BlockY => "ctaid.y",
            Special::BlockZ => "ctaid.z",
            Special::GridX => "nctaid.x",
            Special::Lane => "laneid",
            Special::Sm => "smid",
        };
        self.op(format_args!("nvvm.read.ptx.sreg.{name} : i32"))
    }

    /// Asks for registers to be limited so that `blocks` blocks fit on a multiprocessor.
    pub fn min_blocks(&self, blocks: u32) {
        self.state.borrow_mut().min_blocks = Some(blocks);
    }

    /// Notes a use of something that only some targets have.
    fn need(&self, what: &str, has: bool) {
        if !has {
            self.state.borrow_mut().lacking.push(what.to_owned());
        }
    }

    /// Notes a use of an instruction that only `Gpu::arch` carries.
    fn need_arch(&self) {
        self.state.borrow_mut().arch_specific = true;
    }

    /// Notes the least PTX version of something in use.
    fn need_ptx(&self, version: u32) {
        let ptx = &mut self.state.borrow_mut().ptx;
        *ptx = version.max(*ptx);
    }

    /// Writes the module.
    pub fn finish(&self) -> Result<Built, Diag> {
        let s = self.state.borrow();
        let bug = |what: String| Diag::bug(&Loc::name(&self.name), format!("kernel {}: {what}", self.name));
        if !s.lacking.is_empty() {
            return Err(bug(format!("uses what {} lacks: {}", self.gpu.arch, s.lacking.join(", "))));
        }
        if s.waits == Waits::Later {
            return Err(bug("never waits for the grids before it".to_owned()));
        }
        if s.shared > self.gpu.shared {
            return Err(bug(format!(
                "needs {} bytes of shared memory, a block has {}",
                s.shared, self.gpu.shared
            )));
        }
        if self.name.is_empty() || !self.name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
            return Err(bug("its name is not a PTX identifier".to_owned()));
        }
        let dynamic = s.shared > STATIC_SHARED;
        let [x, y, z] = self.block;
        let mut attrs = format!("nvvm.kernel, nvvm.reqntid = array<i32: {x}, {y}, {z}>");
        if let Some(n) = s.min_blocks {
            let _ = write!(attrs, ", nvvm.minctasm = {n} : i32");
        }
        if let Some([x, y, z]) = s.cluster {
            let _ = write!(attrs, ", nvvm.cluster_dim = array<i32: {x}, {y}, {z}>");
        }
        let mut mlir = String::from("module {\n");
        if s.shared_base.is_some() {
            let (linkage, bytes) = if dynamic { ("external", 0) } else { ("internal", s.shared) };
            let _ = writeln!(
                mlir,
                "llvm.mlir.global {linkage} @smem() {{addr_space = 3 : i32, alignment = {} : i64}} : !llvm.array<{bytes} x i8>",
                s.shared_align
            );
        }
        let _ = writeln!(mlir, "llvm.func @{}({}) attributes {{{attrs}}} {{", self.name, s.params.join(", "));
        let _ = write!(mlir, "{}{}", s.prologue, s.body);
        mlir.push_str("  llvm.return\n}\n}\n");
        Ok(Built {
            entry: self.name.clone(),
            mlir,
            arch: if s.arch_specific { self.gpu.arch } else { self.gpu.base_arch },
            ptx: s.ptx,
            block: self.block,
            dynamic_shared: if dynamic { s.shared } else { 0 },
            dependent: s.waits == Waits::Yes,
        })
    }
}
