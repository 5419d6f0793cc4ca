//! Every row of the goals' table in one call: what `trtc` reaches on a GPU, beside recorded figures of its peers.
//!
//! `goals build` makes the engines where the compiler is, `goals run` measures them where the GPU is, by the command
//! line of `trtc` alone. Rows, goals, figures and engines are data, in `goals.json`. Nothing is asserted: a goal that is
//! not met is printed, and no error. `benches/README.md` has the two commands.

mod build;
mod child;
mod report;
mod run;
mod table;
mod weights;

use clap::Parser;
use std::path::PathBuf;
use std::process::ExitCode;

/// Measure trtc against its goals
#[derive(Parser)]
struct Goals {
    /// Table to use in place of the program's own
    #[arg(long, value_name = "FILE", global = true)]
    table: Option<PathBuf>,
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    /// Build the engines of the table; needs no GPU
    Build(build::Args),
    /// Measure every row, or those that are asked for
    Run(run::Args),
}

fn main() -> ExitCode {
    let goals = Goals::parse();
    let done = table::Table::load(goals.table.as_deref()).and_then(|table| match goals.what {
        What::Build(args) => build::run(&table, &args),
        What::Run(args) => {
            run::run(&table, &args, &mut std::io::stdout()).map(|_| true).map_err(|e| e.to_string())
        }
    });
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(e) => {
            eprintln!("error: {e}");
            ExitCode::FAILURE
        }
    }
}
