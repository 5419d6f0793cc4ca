//! Takes connections, so many at a time, and speaks HTTP/1.1 on each.

use super::serve::serve;
use super::timed::Timed;
use crate::app::App;
use axum::Router;
use futures_util::future::{Either, select};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

/// How long to wait before connections are taken again after the system had no room for one.
const NO_ROOM: Duration = Duration::from_millis(50);

/// Takes connections until it is dropped. Each holds a permit, and is closed once `closing` is true and its request,
/// if it has one, is answered.
pub async fn accept(
    app: Arc<App>,
    router: Router,
    listener: TcpListener,
    permits: Arc<Semaphore>,
    closing: watch::Receiver<bool>,
) {
    loop {
        // Closed semaphores do not happen: it is nobody's to close.
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((stream, peer)) => {
                tokio::spawn(connection(
                    Arc::clone(&app),
                    router.clone(),
                    stream,
                    peer,
                    permit,
                    closing.clone(),
                ));
            }
            // A client that went away at once, or no file descriptor is left.
            Err(_) => tokio::time::sleep(NO_ROOM).await,
        }
    }
}

async fn connection(
    app: Arc<App>,
    router: Router,
    stream: TcpStream,
    peer: SocketAddr,
    permit: OwnedSemaphorePermit,
    mut closing: watch::Receiver<bool>,
) {
    // Tokens are small and should go at once; a socket that refuses this is slower and works.
    let _ = stream.set_nodelay(true);
    app.metrics.connections.fetch_add(1, Ordering::Relaxed);
    let io = TokioIo::new(Timed::new(stream, app.config.write_timeout));
    let ours = Arc::clone(&app);
    let service = service_fn(move |request| serve(Arc::clone(&ours), router.clone(), peer.ip(), request));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(app.config.read_timeout)
        .serve_connection(io, service);
    {
        let mut connection = pin!(connection);
        let told = pin!(async {
            // Who would tell is gone together with the server.
            let _ = closing.wait_for(|closing| *closing).await;
        });
        // How a connection ended is the client's business: its requests have been logged.
        if let Either::Right(_) = select(connection.as_mut(), told).await {
            connection.as_mut().graceful_shutdown();
            let _ = connection.await;
        }
    }
    app.metrics.connections.fetch_sub(1, Ordering::Relaxed);
    drop(permit);
}
