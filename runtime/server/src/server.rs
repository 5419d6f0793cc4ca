//! [`Server`]: engines behind an address, from the first connection to the last.

use crate::app::App;
use crate::config::Config;
use crate::http::connection::{Shared, accept};
use crate::http::router;
use crate::library::Library;
use crate::log::Log;
use crate::models::{Model, Models};
use crate::tls::{Tls, TlsError};
use crate::trace::{Exporter, Tracer};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{Semaphore, watch};
use trtc_runtime::Engine;

/// How often the server looks whether requests and threads have ended.
pub(crate) const LOOK: Duration = Duration::from_millis(10);
/// How long connections and threads have to end once no request is left.
pub(crate) const LAST_WORDS: Duration = Duration::from_secs(5);
/// Connections that the system completes before they are taken: as many as may be open without a flag, and as Linux allows
/// by default. Those of clients beyond it would try again after a second.
const BACKLOG: i32 = 4096;
/// Most threads for connections; the rest of the machine is the engines'.
const MOST_THREADS: usize = 4;

/// What keeps a server from serving.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The address cannot be had.
    #[error("cannot listen at {address}: {error}")]
    Bind {
        /// Which.
        address: SocketAddr,
        /// Why.
        error: std::io::Error,
    },
    /// The certificate, its key or the authority of clients is none.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The system gives no threads, or no events.
    #[error("cannot start: {0}")]
    Start(std::io::Error),
    /// Two engines under one name, or none at all.
    #[error("{0}")]
    Models(String),
    /// A step took too long, and the server was told to end then.
    #[error("the watchdog ended the server: {0}")]
    Stuck(String),
}

/// How a server came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Requests that were given up for want of time.
    pub cut: usize,
}

#[derive(Clone, Debug, PartialEq)]
enum Phase {
    Serving,
    Draining,
    Stuck(String),
}

/// Tells a server to end; from any thread.
#[derive(Clone)]
pub struct Handle {
    app: Arc<App>,
    phase: Arc<watch::Sender<Phase>>,
}

impl Handle {
    /// No new requests; what runs may end. The server ends after it.
    pub fn drain(&self) {
        self.app.drain();
        self.phase.send_if_modified(|phase| {
            let serving = *phase == Phase::Serving;
            if serving {
                *phase = Phase::Draining;
            }
            serving
        });
    }
}

/// An address that is taken, before there are engines behind it.
pub struct Listener {
    config: Config,
    tls: Option<Tls>,
    socket: std::net::TcpListener,
}

impl Listener {
    /// Takes the address of the configuration, and reads its certificate.
    ///
    /// # Errors
    /// Somebody else has it, or it is none of this machine's; a file of TLS is not what it should be.
    pub fn bind(config: Config) -> Result<Listener, ServerError> {
        let address = config.address;
        let failed = |error| ServerError::Bind { address, error };
        let tls = config.tls.clone().map(Tls::load).transpose()?;
        let socket = std::net::TcpListener::bind(address).map_err(failed)?;
        // Again: the standard library asks for 128.
        socket2::SockRef::from(&socket).listen(BACKLOG).map_err(failed)?;
        socket.set_nonblocking(true).map_err(failed)?;
        Ok(Listener { config, tls, socket })
    }

    /// Starts a thread for each engine; those of a library may come later.
    ///
    /// # Errors
    /// No engine and no library, two of one name, or no thread.
    pub fn serve(
        self,
        engines: Vec<(String, Engine)>,
        library: Option<Library>,
        log: Log,
    ) -> Result<Server, ServerError> {
        if engines.is_empty() && library.is_none() {
            return Err(ServerError::Models("there is no engine to serve".to_owned()));
        }
        let models = Arc::new(Models::default());
        if let Err(error) = start(&models, engines, &self.config) {
            models.close();
            return Err(error);
        }
        let (tracer, exporter) = self.config.collector.clone().map(Tracer::new).unzip();
        let app = Arc::new(App::new(self.config, models, library, log, tracer));
        let phase = Arc::new(watch::channel(Phase::Serving).0);
        Ok(Server { app, tls: self.tls, exporter, socket: self.socket, phase })
    }
}

/// Starts the threads of engines.
fn start(models: &Arc<Models>, engines: Vec<(String, Engine)>, config: &Config) -> Result<(), ServerError> {
    for (name, engine) in engines {
        let twice = |_| ServerError::Models(format!("two engines have the name {name:?}"));
        let place = models.reserve(&name).map_err(twice)?;
        let model = Model::start(&name, engine, config.queue).map_err(ServerError::Start)?;
        place.fill(model).map_err(|e| ServerError::Models(e.message))?;
    }
    Ok(())
}

/// Engines behind an address.
pub struct Server {
    app: Arc<App>,
    tls: Option<Tls>,
    exporter: Option<Exporter>,
    socket: std::net::TcpListener,
    phase: Arc<watch::Sender<Phase>>,
}

