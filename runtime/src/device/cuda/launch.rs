//! One launch on a GPU.

use super::CudaDevice;
use super::driver::words;
use super::queue::Shape;
use crate::device::launch::{facts, grid, params, ptx};
use crate::device::{Bindings, Call, StepDims};
use crate::error::Error;

impl CudaDevice {
    pub(super) fn start(&self, call: &Call<'_>, bind: &Bindings, dims: StepDims) -> Result<(), Error> {
        let (index, kernel) = call.kernel;
        let code = ptx(kernel)?;
        let compiled = self.kernels.get(index as usize);
        let compiled =
            compiled.ok_or_else(|| Error::bug(format!("kernel {} was not loaded", kernel.name)))?;
        let Some(grid) = grid(code, dims) else {
            return Ok(());
        };
        let params = params(call.args, code, bind, dims, &|region| self.address(region))?;
        let shape = Shape { grid, block: code.block, shared: code.shared, dependent: code.dependent };
        // SAFETY: the parameters are laid out as the kernels take them, addresses are of memory that is held, and the
        // manifest's check bounds what a step's sizes make the kernels touch.
        let started = unsafe { self.stream.launch(compiled.function, shape, &params) };
        started.map_err(|e| {
            let facts = facts(code, grid, dims);
            Error::bug(format!("kernel {} ({facts}; {}): {}", kernel.name, call.loc, words(e)))
        })
    }
}
