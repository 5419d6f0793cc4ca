//! One launch: its parameters, its grid, and what an error says of it.

use super::CudaDevice;
use super::driver::words;
use crate::device::{Bindings, Buffer, Call, Region, StepDims};
use crate::error::Error;
use trtc_engine::manifest::{Arg, Code, Count, Extent, PtxKernel};

impl CudaDevice {
    /// The parameters of a launch, a word each.
    fn params(
        &self,
        args: &[Arg],
        scratch: bool,
        bind: &Bindings,
        dims: StepDims,
    ) -> Result<Vec<u64>, Error> {
        let whole = |buffer: Buffer| Ok::<_, Error>(self.slot(buffer)?.memory.address());
        let mut params = Vec::with_capacity(args.len() + 8);
        for arg in args {
            match *arg {
                Arg::Arena(offset) => {
                    params.push(self.address(Region { buffer: bind.arena, offset, len: 0 })?)
                }
                Arg::Weight(i) => {
                    let weight = bind.weights.get(i as usize);
                    let weight = weight.ok_or_else(|| Error::bug(format!("weight {i} is not bound")))?;
                    params.push(self.address(weight.payload)?);
                    for side in [weight.scale, weight.zero].into_iter().flatten() {
                        params.push(self.address(side)?);
                    }
                }
                Arg::Kv(i) => {
                    let cache = bind.kv.get(i as usize).copied();
                    params.push(whole(cache.ok_or_else(|| Error::bug(format!("cache {i} is not bound")))?)?);
                }
                Arg::Tokens => params.push(whole(bind.tokens)?),
                Arg::Positions => params.push(whole(bind.positions)?),
                Arg::Rows => params.push(whole(bind.rows)?),
                Arg::Draws => params.push(whole(bind.draws)?),
                Arg::Batch => {
                    for buffer in [bind.query_start, bind.context, bind.block_table] {
                        params.push(whole(buffer)?);
                    }
                    params.push(u64::from(bind.table_width));
                }
            }
        }
        if scratch {
            params.extend([whole(bind.scratch)?, whole(bind.counters)?]);
        }
        params.extend([dims.tokens, dims.rows, dims.seqs].map(u64::from));
        Ok(params)
    }

    pub(super) fn start(&self, call: &Call<'_>, bind: &Bindings, dims: StepDims) -> Result<(), Error> {
        let (index, kernel) = call.kernel;
        let Code::Ptx(code) = &kernel.code else {
            return Err(host_code(&kernel.name));
        };
        let compiled = self.kernels.get(index as usize);
        let compiled =
            compiled.ok_or_else(|| Error::bug(format!("kernel {} was not loaded", kernel.name)))?;
        let grid = code.grid.map(|e| blocks(e, dims));
        if grid.contains(&0) {
            return Ok(());
        }
        let params = self.params(call.args, code.scratch.is_some(), bind, dims)?;
        // SAFETY: the parameters are laid out as the kernels take them, addresses are of memory that is held, and the
        // manifest's check bounds what a step's sizes make the kernels touch.
        let started =
            unsafe { self.stream.launch(compiled.function, grid, code.block, code.shared, &params) };
        started.map_err(|e| in_launch(&kernel.name, code, grid, dims, &words(e)))
    }
}

/// `(ceil(of / div) + plus) * mul`.
fn blocks(e: Extent, dims: StepDims) -> u32 {
    let number = |count| match count {
        Count::One => 1,
        Count::Tokens => dims.tokens,
        Count::Rows => dims.rows,
        Count::Seqs => dims.seqs,
    };
    let parts = number(e.of).div_ceil(e.div.max(1));
    parts.saturating_add(e.plus.map_or(0, number)).saturating_mul(e.mul)
}

pub(super) fn host_code(kernel: &str) -> Error {
    Error::user(format!("kernel {kernel} is a host function"))
        .help("this engine was built for --target host; build it again for this GPU")
}

fn in_launch(name: &str, code: &PtxKernel, grid: [u32; 3], dims: StepDims, why: &str) -> Error {
    let StepDims { tokens, rows, seqs } = dims;
    Error::bug(format!(
        "kernel {name} (grid {grid:?}, block {:?}, {} bytes of shared memory; {tokens} tokens, {rows} rows, {seqs} requests): {why}",
        code.block, code.shared
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extents_count_blocks() {
        let dims = StepDims { tokens: 100, rows: 5, seqs: 3 };
        let extent = |of, div, plus, mul| blocks(Extent { of, div, plus, mul }, dims);
        assert_eq!(extent(Count::Tokens, 32, None, 2), 8);
        assert_eq!(extent(Count::Tokens, 32, Some(Count::Seqs), 2), 14);
        assert_eq!(extent(Count::One, 1, Some(Count::One), 4), 8);
        assert_eq!(extent(Count::Rows, 1, None, u32::MAX), u32::MAX);
    }
}
