//! Certificates in files, and clients that verify them.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use llamatower::edge::{EdgeConfig, EdgeTls};
use llamatower::tls::{Certificates, ClientCertificates, ClientNames, TlsFiles};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::support::{Client, Running};

/// A certificate with its key, in PEM.
#[derive(Clone)]
pub struct Pair {
    pub cert: String,
    pub key: String,
}

/// An authority.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub pem: String,
}

impl Authority {
    pub fn new(name: &str) -> Self {
        let mut params = named(name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self {
            issuer: Issuer::new(params, key),
            pem,
        }
    }

    pub fn sign(&self, params: &CertificateParams) -> Pair {
        let key = KeyPair::generate().unwrap();
        Pair {
            cert: params.signed_by(&key, &self.issuer).unwrap().pem(),
            key: key.serialize_pem(),
        }
    }

    /// A certificate of the server.
    pub fn server(&self) -> Pair {
        self.sign(&CertificateParams::new(["localhost".to_owned()]).unwrap())
    }

    /// A certificate of a client.
    pub fn client(&self, name: &str) -> Pair {
        self.sign(&named(name))
    }
}

fn named(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

/// The files of an edge's TLS in a directory.
pub struct Folder {
    pub directory: tempfile::TempDir,
    pub authority: Authority,
}

impl Folder {
    /// A folder with the certificate of a new authority.
    pub fn new() -> Self {
        let folder = Self {
            directory: tempfile::tempdir().unwrap(),
            authority: Authority::new("the authority of the tests"),
        };
        folder.write(&folder.authority.server());
        folder
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn write(&self, pair: &Pair) {
        write(&self.path("tls.crt"), &pair.cert);
        write(&self.path("tls.key"), &pair.key);
    }

    pub fn files(&self) -> TlsFiles {
        TlsFiles {
            cert: self.path("tls.crt"),
            key: self.path("tls.key"),
            client_ca: None,
            client_certificates: ClientCertificates::Required,
            client_names: ClientNames::default(),
            offers_http2: true,
        }
    }

    pub fn certificates(&self) -> Certificates {
        Certificates::load(self.files()).unwrap()
    }

    /// The configuration of an edge with these files.
    pub fn edge(&self, config: EdgeConfig) -> EdgeConfig {
        with(self.certificates(), config)
    }

    pub fn trusting(&self) -> TlsClient {
        TlsClient::trusting(&self.authority)
    }
}

/// The configuration of an edge with this certificate.
pub fn with(certificates: Certificates, config: EdgeConfig) -> EdgeConfig {
    EdgeConfig {
        tls: Some(EdgeTls {
            addresses: config.listen.clone(),
            certificates,
        }),
        ..config
    }
}

/// Replaces a file at once, as an editor does.
pub fn write(path: &Path, text: &str) {
    let draft = path.with_extension("draft");
    std::fs::write(&draft, text).unwrap();
    std::fs::rename(&draft, path).unwrap();
}

/// How a client connects.
#[derive(Clone)]
pub struct TlsClient {
    roots: RootCertStore,
    identity: Option<Pair>,
    versions: &'static [&'static SupportedProtocolVersion],
    protocols: Vec<Vec<u8>>,
    /// One for all connections, so that sessions are resumed.
    built: Arc<OnceLock<Arc<ClientConfig>>>,
}

impl TlsClient {
    pub fn trusting(authority: &Authority) -> Self {
        let mut roots = RootCertStore::empty();
        let pem = authority.pem.as_bytes();
        roots
            .add(CertificateDer::from_pem_slice(pem).unwrap())
            .unwrap();
        Self {
            roots,
            identity: None,
            versions: rustls::DEFAULT_VERSIONS,
            protocols: vec![],
            built: Arc::default(),
        }
    }

    pub fn with_identity(mut self, identity: Pair) -> Self {
        self.identity = Some(identity);
        self.built = Arc::default();
        self
    }

    pub fn with_versions(mut self, versions: &'static [&'static SupportedProtocolVersion]) -> Self {
        self.versions = versions;
        self.built = Arc::default();
        self
    }

    pub fn offering(mut self, protocols: &[&str]) -> Self {
        self.built = Arc::default();
        self.protocols = protocols.iter().map(|it| it.as_bytes().to_vec()).collect();
        self
    }

    fn config(&self) -> ClientConfig {
        let provider = rustls::crypto::aws_lc_rs::default_provider().into();
        let config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(self.versions)
            .unwrap()
            .with_root_certificates(self.roots.clone());
        let mut config = match &self.identity {
            None => config.with_no_client_auth(),
            Some(pair) => {
                let chain = CertificateDer::from_pem_slice(pair.cert.as_bytes()).unwrap();
                let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).unwrap();
                config.with_client_auth_cert(vec![chain], key).unwrap()
            }
        };
        config.alpn_protocols = self.protocols.clone();
        config
    }

    pub async fn handshake(&self, edge: &Running) -> std::io::Result<TlsStream<TcpStream>> {
        let stream = TcpStream::connect(edge.addr).await?;
        let name = ServerName::try_from("localhost").unwrap();
        let config = self.built.get_or_init(|| Arc::new(self.config()));
        TlsConnector::from(config.clone())
            .connect(name, stream)
            .await
    }

    pub async fn connect(&self, edge: &Running) -> Client<TlsStream<TcpStream>> {
        Client::new(self.handshake(edge).await.unwrap())
    }
}

/// The certificate that a server has shown.
pub fn shown(stream: &TlsStream<TcpStream>) -> Vec<u8> {
    let certificates = stream.get_ref().1.peer_certificates().unwrap();
    certificates[0].to_vec()
}

/// A certificate in PEM as it is shown.
pub fn der(pem: &str) -> Vec<u8> {
    CertificateDer::from_pem_slice(pem.as_bytes())
        .unwrap()
        .to_vec()
}
