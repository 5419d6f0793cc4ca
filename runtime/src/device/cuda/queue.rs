//! The queue: copies, launches, marks and recordings, in order.

use super::driver::{Address, Failure, Function, Mark, Recording, Stream};
use crate::device::launch::{MapParam, Param};
use cudarc::driver::{result, sys};
use std::ffi::c_void;
use trtc_engine::manifest::MapElem;

/// Sizes of a launch.
#[derive(Clone, Copy)]
pub struct Shape {
    /// Blocks.
    pub grid: [u32; 3],
    /// Threads of a block.
    pub block: [u32; 3],
    /// Dynamic shared memory, bytes.
    pub shared: u32,
    /// The kernel waits by itself for the launches before it.
    pub dependent: bool,
}

/// A parameter as the driver takes it.
enum Encoded {
    Word(u64),
    Map(sys::CUtensorMap),
}

impl Encoded {
    fn new(param: &Param) -> Result<Encoded, Failure> {
        match param {
            Param::Word(word) => Ok(Encoded::Word(*word)),
            Param::Map(map) => encode(map).map(Encoded::Map),
        }
    }

    fn pointer(&self) -> *mut c_void {
        match self {
            Encoded::Word(word) => std::ptr::from_ref(word).cast_mut().cast(),
            Encoded::Map(map) => std::ptr::from_ref(map).cast_mut().cast(),
        }
    }
}

/// A tensor map in the hardware's form.
fn encode(param: &MapParam) -> Result<sys::CUtensorMap, Failure> {
    use sys::CUtensorMapDataType as Type;
    let map = &param.map;
    let elem = match map.elem {
        MapElem::U8 => Type::CU_TENSOR_MAP_DATA_TYPE_UINT8,
        MapElem::Bf16 => Type::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
        MapElem::F32 => Type::CU_TENSOR_MAP_DATA_TYPE_FLOAT32,
    };
    let swizzle = match map.swizzle {
        32 => sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_32B,
        64 => sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_64B,
        128 => sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_128B,
        _ => sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_NONE,
    };
    let mut out = sys::CUtensorMap { opaque: [0; 16] };
    // Innermost first.
    let (dims, strides) = ([u64::from(map.width), param.rows], [map.row_bytes()]);
    let (tile, steps) = ([map.tile[1], map.tile[0]], [1u32; 2]);
    // SAFETY: all arrays have as many entries as two dimensions need; the address is not read.
    unsafe {
        sys::cuTensorMapEncodeTiled(
            &mut out,
            elem,
            2,
            param.address as *mut c_void,
            dims.as_ptr(),
            strides.as_ptr(),
            tile.as_ptr(),
            steps.as_ptr(),
            sys::CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
            swizzle,
            sys::CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
            sys::CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
        )
    }
    .result()?;
    Ok(out)
}

impl Stream {
    /// A queue that does not wait for the default one.
    pub fn new() -> Result<Stream, Failure> {
        result::stream::create(result::stream::StreamKind::NonBlocking).map(Stream)
    }

    /// Waits until all work is done.
    pub fn finish(&self) -> Result<(), Failure> {
        // SAFETY: the handle is valid.
        unsafe { result::stream::synchronize(self.0) }
    }

    /// Fills memory with zeros, in order.
    ///
    /// # Safety
    /// The range is memory that is held until the work is done.
    pub unsafe fn zero(&self, at: Address, bytes: usize) -> Result<(), Failure> {
        // SAFETY: the caller's word.
        unsafe { result::memset_d8_async(at, 0, bytes, self.0) }
    }

    /// Copies to the device, in order. The driver has read `bytes` when this returns: they are not page-locked.
    ///
    /// # Safety
    /// The range is memory that is held until the work is done.
    pub unsafe fn write(&self, at: Address, bytes: &[u8]) -> Result<(), Failure> {
        // SAFETY: the caller's word.
        unsafe { result::memcpy_htod_async(at, bytes, self.0) }
    }

    /// Copies within the device, in order.
    ///
    /// # Safety
    /// Both ranges are memory that is held until the work is done.
    pub unsafe fn copy(&self, from: Address, to: Address, bytes: usize) -> Result<(), Failure> {
        // SAFETY: the caller's word.
        unsafe { result::memcpy_dtod_async(to, from, bytes, self.0) }
    }

