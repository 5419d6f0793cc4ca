//! Runs single PTX instructions on a device with random operands, and compares what two devices make of them bit for
//! bit: a GPU and its emulator.
//!
//! - `instructions list [--target sm_90a]`: names of the tests
//! - `instructions dump NAME [--target sm_90a]`: a test's PTX
//! - `instructions check --ptxas PATH [--target sm_90a] [--only PREFIX]`: assembles all kernels, of all targets or one
//! - `instructions run --device cuda:0|emulator --out FILE [--target sm_90a] [--only PREFIX] [--seed N]`: runs them
//! - `instructions compare FILE FILE [--show N] [--only PREFIX] [--exact]`: what differs, but for what is known to
//!   (`known.rs`); fails if anything does
//! - `instructions digest FILE [--driver VERSION]`: hashes of a run, on standard output (`digest.rs`)
//! - `instructions inputs NAME --out FILE [--seed N]`: the bytes that a test's kernel reads (`test.rs`)
//!
//! A device that takes several targets, as an emulator does, is given the newest unless `--target` names another: two
//! runs that are to be compared name the same.
//!
//! Where there is no GPU, the emulator is held against hashes of what GPUs gave, `tests/golden/instructions`, as a test
//! of this example. If the tests change, or for another GPU, run them there and keep the hashes:
//!
//! ```text
//! instructions run --device cuda:0 --target sm_90a --out gpu.bin
//! instructions run --device emulator --target sm_90a --out emulator.bin
//! instructions compare gpu.bin emulator.bin
//! instructions digest gpu.bin --driver VERSION > tests/golden/instructions/h100-sm_90a.txt
//! ```

mod check;
mod compare;
mod digest;
mod fragments;
mod inputs;
mod known;
mod numbers;
mod results;
mod rng;
mod run;
mod table;
mod test;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use trtc_runtime::{DeviceChoice, Error};

const USAGE: &str = "instructions list|dump NAME|check --ptxas PATH|run --device DEVICE --out FILE|compare FILE FILE|\
                     digest FILE|inputs NAME --out FILE; with --target sm_NN, --only PREFIX, --seed N, --show N, \
                     --exact, --driver VERSION";

/// What is asked for on the command line.
struct Options {
    /// What does not begin with dashes.
    words: Vec<String>,
    device: DeviceChoice,
    target: Option<test::Target>,
    out: Option<PathBuf>,
    ptxas: Option<PathBuf>,
    only: String,
    driver: String,
    seed: u64,
    show: usize,
    exact: bool,
}

impl Options {
    fn parse(args: impl IntoIterator<Item = String>) -> Result<Options, Error> {
        let wrong = |what: String| Error::user(what).help(USAGE);
        let mut options = Options {
            words: Vec::new(),
            device: DeviceChoice::Cuda(0),
            target: None,
            out: None,
            ptxas: None,
            only: String::new(),
            driver: "unknown".to_owned(),
            seed: 1,
            show: 3,
            exact: false,
        };
        let mut args = args.into_iter();
        while let Some(arg) = args.next() {
            if !arg.starts_with("--") {
                options.words.push(arg);
                continue;
            }
            if arg == "--exact" {
                options.exact = true;
                continue;
            }
            let value = args.next().ok_or_else(|| wrong(format!("{arg} has no value")))?;
            let number = || value.parse::<u64>().map_err(|_| wrong(format!("{arg} {value} is no number")));
            match arg.as_str() {
                "--device" => options.device = value.parse()?,
                "--target" => {
                    let target = test::Target::named(&value);
                    options.target =
                        Some(target.ok_or_else(|| wrong(format!("there is no target {value}")))?);
                }
                "--out" => options.out = Some(value.into()),
                "--ptxas" => options.ptxas = Some(value.into()),
                "--only" => options.only = value,
                "--driver" => options.driver = value,
                "--seed" => options.seed = number()?,
                "--show" => options.show = number()? as usize,
                _ => return Err(wrong(format!("there is no {arg}"))),
            }
        }
        Ok(options)
    }

