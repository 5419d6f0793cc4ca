//! NVIDIA's assembler, where it is found: used to check kernels and to make cubins. Building an engine needs it not.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use trtc_ir::{Diag, Loc};

/// Advice that means the kernel is not what was meant: `setmaxnreg` ignored, `wgmma` serialised, a wait inserted.
const FORBIDDEN: [&str; 3] = ["C7508", "C7510", "C7517"];

/// How to come by an assembler.
pub const INSTALL: &str = "scripts/setup.sh puts ptxas of the PyPI package nvidia-cuda-nvcc into ~/.cache/trtc/ptxas; or put another on PATH";

/// An assembler.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ptxas {
    path: PathBuf,
}

/// What it made of a module with one entry point.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assembled {
    /// Binary for the chip.
    pub cubin: Vec<u8>,
    /// Registers of a thread.
    pub registers: u32,
    /// Static shared memory, bytes.
    pub shared: u32,
    /// Stack of a thread, bytes.
    pub stack: u32,
}

impl Ptxas {
    /// The assembler at `path`; whether it is there is found out when it runs.
    pub fn at(path: impl Into<PathBuf>) -> Ptxas {
        Ptxas { path: path.into() }
    }

    /// Looks in the folders of `path` (the value of `PATH`), then in `home/.cache/trtc/ptxas`.
    pub fn search(path: Option<&OsStr>, home: Option<&Path>) -> Option<Ptxas> {
        let folders = path.map(|p| std::env::split_paths(p).collect::<Vec<_>>()).unwrap_or_default();
        let own = home.map(|h| h.join(".cache/trtc/ptxas"));
        folders.into_iter().chain(own).map(|f| f.join("ptxas")).find(|f| f.is_file()).map(Ptxas::at)
    }

    /// Its name and version: `ptxas V13.0.88`. What it makes depends on it.
    pub fn version(&self) -> Result<String, Diag> {
        let ran = Command::new(&self.path).arg("--version").output();
        let ran = ran.map_err(|e| self.cannot_run("ptxas", &e))?;
        let text = String::from_utf8_lossy(&ran.stdout).into_owned();
        let version = text.split_whitespace().find(|w| w.starts_with('V') && w.contains('.'));
        version.map(|v| format!("ptxas {v}")).ok_or_else(|| {
            let what = format!("{} does not say its version", self.path.display());
            Diag::user(&Loc::name("ptxas"), what).help(INSTALL)
        })
    }

