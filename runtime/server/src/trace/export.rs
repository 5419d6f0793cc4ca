//! Sends spans to a collector, in batches, and again where it makes sense; drops and counts what cannot be delivered.
//!
//! OTLP over HTTP: <https://opentelemetry.io/docs/specs/otlp/>. A connection a batch: there is one every few seconds.

use super::{Collector, Finished, span};
use crate::app::App;
use bytes::Bytes;
use futures_util::future::{Either, select};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::handshake;
use hyper::header::{CONTENT_TYPE, HOST, RETRY_AFTER, USER_AGENT};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, timeout, timeout_at};

/// How often a batch is sent before it is given up.
const ATTEMPTS: u32 = 5;
/// Longest pause between two attempts, whatever the collector asks for.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// Most bytes of a collector's answer.
const MOST: usize = 1 << 16;

/// Takes requests that are over and sends their spans.
#[derive(Debug)]
pub struct Exporter {
    collector: Collector,
    waiting: mpsc::Receiver<Finished>,
}

/// Why a batch was not taken.
#[derive(Debug)]
enum Failed {
    /// It may be taken later; after this time, if the collector says so.
    Later(String, Option<Duration>),
    /// It never will be.
    Never(String),
}

impl Exporter {
    pub(super) fn new(collector: Collector, waiting: mpsc::Receiver<Finished>) -> Exporter {
        Exporter { collector, waiting }
    }

    /// Sends until `ending` is true, and then what is left.
    pub async fn run(mut self, app: Arc<App>, mut ending: watch::Receiver<bool>) {
        let instance = app.make_id();
        let (mut well, mut batch) = (true, Vec::new());
        while self.gather(&mut batch, &mut ending).await {
            let count: u64 = batch.iter().map(|f| span::count(&f.record)).sum();
            let spans = batch.drain(..).flat_map(|f| span::spans(&f, || app.make_id())).collect();
            let body: Bytes = span::body(spans, &instance).to_string().into();
            let rejected = match self.deliver(&body).await {
                Ok(rejected) => {
                    if !std::mem::replace(&mut well, true) {
                        app.note(format!("traces are delivered to {} again", self.collector.endpoint));
                    }
                    rejected.min(count)
                }
                Err(why) => {
                    // Once, and not for each batch.
                    if std::mem::replace(&mut well, false) {
                        app.note(format!("traces are not delivered to {}: {why}", self.collector.endpoint));
                    }
                    count
                }
            };
            app.metrics.spans_dropped.fetch_add(rejected, Ordering::Relaxed);
            app.metrics.spans_exported.fetch_add(count - rejected, Ordering::Relaxed);
        }
    }

    /// Fills a batch: until it is full, or the first in it has waited long enough, or the server ends. False if nothing is
    /// left and nothing comes any more.
    async fn gather(&mut self, batch: &mut Vec<Finished>, ending: &mut watch::Receiver<bool>) -> bool {
        let most = self.collector.batch.max(1);
        let mut deadline: Option<Instant> = None;
        while batch.len() < most {
            let room = most - batch.len();
            let told = *ending.borrow();
            if told {
                // What is in the queue can still be taken, nothing can be added.
                self.waiting.close();
            }
            let come = self.waiting.recv_many(batch, room);
            let came = match (told, deadline) {
                (true, _) => Some(come.await),
                (false, Some(deadline)) => timeout_at(deadline, until(come, ending)).await.unwrap_or(Some(0)),
                (false, None) => until(come, ending).await,
            };
            match came {
                // The server ends: look again.
                None => continue,
                Some(0) => break,
                Some(_) => deadline = deadline.or(Some(Instant::now() + self.collector.delay)),
            }
        }
        !batch.is_empty()
    }

