//! Time of a launch: many launches recorded as one graph, replayed between two points of the device's work.

use trtc_runtime::device::{Bindings, Call, Device, Event, Graph, StepDims};
use trtc_runtime::{Error, Fault};

/// Seconds that a measurement lasts at least, as far as [`MOST`] launches do.
const LEAST: f64 = 10e-3;
/// Most launches of a recording, if one round of the data does not need more.
const MOST: usize = 256;
/// Most replays of a measurement.
const REPLAYS: u32 = 64;

/// What was measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Timing {
    /// Seconds of a launch: the median of the measurements.
    pub seconds: f64,
    /// True if launches were replayed from a recording; false if the device cannot, and each was started by itself.
    pub recorded: bool,
}

/// Launches, however they are started.
enum Work<'a> {
    Recorded(Graph),
    Single(Vec<Call<'a>>, &'a Bindings, StepDims),
}

impl Work<'_> {
    fn start(&self, device: &mut dyn Device) -> Result<(), Error> {
        match self {
            Work::Recorded(graph) => device.replay(*graph),
            Work::Single(calls, bind, dims) => {
                calls.iter().try_for_each(|call| device.launch(*call, bind, *dims))
            }
        }
    }
}

/// Times launches that take turns: `round` is one turn, each of it on data of its own.
pub fn time(
    device: &mut dyn Device,
    round: &[Call<'_>],
    bind: &Bindings,
    dims: StepDims,
    repeat: u32,
) -> Result<Timing, Error> {
    // Warm: code is loaded, data has been touched.
    round.iter().try_for_each(|call| device.launch(*call, bind, dims))?;
    let begin = device.event()?;
    round.iter().try_for_each(|call| device.launch(*call, bind, dims))?;
    let rough = since(device, begin)? / round.len().max(1) as f64;
    let wanted = ((LEAST / rough.max(1e-9)) as usize).clamp(1, MOST);
    let calls: Vec<Call<'_>> = round.repeat(wanted.div_ceil(round.len().max(1)));
    let count = calls.len();
    let work = match device.record(&calls, bind, dims) {
        Ok(graph) => Work::Recorded(graph),
        Err(e) if e.fault == Fault::Unsupported => Work::Single(calls, bind, dims),
        Err(e) => return Err(e),
    };
    let begin = device.event()?;
    work.start(device)?;
    let once = since(device, begin)?;
    let replays = ((LEAST / once.max(1e-9)) as u32).clamp(1, REPLAYS);
    let mut times = Vec::new();
    for _ in 0..repeat {
        let begin = device.event()?;
        for _ in 0..replays {
            work.start(device)?;
        }
        times.push(since(device, begin)? / f64::from(replays) / count as f64);
    }
    Ok(Timing { seconds: super::median(times), recorded: matches!(work, Work::Recorded(_)) })
}

/// Seconds from a point to this one.
fn since(device: &mut dyn Device, begin: Event) -> Result<f64, Error> {
    let end = device.event()?;
    device.elapsed(begin, end)
}
