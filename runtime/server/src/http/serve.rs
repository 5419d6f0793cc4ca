//! What is the same for every request: an id, a key, rules for browsers, counters, a line of the log.

use super::respond::{self, Failed};
use super::{Context, body::Watched, page, routes};
use crate::app::{App, unix_ms};
use crate::error::ApiError;
use crate::log::Record;
use crate::trace::Trace;
use axum::Router;
use axum::body::Body;
use axum::response::Response;
use hyper::body::Incoming;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Request};
use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Instant;
use tower_service::Service;

/// The header with a request's id.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Most characters of a path in the log.
const LOGGED_PATH: usize = 200;

/// Answers a request.
pub async fn serve(
    app: Arc<App>,
    mut router: Router,
    peer: IpAddr,
    request: Request<Incoming>,
) -> Result<Response, Infallible> {
    let arrived = Instant::now();
    let id = given_id(request.headers()).unwrap_or_else(|| app.make_id());
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let origin = allowed_origin(&app, request.headers());
    let client = authorised(&app, request.headers(), peer);
    let open = routes::is_open(&path, app.config.public_metrics) || (app.config.page && page::has(&path));
    let trace = app.traces().then(|| Arc::new(Trace::of(request.headers(), || app.make_id())));
    let record = Record {
        time_ms: unix_ms(),
        request_id: id.clone(),
        client: client.as_ref().map_or_else(|_| peer.to_string(), |(name, _)| name.to_string()),
        method: method.to_string(),
        path: path.chars().take(LOGGED_PATH).collect(),
        trace_id: trace.as_ref().map(|t| t.trace.clone()),
        ..Record::default()
    };
    let (name, admin) = client.clone().unwrap_or_else(|_| (peer.to_string().into(), false));
    let context = Context { client: name, admin, arrived, trace, record: Arc::new(Mutex::new(record)) };
    let mut gone = Gone { app: Some(Arc::clone(&app)), context: context.clone() };
    let mut response = match client {
        // Browsers ask without a key whether they may ask.
        _ if method == Method::OPTIONS && origin.is_some() => preflight(),
        Err(error) if !open => respond::error(error),
        _ => {
            let (mut parts, incoming) = request.into_parts();
            parts.extensions.insert(context.clone());
            let request = Request::from_parts(parts, Body::new(incoming));
            let Ok(response) = router.call(request).await;
            response
        }
    };
    gone.app = None;
    finish(&mut response, &id, origin);
    let failed = response.extensions_mut().remove::<Failed>();
    {
        let mut record = context.record();
        record.status = response.status().as_u16();
        if let Some(Failed(error)) = &failed {
            record.error = error.code.or(Some(error.kind.name()));
            app.metrics.error(error.kind);
        }
    }
    // What is asked every few seconds, or by a page for itself, is not worth a line while all is well.
    let silent = failed.is_none() && response.status().as_u16() < 400 && (open || path == "/metrics");
    Ok(response.map(|body| Body::new(Watched::new(app, context, body, silent))))
}

/// Logs a request whose client left before there was a response.
struct Gone {
    app: Option<Arc<App>>,
    context: Context,
}

impl Drop for Gone {
    fn drop(&mut self) {
        let Some(app) = self.app.take() else { return };
        let mut record = self.context.record();
        (record.gone, record.total_ms) = (true, super::ms(self.context.arrived.elapsed()));
        app.metrics.gone.fetch_add(1, Ordering::Relaxed);
        app.finish(&record, self.context.trace.as_deref());
    }
}

/// The client's own id, if it can stand in a header and in a log.
fn given_id(headers: &HeaderMap) -> Option<String> {
    let id = headers.get(REQUEST_ID)?.to_str().ok()?;
    let sane = |c: char| c.is_ascii_alphanumeric() || "-_.:".contains(c);
    ((1..=128).contains(&id.len()) && id.chars().all(sane)).then(|| id.to_owned())
}

/// Who asks, and whether they may load and unload models; an error if a key is needed and there is none, or a wrong
/// one.
fn authorised(app: &App, headers: &HeaderMap, peer: IpAddr) -> Result<(Arc<str>, bool), ApiError> {
    let given = headers.get(header::AUTHORIZATION).and_then(|v| v.to_str().ok());
    let bearer = given.and_then(|g| g.split_once(' ')).filter(|(s, _)| s.eq_ignore_ascii_case("bearer"));
    let key = bearer.map(|(_, key)| key.trim());
    // An admin's key is good for everything.
    let admin = app.later.as_ref().zip(key).and_then(|(library, key)| library.keys().find(key));
    if let Some(name) = admin {
        return Ok((name, true));
    }
    if app.config.keys.is_empty() {
        return Ok((peer.to_string().into(), false));
    }
    if given.is_none() {
        return Err(ApiError::unauthorised("no API key is given: send the header Authorization: Bearer KEY"));
    }
    let name = key.and_then(|key| app.config.keys.find(key));
    let name = name.ok_or_else(|| ApiError::unauthorised("the API key is not one of this server's"))?;
    Ok((name, false))
}

/// The origin of a page that may read the answer.
fn allowed_origin(app: &App, headers: &HeaderMap) -> Option<HeaderValue> {
    let origin = headers.get(header::ORIGIN)?;
    let allowed = &app.config.cors_origins;
    if allowed.iter().any(|o| o == "*") {
        return Some(HeaderValue::from_static("*"));
    }
    allowed.iter().any(|o| o.as_bytes() == origin.as_bytes()).then(|| origin.clone())
}

fn preflight() -> Response {
    let mut response = respond::with(204, "text/plain", Body::empty());
    let headers = response.headers_mut();
    headers.remove(header::CONTENT_TYPE);
    let allow = [
        (header::ACCESS_CONTROL_ALLOW_METHODS, "GET, POST, OPTIONS"),
        (header::ACCESS_CONTROL_ALLOW_HEADERS, "authorization, content-type, x-request-id, traceparent"),
        (header::ACCESS_CONTROL_MAX_AGE, "86400"),
    ];
    for (name, value) in allow {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

/// The headers that every response has.
fn finish(response: &mut Response, id: &str, origin: Option<HeaderValue>) {
    let headers = response.headers_mut();
    if let Ok(id) = HeaderValue::from_str(id) {
        headers.insert(REQUEST_ID, id);
    }
    if let Some(origin) = origin {
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(header::VARY, HeaderValue::from_static("origin"));
        let exposed = "x-request-id, x-trtc-queue-ms, x-trtc-ttft-ms, x-trtc-total-ms, retry-after";
        headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(exposed));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_clients_are_taken_over_if_they_are_sane() {
        let id = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(REQUEST_ID, HeaderValue::from_str(text).unwrap());
            given_id(&headers)
        };
        assert_eq!(id("a-1_b.c:2").as_deref(), Some("a-1_b.c:2"));
        for odd in ["", "a b", "a\"b", "{}", &"x".repeat(129)] {
            assert_eq!(id(odd), None, "{odd:?}");
        }
    }
}
