//! TLS: the certificate of a server, and what is read anew when its files change. Connections are `http`'s.
//!
//! The library is rustls with ring's primitives: TLS 1.2 and 1.3, no renegotiation, no early data.

mod files;

pub use files::{Files, TlsError, authorities};

use crate::app::App;
use files::Contents;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;

/// How often the files are read. Secrets of Kubernetes and certificates of certbot are links that are switched: what
/// counts is what stands in the files, and it is short.
pub const LOOK: Duration = Duration::from_secs(10);

/// What a server says of itself, for as long as its files stay as they are.
#[derive(Debug)]
pub struct Tls {
    files: Files,
    taken: Contents,
    current: watch::Sender<Arc<ServerConfig>>,
}

/// Gives each connection what holds when it comes.
#[derive(Clone)]
pub struct Current(watch::Receiver<Arc<ServerConfig>>);

impl Current {
    /// For the next handshake.
    pub fn acceptor(&self) -> TlsAcceptor {
        Arc::clone(&self.0.borrow()).into()
    }
}

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    /// One cannot be read, is not what it should be, or the key does not belong to the certificate.
    pub fn load(files: Files) -> Result<Tls, TlsError> {
        let taken = files.read()?;
        let current = watch::Sender::new(files.config(&taken)?);
        Ok(Tls { files, taken, current })
    }

    /// What connections take.
    pub fn current(&self) -> Current {
        Current(self.current.subscribe())
    }

    /// Reads the files anew, again and again. What is right counts for connections from then on, and what is wrong is told
    /// once; connections that are open go on as they began.
    pub async fn renew(self, app: Arc<App>) {
        let Tls { files, taken, current } = self;
        let (mut before, mut taken) = (Ok(taken.clone()), Ok(taken));
        loop {
            tokio::time::sleep(files.look).await;
            let reading = files.clone();
            // A file may lie on a disk that takes its time.
            let Ok(now) = tokio::task::spawn_blocking(move || reading.read()).await else { return };
            // Files are replaced one after the other: those that were the same at two looks belong together.
            if now == before && now != taken {
                match now.as_ref().map_err(Clone::clone).and_then(|contents| files.config(contents)) {
                    Ok(config) => {
                        current.send_replace(config);
                        app.note(format!("TLS: '{}' is read anew", files.certificate.display()));
                    }
                    Err(e) => app.note(format!("TLS: {e}; the certificate stays as it was: {}", e.help())),
                }
                taken = now.clone();
            }
            before = now;
        }
    }
}
