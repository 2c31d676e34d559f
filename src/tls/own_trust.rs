//! How the program's own commands verify the certificate of a gateway.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_platform_verifier::Verifier;

use super::files::{self, TlsFile};
use super::server::HTTP_11;

/// Which gateways the program's own commands trust: those whose certificate the system's authorities
/// have signed, those whose certificate an authority in the configured file has signed, and the one
/// with the configured certificate itself, by whatever name it is called.
///
/// The last rule makes commands work on the gateway's own machine, where it is called 127.0.0.1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnTrust(Trusted);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Trusted {
    /// These certificates, and the system's authorities.
    Verified(Vec<CertificateDer<'static>>),
    /// Whichever gateway answers.
    Any,
}

impl OwnTrust {
    /// Trusts the system's authorities and, if a file is given and can be read, the certificates in it.
    pub fn new(cert: Option<&Path>) -> Self {
        let pem = cert.and_then(|path| std::fs::read(path).ok());
        let found = pem.and_then(|pem| files::certificates(TlsFile::Cert, &pem).ok());
        Self(Trusted::Verified(found.unwrap_or_default()))
    }

    /// Trusts whoever answers. Only for a question whose answer is not confidential, like that of the
    /// health check: it must not fail because a certificate was renewed badly.
    pub fn any() -> Self {
        Self(Trusted::Any)
    }

    /// The configuration of rustls. `identity` is a PEM file with a client's certificate and its key.
    ///
    /// # Errors
    /// The file cannot be used, or there is no authority.
    pub fn config(&self, identity: Option<&Path>) -> Result<ClientConfig, String> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let verifier = OwnVerifier::new(&self.0, provider.clone())?;
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .dangerous() // The verifier trusts the configured certificate, too.
            .with_custom_certificate_verifier(Arc::new(verifier));
        let mut config = match identity {
            None => config.with_no_client_auth(),
            Some(path) => {
                let wrong = |error: String| format!("{}: {error}", path.display());
                let pem = std::fs::read(path).map_err(|error| wrong(error.to_string()))?;
                let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
                let chain = chain.map_err(|error| wrong(files::pem_reason(&error)))?;
                let key = PrivateKeyDer::from_pem_slice(&pem).map_err(|error| {
                    wrong(format!("no private key: {}", files::pem_reason(&error)))
                })?;
                let config = config.with_client_auth_cert(chain, key);
                config.map_err(|error| wrong(error.to_string()))?
            }
        };
        config.alpn_protocols = vec![HTTP_11.to_vec()];
        Ok(config)
    }
}

/// Accepts the configured certificate by whatever name, and verifies all others.
struct OwnVerifier {
    accepts_any: bool,
    own: Option<CertificateDer<'static>>,
    others: Vec<Arc<dyn ServerCertVerifier>>,
    provider: Arc<CryptoProvider>,
}

impl OwnVerifier {
    fn new(trusted: &Trusted, provider: Arc<CryptoProvider>) -> Result<Self, String> {
        let (accepts_any, certificates) = match trusted {
            Trusted::Any => (true, &[][..]),
            Trusted::Verified(certificates) => (false, &**certificates),
        };
        let mut others: Vec<Arc<dyn ServerCertVerifier>> = Vec::new();
        // On a machine without authorities there are only those of the file.
        if let Ok(system) = Verifier::new(provider.clone()) {
            others.push(Arc::new(system));
        }
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(certificates.iter().cloned());
        if !roots.is_empty() {
            let own =
                WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone());
            others.push(own.build().map_err(|error| error.to_string())?);
        }
        Ok(Self {
            accepts_any,
            own: certificates.first().cloned(),
            others,
            provider,
        })
    }
}

impl fmt::Debug for OwnVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OwnVerifier").finish_non_exhaustive()
    }
}

impl ServerCertVerifier for OwnVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if self.accepts_any || self.own.as_ref() == Some(end_entity) {
            return Ok(ServerCertVerified::assertion());
        }
        let mut result = Err(rustls::CertificateError::UnknownIssuer.into());
        for verifier in &self.others {
            result = verifier.verify_server_cert(
                end_entity,
                intermediates,
                server_name,
                ocsp_response,
                now,
            );
            if result.is_ok() {
                break;
            }
        }
        result
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let algorithms = &self.provider.signature_verification_algorithms;
        algorithms.supported_schemes()
    }
}
