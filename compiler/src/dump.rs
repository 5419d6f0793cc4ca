//! The dump folder: the module after each pass, what changed, the kernels, timings, and the command that repeats
//! each step. Written for a stranger who opens the folder.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use trtc_ir::{Diag, Loc};
use trtc_passes::Step;

/// A dump folder, or nothing if none was asked for.
pub(crate) struct Dump {
    dir: Option<PathBuf>,
    /// Flags that each command repeats.
    flags: String,
    /// File name of the latest module.
    last: String,
    commands: String,
    timings: Vec<(String, f64)>,
    /// First thing that could not be written.
    failed: Option<Diag>,
}

impl Dump {
    pub(crate) fn new(dir: Option<&Path>, target: &str, precision: &str) -> Result<Dump, Diag> {
        if let Some(dir) = dir {
            fs::create_dir_all(dir).map_err(|e| cannot(dir, &e))?;
        }
        Ok(Dump {
            dir: dir.map(Path::to_owned),
            flags: format!("--target {target} --precision {precision}"),
            last: String::new(),
            commands: String::new(),
            timings: Vec::new(),
            failed: None,
        })
    }

    /// True if the module's text is wanted.
    pub(crate) fn wanted(&self) -> bool {
        self.dir.is_some()
    }

    /// Writes a file; the first failure is kept for [`Dump::finish`].
    pub(crate) fn file(&mut self, name: &str, text: &str) {
        let Some(dir) = &self.dir else { return };
        let path = dir.join(name);
        let made = path.parent().map_or(Ok(()), fs::create_dir_all);
        if let Err(e) = made.and_then(|()| fs::write(&path, text)) {
            self.failed.get_or_insert_with(|| cannot(&path, &e));
        }
    }

    /// The imported module, before any pass.
    pub(crate) fn import(&mut self, text: &str, command: &str, seconds: f64) {
        self.last = "00-import.mlir".to_owned();
        self.file("00-import.mlir", text);
        let _ = writeln!(self.commands, "{command} > 00-import.mlir");
        self.timings.push(("import".to_owned(), seconds));
    }

    /// One pass.
    pub(crate) fn step(&mut self, step: &Step<'_>) {
        let stem = format!("{:02}-{}", step.index, step.pass.name);
        let file = format!("{stem}.mlir");
        self.file(&file, step.after);
        if step.changed {
            self.file(&format!("{stem}.diff"), &step.diff());
        }
        let _ = writeln!(
            self.commands,
            "trtc opt {} --pass {} {} > {file}",
            self.last, step.pass.name, self.flags
        );
        self.last = file;
    }

    /// Time of something that is not shown as a step.
    pub(crate) fn time(&mut self, what: &str, seconds: f64) {
        self.timings.push((what.to_owned(), seconds));
    }

    /// Writes what is known at the end; reports the first failure of all.
    pub(crate) fn finish(mut self) -> Result<Vec<(String, f64)>, Diag> {
        let rows: Vec<serde_json::Value> =
            self.timings.iter().map(|(step, s)| serde_json::json!({ "step": step, "seconds": s })).collect();
        self.file("timings.json", &format!("{:#}\n", serde_json::Value::from(rows)));
        let commands = format!("# Each line repeats one step in this folder.\n{}", self.commands);
        self.file("commands.sh", &commands);
        self.failed.map_or(Ok(self.timings), Err)
    }
}

fn cannot(path: &Path, e: &std::io::Error) -> Diag {
    Diag::user(&Loc::name(path.display().to_string()), format!("cannot be written: {e}"))
        .help("give another --dump-dir, or make room")
}
