//! TLS of the client: whom it trusts, and that the server is who it says. There is no way to look away.

use super::url::Target;
use crate::render::Failure;
use std::path::Path;
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{CertificateError, ClientConfig, Error, InvalidMessage, RootCertStore};

/// What connections to one server need.
pub struct Tls {
    connector: TlsConnector,
    name: ServerName<'static>,
}

impl Tls {
    /// For a server whose certificate is of an authority in this file, or else of one that this machine trusts. None for
    /// `http`.
    pub fn new(target: &Target, authority: Option<&Path>) -> Result<Option<Tls>, Failure> {
        if !target.secure {
            return match authority {
                None => Ok(None),
                Some(_) => Err(Failure::user("--tls-ca is given, and the address is not https")
                    .help("begin the address with https://, or leave --tls-ca out")),
            };
        }
        let name = ServerName::try_from(target.host.clone()).map_err(|e| {
            Failure::user(format!("'{}' is no name that a certificate has: {e}", target.host))
        })?;
        let roots = match authority {
            Some(file) => trtc_server::tls::authorities(file)?,
            None => system()?,
        };
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|e| Failure::bug(format!("TLS has no versions: {e}")))?;
        let mut config = config.with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Some(Tls { connector: Arc::new(config).into(), name }))
    }

    /// Shakes hands; the error says what to do where something can be done.
    pub async fn within(&self, stream: TcpStream) -> std::io::Result<TlsStream<TcpStream>> {
        let connected = self.connector.connect(self.name.clone(), stream).await;
        connected.map_err(|e| {
            let cause = e.get_ref().and_then(|cause| cause.downcast_ref());
            match cause.and_then(advice) {
                Some(advice) => std::io::Error::other(format!("{e}: {advice}")),
                None => e,
            }
        })
    }
}

fn advice(error: &Error) -> Option<&'static str> {
    match error {
        Error::InvalidCertificate(CertificateError::UnknownIssuer) => {
            Some("nobody who is trusted here has signed it; a private authority is given as --tls-ca")
        }
        Error::InvalidMessage(InvalidMessage::InvalidContentType) => {
            Some("the server speaks no TLS; its address may begin with http://")
        }
        _ => None,
    }
}

/// The authorities that this machine trusts.
fn system() -> Result<RootCertStore, Failure> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    // A store may have old ones that no one can use.
    let (usable, _) = roots.add_parsable_certificates(found.certs);
    match usable {
        0 => {
            let notes = found.errors.iter().map(ToString::to_string).collect();
            let help = "install the system's certificates (ca-certificates), or give a file as --tls-ca";
            Err(Failure::user("this machine trusts no authority").notes(notes).help(help))
        }
        _ => Ok(roots),
    }
}
