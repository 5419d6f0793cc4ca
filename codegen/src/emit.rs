//! The `codegen` phase: the selected kernels of a module as PTX, each once, several at a time.

use crate::builder::{Builder, Built};
use crate::kernels::{ArgKind, Extent, Launch, Map, Recipe, Scratch, Shared};
use crate::mlir::{Mlir, OptLevel, PtxTarget};
use crate::ptxas::{Assembled, Ptxas};
use crate::tuning::kernels::chosen;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use trtc_ir::ops::RmsNormWeight;
use trtc_ir::target::Gpu;
use trtc_ir::{Diag, Loc, Module, Op, OpData, Target, ValueId, WeightId};

/// How kernels are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EmitOptions {
    /// How hard LLVM tries.
    pub opt: OptLevel,
    /// Threads that compile; the result does not depend on it.
    pub threads: usize,
}

impl Default for EmitOptions {
    fn default() -> EmitOptions {
        EmitOptions {
            opt: OptLevel::Full,
            threads: std::thread::available_parallelism().map_or(1, |n| n.get()),
        }
    }
}

/// A compiled kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kernel {
    /// Name that [`trtc_ir::KernelChoice`] uses.
    pub name: String,
    /// Entry point.
    pub entry: String,
    /// MLIR of the llvm and nvvm dialects.
    pub mlir: String,
    /// PTX of one module with this entry.
    pub ptx: String,
    /// `.target` of the PTX.
    pub arch: &'static str,
    /// Blocks: x, y, z.
    pub grid: [Extent; 3],
    /// See [`Launch::shares`].
    pub shares: Option<Shared>,
    /// Threads of a block: x, y, z.
    pub block: [u32; 3],
    /// Dynamic shared memory, bytes.
    pub shared: u32,
    /// Arguments in order; the maps, those of the scratch memory and `tokens`, `rows`, `seqs`, i32, follow.
    pub args: Vec<ArgKind>,
    /// Tensor maps.
    pub maps: Vec<Map>,
    /// True if it waits by itself for the launches before it.
    pub dependent: bool,
    /// Memory besides the arguments.
    pub scratch: Option<Scratch>,
}

/// An argument of a launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arg {
    /// A value: a tensor in the arena, a step input, a cache or the batch, by its type.
    Value(ValueId),
    /// A weight.
    Weight(WeightId),
}

/// The arguments of the kernel of an op, host or GPU, in order: inputs, weights, results, as [`crate::kernels`] and the host
/// device's functions list them. A cache is updated in place, so its result is not an argument. Of a chain, those of its ops
/// one after the other, each once, without what is between them.
pub fn arguments(ops: &[&OpData]) -> Vec<Arg> {
    let mut args: Vec<Arg> = Vec::new();
    for (i, data) in ops.iter().enumerate() {
        let between = |arg: &Arg| match *arg {
            Arg::Weight(_) => false,
            Arg::Value(v) => {
                let made_before = ops[..i].iter().any(|d| d.results.contains(&v));
                let read_behind = ops[i + 1..].iter().any(|d| d.op.operands().contains(&v));
                made_before || read_behind && data.results.contains(&v)
            }
        };
        let of_before = args.len();
        for arg in arguments_of(&data.op, &data.results) {
            if !between(&arg) && !args[..of_before].contains(&arg) {
                args.push(arg);
            }
        }
    }
    args
}

/// The arguments of an op by itself.
fn arguments_of(op: &Op, results: &[ValueId]) -> Vec<Arg> {
    use Arg::{Value, Weight};
    let weight_of = |norm: &RmsNormWeight| Weight(norm.weight);
    let (mut args, outputs): (Vec<Arg>, usize) = match op {
        Op::Embedding(op) => (vec![Value(op.tokens), Weight(op.table)], 1),
        Op::RmsNorm(op) => (vec![Value(op.x), weight_of(&op.norm)], 1),
        Op::AddRmsNorm(op) => (vec![Value(op.x), Value(op.residual), weight_of(&op.norm)], 2),
        Op::Linear(op) => {
            let optional = op.bias.map(Weight).into_iter().chain(op.residual.map(Value));
            (vec![Value(op.x), Weight(op.weight)].into_iter().chain(optional).collect(), 1)
        }
        Op::Slice(op) => (vec![Value(op.x)], 1),
        Op::Add(op) => (vec![Value(op.lhs), Value(op.rhs)], 1),
        Op::Rope(op) => (vec![Value(op.x), Value(op.pos), Weight(op.freqs)], 1),
        Op::KvAppend(op) => (vec![Value(op.k), Value(op.v), Value(op.batch), Value(op.kv)], 0),
        Op::RopeKvAppend(op) => {
            let mut args = vec![Value(op.qkv), Value(op.pos), Weight(op.freqs)];
            args.extend(op.q_norm.iter().chain(&op.k_norm).map(weight_of));
            args.extend([Value(op.batch), Value(op.kv)]);
            (args, 1)
        }
        Op::Attention(op) => (vec![Value(op.q), Value(op.batch), Value(op.kv)], 1),
        Op::GatedAct(op) => (vec![Value(op.gate), Value(op.up)], 1),
        Op::GatedActPacked(op) => (vec![Value(op.x)], 1),
        Op::GatedLinear(op) => {
            (vec![Value(op.x), Weight(op.weight)].into_iter().chain(op.bias.map(Weight)).collect(), 1)
        }
        Op::Feed(op) => (vec![Value(op.tokens), Value(op.last)], 1),
        Op::Sample(op) => (vec![Value(op.logits), Value(op.draws), Value(op.masks)], 2),
        Op::GatherRows(op) => (vec![Value(op.x), Value(op.rows)], 1),
        Op::Quantize(op) => (vec![Value(op.x)], 1),
    };
    args.extend(results.iter().take(outputs).copied().map(Value));
    args
}

