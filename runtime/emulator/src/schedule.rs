//! A cluster from its first instruction to its last: which warp runs, which threads of it, and what waiting means.
//!
//! A warp runs until it waits, or has had its turn. Of its threads those that are furthest behind in the code run first,
//! so that they meet the others again where ways come together. Nothing depends on time or on other clusters, so a kernel
//! that orders what it shares runs the same way every time.

mod blame;
mod meeting;

use crate::async_copy::{Issued, Place, Queue};
use crate::barrier::Barrier;
use crate::decode::{Kernel, Next, Together};
use crate::fault::{Fault, FaultKind, Outcome, Trap, trap};
use crate::memory::address::SHARED_START;
use crate::memory::{Clocks, Global};
use crate::trace::Tracer;
use crate::warp::{ALL, Group, LANES, Wait, Warp};
use crate::world::{Block, Launch, Step, World};
use blame::{deadlock, report};
use meeting::{Meeting, meet, part};

/// Instructions of a warp before the next one has its turn.
const TURN: u64 = 1 << 12;

/// Registers of an SM.
const REGISTERS: u32 = 1 << 16;
/// Most registers of a thread.
const MOST_REGISTERS: u32 = 255;

/// What a cluster may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Instructions of a warp.
    pub instructions: u64,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { instructions: 1 << 32 }
    }
}

/// What was executed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Instructions, once a warp.
    pub warp_instructions: u64,
    /// Instructions, once a thread.
    pub thread_instructions: u64,
}

impl std::ops::AddAssign for Stats {
    fn add_assign(&mut self, other: Stats) {
        self.warp_instructions += other.warp_instructions;
        self.thread_instructions += other.thread_instructions;
    }
}

/// Memory in which clusters run, one after the other.
#[derive(Default)]
pub struct Machine {
    warps: Vec<Warp>,
    blocks: Vec<Block>,
    clocks: Clocks,
    queue: Queue,
}

/// Where a fault arose.
struct At {
    warp: usize,
    inst: Option<usize>,
}

impl Machine {
    /// Runs the cluster with the number `index`.
    ///
    /// # Errors
    /// The first fault.
    pub fn run(
        &mut self,
        kernel: &Kernel,
        launch: &Launch,
        global: &Global,
        index: u64,
        limits: Limits,
        tracer: Option<&Tracer<'_>>,
    ) -> Result<Stats, Box<Fault>> {
        self.start(kernel, launch, index);
        let mut world = World {
            kernel,
            launch,
            global,
            blocks: &mut self.blocks,
            clocks: &mut self.clocks,
            queue: &mut self.queue,
            barrier: Barrier::default(),
        };
        let mut at = At { warp: 0, inst: None };
        let done = schedule(&mut self.warps, &mut world, limits, tracer, &mut at);
        let told = |trap: Box<Trap>| report(*trap, &at, &self.warps, &world);
        done.map_err(told)?;
        let mut stats = Stats::default();
        for w in &self.warps {
            stats += Stats { warp_instructions: w.steps, thread_instructions: w.thread_steps };
        }
        Ok(stats)
    }

