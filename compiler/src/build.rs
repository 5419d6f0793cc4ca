//! A build from checkpoint to engine file: runs the phases in order, stops where it is told to.

use crate::dump::Dump;
use crate::frontend::{self, Checkpoint, ImportOptions};
use crate::options::{BuildOptions, Resolved};
use crate::phase::Phase;
use crate::{engine, gpu, pipeline, plan};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;
use trtc_codegen::tuning::{self, Variant};
use trtc_ir::text::PrintOptions;
use trtc_ir::{DType, Diag, KernelChoice, Loc, Module, Steps, Target, text};
use trtc_passes::{KvOptions, Options, PassCx, run_passes};

/// How far a build is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Progress {
    /// What is running.
    pub phase: Phase,
    /// Bytes written, in [`Phase::Pack`]; 0 elsewhere.
    pub done: u64,
    /// Bytes to write, in [`Phase::Pack`]; 0 elsewhere.
    pub total: u64,
}

/// What a build made.
#[derive(Clone, Debug, PartialEq)]
pub struct BuildReport {
    /// Last phase that ran.
    pub phase: Phase,
    /// Bytes of the output file.
    pub bytes: u64,
    /// Parameters of the model.
    pub parameters: u64,
    /// Launches of a step that decodes one token; 0 if the build stopped before.
    pub launches: usize,
    /// Bytes of the activation arena; 0 if the build stopped before.
    pub arena: u64,
    /// Seconds of each step, in order.
    pub timings: Vec<(String, f64)>,
}

/// Builds `model` into the engine file `out`, or into IR text there if the options stop early.
///
/// Nothing appears at `out` unless the build succeeds.
pub fn build(
    model: &Path,
    out: &Path,
    options: &BuildOptions,
    progress: &mut dyn FnMut(Progress),
) -> Result<BuildReport, Diag> {
    let mut dump = Dump::new(options.dump_dir.as_deref(), &options.target, &options.precision)?;
    let result = stages(model, out, options, progress, &mut dump);
    // What was dumped until a failure is what explains it.
    let finished = dump.finish();
    let mut report = result?;
    report.timings = finished?;
    Ok(report)
}

/// The module of `model` after `phase`.
pub fn module_after(model: &Path, phase: Phase, options: &BuildOptions) -> Result<Module, Diag> {
    let mut dump = Dump::new(None, &options.target, &options.precision)?;
    let checkpoint = frontend::open(model)?;
    let resolved = options.resolve(checkpoint.config.context)?;
    graph(model, &checkpoint, &resolved, options, phase, &mut |_| (), &mut dump)
}

/// The kernels of `model` that can be made in several ways, by name: the greatest number of rows that they serve, and at most
/// `most` ways that are worth measuring, first the one that the model of the chip proposes.
pub fn variants(
    model: &Path,
    options: &BuildOptions,
    most: usize,
) -> Result<BTreeMap<String, (u64, Vec<Variant>)>, Diag> {
    let module = module_after(model, Phase::Select, options)?;
    let target = Target::named(&options.target);
    target.map_or(Ok(BTreeMap::new()), |target| tuning::candidates(&module, target, most))
}

fn stages(
    model: &Path,
    out: &Path,
    options: &BuildOptions,
    progress: &mut dyn FnMut(Progress),
    dump: &mut Dump,
) -> Result<BuildReport, Diag> {
    let checkpoint = frontend::open(model)?;
    let resolved = options.resolve(checkpoint.config.context)?;
    let last = options.compile_to.unwrap_or(Phase::Pack);
    if last == Phase::Pack && options.dummy_seed.is_none() {
        checkpoint.weights.require()?;
    }
    let module = graph(model, &checkpoint, &resolved, options, last, progress, dump)?;
    let mut report = BuildReport {
        phase: last,
        bytes: 0,
        parameters: checkpoint.config.parameters(),
        launches: launches(&module),
        arena: module.arena.unwrap_or(0),
        timings: Vec::new(),
    };
    if last < Phase::Codegen {
        let text = text::print(&module, PrintOptions { locs: true });
        report.bytes = engine::write_text(out, &text)?;
        return Ok(report);
    }
    progress(Progress { phase: Phase::Codegen, done: 0, total: 0 });
    let start = Instant::now();
    let mut code = gpu::generate(&module, resolved.target, dump)?;
    dump.time("codegen", start.elapsed().as_secs_f64());
    if last == Phase::Codegen {
        let text = text::print(&module, PrintOptions { locs: true });
        report.bytes = engine::write_text(out, &text)?;
        return Ok(report);
    }
    gpu::complete(&module, resolved.target, &code)?;
    if let Some(ptxas) = &options.cubin {
        let start = Instant::now();
        gpu::assemble(&mut code, ptxas, out)?;
        dump.time("ptxas", start.elapsed().as_secs_f64());
    }
    let start = Instant::now();
    report.bytes = engine::pack(&module, &checkpoint, &resolved, options, &code, out, &mut |done, total| {
        progress(Progress { phase: Phase::Pack, done, total });
    })?;
    dump.time("pack", start.elapsed().as_secs_f64());
    Ok(report)
}

