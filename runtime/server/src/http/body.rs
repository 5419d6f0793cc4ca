//! Bodies: those of requests, read within bounds, and those of responses, watched until they are sent.

use crate::app::App;
use crate::error::ApiError;
use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::{Body as _, Frame, SizeHint};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context as Task, Poll, ready};
use std::time::Duration;

use super::Context;

/// A body that is too long is read on for this long and then so many bytes more: who is still writing would not read
/// the refusal.
const PATIENCE: Duration = Duration::from_secs(2);
const DISCARDED: usize = 64 << 20;

/// Reads a request's body whole.
pub async fn read(app: &App, body: Body) -> Result<Bytes, ApiError> {
    let (limit, time) = (app.config.max_body, app.config.read_timeout);
    let slow = |_| {
        ApiError::refused(408, format!("the body did not come within {} s", time.as_secs_f32()))
            .code("timeout")
    };
    tokio::time::timeout(time, collect(body, limit)).await.map_err(slow)?
}

async fn collect(mut body: Body, limit: usize) -> Result<Bytes, ApiError> {
    let broken = |e: axum::Error| ApiError::invalid(format!("the body cannot be read: {e}"));
    let expected = body.size_hint().lower() as usize;
    let mut bytes = BytesMut::with_capacity(expected.min(limit));
    let mut too_long = expected > limit;
    while !too_long {
        let Some(frame) = body.frame().await else {
            break;
        };
        let Ok(data) = frame.map_err(broken)?.into_data() else {
            continue;
        };
        too_long = bytes.len() + data.len() > limit;
        if !too_long {
            bytes.extend_from_slice(&data);
        }
    }
    if !too_long {
        return Ok(bytes.freeze());
    }
    drop(bytes);
    let discard = async {
        let mut left = DISCARDED;
        while let Some(Ok(frame)) = body.frame().await {
            left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
            if left == 0 {
                break;
            }
        }
    };
    // Whether all of it came does not matter.
    let _ = tokio::time::timeout(PATIENCE, discard).await;
    let message = format!(
        "the body has more than {limit} bytes: send less, or start the server with a larger --max-body"
    );
    Err(ApiError::refused(413, message).code("request_too_large"))
}

/// A response's body; its request is logged once it is sent or given up.
pub struct Watched {
    inner: Body,
    /// After the body: what it tells of itself when it is dropped belongs into the log.
    end: End,
}

struct End {
    app: Arc<App>,
    context: Context,
    bytes: u64,
    whole: bool,
    silent: bool,
}

impl Watched {
    /// A body of a request; `silent` ones are not logged.
    pub fn new(app: Arc<App>, context: Context, inner: Body, silent: bool) -> Watched {
        let whole = inner.is_end_stream();
        Watched { inner, end: End { app, context, bytes: 0, whole, silent } }
    }
}

impl hyper::body::Body for Watched {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        task: &mut Task<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(task));
        match &frame {
            Some(Ok(frame)) => self.end.bytes += frame.data_ref().map_or(0, |d| d.len() as u64),
            Some(Err(_)) => {}
            None => self.end.whole = true,
        }
        self.end.whole |= self.inner.is_end_stream();
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl Drop for End {
    fn drop(&mut self) {
        let mut record = self.context.record();
        record.total_ms = super::ms(self.context.arrived.elapsed());
        record.bytes = self.bytes;
        // Nobody waits for the body of a response to HEAD.
        record.gone |= !self.whole && record.method != "HEAD";
        if record.gone {
            self.app.metrics.gone.fetch_add(1, Ordering::Relaxed);
        }
        if !self.silent {
            self.app.finish(&record, self.context.trace.as_deref());
        }
    }
}
