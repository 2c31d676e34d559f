//! The settings of TLS: which listeners speak it, with which files.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use super::error::Severity::Warning;
use super::parse::{Parsed, items};
use super::reader::Reader;
use super::table::{Settings, Tls};
use crate::edge::ListenAddr;
use crate::tls::{Certificates, ClientCertificates, ClientNames, TlsFiles};

/// Where HTTP/2 is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Http2 {
    /// Nowhere.
    Off,
    /// Over TLS.
    Tls,
    /// Also without TLS, to clients that begin with it.
    All,
}

pub(super) const HTTP2: [(&str, Http2); 3] = [
    ("tls", Http2::Tls),
    ("all", Http2::All),
    ("off", Http2::Off),
];

pub(super) const CLIENT_CERTIFICATES: [(&str, ClientCertificates); 2] = [
    ("required", ClientCertificates::Required),
    ("optional", ClientCertificates::Optional),
];

/// The listeners, by what they are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listener {
    /// For clients.
    Public,
    /// For operators.
    Admin,
    /// For scrapers of metrics.
    Metrics,
}

/// Which addresses speak TLS. A unix socket never does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum TlsListeners {
    /// All of clients; of the others those that other machines can reach.
    #[default]
    Auto,
    /// All addresses of these listeners, and these addresses.
    Only(Vec<Listener>, Vec<SocketAddr>),
}

pub(super) fn tls_listeners(text: &str) -> Parsed<TlsListeners> {
    if text.is_empty() || text == "auto" {
        return Ok(TlsListeners::Auto);
    }
    let (mut listeners, mut addresses) = (Vec::new(), Vec::new());
    for item in items(text) {
        match item {
            "public" => listeners.push(Listener::Public),
            "admin" => listeners.push(Listener::Admin),
            "metrics" => listeners.push(Listener::Metrics),
            item => match item.parse() {
                Ok(ListenAddr::Tcp(address)) => addresses.push(address),
                _ => {
                    let text = "each item must be public, admin, metrics, or an address that is \
                                listened on; auto stands alone";
                    return Err(text.to_owned());
                }
            },
        }
    }
    Ok(TlsListeners::Only(listeners, addresses))
}

/// Entries like `spiffe://cluster/ada=ada`. A key's name has no `=`, but a name in a certificate may.
pub(super) fn client_names(text: &str) -> Parsed<ClientNames> {
    let entry = |item: &str| match item.rsplit_once('=') {
        Some((subject, key)) if !subject.trim().is_empty() && !key.trim().is_empty() => {
            Ok((subject.trim().to_owned(), Arc::from(key.trim())))
        }
        _ => Err(format!("{item:?} must have the form SUBJECT=KEY")),
    };
    let entries: Vec<_> = items(text).map(entry).collect::<Result<_, _>>()?;
    let repeated = entries.iter().enumerate().find(|(index, (subject, _))| {
        let mut before = entries[..*index].iter();
        before.any(|(other, _)| other == subject)
    });
    match repeated {
        Some((_, (subject, _))) => Err(format!("there are two entries for {subject:?}")),
        None => Ok(ClientNames::new(entries)),
    }
}

impl TlsListeners {
    /// Whether an address of this listener speaks TLS, if there is a certificate.
    pub fn include(&self, listener: Listener, address: &ListenAddr) -> bool {
        let ListenAddr::Tcp(address) = address else {
            return false;
        };
        match self {
            Self::Auto => {
                listener == Listener::Public || !address.ip().to_canonical().is_loopback()
            }
            Self::Only(listeners, addresses) => {
                listeners.contains(&listener) || addresses.contains(address)
            }
        }
    }
}

impl Tls {
    /// Which of these addresses of a listener speak TLS.
    pub(crate) fn addresses(&self, listener: Listener, all: &[ListenAddr]) -> Vec<ListenAddr> {
        let is_on = self.cert.is_some();
        let all = all.iter().filter(|_| is_on);
        let speaking = all.filter(|address| self.listeners.include(listener, address));
        speaking.cloned().collect()
    }

