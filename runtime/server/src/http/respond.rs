//! Responses of the server's own: JSON and errors.

use crate::error::ApiError;
use axum::body::Body;
use axum::response::Response;
use hyper::StatusCode;
use hyper::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use serde_json::Value;

/// What went wrong, for the log and the counters; travels with the response.
#[derive(Clone, Debug)]
pub struct Failed(pub ApiError);

/// A response with this body.
pub fn with(status: u16, content_type: &'static str, body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// A JSON object.
pub fn json(status: u16, value: &Value) -> Response {
    written(status, value.to_string())
}

/// A JSON object that is written already.
pub fn written(status: u16, json: String) -> Response {
    with(status, "application/json", json)
}

/// An error.
pub fn error(error: ApiError) -> Response {
    let mut response = json(error.status, &error.body());
    if let Some(seconds) = error.retry_after {
        response.headers_mut().insert(RETRY_AFTER, seconds.into());
    }
    response.extensions_mut().insert(Failed(error));
    response
}

/// A handler's outcome.
pub fn outcome(result: Result<Response, ApiError>) -> Response {
    result.unwrap_or_else(error)
}