    fn start(&mut self, kernel: &Kernel, launch: &Launch, index: u64) {
        let (count, warps) = (launch.blocks_of_cluster(), launch.warps());
        let worn_out = self.clocks.worn_out();
        if worn_out {
            self.clocks.reset();
        }
        self.clocks.start(count * warps);
        self.queue.clear();
        self.blocks.resize_with(count, Block::default);
        self.warps.resize_with(count * warps, Warp::default);
        let [cx, cy, cz] = launch.cluster;
        // Clusters are counted along x first.
        let clusters = [launch.grid[0] / cx, launch.grid[1] / cy].map(u64::from);
        let first =
            [index % clusters[0], index / clusters[0] % clusters[1], index / clusters[0] / clusters[1]];
        let shared = (kernel.shared + u64::from(launch.dynamic_shared)).next_multiple_of(16);
        for (rank, block) in self.blocks.iter_mut().enumerate() {
            let r = rank as u32;
            let inner = [r % cx, r / cx % cy, r / cx / cy];
            block.id = std::array::from_fn(|d| first[d] as u32 * [cx, cy, cz][d] + inner[d]);
            block.shared.start(SHARED_START, shared, kernel.granule, worn_out);
            block.barriers = Default::default();
            block.mbarriers.clear();
            block.flags.clear();
            block.tensor = Default::default();
            block.alive = launch.threads();
            block.free_registers = 0;
            block.warpgroups.start(warps);
        }
        let registers = registers(kernel, launch);
        for (actor, warp) in self.warps.iter_mut().enumerate() {
            let index = actor % warps;
            let threads = (launch.threads() - (index * LANES) as u32).min(LANES as u32);
            let born = if threads == 32 { ALL } else { (1 << threads) - 1 };
            (warp.actor, warp.block, warp.index, warp.born) = (actor, actor / warps, index, born);
            warp.groups.clear();
            warp.groups.push(Group { at: 0, mask: born, wait: None });
            warp.rows.resize(kernel.rows, [0; LANES]);
            warp.preds.clear();
            warp.preds.resize(kernel.preds, 0);
            warp.written.clear();
            warp.written.resize(kernel.tracked, 0);
            warp.in_flight.clear();
            warp.in_flight.resize(kernel.matrix, 0);
            warp.unfenced.clear();
            warp.unfenced.resize(kernel.matrix, true);
            warp.registers = registers;
            warp.carry = 0;
            warp.local.start(kernel.local);
            warp.pending.clear();
            (warp.steps, warp.thread_steps) = (0, 0);
        }
    }
}

/// Registers of a thread at the start: what `.maxnreg` says, or as many as a block of this size can have, by 8.
fn registers(kernel: &Kernel, launch: &Launch) -> u32 {
    let share = || (REGISTERS / launch.threads().max(1)).min(MOST_REGISTERS) / 8 * 8;
    kernel.max_registers.map_or_else(share, |n| n.next_multiple_of(8))
}

/// Runs until every thread has ended.
fn schedule(
    warps: &mut [Warp],
    world: &mut World<'_>,
    limits: Limits,
    tracer: Option<&Tracer<'_>>,
    at: &mut At,
) -> Outcome<()> {
    loop {
        let (mut alive, mut went_on, mut waits) = (false, false, false);
        for (i, warp) in warps.iter_mut().enumerate() {
            if warp.groups.is_empty() {
                continue;
            }
            at.warp = i;
            alive = true;
            let before = warp.steps;
            advance(warp, world, tracer, at)?;
            went_on |= warp.steps != before;
            waits |= warp.steps - before < TURN;
            if warp.steps > limits.instructions {
                let what = format!("{} instructions and no end: an endless loop", warp.steps);
                return trap(FaultKind::Runaway, what);
            }
        }
        if !alive {
            finish_copies(world, at)?;
            return given_back(world, at);
        }
        if went_on && waits {
            continue;
        }
        // Everybody waits, or goes round in a loop: time for a copy to happen.
        match world.queue.pop() {
            Some(copy) => {
                happen(copy, world, at)?;
            }
            None if went_on => {}
            None => return deadlock(warps, world, at),
        }
    }
}

/// A copy moves its bytes.
fn happen(copy: Issued, world: &mut World<'_>, at: &mut At) -> Outcome<()> {
    at.warp = copy.by.0;
    let mut place = Place { blocks: world.blocks, global: world.global, clocks: world.clocks };
    (copy.work)(&mut place).map_err(|mut trap| {
        trap.line.get_or_insert(copy.line);
        trap
    })
}

/// Copies that nobody has waited for still happen.
fn finish_copies(world: &mut World<'_>, at: &mut At) -> Outcome<()> {
    while let Some(copy) = world.queue.pop() {
        happen(copy, world, at)?;
    }
    Ok(())
}

/// Blocks have ended: each must have given back its tensor memory.
fn given_back(world: &World<'_>, at: &mut At) -> Outcome<()> {
    for block in world.blocks.iter() {
        if let Some(a) = block.tensor.allocations().first() {
            (at.warp, at.inst) = (a.warp, None);
            return a.left_behind();
        }
    }
    Ok(())
}

