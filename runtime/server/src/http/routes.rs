//! The routes, and those of their handlers that are short.

use super::generate::{generate, prepared};
use super::respond::{json, outcome, with};
use super::{Context, admin, body, page, respond};
use crate::api::fields::Fields;
use crate::api::{Endpoint, tokenize};
use crate::app::App;
use crate::desk::Update;
use crate::error::ApiError;
use crate::metrics;
use crate::models::Model;
use crate::openapi;
use crate::openapi::operations::{self, Access, Operation};
use axum::Router;
use axum::body::Body;
use axum::extract::{Extension, Path, State};
use axum::response::Response;
use axum::routing::{MethodRouter, get, post};
use hyper::{Method, Uri};
use serde_json::{Value, json as value};
use std::sync::Arc;
use std::time::{Duration, Instant};
use trtc_runtime::{Request, Sampling};

/// How long one token may take when health is asked for.
const PROBE: Duration = Duration::from_secs(10);

type Shared = State<Arc<App>>;

/// A path with what answers there, and what can be asked of it.
struct Route {
    path: &'static str,
    handlers: fn() -> MethodRouter<Arc<App>>,
    operations: &'static [&'static Operation],
}

const fn route(
    path: &'static str,
    handlers: fn() -> MethodRouter<Arc<App>>,
    operations: &'static [&'static Operation],
) -> Route {
    Route { path, handlers, operations }
}

/// All of them but the page's. The last two of models' names are no routes of their own: models may have these names too.
const ROUTES: &[Route] = &[
    route("/v1/chat/completions", || post(chat_completions), &[&operations::CHAT]),
    route("/v1/completions", || post(completions), &[&operations::COMPLETION]),
    route("/v1/responses", || post(responses), &[&operations::RESPONSE]),
    route("/v1/embeddings", || post(embeddings), &[&operations::EMBEDDINGS]),
    route("/v1/models", || get(models), &[&operations::MODELS]),
    route(
        "/v1/models/{*id}",
        || get(model).post(change),
        &[&operations::MODEL, &operations::LOAD, &operations::UNLOAD],
    ),
    route("/tokenize", || post(tokenized), &[&operations::TOKENIZE]),
    route("/detokenize", || post(detokenized), &[&operations::DETOKENIZE]),
    route("/metrics", || get(prometheus), &[&operations::METRICS]),
    route("/health", || get(health), &[&operations::HEALTH]),
    route("/ready", || get(ready), &[&operations::READY]),
    route("/health_generate", || get(health_generate), &[&operations::HEALTH_GENERATE]),
    route("/version", || get(version), &[&operations::VERSION]),
    route("/openapi.json", || get(document), &[&operations::OPENAPI]),
];

/// All routes.
pub fn router(app: Arc<App>) -> Router {
    let router = ROUTES.iter().fold(Router::new(), |router, r| router.route(r.path, (r.handlers)()));
    let router = if app.config.page { page::routes(router) } else { router };
    router.fallback(not_found).method_not_allowed_fallback(not_allowed).with_state(app)
}

/// What can be asked, without the page.
pub fn operations() -> impl Iterator<Item = &'static Operation> {
    ROUTES.iter().flat_map(|route| route.operations.iter().copied())
}

/// True if a path needs no key, also where there are keys.
pub fn is_open(path: &str, public_metrics: bool) -> bool {
    operations().filter(|o| o.path == path).any(|o| match o.access {
        Access::Open => true,
        Access::Metrics => public_metrics,
        Access::Key | Access::Admin => false,
    })
}

async fn not_found(method: Method, uri: Uri) -> Response {
    respond::error(ApiError::refused(404, format!("there is no {method} {}", uri.path())).code("unknown_url"))
}

async fn not_allowed(method: Method, uri: Uri) -> Response {
    let what = format!("{} does not take {method}", uri.path());
    respond::error(ApiError::refused(405, what).code("method_not_allowed"))
}

fn is_well(app: &App) -> Result<(), ApiError> {
    let complaints = app.complaints();
    if complaints.is_empty() { Ok(()) } else { Err(ApiError::unavailable(complaints.join("; "))) }
}

async fn health(State(app): Shared) -> Response {
    outcome(is_well(&app).map(|()| json(200, &value!({ "status": "ok" }))))
}

async fn ready(State(app): Shared) -> Response {
    let draining = || ApiError::unavailable("the server is shutting down");
    let none = || ApiError::unavailable("no model is loaded");
    let state = is_well(&app).and_then(|()| match app.is_draining() {
        true => Err(draining()),
        false if app.models.serving().is_empty() => Err(none()),
        false => Ok(()),
    });
    outcome(state.map(|()| json(200, &value!({ "status": "ready" }))))
}

async fn health_generate(State(app): Shared) -> Response {
    if let Err(error) = is_well(&app) {
        return respond::error(error);
    }
    for model in app.models.serving().iter() {
        if let Err(error) = probe(model).await
            // One that was unloaded meanwhile is missed by nobody.
            && app.models.serving().iter().any(|m| Arc::ptr_eq(m, model))
        {
            return respond::error(error);
        }
    }
    json(200, &value!({ "status": "ok" }))
}