/// Compiles every kernel that `select` chose for a GPU target, sorted by name; none for the host.
pub fn emit(module: &Module, target: &Target, options: EmitOptions) -> Result<Vec<Kernel>, Diag> {
    let Some(gpu) = &target.gpu else {
        return Ok(Vec::new());
    };
    let wanted: Vec<(String, Recipe)> = wanted(module, target)?.into_iter().collect();
    let make = |mlir: &Mlir, (name, recipe): &(String, Recipe)| compile(mlir, name, recipe, gpu, options.opt);
    each(&wanted, options.threads, Mlir::new, make).into_iter().collect()
}

/// Assembles every kernel for the chip that its PTX names, several at a time, in the kernels' order; `folder` as in
/// [`Ptxas::assemble`].
pub fn assemble(
    kernels: &[Kernel],
    ptxas: &Ptxas,
    threads: usize,
    folder: &Path,
) -> Result<Vec<Assembled>, Diag> {
    let make = |(): &(), k: &Kernel| ptxas.assemble(&k.entry, &k.ptx, k.arch, folder);
    each(kernels, threads, || (), make).into_iter().collect()
}

/// Makes something of every item on several threads, each with a state of its own; in the items' order.
fn each<T: Sync, S, R: Send>(
    items: &[T],
    threads: usize,
    state: impl Fn() -> S + Sync,
    make: impl Fn(&S, &T) -> Result<R, Diag> + Sync,
) -> Vec<Result<R, Diag>> {
    let results: Vec<Mutex<Option<Result<R, Diag>>>> = items.iter().map(|_| Mutex::new(None)).collect();
    let next = AtomicUsize::new(0);
    let work = || {
        let state = state();
        while let Some((i, item)) = {
            let i = next.fetch_add(1, Ordering::Relaxed);
            items.get(i).map(|item| (i, item))
        } {
            let made = make(&state, item);
            if let Ok(mut slot) = results[i].lock() {
                *slot = Some(made);
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..threads.clamp(1, items.len().max(1)) {
            scope.spawn(work);
        }
        work();
    });
    let lost = || Err(Diag::bug(&Loc::Unknown, "a thread that makes kernels has failed"));
    results.into_iter().map(|slot| slot.into_inner().ok().flatten().unwrap_or_else(lost)).collect()
}

/// The chosen kernels by name. One name stands for one recipe and, as an entry point, for nothing else.
fn wanted(module: &Module, target: &Target) -> Result<BTreeMap<String, Recipe>, Diag> {
    let wanted = chosen(module, target)?;
    let mut entries: BTreeMap<String, &str> = BTreeMap::new();
    for name in wanted.keys() {
        if entries.insert(entry_point(name), name).is_some() {
            return Err(Diag::bug(&Loc::name(name), format!("two kernels have the entry point of {name}")));
        }
    }
    Ok(wanted)
}

/// A kernel's name as a PTX identifier.
fn entry_point(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect()
}

/// Compiles one kernel for a chip.
pub fn compile(mlir: &Mlir, name: &str, recipe: &Recipe, gpu: &Gpu, opt: OptLevel) -> Result<Kernel, Diag> {
    let Launch { grid, block, args, maps, scratch, shares } = recipe.launch();
    let b = Builder::new(&entry_point(name), gpu, block);
    recipe.build(&b);
    let built = b.finish()?;
    let ptx = to_ptx(mlir, &built, opt)?;
    let Built { entry, mlir, arch, dynamic_shared, dependent, .. } = built;
    Ok(Kernel {
        name: name.to_owned(),
        entry,
        mlir,
        ptx,
        arch,
        grid,
        block,
        shared: dynamic_shared,
        args,
        maps,
        dependent,
        scratch,
        shares,
    })
}

/// PTX of a finished kernel; its header is what the target's row says.
pub fn to_ptx(mlir: &Mlir, built: &Built, opt: OptLevel) -> Result<String, Diag> {
    let target = PtxTarget { arch: built.arch, ptx: built.ptx };
    let ptx = mlir.to_ptx(&built.entry, &built.mlir, target, opt)?;
    let version = format!(".version {}.{}", built.ptx / 10, built.ptx % 10);
    for wanted in [version, format!(".target {}", built.arch)] {
        if !ptx.lines().any(|l| l.trim() == wanted) {
            let what = format!("kernel {}: its PTX does not say {wanted:?}", built.entry);
            return Err(Diag::bug(&Loc::name(&built.entry), what));
        }
    }
    Ok(ptx)
}