    /// The files, if there is a certificate with its key.
    pub(crate) fn files(&self, http2: Http2) -> Option<TlsFiles> {
        Some(TlsFiles {
            cert: self.cert.clone()?,
            key: self.key.clone()?,
            client_ca: self.client_ca.clone(),
            client_certificates: self.client_certs.unwrap_or_default(),
            client_names: self.client_identities.clone(),
            offers_http2: http2 != Http2::Off,
        })
    }
}

/// The addresses of a listener, with what a client needs to know to connect.
#[derive(Clone, Debug, Default)]
pub struct Listening {
    /// The addresses.
    pub addresses: Vec<ListenAddr>,
    /// Those of them that speak TLS.
    pub tls: Vec<ListenAddr>,
    /// The file of the certificate.
    pub cert: Option<PathBuf>,
}

/// Reports what is wrong with TLS, also in the files.
pub(super) fn check(settings: &Settings, reader: &mut Reader) {
    if !reader.is_valid("tls.cert") || !reader.is_valid("tls.key") {
        return;
    }
    let tls = &settings.tls;
    match (&tls.cert, &tls.key) {
        (Some(_), None) => {
            let reason = "it needs the file of its key in LLAMATOWER_TLS_KEY";
            return reader.wrong("tls.cert", reason);
        }
        (None, Some(_)) => {
            let reason = "it needs the file of its certificate in LLAMATOWER_TLS_CERT";
            return reader.wrong("tls.key", reason);
        }
        (None, None) => return without_certificate(settings, reader),
        (Some(_), Some(_)) => {}
    }
    let Some(files) = tls.files(settings.listen.http2) else {
        return;
    };
    match Certificates::load(files) {
        Ok(certificates) => {
            if let Some(warning) = certificates.warning() {
                reader.report(Warning, "tls.cert", &warning);
            }
        }
        Err(error) => reader.wrong(error.file.setting(), &error.reason),
    }
    if tls.client_ca.is_none() {
        clients_without_authority(settings, reader);
    }
    listeners(settings, reader);
}

fn without_certificate(settings: &Settings, reader: &mut Reader) {
    let tls = &settings.tls;
    let needs = "it has no effect without LLAMATOWER_TLS_CERT and LLAMATOWER_TLS_KEY, and connections \
                 are not encrypted; set both, or remove it";
    if tls.listeners != TlsListeners::Auto {
        reader.wrong("tls.listeners", needs);
    }
    if tls.client_ca.is_some() {
        reader.wrong("tls.client_ca", needs);
    } else {
        clients_without_authority(settings, reader);
    }
}

fn clients_without_authority(settings: &Settings, reader: &mut Reader) {
    let reason = "it has no effect without LLAMATOWER_TLS_CLIENT_CA: no client is asked for a \
                  certificate; set it, or remove this";
    if settings.tls.client_identities != ClientNames::default() {
        reader.report(Warning, "tls.client_identities", reason);
    }
    match settings.tls.client_certs {
        // Who requires certificates must not get a gateway that asks for none.
        Some(ClientCertificates::Required) => reader.wrong("tls.client_certs", reason),
        Some(ClientCertificates::Optional) => reader.report(Warning, "tls.client_certs", reason),
        None => {}
    }
}

fn listeners(settings: &Settings, reader: &mut Reader) {
    let listen = &settings.listen;
    let all = [
        (Listener::Public, &listen.public),
        (Listener::Admin, &listen.admin),
        (Listener::Metrics, &listen.metrics),
    ];
    if let TlsListeners::Only(_, addresses) = &settings.tls.listeners {
        let is_known = |address: &SocketAddr| {
            let mut known = all.iter().flat_map(|(_, addresses)| *addresses);
            known.any(|known| *known == ListenAddr::Tcp(*address))
        };
        if let Some(unknown) = addresses.iter().find(|address| !is_known(address)) {
            let reason = format!(
                "{unknown} is not an address in LLAMATOWER_LISTEN, LLAMATOWER_ADMIN_LISTEN or \
                 LLAMATOWER_METRICS_LISTEN; write it as it is there"
            );
            return reader.wrong("tls.listeners", &reason);
        }
    }
    let mut speaking = all
        .iter()
        .flat_map(|(listener, addresses)| settings.tls.addresses(*listener, addresses));
    if speaking.next().is_none() {
        let reason = "no address speaks TLS, because unix sockets do not; add a TCP address, or remove \
                      it";
        reader.report(Warning, "tls.cert", reason);
    }
}
