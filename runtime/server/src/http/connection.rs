//! Takes connections, so many at a time, and speaks HTTP/1.1 on each, within TLS if there is a certificate.

use super::serve::serve;
use super::timed::Timed;
use crate::app::App;
use crate::tls::Current;
use axum::Router;
use futures_util::future::{Either, select};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::timeout;
use tokio_rustls::server::TlsStream;

/// How long to wait before connections are taken again after the system had no room for one.
const NO_ROOM: Duration = Duration::from_millis(50);

/// What all connections have of the server.
#[derive(Clone)]
pub struct Shared {
    /// Its state.
    pub app: Arc<App>,
    /// Who answers.
    pub router: Router,
    /// Its certificate.
    pub tls: Option<Current>,
    /// Becomes true when connections are to end.
    pub closing: watch::Receiver<bool>,
}

/// Takes connections until it is dropped. Each holds a permit, and is closed once `closing` is true and its request,
/// if it has one, is answered.
pub async fn accept(shared: Shared, listener: TcpListener, permits: Arc<Semaphore>) {
    loop {
        // Closed semaphores do not happen: it is nobody's to close.
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((stream, peer)) => drop(tokio::spawn(shared.clone().connection(stream, peer, permit))),
            // A client that went away at once, or no file descriptor is left.
            Err(_) => tokio::time::sleep(NO_ROOM).await,
        }
    }
}

impl Shared {
    async fn connection(mut self, stream: TcpStream, peer: SocketAddr, permit: OwnedSemaphorePermit) {
        // Tokens are small and should go at once; a socket that refuses this is slower and works.
        let _ = stream.set_nodelay(true);
        let app = Arc::clone(&self.app);
        app.metrics.connections.fetch_add(1, Ordering::Relaxed);
        // Below TLS: what waits is bytes on the socket, whoever made them.
        let stream = Timed::new(stream, app.config.write_timeout);
        match self.tls.take() {
            None => self.speak(stream, peer.ip()).await,
            Some(tls) => {
                if let Some(stream) = self.shake_hands(&tls, stream).await {
                    self.speak(stream, peer.ip()).await;
                }
            }
        }
        app.metrics.connections.fetch_sub(1, Ordering::Relaxed);
        drop(permit);
    }

    /// The handshake of TLS. None if the other side speaks something else, has no certificate though it must, or is too
    /// slow: that is counted, and not worth a line of the log. None, too, if the server ends.
    async fn shake_hands<S>(&mut self, tls: &Current, stream: S) -> Option<TlsStream<S>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let shaking = pin!(timeout(self.app.config.read_timeout, tls.acceptor().accept(stream)));
        let told = pin!(self.closing.wait_for(|closing| *closing));
        match select(shaking, told).await {
            Either::Left((Ok(Ok(stream)), _)) => Some(stream),
            Either::Left(_) => {
                self.app.metrics.failed_handshakes.fetch_add(1, Ordering::Relaxed);
                None
            }
            Either::Right(_) => None,
        }
    }

    /// HTTP, until either side has enough of it.
    async fn speak<S>(mut self, stream: S, peer: IpAddr)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (app, router) = (Arc::clone(&self.app), self.router);
        let service = service_fn(move |request| serve(Arc::clone(&app), router.clone(), peer, request));
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.app.config.read_timeout)
            .serve_connection(TokioIo::new(stream), service);
        let mut connection = pin!(connection);
        let told = pin!(async {
            // Who would tell is gone together with the server.
            let _ = self.closing.wait_for(|closing| *closing).await;
        });
        // How a connection ended is the client's business: its requests have been logged.
        if let Either::Right(_) = select(connection.as_mut(), told).await {
            connection.as_mut().graceful_shutdown();
            let _ = connection.await;
        }
    }
}
