//! The edge's rules for requests, applied before the stack.

use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{
    ALLOW, CACHE_CONTROL, CONTENT_TYPE, EXPECT, HOST, LOCATION, ORIGIN, TRANSFER_ENCODING,
};
use http::uri::Authority;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, Uri, Version, request,
};
use http_body_util::Full;
use llamatower_layers::live::Live;
use llamatower_layers::{Dialect, EndpointTable, RouteMatch};

use super::address::PeerAddr;
use super::base_path::{self, BasePath};
use super::client_address::client_address;
use super::config::EdgeConfig;
use super::gauges::Gauges;
use super::host::{Hosts, machine_name};
use super::origin::{self, OriginCheck, Origins};
use super::redirect::{self, Redirect};
use super::refusal::{Audience, Denial, Refusal, RefusalObserver, Refused};
use super::tls::TlsClient;
use super::trusted_proxies::TrustedProxies;

/// Longest accepted target, in bytes.
const LONGEST_TARGET: usize = 8 * 1024;

pub(super) type Answer = Response<Full<Bytes>>;

/// The edge's rules for requests.
#[derive(Debug)]
pub(super) struct Rules {
    base_path: Option<BasePath>,
    origins: Origins,
    hosts: Live<Hosts>,
    machine: Option<String>,
    audience: Audience,
    proxies: TrustedProxies,
    endpoints: Option<Arc<EndpointTable>>,
    observer: Option<Arc<dyn RefusalObserver>>,
    /// The edge whose drain `/health` tells too.
    health_of: Option<Arc<Gauges>>,
    max_fields: usize,
}

/// What the rules need to know of the connection.
#[derive(Clone, Copy)]
pub(super) struct OfConnection<'a> {
    /// Only this machine can reach it.
    pub(super) on_loopback: bool,
    /// `None` without TLS.
    pub(super) tls: Option<&'a TlsClient>,
}

/// Result of the rules for a request.
pub(super) enum Decision {
    /// The request goes to the stack. If set, the response allows this origin's page to read it.
    Pass(Option<HeaderValue>),
    /// The edge answers the request itself.
    Answer(Answer),
    /// The same, and the connection closes: the end of the request is in doubt.
    Close(Answer),
}

impl Rules {
    pub(super) fn new(config: &EdgeConfig) -> Self {
        Self {
            base_path: config.base_path.clone(),
            origins: config.origins.clone(),
            hosts: config.hosts.clone(),
            machine: machine_name(),
            audience: config.audience,
            proxies: config.trusted_proxies.clone(),
            endpoints: config.endpoints.clone(),
            observer: config.observer.clone(),
            health_of: config.health_of.clone(),
            max_fields: config.max_head_fields,
        }
    }

    /// Whether a peer is a trusted proxy, whose connection can carry the requests of many clients.
    pub(super) fn is_trusted_proxy(&self, peer: PeerAddr) -> bool {
        match peer {
            PeerAddr::Unknown { .. } => false,
            peer => self.proxies.trust(peer.ip()),
        }
    }

    /// The client's address, for logs and limits.
    pub(super) fn client(&self, peer: PeerAddr, headers: &HeaderMap) -> Option<IpAddr> {
        match peer {
            PeerAddr::Unknown { proxy } => proxy,
            peer => client_address(&self.proxies, peer.ip(), headers),
        }
    }

    /// Applies the rules to a request, and brings its target into the form that the stack expects.
    pub(super) fn check(
        &self,
        request: &mut request::Parts,
        client: Option<IpAddr>,
        connection: OfConnection<'_>,
        draining: bool,
    ) -> Decision {
        let decision = self.apply(request, connection, draining);
        decision.unwrap_or_else(|denial| self.deny(denial, request, client))
    }

