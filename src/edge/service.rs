//! What the edge answers itself, before the stack.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::header::{ALLOW, CONNECTION, CONTENT_TYPE, HOST, TRANSFER_ENCODING};
use http::uri::PathAndQuery;
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body::Body;
use http_body_util::{Either, Full};
use llamatower_layers::{BoxError, EndpointTable};
use pin_project_lite::pin_project;
use tokio::sync::watch;
use tower::Service;
use tower::util::Oneshot;

use super::Peer;
use super::origin::{self, Origins, Verdict};
use super::phase::Phase;

/// The longest request target that is looked at (RFC 9110 15.5.15).
const MAX_TARGET_BYTES: usize = 8 * 1024;

const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");

/// What the edge needs to know to judge a request.
#[derive(Debug)]
pub(super) struct Rules {
    /// `/prefix`, or nothing.
    pub(super) base_path: String,
    pub(super) origins: Origins,
    /// The machine's own name, which a loopback listener answers to.
    pub(super) host_name: String,
    /// For the `Allow` of a preflight.
    pub(super) endpoints: EndpointTable,
    pub(super) phase: watch::Receiver<Phase>,
}

/// The service of one connection: the edge's rules, then the stack.
#[derive(Clone, Debug)]
pub(super) struct EdgeService<S> {
    pub(super) stack: S,
    pub(super) rules: Arc<Rules>,
    pub(super) peer: Peer,
    pub(super) is_loopback: bool,
}

/// An answer of the edge's own, or the stack's.
pub(super) type EdgeBody<B> = Either<Full<Bytes>, B>;

impl<S, I, B> hyper::service::Service<Request<I>> for EdgeService<S>
where
    S: Service<Request<I>, Response = Response<B>, Error = Infallible> + Clone,
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Response = Response<EdgeBody<B>>;
    type Error = Infallible;
    type Future = EdgeFuture<S, Request<I>>;

    fn call(&self, mut request: Request<I>) -> Self::Future {
        let is_leaving = *self.rules.phase.borrow() >= Phase::Leaving;
        let (stage, origin) = match self.rules.judge(&mut request, self.is_loopback, is_leaving) {
            Judged::Answered(answer) => {
                let answer = Some(*answer);
                (Stage::Answered { answer }, None)
            }
            Judged::Passed { origin } => {
                request.extensions_mut().insert(self.peer);
                let called = Oneshot::new(self.stack.clone(), request);
                (Stage::Called { called }, origin)
            }
        };
        EdgeFuture {
            stage,
            origin,
            is_leaving,
        }
    }
}

enum Judged {
    Answered(Box<Response<Full<Bytes>>>),
    Passed { origin: Option<HeaderValue> },
}

impl From<Response<Full<Bytes>>> for Judged {
    fn from(answer: Response<Full<Bytes>>) -> Self {
        Self::Answered(Box::new(answer))
    }
}

impl Rules {
    fn judge<I>(&self, request: &mut Request<I>, is_loopback: bool, is_leaving: bool) -> Judged {
        if let Some(answer) = refuse_by_form(request) {
            return answer.into();
        }
        let is_inside = self.strip_base_path(request);
        if request.uri().path() == "/health" {
            return health(request.method(), is_leaving).into();
        }
        let host = match host_of(request) {
            Some(host) => host,
            None => return empty(StatusCode::BAD_REQUEST).into(),
        };
        if is_loopback && !origin::is_local_host(host, &self.host_name) {
            return empty(StatusCode::FORBIDDEN).into();
        }
        let origin = match self.origins.judge(request.headers(), host) {
            Verdict::Foreign => return empty(StatusCode::FORBIDDEN).into(),
            Verdict::NotCrossOrigin => None,
            Verdict::Allowed(origin) => Some(origin),
        };
        match origin {
            _ if !is_inside => text(StatusCode::NOT_FOUND, "404 page not found").into(),
            Some(origin) if request.method() == Method::OPTIONS => {
                self.preflight(request.uri().path(), origin).into()
            }
            origin => Judged::Passed { origin },
        }
    }

    /// Takes the base path off; false for a request that is outside of it.
    fn strip_base_path<I>(&self, request: &mut Request<I>) -> bool {
        if self.base_path.is_empty() {
            return true;
        }
        let Some(target) = request.uri().path_and_query().map(PathAndQuery::as_str) else {
            return false;
        };
        let rest = match target.strip_prefix(self.base_path.as_str()) {
            Some("") => "/",
            Some(rest) if rest.starts_with(['/', '?']) => rest,
            _ => return false,
        };
        let rest = if rest.starts_with('?') {
            format!("/{rest}")
        } else {
            rest.to_owned()
        };
        match PathAndQuery::try_from(rest) {
            Ok(target) => *request.uri_mut() = Uri::from(target),
            Err(_) => return false,
        }
        true
    }