/// Ops that have a kernel of their own, or that of a chain, in a step that decodes one token.
fn launches(module: &Module) -> usize {
    let serves = |k: &KernelChoice| k.steps.serve(Steps::Decode) && (k.from..=k.to).contains(&1);
    module.func.order.iter().filter(|&&o| module.func.ops[o].kernels.iter().any(serves)).count()
}

/// Imports and runs every pass up to `last`.
fn graph(
    model: &Path,
    checkpoint: &Checkpoint,
    resolved: &Resolved,
    options: &BuildOptions,
    last: Phase,
    progress: &mut dyn FnMut(Progress),
    dump: &mut Dump,
) -> Result<Module, Diag> {
    progress(Progress { phase: Phase::Import, done: 0, total: 0 });
    let start = Instant::now();
    let precision = resolved.precision;
    let (act, residual) = match resolved.target.gpu {
        Some(_) => (precision.activation, precision.residual),
        None => (precision.host_activation, DType::F32),
    };
    let import = ImportOptions {
        act,
        residual,
        weight: if precision.activation == DType::F32 { DType::F32 } else { DType::Bf16 },
        kv: resolved.kv,
        attention: resolved.attention,
        max_seq_len: resolved.limits.max_seq_len,
        max_step_tokens: resolved.limits.max_step_tokens,
        max_logit_rows: resolved.limits.max_logit_rows,
    };
    let mut module = frontend::import(checkpoint, &import)?;
    module.deterministic = options.deterministic;
    trtc_ir::verify::verify(&module).map_err(first)?;
    let recipe = plan::recipe(options, &module, precision)?;
    if dump.wanted() {
        let command =
            format!("trtc dump {} --phase import --precision {} --locs", model.display(), precision.name);
        let text = text::print(&module, PrintOptions { locs: true });
        dump.import(&text, &command, start.elapsed().as_secs_f64());
    }
    let cx = PassCx {
        target: resolved.target,
        precision: Some(precision),
        kv: KvOptions { page_tokens: None, dtype: Some(resolved.kv) },
        recipe: &recipe,
        limits: Some(resolved.limits),
    };
    if let Some(name) = options.skip_passes.iter().find(|s| pipeline::optional().all(|o| o != *s)) {
        let names: Vec<&str> = pipeline::optional().collect();
        return Err(Diag::user(&Loc::Unknown, format!("the pass {name} cannot be left out"))
            .help(format!("those that can: {}", names.join(", "))));
    }
    let mut index = 1;
    for phase in Phase::all().filter(|p| *p <= last) {
        let mut passes = pipeline::passes_of(phase)?;
        passes.retain(|p| !options.skip_passes.iter().any(|s| s == p.name));
        if passes.is_empty() {
            continue;
        }
        progress(Progress { phase, done: 0, total: 0 });
        let report = if dump.wanted() {
            let mut observe = |step: &trtc_passes::Step<'_>| dump.step(step);
            let run = Options {
                spec: options.spec,
                first_index: index,
                observe: Some(&mut observe),
                ..Options::default()
            };
            run_passes(&mut module, &passes, &cx, run)?
        } else {
            let run = Options { spec: options.spec, first_index: index, ..Options::default() };
            run_passes(&mut module, &passes, &cx, run)?
        };
        if let (Phase::Select, Some(tuning)) = (phase, &options.tuning)
            && tuning::tune(&mut module, resolved.target, tuning)? == 0
        {
            let what = "the tuning names no kernel of this model for this target and precision";
            return Err(Diag::user(&Loc::Unknown, what).help("make one by trtc tune"));
        }
        for timing in &report.timings {
            dump.time(timing.pass, timing.seconds);
        }
        index += passes.len();
    }
    Ok(module)
}

/// The first of several findings, with the others as notes.
fn first(mut found: Vec<Diag>) -> Diag {
    if found.is_empty() {
        return Diag::bug(&trtc_ir::Loc::Unknown, "a check failed without a finding");
    }
    let mut diag = found.remove(0);
    diag.notes.extend(found.iter().map(|d| d.message.clone()));
    diag
}
