//! `goals run`: each job of the table by the command line of trtc, each row as soon as it is known.

use crate::build::{engine_path, notes};
use crate::child;
use crate::report::{Machine, Row, header, summary};
use crate::table::{Job, Kind, Table};
use crate::weights;
use serde_json::Value;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// The `trtc` to measure; a serving-only one will do
    #[arg(long, value_name = "FILE", default_value = "target/release/trtc")]
    pub trtc: PathBuf,
    /// Folder that `goals build` has written
    #[arg(long, value_name = "FOLDER")]
    pub engines: PathBuf,
    /// Folder for the engines that are written to be loaded, 25 GB in all; that of the engines if left out
    #[arg(long, value_name = "FOLDER")]
    pub scratch: Option<PathBuf>,
    /// Only rows that contain one of these, such as 'GEMM fp8' or '8B fp8 decode'
    #[arg(long, value_name = "TEXT", num_args = 1..)]
    pub only: Vec<String>,
    /// Also write everything as one JSON object, anew after each job
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Seconds in all; what would come later is not measured
    #[arg(long, value_name = "SECONDS", default_value_t = 540)]
    pub seconds: u64,
    /// List the rows and measure nothing
    #[arg(long)]
    pub list: bool,
}

/// What a job has given: its rows, or for all of them why there are none.
struct Output {
    rows: Vec<Value>,
    copy: Option<f64>,
    device: Option<String>,
}

/// Measures and prints. Fails only if nothing can be written.
pub fn run(table: &Table, args: &Args, out: &mut dyn Write) -> std::io::Result<Vec<Row>> {
    let start = Instant::now();
    let until = start + Duration::from_secs(args.seconds);
    let mut machine = Machine { driver: driver(), ..Machine::default() };
    let mut rows: Vec<Row> = Vec::new();
    for (name, text) in &table.source {
        writeln!(out, "{name}: {text}")?;
    }
    let mut begun = false;
    for job in &table.jobs {
        let wanted = wanted(job, &args.only);
        if wanted.is_empty() {
            continue;
        }
        let output = if args.list { Err("listed".to_owned()) } else { measure(job, &wanted, args, until) };
        if let Ok(output) = &output {
            machine.device = machine.device.or(output.device.clone());
            machine.copies.extend(output.copy);
        }
        if !begun {
            writeln!(out, "\n{}\n{}", machine.line(), header())?;
            begun = true;
        }
        for (s, i) in wanted {
            let series = &job.series[s];
            let found = |o: &Output| series.find(&job.key, i, &o.rows, o.copy);
            let row = Row { outcome: output.as_ref().map_err(Clone::clone).and_then(found), ..series.row(i) };
            writeln!(out, "{}", row.line())?;
            rows.push(row);
        }
        out.flush()?;
        if let Some(path) = &args.json {
            std::fs::write(path, format!("{:#}\n", machine.json(&rows)))?;
        }
    }
    summary(out, &machine, &rows, start.elapsed().as_secs_f64())?;
    Ok(rows)
}

/// Numbers of series and of the rows within them that are wanted.
fn wanted(job: &Job, only: &[String]) -> Vec<(usize, usize)> {
    let all = job.series.iter().enumerate().flat_map(|(s, series)| (0..series.at.len()).map(move |i| (s, i)));
    let fits = |&(s, i): &(usize, usize)| {
        only.is_empty()
            || only.iter().any(|o| job.series[s].row(i).what.to_lowercase().contains(&o.to_lowercase()))
    };
    all.filter(fits).collect()
}

/// Runs a job.
fn measure(job: &Job, wanted: &[(usize, usize)], args: &Args, until: Instant) -> Result<Output, String> {
    let only_rows = |rows| Output { rows, copy: None, device: None };
    let notes = notes(&args.engines);
    if job.kind == Kind::Build {
        return if notes.is_empty() {
            Err("the folder has no note of a build".into())
        } else {
            Ok(only_rows(notes))
        };
    }
    let engine = engine_path(&args.engines, &job.engine);
    if !engine.exists() {
        let why = notes.iter().find(|n| n["engine"] == *job.engine).and_then(|n| n["error"].as_str());
        return Err(format!("no {}: {}", engine.display(), why.unwrap_or("not built")));
    }
    if job.kind == Kind::Load {
        return Ok(only_rows(vec![load(job, &engine, args, until)?]));
    }
    let done = child::run(&args.trtc, &command(job, wanted, &engine), until)?;
    let output: Value =
        serde_json::from_str(&done.stdout).map_err(|e| format!("the output is no JSON: {e}"))?;
    Ok(Output {
        rows: output["rows"].as_array().cloned().ok_or("the output has no rows")?,
        copy: output["copy_bandwidth_gb_s"].as_f64(),
        device: output["device"].as_str().map(str::to_owned),
    })
}

/// The arguments of a job for the wanted rows.
fn command(job: &Job, wanted: &[(usize, usize)], engine: &Path) -> Vec<String> {
    let mut at: Vec<u64> = wanted.iter().map(|&(s, i)| job.series[s].at[i]).collect();
    at.sort_unstable();
    at.dedup();
    let mut kernels: Vec<&str> = wanted.iter().map(|&(s, _)| job.series[s].kernel.as_str()).collect();
    kernels.dedup();
    let at: Vec<String> = at.iter().map(u64::to_string).collect();
    let fill = |word: &str| match word {
        "{engine}" => engine.display().to_string(),
        "{at}" => at.join(","),
        "{kernel}" => kernels.join(","),
        other => other.to_owned(),
    };
    job.run.split_whitespace().map(fill).collect()
}

/// Seconds of a command on an engine with weights, the second time: its file is in the page cache.
fn load(job: &Job, engine: &Path, args: &Args, until: Instant) -> Result<Value, String> {
    let folder = args.scratch.as_ref().unwrap_or(&args.engines);
    if Instant::now() >= until {
        return Err("no time was left".to_owned());
    }
    let whole = folder.join(format!("{}.weights-{}", job.engine, std::process::id()));
    weights::put_in(engine, &whole).map_err(|e| e.to_string())?;
    let words = command(job, &[], &whole);
    let once = || child::run(&args.trtc, &words, until);
    let done = once().and_then(|_| once());
    // It is as large as the model, and of no further use.
    let _ = std::fs::remove_file(&whole);
    Ok(serde_json::json!({ "seconds": done?.seconds }))
}

/// The version of NVIDIA's driver, if the system tells.
fn driver() -> Option<String> {
    let version = |text: &str| {
        let number = |w: &&str| w.contains('.') && w.chars().all(|c| c.is_ascii_digit() || c == '.');
        text.lines().next()?.split_whitespace().find(number).map(str::to_owned)
    };
    let file = std::fs::read_to_string("/proc/driver/nvidia/version").ok();
    file.as_deref().and_then(version).or_else(|| {
        let args = ["--query-gpu=driver_version", "--format=csv,noheader"].map(str::to_owned);
        let until = Instant::now() + Duration::from_secs(20);
        version(&child::run(Path::new("nvidia-smi"), &args, until).ok()?.stdout)
    })
}

#[cfg(test)]
mod tests;
