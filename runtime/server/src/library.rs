//! Engines that may be loaded while the server runs: who may do so, where their files lie, and who opens them.
//!
//! The rest of the machine's files are nobody's: a path is resolved, links too, and must then lie in one folder. How an
//! engine is opened, on which device and with how much memory, is the caller's business.

use crate::api::fields::Fields;
use crate::app::App;
use crate::auth::Keys;
use crate::error::ApiError;
use crate::models::{Model, Place};
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;
use trtc_runtime::{Engine, Error};

/// Longest name of a model, bytes: it stands in logs, metrics and paths.
pub const LONGEST_NAME: usize = 128;

/// What is asked of who opens an engine.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Wish {
    /// The part that its KV cache is to have of the memory that is left for caches, above 0 and at most 1; without one
    /// it may have all.
    pub kv_fraction: Option<f64>,
    /// Bytes of KV caches that other models hold.
    pub kv_held: u64,
}

/// Opens an engine. Called by one thread at a time, and it may take its time.
pub type Open = dyn Fn(&Path, Wish) -> Result<Engine, Error> + Send + Sync;

/// What a server may load while it runs.
pub struct Library {
    keys: Keys,
    /// Without links.
    dir: PathBuf,
    /// As it was given.
    named: PathBuf,
    open: Box<Open>,
    /// Whoever loads an engine has it: how much memory is free is a question for one at a time.
    turn: Mutex<()>,
}

impl Library {
    /// Engines of a folder, for those who have one of the keys.
    ///
    /// # Errors
    /// There is no such folder.
    pub fn new(keys: Keys, dir: &Path, open: Box<Open>) -> std::io::Result<Library> {
        let (named, dir) = (std::path::absolute(dir)?, dir.canonicalize()?);
        if !dir.is_dir() {
            return Err(std::io::ErrorKind::NotADirectory.into());
        }
        Ok(Library { keys, dir, named, open, turn: Mutex::new(()) })
    }

    /// Those who may load and unload models.
    pub fn keys(&self) -> &Keys {
        &self.keys
    }

    /// The file that a request names, links resolved.
    ///
    /// # Errors
    /// It is not in the folder, or no file. What lies elsewhere makes no difference to the answer.
    fn find(&self, engine: &str) -> Result<PathBuf, ApiError> {
        let outside = || {
            ApiError::invalid(format!(
                "engine is {engine:?}: give a file in the folder of --engine-dir, without .."
            ))
            .param("engine")
        };
        let none = || {
            ApiError::refused(404, format!("there is no engine {engine:?} in the folder of --engine-dir"))
                .param("engine")
                .code("engine_not_found")
        };
        // By its words first: whether a file elsewhere exists must not show.
        let inside = match Path::new(engine) {
            path if path.is_absolute() => {
                let inside = path.strip_prefix(&self.named).or_else(|_| path.strip_prefix(&self.dir));
                inside.map_err(|_| outside())?
            }
            path => path,
        };
        let plain = |c: Component| matches!(c, Component::Normal(_) | Component::CurDir);
        if engine.is_empty() || !inside.components().all(plain) {
            return Err(outside());
        }
        let path = self.dir.join(inside).canonicalize().map_err(|_| none())?;
        if !path.starts_with(&self.dir) {
            return Err(outside());
        }
        // A pipe would be waited for.
        if path.is_file() { Ok(path) } else { Err(none()) }
    }
}

/// A request to load an engine.
#[derive(Debug)]
pub struct Load {
    /// The name that requests will give.
    pub model: String,
    engine: String,
    kv_fraction: Option<f64>,
}

impl Load {
    /// Reads a body: `model`, `engine`, `kv_fraction`.
    ///
    /// # Errors
    /// A field is missing, wrong or not known.
    pub fn parse(body: &[u8]) -> Result<Load, ApiError> {
        let mut fields = Fields::parse(body)?;
        let model = name(&mut fields)?;
        let none = || ApiError::invalid("engine is missing: give a file's path").param("engine");
        let engine = fields.text("engine")?.ok_or_else(none)?;
        let kv_fraction = fields.float("kv_fraction")?.map(f64::from);
        if kv_fraction.is_some_and(|f| !(f > 0.0 && f <= 1.0)) {
            let what = "kv_fraction is out of range: give a number above 0 and at most 1";
            return Err(ApiError::invalid(what).param("kv_fraction"));
        }
        fields.finish()?;
        Ok(Load { model, engine, kv_fraction })
    }

