//! The few LLVM functions that melior does not wrap, each behind an owned handle with a safe interface.
//!
//! The symbols come from the static LLVM libraries that melior links. Nothing here knows of kernels.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::ptr::{self, NonNull};
use std::sync::Once;

type Raw = *mut c_void;

// SAFETY: signatures as in mlir-c/Target/LLVMIR.h, llvm-c/{Core,Analysis,Target,TargetMachine,Transforms/PassBuilder}.h
// of LLVM 22; handles are single pointers. The three C++ functions take a reference, which is passed as a pointer, and
// return nothing; a change of their signature changes the mangled name and is found by the linker.
unsafe extern "C" {
    #[link_name = "_ZN4mlir33registerBuiltinDialectTranslationERNS_11MLIRContextE"]
    fn register_builtin_translation(context: Raw);
    #[link_name = "_ZN4mlir30registerLLVMDialectTranslationERNS_11MLIRContextE"]
    fn register_llvm_translation(context: Raw);
    #[link_name = "_ZN4mlir30registerNVVMDialectTranslationERNS_11MLIRContextE"]
    fn register_nvvm_translation(context: Raw);

    fn mlirTranslateModuleToLLVMIR(module: Raw, context: Raw) -> Raw;

    fn LLVMContextCreate() -> Raw;
    fn LLVMContextDispose(context: Raw);
    fn LLVMContextSetDiagnosticHandler(context: Raw, handler: extern "C" fn(Raw, Raw), data: Raw);
    fn LLVMGetDiagInfoSeverity(info: Raw) -> c_int;
    fn LLVMGetDiagInfoDescription(info: Raw) -> *mut c_char;
    fn LLVMDisposeMessage(message: *mut c_char);
    fn LLVMDisposeModule(module: Raw);
    fn LLVMVerifyModule(module: Raw, action: c_int, message: *mut *mut c_char) -> c_int;
    fn LLVMSetTarget(module: Raw, triple: *const c_char);
    fn LLVMSetModuleDataLayout(module: Raw, layout: Raw);

    fn LLVMInitializeNVPTXTargetInfo();
    fn LLVMInitializeNVPTXTarget();
    fn LLVMInitializeNVPTXTargetMC();
    fn LLVMInitializeNVPTXAsmPrinter();
    fn LLVMGetTargetFromTriple(triple: *const c_char, target: *mut Raw, message: *mut *mut c_char) -> c_int;
    fn LLVMCreateTargetMachine(
        target: Raw,
        triple: *const c_char,
        cpu: *const c_char,
        features: *const c_char,
        level: c_int,
        reloc: c_int,
        code_model: c_int,
    ) -> Raw;
    fn LLVMDisposeTargetMachine(machine: Raw);
    fn LLVMCreateTargetDataLayout(machine: Raw) -> Raw;
    fn LLVMDisposeTargetData(layout: Raw);
    fn LLVMTargetMachineEmitToMemoryBuffer(
        machine: Raw,
        module: Raw,
        file_type: c_int,
        message: *mut *mut c_char,
        buffer: *mut Raw,
    ) -> c_int;
    fn LLVMGetBufferStart(buffer: Raw) -> *const u8;
    fn LLVMGetBufferSize(buffer: Raw) -> usize;
    fn LLVMDisposeMemoryBuffer(buffer: Raw);

    fn LLVMCreatePassBuilderOptions() -> Raw;
    fn LLVMDisposePassBuilderOptions(options: Raw);
    fn LLVMRunPasses(module: Raw, passes: *const c_char, machine: Raw, options: Raw) -> Raw;
    fn LLVMGetErrorMessage(error: Raw) -> *mut c_char;
    fn LLVMDisposeErrorMessage(message: *mut c_char);
}

const TRIPLE: &CStr = c"nvptx64-nvidia-cuda";
/// `LLVMReturnStatusAction`.
const RETURN_STATUS: c_int = 2;
/// `LLVMAssemblyFile`.
const ASSEMBLY: c_int = 0;
/// `LLVMDSError`.
const SEVERITY_ERROR: c_int = 0;

