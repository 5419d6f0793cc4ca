//! A launch of a PTX kernel as its manifest describes it: parameters, grid, and what an error says of it. Which device
//! executes it is of no matter here.

use super::{Bindings, Buffer, Region, StepDims};
use crate::error::Error;
use serde::{Deserialize, Serialize};
use std::iter;
use trtc_engine::manifest::{
    Arg, Choice, Code, Count, Extent, Kernel, Launch, Map, PtxKernel, Shares, Steps,
};

/// A parameter of a launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Param {
    /// An address or a number.
    Word(u64),
    /// A tensor map.
    Map(MapParam),
}

/// A tensor map whose memory is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MapParam {
    /// Address of the first element.
    pub address: u64,
    /// Rows.
    pub rows: u64,
    /// All else.
    pub map: Map,
}

impl Param {
    /// The address, if it is one.
    pub fn address(&self) -> u64 {
        match self {
            Param::Word(word) => *word,
            Param::Map(map) => map.address,
        }
    }
}

/// The PTX of a kernel.
///
/// # Errors
/// It is a function of the host device.
pub fn ptx(kernel: &Kernel) -> Result<&PtxKernel, Error> {
    match &kernel.code {
        Code::Ptx(code) => Ok(code),
        Code::Host(_) => Err(Error::user(format!("kernel {} is a host function", kernel.name))
            .help("this engine was built for --target host; build it again for this GPU")),
    }
}

/// The parameters of a launch as `trtc_codegen::kernels` lays down: arguments, tensor maps, scratch memory, the step's
/// sizes. `address` gives the address of a region that lies within its buffer.
pub fn params(
    args: &[Arg],
    code: &PtxKernel,
    bind: &Bindings,
    dims: StepDims,
    address: &dyn Fn(Region) -> Result<u64, Error>,
) -> Result<Vec<Param>, Error> {
    let at = |buffer: Buffer, offset| address(Region { buffer, offset, len: 0 });
    let mut params = Vec::with_capacity(args.len() + 8);
    // Where each argument begins among the parameters.
    let mut first = Vec::with_capacity(args.len());
    for arg in args {
        first.push(params.len());
        match *arg {
            Arg::Arena(offset) => params.push(at(bind.arena, offset)?),
            Arg::Weight(i) => {
                let weight = bind.weights.get(i as usize);
                let weight = weight.ok_or_else(|| Error::bug(format!("weight {i} is not bound")))?;
                params.push(address(weight.payload)?);
                for side in [weight.scale, weight.zero].into_iter().flatten() {
                    params.push(address(side)?);
                }
            }
            Arg::Kv(i) => {
                let cache = bind.kv.get(i as usize).copied();
                params.push(at(cache.ok_or_else(|| Error::bug(format!("cache {i} is not bound")))?, 0)?);
            }
            Arg::Tokens => params.push(at(bind.tokens, 0)?),
            Arg::Positions => params.push(at(bind.positions, 0)?),
            Arg::Rows => params.push(at(bind.rows, 0)?),
            Arg::Draws => params.push(at(bind.draws, 0)?),
            Arg::Masks => params.push(at(bind.masks, 0)?),
            Arg::Batch => {
                let (first, width) = (4 * u64::from(dims.first), u64::from(bind.table_width));
                for (buffer, row) in [(bind.query_start, 1), (bind.context, 1), (bind.block_table, width)] {
                    params.push(at(buffer, first * row)?);
                }
                params.push(width);
            }
        }
    }
    let mut out: Vec<Param> = params.iter().copied().map(Param::Word).collect();
    for map in &code.maps {
        let address = first.get(map.arg as usize).and_then(|&at| params.get(at)).copied();
        let address = address.ok_or_else(|| Error::bug(format!("a tensor map over argument {}", map.arg)))?;
        out.push(Param::Map(MapParam { address, rows: map.rows.count(&bind.limits, bind.pages), map: *map }));
    }
    if code.scratch.is_some() {
        out.extend([at(bind.scratch, 0)?, at(bind.counters, 0)?].map(Param::Word));
    }
    out.extend([dims.tokens, dims.rows, dims.seqs].map(|n| Param::Word(u64::from(n))));
    Ok(out)
}

