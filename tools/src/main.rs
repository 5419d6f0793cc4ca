//! The binary `trtc`: parses the command line, runs one command, turns its result into an exit code.
//!
//! Exit codes: 0 done, 1 the user's fault, 2 unsupported, 3 our bug. Everything else is in `cmd/`.

#[cfg(feature = "compiler")]
mod calibration;
mod check;
mod cmd;
mod comparison;
mod descriptors;
mod env;
mod facts;
mod golden;
#[cfg(feature = "compiler")]
mod graph;
mod html;
mod options;
mod perplexity;
mod progress;
mod render;
#[cfg(feature = "compiler")]
mod scratch;
mod session;
mod signal;

use clap::Parser;
use render::Failure;
use std::process::ExitCode;

/// Ahead-of-time compiler for large language models, and the runtime that serves what it builds.
#[derive(Parser)]
#[command(
    name = "trtc",
    version,
    max_term_width = 110,
    after_help = "Exit codes: 0 done, 1 your input is wrong, 2 it is right but not supported, 3 a fault in trtc.\n\
                  Environment: NO_COLOR, TRTC_MODELS (folder in which a bare model file name is looked up), \
                  TRTC_API_KEY (a key that clients of trtc serve must send, and that trtc bench serve sends; or else OPENAI_API_KEY), TRTC_SPEC=1 (check that every module a build makes survives printing and parsing)."
)]
struct Cli {
    #[command(subcommand)]
    command: cmd::Command,
}

fn main() -> ExitCode {
    std::panic::set_hook(Box::new(|info| render::print(&render::panicked(info))));
    let run = || -> Result<(), Failure> {
        match Cli::try_parse() {
            Ok(cli) => cli.command.run(),
            Err(e) => usage(&e),
        }
    };
    match std::panic::catch_unwind(run) {
        Ok(Ok(()) | Err(Failure::Closed)) => ExitCode::SUCCESS,
        Ok(Err(Failure::Usage)) => ExitCode::from(render::Exit::User as u8),
        Ok(Err(Failure::Reports(reports))) => {
            reports.iter().for_each(render::print);
            // Without a report there is nothing to blame the user for.
            ExitCode::from(reports.first().map_or(render::Exit::Bug, |r| r.exit) as u8)
        }
        // The hook has told what happened.
        Err(_) => ExitCode::from(render::Exit::Bug as u8),
    }
}

/// Prints what clap has to say: help and version are no failures.
fn usage(e: &clap::Error) -> Result<(), Failure> {
    e.print()?;
    if e.use_stderr() { Err(Failure::Usage) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_has_examples() {
        for sub in Cli::command().get_subcommands() {
            let help = sub.clone().render_long_help().to_string();
            assert!(help.contains("Examples:"), "trtc {} --help has no examples", sub.get_name());
        }
    }
}
