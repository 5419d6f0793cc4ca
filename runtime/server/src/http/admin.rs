//! Models that come and go while the server runs: `POST /v1/models/load` and `POST /v1/models/unload`.
//!
//! Paths and the field `model` are those of llama.cpp's server (`/models/load`, `/models/unload`), with the prefix that
//! all routes of this API have; `engine` is ours, for that server finds files by the model's name. vLLM and SGLang load
//! adapters of a model (`/v1/load_lora_adapter`), not models, and say `lora_name` and `lora_path`.
//!
//! A load is answered when the model takes requests, and an unload when its memory is given back. Neither depends on
//! who asked: a client that leaves misses the answer, and the log has what came of it.

use super::routes::described;
use super::{Context, body, respond};
use crate::app::App;
use crate::error::ApiError;
use crate::library::{Library, Load, unloaded};
use crate::models::{Model, Place};
use crate::server::{LAST_WORDS, LOOK};
use axum::body::Body;
use axum::response::Response;
use serde_json::json;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::oneshot;

/// The library, for who may use it.
fn library<'a>(app: &'a App, context: &Context) -> Result<&'a Library, ApiError> {
    let Some(library) = &app.later else {
        return Err(ApiError::forbidden(
            "models are neither loaded nor unloaded here: start the server with --engine-dir and an admin key \
             (--admin-key-file, or TRTC_ADMIN_KEY)",
        ));
    };
    match context.admin {
        true => Ok(library),
        false if app.config.keys.is_empty() => Err(ApiError::unauthorised(
            "no admin key is given, or a wrong one: send the header Authorization: Bearer KEY",
        )),
        false => Err(ApiError::forbidden(
            "the key is for requests: send one of --admin-key-file, or TRTC_ADMIN_KEY",
        )),
    }
}

/// Loads an engine and serves it.
pub async fn load(app: Arc<App>, context: Context, body: Body) -> Result<Response, ApiError> {
    library(&app, &context)?;
    let _active = app.begin()?;
    let load = Load::parse(&body::read(&app, body).await?)?;
    context.record().model = Some(load.model.clone());
    let place = app.models.reserve(&load.model)?;
    let (tell, told) = oneshot::channel();
    let ours = Arc::clone(&app);
    let work = move || {
        let done = loaded(&ours, &context, &load, place);
        // Who left needs no answer.
        let _ = tell.send(done);
    };
    let thread = std::thread::Builder::new().name("load".to_owned()).spawn(work);
    thread.map_err(|e| ApiError::unavailable(format!("cannot start a thread that loads: {e}")))?;
    let model = told.await.map_err(|_| ApiError::broken("loading failed"))??;
    let mut answer = described(&model);
    answer["status"] = "loaded".into();
    Ok(respond::json(200, &answer))
}

/// The work of a load, and a line of the log for its beginning and its end.
fn loaded(app: &App, context: &Context, load: &Load, place: Place) -> Result<Arc<Model>, ApiError> {
    let (name, client) = (&load.model, &context.client);
    app.note(format!("{client} loads {name}"));
    let done = library(app, context).and_then(|library| load.run(app, library, place));
    if let Err(error) = &done {
        app.note(format!("{name} was not loaded: {error}"));
    }
    done
}

/// Takes a model out of those that are served, and answers when it is gone.
pub async fn unload(app: Arc<App>, context: Context, body: Body) -> Result<Response, ApiError> {
    library(&app, &context)?;
    let _active = app.begin()?;
    let name = unloaded(&body::read(&app, body).await?)?;
    context.record().model = Some(name.clone());
    let model = app.models.withdraw(&name)?;
    app.note(format!("{} unloads {name}", context.client));
    let gone = tokio::spawn(leave(Arc::clone(&app), model));
    // A step that does not end cannot be cut: its thread and its memory are there as long as it takes.
    let late = |_| {
        let what = format!(
            "{name} is not served any more, but a step of it does not end: its memory is still taken"
        );
        ApiError::broken(what)
    };
    let most = app.config.drain_timeout.saturating_add(LAST_WORDS);
    let cut = tokio::time::timeout(most, gone).await.map_err(late)?;
    let cut = cut.map_err(|_| ApiError::broken("unloading failed"))?;
    Ok(respond::json(200, &json!({ "id": name, "object": "model", "status": "unloaded", "cut": cut })))
}

/// Lets a model end what it has begun, for as long as that may take, and forgets it once its thread has ended. Gives
/// the number of answers that were cut.
async fn leave(app: Arc<App>, model: Arc<Model>) -> u64 {
    model.desk.drain();
    let deadline = Instant::now().checked_add(app.config.drain_timeout);
    while !model.is_over() && deadline.is_none_or(|d| Instant::now() < d) {
        tokio::time::sleep(LOOK).await;
    }
    let cut = if model.is_over() { 0 } else { model.desk.close("the model was unloaded") };
    while !model.is_over() {
        tokio::time::sleep(LOOK).await;
    }
    app.models.forget(&model);
    app.note(format!("{} was unloaded, {cut} answers were cut", model.name));
    cut
}