    /// Tests of the target, or all.
    fn tests(&self) -> Vec<test::Test> {
        let mut tests = self.target.map_or_else(table::all, table::of);
        tests.retain(|t| t.name.starts_with(&self.only));
        tests
    }

    /// The test of this name.
    fn test(&self, name: &str) -> Result<test::Test, Error> {
        let found = self.tests().into_iter().find(|t| t.name == name);
        found.ok_or_else(|| Error::user(format!("there is no test {name}")).help("instructions list"))
    }
}

/// A path that a command needs.
fn needed<'a>(path: &'a Option<PathBuf>, option: &str) -> Result<&'a Path, Error> {
    path.as_deref().ok_or_else(|| Error::user(format!("{option} is missing")).help(USAGE))
}

/// Does what is asked; false if it found something wrong.
fn execute(options: &Options) -> Result<bool, Error> {
    let words: Vec<&str> = options.words.iter().map(String::as_str).collect();
    match words[..] {
        ["list"] => {
            for test in options.tests() {
                let targets: Vec<&str> = test.targets.iter().map(|t| t.name()).collect();
                println!("{}  ({})", test.name, targets.join(" "));
            }
        }
        ["dump", name] => {
            let test = options.test(name)?;
            let newest = test.targets.last().copied().unwrap_or(test::Target::Sm90a);
            print!("{}", test.ptx(options.target.unwrap_or(newest)));
        }
        ["inputs", name] => {
            let (test, out) = (options.test(name)?, needed(&options.out, "--out")?);
            std::fs::write(out, inputs::inputs(&test, options.seed))
                .map_err(|e| Error::user(format!("cannot write {}: {e}", out.display())))?;
        }
        ["digest", file] => {
            let results = results::Results::read(Path::new(file))?;
            print!("{}", digest::Digest::of(&results, &options.driver)?.text());
        }
        ["check"] => return assemble(options),
        ["run"] => {
            let out = needed(&options.out, "--out")?;
            let results = run::run(options.device, options.target, &options.only, options.seed)?;
            results.write(out)?;
            let failed = results.tests.iter().filter(|e| e.outputs.is_err()).count();
            println!(
                "{} tests of {} on {}, {failed} did not run",
                results.tests.len(),
                results.target,
                results.device
            );
            return Ok(failed == 0);
        }
        ["compare", a, b] => {
            let (a, b) = (results::Results::read(Path::new(a))?, results::Results::read(Path::new(b))?);
            println!("{} ({}) | {} ({})", a.device, a.target, b.device, b.target);
            let known = if options.exact { &[] } else { known::KNOWN };
            let how = compare::Options { show: options.show, known, only: &options.only };
            let report = compare::compare(&a, &b, &table::all(), how)?;
            print!("{}", report.text);
            return Ok(report.different == 0);
        }
        _ => return Err(Error::user("what to do is missing").help(USAGE)),
    }
    Ok(true)
}

/// Assembles the kernels of one target or all.
fn assemble(options: &Options) -> Result<bool, Error> {
    let ptxas = needed(&options.ptxas, "--ptxas")?;
    let mut fine = true;
    for target in test::Target::ALL {
        if options.target.is_some_and(|t| t != target) {
            continue;
        }
        let (all, refused) = check::check(ptxas, target, &options.only)?;
        println!("{}: {all} kernels, {} refused", target.name(), refused.len());
        for (name, why) in &refused {
            println!("{name}:\n{why}");
        }
        fine &= refused.is_empty();
    }
    Ok(fine)
}

fn main() -> ExitCode {
    let done = Options::parse(std::env::args().skip(1)).and_then(|options| execute(&options));
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(e) => {
            eprintln!("error: {e}");
            if let Some(help) = &e.help {
                eprintln!("help: {help}");
            }
            ExitCode::from(2)
        }
    }
}
