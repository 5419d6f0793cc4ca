//! Engines under their names: a set that changes while the server runs.
//!
//! Who reads takes a snapshot and holds no lock; a request holds its model for as long as it needs it. A name is taken
//! from the moment in which an engine begins to be loaded until the last of it is gone. Opens no file, knows no HTTP.

use crate::api::params::Facts;
use crate::app::unix_ms;
use crate::desk::{Bounds, Desk};
use crate::error::ApiError;
use crate::worker::{self, Pulse};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::thread::JoinHandle;
use trtc_runtime::Engine;

/// An engine under its name.
#[derive(Debug)]
pub struct Model {
    /// The name that requests give.
    pub name: Arc<str>,
    /// What parsing needs.
    pub facts: Facts,
    /// Where requests wait.
    pub desk: Arc<Desk>,
    /// Signs of life.
    pub pulse: Arc<Pulse>,
    /// A token that a prompt can begin with.
    pub first_token: u32,
    /// When it was loaded, seconds since 1970.
    pub created: u64,
    /// Bytes of its KV cache.
    pub cache_bytes: u64,
    thread: JoinHandle<()>,
}

impl Model {
    /// Starts the thread of an engine.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn start(name: &str, engine: Engine, queue: Bounds) -> std::io::Result<Model> {
        let batch = engine.manifest().dims.max_batch;
        let facts = Facts {
            limits: engine.limits(),
            sampling: engine.default_sampling(),
            tokenizer: engine.tokenizer().cloned(),
            template: engine.chat_template().cloned(),
            grammars: engine.grammars().cloned(),
        };
        let desk = Arc::new(Desk::new(queue, batch + worker::surplus(batch)));
        let pulse = Arc::new(Pulse::default());
        let first_token = engine.manifest().model.bos.unwrap_or(0);
        let cache_bytes = engine.cache_bytes();
        let thread = worker::spawn(name, engine, Arc::clone(&desk), Arc::clone(&pulse))?;
        let created = unix_ms() / 1000;
        Ok(Model { name: name.into(), facts, desk, pulse, first_token, created, cache_bytes, thread })
    }

    /// True once its thread has ended, and its memory is given back.
    pub fn is_over(&self) -> bool {
        self.thread.is_finished()
    }
}

/// What readers take: models that do not change, in the order in which they came.
pub type Snapshot = Arc<[Arc<Model>]>;

#[derive(Debug, Default)]
struct State {
    serving: Snapshot,
    /// Not served any more, but not gone.
    leaving: Vec<Arc<Model>>,
    /// Names of those on their way.
    loading: Vec<Arc<str>>,
    /// The server is at its end.
    closed: bool,
}

/// All models.
#[derive(Debug, Default)]
pub struct Models(RwLock<State>);

/// A name that is kept for an engine while it is loaded; dropped, it is free again.
#[derive(Debug)]
pub struct Place {
    models: Arc<Models>,
    /// The name.
    pub name: Arc<str>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.models.write().loading.retain(|name| *name != self.name);
    }
}

impl Place {
    /// Serves a model under the name.
    ///
    /// # Errors
    /// The server has come to its end meanwhile; the model's thread ends too.
    pub fn fill(self, model: Model) -> Result<Arc<Model>, ApiError> {
        let model = Arc::new(model);
        let mut state = self.models.write();
        if state.closed {
            model.desk.close(ENDING);
            // The end waits for its thread.
            state.leaving.push(model);
            return Err(ApiError::unavailable(ENDING));
        }
        state.serving = state.serving.iter().chain([&model]).cloned().collect();
        Ok(model)
    }
}

/// Why nothing is answered at the end.
pub const ENDING: &str = "the server is shutting down";

fn conflict(what: String) -> ApiError {
    ApiError::refused(409, what).param("model").code("model_conflict")
}

impl Models {
    /// Each change is one assignment, so a thread that panicked left nothing half done.
    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Those that take requests.
    pub fn serving(&self) -> Snapshot {
        Arc::clone(&self.read().serving)
    }

    /// Those that take requests, then those that still answer some: all that have a thread.
    pub fn present(&self) -> Vec<Arc<Model>> {
        let state = self.read();
        state.serving.iter().chain(&state.leaving).cloned().collect()
    }

    /// True while threads of engines, or such that load one, have not ended.
    pub fn is_busy(&self) -> bool {
        let state = self.read();
        !state.loading.is_empty() || state.serving.iter().chain(&state.leaving).any(|m| !m.is_over())
    }

    /// Keeps a name for an engine that is about to be loaded.
    ///
    /// # Errors
    /// The name is taken, or the server is at its end.
    pub fn reserve(self: &Arc<Models>, name: &str) -> Result<Place, ApiError> {
        let mut state = self.write();
        if state.closed {
            return Err(ApiError::unavailable(ENDING));
        }
        let taken = |models: &[Arc<Model>]| models.iter().any(|m| *m.name == *name);
        if taken(&state.serving) {
            return Err(conflict(format!(
                "there is a model {name:?}: unload it first, or give another name"
            )));
        }
        if taken(&state.leaving) {
            return Err(conflict(format!("the model {name:?} is being unloaded: ask again when it is gone")));
        }
        if state.loading.iter().any(|n| **n == *name) {
            return Err(conflict(format!("a model {name:?} is being loaded already")));
        }
        let name: Arc<str> = name.into();
        state.loading.push(Arc::clone(&name));
        Ok(Place { models: Arc::clone(self), name })
    }

    /// Takes a model out of those that take requests; it is to be forgotten once it is over.
    ///
    /// # Errors
    /// There is none, or none yet, or not any more.
    pub fn withdraw(&self, name: &str) -> Result<Arc<Model>, ApiError> {
        let mut state = self.write();
        let is = |m: &&Arc<Model>| *m.name == *name;
        let Some(model) = state.serving.iter().find(is).cloned() else {
            if state.leaving.iter().any(|m| is(&m)) {
                return Err(conflict(format!("the model {name:?} is being unloaded already")));
            }
            if state.loading.iter().any(|n| **n == *name) {
                return Err(conflict(format!("the model {name:?} is being loaded: ask again when it is")));
            }
            return Err(missing(name, &state.serving));
        };
        state.serving = state.serving.iter().filter(|m| !is(m)).cloned().collect();
        state.leaving.push(Arc::clone(&model));
        Ok(model)
    }

    /// Forgets a model that was taken out; its name is free.
    pub fn forget(&self, model: &Arc<Model>) {
        self.write().leaving.retain(|m| !Arc::ptr_eq(m, model));
    }

    /// The end: nothing is loaded any more, and who waits for an answer is told that he does in vain.
    pub fn close(&self) {
        let mut state = self.write();
        state.closed = true;
        for model in state.serving.iter().chain(&state.leaving) {
            model.desk.close(ENDING);
        }
    }
}

/// The error that there is no such model.
pub fn missing(name: &str, serving: &[Arc<Model>]) -> ApiError {
    let there = match serving {
        [] => "no model is loaded".to_owned(),
        models => format!("there is {}", names(models)),
    };
    not_found(format!("the model {name:?} does not exist: {there}"))
}

/// The error that no model is asked for.
pub fn unnamed(serving: &[Arc<Model>]) -> ApiError {
    not_found(match serving {
        [] => "no model is loaded".to_owned(),
        models => format!("model is missing: give one of {}", names(models)),
    })
}

fn not_found(what: String) -> ApiError {
    ApiError::refused(404, what).param("model").code("model_not_found")
}

fn names(models: &[Arc<Model>]) -> String {
    models.iter().map(|m| &*m.name).collect::<Vec<_>>().join(", ")
}
