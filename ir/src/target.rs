//! Targets as rows of data: passes ask what is native, codegen asks how to emit it.
//!
//! A row is facts of a chip and of the PTX that reaches it; no decision is taken here.

use crate::dtype::DType;

/// One matrix instruction family of a target.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MatrixUnit {
    /// `mma.sync`, operands in registers of a warp.
    MmaSync,
    /// `wgmma.mma_async`, operands in shared memory, a warpgroup.
    Wgmma,
    /// `tcgen05.mma`, accumulators in tensor memory.
    Tcgen05,
}

/// A chip, or the host.
#[derive(Clone, PartialEq, Debug)]
pub struct Target {
    /// What `--target` takes.
    pub name: &'static str,
    /// One phrase for help texts.
    pub title: &'static str,
    /// `None` for the host.
    pub gpu: Option<Gpu>,
}

/// Facts of a GPU target.
#[derive(Clone, PartialEq, Debug)]
pub struct Gpu {
    /// Compute capability, major and minor.
    pub capability: (u32, u32),
    /// The `.target` that carries every instruction in use.
    pub arch: &'static str,
    /// The `.target` for kernels that use no architecture-specific instruction.
    pub base_arch: &'static str,
    /// Lowest PTX ISA, major * 10 + minor, that carries what is used.
    pub ptx: u32,
    /// Matrix instructions, best first.
    pub matrix: &'static [MatrixUnit],
    /// Element types the best matrix unit multiplies natively.
    pub matrix_types: &'static [DType],
    /// Shared memory a block can have, bytes.
    pub shared: u32,
    /// Registers of a multiprocessor.
    pub registers: u32,
    /// `cp.async`.
    pub cp_async: bool,
    /// Tensor memory accelerator, mbarrier transactions.
    pub tma: bool,
    /// Thread-block clusters.
    pub clusters: bool,
    /// `setmaxnreg`.
    pub setmaxnreg: bool,
    /// Programmatic dependent launch.
    pub pdl: bool,
}

use DType::{Bf16, F4E2M1, F8E4M3, F8E5M2, F16, I8};
use MatrixUnit::{MmaSync, Tcgen05, Wgmma};

/// The table: one row a target.
pub const TARGETS: &[Target] = &[
    Target { name: "host", title: "this machine's CPU (SIMD, threads)", gpu: None },
    Target { name: "sm_80", title: "A100", gpu: Some(AMPERE) },
    Target {
        name: "sm_86",
        title: "A10, A40, RTX 30",
        gpu: Some(Gpu {
            capability: (8, 6),
            arch: "sm_86",
            base_arch: "sm_86",
            ptx: 71,
            shared: 101_376,
            ..AMPERE
        }),
    },
    Target {
        name: "sm_89",
        title: "L4, L40S, RTX 40",
        gpu: Some(Gpu {
            capability: (8, 9),
            arch: "sm_89",
            base_arch: "sm_89",
            ptx: 84,
            matrix_types: &[Bf16, F16, I8, F8E4M3, F8E5M2],
            shared: 101_376,
            ..AMPERE
        }),
    },
    Target { name: "sm_90", title: "H100, H200", gpu: Some(HOPPER) },
    Target { name: "sm_100", title: "B200", gpu: Some(BLACKWELL) },
    Target {
        name: "sm_103",
        title: "B300",
        gpu: Some(Gpu { capability: (10, 3), arch: "sm_103a", base_arch: "sm_103", ptx: 88, ..BLACKWELL }),
    },
    Target {
        name: "sm_120",
        title: "RTX 50, RTX PRO 6000",
        gpu: Some(Gpu {
            capability: (12, 0),
            arch: "sm_120a",
            base_arch: "sm_120",
            ptx: 87,
            matrix: &[MmaSync],
            shared: 101_376,
            ..BLACKWELL
        }),
    },
];

const AMPERE: Gpu = Gpu {
    capability: (8, 0),
    arch: "sm_80",
    base_arch: "sm_80",
    ptx: 70,
    matrix: &[MmaSync],
    matrix_types: &[Bf16, F16, I8],
    shared: 166_912,
    registers: 65_536,
    cp_async: true,
    tma: false,
    clusters: false,
    setmaxnreg: false,
    pdl: false,
};

const HOPPER: Gpu = Gpu {
    capability: (9, 0),
    arch: "sm_90a",
    base_arch: "sm_90",
    ptx: 80,
    matrix: &[Wgmma, MmaSync],
    matrix_types: &[Bf16, F16, I8, F8E4M3, F8E5M2],
    shared: 232_448,
    tma: true,
    clusters: true,
    setmaxnreg: true,
    pdl: true,
    ..AMPERE
};

const BLACKWELL: Gpu = Gpu {
    capability: (10, 0),
    arch: "sm_100a",
    base_arch: "sm_100",
    ptx: 86,
    matrix: &[Tcgen05, MmaSync],
    matrix_types: &[Bf16, F16, I8, F8E4M3, F8E5M2, F4E2M1],
    ..HOPPER
};

impl Target {
    /// The row called `name`.
    pub fn named(name: &str) -> Option<&'static Target> {
        TARGETS.iter().find(|t| t.name == name)
    }

    /// The row of a GPU of this compute capability.
    pub fn of_capability(major: u32, minor: u32) -> Option<&'static Target> {
        TARGETS.iter().find(|t| t.gpu.as_ref().is_some_and(|g| g.capability == (major, minor)))
    }
}
