//! The client for TLS: reqwest with its pool.

use std::cell::Cell;
use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::uri::{PathAndQuery, Scheme, Uri};
use http::{HeaderMap, Response};
use http_body::{Body, Frame, SizeHint};
use llamatower_layers::{BoxError, Failure};
use reqwest::redirect;
use rustls::CertificateError;
use tower::util::MapRequestLayer;

use super::access::SettingNames;
use super::body::Source;
use super::connect::{KEEP_ALIVE, USER_TIMEOUT};
use super::connection::MAX_HEAD_BYTES;
use super::hop::{NO_ANSWER, Target, may_share_a_connection};
use super::pool::PoolLimits;
use super::timer::AttemptTimer;
use super::{
    Access, Address, ConnectFailed, ConnectTimeout, ConnectionLost, Leaf, Outgoing, UpstreamBody,
};

/// Sends requests to a backend over TLS.
#[derive(Debug)]
pub(super) struct Tls {
    target: Arc<Target>,
    connect_timeout: Duration,
    /// For error texts.
    settings: SettingNames,
    /// The clients, or why they could not be created.
    clients: Result<Clients, String>,
}

#[derive(Debug)]
struct Clients {
    pooling: reqwest::Client,
    /// For requests that need a new connection.
    dialling: reqwest::Client,
}

impl Tls {
    pub(super) fn new(
        target: Target,
        connect_timeout: Duration,
        limits: PoolLimits,
        access: &Access,
    ) -> Self {
        Self {
            clients: clients(&target.address, connect_timeout, limits, access),
            target: Arc::new(target),
            connect_timeout,
            settings: access.settings(),
        }
    }

    fn failed(&self, error: reqwest::Error, is_reused: bool) -> BoxError {
        let address = &self.target.address;
        let error = error.without_url();
        if error.is_connect() {
            return match error.is_timeout() {
                true => Failure::from(ConnectTimeout::new(address, self.connect_timeout)).into(),
                false => connect_failed(
                    address,
                    io::Error::other(why(&error, address, &self.settings)),
                ),
            };
        }
        match find::<hyper::Error>(&error) {
            Some(cause) if cause.is_parse() => self.target.invalid(NO_ANSWER),
            // The request's own body failed; its creator's error is at the end of the chain.
            Some(cause) if cause.is_user() => Box::new(error),
            _ => Failure::from(ConnectionLost::new(address, is_reused, error)).into(),
        }
    }
}

tokio::task_local! {
    /// Whether a new connection has been opened for the request that this task sends.
    static HAS_DIALLED: Cell<bool>;
}

/// Notes that a client opens a connection. reqwest tells neither with a response nor with an error
/// whether the connection was new. Its pool starts to open one, in the task of the request, only if no
/// idle one is there.
fn note_dial<T>(server: T) -> T {
    // Outside of a request nobody reads it.
    let _ = HAS_DIALLED.try_with(|has_dialled| has_dialled.set(true));
    server
}

/// Sends a request, and tells whether a connection was used that had served other requests. One that another
/// request returned while a new one was being opened counts as new.
async fn send(
    client: &reqwest::Client,
    request: reqwest::Request,
) -> (reqwest::Result<reqwest::Response>, bool) {
    let sending = async {
        let answer = client.execute(request).await;
        (answer, !HAS_DIALLED.with(Cell::get))
    };
    HAS_DIALLED.scope(Cell::new(false), sending).await
}

fn clients(
    address: &Address,
    connect_timeout: Duration,
    limits: PoolLimits,
    access: &Access,
) -> Result<Clients, String> {
    let no_pool = PoolLimits {
        max_idle: 0,
        ..limits
    };
    Ok(Clients {
        pooling: client(address, connect_timeout, limits, access)?,
        dialling: client(address, connect_timeout, no_pool, access)?,
    })
}

/// One reqwest client per backend, because each has its own pool and possibly an IP address.
fn client(
    address: &Address,
    connect_timeout: Duration,
    limits: PoolLimits,
    access: &Access,
) -> Result<reqwest::Client, String> {
    let trust = access
        .trust()
        .ok_or("no authority is configured that could verify the server's certificate")?;
    let mut client = reqwest::Client::builder()
        .tls_backend_preconfigured(trust.config())
        .https_only(true)
        .http1_only()
        .no_gzip()
        .no_brotli()
        .no_zstd()
        .no_deflate()
        .redirect(redirect::Policy::none())
        .referer(false)
        .retry(reqwest::retry::never())
        .connector_layer(MapRequestLayer::new(note_dial))
        .connect_timeout(connect_timeout)
        .pool_max_idle_per_host(limits.max_idle)
        .pool_idle_timeout(limits.idle_timeout)
        .tcp_nodelay(true)
        .tcp_keepalive(KEEP_ALIVE)
        .tcp_keepalive_interval(KEEP_ALIVE);
    if !access.uses_proxies() {
        client = client.no_proxy();
    }
    #[cfg(target_os = "linux")]
    {
        client = client.tcp_user_timeout(USER_TIMEOUT);
    }
    if let Some(ip) = address.ip() {
        client = client.resolve(address.host(), SocketAddr::new(ip, address.port()));
    }
    let built = client.build();
    built.map_err(|error| why(&error, address, &access.settings()))
}

