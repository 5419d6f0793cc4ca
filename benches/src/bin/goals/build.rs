//! `goals build`: engines from the shapes in the table, on a machine that needs no GPU, and a note of what that took.

use crate::child;
use crate::table::Table;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Name of the note in the folder of engines: an array of objects.
pub const NOTE: &str = "build.json";

/// A build that takes longer has failed.
const LONGEST: Duration = Duration::from_secs(900);

#[derive(clap::Args, Debug)]
pub struct Args {
    /// The whole `trtc`, with the compiler
    #[arg(long, value_name = "FILE", default_value = "target/release/trtc")]
    pub trtc: PathBuf,
    /// Serving-only `trtc`, of which only the size is noted
    #[arg(long, value_name = "FILE")]
    pub serving: Option<PathBuf>,
    /// Folder for the engines
    #[arg(long, value_name = "FOLDER")]
    pub out: PathBuf,
    /// Chip to build for
    #[arg(long, default_value = "sm_90")]
    pub target: String,
    /// Store the kernels' binaries too: nothing is compiled where they run. Needs ptxas; build times include it
    #[arg(long)]
    pub cubin: bool,
    /// Only engines whose names contain one of these
    #[arg(long, value_name = "NAME", num_args = 1..)]
    pub only: Vec<String>,
}

/// The file of an engine.
pub fn engine_path(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("{name}.engine"))
}

/// What is noted in a folder; nothing if there is no note.
pub fn notes(folder: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(folder.join(NOTE)).unwrap_or_default();
    serde_json::from_str(&text).unwrap_or_default()
}

/// Builds. An engine that fails is noted with its error and stops no other. True if all were built.
pub fn run(table: &Table, args: &Args) -> Result<bool, String> {
    let write =
        |path: &Path, text: &str| std::fs::write(path, text).map_err(|e| format!("{}: {e}", path.display()));
    std::fs::create_dir_all(&args.out).map_err(|e| format!("{}: {e}", args.out.display()))?;
    let mut notes = notes(&args.out);
    let mut all = true;
    for engine in &table.engines {
        if !args.only.is_empty() && !args.only.iter().any(|o| engine.name.contains(o)) {
            continue;
        }
        let config = args.out.join(format!("{}.json", engine.model));
        write(&config, &format!("{:#}\n", table.models[&engine.model]))?;
        let path = engine_path(&args.out, &engine.name);
        // One of an earlier build would be measured as if it were this one.
        let _ = std::fs::remove_file(&path);
        let mut options: Vec<String> = ["build".to_owned(), config.display().to_string()].into();
        options.extend(["-o".to_owned(), path.display().to_string()]);
        options.extend(["--weights", "dummy:1", "--target", &args.target].map(str::to_owned));
        options.extend(engine.options.split_whitespace().map(str::to_owned));
        if let Some(recipe) = &engine.recipe {
            let path = args.out.join(format!("{}.recipe", engine.name));
            write(&path, &format!("{recipe}\n"))?;
            options.extend(["--recipe".to_owned(), path.display().to_string()]);
        }
        options.extend(args.cubin.then(|| "--cubin".to_owned()));
        let built = child::run(&args.trtc, &options, Instant::now() + LONGEST);
        let note = match built {
            Ok(done) => {
                let resident = done.resident.map(|bytes| bytes as f64 / 1e9);
                println!(
                    "{:16} {:6.1} s, {:.2} GB resident",
                    engine.name,
                    done.seconds,
                    resident.unwrap_or(f64::NAN)
                );
                json!({ "engine": engine.name, "options": engine.options, "recipe": engine.recipe, "target": args.target,
                    "cubin": args.cubin, "seconds": done.seconds, "resident_gb": resident })
            }
            Err(why) => {
                all = false;
                println!("{:16} failed: {why}", engine.name);
                json!({ "engine": engine.name, "options": engine.options, "error": why })
            }
        };
        renew(&mut notes, "engine", note);
    }
    for (name, program) in [("trtc", Some(&args.trtc)), ("serving", args.serving.as_ref())] {
        let Some(program) = program else { continue };
        let (bytes, stripped) = child::stripped(program, &args.out)?;
        let mb = bytes as f64 / 1e6;
        println!(
            "{name:16} {mb:6.1} MB{}",
            if stripped { ", stripped" } else { ", with symbols: there is no `strip`" }
        );
        renew(&mut notes, "binary", json!({ "binary": name, "stripped_mb": mb, "stripped": stripped }));
    }
    write(&args.out.join(NOTE), &format!("{:#}\n", Value::Array(notes)))?;
    Ok(all)
}

/// Puts a note in the place of the one with the same name.
fn renew(notes: &mut Vec<Value>, key: &str, note: Value) {
    notes.retain(|n| n[key] != note[key]);
    notes.push(note);
}
