//! A launch: its sizes checked against the kernel and the chip, its clusters shared out over threads.

use crate::decode::Kernel;
use crate::fault::{Fault, FaultKind};
use crate::memory::Global;
use crate::schedule::{Limits, Machine, Stats};
use crate::trace::Tracer;
use crate::world::Launch;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Most blocks of a grid, x, y, z (CUDA programming guide, compute capabilities).
const MOST_BLOCKS: [u32; 3] = [(1 << 31) - 1, 65535, 65535];

/// What a caller gives for a launch.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Blocks.
    pub grid: [u32; 3],
    /// Threads of a block.
    pub block: [u32; 3],
    /// Bytes of shared memory beyond those that the kernel declares.
    pub shared: u32,
}

/// Parameters in the kernel's own layout; each is as many bytes as the kernel declares, longer ones are cut.
fn layout(kernel: &Kernel, params: &[&[u8]]) -> Result<Vec<u8>, String> {
    if params.len() != kernel.params.len() {
        return Err(format!("it takes {} parameters and was given {}", kernel.params.len(), params.len()));
    }
    let mut out = Vec::new();
    for (i, (&(at, bytes, _), given)) in kernel.params.iter().zip(params).enumerate() {
        out.resize((at + bytes) as usize, 0);
        let Some(given) = given.get(..bytes as usize) else {
            return Err(format!("parameter {i} has {bytes} bytes and was given {}", given.len()));
        };
        out[at as usize..].copy_from_slice(given);
    }
    Ok(out)
}

/// Checks a launch.
fn prepare(kernel: &Kernel, sizes: Sizes, params: &[&[u8]]) -> Result<Launch, String> {
    let Sizes { grid, block, shared } = sizes;
    if grid.contains(&0) || (0..3).any(|d| grid[d] > MOST_BLOCKS[d]) {
        return Err(format!("a grid of {grid:?} blocks; it may have {MOST_BLOCKS:?}"));
    }
    let threads = block.iter().try_fold(1u32, |n, &d| n.checked_mul(d)).unwrap_or(u32::MAX);
    let most = kernel.max_threads.unwrap_or(1024).min(1024);
    if threads == 0 || threads > most {
        return Err(format!("blocks of {block:?} threads; it may have {most}"));
    }
    if let Some(wanted) = kernel.block.filter(|b| *b != block) {
        return Err(format!("blocks of {block:?} threads; its .reqntid is {wanted:?}"));
    }
    let all = kernel.shared + u64::from(shared);
    let most = kernel.chip.most_shared();
    if all > most {
        return Err(format!("{all} bytes of shared memory; a block of sm_{} has {most}", kernel.chip.sm));
    }
    let registers = u64::from(threads.next_multiple_of(32)) * u64::from(kernel.max_registers.unwrap_or(0));
    if registers > 1 << 16 {
        return Err(format!("{registers} registers of a block; there are 65536"));
    }
    let cluster = kernel.cluster.unwrap_or([1; 3]);
    if cluster.contains(&0) || (0..3).any(|d| grid[d] % cluster[d] != 0) {
        return Err(format!("a grid of {grid:?} blocks in clusters of {cluster:?}"));
    }
    if cluster.iter().product::<u32>() > 16 {
        return Err(format!("clusters of {cluster:?} blocks; 16 is the most"));
    }
    let params = layout(kernel, params)?;
    Ok(Launch { grid, block, cluster, dynamic_shared: shared, params })
}

/// Runs a kernel on as many threads as are given.
///
/// # Errors
/// A launch that the chip refuses, or the fault of the first block that has one.
pub fn launch(
    kernel: &Kernel,
    sizes: Sizes,
    params: &[&[u8]],
    global: &Global,
    threads: usize,
    limits: Limits,
) -> Result<Stats, Box<Fault>> {
    let launch = prepare(kernel, sizes, params).map_err(|what| refused(kernel, what))?;
    let clusters = launch.clusters();
    let next = AtomicU64::new(0);
    let found: Mutex<Option<(u64, Box<Fault>)>> = Mutex::new(None);
    let total = Mutex::new(Stats::default());
    let work = || {
        let mut machine = Machine::default();
        let mut stats = Stats::default();
        loop {
            let index = next.fetch_add(1, Relaxed);
            if index >= clusters {
                break;
            }
            match machine.run(kernel, &launch, global, index, limits, None) {
                Ok(s) => stats += s,
                Err(fault) => {
                    // Clusters before this one are still looked at; those behind are not begun.
                    next.fetch_max(clusters, Relaxed);
                    if let Ok(mut found) = found.lock()
                        && found.as_ref().is_none_or(|(i, _)| *i > index)
                    {
                        *found = Some((index, fault));
                    }
                    break;
                }
            }
        }
        if let Ok(mut total) = total.lock() {
            *total += stats;
        }
    };
    let helpers = (threads.max(1) as u64).min(clusters).saturating_sub(1);
    std::thread::scope(|scope| {
        for _ in 0..helpers {
            scope.spawn(work);
        }
        work();
    });
    match found.into_inner() {
        Ok(Some((_, fault))) => Err(fault),
        Ok(None) => Ok(total.into_inner().unwrap_or_default()),
        Err(_) => Err(refused(kernel, "a thread of the emulator has failed".to_owned())),
    }
}

/// Runs a kernel on one thread and hands every instruction to a tracer.
///
/// # Errors
/// As [`launch`].
pub fn launch_traced(
    kernel: &Kernel,
    sizes: Sizes,
    params: &[&[u8]],
    global: &Global,
    limits: Limits,
    tracer: &Tracer<'_>,
) -> Result<Stats, Box<Fault>> {
    let launch = prepare(kernel, sizes, params).map_err(|what| refused(kernel, what))?;
    let clusters = launch.clusters();
    let mut machine = Machine::default();
    let mut stats = Stats::default();
    for index in 0..clusters {
        stats += machine.run(kernel, &launch, global, index, limits, Some(tracer))?;
    }
    Ok(stats)
}

fn refused(kernel: &Kernel, what: String) -> Box<Fault> {
    Box::new(Fault {
        kind: FaultKind::Budget,
        what: format!("the launch is refused: {what}"),
        kernel: kernel.name.clone(),
        line: 0,
        text: String::new(),
        block: [0; 3],
        thread: [0; 3],
        location: None,
    })
}
