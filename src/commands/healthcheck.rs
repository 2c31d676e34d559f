//! Checks from outside whether a gateway serves.
//!
//! It uses its own connection over TCP or a unix socket, because the errors of the upstream client
//! are about backends.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::HOST;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;

use crate::edge::ListenAddr;
use crate::ollama::upstream::has_user;
use crate::settings::Listening;
use crate::tls::OwnTrust;

/// Time-out of the whole check. It is shorter than the usual time-out of a container's health
/// check.
const LIMIT: Duration = Duration::from_millis(2500);

/// Largest part of a response that is read, in bytes.
const MAX_ANSWER: usize = 64 * 1024;

/// The address and the path of a gateway's health check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    place: Place,
    path: String,
    /// Which certificates are accepted; `None` without TLS.
    trust: Option<OwnTrust>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    /// Host and port.
    Tcp(String),
    Unix(PathBuf),
}

/// The text is not an address of a gateway, or the address cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidTarget(String);

/// A gateway's response.
#[derive(Clone, Debug)]
pub struct Health {
    /// 200 while it serves, 503 while it drains.
    pub status: StatusCode,
    body: Bytes,
}

impl Health {
    /// Whether a gateway answered, and not another program.
    pub fn is_gateway(&self) -> bool {
        let page: Option<serde_json::Value> = serde_json::from_slice(&self.body).ok();
        page.is_some_and(|page| page.get("status").is_some_and(serde_json::Value::is_string))
    }
}

/// The gateway did not answer.
#[derive(Debug, thiserror::Error)]
#[error("no response from a gateway at {target}: {reason}")]
pub struct NoAnswer {
    target: String,
    reason: String,
    /// Whether the connection was refused.
    pub is_refused: bool,
}

impl Target {
    /// The target for a gateway that listens on these addresses. It is the first TCP address, or
    /// loopback if that is the unspecified address; without a TCP address it is the first unix
    /// socket.
    ///
    /// If it speaks TLS, each certificate is accepted: nothing confidential is sent or received, and a
    /// gateway that serves must not count as broken because its new certificate is.
    ///
    /// # Errors
    /// The system chooses the port, so it is not known.
    pub fn for_listeners(listening: &Listening) -> Result<Self, InvalidTarget> {
        let listeners = &listening.addresses;
        let mut trust = None;
        let mut by_tcp = listeners.iter().filter_map(|listener| match listener {
            ListenAddr::Tcp(address) => Some(address),
            ListenAddr::Unix(_) => None,
        });
        let mut by_unix = listeners.iter().filter_map(|listener| match listener {
            ListenAddr::Tcp(_) => None,
            ListenAddr::Unix(path) => Some(path),
        });
        let place = match (by_tcp.next(), by_unix.next()) {
            (Some(address), _) if address.port() == 0 => {
                return Err(InvalidTarget(format!(
                    "LLAMATOWER_LISTEN is {address}, so the system chooses the port; \
                     name it, as in `llamatower healthcheck http://127.0.0.1:3000/health`"
                )));
            }
            (Some(address), _) => {
                if listening.tls.contains(&ListenAddr::Tcp(*address)) {
                    trust = Some(OwnTrust::any());
                }
                let mut address = *address;
                address.set_ip(match address.ip() {
                    IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Ipv4Addr::LOCALHOST.into(),
                    IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Ipv6Addr::LOCALHOST.into(),
                    ip => ip,
                });
                Place::Tcp(address.to_string())
            }
            (None, Some(path)) => Place::Unix(path.clone()),
            (None, None) => {
                return Err(InvalidTarget(
                    "LLAMATOWER_LISTEN contains no address".to_owned(),
                ));
            }
        };
        Ok(Self {
            place,
            path: "/health".to_owned(),
            trust,
        })
    }

    /// Accepts also the certificate in this file, if the target speaks TLS.
    pub fn with_certificate(mut self, cert: Option<&Path>) -> Self {
        if self.trust.is_some() {
            self.trust = Some(OwnTrust::new(cert));
        }
        self
    }

    fn scheme(&self) -> &'static str {
        match self.trust {
            Some(_) => "https",
            None => "http",
        }
    }

    /// The address as a URL without a path; `None` for a unix socket.
    pub(crate) fn base_url(&self) -> Option<String> {
        match &self.place {
            Place::Tcp(host) => Some(format!("{}://{host}", self.scheme())),
            Place::Unix(_) => None,
        }
    }

    /// Sends the request and waits for the whole response.
    ///
    /// # Errors
    /// There was no response in time.
    pub async fn ask(&self) -> Result<Health, NoAnswer> {
        let failed = |reason: String, is_refused| NoAnswer {
            target: self.to_string(),
            reason,
            is_refused,
        };
        match tokio::time::timeout(LIMIT, self.exchange()).await {
            Ok(Ok(health)) => Ok(health),
            Ok(Err(error)) => {
                let io: Option<&io::Error> = error.downcast_ref();
                let kind = io.map(io::Error::kind);
                let nothing_is_there = [io::ErrorKind::ConnectionRefused, io::ErrorKind::NotFound];
                let is_refused = kind.is_some_and(|kind| nothing_is_there.contains(&kind));
                Err(failed(error.to_string(), is_refused))
            }
            Err(_) => Err(failed(format!("it took longer than {LIMIT:?}"), false)),
        }
    }

    async fn exchange(&self) -> Result<Health, llamatower_layers::BoxError> {
        let mut request = Request::get(&*self.path).body(Empty::<Bytes>::new())?;
        let host = match &self.place {
            Place::Tcp(host) => host,
            Place::Unix(_) => "localhost",
        };
        request.headers_mut().insert(HOST, host.parse()?);
        match (&self.place, &self.trust) {
            (Place::Tcp(host), None) => send(TcpStream::connect(host).await?, request).await,
            (Place::Tcp(host), Some(trust)) => {
                let name = host.rsplit_once(':').map_or(&**host, |(name, _)| name);
                let name = ServerName::try_from(name.trim_matches(['[', ']']).to_owned())?;
                let connector = TlsConnector::from(Arc::new(trust.config(None)?));
                let stream = TcpStream::connect(host).await?;
                send(connector.connect(name, stream).await?, request).await
            }
            (Place::Unix(path), _) => send(UnixStream::connect(path).await?, request).await,
        }
    }
}

