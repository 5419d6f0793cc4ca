//! Requests for answers: prepared on a thread that may block, given to the engine's desk, answered whole or streamed.

use super::{Context, body, ms, respond};
use crate::api::Endpoint;
use crate::api::answer::{self, Answer, Timings};
use crate::api::chunks::KEEP_ALIVE;
use crate::api::fields::Fields;
use crate::api::params::Wish;
use crate::api::whole::Shape;
use crate::app::{Active, App};
use crate::desk::{Ticket, Update};
use crate::error::ApiError;
use crate::models::Model;
use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use futures_util::stream::unfold;
use hyper::header::{CACHE_CONTROL, HeaderMap, HeaderName, HeaderValue};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::time::timeout_at;

/// Answers a request for an answer.
pub async fn generate(
    app: Arc<App>,
    context: Context,
    endpoint: Endpoint,
    body: Body,
) -> Result<Response, ApiError> {
    let active = app.begin()?;
    let bytes = body::read(&app, body).await?;
    let (model, wish) = prepared(&app, move |app| prepare(app, endpoint, &bytes)).await?;
    let Wish { requests, echo, stream, timeout, logprobs, prompt_logprobs, tools, asked } = wish;
    let reports = (logprobs.is_some() && !echo.is_empty()) || prompt_logprobs.is_some();
    let prompts = requests.len();
    let shape = Shape {
        endpoint,
        id: format!("{}{}", endpoint.prefix(), app.make_id()),
        created: crate::app::unix_ms() / 1000,
        model: Arc::clone(&model.name),
        tokenizer: model.facts.tokenizer.clone(),
        n: requests.first().map_or(1, |r| r.n),
        prompt_tokens: requests.iter().map(|r| r.prompt.len() as u64).sum(),
        prompts: if reports { requests.iter().map(|r| r.prompt.clone()).collect() } else { Vec::new() },
        echo,
        logprobs,
        prompt_logprobs,
        tools,
        asked,
    };
    {
        let mut record = context.record();
        record.model = Some(model.name.to_string());
        record.stream = stream.is_some();
        record.prompt_tokens = shape.prompt_tokens;
    }
    let limit = timeout.into_iter().chain(app.config.request_timeout).min();
    let ticket = model.desk.submit(&context.client, requests, context.arrived, false)?;
    let waiting =
        Waiting { ticket, limit, arrived: context.arrived, queued: None, first: None, news: Vec::new() };
    let answer = answer::writer(shape, prompts, stream);
    if stream.is_none() {
        return whole(waiting, answer, &context).await;
    }
    let keep_alive = app.config.keep_alive;
    Ok(streamed(Stream { app, waiting, answer, context, keep_alive, over: false, _active: active }))
}

/// Does what may take long, such as reading a long text, on a thread of its own.
pub async fn prepared<T: Send + 'static>(
    app: &Arc<App>,
    work: impl FnOnce(&App) -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    let app = Arc::clone(app);
    let done = tokio::task::spawn_blocking(move || work(&app)).await;
    done.map_err(|_| ApiError::broken("reading the request failed"))?
}

/// Reads a body and holds it to the limits of the model that it names.
fn prepare(app: &App, endpoint: Endpoint, bytes: &[u8]) -> Result<(Arc<Model>, Wish), ApiError> {
    let mut fields = Fields::parse(bytes)?;
    let model = app.model(fields.text("model")?.as_deref())?;
    let wish = endpoint.parse(fields, &model.facts)?;
    Ok((model, wish))
}

/// A request that the engine has, and how long things took.
struct Waiting {
    ticket: Ticket,
    limit: Option<Duration>,
    arrived: Instant,
    queued: Option<Duration>,
    first: Option<Duration>,
    news: Vec<Update>,
}

impl Waiting {
    fn timings(&self) -> Timings {
        Timings {
            queue_ms: self.queued.map(ms),
            ttft_ms: self.first.map(ms),
            total_ms: ms(self.arrived.elapsed()),
        }
    }

    /// When its time is over.
    fn deadline(&self) -> Option<Instant> {
        self.arrived.checked_add(self.limit?)
    }

    fn too_late(&self) -> ApiError {
        // As it was given: a client's own limit is an f32.
        let seconds = self.limit.unwrap_or_default().as_secs_f32();
        ApiError::timeout(format!("the answer was not complete within {seconds} s"))
    }

