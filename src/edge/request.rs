//! What the edge says of a request before the stack sees it.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, EXPECT, HOST, ORIGIN, TRANSFER_ENCODING};
use http::uri::{Authority, PathAndQuery};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, Uri, Version, request};
use http_body_util::Full;
use llamatower_layers::{EndpointTable, RouteMatch};

use super::config::{BasePath, EdgeConfig};
use super::host::{is_local, machine_name};
use super::origin::{self, Judgement, Origins};

/// The longest target that is read, in bytes.
const LONGEST_TARGET: usize = 8 * 1024;

pub(super) type Answer = Response<Full<Bytes>>;

/// The rules of an edge for requests.
#[derive(Debug)]
pub(super) struct Rules {
    base_path: Option<BasePath>,
    origins: Origins,
    machine: Option<String>,
    endpoints: Option<Arc<EndpointTable>>,
}

/// What becomes of a request.
pub(super) enum Verdict {
    /// It goes to the stack; its answer tells the page of this origin that it may read.
    Pass(Option<HeaderValue>),
    /// It has its answer.
    Answer(Answer),
}

impl Rules {
    pub(super) fn new(config: &EdgeConfig) -> Self {
        Self {
            base_path: config.base_path.clone(),
            origins: config.origins.clone(),
            machine: machine_name(),
            endpoints: config.endpoints.clone(),
        }
    }

    /// Judges a request, and brings its target into the form that the stack knows.
    pub(super) fn judge(
        &self,
        request: &mut request::Parts,
        on_loopback: bool,
        draining: bool,
    ) -> Verdict {
        if let Some(answer) = refusal(request) {
            return Verdict::Answer(answer);
        }
        let authority = match authority(request) {
            Ok(authority) => authority,
            Err(what) => return Verdict::Answer(text(StatusCode::BAD_REQUEST, what)),
        };
        let inside = match &self.base_path {
            Some(base) => base.strip_uri(&request.uri),
            None => path_only(&request.uri),
        };
        let path = inside.as_ref().unwrap_or(&request.uri).path();
        if path == "/health" {
            return Verdict::Answer(health(&request.method, draining));
        }

        let judgement = self
            .origins
            .judge(&request.headers, authority.as_ref().map(Authority::as_str));
        let admitted = match judgement {
            Judgement::Foreign => {
                return Verdict::Answer(self.with_allow(forbidden(), request, path));
            }
            Judgement::Allowed(origin) if request.method == Method::OPTIONS => {
                let mut answer = empty(StatusCode::NO_CONTENT);
                origin::admit_preflight(answer.headers_mut(), origin);
                return Verdict::Answer(self.with_allow(answer, request, path));
            }
            Judgement::Allowed(origin) => Some(origin),
            Judgement::NoOrigin => None,
        };
        let host = authority.as_ref().map_or("", Authority::as_str);
        if on_loopback && !is_local(host, self.machine.as_deref()) {
            return Verdict::Answer(forbidden());
        }
        let Some(inside) = inside else {
            let mut answer = text(StatusCode::NOT_FOUND, "404 page not found");
            if let Some(origin) = admitted {
                origin::admit(answer.headers_mut(), origin);
            }
            return Verdict::Answer(answer);
        };
        request.uri = inside;
        request.headers.remove(ORIGIN);
        Verdict::Pass(admitted)
    }

    /// The answer to a request whose line hyper reads but no client should send.
    pub(super) fn malformed_line() -> Answer {
        let what = "400 the line of the request is malformed: a target has no fragment";
        text(StatusCode::BAD_REQUEST, what)
    }

    /// Ollama names the methods of a known path wherever the method is a wrong one.
    fn with_allow(&self, mut answer: Answer, request: &request::Parts, path: &str) -> Answer {
        let known = self.endpoints.as_deref();
        if let Some(RouteMatch::WrongMethod { endpoint }) =
            known.map(|endpoints| endpoints.look_up(&request.method, path))
        {
            let methods: Vec<_> = endpoint.methods.iter().map(Method::as_str).collect();
            if let Ok(methods) = methods.join(", ").try_into() {
                answer.headers_mut().insert(ALLOW, methods);
            }
        }
        answer
    }
}

