//! A command run to its end or a deadline: its output, its time, the most memory that it held.

use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Between two looks at a running command.
const LOOK: Duration = Duration::from_millis(5);

/// What a command that succeeded gave.
#[derive(Clone, Debug)]
pub struct Done {
    pub stdout: String,
    /// From start to end.
    pub seconds: f64,
    /// Most resident memory, bytes, where the system tells.
    pub resident: Option<u64>,
}

/// Runs a program. An error is one line: that it cannot be started, the end of what it said, or that its time was over.
pub fn run(program: &Path, args: &[String], until: Instant) -> Result<Done, String> {
    let start = Instant::now();
    if start >= until {
        return Err("no time was left".to_owned());
    }
    let mut child = Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| format!("{} cannot be started: {e}", program.display()))?;
    let (stdout, stderr) = (reader(child.stdout.take()), reader(child.stderr.take()));
    let mut resident = None;
    let ended = loop {
        resident = peak(child.id()).or(resident);
        match child.try_wait() {
            Ok(Some(status)) => break Ok(status),
            Ok(None) if Instant::now() < until => std::thread::sleep(LOOK),
            Ok(None) => {
                // A failure to kill is that of one that has ended meanwhile.
                let _ = child.kill();
                let _ = child.wait();
                break Err(format!("stopped after {:.0} s: no time was left", start.elapsed().as_secs_f64()));
            }
            Err(e) => break Err(format!("waiting for {}: {e}", program.display())),
        }
    };
    let seconds = start.elapsed().as_secs_f64();
    let status = ended?;
    let text = |r: std::thread::JoinHandle<String>| r.join().unwrap_or_default();
    let (stdout, stderr) = (text(stdout), text(stderr));
    if status.success() {
        return Ok(Done { stdout, seconds, resident });
    }
    // What is wrong stands first, where and what to do follow.
    let said = stderr.lines().map(str::trim).find(|l| !l.is_empty() && !l.starts_with("warning"));
    Err(said.map_or_else(|| format!("ended with {status}"), str::to_owned))
}

/// Reads all of a pipe beside the command, which would wait for a full one.
fn reader(pipe: Option<impl Read + Send + 'static>) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            // What came until an error is what there is.
            let _ = pipe.read_to_end(&mut bytes);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// Most memory that a running process has held, bytes.
fn peak(process: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
    Some(1024 * line.split_whitespace().next()?.parse::<u64>().ok()?)
}

/// Bytes of a program without its symbols, and whether they could be left out: `strip` may not be there.
pub fn stripped(program: &Path, folder: &Path) -> Result<(u64, bool), String> {
    let io = |e: std::io::Error| format!("{}: {e}", program.display());
    let whole = std::fs::metadata(program).map_err(io)?.len();
    let copy = folder.join(format!(".stripped-{}", std::process::id()));
    let done = Command::new("strip").arg("-o").arg(&copy).arg(program).stderr(Stdio::null()).status();
    let bytes = std::fs::metadata(&copy).map(|m| m.len());
    // It is only there if it was made.
    let _ = std::fs::remove_file(&copy);
    match (done, bytes) {
        (Ok(status), Ok(bytes)) if status.success() => Ok((bytes, true)),
        _ => Ok((whole, false)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str, seconds: f64) -> Result<Done, String> {
        let args = ["-c".to_owned(), script.to_owned()];
        run(Path::new("/bin/sh"), &args, Instant::now() + Duration::from_secs_f64(seconds))
    }

    #[test]
    fn output_time_and_memory_are_taken() {
        let done = sh("echo out; echo noise >&2; sleep 0.05", 60.0).unwrap();
        assert_eq!(done.stdout, "out\n");
        assert!(done.seconds >= 0.05, "{done:?}");
        if cfg!(target_os = "linux") {
            assert!(done.resident.is_some_and(|r| r > 10_000), "{done:?}");
        }
    }

    #[test]
    fn a_failure_is_the_line_that_says_so() {
        let script = "echo 'error: no'; printf 'warning: w\nunsupported: yes\n  help: x\n' >&2; exit 1";
        assert_eq!(sh(script, 60.0).unwrap_err(), "unsupported: yes");
        assert!(sh("exit 3", 60.0).unwrap_err().contains('3'));
        assert!(
            run(Path::new("/no/such"), &[], Instant::now() + LOOK * 1000).unwrap_err().contains("/no/such")
        );
    }

    #[test]
    fn nothing_runs_past_its_time() {
        let start = Instant::now();
        assert!(sh("exec sleep 20", 0.1).unwrap_err().contains("no time"));
        assert!(start.elapsed().as_secs() < 10);
        assert_eq!(sh("echo", 0.0).unwrap_err(), "no time was left");
    }
}