    /// Waits for news until the deadline, or for as long as `patience` says; false if there are none.
    async fn wait(&mut self, patience: Option<Duration>) -> Result<bool, ApiError> {
        let deadline = self.deadline();
        let now = Instant::now();
        if deadline.is_some_and(|d| d <= now) {
            return Err(self.too_late());
        }
        let until = patience.and_then(|p| now.checked_add(p)).into_iter().chain(deadline).min();
        let came = match until {
            None => {
                self.ticket.receive(&mut self.news).await;
                true
            }
            Some(until) => timeout_at(until.into(), self.ticket.receive(&mut self.news)).await.is_ok(),
        };
        for update in &self.news {
            match update {
                Update::Taken { waited } => self.queued = self.queued.or(Some(*waited)),
                Update::Token { .. } if self.first.is_none() => self.first = Some(self.arrived.elapsed()),
                _ => {}
            }
        }
        match came {
            false if deadline.is_some_and(|d| d <= Instant::now()) => Err(self.too_late()),
            came => Ok(came),
        }
    }
}

/// Notes in the log what came of a request.
fn note(context: &Context, timings: &Timings, answer: &dyn Answer) {
    let mut record = context.record();
    (record.queue_ms, record.ttft_ms) = (timings.queue_ms, timings.ttft_ms);
    record.completion_tokens = answer.tokens();
    record.finish_reasons = answer.reasons();
    record.finish_reasons.dedup();
}

async fn whole(
    mut waiting: Waiting,
    mut answer: Box<dyn Answer>,
    context: &Context,
) -> Result<Response, ApiError> {
    let mut body = String::new();
    while !waiting.ticket.is_done() {
        let came = waiting.wait(None).await;
        let mut failed = came.err();
        for update in waiting.news.drain(..) {
            match update {
                Update::Failed(error) => failed = failed.or(Some(error)),
                update => answer.take(update, &mut body),
            }
        }
        if let Some(error) = failed {
            note(context, &waiting.timings(), answer.as_ref());
            return Err(error);
        }
    }
    let timings = waiting.timings();
    note(context, &timings, answer.as_ref());
    answer.finish(&timings, &mut body);
    let mut response = respond::written(200, body);
    let headers = response.headers_mut();
    add_ms(headers, HeaderName::from_static("x-trtc-queue-ms"), timings.queue_ms);
    add_ms(headers, HeaderName::from_static("x-trtc-ttft-ms"), timings.ttft_ms);
    add_ms(headers, HeaderName::from_static("x-trtc-total-ms"), Some(timings.total_ms));
    Ok(response)
}

fn add_ms(headers: &mut HeaderMap, name: HeaderName, ms: Option<f64>) {
    if let Some(value) = ms.and_then(|ms| HeaderValue::from_str(&format!("{ms:.3}")).ok()) {
        headers.insert(name, value);
    }
}

/// A response that is being streamed. Dropped before its end, it gives the request up.
struct Stream {
    app: Arc<App>,
    waiting: Waiting,
    answer: Box<dyn Answer>,
    context: Context,
    keep_alive: Duration,
    over: bool,
    _active: Active,
}

impl Drop for Stream {
    fn drop(&mut self) {
        note(&self.context, &self.waiting.timings(), self.answer.as_ref());
    }
}

fn streamed(stream: Stream) -> Response {
    let body = Body::from_stream(unfold(stream, |mut stream| async {
        let text = stream.next().await?;
        Some((Ok::<Bytes, Infallible>(text.into()), stream))
    }));
    let mut response = respond::with(200, "text/event-stream; charset=utf-8", body);
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    // A proxy that gathers bytes before it passes them on would undo the stream.
    headers.insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    response
}

impl Stream {
    /// The events that can be sent, all in one piece; none after the end.
    async fn next(&mut self) -> Option<String> {
        let mut out = String::new();
        while out.is_empty() && !self.over {
            match self.waiting.wait(Some(self.keep_alive)).await {
                Ok(true) => {}
                Ok(false) => out.push_str(KEEP_ALIVE),
                Err(error) => self.fail(&error, &mut out),
            }
            for update in std::mem::take(&mut self.waiting.news) {
                if self.over {
                    break;
                }
                match update {
                    Update::Failed(error) => self.fail(&error, &mut out),
                    update => self.answer.take(update, &mut out),
                }
            }
            if !self.over && self.waiting.ticket.is_done() {
                self.answer.finish(&self.waiting.timings(), &mut out);
                self.over = true;
            }
        }
        (!out.is_empty()).then_some(out)
    }

    fn fail(&mut self, error: &ApiError, out: &mut String) {
        self.over = true;
        self.context.record().error = error.code.or(Some(error.kind.name()));
        self.app.metrics.error(error.kind);
        self.answer.fail(error, out);
    }
}