/// The kernels, by their numbers in the manifest, that compute a launch of a step with these sizes, of which the first `single`
/// requests have one token each, by the choice for the step: its kernel, and another one for these requests if there is one.
pub fn parts(
    launch: &Launch,
    choice: &Choice,
    dims: StepDims,
    single: u32,
) -> impl Iterator<Item = (u32, StepDims)> {
    let splits = choice.steps == Steps::Prefill && single > 0;
    let other = if splits { launch.choice(Steps::Single, single) } else { None };
    let StepDims { tokens, seqs, first, .. } = dims;
    let rest = StepDims { tokens: tokens - single, seqs: seqs - single, first: first + single, ..dims };
    let own = (choice.kernel, if other.is_some() { rest } else { dims });
    let other = other.map(|c| (c.kernel, StepDims { tokens: single, seqs: single, ..dims }));
    iter::once(own).chain(other)
}

/// Blocks of a launch, x, y, z; `None` if there are none, which no device launches.
pub fn grid(code: &PtxKernel, dims: StepDims) -> Option<[u32; 3]> {
    let mut grid = code.grid.map(|e| blocks(e, dims));
    if let Some(shares) = code.shares {
        grid[2] = shared(shares, grid[0].saturating_mul(grid[1]), dims);
    }
    (!grid.contains(&0)).then_some(grid)
}

/// True if a launch for `dims` is the same with another bound on contexts.
pub fn same_with(kernel: &Kernel, dims: StepDims, context: u32) -> bool {
    match &kernel.code {
        Code::Ptx(code) => grid(code, dims) == grid(code, StepDims { context, ..dims }),
        Code::Host(_) => true,
    }
}

/// Blocks along z of a grid with `plane` for each of them.
fn shared(Shares { keys, most, few }: Shares, plane: u32, dims: StepDims) -> u32 {
    if dims.context == 0 || plane.saturating_mul(most) <= few {
        return most;
    }
    dims.context.div_ceil(keys.max(1)).clamp(1, most.max(1))
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

/// A launch in an error's words.
pub fn facts(code: &PtxKernel, grid: [u32; 3], dims: StepDims) -> String {
    let StepDims { tokens, rows, seqs, .. } = dims;
    format!(
        "grid {grid:?}, block {:?}, {} bytes of shared memory; {tokens} tokens, {rows} rows, {seqs} requests",
        code.block, code.shared
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contexts_are_shared_out_to_as_many_blocks_as_they_need() {
        let shares = Shares { keys: 256, most: 16, few: 2048 };
        let of = |plane, context| shared(shares, plane, StepDims { context, ..StepDims::NONE });
        assert_eq!([of(8, 1), of(128, 300), of(129, 300), of(129, 256)], [16, 16, 2, 1]);
        assert_eq!([of(1 << 20, 0), of(1 << 20, 1 << 20), of(1 << 20, 1024)], [16, 16, 4]);
    }

    #[test]
    fn single_tokens_of_a_prefill_step_may_have_a_kernel_of_their_own() {
        let choice = |steps, kernel| Choice { from: 1, to: 64, steps, kernel };
        let launch = |choices: &[Choice]| Launch {
            ops: vec![0],
            choices: choices.to_vec(),
            args: vec![],
            loc: String::new(),
        };
        let dims = StepDims { tokens: 40, rows: 5, seqs: 6, first: 0, context: 512 };
        let of = |choices: &[Choice], single| {
            parts(&launch(choices), &choices[0], dims, single).collect::<Vec<_>>()
        };
        let [prefill, single] = [choice(Steps::Prefill, 3), choice(Steps::Single, 7)];
        assert_eq!(of(&[prefill, single], 0), [(3, dims)]);
        assert_eq!(of(&[prefill], 4), [(3, dims)]);
        assert_eq!(of(&[choice(Steps::Decode, 1), single], 4), [(1, dims)]);
        let rest = StepDims { tokens: 36, seqs: 2, first: 4, ..dims };
        assert_eq!(of(&[prefill, single], 4), [(3, rest), (7, StepDims { tokens: 4, seqs: 4, ..dims })]);
    }

    #[test]
    fn extents_count_blocks() {
        let dims = StepDims { tokens: 100, rows: 5, seqs: 3, ..StepDims::NONE };
        let extent = |of, div, plus, mul| blocks(Extent { of, div, plus, mul }, dims);
        assert_eq!(extent(Count::Tokens, 32, None, 2), 8);
        assert_eq!(extent(Count::Tokens, 32, Some(Count::Seqs), 2), 14);
        assert_eq!(extent(Count::One, 1, Some(Count::One), 4), 8);
        assert_eq!(extent(Count::Rows, 1, None, u32::MAX), u32::MAX);
    }
}