/// One token, ahead of everybody.
async fn probe(model: &Model) -> Result<(), ApiError> {
    let request = Request {
        max_tokens: 1,
        sampling: Sampling::greedy(),
        ignore_eos: true,
        priority: i32::MAX,
        ..Request::new(vec![model.first_token])
    };
    let mut ticket = model.desk.submit(&"health".into(), vec![request], Instant::now(), true)?;
    let wait = async {
        let mut news = Vec::new();
        while !ticket.is_done() {
            ticket.receive(&mut news).await;
            for update in news.drain(..) {
                if let Update::Failed(error) = update {
                    return Err(ApiError::unavailable(format!("{}: {error}", model.name)));
                }
            }
        }
        Ok(())
    };
    let late = |_| ApiError::unavailable(format!("{}: no token within {} s", model.name, PROBE.as_secs()));
    tokio::time::timeout(PROBE, wait).await.map_err(late)?
}

async fn document() -> Response {
    with(200, "application/json", openapi::text())
}

async fn version() -> Response {
    json(200, &value!({ "version": env!("CARGO_PKG_VERSION") }))
}

async fn prometheus(State(app): Shared) -> Response {
    // Also of models that end what they have begun. What was counted of one that is gone goes with it, and begins at 0
    // when it is loaded again: to Prometheus a restart.
    let models = app.models.present();
    let engines: Vec<_> = models.iter().map(|m| (&*m.name, &m.desk.metrics, m.desk.levels())).collect();
    with(200, "text/plain; version=0.0.4; charset=utf-8", metrics::render(&app.metrics, &engines))
}

/// A model as `/v1/models` has it.
pub fn described(model: &Model) -> Value {
    value!({
        "id": &*model.name,
        "object": "model",
        "created": model.created,
        "owned_by": "trtc",
        "max_model_len": model.facts.limits.dims.max_seq_len,
        // As llama.cpp's server says it; `trtc bench serve` asks for it.
        "meta": { "n_vocab": model.facts.limits.vocab, "kv_cache_bytes": model.cache_bytes },
    })
}

async fn models(State(app): Shared) -> Response {
    let data: Vec<Value> = app.models.serving().iter().map(|m| described(m)).collect();
    json(200, &value!({ "object": "list", "data": data }))
}

async fn model(State(app): Shared, Path(id): Path<String>) -> Response {
    outcome(app.model(Some(&id)).map(|m| json(200, &described(&m))))
}

/// Loads or unloads a model.
async fn change(
    State(app): Shared,
    Path(id): Path<String>,
    Extension(context): Extension<Context>,
    method: Method,
    uri: Uri,
    body: Body,
) -> Response {
    match &*id {
        "load" => outcome(admin::load(app, context, body).await),
        "unload" => outcome(admin::unload(app, context, body).await),
        _ => not_allowed(method, uri).await,
    }
}

async fn completions(State(app): Shared, Extension(context): Extension<Context>, body: Body) -> Response {
    outcome(generate(app, context, Endpoint::Completions, body).await)
}

async fn chat_completions(
    State(app): Shared,
    Extension(context): Extension<Context>,
    body: Body,
) -> Response {
    outcome(generate(app, context, Endpoint::Chat, body).await)
}

async fn responses(State(app): Shared, Extension(context): Extension<Context>, body: Body) -> Response {
    outcome(generate(app, context, Endpoint::Responses, body).await)
}

async fn embeddings() -> Response {
    let what = "these models write text and have no embeddings: use /v1/completions or /v1/chat/completions";
    respond::error(ApiError::invalid(what).code("unsupported_endpoint"))
}

async fn tokenized(State(app): Shared, body: Body) -> Response {
    let answer = async {
        let bytes = body::read(&app, body).await?;
        prepared(&app, move |app| tokens_of(app, &bytes)).await
    };
    outcome(answer.await.map(|v| json(200, &v)))
}

fn tokens_of(app: &App, bytes: &[u8]) -> Result<Value, ApiError> {
    let mut fields = Fields::parse(bytes)?;
    let model = app.model(fields.text("model")?.as_deref())?;
    let tokens = tokenize::tokens(fields, &model.facts)?;
    Ok(value!({
        "count": tokens.len(),
        "max_model_len": model.facts.limits.dims.max_seq_len,
        "tokens": tokens,
    }))
}

async fn detokenized(State(app): Shared, body: Body) -> Response {
    let answer = async {
        let bytes = body::read(&app, body).await?;
        prepared(&app, move |app| text_of(app, &bytes)).await
    };
    outcome(answer.await.map(|v| json(200, &v)))
}

fn text_of(app: &App, bytes: &[u8]) -> Result<Value, ApiError> {
    let mut fields = Fields::parse(bytes)?;
    let model = app.model(fields.text("model")?.as_deref())?;
    Ok(value!({ "prompt": tokenize::text(fields, &model.facts)? }))
}
