//! The kinds of file tests: each a function from directives and source to a text or errors, and a line in the table.

use super::directives::{Directives, Form};
use super::{Outcome, sample};
use trtc_ir::text::{self, PrintOptions};
use trtc_ir::{Diag, Module, Target, target::TARGETS, verify::verify};
use trtc_passes::{Options, PassCx, manager::run_passes, registry};

/// A kind of test.
struct Kind {
    name: &'static str,
    /// Whether a file without errors has to have an expectation.
    must_expect: bool,
    run: fn(&Directives, &str, &str) -> Result<Outcome, String>,
}

const KINDS: &[Kind] = &[
    Kind { name: "parse", must_expect: false, run: parse },
    Kind { name: "verify", must_expect: false, run: check },
    Kind { name: "pass", must_expect: true, run: pass },
    Kind { name: "run", must_expect: true, run: interpret },
];

fn kind(directives: &Directives) -> Option<&'static Kind> {
    KINDS.iter().find(|k| k.name == directives.test.0)
}

pub(super) fn must_expect(directives: &Directives) -> bool {
    kind(directives).is_some_and(|k| k.must_expect)
}

/// Runs the test that the directives name.
pub(super) fn run(directives: &Directives, source: &str, name: &str) -> Result<Outcome, String> {
    let Some(kind) = kind(directives) else {
        let known: Vec<_> = KINDS.iter().map(|k| k.name).collect();
        return Err(format!("there is no test '{}'; there are {}", directives.test.0, known.join(", ")));
    };
    if kind.name != "pass" {
        for (given, what) in
            [(directives.tolerance.is_some(), "run:"), (!directives.test.1.is_empty(), "an argument")]
        {
            if given {
                return Err(format!("'{what}' has no meaning for the test '{}'", kind.name));
            }
        }
    }
    (kind.run)(directives, source, name)
}

/// The module in the form to print. Every text that is compared also reads back as itself.
fn show(directives: &Directives, module: &Module) -> Result<Outcome, String> {
    let locs = directives.print == Form::Locs;
    let full = text::print(module, PrintOptions { locs: true });
    let again =
        text::parse(&full, "printed").map_err(|d| format!("what is printed does not parse: {}", d[0]))?;
    if text::print(&again, PrintOptions { locs: true }) != full {
        return Err(format!("what is printed reads back as another module:\n{full}"));
    }
    Ok(Outcome::Text(match directives.print {
        Form::Generic => text::print_generic(module),
        Form::Short | Form::Locs => text::print(module, PrintOptions { locs }),
    }))
}

/// Goes on with the value, or ends the test with the errors.
macro_rules! or_errors {
    ($result:expr) => {
        match $result {
            Ok(value) => value,
            Err(found) => return Ok(Outcome::Errors(found)),
        }
    };
}

fn parse(directives: &Directives, source: &str, name: &str) -> Result<Outcome, String> {
    show(directives, &or_errors!(text::parse(source, name)))
}

fn sound(source: &str, name: &str) -> Result<Module, Vec<Diag>> {
    let module = text::parse(source, name)?;
    verify(&module)?;
    Ok(module)
}

fn check(directives: &Directives, source: &str, name: &str) -> Result<Outcome, String> {
    show(directives, &or_errors!(sound(source, name)))
}

fn pass(directives: &Directives, source: &str, name: &str) -> Result<Outcome, String> {
    let mut passes = Vec::new();
    for name in directives.test.1.split(',').map(str::trim) {
        let known = || registry::all().map(|p| p.name).collect::<Vec<_>>().join(", ");
        passes.push(
            registry::find(name)
                .ok_or_else(|| format!("there is no pass '{name}'; there are {}", known()))?,
        );
    }
    let before = or_errors!(sound(source, name));
    let target = directives.target.as_deref().or(before.target.as_deref()).unwrap_or("host");
    let Some(target) = Target::named(target) else {
        let known: Vec<_> = TARGETS.iter().map(|t| t.name).collect();
        return Err(format!("there is no target '{target}'; there are {}", known.join(", ")));
    };
    let mut after = before.clone();
    let options = Options { spec: true, ..Options::default() };
    or_errors!(run_passes(&mut after, &passes, &PassCx::new(target), options).map_err(|d| vec![d]));
    if let Some(tolerance) = directives.tolerance {
        sample::agree(&before, &after, tolerance)?;
    }
    show(directives, &after)
}

fn interpret(_: &Directives, source: &str, name: &str) -> Result<Outcome, String> {
    let module = or_errors!(sound(source, name));
    Ok(Outcome::Text(or_errors!(sample::results(&module).map_err(|d| vec![d]))))
}
