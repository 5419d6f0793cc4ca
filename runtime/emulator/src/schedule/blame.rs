//! Where a fault arose, and who waits for what when nobody can go on.

use super::At;
use crate::fault::{Fault, FaultKind, Outcome, Trap, trap};
use crate::warp::{LANES, Wait, Warp};
use crate::world::World;

/// Nobody can go on: who waits for what.
pub fn deadlock(warps: &[Warp], world: &World<'_>, at: &mut At) -> Outcome<()> {
    let mut told = Vec::new();
    let mut apart = None;
    let mut registers = None;
    for (i, warp) in warps.iter().enumerate() {
        for group in &warp.groups {
            let line = world.kernel.code[group.at].line;
            let what = match &group.wait {
                Some(Wait::Together) => {
                    apart.get_or_insert((i, group.at, group.mask, warp.alive()));
                    "the rest of its threads".to_owned()
                }
                Some(Wait::Barrier { id, .. }) => {
                    let b = &world.blocks[warp.block].barriers[*id];
                    let of = b.expected.unwrap_or(world.blocks[warp.block].alive);
                    format!("barrier {id}, where {} of {of} threads have come", b.arrived)
                }
                Some(Wait::Cluster { .. }) => "the cluster's barrier".to_owned(),
                Some(Wait::Phase { block, address, parity }) => {
                    let m = world.blocks[*block].mbarriers.get(address);
                    let state = m.map_or_else(String::new, |m| {
                        let (phase, left, bytes) = (m.phase, m.pending, m.bytes);
                        format!(" (it is in phase {phase}, {left} arrivals and {bytes} bytes are to come)")
                    });
                    format!(
                        "parity {} of the mbarrier at {address:#x} of block {block}{state}",
                        u8::from(*parity)
                    )
                }
                Some(Wait::Registers { wanted }) => {
                    registers.get_or_insert((i, group.at));
                    let free = world.blocks[warp.block].free_registers;
                    format!("{wanted} registers, of which {free} are free")
                }
                Some(Wait::Warpgroup { groups }) => {
                    format!("the other warps of its warpgroup to commit {groups} groups of wgmma")
                }
                Some(Wait::Columns(count)) => {
                    format!("{count} columns of tensor memory, which nobody gives back")
                }
                Some(Wait::Progress) => "others to go on".to_owned(),
                None => continue,
            };
            told.push(format!("warp {i} (threads {:#010x}, line {line}) waits for {what}", group.mask));
        }
    }
    if let Some((warp, inst, mask, alive)) = apart {
        (at.warp, at.inst) = (warp, Some(inst));
        let what = format!(
            "threads {mask:#010x} of {alive:#010x} are at an instruction that wants others, who never come; {}",
            told.join("; ")
        );
        return trap(FaultKind::Divergence, what);
    }
    if let Some((warp, inst)) = registers {
        (at.warp, at.inst) = (warp, Some(inst));
        return trap(
            FaultKind::Budget,
            format!("registers that nobody gives up are waited for: {}", told.join("; ")),
        );
    }
    at.warp = warps.iter().position(|w| !w.groups.is_empty()).unwrap_or(0);
    at.inst = warps.get(at.warp).and_then(|w| w.groups.first()).map(|g| g.at);
    trap(FaultKind::Deadlock, format!("nobody can go on: {}", told.join("; ")))
}

pub fn report(trap: Trap, at: &At, warps: &[Warp], world: &World<'_>) -> Box<Fault> {
    let warp = &warps[at.warp];
    let lane = trap.lane.unwrap_or_else(|| warp.born.trailing_zeros());
    let line = trap.line.or_else(|| at.inst.map(|i| world.kernel.code[i].line)).unwrap_or(0);
    let text = (line as usize).checked_sub(1).and_then(|l| world.kernel.lines.get(l));
    Box::new(Fault {
        kind: trap.kind,
        what: trap.what,
        kernel: world.kernel.name.clone(),
        line,
        text: text.cloned().unwrap_or_default(),
        block: world.blocks[warp.block].id,
        thread: world.launch.thread((warp.index * LANES) as u32 + lane),
        location: None,
    })
}
