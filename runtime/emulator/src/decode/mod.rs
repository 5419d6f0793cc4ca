//! Statements to code: each instruction once, with its operands' places fixed, as a function to be called.
//!
//! A kernel is decoded twice: the first time to learn which registers each instruction reads and writes, from which
//! `flow` derives where values are live and which reads are certain to come after a write; then, with the places that
//! `slots` has given out, for good.

mod decoder;
mod flow;
mod slots;
mod ty;

pub use decoder::{Address, Decoder};
pub use ty::Ty;

use crate::fault::Outcome;
use crate::inst;
use crate::memory::address::SHARED_START;
use crate::ptx::{self, Class, Malformed, Reg, Space};
use crate::warp::{Slot, Source, Wait};
use crate::world::Step;

/// Where execution goes after an instruction.
#[derive(Debug)]
pub enum Next {
    /// To the next one.
    On,
    /// The threads of a mask go elsewhere, the others to the next one.
    Jump {
        /// Threads.
        mask: u32,
        /// Where to.
        to: usize,
    },
    /// Threads of each mask go to its own place.
    Scatter(Vec<(usize, u32)>),
    /// These threads end.
    Exit(u32),
    /// These threads wait, and then execute the instruction again.
    Retry(u32, Wait),
    /// The threads wait, and then go to the next one.
    Wait(Wait),
}

/// An instruction's work.
pub type Run = Box<dyn Fn(&mut Step<'_, '_>) -> Outcome<Next> + Send + Sync>;

/// Which threads execute an instruction together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Together {
    /// Any.
    Alone,
    /// All of the warp that have not ended (`.aligned`).
    Warp,
    /// Those of a mask.
    Mask(Source),
}

/// What is to be looked at besides, of few instructions.
#[derive(Debug, Default)]
pub struct Checks {
    /// Registers that may not have been written: their index among those, and their number.
    pub reads: Vec<(u32, Reg)>,
    /// A predicate, and whether it is negated, without which those that are written too are not read.
    pub reads_if: Option<(Source, bool)>,
    /// Such registers that are written.
    pub writes: Vec<u32>,
    /// Registers of matrix instructions that are read or written, by index among those.
    pub in_flight: Vec<u32>,
    /// Such registers that are written.
    pub unfenced: Vec<u32>,
}

/// An instruction.
pub struct Inst {
    /// Its work.
    pub run: Run,
    /// Predicate that decides, and whether it must be false.
    pub guard: Option<(Slot, bool)>,
    /// Line of the PTX.
    pub line: u32,
    /// Who must be there.
    pub together: Together,
    /// What else is to be looked at.
    pub checks: Option<Box<Checks>>,
}

/// A chip as `.target` names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chip {
    /// `90` of `sm_90a`.
    pub sm: u32,
    /// True if it ends in `a` or `f`: instructions of this chip, or its family, alone.
    pub special: bool,
}

impl Chip {
    /// Reads `sm_90a`.
    pub fn named(name: &str) -> Option<Chip> {
        let number = name.strip_prefix("sm_")?;
        let digits = number.trim_end_matches(['a', 'f']);
        Some(Chip { sm: digits.parse().ok()?, special: digits != number })
    }

    /// Most bytes of shared memory of a block.
    pub fn most_shared(self) -> u64 {
        1024 * match self.sm {
            80 | 87 => 163,
            86 | 89 | 120.. => 99,
            90..=119 => 227,
            _ => 48,
        }
    }
}

/// A kernel ready to be executed.
pub struct Kernel {
    /// Entry point.
    pub name: String,
    /// The chip that its text is for.
    pub chip: Chip,
    /// Lines of the text, for faults and traces.
    pub lines: Vec<String>,
    /// Instructions.
    pub code: Vec<Inst>,
    /// Rows that a warp's registers need.
    pub rows: usize,
    /// Predicates that they need.
    pub preds: usize,
    /// Registers that are looked at before they are read.
    pub tracked: usize,
    /// Registers of matrix instructions.
    pub matrix: usize,
    /// What each instruction writes, for traces.
    pub written: Vec<Vec<(Reg, Slot, Class)>>,
    /// Names of registers, by number.
    pub registers: Vec<String>,
    /// Offset, bytes and alignment of each parameter.
    pub params: Vec<(u64, u64, u64)>,
    /// Bytes of shared memory that the kernel declares.
    pub shared: u64,
    /// log2 of the bytes of its narrowest access to shared memory.
    pub granule: u32,
    /// Bytes of memory of a thread.
    pub local: u64,
    /// `.reqntid`.
    pub block: Option<[u32; 3]>,
    /// `.maxntid`.
    pub max_threads: Option<u32>,
    /// `.reqnctapercluster`.
    pub cluster: Option<[u32; 3]>,
    /// Registers of a thread at the start.
    pub max_registers: Option<u32>,
}

/// Reads and decodes all kernels of a text.
///
/// # Errors
/// The first line that is not PTX, or whose instruction is not known.
pub fn load(text: &str) -> Result<Vec<Kernel>, Malformed> {
    let module = ptx::parse(text)?;
    let chip = Chip::named(&module.target)
        .ok_or_else(|| Malformed { line: 1, what: format!("target {} is not known", module.target) })?;
    let lines: Vec<String> = text.lines().map(str::to_owned).collect();
    module.kernels.iter().map(|k| kernel(k, chip, &lines)).collect()
}

/// Addresses of variables in their spaces, and what they take.
struct Layout {
    addresses: Vec<u64>,
    params: Vec<(u64, u64, u64)>,
    shared: u64,
    local: u64,
}

