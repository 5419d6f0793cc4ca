//! Runs passes in order: checks what they require and ensure, verifies after every change, times, reports.
//!
//! Writing dumps is the caller's, who is shown every step. Which passes run is the caller's too.

use crate::{Pass, PassCx, Property};
use std::time::Instant;
use trtc_ir::text::{self, PrintOptions};
use trtc_ir::{Diag, Loc, Module, verify};

/// How to run passes.
#[derive(Default)]
pub struct Options<'a> {
    /// If set, the module is printed, read back and compared after each pass, and a pass that says it changed
    /// nothing is held to it.
    pub spec: bool,
    /// If set, passes stop after this many that changed something: bisects a wrong rewrite.
    pub fuel: Option<usize>,
    /// Index of the first step, for pipelines that run in several parts.
    pub first_index: usize,
    /// Is shown every step; without it (and without `spec`) nothing is printed.
    pub observe: Option<&'a mut dyn FnMut(&Step<'_>)>,
}

/// What a pass did.
#[derive(Clone, Copy, Debug)]
pub struct Step<'a> {
    /// Place in the pipeline, from [`Options::first_index`].
    pub index: usize,
    /// The pass.
    pub pass: &'a Pass,
    /// The module before, printed.
    pub before: &'a str,
    /// The module after, printed.
    pub after: &'a str,
    /// Whether the pass changed something.
    pub changed: bool,
    /// Wall time of the pass alone.
    pub seconds: f64,
}

impl Step<'_> {
    /// The change as a unified diff; empty if there is none.
    pub fn diff(&self) -> String {
        let diff = similar::TextDiff::from_lines(self.before, self.after);
        let headers = (format!("before {}", self.pass.name), format!("after {}", self.pass.name));
        diff.unified_diff().header(&headers.0, &headers.1).to_string()
    }
}

/// Time of one pass.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Timing {
    /// Name of the pass.
    pub pass: &'static str,
    /// Whether it changed something.
    pub changed: bool,
    /// Wall time of the pass alone.
    pub seconds: f64,
}

/// What a run did.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Report {
    /// One a pass that ran.
    pub timings: Vec<Timing>,
    /// What is left of [`Options::fuel`].
    pub fuel: Option<usize>,
}

/// Verifies the module, runs `passes` in order and leaves the module as the last one made it. After an error the
/// module is unfit for use. What a pass requires and does not find is the caller's fault; what it breaks is a bug
/// that names it.
pub fn run_passes(
    module: &mut Module,
    passes: &[&Pass],
    cx: &PassCx<'_>,
    mut options: Options<'_>,
) -> Result<Report, Diag> {
    // Passes index freely; this is what lets them.
    verify::verify(module).map_err(|found| first_of(found, module))?;
    let shown = options.observe.is_some();
    let mut before = if shown { dump(module) } else { String::new() };
    let mut spec = if options.spec { full_text(module) } else { String::new() };
    let mut report = Report { timings: Vec::new(), fuel: options.fuel };
    for (i, pass) in passes.iter().copied().enumerate() {
        if report.fuel == Some(0) {
            break;
        }
        let here = Loc::name(&module.name);
        if let Some(missing) = pass.requires.iter().find(|p| !p.holds(module)) {
            return Err(Diag::user(&here, format!("{} needs a module that is {missing:?}", pass.name))
                .help(missing.remedy()));
        }
        let start = Instant::now();
        let changed = (pass.run)(module, cx).map_err(|d| d.note(format!("in pass {}", pass.name)))?.yes();
        let seconds = start.elapsed().as_secs_f64();
        if changed {
            verify::verify(module).map_err(|found| broke(pass, &found))?;
            report.fuel = report.fuel.map(|f| f - 1);
        }
        if let Some(lost) = pass.ensures.iter().find(|p: &&Property| !p.holds(module)) {
            return Err(Diag::bug(&here, format!("{} ran, and the module is not {lost:?}", pass.name)));
        }
        if options.spec {
            spec = hold_to_spec(module, pass, changed, &spec)?;
        }
        if let Some(observe) = options.observe.as_deref_mut() {
            let after = if changed { dump(module) } else { before.clone() };
            let index = options.first_index + i;
            observe(&Step { index, pass, before: &before, after: &after, changed, seconds });
            before = after;
        }
        report.timings.push(Timing { pass: pass.name, changed, seconds });
    }
    Ok(report)
}

/// The first finding about the module that came in, with the others as notes.
fn first_of(found: Vec<Diag>, module: &Module) -> Diag {
    let mut all = found.into_iter();
    let first = all.next().unwrap_or_else(|| Diag::bug(&Loc::name(&module.name), "the module is invalid"));
    all.fold(first, |first, d| first.note(d.message))
}

/// The verifier's findings after a pass, as the bug that they are.
fn broke(pass: &Pass, found: &[Diag]) -> Diag {
    let Some((first, more)) = found.split_first() else {
        return Diag::bug(&Loc::Unknown, format!("{} broke the module", pass.name));
    };
    let mut diag = Diag::bug(&first.loc, format!("{} broke the module: {}", pass.name, first.message));
    diag.notes = first.notes.iter().chain(more.iter().map(|d| &d.message)).cloned().collect();
    diag
}

/// The text of dumps.
fn dump(module: &Module) -> String {
    text::print(module, PrintOptions::default())
}

/// The text that says all that a module says.
fn full_text(module: &Module) -> String {
    text::print(module, PrintOptions { locs: true })
}

/// Checks that the text form says all that the module says, and that `changed` is the truth. Returns the text.
fn hold_to_spec(module: &Module, pass: &Pass, changed: bool, before: &str) -> Result<String, Diag> {
    let here = Loc::name(&module.name);
    let after = full_text(module);
    if !changed && before != after {
        return Err(Diag::bug(&here, format!("{} says it changed nothing, and did", pass.name)));
    }
    let read = text::parse(&after, "printed module").map_err(|found| {
        let diag = Diag::bug(&here, format!("the module after {} does not read back", pass.name));
        found.iter().fold(diag, |diag, d| diag.note(d.to_string()))
    })?;
    let again = full_text(&read);
    if again != after {
        let diff = similar::TextDiff::from_lines(&after, &again);
        return Err(Diag::bug(&here, format!("the module after {} reads back as another", pass.name))
            .note(diff.unified_diff().context_radius(0).to_string()));
    }
    Ok(after)
}