impl<B> Leaf<B> for Tls
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    fn target(&self) -> &Target {
        &self.target
    }

    async fn ask(
        self: Arc<Self>,
        request: Outgoing<B>,
    ) -> Result<Response<UpstreamBody<B>>, BoxError> {
        let mut timer = AttemptTimer::start(request.extensions());
        let address = &self.target.address;
        let clients = self.clients.as_ref();
        let clients =
            clients.map_err(|why| connect_failed(address, io::Error::other(why.clone())))?;
        let client = match may_share_a_connection(&request) {
            true => &clients.pooling,
            false => &clients.dialling,
        };
        let is_sent = timer.sends();
        let mut request = request.map(|body| {
            let body = Mutex::new(body);
            reqwest::Body::wrap(Exclusive { body, is_sent })
        });
        *request.uri_mut() = absolute(address, request.uri())?;
        let (answer, is_reused) = send(client, request.try_into()?).await;
        timer.settle();
        let answer = Response::from(answer.map_err(|error| self.failed(error, is_reused))?);
        let (head, body) = answer.into_parts();
        if bytes_of(&head.headers) > MAX_HEAD_BYTES {
            return Err(self.target.invalid(NO_ANSWER));
        }
        self.target.check(head.status, &head.headers)?;
        let body = UpstreamBody::new(Source::tls(body, self.target.clone()), &head.headers);
        Ok(Response::from_parts(head, body))
    }

    /// reqwest does not count idle connections.
    fn idle_connections(&self) -> Option<usize> {
        None
    }

    /// reqwest closes idle connections itself.
    fn closed_by_backend(&self) -> Option<u64> {
        None
    }

    fn prune(&self) {}
}

/// The absolute URL of a prepared request.
fn absolute(address: &Address, path: &Uri) -> Result<Uri, http::Error> {
    let authority = address.authority_header();
    Uri::builder()
        .scheme(Scheme::HTTPS)
        .authority(authority.as_bytes())
        .path_and_query(path.path_and_query().map_or("/", PathAndQuery::as_str))
        .build()
}

/// The size of a head. reqwest accepts larger heads than the plain client.
fn bytes_of(headers: &HeaderMap) -> usize {
    let fields = headers.iter();
    fields
        .map(|(name, value)| name.as_str().len() + value.len() + 4)
        .sum()
}

fn connect_failed(address: &Address, error: io::Error) -> BoxError {
    Failure::from(ConnectFailed::new(address, error)).into()
}

/// Why no connection could be opened and, if known, what to do.
fn why(error: &(dyn Error + 'static), address: &Address, settings: &SettingNames) -> String {
    let setting = settings.address;
    use CertificateError::{
        BadSignature, Expired, ExpiredContext, NotValidForName, NotValidForNameContext,
        NotValidYet, NotValidYetContext, UnknownIssuer,
    };
    let Some(error) = find::<rustls::Error>(error) else {
        return innermost(error).to_string();
    };
    match error {
        rustls::Error::InvalidCertificate(wrong) => match wrong {
            // An authority that was created anew has the same name but other keys.
            UnknownIssuer | BadSignature => format!(
                "its certificate is signed by an authority that is not trusted here; \
                give the certificate of that authority in {}",
                settings.authorities
            ),
            NotValidForName | NotValidForNameContext { .. } => format!(
                "its certificate is not for {}; write a name that is in the certificate in {setting}",
                address.host()
            ),
            Expired | ExpiredContext { .. } => {
                "its certificate has expired; renew it on the server".to_owned()
            }
            NotValidYet | NotValidYetContext { .. } => {
                "its certificate is not valid yet; compare the clocks of the two machines"
                    .to_owned()
            }
            // rustls passes this error of webpki on without a type of its own.
            wrong if format!("{wrong:?}").contains("CaUsedAsEndEntity") => {
                "its certificate is that of an authority, as `openssl req -x509` makes it, and cannot be \
                 a server's; make one with basicConstraints=CA:FALSE"
                    .to_owned()
            }
            wrong => format!("its certificate is not accepted: {wrong}"),
        },
        rustls::Error::InvalidMessage(_) => format!(
            "it does not speak TLS on this port; if it speaks plain HTTP, write http:// in {setting}"
        ),
        error => format!("TLS failed: {error}"),
    }
}

/// The causes of an error. The inner error of an [`io::Error`] is not its source, and is included
/// here.
fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |error: &&'a (dyn Error + 'static)| {
        let error: &'a (dyn Error + 'static) = *error;
        let inside = error
            .downcast_ref::<io::Error>()
            .and_then(io::Error::get_ref);
        match inside {
            Some(inside) => Some(inside as &(dyn Error + 'static)),
            None => error.source(),
        }
    })
}

fn find<'a, E: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a E> {
    causes(error).find_map(<dyn Error>::downcast_ref)
}

fn innermost<'a>(error: &'a (dyn Error + 'static)) -> &'a (dyn Error + 'static) {
    causes(error).last().unwrap_or(error)
}

/// The body of a request. reqwest requires `Sync`, although the body is never shared.
struct Exclusive<B> {
    body: Mutex<Pin<Box<B>>>,
    /// Set when the body is read: only then is there a connection.
    is_sent: Arc<AtomicBool>,
}

impl<B: Body<Data = Bytes>> Body for Exclusive<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        self.is_sent.store(true, Ordering::Release);
        let body = self.body.get_mut().unwrap_or_else(PoisonError::into_inner);
        body.as_mut().poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        let body = self.body.lock().unwrap_or_else(PoisonError::into_inner);
        body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let body = self.body.lock().unwrap_or_else(PoisonError::into_inner);
        body.size_hint()
    }
}
