//! Where elements lie: tensor maps, swizzles, matrix descriptors, fragments in registers and tensor memory.
//!
//! Pure functions from coordinates to places. Nothing here parses PTX, holds memory or executes.

pub mod descriptor;
pub mod fragment;
pub mod instruction_descriptor;
pub mod swizzle;
pub mod tensor_map;
pub mod tensor_memory;

pub use descriptor::{DescriptorError, Major, MatrixDescriptor, Packing};
pub use swizzle::Swizzle;
pub use tensor_map::TensorMap;