    /// Sends a batch, several times if need be. Gives the number of spans that the collector did not want.
    async fn deliver(&self, body: &Bytes) -> Result<u64, String> {
        let mut pause = self.collector.pause;
        for attempt in 1.. {
            let sent = timeout(self.collector.timeout, self.send(body)).await;
            let late = || {
                let time = self.collector.timeout.as_secs_f64();
                Err(Failed::Later(format!("it did not answer within {time} s"), None))
            };
            match sent.unwrap_or_else(|_| late()) {
                Ok(rejected) => return Ok(rejected),
                Err(Failed::Never(why)) => return Err(why),
                Err(Failed::Later(why, _)) if attempt == ATTEMPTS => {
                    return Err(format!("{why}, {ATTEMPTS} times"));
                }
                Err(Failed::Later(_, asked)) => {
                    sleep(asked.unwrap_or(pause).min(LONGEST_PAUSE)).await;
                    pause *= 2;
                }
            }
        }
        Ok(0)
    }

    async fn send(&self, body: &Bytes) -> Result<u64, Failed> {
        let endpoint = &self.collector.endpoint;
        let later = |e: &dyn std::error::Error| Failed::Later(e.to_string(), None);
        let stream = TcpStream::connect((&*endpoint.host, endpoint.port)).await.map_err(|e| later(&e))?;
        let (mut sender, connection) = handshake(TokioIo::new(stream)).await.map_err(|e| later(&e))?;
        // What ends it shows where the request is sent or the answer read.
        let _connection = Aborting(tokio::spawn(async move { connection.await.unwrap_or_default() }));
        let request = Request::post(&endpoint.path)
            .header(HOST, &endpoint.authority)
            .header(CONTENT_TYPE, "application/json")
            .header(USER_AGENT, concat!("trtc/", env!("CARGO_PKG_VERSION")))
            .body(Full::new(body.clone()))
            .map_err(|e| Failed::Never(e.to_string()))?;
        let response = sender.send_request(request).await.map_err(|e| later(&e))?;
        let status = response.status();
        let asked = response.headers().get(RETRY_AFTER).and_then(|v| v.to_str().ok()?.parse().ok());
        match status {
            status if status.is_success() => {}
            // The four that the specification names.
            StatusCode::TOO_MANY_REQUESTS
            | StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT => {
                return Err(Failed::Later(format!("it answered {status}"), asked.map(Duration::from_secs)));
            }
            status => return Err(Failed::Never(format!("it answered {status}"))),
        }
        // Spans were taken, whatever the body is; if it can be read it may say that some were not.
        let answer = Limited::new(response.into_body(), MOST).collect().await;
        Ok(answer.map_or(0, |answer| rejected(&answer.to_bytes())))
    }
}

/// A task that ends with whoever began it.
struct Aborting(tokio::task::JoinHandle<()>);

impl Drop for Aborting {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What a future gives; none if the server ends before.
async fn until<T>(future: impl Future<Output = T>, ending: &mut watch::Receiver<bool>) -> Option<T> {
    let told = pin!(ending.wait_for(|ending| *ending));
    match select(pin!(future), told).await {
        Either::Left((value, _)) => Some(value),
        Either::Right(_) => None,
    }
}

/// The number of spans that an answer says were not taken: text, as 64 bits are, or a number.
fn rejected(answer: &[u8]) -> u64 {
    let answer: Value = serde_json::from_slice(answer).unwrap_or_default();
    let count = &answer["partialSuccess"]["rejectedSpans"];
    count.as_u64().or_else(|| count.as_str()?.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_say_what_was_not_taken() {
        for (answer, count) in [
            ("", 0),
            ("{}", 0),
            ("no json", 0),
            (r#"{"partialSuccess":{}}"#, 0),
            (r#"{"partialSuccess":{"rejectedSpans":"3","errorMessage":"x"}}"#, 3),
            (r#"{"partialSuccess":{"rejectedSpans":4}}"#, 4),
        ] {
            assert_eq!(rejected(answer.as_bytes()), count, "{answer}");
        }
    }
}