/// Makes the builtin, llvm and nvvm dialects known to `context`, with their translation to LLVM IR.
pub fn register_dialects(context: &melior::Context) {
    let raw = context.to_raw().ptr;
    // SAFETY: `raw` is the `MLIRContext` of a live context, and no other thread uses it.
    unsafe {
        register_builtin_translation(raw);
        register_llvm_translation(raw);
        register_nvvm_translation(raw);
    }
}

/// Takes a message that LLVM allocated.
///
/// # Safety
/// `message` is null or a string to be given back with `LLVMDisposeMessage`, and is not used again.
unsafe fn take_message(message: *mut c_char) -> String {
    if message.is_null() {
        return "no message".to_owned();
    }
    // SAFETY: not null, and LLVM's messages end in a zero byte.
    let text = unsafe { CStr::from_ptr(message) }.to_string_lossy().into_owned();
    // SAFETY: the caller's promise.
    unsafe { LLVMDisposeMessage(message) };
    text
}

/// An LLVM context that collects errors instead of ending the process.
pub struct LlvmContext {
    raw: NonNull<c_void>,
    /// Written by the handler; boxed, so its address stays.
    errors: NonNull<Vec<String>>,
}

extern "C" fn collect(info: Raw, data: Raw) {
    // SAFETY: LLVM passes a live diagnostic; `data` is the `errors` of a live `LlvmContext`, which nothing else
    // touches while LLVM runs.
    unsafe {
        if LLVMGetDiagInfoSeverity(info) == SEVERITY_ERROR {
            let text = take_message(LLVMGetDiagInfoDescription(info));
            (*data.cast::<Vec<String>>()).push(text);
        }
    }
}

impl LlvmContext {
    /// An empty context.
    pub fn new() -> Result<LlvmContext, String> {
        // SAFETY: no precondition.
        let raw = NonNull::new(unsafe { LLVMContextCreate() }).ok_or("LLVM made no context")?;
        let errors = NonNull::from(Box::leak(Box::<Vec<String>>::default()));
        // SAFETY: `errors` lives until `drop`, after the context is gone.
        unsafe { LLVMContextSetDiagnosticHandler(raw.as_ptr(), collect, errors.as_ptr().cast()) };
        Ok(LlvmContext { raw, errors })
    }

    /// The errors reported since the last call.
    pub fn take_errors(&self) -> Vec<String> {
        // SAFETY: LLVM is not running, so nothing else reads or writes the list.
        std::mem::take(unsafe { &mut *self.errors.as_ptr() })
    }

    /// Translates a module of the llvm and nvvm dialects.
    pub fn translate(&self, module: &melior::ir::Module<'_>) -> Result<LlvmModule<'_>, String> {
        // SAFETY: both are live; the result belongs to us.
        let raw =
            unsafe { mlirTranslateModuleToLLVMIR(module.as_operation().to_raw().ptr, self.raw.as_ptr()) };
        let raw = NonNull::new(raw).ok_or("the module cannot be translated to LLVM IR")?;
        Ok(LlvmModule { raw, _context: self })
    }
}

impl Drop for LlvmContext {
    fn drop(&mut self) {
        // SAFETY: modules borrow the context, so none is left; `errors` came from a box.
        unsafe {
            LLVMContextDispose(self.raw.as_ptr());
            drop(Box::from_raw(self.errors.as_ptr()));
        }
    }
}

/// A module of LLVM IR.
pub struct LlvmModule<'c> {
    raw: NonNull<c_void>,
    _context: &'c LlvmContext,
}

impl Drop for LlvmModule<'_> {
    fn drop(&mut self) {
        // SAFETY: owned, and its context is alive.
        unsafe { LLVMDisposeModule(self.raw.as_ptr()) }
    }
}

/// The NVPTX backend for one chip.
pub struct Machine(NonNull<c_void>);

