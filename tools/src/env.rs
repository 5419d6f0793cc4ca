//! The environment: every variable that trtc reads, in one place. No other crate reads any.

#[cfg(feature = "compiler")]
use crate::render::Failure;
use std::io::IsTerminal;
#[cfg(feature = "compiler")]
use std::path::{Path, PathBuf};
#[cfg(feature = "compiler")]
use trtc_codegen::ptxas::{INSTALL, Ptxas};

/// A variable that is set and not empty.
fn var(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|v| !v.is_empty())
}

/// `NO_COLOR` unset, and the terminal takes colours.
pub fn colours(stream: &impl IsTerminal) -> bool {
    stream.is_terminal() && var("NO_COLOR").is_none() && var("TERM").as_deref() != Some("dumb")
}

/// `TRTC_API_KEY`: a key that `trtc serve` takes.
pub fn api_key() -> Option<String> {
    var("TRTC_API_KEY")
}

/// `TRTC_ADMIN_KEY`: a key of who may load and unload models of `trtc serve`.
pub fn admin_key() -> Option<String> {
    var("TRTC_ADMIN_KEY")
}

/// `TRTC_API_KEY`, or else `OPENAI_API_KEY`: the key that `trtc bench serve` sends.
pub fn client_key() -> Option<String> {
    api_key().or_else(|| var("OPENAI_API_KEY"))
}

/// `TRTC_SPEC=1`: print, parse and compare the module after each pass.
#[cfg(feature = "compiler")]
pub fn spec() -> bool {
    var("TRTC_SPEC").is_some_and(|v| v != "0")
}

/// `TRTC_MODELS`, or `~/.cache/trtc/models`: where a bare file name of a model is looked up.
#[cfg(feature = "compiler")]
fn models() -> Option<PathBuf> {
    var("TRTC_MODELS")
        .map(PathBuf::from)
        .or_else(|| Some(Path::new(&var("HOME")?).join(".cache/trtc/models")))
}

/// The path of a model: as given, or a bare name in the models folder if nothing lies at the name itself.
#[cfg(feature = "compiler")]
pub fn model_path(given: &Path) -> PathBuf {
    let bare = given.components().count() == 1 && !given.exists();
    match models() {
        Some(dir) if bare && dir.join(given).exists() => dir.join(given),
        _ => given.to_path_buf(),
    }
}

/// NVIDIA's assembler: on `PATH`, or where scripts/setup.sh puts it.
#[cfg(feature = "compiler")]
pub fn ptxas() -> Result<Ptxas, Failure> {
    let (path, home) = (var("PATH"), var("HOME").map(PathBuf::from));
    Ptxas::search(path.as_deref().map(std::ffi::OsStr::new), home.as_deref()).ok_or_else(|| {
        Failure::user("--cubin needs ptxas, and there is none on PATH or in ~/.cache/trtc/ptxas")
            .notes(vec![format!("PATH is {}", path.as_deref().unwrap_or("empty"))])
            .help(INSTALL)
    })
}
