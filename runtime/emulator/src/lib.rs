//! Executes PTX on the CPU, exactly as the PTX ISA defines it, and finds the faults that a GPU hides.
//!
//! It knows nothing of graphs, engines or devices: PTX text and bytes go in, bytes or a [`Fault`] come out. Where the
//! ISA leaves a result to the chip, the chip's known behaviour is documented beside the code.
//!
//! ```
//! use trtc_emulator::{Global, Limits, Sizes, launch, load};
//! let kernels = load(
//!     ".version 8.0 .target sm_80 .address_size 64
//!      .visible .entry k(.param .u64 out) { .reg .b64 %a; .reg .b32 %x;
//!        ld.param.b64 %a, [out]; mov.u32 %x, %ctaid.x; st.global.b32 [%a], %x; ret; }",
//! )?;
//! let mut global = Global::default();
//! let out = global.alloc(4, "out");
//! let sizes = Sizes { grid: [1, 1, 1], block: [1, 1, 1], shared: 0 };
//! launch(&kernels[0], sizes, &[&out.to_le_bytes()], &global, 1, Limits::default())?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![warn(missing_docs)]
#![allow(clippy::needless_range_loop, reason = "rows of threads are indexed together")]

pub mod async_copy;
pub mod barrier;
mod checks;
pub mod decode;
pub mod fault;
mod inst;
pub mod launch;
pub mod layout;
pub mod mbarrier;
pub mod memory;
pub mod number;
pub mod pending;
pub mod ptx;
pub mod schedule;
pub mod tensor_memory;
pub mod trace;
pub mod warp;
pub mod world;

pub use decode::{Kernel, load};
pub use fault::{Fault, FaultKind};
pub use launch::{Sizes, launch, launch_traced};
pub use memory::{Global, Image};
pub use schedule::{Limits, Stats};
pub use trace::Tracer;
