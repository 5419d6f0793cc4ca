//! The parts of NVIDIA's driver API that the device needs, as owned handles and typed errors.
//!
//! The library is found at run time; nothing here is called before [`present`] has said that it is there. A handle
//! that is dropped is given back; what the driver answers to that is ignored, for there is nobody to tell.

use super::elf;
use crate::error::Error;
use cudarc::driver::result;
pub use cudarc::driver::result::DriverError as Failure;
use cudarc::driver::sys;
use std::ffi::{CString, c_void};

/// A device address.
pub type Address = sys::CUdeviceptr;

/// Bytes of the driver's compilation log that are kept.
const LOG: usize = 8 << 10;

/// True if the driver's library can be loaded.
pub fn present() -> bool {
    // SAFETY: loads a library by its well-known name and looks for nothing in it.
    unsafe { sys::is_culib_present() }
}

/// The driver's name and words for an error.
pub fn words(e: Failure) -> String {
    let text = |s: Result<&std::ffi::CStr, Failure>| s.map(|s| s.to_string_lossy().into_owned()).ok();
    match (text(e.error_name()), text(e.error_string())) {
        (Some(name), Some(string)) => format!("{name}, {string}"),
        _ => format!("the driver's error {}", e.0 as u32),
    }
}

/// `cannot <doing>: <the driver's words>`.
pub fn cannot(doing: impl std::fmt::Display) -> impl FnOnce(Failure) -> Error {
    move |e| Error::unsupported(format!("cannot {doing}: {}", words(e)))
}

/// A GPU's primary context.
pub struct Context {
    device: sys::CUdevice,
    context: sys::CUcontext,
    ordinal: u32,
}

// SAFETY: a context may be used from any thread, by one that has made it current.
unsafe impl Send for Context {}

impl Context {
    /// Opens GPU `ordinal`.
    pub fn open(ordinal: u32) -> Result<Context, Error> {
        result::init().map_err(cannot("start NVIDIA's driver"))?;
        let count = result::device::get_count().map_err(cannot("count the GPUs"))?;
        let index = i32::try_from(ordinal).ok().filter(|i| *i < count).ok_or_else(|| {
            Error::unsupported(format!("there is no GPU {ordinal}; this machine has {count}"))
                .help("give --device cuda:N with a lower number")
        })?;
        let device = result::device::get(index).map_err(cannot(format_args!("open GPU {ordinal}")))?;
        // SAFETY: the device is the one just opened.
        let context = unsafe { result::primary_ctx::retain(device) };
        let context = context.map_err(cannot(format_args!("take GPU {ordinal} into use")))?;
        let context = Context { device, context, ordinal };
        context.make_current()?;
        Ok(context)
    }

    /// Makes the context this thread's own.
    pub fn make_current(&self) -> Result<(), Error> {
        // SAFETY: the context is held.
        unsafe { result::ctx::set_current(self.context) }.map_err(cannot("use the GPU from this thread"))
    }

    /// The number that it was opened by.
    pub fn ordinal(&self) -> u32 {
        self.ordinal
    }

    /// The GPU's name.
    pub fn name(&self) -> String {
        result::device::get_name(self.device).unwrap_or_else(|_| "GPU".to_owned())
    }

    fn attribute(&self, which: sys::CUdevice_attribute) -> Result<u32, Error> {
        // SAFETY: the device is open.
        let value = unsafe { result::device::get_attribute(self.device, which) };
        let value = value.map_err(cannot("ask the GPU for its properties"))?;
        Ok(u32::try_from(value).unwrap_or(0))
    }

    /// Compute capability.
    pub fn capability(&self) -> Result<(u32, u32), Error> {
        use sys::CUdevice_attribute::{
            CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR as MAJOR,
            CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR as MINOR,
        };
        Ok((self.attribute(MAJOR)?, self.attribute(MINOR)?))
    }

    /// Free memory and all of it, bytes.
    pub fn memory(&self) -> Result<(u64, u64), Error> {
        self.make_current()?;
        let (free, all) = result::mem_get_info().map_err(cannot("ask the GPU for its free memory"))?;
        Ok((free as u64, all as u64))
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: retained once by `open`, and all handles made in it have been dropped by their owner before.
        let _ = unsafe { result::primary_ctx::release(self.device) };
    }
}

