//! Control flow of a kernel: where values are live, and which reads are certain to come after a write.

use crate::ptx::{Kernel, Operand, Reg};

/// Registers of an instruction.
#[derive(Clone, Debug, Default)]
pub struct Use {
    /// Read.
    pub reads: Vec<Reg>,
    /// Written.
    pub writes: Vec<Reg>,
    /// Read as its guard.
    pub guard: Option<Reg>,
}

/// A set of registers.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Set(Vec<u64>);

impl Set {
    fn new(len: usize, full: bool) -> Set {
        Set(vec![if full { !0 } else { 0 }; len.div_ceil(64)])
    }

    fn has(&self, r: Reg) -> bool {
        self.0[r.0 as usize / 64] >> (r.0 % 64) & 1 == 1
    }

    fn add(&mut self, r: Reg) {
        self.0[r.0 as usize / 64] |= 1 << (r.0 % 64);
    }

    fn remove(&mut self, r: Reg) {
        self.0[r.0 as usize / 64] &= !(1 << (r.0 % 64));
    }

    fn union(&mut self, other: &Set) {
        self.0.iter_mut().zip(&other.0).for_each(|(a, b)| *a |= b);
    }

    fn intersect(&mut self, other: &Set) {
        self.0.iter_mut().zip(&other.0).for_each(|(a, b)| *a &= b);
    }

    fn members(&self) -> impl Iterator<Item = Reg> + '_ {
        let words = self.0.iter().enumerate();
        words
            .flat_map(|(i, &w)| (0..64).filter(move |b| w >> b & 1 == 1).map(move |b| Reg(64 * i as u32 + b)))
    }
}

/// Instructions without a jump in or out between them.
struct Run {
    from: usize,
    to: usize,
    next: Vec<usize>,
}

/// What is known of a kernel's values.
pub struct Flow {
    runs: Vec<Run>,
    /// First and last instruction at which a register's value is wanted or made; `None` of one that is never used.
    pub intervals: Vec<Option<(usize, usize)>>,
}

impl Flow {
    /// Finds out.
    pub fn of(kernel: &Kernel, uses: &[Use]) -> Flow {
        let runs = runs(kernel);
        let n = kernel.registers.len();
        // Backwards: live before = read first, or live after and not written.
        let mut live_in = vec![Set::new(n, false); runs.len()];
        let mut live_out = live_in.clone();
        let mut changed = true;
        while changed {
            changed = false;
            for i in (0..runs.len()).rev() {
                let mut live = Set::new(n, false);
                runs[i].next.iter().for_each(|&s| live.union(&live_in[s]));
                live_out[i] = live.clone();
                for used in uses[runs[i].from..runs[i].to].iter().rev() {
                    // What is written under a condition keeps its old value otherwise.
                    if used.guard.is_none() {
                        used.writes.iter().for_each(|&r| live.remove(r));
                    }
                    used.reads.iter().chain(&used.guard).for_each(|&r| live.add(r));
                }
                if live != live_in[i] {
                    live_in[i] = live;
                    changed = true;
                }
            }
        }
        let mut intervals: Vec<Option<(usize, usize)>> = vec![None; n];
        let mut widen = |r: Reg, at: usize| {
            let slot = &mut intervals[r.0 as usize];
            *slot = Some(slot.map_or((at, at), |(a, b)| (a.min(at), b.max(at))));
        };
        for (run, (live_in, live_out)) in runs.iter().zip(live_in.iter().zip(&live_out)) {
            live_in.members().for_each(|r| widen(r, run.from));
            live_out.members().for_each(|r| widen(r, run.to));
            for at in run.from..run.to {
                uses[at]
                    .reads
                    .iter()
                    .chain(&uses[at].writes)
                    .chain(&uses[at].guard)
                    .for_each(|&r| widen(r, at));
            }
        }
        Flow { runs, intervals }
    }

    /// Of each instruction, the registers that it reads and that may not have been written before.
    pub fn uncertain_reads(&self, kernel: &Kernel, uses: &[Use]) -> Vec<Vec<Reg>> {
        let n = kernel.registers.len();
        let runs = &self.runs;
        let mut before: Vec<Set> = (0..runs.len()).map(|i| Set::new(n, i > 0)).collect();
        let mut changed = true;
        while changed {
            changed = false;
            for (i, run) in runs.iter().enumerate() {
                let mut set = before[i].clone();
                for used in &uses[run.from..run.to] {
                    if used.guard.is_none() {
                        used.writes.iter().for_each(|&r| set.add(r));
                    }
                }
                for &next in &run.next {
                    let old = before[next].clone();
                    before[next].intersect(&set);
                    changed |= before[next] != old;
                }
            }
        }
        let mut out = vec![Vec::new(); uses.len()];
        for (run, before) in runs.iter().zip(before) {
            let mut set = before;
            for at in run.from..run.to {
                let used = &uses[at];
                out[at] = used.reads.iter().chain(&used.guard).copied().filter(|&r| !set.has(r)).collect();
                if used.guard.is_none() {
                    used.writes.iter().for_each(|&r| set.add(r));
                }
            }
        }
        out
    }
}

/// Where an instruction may go, other than to the next one; and whether it may go there.
fn aims(kernel: &Kernel, at: usize) -> (Vec<usize>, bool) {
    let statement = &kernel.body[at];
    let guarded = statement.guard.is_some();
    let aim = |o: &Operand| match o {
        Operand::Label(l) => Some(*l),
        _ => None,
    };
    match statement.opcode[0].as_str() {
        "bra" => {
            let to = statement.operands.iter().filter_map(aim).map(|l| kernel.labels[l].at);
            (to.collect(), guarded)
        }
        "brx" => {
            let lists = statement.operands.iter().filter_map(aim);
            let to = lists.flat_map(|l| kernel.labels[l].targets.iter().map(|&t| kernel.labels[t].at));
            (to.collect(), guarded)
        }
        "ret" | "exit" | "trap" => (vec![], guarded),
        _ => (vec![], true),
    }
}

fn runs(kernel: &Kernel) -> Vec<Run> {
    let n = kernel.body.len();
    let mut starts = vec![false; n + 1];
    starts[0] = true;
    for at in 0..n {
        let (to, on) = aims(kernel, at);
        if !to.is_empty() || !on {
            starts[at + 1] = true;
        }
        to.into_iter().filter(|&t| t <= n).for_each(|t| starts[t] = true);
    }
    let begins: Vec<usize> = (0..n).filter(|&i| starts[i]).collect();
    let run_of = |at: usize| begins.binary_search(&at).ok();
    let ends = begins.iter().skip(1).copied().chain([n]);
    let make = |(&from, to): (&usize, usize)| {
        let (aims, on) = if to > from { aims(kernel, to - 1) } else { (vec![], true) };
        let next = aims.into_iter().chain(on.then_some(to)).filter_map(run_of).collect();
        Run { from, to, next }
    };
    begins.iter().zip(ends).map(make).collect()
}
