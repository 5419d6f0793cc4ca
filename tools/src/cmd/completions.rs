//! `trtc completions`: a script that completes commands and options in a shell.

use crate::render::Failure;
use clap::CommandFactory;
use std::io::Write;

/// Print a completion script for a shell
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  trtc completions bash > ~/.local/share/bash-completion/completions/trtc\n  \
                        trtc completions fish > ~/.config/fish/completions/trtc.fish"
)]
pub struct Args {
    /// The shell
    shell: clap_complete::Shell,
}

/// Prints the script.
pub fn run(args: &Args) -> Result<(), Failure> {
    // Into memory first: the generator would panic on a closed pipe.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut crate::Cli::command(), "trtc", &mut script);
    Ok(std::io::stdout().lock().write_all(&script)?)
}