    fn apply(
        &self,
        request: &mut request::Parts,
        connection: OfConnection<'_>,
        draining: bool,
    ) -> Result<Decision, Denial> {
        if let Some(denial) = refusal(request) {
            return Err(denial);
        }
        // In HTTP/1 hyper counts them, before it has parsed them.
        if request.version == Version::HTTP_2 && request.headers.len() > self.max_fields {
            return Err(Denial::TOO_MANY_FIELDS);
        }
        let authority = authority(request).map_err(Denial::bad_host)?;
        let inside = self.inside(&request.uri);
        let path = inside.as_ref().unwrap_or(&request.uri).path();
        if path == "/health" {
            let other = self.health_of.as_ref();
            let draining = draining || other.is_some_and(|other| other.is_draining());
            return Ok(Decision::Answer(health(&request.method, draining)));
        }
        // Probes have no certificate.
        if connection.tls.is_some_and(|tls| tls.lacks_certificate) {
            return Err(Denial::NO_CERTIFICATE);
        }

        let judgement = self
            .origins
            .check(&request.headers, authority.as_ref().map(Authority::as_str));
        let admitted = match judgement {
            OriginCheck::Foreign => return Err(Denial::foreign_origin(self.audience)),
            OriginCheck::Allowed(origin) if request.method == Method::OPTIONS => {
                let mut answer = empty(StatusCode::NO_CONTENT);
                origin::allow_preflight(answer.headers_mut(), origin);
                self.add_allow(&mut answer, request, path);
                return Ok(Decision::Answer(answer));
            }
            OriginCheck::Allowed(origin) => Some(origin),
            OriginCheck::NoOrigin => None,
        };
        let host = authority.as_ref().map_or("", Authority::as_str);
        if connection.on_loopback && !self.hosts.get().allow(host, self.machine.as_deref()) {
            return Err(Denial::foreign_host(self.audience));
        }
        if let Some(redirect) = self.redirect(&request.method, &request.uri) {
            let mut answer = redirection(&request.method, &redirect);
            if let Some(origin) = admitted {
                origin::allow_read(answer.headers_mut(), origin);
            }
            return Ok(Decision::Answer(answer));
        }
        let Some(inside) = inside else {
            return Err(Denial::outside(admitted));
        };
        if request.version == Version::HTTP_2 {
            show_authority(request);
        }
        request.uri = inside;
        if has(&request.headers, &ORIGIN) {
            request.headers.remove(ORIGIN);
        }
        Ok(Decision::Pass(admitted))
    }

    /// The target that the stack knows; `None` if it is outside the base path.
    fn inside(&self, target: &Uri) -> Option<Uri> {
        base_path::target_inside(self.base_path.as_ref(), target)
    }

    fn redirect(&self, method: &Method, target: &Uri) -> Option<Redirect> {
        let endpoints = self.endpoints.as_deref()?;
        redirect::redirect(endpoints, self.base_path.as_ref(), method, target)
    }

    /// The response to a request line that hyper accepts but that is malformed.
    pub(super) fn malformed_line(
        &self,
        request: &request::Parts,
        client: Option<IpAddr>,
    ) -> Decision {
        self.deny(Denial::MALFORMED_LINE, request, client)
    }

    /// Builds the response to a refused request, and reports the refusal.
    fn deny(&self, denial: Denial, request: &request::Parts, client: Option<IpAddr>) -> Decision {
        let inside = self.inside(&request.uri);
        let path = inside.as_ref().unwrap_or(&request.uri).path();
        let text = |name| {
            request
                .headers
                .get(name)
                .and_then(|value| value.to_str().ok())
        };
        self.report(&Refused {
            status: denial.status,
            reason: denial.reason,
            client,
            method: Some(&request.method),
            path: Some(path),
            host: text(HOST).or_else(|| Some(request.uri.authority()?.as_str())),
            origin: text(ORIGIN),
        });
        let dialect = denial.dialect.unwrap_or(Dialect::of_path(path));
        let answer = dialect.error_response(denial.status, denial.text);
        let mut answer = answer.map(Full::from);
        let headers = answer.headers_mut();
        if let Some(methods) = denial.allow {
            headers.insert(ALLOW, methods);
        }
        if let Some(origin) = denial.admitted {
            origin::allow_read(headers, origin);
        }
        if denial.reason == Denial::FOREIGN_ORIGIN {
            self.add_allow(&mut answer, request, path);
        }
        match denial.closes {
            true => Decision::Close(answer),
            false => Decision::Answer(answer),
        }
    }