    fn cannot_run(&self, name: &str, e: &std::io::Error) -> Diag {
        Diag::user(&Loc::name(name), format!("cannot run {}: {e}", self.path.display())).help(INSTALL)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Assembles `ptx` for `arch` (`sm_90a`) with files in `folder`. Spilled registers and advice that a kernel must
    /// not earn are errors. On an error the input stays in `folder`, and the error says the command.
    pub fn assemble(&self, name: &str, ptx: &str, arch: &str, folder: &Path) -> Result<Assembled, Diag> {
        let loc = Loc::name(name);
        let input = folder.join(format!("{name}.{arch}.ptx"));
        let output = folder.join(format!("{name}.{arch}.cubin"));
        let io = |what: &str, path: &Path, e: std::io::Error| {
            Diag::user(&loc, format!("cannot {what} {}: {e}", path.display()))
                .help("name a folder that can be written")
        };
        std::fs::write(&input, ptx).map_err(|e| io("write", &input, e))?;
        let mut command = Command::new(&self.path);
        command.args(["-v", "-warn-spills", "-arch", arch, "-o"]).arg(&output).arg(&input);
        let shown = shown(&command);
        let ran = command.output().map_err(|e| self.cannot_run(name, &e))?;
        let log = format!("{}{}", String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
        let fail = |what: String| {
            let diag = Diag::bug(&loc, format!("kernel {name} for {arch}: {what}"));
            let diag = log.lines().take(40).fold(diag, |d, line| d.note(line.trim().to_owned()));
            diag.help(format!("the input was kept; run: {shown}"))
        };
        if !ran.status.success() {
            return Err(fail(format!("ptxas failed ({})", ran.status)));
        }
        if let Some(code) = FORBIDDEN.iter().find(|code| log.contains(**code)) {
            return Err(fail(format!("ptxas advises {code}")));
        }
        let report = parse(&log).ok_or_else(|| fail("ptxas reported no resources".to_owned()))?;
        if report.spills > 0 {
            return Err(fail(format!("{} bytes of registers are spilled", report.spills)));
        }
        let cubin = std::fs::read(&output).map_err(|e| io("read", &output, e))?;
        for file in [&input, &output] {
            std::fs::remove_file(file).map_err(|e| io("remove", file, e))?;
        }
        Ok(Assembled { cubin, registers: report.registers, shared: report.shared, stack: report.stack })
    }
}

/// A command as one would type it.
fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let quoted = words.map(|w| {
        let w = w.to_string_lossy();
        let plain = w.chars().all(|c| c.is_ascii_alphanumeric() || "/._-+=".contains(c));
        if plain { w.into_owned() } else { format!("'{}'", w.replace('\'', r"'\''")) }
    });
    quoted.collect::<Vec<_>>().join(" ")
}

#[derive(Debug, PartialEq, Eq, Default)]
struct Report {
    registers: u32,
    shared: u32,
    stack: u32,
    spills: u32,
}

/// Sums what `-v` says of the entry points; `None` if it says nothing.
fn parse(log: &str) -> Option<Report> {
    let mut report = Report::default();
    let mut found = false;
    for line in log.lines() {
        if let Some(n) = number_before(line, " bytes stack frame") {
            report.stack = report.stack.max(n);
        }
        for spill in [" bytes spill stores", " bytes spill loads"] {
            report.spills += number_before(line, spill).unwrap_or(0);
        }
        if let Some(n) = number_before(line, " registers") {
            found = true;
            report.registers = report.registers.max(n);
            report.shared = report.shared.max(number_before(line, " bytes smem").unwrap_or(0));
        }
    }
    found.then_some(report)
}

/// The number that stands right before `unit`.
fn number_before(line: &str, unit: &str) -> Option<u32> {
    let before = &line[..line.find(unit)?];
    let digits = before.rfind(|c: char| !c.is_ascii_digit()).map_or(0, |i| i + 1);
    before.get(digits..)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    const LOG: &str = "\
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'k' for 'sm_80'
ptxas info    : Function properties for k
    8 bytes stack frame, 4 bytes spill stores, 12 bytes spill loads
ptxas info    : Used 40 registers, used 1 barriers, 8 bytes cumulative stack size, 1024 bytes smem, 400 bytes cmem[0]
";

    #[test]
    fn reads_resources() {
        let report = Report { registers: 40, shared: 1024, stack: 8, spills: 16 };
        assert_eq!(parse(LOG), Some(report));
        assert_eq!(parse("ptxas info    : 0 bytes gmem\n"), None);
    }

    #[test]
    fn shows_a_command_that_can_be_pasted() {
        let mut c = Command::new("/a b/ptxas");
        c.arg("-v").arg("it's");
        assert_eq!(shown(&c), r"'/a b/ptxas' -v 'it'\''s'");
    }

    /// Held by tests that start programs: one that starts while another's script is open for writing keeps it open, and a
    /// file that is open for writing cannot be executed.
    static STARTS: Mutex<()> = Mutex::new(());

    #[cfg(unix)]
    fn executable(path: &Path, text: &str) {
        use std::os::unix::fs::PermissionsExt as _;
        std::fs::write(path, text).unwrap();
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// A script that stands in for ptxas: says `log`, writes an output, exits with `code`.
    #[cfg(unix)]
    fn stand_in(folder: &Path, log: &str, code: u32) -> Ptxas {
        let path = folder.join("ptxas");
        let script = format!(
            "#!/bin/sh\nwhile [ \"$1\" != -o ]; do shift; done\nprintf cubin > \"$2\"\ncat >&2 <<'E'\n{log}E\nexit {code}\n"
        );
        executable(&path, &script);
        Ptxas::at(path)
    }

    #[cfg(unix)]
    #[test]
    fn spills_advice_and_failures_are_errors_that_keep_the_input() {
        let _alone = STARTS.lock();
        let folder = tempfile::tempdir().unwrap();
        let input = folder.path().join("k.sm_80.ptx");
        let advice = "ptxas info    : (C7510) Potential Performance Loss\n";
        for (log, code, wanted) in [
            (LOG, 0, "16 bytes of registers are spilled"),
            (advice, 0, "ptxas advises C7510"),
            ("ptxas fatal   : syntax error\n", 255, "ptxas failed"),
            ("nothing\n", 0, "no resources"),
        ] {
            let e =
                stand_in(folder.path(), log, code).assemble("k", "text", "sm_80", folder.path()).unwrap_err();
            assert!(e.message.contains(wanted), "{e}");
            assert!(e.notes.iter().any(|n| log.contains(n)), "{e}");
            assert!(e.help.unwrap().ends_with(&input.display().to_string()));
            assert_eq!(std::fs::read_to_string(&input).unwrap(), "text");
        }
        let good = LOG.replace("4 bytes spill", "0 bytes spill").replace("12 bytes spill", "0 bytes spill");
        let made = stand_in(folder.path(), &good, 0).assemble("k", "text", "sm_80", folder.path()).unwrap();
        assert_eq!(made, Assembled { cubin: b"cubin".to_vec(), registers: 40, shared: 1024, stack: 8 });
        assert!(!input.exists());
    }

    #[cfg(unix)]
    #[test]
    fn it_says_its_version_or_is_refused() {
        let _alone = STARTS.lock();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ptxas");
        for (says, wanted) in [
            ("Cuda compilation tools, release 13.0, V13.0.88\nBuild cuda_13.0.r13.0", Ok("ptxas V13.0.88")),
            ("Very old", Err("does not say its version")),
        ] {
            executable(&path, &format!("#!/bin/sh\ncat <<'E'\n{says}\nE\n"));
            match (Ptxas::at(&path).version(), wanted) {
                (Ok(found), Ok(wanted)) => assert_eq!(found, wanted),
                (Err(e), Err(wanted)) => assert!(e.message.contains(wanted) && e.help.is_some(), "{e}"),
                (found, wanted) => panic!("{found:?}, wanted {wanted:?}"),
            }
        }
    }

    #[test]
    fn a_missing_assembler_is_an_error() {
        let _alone = STARTS.lock();
        let folder = tempfile::tempdir().unwrap();
        let e = Ptxas::at("/nowhere/ptxas").assemble("k", "", "sm_80", folder.path()).unwrap_err();
        assert!(e.message.starts_with("cannot run /nowhere/ptxas"), "{e}");
        assert_eq!(Ptxas::at("/nowhere/ptxas").version().unwrap_err().help.as_deref(), Some(INSTALL));
        assert_eq!(Ptxas::search(Some(OsStr::new("/nowhere")), Some(folder.path())), None);
    }
}
