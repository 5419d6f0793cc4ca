//! The instructions. Each family is a file; a row of the table names an instruction and the function that decodes it.
//!
//! A decoding function takes the words and operands that it understands from the [`Decoder`] and returns the work as a
//! closure over their places. Words that it leaves are refused, so a modifier is never ignored by accident.

mod arithmetic;
mod atomic;
mod barrier;
mod bulk;
mod cluster;
mod compare;
mod control;
mod convert;
mod cp_async;
mod exchange;
mod float;
mod lanewise;
mod logic;
mod matrix;
mod mbarrier;
mod memory;
mod mma;
mod moves;
mod tcgen05;
mod tensor;
mod transfer;
mod wgmma;

pub use wgmma::Gathering;

use crate::decode::{Decoder, Next, Run};
use crate::fault::Outcome;
use crate::ptx::Malformed;
use crate::world::Step;

/// Decodes a statement.
pub type Decode = fn(&mut Decoder<'_>) -> Result<Run, Malformed>;

/// Rows of one family: the beginning of an opcode, and who decodes it.
pub type Rows = &'static [(&'static str, Decode)];

/// All families.
const FAMILIES: &[Rows] = &[
    arithmetic::ROWS,
    atomic::ROWS,
    barrier::ROWS,
    bulk::ROWS,
    cluster::ROWS,
    compare::ROWS,
    control::ROWS,
    convert::ROWS,
    cp_async::ROWS,
    exchange::ROWS,
    float::ROWS,
    logic::ROWS,
    mbarrier::ROWS,
    matrix::ROWS,
    memory::ROWS,
    mma::ROWS,
    moves::ROWS,
    tcgen05::ROWS,
    tensor::ROWS,
    wgmma::ROWS,
];

/// The row for an opcode: the longest one that its words begin with; and how many words those are.
fn row(opcode: &[String]) -> Option<(Decode, usize)> {
    let fits = |name: &str| {
        let words: Vec<&str> = name.split('.').collect();
        let all = words.len() <= opcode.len() && words.iter().zip(opcode).all(|(a, b)| a == b);
        all.then_some(words.len())
    };
    let rows = FAMILIES.iter().flat_map(|f| f.iter());
    rows.filter_map(|(name, decode)| fits(name).map(|n| (*decode, n))).max_by_key(|(_, n)| *n)
}

/// Decodes a statement, or names the instruction that is not known.
pub fn decode(d: &mut Decoder<'_>) -> Result<Run, Malformed> {
    let Some((decode, words)) = row(&d.statement.opcode) else {
        return d.refuse("the emulator does not know this instruction");
    };
    d.name(words);
    let run = decode(d)?;
    d.finish()?;
    Ok(run)
}

/// Work that goes on to the next instruction.
fn work(f: impl Fn(&mut Step<'_, '_>) -> Outcome<()> + Send + Sync + 'static) -> Run {
    Box::new(move |s| f(s).map(|()| Next::On))
}