    /// Copies from the device after all work before, and waits for it.
    ///
    /// # Safety
    /// The range is memory that is held.
    pub unsafe fn read(&self, at: Address, into: &mut [u8]) -> Result<(), Failure> {
        // SAFETY: the caller's word; `into` is borrowed until the copy is done.
        unsafe { result::memcpy_dtoh_async(into, at, self.0) }?;
        self.finish()
    }

    /// Queues a copy from the device to page-locked memory.
    ///
    /// # Safety
    /// The range is memory that is held, and `into` stays and is not looked at until the copy is done.
    pub unsafe fn read_later(&self, at: Address, into: &mut [u8]) -> Result<(), Failure> {
        // SAFETY: the caller's word.
        unsafe { result::memcpy_dtoh_async(into, at, self.0) }
    }

    /// Starts a kernel, in order; one that waits by itself may start while those before it end.
    ///
    /// # Safety
    /// The parameters are what the kernel takes, and it touches only memory that is held until it is done.
    pub unsafe fn launch(&self, function: Function, shape: Shape, params: &[Param]) -> Result<(), Failure> {
        let params = params.iter().map(Encoded::new).collect::<Result<Vec<_>, _>>()?;
        let mut pointers: Vec<*mut c_void> = params.iter().map(Encoded::pointer).collect();
        let mut early = sys::CUlaunchAttribute {
            id: sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
            pad: [0; 4],
            value: sys::CUlaunchAttributeValue { programmaticStreamSerializationAllowed: 1 },
        };
        let [[grid_x, grid_y, grid_z], [block_x, block_y, block_z]] = [shape.grid, shape.block];
        let config = sys::CUlaunchConfig {
            gridDimX: grid_x,
            gridDimY: grid_y,
            gridDimZ: grid_z,
            blockDimX: block_x,
            blockDimY: block_y,
            blockDimZ: block_z,
            sharedMemBytes: shape.shared,
            hStream: self.0,
            attrs: &mut early,
            numAttrs: u32::from(shape.dependent),
        };
        // SAFETY: the caller's word; the driver copies attributes and parameters before it returns.
        unsafe { sys::cuLaunchKernelEx(&config, function.0, pointers.as_mut_ptr(), std::ptr::null_mut()) }
            .result()
    }

    /// Marks the point reached.
    pub fn mark(&self) -> Result<Mark, Failure> {
        let mark = Mark(result::event::create(sys::CUevent_flags::CU_EVENT_DEFAULT)?);
        // SAFETY: both handles are valid.
        unsafe { result::event::record(mark.0, self.0) }?;
        Ok(mark)
    }

    /// Moves a mark to the point reached.
    pub fn mark_again(&self, mark: &Mark) -> Result<(), Failure> {
        // SAFETY: both handles are valid.
        unsafe { result::event::record(mark.0, self.0) }
    }

    /// Records what `work` starts in this queue, without executing it.
    pub fn record<E: From<Failure>>(&self, work: impl FnOnce() -> Result<(), E>) -> Result<Recording, E> {
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: the handle is valid; the capture is ended below whatever happens.
        unsafe { result::stream::begin_capture(self.0, mode) }?;
        let done = work();
        // SAFETY: as above.
        let graph = unsafe { result::stream::end_capture(self.0) };
        done?;
        let graph = graph?;
        // SAFETY: the graph was just made, and is not used any more once it is instantiated.
        let made = unsafe { result::graph::instantiate(graph, sys::CUgraphInstantiate_flags(0)) };
        // SAFETY: as above.
        let _ = unsafe { result::graph::destroy(graph) };
        Ok(Recording(made?))
    }

    /// Starts what was recorded, in order.
    ///
    /// # Safety
    /// As for the launches that were recorded.
    pub unsafe fn replay(&self, recording: &Recording) -> Result<(), Failure> {
        // SAFETY: both handles are valid; the caller's word for the launches.
        unsafe { result::graph::launch(recording.0, self.0) }
    }
}

impl Mark {
    /// Waits until the queue has passed it.
    pub fn wait(&self) -> Result<(), Failure> {
        // SAFETY: the handle is valid.
        unsafe { result::event::synchronize(self.0) }
    }

    /// Milliseconds from here to a later mark; both have been passed.
    pub fn until(&self, later: &Mark) -> Result<f32, Failure> {
        // SAFETY: both handles are valid.
        unsafe { result::event::elapsed(self.0, later.0) }
    }
}