fn layout(kernel: &ptx::Kernel) -> Result<Layout, Malformed> {
    let (mut param, mut shared, mut local) = (0u64, 0u64, 0u64);
    let mut addresses = vec![0; kernel.variables.len()];
    let mut params = Vec::new();
    let fixed = |v: &ptx::Variable| v.bytes.is_some();
    // Memory whose size the launch says comes last.
    let order = (0..addresses.len()).filter(|&i| fixed(&kernel.variables[i]));
    for i in order.chain((0..addresses.len()).filter(|&i| !fixed(&kernel.variables[i]))) {
        let v = &kernel.variables[i];
        let end = match v.space {
            Space::Param => &mut param,
            Space::Shared => &mut shared,
            Space::Local => &mut local,
            Space::Global | Space::Const => {
                let what =
                    format!("variable {}: variables in global and constant memory are not known", v.name);
                return Err(Malformed { line: 1, what });
            }
        };
        let at = end.next_multiple_of(v.align);
        let bytes = v.bytes.unwrap_or(0);
        if v.bytes.is_some() {
            *end = at.saturating_add(bytes);
        } else {
            *end = at;
        }
        if *end > 1 << 24 {
            return Err(Malformed { line: 1, what: format!("variable {} of {bytes} bytes", v.name) });
        }
        addresses[i] = at + if v.space == Space::Shared { SHARED_START } else { 0 };
        if i < kernel.params {
            params.push((at, bytes, v.align));
        }
    }
    Ok(Layout { addresses, params, shared, local })
}

fn kernel(source: &ptx::Kernel, chip: Chip, lines: &[String]) -> Result<Kernel, Malformed> {
    let layout = layout(source)?;
    // What each instruction reads and writes.
    let nowhere = vec![Slot(0); source.registers.len()];
    let no_index = vec![None; source.registers.len()];
    let mut uses = Vec::with_capacity(source.body.len());
    let (mut granule, mut matrix) = (16, Vec::new());
    for statement in &source.body {
        let mut d = Decoder::new(source, chip, statement, &layout.addresses, &nowhere, &no_index);
        let _first = inst::decode(&mut d)?;
        granule = granule.min(d.narrowest);
        matrix.append(&mut d.matrix);
        uses.push(flow::Use { reads: d.reads, writes: d.writes, guard: statement.guard.map(|g| g.0) });
    }
    matrix.sort_unstable();
    matrix.dedup();
    let flow = flow::Flow::of(source, &uses);
    let places = slots::give(source, &flow);
    let uncertain = flow.uncertain_reads(source, &uses);
    let index_of = |list: &[Reg]| {
        let mut index = vec![None; source.registers.len()];
        for (i, r) in list.iter().enumerate() {
            index[r.0 as usize] = Some(i as u32);
        }
        index
    };
    let mut tracked: Vec<Reg> = uncertain.iter().flatten().copied().collect();
    tracked.sort_unstable();
    tracked.dedup();
    let (tracked_index, matrix_index) = (index_of(&tracked), index_of(&matrix));

    let mut code = Vec::with_capacity(source.body.len() + 1);
    for ((statement, used), uncertain) in source.body.iter().zip(&uses).zip(&uncertain) {
        let mut d = Decoder::new(source, chip, statement, &layout.addresses, &places.slots, &matrix_index);
        let run = inst::decode(&mut d)?;
        let indexed = |list: &[Reg], index: &[Option<u32>]| {
            list.iter().filter_map(|r| index[r.0 as usize]).collect::<Vec<u32>>()
        };
        let mut checks = Checks {
            reads: uncertain.iter().filter_map(|r| Some((tracked_index[r.0 as usize]?, *r))).collect(),
            writes: indexed(&used.writes, &tracked_index),
            reads_if: d.reads_if,
            ..Checks::default()
        };
        if d.matrix.is_empty() {
            checks.unfenced = indexed(&used.writes, &matrix_index);
            checks.in_flight = indexed(&used.reads, &matrix_index);
            checks.in_flight.extend(&checks.unfenced);
        }
        let any = [checks.writes.len(), checks.reads.len(), checks.in_flight.len()].iter().any(|&n| n > 0);
        code.push(Inst {
            run,
            guard: statement.guard.map(|(r, negated)| (places.slots[r.0 as usize], negated)),
            line: statement.line,
            together: d.together,
            checks: any.then(|| Box::new(checks)),
        });
    }
    let of = |r: &Reg| (*r, places.slots[r.0 as usize], source.registers[r.0 as usize].class);
    let mut written: Vec<Vec<_>> = uses.iter().map(|u| u.writes.iter().map(of).collect()).collect();
    written.push(Vec::new());
    // Who runs off the end ends.
    let line = source.body.last().map_or(0, |s| s.line);
    let run: Run = Box::new(|s| Ok(Next::Exit(s.mask)));
    code.push(Inst { run, guard: None, line, together: Together::Alone, checks: None });
    Ok(Kernel {
        name: source.name.clone(),
        chip,
        lines: lines.to_vec(),
        code,
        rows: places.rows,
        preds: places.preds,
        tracked: tracked.len(),
        matrix: matrix.len(),
        written,
        registers: source.registers.iter().map(|r| r.name.clone()).collect(),
        params: layout.params,
        shared: layout.shared,
        granule: u32::trailing_zeros(granule),
        local: layout.local,
        block: source.block,
        max_threads: source.max_threads,
        cluster: source.cluster,
        max_registers: source.max_registers,
    })
}

/// Rows that a register of a class takes; 0 of a predicate.
fn rows_of(class: Class) -> u32 {
    match class {
        Class::Pred => 0,
        Class::Word16 | Class::Word32 => 1,
        Class::Word64 => 2,
        Class::Word128 => 4,
    }
}