/// Refuses what is sound HTTP but what no client of ours has a reason to send.
fn refusal(request: &request::Parts) -> Option<Answer> {
    let uri = &request.uri;
    if matches!(request.method, Method::CONNECT | Method::TRACE) {
        let mut answer = text(StatusCode::METHOD_NOT_ALLOWED, "405 method not allowed");
        let methods = HeaderValue::from_static("GET, HEAD, POST, DELETE, OPTIONS");
        answer.headers_mut().insert(ALLOW, methods);
        return Some(answer);
    }
    if uri.path().len() + uri.query().map_or(0, str::len) > LONGEST_TARGET {
        return Some(text(StatusCode::URI_TOO_LONG, "414 URI too long"));
    }
    if !uri.path().is_ascii() || (uri.path() == "*" && request.method != Method::OPTIONS) {
        return Some(text(StatusCode::BAD_REQUEST, "400 the target is malformed"));
    }
    if request.headers.get_all(TRANSFER_ENCODING).iter().count() > 1 {
        let what = "400 more than one Transfer-Encoding header";
        return Some(text(StatusCode::BAD_REQUEST, what));
    }
    if !only(&request.headers, &TRANSFER_ENCODING, b"chunked") {
        return Some(text(
            StatusCode::NOT_IMPLEMENTED,
            "501 unsupported transfer encoding: send chunked, or a Content-Length",
        ));
    }
    if !only(&request.headers, &EXPECT, b"100-continue") {
        return Some(text(
            StatusCode::EXPECTATION_FAILED,
            "417 the only expectation known is 100-continue",
        ));
    }
    None
}

/// Whether a header is absent or has this one value.
fn only(headers: &HeaderMap, name: &http::HeaderName, value: &[u8]) -> bool {
    headers
        .get_all(name)
        .iter()
        .all(|given| given.as_bytes().eq_ignore_ascii_case(value))
}

/// Whom the request is addressed to: one `Host` (RFC 9112 3.2), and a target that agrees with
/// it. HTTP/1.0 may have none.
fn authority(request: &request::Parts) -> Result<Option<Authority>, &'static str> {
    let mut hosts = request.headers.get_all(HOST).iter();
    let host = match (hosts.next(), hosts.next()) {
        (_, Some(_)) => return Err("400 more than one Host header"),
        (None, None) if request.version == Version::HTTP_10 => return Ok(None),
        (None, None) => return Err("400 the Host header is missing"),
        (Some(host), None) if host.is_empty() => None,
        (Some(host), None) => match Authority::try_from(host.as_bytes()) {
            Ok(host) if !host.as_str().contains('@') && has_sound_port(&host) => Some(host),
            _ => return Err("400 the Host header is malformed"),
        },
    };
    match request.uri.authority() {
        Some(target) if host.as_ref() != Some(target) => {
            Err("400 the target and the Host header disagree")
        }
        Some(_) if !matches!(request.uri.scheme_str(), Some("http" | "https")) => {
            Err("400 the target's scheme is unknown")
        }
        _ => Ok(host),
    }
}

/// Whether what stands behind the colon, if there is one, is a port (RFC 3986 3.2.3).
fn has_sound_port(authority: &Authority) -> bool {
    let port = authority.as_str().strip_prefix(authority.host());
    let Some(port) = port.and_then(|port| port.strip_prefix(':')) else {
        return true;
    };
    let is_number = port.bytes().all(|byte| byte.is_ascii_digit());
    is_number && (port.is_empty() || port.parse::<u16>().is_ok())
}

/// The target without scheme and authority, in memory of its own: what is kept of a request to the
/// end of a stream would keep all that was read with it otherwise.
fn path_only(uri: &Uri) -> Option<Uri> {
    let target = uri.path_and_query()?.as_str();
    PathAndQuery::try_from(target).ok().map(Uri::from)
}

/// Whether this process takes requests. It says nothing of backends: with all of them down the
/// gateway stays in service and says so itself.
fn health(method: &Method, draining: bool) -> Answer {
    if !matches!(*method, Method::GET | Method::HEAD) {
        let mut answer = text(StatusCode::METHOD_NOT_ALLOWED, "405 method not allowed");
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

fn forbidden() -> Answer {
    empty(StatusCode::FORBIDDEN)
}

fn empty(status: StatusCode) -> Answer {
    let mut answer = Response::new(Full::default());
    *answer.status_mut() = status;
    answer
}

fn text(status: StatusCode, body: &'static str) -> Answer {
    let mut answer = Response::new(Full::from(body));
    *answer.status_mut() = status;
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    answer.headers_mut().insert(CONTENT_TYPE, plain);
    answer
}