/// Declares an owned handle with the function that gives it back.
macro_rules! handle {
    ($(#[$doc:meta])* $name:ident($raw:ty), $free:path) => {
        $(#[$doc])*
        pub struct $name(pub(super) $raw);

        // SAFETY: a handle of the driver may be used from any thread in which its context is current.
        unsafe impl Send for $name {}

        impl Drop for $name {
            fn drop(&mut self) {
                // SAFETY: the handle is valid until here, and nobody else has it.
                let _ = unsafe { $free(self.0) };
            }
        }
    };
}

handle! {
    /// Device memory.
    Memory(Address), result::free_sync
}
handle! {
    /// A queue of work.
    Stream(sys::CUstream), result::stream::destroy
}
handle! {
    /// Compiled code.
    Module(sys::CUmodule), result::module::unload
}
handle! {
    /// A mark in a queue.
    Mark(sys::CUevent), result::event::destroy
}
handle! {
    /// Page-locked memory of the host.
    Pages(*mut c_void), result::free_host
}
handle! {
    /// Recorded launches.
    Recording(sys::CUgraphExec), result::graph::exec_destroy
}

/// Page-locked memory of the host, which the GPU copies from and to by itself.
pub struct Pinned {
    pages: Pages,
    bytes: usize,
}

impl Pinned {
    /// Takes `bytes` bytes, zeroed.
    pub fn take(bytes: usize) -> Result<Pinned, Failure> {
        // SAFETY: the memory is filled below before anybody reads it.
        let pages = Pages(unsafe { result::malloc_host(bytes.max(1), 0) }?);
        // SAFETY: `bytes` bytes were just taken.
        unsafe { std::ptr::write_bytes(pages.0.cast::<u8>(), 0, bytes) };
        Ok(Pinned { pages, bytes })
    }

    /// Bytes.
    pub fn len(&self) -> usize {
        self.bytes
    }

    /// The memory. Copies that were queued from or to it must be done, or about to be overwritten by none.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: the memory is held and initialised, and borrowed from its only owner.
        unsafe { std::slice::from_raw_parts_mut(self.pages.0.cast(), self.bytes) }
    }
}

/// An entry point; it lives as long as its module.
#[derive(Clone, Copy)]
pub struct Function(pub(super) sys::CUfunction);

// SAFETY: as for the handles.
unsafe impl Send for Function {}

impl Memory {
    /// Takes `bytes` bytes, at least one.
    pub fn take(bytes: usize) -> Result<Memory, Failure> {
        // SAFETY: nothing is assumed of what the memory holds.
        unsafe { result::malloc_sync(bytes.max(1)) }.map(Memory)
    }

    /// Its address.
    pub fn address(&self) -> Address {
        self.0
    }
}

impl Module {
    /// Has the driver compile PTX. The error is what its compiler said.
    pub fn compile(ptx: &[u8]) -> Result<Module, String> {
        let image = CString::new(ptx).map_err(|_| "the PTX has a zero byte".to_owned())?;
        // SAFETY: the image ends with a zero byte.
        unsafe { Module::load(image.as_bytes_with_nul()) }
    }

    /// Has the driver load a binary. The error is what it said.
    pub fn binary(cubin: &[u8]) -> Result<Module, String> {
        if !elf::is_whole(cubin) {
            return Err("the binary is no ELF file, or not all of one".to_owned());
        }
        // SAFETY: all that the file's tables name lies within it.
        unsafe { Module::load(cubin) }
    }

    /// # Safety
    /// The driver finds the end of `image` by what is in it.
    unsafe fn load(image: &[u8]) -> Result<Module, String> {
        let mut log = vec![0u8; LOG];
        let mut options = [
            sys::CUjit_option::CU_JIT_ERROR_LOG_BUFFER,
            sys::CUjit_option::CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES,
        ];
        let mut values = [log.as_mut_ptr().cast::<c_void>(), std::ptr::without_provenance_mut(LOG)];
        let mut module = std::ptr::null_mut();
        // SAFETY: the caller's word for the image; the options have as many values, the log has the size it says.
        let done = unsafe {
            sys::cuModuleLoadDataEx(
                &mut module,
                image.as_ptr().cast(),
                options.len() as u32,
                options.as_mut_ptr(),
                values.as_mut_ptr(),
            )
        };
        done.result().map(|()| Module(module)).map_err(|e| {
            let end = log.iter().position(|b| *b == 0).unwrap_or(LOG);
            format!("{} {}", words(e), String::from_utf8_lossy(&log[..end]).trim())
        })
    }

    /// An entry point, allowed to ask for `shared` bytes of shared memory at launch.
    pub fn function(&self, entry: &str, shared: u32) -> Result<Function, Failure> {
        let bad = Failure(sys::CUresult::CUDA_ERROR_INVALID_VALUE);
        let name = CString::new(entry).map_err(|_| bad)?;
        // SAFETY: the handle is valid.
        let function = unsafe { result::module::get_function(self.0, name) }?;
        if shared > 0 {
            let most = sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            // SAFETY: the function belongs to the module, which is held.
            unsafe { result::function::set_function_attribute(function, most, shared as i32) }?;
        }
        Ok(Function(function))
    }
}