    /// Reports a connection without a valid request. Returns the dialect of the response: that of
    /// the path in `head`, if it has arrived.
    pub(super) fn refuse_head(&self, refusal: Refusal, head: &[u8], peer: PeerAddr) -> Dialect {
        let path = path_of_head(head);
        let base = self.base_path.as_ref();
        let path = path.map(|path| base_path::inside(base, path).unwrap_or(path));
        self.report(&Refused {
            status: refusal.status(),
            reason: refusal.reason(),
            client: peer.ip(),
            method: None,
            path,
            host: None,
            origin: None,
        });
        match path.map(Dialect::of_path) {
            Some(Dialect::Text) | None => Dialect::Ollama,
            Some(dialect) => dialect,
        }
    }

    /// Whether these bytes begin a request for `/health`.
    pub(super) fn asks_for_health(&self, head: &[u8]) -> bool {
        let base = self.base_path.as_ref();
        path_of_head(head)
            .is_some_and(|path| base_path::inside(base, path).unwrap_or(path) == "/health")
    }

    fn report(&self, refused: &Refused<'_>) {
        if let Some(observer) = &self.observer {
            observer.refused(refused);
        }
    }

    /// Adds `Allow` with the methods of a known path, as Ollama does for a wrong method.
    fn add_allow(&self, answer: &mut Answer, request: &request::Parts, path: &str) {
        let known = self.endpoints.as_deref();
        if let Some(RouteMatch::WrongMethod { endpoint, .. }) =
            known.map(|endpoints| endpoints.look_up(&request.method, path))
        {
            let methods: Vec<_> = endpoint.methods.iter().map(Method::as_str).collect();
            if let Ok(methods) = methods.join(", ").try_into() {
                answer.headers_mut().insert(ALLOW, methods);
            }
        }
    }
}

/// The path in the request line of a partial head, if it has arrived.
fn path_of_head(head: &[u8]) -> Option<&str> {
    let head = head.trim_ascii_start();
    let line = head.split(|byte| matches!(byte, b'\r' | b'\n')).next()?;
    let target = line.split(|byte| *byte == b' ').nth(1)?;
    let target = std::str::from_utf8(target).ok()?;
    let path = match target.split_once("://") {
        Some((_, rest)) => &rest[rest.find('/')?..],
        None => target,
    };
    Some(path.split(['?', '#']).next().unwrap_or(path))
}

/// Refuses requests that are valid HTTP but that no client has a reason to send.
fn refusal(request: &request::Parts) -> Option<Denial> {
    let uri = &request.uri;
    if matches!(request.method, Method::CONNECT | Method::TRACE) {
        return Some(Denial::WRONG_METHOD);
    }
    if uri.path().len() + uri.query().map_or(0, str::len) > LONGEST_TARGET {
        return Some(Denial::TARGET_TOO_LONG);
    }
    if !uri.path().is_ascii() || (uri.path() == "*" && request.method != Method::OPTIONS) {
        return Some(Denial::MALFORMED_TARGET);
    }
    let headers = &request.headers;
    if has(headers, &TRANSFER_ENCODING) {
        if headers.get_all(TRANSFER_ENCODING).iter().count() > 1 {
            return Some(Denial::TWO_TRANSFER_ENCODINGS);
        }
        if !only(headers, &TRANSFER_ENCODING, b"chunked") {
            return Some(Denial::TRANSFER_ENCODING);
        }
    }
    if has(headers, &EXPECT) && !only(headers, &EXPECT, b"100-continue") {
        return Some(Denial::EXPECTATION);
    }
    None
}

/// Whether there is a header of this name. For one that most requests do not have, comparing a few names
/// is cheaper than a lookup.
pub(super) fn has(headers: &HeaderMap, name: &HeaderName) -> bool {
    headers.keys().any(|given| given == name)
}

/// Whether a header is absent or has this value alone.
pub(super) fn only(headers: &HeaderMap, name: &HeaderName, value: &[u8]) -> bool {
    headers
        .get_all(name)
        .iter()
        .all(|given| given.as_bytes().eq_ignore_ascii_case(value))
}

