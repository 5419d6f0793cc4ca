//! GPU kernels of a planned module: generates them, dumps them, and says which ops have none.

use crate::dump::Dump;
use trtc_codegen::emit::{self, EmitOptions, Kernel};
use trtc_codegen::select;
use trtc_ir::{Diag, Module, Target};

/// Generates the code of every kernel that was selected; nothing on the host, whose kernels are the runtime's own.
pub(crate) fn generate(
    module: &Module,
    target: &'static Target,
    dump: &mut Dump,
) -> Result<Vec<Kernel>, Diag> {
    if target.gpu.is_none() {
        return Ok(Vec::new());
    }
    let kernels = emit::emit(module, target, EmitOptions::default())?;
    for kernel in &kernels {
        dump.file(&format!("kernels/{}.mlir", kernel.name), &kernel.mlir);
        dump.file(&format!("kernels/{}.ptx", kernel.name), &kernel.ptx);
    }
    Ok(kernels)
}

/// Fails with the list of ops that no kernel serves yet.
pub(crate) fn complete(module: &Module, target: &'static Target, kernels: &[Kernel]) -> Result<(), Diag> {
    // Selecting again changes nothing and says what is missing.
    match select::select(&mut module.clone(), target)?.unsupported(target) {
        None => Ok(()),
        Some(diag) => Err(diag.note(format!("{} kernels were generated", kernels.len()))),
    }
}
