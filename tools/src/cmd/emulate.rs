//! `trtc emulate`: a launch from a file, executed alone.

use crate::render::Failure;
use serde_json::json;
use std::cell::RefCell;
use std::io::Write;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Instant;
use trtc_emulator::{Limits, Tracer, launch, launch_traced};
use trtc_runtime::device::emulator::DumpedLaunch;

/// Execute one launch of a kernel on the emulator
///
/// Launches are written by `trtc check ENGINE --device emulator --dump DIR`. A fault of the kernel is told and ends with
/// exit code 3. With --trace each instruction is printed as it is executed: block, warp, a mask of its threads, line of
/// the PTX, the instruction, and what it has written.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
                        trtc emulate faults/00000-sm_90.attention.launch\n  \
                        trtc emulate k.launch --trace 0,0,0:2 --lane 5 | less\n  \
                        trtc emulate k.launch --threads 1 --json")]
pub struct Args {
    /// Launch, as `trtc check --dump` writes it
    file: PathBuf,
    /// Print each instruction of all blocks, of a block (its number, or x,y,z), or of a warp of it
    #[arg(long, value_name = "BLOCK[:WARP]", num_args = 0..=1, default_missing_value = "all", conflicts_with = "threads")]
    trace: Option<Watched>,
    /// Thread of a warp whose values a trace shows
    #[arg(long, value_name = "N", default_value_t = 0, requires = "trace", value_parser = clap::value_parser!(u8).range(..32))]
    lane: u8,
    /// Threads that execute blocks; all cores if left out
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    threads: Option<u16>,
    /// Print the numbers as one JSON object
    #[arg(long, conflicts_with = "trace")]
    json: bool,
}

/// Which block is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Which {
    /// All of them.
    All,
    /// By its number, along x first.
    Number(u32),
    /// By its place.
    At([u32; 3]),
}

/// What a trace shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Watched {
    block: Which,
    warp: Option<usize>,
}

impl FromStr for Watched {
    type Err = String;

    fn from_str(text: &str) -> Result<Watched, String> {
        let number = |n: &str| {
            n.parse::<u32>().map_err(|_| format!("{n:?} is not a number; give all, 3, 0,1,0 or 0,1,0:2"))
        };
        let (block, warp) = match text.split_once(':') {
            Some((block, warp)) => (block, Some(number(warp)? as usize)),
            None => (text, None),
        };
        let block = match block.split(',').collect::<Vec<_>>()[..] {
            ["all"] => Which::All,
            [n] => Which::Number(number(n)?),
            [x, y, z] => Which::At([number(x)?, number(y)?, number(z)?]),
            _ => return Err("a block has one number, or three: x,y,z".to_owned()),
        };
        Ok(Watched { block, warp })
    }
}

impl Which {
    /// The block's place in a grid; `None` for all of them.
    fn place(self, grid: [u32; 3]) -> Result<Option<[u32; 3]>, Failure> {
        let [nx, ny, nz] = grid.map(|n| n.max(1));
        let place = match self {
            Which::All => return Ok(None),
            Which::Number(n) => [n % nx, n / nx % ny, n / nx / ny],
            Which::At(place) => place,
        };
        if place[0] < nx && place[1] < ny && place[2] < nz {
            return Ok(Some(place));
        }
        Err(Failure::user(format!("there is no block {place:?} in a grid of {grid:?}")))
    }
}

/// Executes the launch.
pub fn run(args: &Args) -> Result<(), Failure> {
    let file = std::fs::read(&args.file).map_err(|e| Failure::file("read", &args.file, &e))?;
    let dumped = DumpedLaunch::from_bytes(&file)?;
    let mut kernel = dumped.decode()?;
    kernel.name.clone_from(&dumped.kernel);
    let global = dumped.restore()?;
    let words = dumped.params()?;
    let words: Vec<&[u8]> = words.iter().map(Vec::as_slice).collect();
    let (sizes, limits) = (dumped.sizes(), Limits::default());
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    let start = Instant::now();
    let done = match args.trace {
        None => {
            let all = || std::thread::available_parallelism().map_or(1, usize::from);
            let threads = args.threads.map_or_else(all, usize::from);
            launch(&kernel, sizes, &words, &global, threads, limits)
        }
        Some(watched) => {
            let mut written = Ok(());
            let mut line = |text: &str| {
                if written.is_ok() {
                    written = writeln!(out, "{text}");
                }
            };
            let tracer = Tracer {
                block: watched.block.place(sizes.grid)?,
                warp: watched.warp,
                lane: usize::from(args.lane),
                line: RefCell::new(&mut line),
            };
            let done = launch_traced(&kernel, sizes, &words, &global, limits, &tracer);
            written?;
            done
        }
    };
    let seconds = start.elapsed().as_secs_f64();
    let stats = done.map_err(|mut fault| {
        fault.location = Some(dumped.loc.clone());
        Failure::bug(fault.to_string())
    });
    // What was traced is out before a fault is told.
    out.flush()?;
    let stats = stats?;
    let rate = stats.thread_instructions as f64 / seconds.max(f64::MIN_POSITIVE);
    if args.json {
        let object = json!({
            "kernel": dumped.kernel,
            "loc": dumped.loc,
            "grid": sizes.grid,
            "block": sizes.block,
            "shared": sizes.shared,
            "warp_instructions": stats.warp_instructions,
            "thread_instructions": stats.thread_instructions,
            "seconds": seconds,
        });
        writeln!(out, "{object}")?;
    } else {
        writeln!(out, "kernel {} ({})", dumped.kernel, dumped.loc)?;
        writeln!(
            out,
            "grid {:?}, block {:?}, {} bytes of shared memory",
            sizes.grid, sizes.block, sizes.shared
        )?;
        writeln!(
            out,
            "{} instructions of warps, {} of threads in {seconds:.3} s: {:.1} million a second",
            stats.warp_instructions,
            stats.thread_instructions,
            rate / 1e6
        )?;
    }
    Ok(out.flush()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_and_warps_are_named() {
        let read = |text: &str| text.parse::<Watched>();
        assert_eq!(read("all"), Ok(Watched { block: Which::All, warp: None }));
        assert_eq!(read("7"), Ok(Watched { block: Which::Number(7), warp: None }));
        assert_eq!(read("1,2,3:4"), Ok(Watched { block: Which::At([1, 2, 3]), warp: Some(4) }));
        for text in ["", "1,2", "x", "1:", "1:2:3", "-1", "1,2,3,4"] {
            assert!(read(text).is_err(), "{text}");
        }
    }

    #[test]
    fn blocks_lie_in_the_grid() {
        let place = |which: Which| which.place([4, 3, 2]).ok();
        assert_eq!(place(Which::All), Some(None));
        assert_eq!(place(Which::Number(23)), Some(Some([3, 2, 1])));
        assert_eq!((place(Which::Number(24)), place(Which::At([0, 3, 0]))), (None, None));
    }
}
