//! Tensor memory of a block: 128 lanes of 512 columns of 32 bits, who has allocated which columns, and who used them.
//!
//! Who used them is kept for *units*: 16 lanes of a column, the finest part that a data path of the matrix instructions or
//! a load has for itself. Instructions are `inst::tcgen05`'s, and where operands lie `layout::tensor_memory`'s.

use crate::fault::{FaultKind, Outcome, Trap, trap};
use crate::layout::tensor_memory::{COLUMNS, Cell, LANES};
use crate::memory::Clocks;
use crate::memory::clocks::{Engine, Knowledge, Stamp};

/// Lanes of a unit.
const UNIT_LANES: u32 = 16;
/// Units.
const UNITS: usize = (LANES / UNIT_LANES * COLUMNS) as usize;
/// Columns that are allocated together, at least.
const STEP: u32 = 32;

/// Columns that are allocated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allocation {
    /// The first.
    pub first: u32,
    /// How many.
    pub columns: u32,
    /// The warp in the cluster that has allocated them.
    pub warp: usize,
    /// Line of the PTX.
    pub line: u32,
}

impl Allocation {
    /// The fault that it is at the end of a block.
    pub fn left_behind(&self) -> Outcome<()> {
        let what = format!(
            "the block ends, and {} columns of tensor memory from {} on were not deallocated",
            self.columns, self.first
        );
        Err(Box::new(Trap { kind: FaultKind::TensorMemory, what, lane: None, line: Some(self.line) }))
    }
}

/// What a warp has issued that has to do with tensor memory.
#[derive(Clone, Debug, Default)]
pub struct Issuer {
    agents: Option<[u16; Engine::ALL.len()]>,
    /// The last operation of the matrix engine that each thread has issued.
    issued: Vec<(usize, Stamp)>,
    /// The last load and the last store.
    last: [Option<Stamp>; 2],
    /// Those that were waited for.
    waited: [Option<Stamp>; 2],
    /// What the warp was ordered after at the last `tcgen05.fence::after_thread_sync`.
    view: Knowledge,
}

impl Issuer {
    /// The stamp of an operation that a warp now issues.
    pub fn issue(&mut self, clocks: &mut Clocks, warp: usize, engine: Engine) -> Stamp {
        let agents = self.agents.get_or_insert_with(|| Engine::ALL.map(|e| clocks.engine(warp, e)));
        let stamp = clocks.completing(agents[engine as usize]);
        match engine {
            Engine::Matrix | Engine::Order => {}
            Engine::Load => self.last[0] = Some(stamp),
            Engine::Store => self.last[1] = Some(stamp),
        }
        stamp
    }

    /// A thread has issued an operation of the matrix engine.
    pub fn issued_by(&mut self, lane: usize, stamp: Stamp) {
        match self.issued.iter_mut().find(|(l, _)| *l == lane) {
            Some(last) => last.1 = stamp,
            None => self.issued.push((lane, stamp)),
        }
    }

    /// The last such operation of a thread.
    pub fn last_of(&self, lane: usize) -> Option<Stamp> {
        self.issued.iter().find(|(l, _)| *l == lane).map(|(_, stamp)| *stamp)
    }

    /// The warp has waited for its loads, or its stores.
    pub fn wait(&mut self, stores: bool) {
        let which = usize::from(stores);
        self.waited[which] = self.last[which];
    }

    /// `tcgen05.fence::before_thread_sync`: others may be ordered after what the warp has waited for, and their matrix
    /// instructions follow those that it has issued.
    pub fn before_sync(&self, clocks: &mut Clocks, warp: usize) {
        let issued = self.issued.iter().map(|(_, stamp)| *stamp).max_by_key(|stamp| stamp.clock);
        let order = issued.and_then(|stamp| clocks.beside(stamp, Engine::Order));
        for stamp in self.waited.into_iter().flatten().chain(order) {
            clocks.waited(warp, stamp);
        }
    }

    /// `tcgen05.fence::after_thread_sync`: what the warp is ordered after now, its operations are too.
    pub fn after_sync(&mut self, clocks: &Clocks, warp: usize) {
        self.view = clocks.view(warp);
    }

