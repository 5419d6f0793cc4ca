//! MLIR text of the llvm and nvvm dialects to PTX, in process. The only folder that names melior.
//!
//! The steps are those of `gpu-module-to-binary{format=isa}` (convert the nvvm ops that are inline PTX, translate to
//! LLVM IR, `default<O3>`, NVPTX backend), called one by one: only two dialects and one backend are linked, and nothing
//! depends on a CUDA toolkit that the environment may name. Nothing here knows what a kernel computes.

mod ffi;

use melior::ir::Module;
use melior::ir::operation::OperationLike as _;
use melior::pass::{PassManager, conversion};
use melior::{Context, diagnostic::DiagnosticSeverity};
use std::cell::RefCell;
use std::rc::Rc;
use trtc_ir::{Diag, Loc};

/// What PTX is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PtxTarget<'a> {
    /// `.target`: `sm_90a`.
    pub arch: &'a str,
    /// `.version`, major * 10 + minor.
    pub ptx: u32,
}

/// How hard LLVM tries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum OptLevel {
    /// As written: for reading the PTX beside the MLIR.
    None,
    /// `default<O3>`.
    #[default]
    Full,
}

/// One MLIR context. It belongs to the thread that made it; contexts share nothing.
pub struct Mlir {
    context: Context,
    errors: Rc<RefCell<Vec<String>>>,
}

impl Default for Mlir {
    fn default() -> Mlir {
        Mlir::new()
    }
}

impl Mlir {
    /// A context with the llvm and nvvm dialects. About a millisecond.
    pub fn new() -> Mlir {
        let context = Context::new();
        context.enable_multi_threading(false);
        ffi::register_dialects(&context);
        context.load_all_available_dialects();
        let errors = Rc::new(RefCell::new(Vec::new()));
        let sink = Rc::clone(&errors);
        context.attach_diagnostic_handler(move |diagnostic| {
            if matches!(diagnostic.severity(), DiagnosticSeverity::Error) {
                let notes = (0..diagnostic.note_count()).filter_map(|i| diagnostic.note(i).ok());
                let notes: String = notes.map(|n| format!("; {n}")).collect();
                sink.borrow_mut().push(format!("{}: {diagnostic}{notes}", diagnostic.location()));
            }
            true
        });
        Mlir { context, errors }
    }

    /// Parses and verifies `text`, and compiles it to PTX. Whatever goes wrong is a fault of the kernel called `name`
    /// and carries the messages of MLIR and LLVM as notes.
    pub fn to_ptx(
        &self,
        name: &str,
        text: &str,
        target: PtxTarget<'_>,
        opt: OptLevel,
    ) -> Result<String, Diag> {
        self.errors.borrow_mut().clear();
        let fail = |what: &str, more: Vec<String>| {
            let mut diag = Diag::bug(&Loc::name(name), format!("kernel {name}: {what}"))
                .help("report this with the kernel's MLIR from --dump-dir");
            diag.notes.extend(self.errors.borrow_mut().drain(..));
            diag.notes.extend(more);
            diag
        };
        if text.contains('\0') {
            return Err(fail("its MLIR has a zero byte", Vec::new()));
        }
        let mut module =
            Module::parse(&self.context, text).ok_or_else(|| fail("its MLIR does not parse", Vec::new()))?;
        if !module.as_operation().verify() {
            return Err(fail("its MLIR does not verify", Vec::new()));
        }
        let passes = PassManager::new(&self.context);
        passes.add_pass(conversion::create_nvvm_to_llvm());
        passes.run(&mut module).map_err(|e| fail("convert-nvvm-to-llvm failed", vec![e.to_string()]))?;

        let llvm = ffi::LlvmContext::new().map_err(|e| fail("LLVM did not start", vec![e]))?;
        let with_llvm = |what: &str, e: String| {
            let mut more = llvm.take_errors();
            more.push(e);
            fail(what, more)
        };
        let ir = llvm.translate(&module).map_err(|e| with_llvm("translation to LLVM IR failed", e))?;
        let (level, pipeline) = match opt {
            OptLevel::None => (0, "default<O0>"),
            OptLevel::Full => (3, "default<O3>"),
        };
        let machine = ffi::Machine::new(target.arch, &format!("+ptx{}", target.ptx), level)
            .map_err(|e| with_llvm("no backend", e))?;
        machine.optimise(&ir, pipeline).map_err(|e| with_llvm("LLVM's passes failed", e))?;
        let ptx = machine.emit(&ir).map_err(|e| with_llvm("the NVPTX backend failed", e))?;
        let errors = llvm.take_errors();
        if errors.is_empty() { Ok(ptx) } else { Err(fail("the NVPTX backend reported errors", errors)) }
    }
}
