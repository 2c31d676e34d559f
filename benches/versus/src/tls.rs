//! The cost of TLS for clients: the gateway's beside that of nginx and of plain hyper with rustls, with the
//! same certificate and cipher, and beside all three without TLS.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
    server::NoServerSessionStorage,
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_rustls::{TlsAcceptor, TlsConnector, client::TlsStream};

use crate::{Error, contenders::Contender, report::Report, rounds::Sample};

/// The name in the certificate.
const NAME: &str = "localhost";

/// The shapes that are measured by default: a small request, a line, and the memory of 2,000 streams.
pub(crate) const SHAPES: [&str; 4] = ["unary", "paced-300", "paced-2000", "churn"];

const ALL: [(&str, &str, &str); 6] = [
    ("nginx", "nginx", "nginx without TLS"),
    ("nginx tls", "nginx", "nginx with TLS"),
    ("llamatower", "llamatower", "the gateway without TLS"),
    ("llamatower tls", "llamatower", "the gateway with TLS"),
    ("plain hyper", "plain hyper", "plain hyper without TLS"),
    ("plain hyper tls", "plain hyper", "plain hyper with TLS"),
];

/// The contender that the others are compared with.
const BASE: &str = "nginx tls";

/// A certificate in files, and the client that trusts it.
#[derive(Clone)]
pub(crate) struct Tls {
    _directory: Arc<TempDir>,
    pub(crate) cert: PathBuf,
    pub(crate) key: PathBuf,
    connector: TlsConnector,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls").field("cert", &self.cert).finish()
    }
}

impl Tls {
    /// A certificate of its own with an ECDSA key, and a client that offers one cipher and one group, so
    /// that all servers use these.
    pub(crate) fn new() -> Result<Self, Error> {
        let made = rcgen::generate_simple_self_signed([NAME.to_owned()])?;
        let directory = tempfile::Builder::new()
            .prefix("llamatower-versus-")
            .tempdir()?;
        let (cert, key) = (
            directory.path().join("tls.crt"),
            directory.path().join("tls.key"),
        );
        fs::write(&cert, made.cert.pem())?;
        fs::write(&key, made.signing_key.serialize_pem())?;
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(&cert)?)?;
        let provider = CryptoProvider {
            cipher_suites: vec![aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256],
            kx_groups: vec![aws_lc_rs::kx_group::X25519],
            ..aws_lc_rs::default_provider()
        };
        let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_root_certificates(roots)
            .with_no_client_auth();
        // Each connection costs a whole handshake.
        config.resumption = rustls::client::Resumption::disabled();
        Ok(Self {
            _directory: Arc::new(directory),
            cert,
            key,
            connector: TlsConnector::from(Arc::new(config)),
        })
    }
}

/// A connection, with or without TLS.
pub(crate) enum Wire {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Wire {
    pub(crate) async fn new(stream: TcpStream, tls: Option<&Tls>) -> Result<Self, Error> {
        Ok(match tls {
            None => Self::Plain(stream),
            Some(tls) => {
                let name = ServerName::try_from(NAME)?;
                Self::Tls(Box::new(tls.connector.connect(name, stream).await?))
            }
        })
    }

    pub(crate) async fn send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        match self {
            Self::Plain(stream) => stream.write_all(bytes).await,
            Self::Tls(stream) => {
                stream.write_all(bytes).await?;
                stream.flush().await
            }
        }
    }

    /// The number of bytes; 0 at the end.
    pub(crate) async fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.read(buffer).await,
            Self::Tls(stream) => stream.read(buffer).await,
        }
    }
}

/// Each of those that were found, without and with TLS.
pub(crate) fn contenders(found: &[Contender]) -> Result<Vec<Contender>, Error> {
    let tls = Tls::new()?;
    let contenders = ALL.iter().filter_map(|(name, of, _)| {
        let contender = found.iter().find(|one| one.name == *of)?;
        let tls = name.ends_with("tls").then(|| tls.clone());
        Some(contender.with_tls(name, tls))
    });
    let contenders: Vec<_> = contenders.collect();
    match contenders.iter().any(|one| one.name == BASE) {
        true => Ok(contenders),
        false => Err("--tls needs nginx".into()),
    }
}

/// Accepts connections like the gateway: with the same library and cryptography, tickets for sessions, and
/// no sessions that are kept.
pub(crate) fn acceptor(cert: &Path, key: &Path) -> Result<TlsAcceptor, Error> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_file_iter(cert)?.collect();
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain?, PrivateKeyDer::from_pem_file(key)?)?;
    config.ticketer = aws_lc_rs::Ticketer::new()?;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// A table for each shape: CPU time, what TLS adds to it in the same round, and memory for each stream.
pub(crate) fn table(report: &Report) -> String {
    let mut text = String::new();
    for shape in report.shapes() {
        let unit = shape.unit();
        // Writing to a `String` cannot fail.
        writeln!(
            text,
            "| {} | CPU for a {unit}, µs | of nginx with TLS | added by TLS, µs | p99, µs | kB for each stream |\n\
             |---|---:|---:|---:|---:|---:|",
            shape.title
        )
        .ok();
        for (name, _, title) in ALL {
            let p99 = |sample: &Sample| {
                let latency = sample.delay.as_ref().or(sample.first_byte.as_ref());
                latency.map(|latency| latency.p99)
            };
            let memory = |sample: &Sample| {
                let (idle, loaded) = sample.memory?;
                Some(loaded.saturating_sub(idle) as f64 / sample.streams? as f64)
            };
            let figure = |figure: &dyn Fn(&Sample) -> Option<f64>| {
                let mut values: Vec<_> = report.of_contender(shape.name, name, figure);
                values.sort_by(f64::total_cmp);
                values.get(values.len() / 2).copied()
            };
            let cpu = report.spread(shape.name, name, |sample| sample.cpu);
            let ratio = report.ratio_to(BASE, shape.name, name, |sample| sample.cpu);
            if let Some((cpu, ratio)) = cpu.zip(ratio) {
                let shown =
                    |value: Option<f64>| value.map_or("–".to_owned(), |it| format!("{it:.0}"));
                let (cpu, ratio) = (cpu.text(1), ratio.text(2));
                let added = name.strip_suffix(" tls").and_then(|plain| {
                    report.added_to(plain, shape.name, name, |sample| sample.cpu)
                });
                let added = added.map_or("–".to_owned(), |added| added.text(1));
                let (p99, memory) = (shown(figure(&p99)), shown(figure(&memory)));
                writeln!(
                    text,
                    "| {title} | {cpu} | {ratio} | {added} | {p99} | {memory} |"
                )
                .ok();
            }
        }
        text.push('\n');
    }
    text += report.disturbance().trim_start();
    for note in &report.notes {
        write!(text, "\n{note}\n").ok();
    }
    text
}