    /// Loads it and serves it under a name that was kept for it. Takes as long as the file takes to be read.
    ///
    /// # Errors
    /// There is no such file, it is no engine, or none for this machine, or there is no room. Nothing is left of it then.
    pub fn run(&self, app: &App, library: &Library, place: Place) -> Result<Arc<Model>, ApiError> {
        let path = library.find(&self.engine)?;
        let turn = library.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let begin = Instant::now();
        let kv_held = app.models.present().iter().map(|m| m.cache_bytes).sum();
        let refused = |e| ApiError::from(e).param("engine").code("engine_not_loaded");
        let wish = Wish { kv_fraction: self.kv_fraction, kv_held };
        let engine = (library.open)(&path, wish).map_err(refused)?;
        let starting = |e| ApiError::unavailable(format!("cannot start a thread for the engine: {e}"));
        let model = place.fill(Model::start(&self.model, engine, app.config.queue).map_err(starting)?)?;
        drop(turn);
        app.note(format!("{} was loaded in {:.1} s", self.model, begin.elapsed().as_secs_f64()));
        Ok(model)
    }
}

/// Reads the body of a request to unload a model: `model`.
///
/// # Errors
/// It is missing, or there is something else.
pub fn unloaded(body: &[u8]) -> Result<String, ApiError> {
    let mut fields = Fields::parse(body)?;
    let model = name(&mut fields)?;
    fields.finish()?;
    Ok(model)
}

/// The field `model`.
fn name(fields: &mut Fields) -> Result<String, ApiError> {
    let name = fields.text("model")?;
    let sane =
        |name: &String| !name.is_empty() && name.len() <= LONGEST_NAME && !name.chars().any(char::is_control);
    name.filter(sane).ok_or_else(|| {
        let what = format!("model is missing or no name: give up to {LONGEST_NAME} bytes of text");
        ApiError::invalid(what).param("model")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn library(dir: &Path) -> Library {
        let open = |path: &Path, _: Wish| Err(Error::user(path.display().to_string()));
        Library::new(Keys::none(), dir, Box::new(open)).unwrap()
    }

    #[test]
    fn paths_stay_in_the_folder() {
        let dir = tempfile::tempdir().unwrap();
        let (shelf, secret) = (dir.path().join("shelf"), dir.path().join("secret"));
        std::fs::create_dir_all(shelf.join("sub")).unwrap();
        for file in [&shelf.join("a"), &shelf.join("sub/b"), &secret] {
            std::fs::write(file, "x").unwrap();
        }
        std::os::unix::fs::symlink(&secret, shelf.join("out")).unwrap();
        std::os::unix::fs::symlink(shelf.join("a"), shelf.join("in")).unwrap();
        std::os::unix::fs::symlink(dir.path(), shelf.join("up")).unwrap();
        let library = library(&shelf);
        let real = shelf.canonicalize().unwrap();
        for (path, file) in [("a", "a"), ("./a", "a"), ("sub/b", "sub/b"), ("in", "a")] {
            assert_eq!(library.find(path).unwrap(), real.join(file));
        }
        assert_eq!(library.find(real.join("a").to_str().unwrap()).unwrap(), real.join("a"));
        let refused = |path: &str| library.find(path).unwrap_err().status;
        for path in
            ["", "/", "..", "../secret", "sub/../a", "sub/../../secret", "out", "up/secret", "/etc/passwd"]
        {
            assert_eq!(refused(path), 400, "{path:?}");
        }
        // What is not there is refused in the same words as what is.
        let of = |path: &str| library.find(path).unwrap_err().message.replace(path, "");
        assert_eq!(of("/etc/passwd"), of("/etc/no-such-file"));
        assert_eq!(of("../secret"), of("../no-such-file"));
        for path in ["none", "sub", ".", "a/b", "a\0b"] {
            assert_eq!(refused(path), 404, "{path:?}");
        }
        assert!(Library::new(Keys::none(), &secret, Box::new(|_, _| Err(Error::user("")))).is_err());
    }

    #[test]
    fn requests_are_read_or_refused_by_name() {
        let load = Load::parse(br#"{"model": "m", "engine": "x", "kv_fraction": 0.25}"#).unwrap();
        assert_eq!((&*load.model, &*load.engine, load.kv_fraction), ("m", "x", Some(0.25)));
        let long = format!(r#"{{"model": "{}", "engine": "x"}}"#, "m".repeat(129));
        for (body, param) in [
            ("{}", "model"),
            (r#"{"model": ""}"#, "model"),
            (r#"{"model": "a\nb", "engine": "x"}"#, "model"),
            (&long, "model"),
            (r#"{"model": "m"}"#, "engine"),
            (r#"{"model": "m", "engine": 3}"#, "engine"),
            (r#"{"model": "m", "engine": "x", "kv_fraction": 0}"#, "kv_fraction"),
            (r#"{"model": "m", "engine": "x", "kv_fraction": 1.5}"#, "kv_fraction"),
            (r#"{"model": "m", "engine": "x", "device": "cuda:1"}"#, "device"),
        ] {
            let error = Load::parse(body.as_bytes()).unwrap_err();
            assert_eq!((error.status, error.param.as_deref()), (400, Some(param)), "{body}");
        }
        assert_eq!(unloaded(br#"{"model": "m"}"#).unwrap(), "m");
        assert_eq!(unloaded(br#"{"model": "m", "x": 1}"#).unwrap_err().param.as_deref(), Some("x"));
    }
}