impl Machine {
    /// `cpu`: `sm_90a`; `features`: `+ptx80`; `level`: 0 to 3.
    pub fn new(cpu: &str, features: &str, level: u8) -> Result<Machine, String> {
        static INIT: Once = Once::new();
        // SAFETY: no precondition; once, so not from two threads at a time.
        INIT.call_once(|| unsafe {
            LLVMInitializeNVPTXTargetInfo();
            LLVMInitializeNVPTXTarget();
            LLVMInitializeNVPTXTargetMC();
            LLVMInitializeNVPTXAsmPrinter();
        });
        let cpu = CString::new(cpu).map_err(|e| e.to_string())?;
        let features = CString::new(features).map_err(|e| e.to_string())?;
        let (mut target, mut message) = (ptr::null_mut(), ptr::null_mut());
        // SAFETY: strings end in zero; the out-pointers are ours.
        if unsafe { LLVMGetTargetFromTriple(TRIPLE.as_ptr(), &mut target, &mut message) } != 0 {
            // SAFETY: set by the failed call, ours to give back.
            return Err(unsafe { take_message(message) });
        }
        let level = c_int::from(level.min(3));
        // SAFETY: `target` was just found; strings end in zero; 0 is the default relocation and code model.
        let raw = unsafe {
            LLVMCreateTargetMachine(target, TRIPLE.as_ptr(), cpu.as_ptr(), features.as_ptr(), level, 0, 0)
        };
        NonNull::new(raw).map(Machine).ok_or_else(|| "LLVM made no NVPTX target machine".to_owned())
    }

    /// Says to the module what it is compiled for, then checks and optimises it: `default<O3>`.
    pub fn optimise(&self, module: &LlvmModule<'_>, passes: &str) -> Result<(), String> {
        let (raw, machine) = (module.raw.as_ptr(), self.0.as_ptr());
        let passes = CString::new(passes).map_err(|e| e.to_string())?;
        let mut message = ptr::null_mut();
        // SAFETY: all handles are live; the layout and the options are given back here; `message` is ours.
        unsafe {
            LLVMSetTarget(raw, TRIPLE.as_ptr());
            let layout = LLVMCreateTargetDataLayout(machine);
            LLVMSetModuleDataLayout(raw, layout);
            LLVMDisposeTargetData(layout);
            let broken = LLVMVerifyModule(raw, RETURN_STATUS, &mut message) != 0;
            let text = take_message(message);
            if broken {
                return Err(text);
            }
            let options = LLVMCreatePassBuilderOptions();
            let error = LLVMRunPasses(raw, passes.as_ptr(), machine, options);
            LLVMDisposePassBuilderOptions(options);
            if error.is_null() {
                return Ok(());
            }
            let message = LLVMGetErrorMessage(error);
            let text = CStr::from_ptr(message).to_string_lossy().into_owned();
            LLVMDisposeErrorMessage(message);
            Err(text)
        }
    }

    /// The module as PTX.
    pub fn emit(&self, module: &LlvmModule<'_>) -> Result<String, String> {
        let (mut message, mut buffer) = (ptr::null_mut(), ptr::null_mut());
        // SAFETY: all handles are live; `message` and `buffer` are ours to give back.
        unsafe {
            let (machine, module) = (self.0.as_ptr(), module.raw.as_ptr());
            if LLVMTargetMachineEmitToMemoryBuffer(machine, module, ASSEMBLY, &mut message, &mut buffer) != 0
            {
                return Err(take_message(message));
            }
            let bytes = std::slice::from_raw_parts(LLVMGetBufferStart(buffer), LLVMGetBufferSize(buffer));
            let text = String::from_utf8_lossy(bytes).into_owned();
            LLVMDisposeMemoryBuffer(buffer);
            Ok(text)
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // SAFETY: owned.
        unsafe { LLVMDisposeTargetMachine(self.0.as_ptr()) }
    }
}
