//! The client: connections to one server, requests on them, answers read from them. It says what an answer took, and
//! nothing of when requests are sent.

use super::answer::{Answer, Failed, Kind, Reading, refusal};
use super::sse::{Splitter, TooLong};
use super::tls::Tls;
use super::url::Target;
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{self, HeaderValue};
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// Most bytes of a body that is no stream.
const MOST: usize = 4 << 20;

type Sender = SendRequest<Full<Bytes>>;

/// Connections to a server. A request takes one that is free, or makes one.
pub struct Client {
    target: Target,
    addresses: Vec<SocketAddr>,
    /// What connections are within.
    tls: Option<Tls>,
    /// `Bearer KEY`.
    key: Option<HeaderValue>,
    /// How long an answer may take.
    timeout: Option<Duration>,
    free: Mutex<Vec<Sender>>,
}

impl Client {
    /// Looks up the server's name, and connects to nothing yet. Fails if there is no such name, or if the key is none that
    /// a header can have.
    pub fn new(
        target: Target,
        tls: Option<Tls>,
        key: Option<&str>,
        timeout: Option<Duration>,
    ) -> Result<Client, String> {
        let (host, port) = (&*target.host, target.port);
        let addresses: Vec<SocketAddr> =
            (host, port).to_socket_addrs().map_err(|e| format!("cannot look up '{host}': {e}"))?.collect();
        let bearer = |key: &str| HeaderValue::from_str(&format!("Bearer {key}"));
        let key =
            key.map(bearer).transpose().map_err(|_| "the key has characters that no header can have")?;
        Ok(Client { target, addresses, tls, key, timeout, free: Mutex::default() })
    }

    /// Asks for a JSON value: `GET` of an endpoint such as `/models`.
    pub async fn get(&self, endpoint: &str) -> Result<Value, Failed> {
        self.in_time(async {
            let (response, sender) = self.send(&self.request(Method::GET, endpoint, Bytes::new())?).await?;
            let body = self.body(response, sender).await?;
            serde_json::from_slice(&body).map_err(|e| Failed::new(Kind::Garbled, format!("no JSON: {e}")))
        })
        .await
    }

    /// Posts a body and reads the stream that answers it.
    pub async fn stream(&self, endpoint: &str, body: Bytes) -> Result<Answer, Failed> {
        self.in_time(async {
            let request = self.request(Method::POST, endpoint, body)?;
            let sent = Instant::now();
            let (mut response, sender) = self.send(&request).await?;
            let (mut splitter, mut reading) = (Splitter::default(), Reading::default());
            let mut failed = None;
            while let Some(frame) = response.body_mut().frame().await {
                let at = sent.elapsed();
                let frame = frame.map_err(|e| Failed::new(Kind::Broken, told(&e)))?;
                let mut event = |data: &[u8]| failed = failed.take().or(reading.take(data, at).err());
                if let Some(bytes) = frame.data_ref() {
                    splitter.feed(bytes, &mut event).map_err(|TooLong| {
                        Failed::new(Kind::Garbled, "an event of more bytes than any answer has")
                    })?;
                }
                if let Some(failed) = failed {
                    return Err(failed);
                }
            }
            let at = sent.elapsed();
            splitter.finish(&mut |data| failed = failed.take().or(reading.take(data, at).err()));
            self.keep(sender);
            failed.map_or_else(|| reading.finish(), Err)
        })
        .await
    }

    async fn in_time<T>(&self, work: impl Future<Output = Result<T, Failed>>) -> Result<T, Failed> {
        let Some(limit) = self.timeout else { return work.await };
        let late = |_| Failed::new(Kind::Late, format!("no answer within {} s", limit.as_secs_f64()));
        tokio::time::timeout(limit, work).await.map_err(late)?
    }

    fn request(&self, method: Method, endpoint: &str, body: Bytes) -> Result<Request<Full<Bytes>>, Failed> {
        let mut request = Request::builder()
            .method(method)
            .uri(self.target.path(endpoint))
            .header(header::HOST, &self.target.authority)
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::USER_AGENT, concat!("trtc/", env!("CARGO_PKG_VERSION")));
        if let Some(key) = &self.key {
            request = request.header(header::AUTHORIZATION, key);
        }
        request.body(Full::new(body)).map_err(|e| Failed::new(Kind::Connection, e.to_string()))
    }

    /// Sends a request, on a connection that is free if there is one. That may have been closed at the other end in the
    /// meantime: then another is made. Statuses that are no success are failures.
    async fn send(&self, request: &Request<Full<Bytes>>) -> Result<(Response<Incoming>, Sender), Failed> {
        let mut answered = None;
        while let (None, Some(mut sender)) = (&answered, self.take()) {
            if sender.ready().await.is_ok() {
                answered = sender.send_request(request.clone()).await.ok().map(|response| (response, sender));
            }
        }
        let (response, sender) = match answered {
            Some(both) => both,
            None => {
                let mut sender = self.connect().await?;
                let response = sender.send_request(request.clone()).await;
                (response.map_err(|e| Failed::new(Kind::Connection, told(&e)))?, sender)
            }
        };
        let status = response.status();
        if status.is_success() {
            return Ok((response, sender));
        }
        // A refusal without a body that can be read is a refusal still.
        let body = self.body(response, sender).await.unwrap_or_default();
        Err(Failed::new(Kind::Status(status.as_u16()), refusal(&body)))
    }

    async fn connect(&self) -> Result<Sender, Failed> {
        let failed = |e: &dyn std::error::Error| {
            Failed::new(Kind::Connection, format!("to {}: {}", self.target.authority, told(e)))
        };
        let stream = TcpStream::connect(&self.addresses[..]).await.map_err(|e| failed(&e))?;
        // A small request is not to wait for company.
        stream.set_nodelay(true).map_err(|e| failed(&e))?;
        match &self.tls {
            None => http(stream).await.map_err(|e| failed(&e)),
            Some(tls) => {
                let stream = tls.within(stream).await.map_err(|e| failed(&e))?;
                http(stream).await.map_err(|e| failed(&e))
            }
        }
    }

    /// All of a body.
    async fn body(&self, response: Response<Incoming>, sender: Sender) -> Result<Bytes, Failed> {
        let body = Limited::new(response.into_body(), MOST).collect().await;
        let body = body.map_err(|e| Failed::new(Kind::Broken, told(&*e)))?;
        self.keep(sender);
        Ok(body.to_bytes())
    }

    fn take(&self) -> Option<Sender> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }

    fn keep(&self, sender: Sender) {
        if !sender.is_closed() {
            self.free.lock().unwrap_or_else(PoisonError::into_inner).push(sender);
        }
    }
}

/// HTTP/1.1 on a connection.
async fn http<S>(stream: S) -> hyper::Result<Sender>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = handshake(TokioIo::new(stream)).await?;
    // What ends it shows where a request is sent or an answer read.
    tokio::spawn(async move { connection.await.unwrap_or_default() });
    Ok(sender)
}

/// An error with its causes, which hyper's own words leave out.
fn told(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |e| e.source());
    let mut texts: Vec<String> = causes.map(ToString::to_string).collect();
    texts.dedup();
    texts.join(": ")
}
