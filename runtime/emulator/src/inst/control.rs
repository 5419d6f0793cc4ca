//! Jumps, ends, and instructions of which no result depends.

use super::{Rows, work};
use crate::decode::{Decoder, Next, Run};
use crate::fault::{FaultKind, trap, trap_at};
use crate::ptx::Malformed;
use crate::warp::lanes;

pub const ROWS: Rows = &[
    ("bra", bra),
    ("brx.idx", brx),
    ("ret", exit),
    ("exit", exit),
    ("trap", stop),
    ("nanosleep", nanosleep),
    ("prefetch", nothing),
    ("prefetchu", nothing),
    ("applypriority", nothing),
    ("discard", nothing),
    ("pmevent", nothing),
    ("griddepcontrol", griddep),
];

/// `bra`: the threads whose guard holds jump.
fn bra(d: &mut Decoder<'_>) -> Result<Run, Malformed> {
    d.has("uni");
    let to = d.label(0)?;
    Ok(Box::new(move |s| Ok(Next::Jump { mask: s.mask, to })))
}

/// `brx.idx index, list`.
fn brx(d: &mut Decoder<'_>) -> Result<Run, Malformed> {
    d.has("uni");
    let index = d.source(0)?;
    let list = d.label_list(1)?;
    Ok(Box::new(move |s| {
        let index = s.warp.get(index);
        let mut ways: Vec<(usize, u32)> = Vec::new();
        for lane in lanes(s.mask) {
            let Some(&to) = list.get(index[lane] as usize) else {
                let what = format!("index {} into {} branch targets", index[lane], list.len());
                return trap_at(FaultKind::Undefined, lane, what);
            };
            match ways.iter_mut().find(|(t, _)| *t == to) {
                Some((_, mask)) => *mask |= 1 << lane,
                None => ways.push((to, 1 << lane)),
            }
        }
        Ok(Next::Scatter(ways))
    }))
}

fn exit(d: &mut Decoder<'_>) -> Result<Run, Malformed> {
    d.has("uni");
    Ok(Box::new(|s| Ok(Next::Exit(s.mask))))
}

fn stop(_: &mut Decoder<'_>) -> Result<Run, Malformed> {
    Ok(Box::new(|_| trap(FaultKind::Trap, "the kernel executed trap")))
}

/// `nanosleep`: there is no time, so that nothing sleeps; a warp's turn ends by itself.
fn nanosleep(d: &mut Decoder<'_>) -> Result<Run, Malformed> {
    d.has("u32");
    d.source(0)?;
    Ok(work(|_| Ok(())))
}

/// Hints: their address may be anything.
fn nothing(d: &mut Decoder<'_>) -> Result<Run, Malformed> {
    let words: Vec<&str> = d.words().to_vec();
    d.drop_all(&words);
    for i in 0..d.count() {
        if d.address(i).is_err() {
            d.source(i)?;
        }
    }
    Ok(work(|_| Ok(())))
}

/// `griddepcontrol`: launches are executed one after the other, so that there is nothing to wait for.
fn griddep(d: &mut Decoder<'_>) -> Result<Run, Malformed> {
    if !d.has("wait") && !d.has("launch_dependents") {
        return d.refuse("wait or launch_dependents is missing");
    }
    Ok(work(|_| Ok(())))
}