impl Server {
    /// Where it listens.
    ///
    /// # Errors
    /// The system does not say.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// What tells it to end.
    pub fn handle(&self) -> Handle {
        Handle { app: Arc::clone(&self.app), phase: Arc::clone(&self.phase) }
    }

    /// Serves until it is told to end; this thread waits for it.
    ///
    /// # Errors
    /// It cannot start, or the watchdog ended it.
    pub fn run(self) -> Result<Ended, ServerError> {
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(MOST_THREADS);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(threads)
            .max_blocking_threads(2 * threads)
            .thread_name("http")
            .enable_io()
            .enable_time()
            .build()
            .map_err(ServerError::Start)?;
        let Server { app, tls, exporter, socket, phase } = self;
        let ended = runtime.block_on(async {
            let (ending, told) = watch::channel(false);
            let exporting = exporter.map(|exporter| tokio::spawn(exporter.run(Arc::clone(&app), told)));
            let ended = serve(&app, tls, socket, &phase).await;
            // Spans of the last requests. Whoever was to be told of the end has ended.
            let _ = ending.send(true);
            if let Some(exporting) = exporting
                && tokio::time::timeout(LAST_WORDS, exporting).await.is_err()
            {
                app.note("the last traces were not delivered");
            }
            ended
        });
        // Also if it could not start.
        app.models.close();
        runtime.shutdown_timeout(LAST_WORDS);
        let deadline = Instant::now() + LAST_WORDS;
        let stuck = ended.as_ref().is_err_and(|e| matches!(e, ServerError::Stuck(_)));
        // A thread in a step that does not end is left to the end of the process.
        while !stuck && app.models.is_busy() && Instant::now() < deadline {
            std::thread::sleep(LOOK);
        }
        ended
    }
}

async fn serve(
    app: &Arc<App>,
    tls: Option<Tls>,
    socket: std::net::TcpListener,
    phase: &Arc<watch::Sender<Phase>>,
) -> Result<Ended, ServerError> {
    let listener = tokio::net::TcpListener::from_std(socket).map_err(ServerError::Start)?;
    let connections = app.config.max_connections.clamp(1, Semaphore::MAX_PERMITS) as u32;
    let permits = Arc::new(Semaphore::new(connections as usize));
    let (closing, told) = watch::channel(false);
    let shared = Shared {
        app: Arc::clone(app),
        router: router(Arc::clone(app)),
        tls: tls.as_ref().map(Tls::current),
        closing: told,
    };
    let accepting = tokio::spawn(accept(shared, listener, Arc::clone(&permits)));
    // Ends with the runtime: who is let in while the server drains sees a certificate that is valid, too.
    tls.map(|tls| tokio::spawn(tls.renew(Arc::clone(app))));
    let watching = tokio::spawn(watch_steps(Arc::clone(app), Arc::clone(phase)));
    let mut changes = phase.subscribe();
    let ending = changes.wait_for(|phase| *phase != Phase::Serving).await.map(|p| p.clone());
    watching.abort();
    if let Ok(Phase::Stuck(what)) = ending {
        return Err(ServerError::Stuck(what));
    }
    app.note(format!("draining: {} requests are being answered", app.active()));
    let deadline = Instant::now() + app.config.drain_timeout;
    while app.active() > 0 && Instant::now() < deadline {
        tokio::time::sleep(LOOK).await;
    }
    let cut = app.active();
    // Those who still wait are told that they wait in vain.
    app.models.close();
    accepting.abort();
    // Nobody listens if all connections are closed already.
    let _ = closing.send(true);
    let _ = tokio::time::timeout(LAST_WORDS, permits.acquire_many(connections)).await;
    Ok(Ended { cut })
}

/// Tells when a step begins to take too long and when it is over; ends the server if that is wanted.
async fn watch_steps(app: Arc<App>, phase: Arc<watch::Sender<Phase>>) {
    let Some(limit) = app.config.watchdog else {
        return;
    };
    let pause = (limit / 4).clamp(LOOK, Duration::from_secs(1));
    let mut told: Vec<String> = Vec::new();
    loop {
        tokio::time::sleep(pause).await;
        let present = app.models.present();
        let stuck = present.iter().filter(|m| m.pulse.stepping().is_some_and(|d| d > limit));
        let names: Vec<String> = stuck.map(|m| m.name.to_string()).collect();
        for name in names.iter().filter(|n| !told.contains(n)) {
            let what = format!("a step of {name} takes longer than {} s", limit.as_secs_f64());
            app.note(format!("watchdog: {what}"));
            if app.config.watchdog_exit {
                phase.send_replace(Phase::Stuck(what));
                return;
            }
        }
        for name in told.iter().filter(|n| !names.contains(n)) {
            app.note(format!("watchdog: {name} goes on"));
        }
        told = names;
    }
}
