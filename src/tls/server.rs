//! The configuration of rustls for accepted connections.

use std::sync::Arc;

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::CertificateDer;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, ServerConfig};

use super::client_names::ClientNames;
use super::files::{Contents, TlsError, TlsFile, TlsFiles, Validity, certificates, private_key};

/// The protocol of HTTP/2 in ALPN.
pub(crate) const HTTP_2: &[u8] = b"h2";
/// The protocol of HTTP/1.1 in ALPN.
pub(crate) const HTTP_11: &[u8] = b"http/1.1";

/// Whether clients need a certificate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClientCertificates {
    /// A request without one is refused.
    #[default]
    Required,
    /// Clients may have one.
    Optional,
}

/// What new connections are accepted with.
#[derive(Debug)]
pub struct TlsServer {
    pub(crate) config: Arc<ServerConfig>,
    /// The same without HTTP/2.
    pub(crate) http1_config: Arc<ServerConfig>,
    pub(crate) client_names: ClientNames,
    /// Requests need a client's certificate.
    pub(crate) needs_certificate: bool,
    pub(super) validity: Validity,
}

impl TlsServer {
    pub(super) fn new(files: &TlsFiles, contents: &Contents) -> Result<Self, TlsError> {
        let chain = certificates(TlsFile::Cert, &contents.cert)?;
        let validity = Validity::of(&chain[0])?;
        let provider = Arc::new(aws_lc_rs::default_provider());
        let key = certified_key(&provider, chain, &contents.key)?;
        let verifier = match &contents.client_ca {
            Some(pem) => client_verifier(&provider, pem)?,
            None => WebPkiClientVerifier::no_client_auth(),
        };
        let cannot = |error: rustls::Error| {
            TlsError::new(TlsFile::Cert, format!("TLS cannot be used: {error}"))
        };
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(cannot)?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(key)));
        // Tickets keep a session at the client; nothing is kept here. Their keys are new with each
        // certificate, so that no session is resumed whose client's authority was removed.
        config.ticketer = aws_lc_rs::Ticketer::new().map_err(cannot)?;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.alpn_protocols = vec![HTTP_11.to_vec()];
        let http1_config = Arc::new(config.clone());
        if files.offers_http2 {
            config.alpn_protocols.insert(0, HTTP_2.to_vec());
        }
        Ok(Self {
            config: Arc::new(config),
            http1_config,
            client_names: files.client_names.clone(),
            needs_certificate: contents.client_ca.is_some()
                && files.client_certificates == ClientCertificates::Required,
            validity,
        })
    }
}

/// The certificate with its key, which must be its own.
fn certified_key(
    provider: &CryptoProvider,
    chain: Vec<CertificateDer<'static>>,
    key: &[u8],
) -> Result<CertifiedKey, TlsError> {
    let loaded = provider.key_provider.load_private_key(private_key(key)?);
    let loaded = loaded.map_err(|error| {
        let reason = format!("the private key in the file cannot be used: {error}");
        TlsError::new(TlsFile::Key, reason)
    })?;
    let matches = |certificate: &CertificateDer<'static>| {
        CertifiedKey::new(vec![certificate.clone()], loaded.clone()).keys_match()
    };
    match matches(&chain[0]) {
        Ok(()) => Ok(CertifiedKey::new(chain, loaded)),
        // Another certificate in the file has this key.
        Err(rustls::Error::InconsistentKeys(_))
            if chain[1..].iter().any(|other| matches(other).is_ok()) =>
        {
            let reason = "the certificate of the key in LLAMATOWER_TLS_KEY must be the first in the \
                          file, before those of authorities";
            Err(TlsError::new(TlsFile::Cert, reason))
        }
        Err(rustls::Error::InconsistentKeys(_)) => {
            let reason = "the key is that of another certificate than the first in \
                          LLAMATOWER_TLS_CERT; give the two files of one certificate";
            Err(TlsError::new(TlsFile::Key, reason))
        }
        Err(error) => {
            let reason = format!("the first certificate in the file cannot be used: {error}");
            Err(TlsError::new(TlsFile::Cert, reason))
        }
    }
}

/// Verifies clients' certificates. A client may connect without one: whether a request needs one is
/// decided when the request is known, so that probes can ask for `/health`, and so that a client without
/// one gets a text.
fn client_verifier(
    provider: &Arc<CryptoProvider>,
    pem: &[u8],
) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let wrong = |reason: String| TlsError::new(TlsFile::ClientCa, reason);
    let mut roots = RootCertStore::empty();
    for certificate in certificates(TlsFile::ClientCa, pem)? {
        let added = roots.add(certificate);
        added.map_err(|error| {
            wrong(format!(
                "the file has a certificate that cannot be used: {error}"
            ))
        })?;
    }
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone());
    let verifier = verifier.allow_unauthenticated().build();
    verifier.map_err(|error| wrong(format!("the authorities cannot be used: {error}")))
}
