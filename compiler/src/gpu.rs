//! GPU kernels of a planned module: generates them, assembles them where that is asked for, dumps them, and says which
//! ops have none.

use crate::dump::Dump;
use std::collections::BTreeMap;
use std::path::Path;
use trtc_codegen::emit::{self, EmitOptions, Kernel};
use trtc_codegen::ptxas::Ptxas;
use trtc_codegen::select;
use trtc_ir::{Diag, Loc, Module, Target};

/// Everything that a GPU executes.
#[derive(Default)]
pub(crate) struct GpuCode {
    /// Kernels with their PTX, sorted by name.
    pub kernels: Vec<Kernel>,
    /// Their binaries by name; empty unless they are asked for.
    pub cubins: BTreeMap<String, Vec<u8>>,
    /// What made the binaries.
    pub assembler: Option<String>,
}

/// Generates the code of every kernel that was selected; nothing on the host, whose kernels are the runtime's own.
pub(crate) fn generate(module: &Module, target: &'static Target, dump: &mut Dump) -> Result<GpuCode, Diag> {
    if target.gpu.is_none() {
        return Ok(GpuCode::default());
    }
    let kernels = emit::emit(module, target, EmitOptions::default())?;
    for kernel in &kernels {
        dump.file(&format!("kernels/{}.mlir", kernel.name), &kernel.mlir);
        dump.file(&format!("kernels/{}.ptx", kernel.name), &kernel.ptx);
    }
    Ok(GpuCode { kernels, ..GpuCode::default() })
}

/// Adds the binary of every kernel. The assembler works in a folder beside the engine `out`, which stays if a kernel is
/// refused: the error names the file in it.
pub(crate) fn assemble(code: &mut GpuCode, ptxas: &Ptxas, out: &Path) -> Result<(), Diag> {
    let mut folder = out.as_os_str().to_owned();
    folder.push(format!(".ptxas-{}", std::process::id()));
    let folder = Path::new(&folder);
    let io = |what: &str, e: std::io::Error| {
        Diag::user(&Loc::name(folder.display().to_string()), format!("cannot {what} the folder: {e}"))
    };
    code.assembler = Some(ptxas.version()?);
    std::fs::create_dir(folder).map_err(|e| io("make", e))?;
    let made = emit::assemble(&code.kernels, ptxas, EmitOptions::default().threads, folder)?;
    std::fs::remove_dir_all(folder).map_err(|e| io("remove", e))?;
    let names = code.kernels.iter().map(|k| k.name.clone());
    code.cubins = names.zip(made.into_iter().map(|a| a.cubin)).collect();
    Ok(())
}

/// Fails with the list of ops that no kernel serves yet.
pub(crate) fn complete(module: &Module, target: &'static Target, code: &GpuCode) -> Result<(), Diag> {
    // Selecting again changes nothing and says what is missing.
    match select::select(&mut module.clone(), target)?.unsupported(target) {
        None => Ok(()),
        Some(diag) => Err(diag.note(format!("{} kernels were generated", code.kernels.len()))),
    }
}
