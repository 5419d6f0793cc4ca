//! Threads of a warp that come together at an instruction, and that part after one.

use crate::decode::{Inst, Next, Together};
use crate::fault::{FaultKind, Outcome, trap};
use crate::warp::{Group, Wait, Warp};
use crate::world::World;

pub enum Meeting {
    Go,
    Wait,
}

/// Whether the threads that an instruction wants are all there.
pub fn meet(warp: &Warp, group: &Group, mask: u32, inst: &Inst) -> Outcome<Meeting> {
    let all = group.mask | warp.alive();
    match inst.together {
        Together::Alone => Ok(Meeting::Go),
        Together::Warp if group.mask != all => Ok(Meeting::Wait),
        Together::Warp if mask == 0 || mask == all => Ok(Meeting::Go),
        Together::Warp => trap(
            FaultKind::Divergence,
            format!("threads {mask:#010x} of {all:#010x} execute an .aligned instruction by themselves"),
        ),
        Together::Mask(_) if mask == 0 => Ok(Meeting::Go),
        Together::Mask(source) => {
            let named = warp.get(source);
            for lane in crate::warp::lanes(mask) {
                if named[lane] >> lane & 1 == 0 {
                    let what = format!("the thread is not in its own mask {:#010x}", named[lane]);
                    return crate::fault::trap_at(FaultKind::Undefined, lane, what);
                }
                let gone = named[lane] & warp.born & !all;
                if gone != 0 {
                    let what =
                        format!("its mask {:#010x} names threads that have ended: {gone:#010x}", named[lane]);
                    return crate::fault::trap_at(FaultKind::Divergence, lane, what);
                }
                if named[lane] & warp.born & !mask != 0 {
                    return if named[lane] & group.mask & !mask != 0 && group.mask == all {
                        let what = format!(
                            "only {mask:#010x} of the threads in the mask {:#010x} are here",
                            named[lane]
                        );
                        crate::fault::trap_at(FaultKind::Divergence, lane, what)
                    } else {
                        Ok(Meeting::Wait)
                    };
                }
            }
            Ok(Meeting::Go)
        }
    }
}

/// The threads of a group go different ways, wait, or end.
pub fn part(warp: &mut Warp, world: &mut World<'_>, group: Group, mask: u32, next: Next) {
    let Group { at, mask: all, .. } = group;
    let mut add = |at: usize, mask: u32, wait: Option<Wait>| {
        if mask != 0 {
            warp.groups.push(Group { at, mask, wait });
        }
    };
    match next {
        Next::On => add(at + 1, all, None),
        Next::Jump { mask: m, to } => {
            add(to, m, None);
            add(at + 1, all & !m, None);
        }
        Next::Scatter(ways) => {
            let mut rest = all;
            for (to, m) in ways {
                add(to, m, None);
                rest &= !m;
            }
            add(at + 1, rest, None);
        }
        Next::Exit(m) => {
            add(at + 1, all & !m, None);
            let block = &mut world.blocks[warp.block];
            block.alive -= m.count_ones();
            // A barrier does not wait for who has ended.
            let alive = block.alive;
            block.barriers.iter_mut().for_each(|b| {
                b.complete(alive);
            });
            let all_alive = world.blocks.iter().map(|b| b.alive).sum();
            world.barrier.complete(all_alive);
        }
        Next::Retry(m, wait) => {
            add(at, m, Some(wait));
            add(at + 1, all & !m, None);
        }
        Next::Wait(wait) => {
            add(at, mask, Some(wait));
            add(at + 1, all & !mask, None);
        }
    }
}
