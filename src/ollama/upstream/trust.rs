//! The certificate authorities that are trusted.

use std::fmt;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls_platform_verifier::Verifier;

use crate::tls::pem_reason;

/// Additional certificate authorities, beside the system's.
#[derive(Clone, Default)]
pub struct Authorities(Vec<CertificateDer<'static>>);

impl Authorities {
    /// The certificates of a PEM file.
    ///
    /// # Errors
    /// The text is a reason that follows the file's name.
    pub fn from_pem(pem: &[u8]) -> Result<Self, String> {
        let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
        let found = found.map_err(|error| format!("is not a PEM file: {}", pem_reason(&error)))?;
        let mut roots = rustls::RootCertStore::empty();
        for certificate in &found {
            let added = roots.add(certificate.clone());
            added.map_err(|error| format!("has a certificate that cannot be used: {error}"))?;
        }
        match found.is_empty() {
            true => Err("contains no certificate (BEGIN CERTIFICATE)".to_owned()),
            false => Ok(Self(found)),
        }
    }

    /// Trusts these authorities and the system's.
    ///
    /// # Errors
    /// There is no authority at all, so that no server could be trusted.
    pub fn trust(self) -> Result<Trust, String> {
        let own = self.0.len();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let cannot = |error| {
            format!(
                "certificates of servers cannot be checked ({error}): this system has no authorities \
                 of its own (package ca-certificates), and no file names any"
            )
        };
        let verifier = Verifier::new_with_extra_roots(self.0, provider.clone()).map_err(cannot)?;
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(cannot)?
            .dangerous() // The platform's verifier is one of rustls' own making.
            .with_custom_certificate_verifier(Arc::new(verifier));
        let mut config = config.with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Trust {
            config: Arc::new(config),
            own,
        })
    }
}

impl fmt::Debug for Authorities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} authorities", self.0.len())
    }
}

/// How servers' certificates are verified. The authorities are loaded once, and clones are cheap.
#[derive(Clone)]
pub struct Trust {
    config: Arc<ClientConfig>,
    own: usize,
}

impl Trust {
    pub(super) fn config(&self) -> ClientConfig {
        (*self.config).clone()
    }
}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the system's authorities and {} more", self.own)
    }
}