    fn preflight(&self, path: &str, origin: HeaderValue) -> Response<Full<Bytes>> {
        let mut answer = empty(StatusCode::NO_CONTENT);
        origin::allow_preflight(answer.headers_mut(), origin);
        let known = self.endpoints.look_up(&Method::OPTIONS, path);
        if let Some(allowed) = known
            .endpoint()
            .and_then(|endpoint| allowed_of(&endpoint.methods))
        {
            answer.headers_mut().insert(ALLOW, allowed);
        }
        answer
    }
}

fn allowed_of(methods: &[Method]) -> Option<HeaderValue> {
    let names: Vec<_> = methods.iter().map(Method::as_str).collect();
    HeaderValue::try_from(names.join(", ")).ok()
}

/// What no service should see, whatever its path.
fn refuse_by_form<I>(request: &Request<I>) -> Option<Response<Full<Bytes>>> {
    if request
        .uri()
        .path_and_query()
        .is_some_and(|target| target.as_str().len() > MAX_TARGET_BYTES)
    {
        return Some(text(StatusCode::URI_TOO_LONG, "414 uri too long"));
    }
    if matches!(*request.method(), Method::CONNECT | Method::TRACE) {
        return Some(text(
            StatusCode::METHOD_NOT_ALLOWED,
            "405 method not allowed",
        ));
    }
    let codings = request.headers().get_all(TRANSFER_ENCODING);
    let is_chunked = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"chunked");
    if !codings.iter().all(is_chunked) {
        return Some(text(
            StatusCode::NOT_IMPLEMENTED,
            "501 transfer coding not implemented",
        ));
    }
    None
}

/// The host that a request names: one, or none at all; an absolute target must agree with it
/// (RFC 9112 3.2).
fn host_of<I>(request: &Request<I>) -> Option<&str> {
    let mut hosts = request.headers().get_all(HOST).iter();
    let host = match (hosts.next(), hosts.next()) {
        (Some(host), None) => host.to_str().ok()?,
        (None, _) if request.version() < http::Version::HTTP_11 => "",
        _ => return None,
    };
    match request.uri().authority() {
        Some(authority) if !authority.as_str().eq_ignore_ascii_case(host) => None,
        _ => Some(host),
    }
}

fn health(method: &Method, is_leaving: bool) -> Response<Full<Bytes>> {
    if !matches!(*method, Method::GET | Method::HEAD) {
        let mut answer = text(StatusCode::METHOD_NOT_ALLOWED, "405 method not allowed");
        answer
            .headers_mut()
            .insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return answer;
    }
    let (status, body) = match is_leaving {
        false => (StatusCode::OK, r#"{"status":"ok"}"#),
        true => (StatusCode::SERVICE_UNAVAILABLE, r#"{"status":"draining"}"#),
    };
    let mut answer = text(status, body);
    let json = HeaderValue::from_static("application/json; charset=utf-8");
    answer.headers_mut().insert(CONTENT_TYPE, json);
    answer
}

fn empty(status: StatusCode) -> Response<Full<Bytes>> {
    let mut answer = Response::new(Full::default());
    *answer.status_mut() = status;
    answer
}

fn text(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    let mut answer = Response::new(Full::from(text));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, TEXT);
    answer
}

pin_project! {
    /// The answer under way.
    pub(super) struct EdgeFuture<S, R>
    where
        S: Service<R>,
    {
        #[pin]
        stage: Stage<S, R>,
        origin: Option<HeaderValue>,
        is_leaving: bool,
    }
}

pin_project! {
    #[project = StageProjection]
    enum Stage<S, R>
    where
        S: Service<R>,
    {
        Answered { answer: Option<Response<Full<Bytes>>> },
        Called { #[pin] called: Oneshot<S, R> },
    }
}

impl<S, R, B> Future for EdgeFuture<S, R>
where
    S: Service<R, Response = Response<B>, Error = Infallible>,
    B: Body<Data = Bytes>,
{
    type Output = Result<Response<EdgeBody<B>>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let mut answer = match this.stage.project() {
            StageProjection::Answered { answer } => match answer.take() {
                Some(answer) => answer.map(Either::Left),
                None => return Poll::Pending,
            },
            StageProjection::Called { called } => {
                let Ok(answer) = ready!(called.poll(cx));
                answer.map(Either::Right)
            }
        };
        if let Some(origin) = this.origin.take() {
            origin::allow(answer.headers_mut(), origin);
        }
        if *this.is_leaving {
            let close = HeaderValue::from_static("close");
            answer.headers_mut().insert(CONNECTION, close);
        }
        Poll::Ready(Ok(answer))
    }
}