async fn send<I>(
    io: I,
    request: Request<Empty<Bytes>>,
) -> Result<Health, llamatower_layers::BoxError>
where
    I: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(io)).await?;
    let connection = tokio::spawn(connection);
    let answer = sender.send_request(request).await?;
    let status = answer.status();
    let body = Limited::new(answer.into_body(), MAX_ANSWER);
    let body = body.collect().await?.to_bytes();
    connection.abort();
    Ok(Health { status, body })
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::Tcp(host) => write!(f, "{}://{host}{}", self.scheme(), self.path),
            Place::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl FromStr for Target {
    type Err = InvalidTarget;

    /// Accepts `http://HOST:PORT/PATH`, `https://HOST:PORT/PATH` and `unix:PATH`.
    fn from_str(text: &str) -> Result<Self, InvalidTarget> {
        if let Some(path) = text.strip_prefix("unix:").filter(|path| !path.is_empty()) {
            return Ok(Self {
                place: Place::Unix(path.into()),
                path: "/health".to_owned(),
                trust: None,
            });
        }
        // A text with an @ may contain a password, and is not repeated.
        let given = match has_user(text) {
            true => "the given text".to_owned(),
            false => format!("{text:?}"),
        };
        let invalid = || {
            InvalidTarget(format!(
                "{given} is neither a URL like http://127.0.0.1:3000/health nor unix:PATH"
            ))
        };
        let uri: http::Uri = text.parse().map_err(|_| invalid())?;
        let authority = uri.authority().ok_or_else(invalid)?;
        let (trust, usual_port) = match uri.scheme_str() {
            Some("http") => (None, 80),
            Some("https") => (Some(OwnTrust::new(None)), 443),
            _ => return Err(invalid()),
        };
        if has_user(text) || authority.host().is_empty() {
            return Err(invalid());
        }
        let port = authority.port_u16().unwrap_or(usual_port);
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        Ok(Self {
            place: Place::Tcp(format!("{}:{port}", authority.host())),
            path: match path {
                "/" => "/health".to_owned(),
                path => path.to_owned(),
            },
            trust,
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn target_of(listeners: &[&str]) -> Result<String, String> {
        let listeners: Vec<_> = listeners.iter().map(|text| text.parse().unwrap()).collect();
        let listening = Listening {
            addresses: listeners,
            ..Listening::default()
        };
        let target = Target::for_listeners(&listening);
        target
            .map(|target| target.to_string())
            .map_err(|error| error.to_string())
    }

    #[test]
    fn the_first_tcp_address_is_asked_on_loopback_if_it_is_any_address() {
        for (listeners, target) in [
            (&["127.0.0.1:3000"][..], "http://127.0.0.1:3000/health"),
            (&["0.0.0.0:8080"], "http://127.0.0.1:8080/health"),
            (&["[::]:8080"], "http://[::1]:8080/health"),
            (&["10.0.0.7:80"], "http://10.0.0.7:80/health"),
            (&["unix:/run/x", "0.0.0.0:80"], "http://127.0.0.1:80/health"),
            (&["unix:/run/x"], "unix:/run/x"),
        ] {
            assert_eq!(target_of(listeners).as_deref(), Ok(target), "{listeners:?}");
        }
        assert!(
            target_of(&["0.0.0.0:0"])
                .unwrap_err()
                .contains("LLAMATOWER_LISTEN")
        );
    }

    #[test]
    fn a_target_is_an_http_url_or_a_unix_socket() {
        for (text, target) in [
            (
                "http://127.0.0.1:3000/health",
                "http://127.0.0.1:3000/health",
            ),
            ("http://gateway", "http://gateway:80/health"),
            ("http://[::1]:3000/", "http://[::1]:3000/health"),
            (
                "http://gateway:3000/ready?x=1",
                "http://gateway:3000/ready?x=1",
            ),
            ("https://gateway/", "https://gateway:443/health"),
            ("unix:/run/x", "unix:/run/x"),
        ] {
            assert_eq!(text.parse::<Target>().unwrap().to_string(), target);
        }
        for text in ["", "gateway", "ftp://x", "unix:", "http://u:p@x", "/x"] {
            let error = text.parse::<Target>().unwrap_err().to_string();
            assert!(!error.contains("u:p"), "{error}");
        }
    }
}
