//! `trtc check`: every kernel of an engine on the device, against the reference semantics.

use crate::check::{Outcome, check, memory_for};
use crate::options::DeviceArgs;
use crate::progress::Bar;
use crate::render::Failure;
use serde_json::json;
use std::collections::BTreeSet;
use std::io::Write;
use std::path::PathBuf;
use trtc_engine::EngineFile;
use trtc_engine::manifest::{Arg, Choice, Launch, Manifest};
use trtc_ir::random::Random;
use trtc_runtime::device::emulator::Dump;
use trtc_runtime::device::{Device, EmulatorDevice};
use trtc_runtime::{DeviceChoice, LoadOptions};

/// Compare every kernel of an engine with the reference semantics
///
/// Each kernel is launched on the device with random inputs and weights, at several numbers of tokens, and its results
/// are compared with what the contract in the engine file gives when it is interpreted. `error` is the greatest one
/// found, as a part of what is allowed; up to 1 is right. The emulator besides ends with the first access to memory that
/// is not the kernel's, race, or other fault that a GPU would hide: meant for small models, for it is slow.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  trtc check model.engine\n  \
                        trtc check h100.engine --device cuda:0 --kernel attention --tokens 1,64,300\n  \
                        trtc check h100.engine --device emulator --dump faults\n  \
                        trtc check model.engine --json")]
pub struct Args {
    #[command(flatten)]
    on: DeviceArgs,
    /// Only kernels whose names contain this, or one of these if repeated
    #[arg(long, value_name = "NAME")]
    kernel: Vec<String>,
    /// Numbers of tokens; a kernel is checked at those that it serves, or at the least that it serves
    #[arg(long, value_name = "N", value_delimiter = ',', default_value = "1,7,40,130", value_parser = clap::value_parser!(u32).range(1..=1024))]
    tokens: Vec<u32>,
    /// Another seed, other inputs
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// On the emulator: write a launch that faults to a file in this folder, for trtc emulate
    #[arg(long, value_name = "DIR")]
    dump: Option<PathBuf>,
    /// Write every launch, not just one that faults
    #[arg(long, requires = "dump")]
    dump_all: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

impl Args {
    /// True if a kernel of this name is to be checked.
    fn wants(&self, name: &str) -> bool {
        self.kernel.is_empty() || self.kernel.iter().any(|k| name.contains(k.as_str()))
    }

    /// The device for an engine.
    fn device(&self, m: &Manifest) -> Result<Box<dyn Device>, Failure> {
        let (device, threads) = (self.on.place.device, self.on.place.threads);
        let Some(folder) = &self.dump else {
            let options = LoadOptions { device, threads, ..LoadOptions::default() };
            return Ok(trtc_runtime::open_device(m, &options)?);
        };
        if device != DeviceChoice::Emulator {
            return Err(Failure::user("--dump writes launches of the emulator")
                .help("give --device emulator, or leave --dump out"));
        }
        let mut emulator = EmulatorDevice::new(m, threads)?;
        emulator.dump_to(Dump::new(folder, self.dump_all));
        Ok(Box::new(emulator))
    }
}

/// One line of the table.
struct Line {
    kernel: u32,
    tokens: u32,
    outcome: Outcome,
}

/// Checks and prints.
pub fn run(args: &Args) -> Result<(), Failure> {
    let file = EngineFile::open(&args.on.engine)?;
    let m = file.manifest();
    let mut device = args.device(m)?;
    device.load(m, &|name: &str| Ok(file.tensor(name).map_err(trtc_runtime::Error::from)?.to_vec()))?;
    let most = args.tokens.iter().copied().max().unwrap_or(1);
    let mut memory = memory_for(device, &file, least_tokens(m).max(most), args.seed)?;
    let plan = plan(args, m);
    if plan.is_empty() {
        let names = args.kernel.join("\" or \"");
        return Err(Failure::user(format!("the engine has no kernel whose name contains \"{names}\""))
            .help("trtc inspect ENGINE lists them"));
    }
    let bar = Bar::new("checks", plan.len() as u64);
    let mut lines = Vec::new();
    for (launch, choice, tokens) in plan {
        let mut random = Random::named(args.seed, &m.kernels[choice.kernel as usize].name);
        let outcome = check(&mut memory, (launch, choice), &users(m, launch), tokens, &mut random)?;
        lines.push(Line { kernel: choice.kernel, tokens, outcome });
        bar.advance(1);
    }
    bar.finish();
    print(args, m, &memory.device.name(), &lines)?;
    let wrong = lines.iter().filter(|l| !l.outcome.passed()).count();
    if wrong == 0 {
        return Ok(());
    }
    let names: BTreeSet<&str> = lines
        .iter()
        .filter(|l| !l.outcome.passed())
        .map(|l| m.kernels[l.kernel as usize].name.as_str())
        .collect();
    Err(Failure::bug(format!("{wrong} of {} checks differ from the reference", lines.len()))
        .notes(names.into_iter().map(str::to_owned).collect()))
}

/// What is checked: every wanted kernel once, where it is launched first, at each number of tokens.
fn plan<'m>(args: &Args, m: &'m Manifest) -> Vec<(&'m Launch, &'m Choice, u32)> {
    let mut seen = BTreeSet::new();
    let mut plan = Vec::new();
    let choices = m.launches.iter().flat_map(|l| l.choices.iter().map(move |c| (l, c)));
    for (launch, choice) in choices.filter(|(_, c)| args.wants(&m.kernels[c.kernel as usize].name)) {
        if !seen.insert(choice.kernel) {
            continue;
        }
        let mut sizes: Vec<u32> =
            args.tokens.iter().copied().filter(|t| (choice.from..=choice.to).contains(t)).collect();
        if sizes.is_empty() {
            sizes.push(choice.from);
        }
        plan.extend(sizes.into_iter().map(|tokens| (launch, choice, tokens)));
    }
    plan
}

/// The greatest of the least token counts of all kernels.
fn least_tokens(m: &Manifest) -> u32 {
    m.launches.iter().flat_map(|l| &l.choices).map(|c| c.from).max().unwrap_or(1)
}

/// The launches that use the same cache as this one.
fn users<'m>(m: &'m Manifest, launch: &Launch) -> Vec<&'m Launch> {
    let cache = |l: &Launch| l.args.iter().find_map(|a| if let Arg::Kv(i) = a { Some(*i) } else { None });
    let own = cache(launch);
    m.launches.iter().filter(|l| own.is_some() && cache(l) == own).collect()
}

fn print(args: &Args, m: &Manifest, device: &str, lines: &[Line]) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    let name = |l: &Line| &m.kernels[l.kernel as usize].name;
    if args.json {
        let rows: Vec<_> = lines
            .iter()
            .map(|l| json!({"kernel": name(l), "tokens": l.tokens, "error": l.outcome.worst, "overrun": l.outcome.overrun, "ok": l.outcome.passed()}))
            .collect();
        writeln!(out, "{}", json!({"device": device, "target": m.target, "checks": rows}))?;
        return Ok(());
    }
    writeln!(out, "{} {} on {device}", m.model.name, m.precision)?;
    let width = lines.iter().map(|l| name(l).len()).max().unwrap_or(0);
    writeln!(out, "{:width$}  tokens  error", "kernel")?;
    for l in lines {
        let verdict = match (l.outcome.passed(), l.outcome.overrun) {
            (true, _) => "ok",
            (false, true) => "WRITES BEHIND ITS RESULT",
            (false, false) => "WRONG",
        };
        writeln!(out, "{:width$}  {:6}  {:<8.3} {verdict}", name(l), l.tokens, l.outcome.worst)?;
    }
    Ok(())
}
