//! The yardstick of a run: how fast the device moves memory, measured in the same run.

use crate::render::Failure;
use trtc_engine::manifest::Manifest;
use trtc_runtime::Error;
use trtc_runtime::device::{Buffer, Device, Region, host};

/// Most bytes that are copied at once: beyond any cache.
const BYTES: u64 = 1 << 30;
/// Copies between two points in time.
const COPIES: u32 = 4;
/// Measurements, of which the best counts.
const PASSES: usize = 8;

/// A bandwidth, and how it was measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Yardstick {
    /// `read` or `copy`.
    pub what: &'static str,
    /// Gigabytes a second; of a copy, bytes read and written.
    pub gb_s: f64,
}

impl Yardstick {
    /// Measures the device that an engine runs on: the host by a plain loop that reads on `threads` threads, a GPU by a
    /// copy within its memory.
    pub fn measure(
        m: &Manifest,
        device: &mut dyn Device,
        threads: Option<usize>,
    ) -> Result<Yardstick, Failure> {
        if m.target == "host" {
            let cores = std::thread::available_parallelism().map_or(1, usize::from);
            let gb_s = host::read_bandwidth(threads.unwrap_or(cores) as u32) / 1e9;
            return Ok(Yardstick { what: "read", gb_s });
        }
        let bytes = BYTES.min(device.free_memory() / 4);
        Ok(Yardstick { what: "copy", gb_s: copy(device, bytes)? / 1e9 })
    }

    /// The key of the number in JSON.
    pub fn key(&self) -> String {
        format!("{}_bandwidth_gb_s", self.what)
    }
}

/// `read bandwidth of this run: 30.5 GB/s`.
impl std::fmt::Display for Yardstick {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bandwidth of this run: {:.1} GB/s", self.what, self.gb_s)?;
        if self.what == "copy" { f.write_str(", read and written") } else { Ok(()) }
    }
}

/// Bytes read and written a second by copies of `bytes` bytes within a device's memory: the best of several passes.
pub fn copy(device: &mut dyn Device, bytes: u64) -> Result<f64, Error> {
    let buffers = [device.alloc(bytes, "a copy")?, device.alloc(bytes, "a copy")?];
    let measured = passes(device, buffers, bytes);
    buffers.into_iter().for_each(|b| device.free(b));
    Ok(2.0 * bytes as f64 / measured?)
}

/// Seconds of a copy.
fn passes(device: &mut dyn Device, [from, to]: [Buffer; 2], bytes: u64) -> Result<f64, Error> {
    let whole = |buffer| Region { buffer, offset: 0, len: bytes };
    device.copy(whole(from), whole(to))?;
    let mut best = f64::INFINITY;
    for _ in 0..PASSES {
        let begin = device.event()?;
        for _ in 0..COPIES {
            device.copy(whole(from), whole(to))?;
        }
        let end = device.event()?;
        best = best.min(device.elapsed(begin, end)? / f64::from(COPIES));
    }
    Ok(best)
}

#[cfg(test)]
mod tests {
    use super::*;
    use trtc_runtime::device::host::{HostDevice, HostOptions};

    #[test]
    fn copies_are_timed_and_give_their_memory_back() {
        let mut device = HostDevice::new(HostOptions { threads: Some(1) }).expect("a device");
        let first = device.alloc(1, "a mark").expect("memory");
        device.free(first);
        let speed = copy(&mut device, 8 << 20).expect("copies");
        assert!((1e8..1e13).contains(&speed), "{speed} bytes a second");
        // The handles are free again.
        assert_eq!(device.alloc(1, "a mark").expect("memory"), first);
    }
}
