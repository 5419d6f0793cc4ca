//! Assembles the kernels of a target with ptxas and says which it refuses.

use crate::test::Target;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use trtc_runtime::Error;

/// Names of the tests that ptxas refuses, with what it says. `only` is what the names begin with.
pub fn check(ptxas: &Path, target: Target, only: &str) -> Result<(usize, Vec<(String, String)>), Error> {
    let mut tests = crate::table::of(target);
    tests.retain(|t| t.name.starts_with(only));
    let (next, refused) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let worker = || -> Result<(), Error> {
        while let Some(test) = tests.get(next.fetch_add(1, Ordering::Relaxed)) {
            if let Err(why) = assemble(ptxas, target, &test.ptx(target))? {
                let mut all = refused.lock().map_err(|_| Error::bug("a thread has failed"))?;
                all.push((test.name.clone(), why));
            }
        }
        Ok(())
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        let all: Vec<_> = (0..threads).map(|_| scope.spawn(worker)).collect();
        all.into_iter().try_for_each(|t| t.join().map_err(|_| Error::bug("a thread has failed"))?)
    })?;
    let mut refused = refused.into_inner().map_err(|_| Error::bug("a thread has failed"))?;
    refused.sort();
    Ok((tests.len(), refused))
}

/// Assembles one module; the inner error is what ptxas says of it.
fn assemble(ptxas: &Path, target: Target, text: &str) -> Result<Result<(), String>, Error> {
    let cannot = |e: std::io::Error| Error::user(format!("cannot run {}: {e}", ptxas.display()));
    let mut child = Command::new(ptxas)
        .args(["-arch", target.name(), "-o", "/dev/null", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(cannot)?;
    if let Some(mut input) = child.stdin.take() {
        input.write_all(text.as_bytes()).map_err(cannot)?;
    }
    let done = child.wait_with_output().map_err(cannot)?;
    if done.status.success() {
        return Ok(Ok(()));
    }
    let said = [done.stdout, done.stderr].map(|b| String::from_utf8_lossy(&b).into_owned()).concat();
    Ok(Err(said.trim().to_owned()))
}