/// Ends a wait that is over; those who waited at a barrier learn what the others did.
fn end_wait(warp: &mut Warp, group: usize, world: &mut World<'_>) {
    let block = &world.blocks[warp.block];
    let (over, barrier) = match warp.groups[group].wait {
        None | Some(Wait::Together) => return,
        Some(Wait::Progress) => (true, None),
        Some(Wait::Phase { block, address, parity }) => {
            let of = world.blocks[block].mbarriers.get(&address);
            (of.is_none_or(|m| (m.phase & 1 == 1) != parity), None)
        }
        Some(Wait::Warpgroup { groups }) => (block.warpgroups.have(warp.index, groups), None),
        Some(Wait::Registers { wanted }) => (block.free_registers >= wanted, None),
        Some(Wait::Columns(count)) => (block.tensor.fits(count).is_some(), None),
        Some(Wait::Barrier { id, completed }) => {
            let barrier = &block.barriers[id];
            (barrier.completed > completed, Some(barrier))
        }
        Some(Wait::Cluster { completed }) => (world.barrier.completed > completed, Some(&world.barrier)),
    };
    if !over {
        return;
    }
    let group = &mut warp.groups[group];
    group.wait = None;
    if let Some(barrier) = barrier {
        world.clocks.acquire(warp.actor, &barrier.given);
        group.at += 1;
    }
}

/// The group to run: of those that do not wait the one furthest behind, threads at one place being one group.
fn choose(warp: &mut Warp, world: &mut World<'_>) -> Option<usize> {
    for i in 0..warp.groups.len() {
        end_wait(warp, i, world);
    }
    let groups = &mut warp.groups;
    let mut i = 0;
    while i < groups.len() {
        let meets = |a: &Group, b: &Group| {
            let may = |g: &Group| matches!(g.wait, None | Some(Wait::Together));
            a.at == b.at && may(a) && may(b)
        };
        let mut j = i + 1;
        while j < groups.len() {
            if meets(&groups[i], &groups[j]) {
                groups[i].mask |= groups[j].mask;
                groups[i].wait = None;
                groups.swap_remove(j);
            } else {
                j += 1;
            }
        }
        i += 1;
    }
    let ready = groups.iter().enumerate().filter(|(_, g)| g.wait.is_none());
    ready.min_by_key(|(_, g)| g.at).map(|(i, _)| i)
}

/// Runs a warp until all its threads wait or have ended, or its turn is over.
fn advance(warp: &mut Warp, world: &mut World<'_>, tracer: Option<&Tracer<'_>>, at: &mut At) -> Outcome<()> {
    let end = warp.steps + TURN;
    while let Some(chosen) = choose(warp, world) {
        let mut group = warp.groups.swap_remove(chosen);
        // Where the others are decides how far this group goes by itself.
        let meeting = warp.groups.iter().filter(|g| g.wait.is_none() || g.wait == Some(Wait::Together));
        let meeting: Vec<usize> = meeting.map(|g| g.at).collect();
        loop {
            at.inst = Some(group.at);
            let inst = &world.kernel.code[group.at];
            let mut mask = group.mask;
            if let Some((slot, negated)) = inst.guard {
                let p = warp.preds[slot.0 as usize];
                mask &= if negated { !p } else { p };
            }
            if inst.together != Together::Alone {
                match meet(warp, &group, mask, inst)? {
                    Meeting::Wait => {
                        group.wait = Some(Wait::Together);
                        warp.groups.push(group);
                        break;
                    }
                    Meeting::Go => {}
                }
            }
            if mask == 0 {
                group.at += 1;
            } else {
                if let Some(checks) = &inst.checks {
                    crate::checks::before(warp, world.kernel, checks, mask)?;
                }
                warp.steps += 1;
                warp.thread_steps += u64::from(mask.count_ones());
                let next = (inst.run)(&mut Step { warp, mask, world, line: inst.line })?;
                if let Some(checks) = &inst.checks {
                    crate::checks::after(warp, checks, mask);
                }
                if let Some(tracer) = tracer {
                    tracer.step(world, warp, inst, group.at, mask);
                }
                match next {
                    Next::On => group.at += 1,
                    Next::Jump { mask: m, to } if m == group.mask => group.at = to,
                    other => {
                        part(warp, world, group, mask, other);
                        break;
                    }
                }
            }
            if warp.steps >= end || meeting.iter().any(|&m| m <= group.at) {
                warp.groups.push(group);
                break;
            }
        }
        if warp.steps >= end {
            break;
        }
    }
    Ok(())
}