/// Writes the authority of a request in HTTP/2 into `Host`, where the stack expects it.
fn show_authority(request: &mut request::Parts) {
    let authority = request.uri.authority();
    let authority = authority.and_then(|authority| authority.as_str().parse().ok());
    if let Some(authority) = authority.filter(|_| !request.headers.contains_key(HOST)) {
        request.headers.insert(HOST, authority);
    }
}

/// The authority of the request: from a single `Host` (RFC 9112 3.2), with which the target must
/// agree. HTTP/1.0 may have none.
fn authority(request: &request::Parts) -> Result<Option<Authority>, &'static str> {
    let mut hosts = request.headers.get_all(HOST).iter();
    let host = match (hosts.next(), hosts.next()) {
        (_, Some(_)) => return Err("more than one Host header"),
        (None, None) if request.version == Version::HTTP_10 => return Ok(None),
        // In HTTP/2 it has a field of its own (RFC 9113 8.3.1).
        (None, None) if request.version == Version::HTTP_2 => match request.uri.authority() {
            Some(authority) if is_sound(authority) => Some(authority.clone()),
            Some(_) => return Err("the authority is malformed"),
            None => return Err("the authority is missing"),
        },
        (None, None) => return Err("the Host header is missing"),
        (Some(host), None) if host.is_empty() => None,
        (Some(host), None) => match Authority::try_from(host.as_bytes()) {
            Ok(host) if is_sound(&host) => Some(host),
            _ => return Err("the Host header is malformed"),
        },
    };
    match request.uri.authority() {
        Some(target) if host.as_ref() != Some(target) => {
            Err("the target and the Host header disagree")
        }
        Some(_) if !matches!(request.uri.scheme_str(), Some("http" | "https")) => {
            Err("the target's scheme is unknown")
        }
        _ => Ok(host),
    }
}

/// Whether it names no user, and the text after the colon, if there is one, is a port (RFC 3986
/// 3.2.3).
fn is_sound(authority: &Authority) -> bool {
    let text = authority.as_str();
    // An address of IPv6 is in brackets.
    let end_of_host = text.bytes().rposition(|byte| matches!(byte, b':' | b']'));
    let port = end_of_host.and_then(|at| text[at..].strip_prefix(':'));
    let is_number = |port: &str| port.bytes().all(|byte| byte.is_ascii_digit());
    !text.contains('@')
        && port
            .is_none_or(|port| is_number(port) && (port.is_empty() || port.parse::<u16>().is_ok()))
}

/// Whether this process accepts requests. Backends do not count: if all are down, the gateway stays
/// in service and reports that in its responses.
fn health(method: &Method, draining: bool) -> Answer {
    if !matches!(*method, Method::GET | Method::HEAD) {
        let text = Dialect::Text;
        let answer = text.error_response(StatusCode::METHOD_NOT_ALLOWED, "405 method not allowed");
        let mut answer = answer.map(Full::from);
        let methods = HeaderValue::from_static("GET, HEAD");
        answer.headers_mut().insert(ALLOW, methods);
        return answer;
    }
    let (status, body) = if draining {
        (
            StatusCode::SERVICE_UNAVAILABLE,
            "{\"status\":\"draining\"}\n",
        )
    } else {
        (StatusCode::OK, "{\"status\":\"ok\"}\n")
    };
    let mut answer = Response::new(Full::from(body));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}

/// A redirect, with the body that Ollama sends.
fn redirection(method: &Method, redirect: &Redirect) -> Answer {
    let mut answer = empty(redirect.status);
    if let Ok(location) = HeaderValue::try_from(&redirect.location) {
        answer.headers_mut().insert(LOCATION, location);
    }
    if matches!(*method, Method::GET | Method::HEAD) {
        *answer.body_mut() = Full::from(redirect::page(redirect));
        let html = HeaderValue::from_static("text/html; charset=utf-8");
        answer.headers_mut().insert(CONTENT_TYPE, html);
    }
    answer
}

fn empty(status: StatusCode) -> Answer {
    let mut answer = Response::new(Full::default());
    *answer.status_mut() = status;
    answer
}