    /// True if an earlier operation of the same warp is over, or comes first anyhow.
    fn own_is_over(&self, engine: Engine, before: Stamp, pipelined: bool, seen: bool) -> bool {
        let waited = |which: usize| self.waited[which].is_some_and(|w| w.clock >= before.clock);
        match engine {
            Engine::Matrix | Engine::Order => pipelined || seen,
            Engine::Load => waited(0),
            Engine::Store => waited(1),
        }
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Unit {
    write: Stamp,
    /// Of different agents, as in shared memory.
    reads: [Stamp; 2],
}

/// A set of units.
#[derive(Clone, Debug)]
pub struct Units {
    bits: [u64; UNITS / 64],
}

impl Default for Units {
    fn default() -> Units {
        Units { bits: [0; UNITS / 64] }
    }
}

impl Units {
    /// Adds the unit of a cell.
    pub fn add(&mut self, cell: Cell) {
        self.add_run(cell, 1);
    }

    /// Adds those of so many columns of a lane.
    pub fn add_run(&mut self, first: Cell, columns: usize) {
        let mut unit = (first.lane / UNIT_LANES * COLUMNS + first.column) as usize;
        let end = unit + columns;
        while unit < end {
            let (word, bit) = (unit / 64, unit % 64);
            let count = (64 - bit).min(end - unit);
            self.bits[word] |= (u64::MAX >> (64 - count)) << bit;
            unit += count;
        }
    }

    fn iter(&self) -> impl Iterator<Item = usize> {
        let some = self.bits.iter().enumerate().filter(|(_, word)| **word != 0);
        some.flat_map(|(i, word)| (0..64).filter(move |b| word >> b & 1 == 1).map(move |b| 64 * i + b))
    }
}

/// Who accesses tensor memory.
#[derive(Clone, Copy, Debug)]
pub struct Access {
    /// Warp in the cluster.
    pub warp: usize,
    /// What the access leaves behind.
    pub stamp: Stamp,
    /// What does it.
    pub engine: Engine,
}

/// Tensor memory.
#[derive(Debug, Default)]
pub struct TensorMemory {
    /// `(lane, column)`; empty until it is used.
    words: Vec<u32>,
    /// Words that were written.
    known: Vec<bool>,
    units: Vec<Unit>,
    allocated: Vec<Allocation>,
    /// True once the block has given up the right to allocate.
    pub relinquished: bool,
}

fn index(cell: Cell) -> usize {
    (cell.lane * COLUMNS + cell.column) as usize
}

impl TensorMemory {
    /// Columns that are allocated, in the order in which they were.
    pub fn allocations(&self) -> &[Allocation] {
        &self.allocated
    }

    /// Where so many columns are free.
    pub fn fits(&self, columns: u32) -> Option<u32> {
        let free = |first: u32| {
            let apart = |a: &Allocation| a.first >= first + columns || first >= a.first + a.columns;
            self.allocated.iter().all(apart)
        };
        (0..=COLUMNS.checked_sub(columns)?).step_by(STEP as usize).find(|&first| free(first))
    }

    /// Allocates columns that are free.
    pub fn allocate(&mut self, a: Allocation) {
        if self.words.is_empty() {
            self.words.resize((LANES * COLUMNS) as usize, 0);
            self.known.resize((LANES * COLUMNS) as usize, false);
            self.units.resize(UNITS, Unit::default());
        }
        self.allocated.push(a);
    }

    /// Gives columns back, which no operation of a matrix engine may still be using.
    pub fn deallocate(&mut self, clocks: &Clocks, warp: usize, first: u32, columns: u32) -> Outcome<()> {
        let Some(at) = self.allocated.iter().position(|a| (a.first, a.columns) == (first, columns)) else {
            let what = format!(
                "tcgen05.dealloc of {columns} columns from {first} on; allocated are {}",
                self.list()
            );
            return trap(FaultKind::TensorMemory, what);
        };
        for column in first..first + columns {
            for part in 0..LANES / UNIT_LANES {
                let unit = &mut self.units[(part * COLUMNS + column) as usize];
                for stamp in [unit.write, unit.reads[0], unit.reads[1]] {
                    let matrix = clocks.engine_of(stamp).is_some_and(|(_, e)| e == Engine::Matrix);
                    if clocks.current(stamp) && matrix && !clocks.ordered(warp, 0, stamp) {
                        let what = format!(
                            "tcgen05.dealloc of column {column} of tensor memory, which a tcgen05 operation that was \
                             not waited for uses"
                        );
                        return trap(FaultKind::Race, what);
                    }
                }
                *unit = Unit::default();
                for lane in part * UNIT_LANES..(part + 1) * UNIT_LANES {
                    self.known[index(Cell { lane, column })] = false;
                }
            }
        }
        self.allocated.remove(at);
        Ok(())
    }

    fn list(&self) -> String {
        if self.allocated.is_empty() {
            return "none".to_owned();
        }
        let of = |a: &Allocation| format!("{} to {}", a.first, a.first + a.columns - 1);
        self.allocated.iter().map(of).collect::<Vec<_>>().join(", ")
    }

    /// Refuses columns that are not allocated.
    pub fn check(&self, first: u32, end: u32, what: &str) -> Outcome<()> {
        let mut at = first;
        while at < end {
            match self.allocated.iter().find(|a| (a.first..a.first + a.columns).contains(&at)) {
                Some(a) => at = a.first + a.columns,
                None => {
                    let what = format!(
                        "{what} is in columns {first} to {} of tensor memory, of which {at} is not allocated; allocated \
                         are {}",
                        end - 1,
                        self.list()
                    );
                    return trap(FaultKind::TensorMemory, what);
                }
            }
        }
        Ok(())
    }

    /// Notes that units are read, or written, and checks that they may be.
    pub fn note(
        &mut self,
        clocks: &Clocks,
        issuer: &Issuer,
        access: Access,
        units: &Units,
        writes: bool,
    ) -> Outcome<()> {
        // What one unit was found to be ordered after, the next mostly is too.
        let mut passed = Stamp::default();
        for u in units.iter() {
            let unit = self.units[u];
            let reads = if writes { unit.reads } else { [Stamp::default(); 2] };
            for before in [unit.write, reads[0], reads[1]] {
                if before != passed && clocks.current(before) {
                    ordered(clocks, issuer, access, before, u, before == unit.write)?;
                    passed = before;
                }
            }
            let unit = &mut self.units[u];
            if writes {
                *unit = Unit { write: access.stamp, reads: [Stamp::default(); 2] };
            } else {
                if unit.reads[0].agent != access.stamp.agent {
                    unit.reads[1] = unit.reads[0];
                }
                unit.reads[0] = access.stamp;
            }
        }
        Ok(())
    }

    /// A word that was written.
    pub fn get(&self, cell: Cell, what: &str) -> Outcome<u32> {
        let mut word = [0];
        self.get_run(cell, &mut word, what)?;
        Ok(word[0])
    }

    /// Words of a lane that were written, beside each other.
    pub fn get_run(&self, first: Cell, out: &mut [u32], what: &str) -> Outcome<()> {
        let range = index(first)..index(first) + out.len();
        let known = self.known.get(range.clone()).unwrap_or(&[]);
        if known.len() != out.len() || known.contains(&false) {
            let lane = first.lane;
            let column = first.column as usize + known.iter().position(|k| !k).unwrap_or(0);
            let what = format!(
                "{what} reads lane {lane}, column {column} of tensor memory, which nobody has written"
            );
            return trap(FaultKind::UninitialisedMemory, what);
        }
        out.copy_from_slice(&self.words[range]);
        Ok(())
    }

    /// Writes a word.
    pub fn put(&mut self, cell: Cell, value: u32) {
        self.put_run(cell, &[value]);
    }

    /// Writes words of a lane, beside each other.
    pub fn put_run(&mut self, first: Cell, values: &[u32]) {
        let range = index(first)..index(first) + values.len();
        if let (Some(words), Some(known)) = (self.words.get_mut(range.clone()), self.known.get_mut(range)) {
            words.copy_from_slice(values);
            known.fill(true);
        }
    }
}

/// Checks that an access to a unit is ordered after an earlier one.
fn ordered(
    clocks: &Clocks,
    issuer: &Issuer,
    access: Access,
    before: Stamp,
    unit: usize,
    wrote: bool,
) -> Outcome<()> {
    let Some((warp, engine)) = clocks.engine_of(before) else {
        return Ok(());
    };
    let seen = clocks.ordered(access.warp, 0, before);
    let own = warp == access.warp;
    let over = if own {
        issuer.own_is_over(engine, before, access.engine == Engine::Matrix, seen)
    } else {
        let follows = || {
            let pipelined = access.engine == Engine::Matrix && engine == Engine::Matrix;
            pipelined && clocks.beside(before, Engine::Order).is_some_and(|s| clocks.covers(&issuer.view, s))
        };
        seen && clocks.covers(&issuer.view, before) || follows()
    };
    if over {
        return Ok(());
    }
    let missing = match engine {
        _ if seen && !own => "tcgen05.fence::after_thread_sync after the barrier",
        Engine::Matrix | Engine::Order => "tcgen05.commit and a wait for its mbarrier",
        Engine::Load if own => "tcgen05.wait::ld",
        Engine::Store if own => "tcgen05.wait::st",
        Engine::Load => "tcgen05.wait::ld, tcgen05.fence::before_thread_sync and a barrier",
        Engine::Store => "tcgen05.wait::st, tcgen05.fence::before_thread_sync and a barrier",
    };
    let (column, lane) = (unit as u32 % COLUMNS, unit as u32 / COLUMNS * UNIT_LANES);
    let did = if wrote { "written" } else { "read" };
    let (_, by) = clocks.describe(before);
    let what = format!(
        "an access to column {column}, lanes {lane} to {} of tensor memory, which was {did} by {by} warp {warp}; between \
         the two is missing: {missing}",
        lane + UNIT_LANES - 1
    );
    trap(FaultKind::Race, what)
}
