//! Certificates and keys as files, in PEM. Reads them and says what is wrong with them; knows no clock: whether a
//! certificate has expired is for clients to see.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::{self, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{Error, RootCertStore, ServerConfig};

/// Where a server's certificate is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    /// The certificate, and behind it those between it and an authority that clients know.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// Authorities; clients must show a certificate of one of them. None: clients show none.
    pub client_authority: Option<PathBuf>,
    /// How often the files are read anew: [`super::LOOK`].
    pub look: Duration,
}

/// What is wrong with a file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TlsError {
    /// The system does not give it.
    #[error("cannot read '{}': {error}", file.display())]
    Read {
        /// Which.
        file: PathBuf,
        /// Why.
        error: String,
    },
    /// There is no certificate in it.
    #[error("'{}' has no certificate", .0.display())]
    NoCertificate(PathBuf),
    /// There is no private key in it.
    #[error("'{}' has no private key", .0.display())]
    NoKey(PathBuf),
    /// The key has a password.
    #[error("the private key in '{}' is encrypted", .0.display())]
    Encrypted(PathBuf),
    /// There is something in it that nobody understands.
    #[error("'{}' is damaged or of a kind that is not known: {what}", file.display())]
    Broken {
        /// Which.
        file: PathBuf,
        /// In the library's words.
        what: String,
    },
    /// Key and certificate are each right, and not of each other.
    #[error("the key in '{}' does not belong to the certificate in '{}'", key.display(), certificate.display())]
    Mismatch {
        /// With the key.
        key: PathBuf,
        /// With the certificate.
        certificate: PathBuf,
    },
}

impl TlsError {
    /// What to do next.
    pub fn help(&self) -> &'static str {
        match self {
            TlsError::Read { .. } => "correct the path, or let this user read the file",
            TlsError::NoCertificate(_) => {
                "give a PEM file with -----BEGIN CERTIFICATE-----, the server's own first"
            }
            TlsError::NoKey(_) => "give a PEM file with -----BEGIN PRIVATE KEY-----",
            TlsError::Encrypted(_) => "take its password off: openssl pkey -in OLD.key -out NEW.key",
            TlsError::Broken { .. } => {
                "give PEM; keys may be RSA of 2048 bits and more, ECDSA on P-256 or P-384, or Ed25519"
            }
            TlsError::Mismatch { .. } => {
                "give the key that the certificate was made with; in a chain the server's own certificate is the first"
            }
        }
    }
}

/// What stood in the files.
#[derive(Clone, PartialEq, Eq)]
pub struct Contents {
    certificate: Vec<u8>,
    key: Vec<u8>,
    client_authority: Option<Vec<u8>>,
}

/// Shows no key.
impl fmt::Debug for Contents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Contents").finish_non_exhaustive()
    }
}

impl Files {
    /// Reads them as they are.
    pub fn read(&self) -> Result<Contents, TlsError> {
        Ok(Contents {
            certificate: read(&self.certificate)?,
            key: read(&self.key)?,
            client_authority: self.client_authority.as_deref().map(read).transpose()?,
        })
    }

    /// What a handshake needs of them.
    pub fn config(&self, contents: &Contents) -> Result<Arc<ServerConfig>, TlsError> {
        let broken = |file: &Path, what: &dyn fmt::Display| TlsError::Broken {
            file: file.to_owned(),
            what: what.to_string(),
        };
        let chain = certificates(&self.certificate, &contents.certificate)?;
        let key = key(&self.key, &contents.key)?;
        let provider = Arc::new(ring::default_provider());
        let clients = match (&self.client_authority, &contents.client_authority) {
            (Some(file), Some(pem)) => {
                let roots = Arc::new(store(file, pem)?);
                let verifier =
                    WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(&provider)).build();
                verifier.map_err(|e| broken(file, &e))?
            }
            _ => WebPkiClientVerifier::no_client_auth(),
        };
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .and_then(|b| b.with_client_cert_verifier(clients).with_single_cert(chain, key));
        let mut config = config.map_err(|e| match e {
            Error::InconsistentKeys(_) => {
                TlsError::Mismatch { key: self.key.clone(), certificate: self.certificate.clone() }
            }
            Error::InvalidCertificate(_) => broken(&self.certificate, &e),
            _ => broken(&self.key, &e),
        })?;
        // Who can speak another protocol alone is told so in the handshake.
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }
}

/// The authorities of a file, for who checks certificates.
///
/// # Errors
/// It cannot be read, or has no certificate, or one that is broken.
pub fn authorities(file: &Path) -> Result<RootCertStore, TlsError> {
    store(file, &read(file)?)
}

fn read(file: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(file).map_err(|e| TlsError::Read { file: file.to_owned(), error: e.to_string() })
}

fn store(file: &Path, pem: &[u8]) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(file, pem)? {
        let added = roots.add(certificate);
        added.map_err(|e| TlsError::Broken { file: file.to_owned(), what: e.to_string() })?;
    }
    Ok(roots)
}

/// All certificates of a file, at least one.
fn certificates(file: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let all: Result<Vec<_>, pem::Error> = CertificateDer::pem_slice_iter(pem).collect();
    let all = all.map_err(|e| TlsError::Broken { file: file.to_owned(), what: e.to_string() })?;
    match all.is_empty() {
        true => Err(TlsError::NoCertificate(file.to_owned())),
        false => Ok(all),
    }
}

/// The first private key of a file.
fn key(file: &Path, pem: &[u8]) -> Result<PrivateKeyDer<'static>, TlsError> {
    // PKCS#8 has its own name for such keys, and the older forms a header.
    let encrypted =
        ["BEGIN ENCRYPTED PRIVATE KEY", "Proc-Type: 4,ENCRYPTED"].map(|s| contains(pem, s.as_bytes()));
    if encrypted.contains(&true) {
        return Err(TlsError::Encrypted(file.to_owned()));
    }
    PrivateKeyDer::from_pem_slice(pem).map_err(|e| match e {
        pem::Error::NoItemsFound => TlsError::NoKey(file.to_owned()),
        e => TlsError::Broken { file: file.to_owned(), what: e.to_string() },
    })
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|w| w == part)
}
