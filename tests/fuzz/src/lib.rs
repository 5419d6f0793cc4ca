//! What the fuzz targets share: the frontends, compiled without the crate around them, which links LLVM.

#[path = "../../../compiler/src/frontend/mod.rs"]
pub mod frontend;
