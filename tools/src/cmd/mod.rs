//! The commands, one file each, and the table that clap reads.

mod bench;
#[cfg(feature = "compiler")]
mod build;
#[cfg(feature = "compiler")]
mod calibrate;
mod chat;
mod check;
mod completions;
#[cfg(feature = "compiler")]
mod dump;
mod emulate;
mod eval;
pub mod inspect;
#[cfg(feature = "compiler")]
mod opt;
mod run;
mod serve;
#[cfg(feature = "compiler")]
mod tune;

use crate::render::Failure;
use clap::Subcommand;

/// What trtc can be asked to do.
#[derive(Subcommand)]
pub enum Command {
    #[cfg(feature = "compiler")]
    Build(build::Args),
    #[cfg(feature = "compiler")]
    Calibrate(calibrate::Args),
    #[cfg(feature = "compiler")]
    Tune(tune::Args),
    Run(run::Args),
    Chat(chat::Args),
    Serve(serve::Args),
    Eval(eval::Args),
    Bench(bench::Args),
    Check(check::Args),
    Emulate(emulate::Args),
    Inspect(inspect::Args),
    #[cfg(feature = "compiler")]
    Dump(dump::Args),
    #[cfg(feature = "compiler")]
    Opt(opt::Args),
    Completions(completions::Args),
}

impl Command {
    /// Does it.
    pub fn run(self) -> Result<(), Failure> {
        match self {
            #[cfg(feature = "compiler")]
            Command::Build(args) => build::run(&args),
            #[cfg(feature = "compiler")]
            Command::Calibrate(args) => calibrate::run(&args),
            #[cfg(feature = "compiler")]
            Command::Tune(args) => tune::run(&args),
            Command::Run(args) => run::run(&args),
            Command::Chat(args) => chat::run(&args),
            Command::Serve(args) => serve::run(&args),
            Command::Eval(args) => eval::run(&args),
            Command::Bench(args) => bench::run(&args),
            Command::Check(args) => check::run(&args),
            Command::Emulate(args) => emulate::run(&args),
            Command::Inspect(args) => inspect::run(&args),
            #[cfg(feature = "compiler")]
            Command::Dump(args) => dump::run(&args),
            #[cfg(feature = "compiler")]
            Command::Opt(args) => opt::run(&args),
            Command::Completions(args) => completions::run(&args),
        }
    }
}
