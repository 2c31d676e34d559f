//! One request and its response: from hyper, through the rules, to the stack and back.

use std::convert::Infallible;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, EXPECT, TRANSFER_ENCODING};
use http::{HeaderValue, Request, Response, Version, request};
use http_body::Body;
use http_body_util::{Either, Full};
use hyper::body::Incoming;
use hyper::service::Service as HyperService;
use hyper::upgrade::OnUpgrade;
use llamatower_edge::{ConnectionBody, SocketState};
use llamatower_layers::{BoxError, ClientAddress};
use pin_project_lite::pin_project;
use tower::Service;

use super::address::PeerAddr;
use super::config::EdgeConfig;
use super::gauges::Gauges;
use super::origin;
use super::proxy_protocol::ProxyHeaders;
use super::request::{Answer, Decision, OfConnection, Rules, has, only};
use super::request_body::RequestBody;
use super::request_line::is_line_of;
use super::response_body::ResponseBody;
use super::stack::Stack;
use super::state::{ConnectionState, InFlight};
use super::tls::TlsClient;
use crate::tls::{Certificates, TlsServer};

/// The body of a response: the edge's own, or the stack's.
pub(super) type AnswerBody<B> = Either<Full<Bytes>, ConnectionBody<ResponseBody<B>>>;

/// Creates the service of each connection.
pub(super) struct MakeEdgeService<S> {
    stack: Stack<S>,
    rules: Arc<Rules>,
    gauges: Arc<Gauges>,
    body_timeout: Option<Duration>,
    trusts_local_peers: bool,
    /// `None` if connections have no header of the PROXY protocol.
    pub(super) proxy_headers: Option<ProxyHeaders>,
    certificates: Option<Certificates>,
}

impl<S> MakeEdgeService<S> {
    /// The rules of all connections.
    pub(super) fn rules(&self) -> &Rules {
        &self.rules
    }

    pub(super) fn gauges(&self) -> &Gauges {
        &self.gauges
    }

    /// What new connections with TLS are accepted with; `None` if no address speaks TLS.
    pub(super) fn tls(&self) -> Option<Arc<TlsServer>> {
        self.certificates.as_ref().map(Certificates::current)
    }
}

impl<S: Clone> MakeEdgeService<S> {
    pub(super) fn new(stack: S, config: &EdgeConfig, gauges: Arc<Gauges>) -> Self {
        let proxies = config.trusted_proxies.clone();
        let requires_header = config.requires_proxy_protocol;
        Self {
            proxy_headers: requires_header.then(|| ProxyHeaders::new(proxies, gauges.clone())),
            stack: Stack::new(stack),
            rules: Arc::new(Rules::new(config)),
            gauges,
            body_timeout: config.body_timeout,
            trusts_local_peers: config.trusts_local_peers,
            certificates: config.tls.as_ref().map(|tls| tls.certificates.clone()),
        }
    }

    pub(super) fn make(
        &self,
        peer: PeerAddr,
        on_loopback: bool,
        tls: Option<Arc<TlsClient>>,
        socket: SocketState,
    ) -> EdgeService<S> {
        EdgeService {
            stack: self.stack.clone(),
            rules: self.rules.clone(),
            state: ConnectionState::new(socket, self.gauges.clone()),
            peer,
            on_loopback: on_loopback || (self.trusts_local_peers && peer.is_loopback()),
            body_timeout: self.body_timeout,
            tls,
        }
    }
}

/// The service that hyper calls for each request of a connection.
#[derive(Debug)]
pub(super) struct EdgeService<S> {
    stack: Stack<S>,
    pub(super) rules: Arc<Rules>,
    pub(super) state: Arc<ConnectionState>,
    pub(super) peer: PeerAddr,
    on_loopback: bool,
    body_timeout: Option<Duration>,
    /// `None` without TLS.
    tls: Option<Arc<TlsClient>>,
}

impl<S, B> HyperService<Request<Incoming>> for EdgeService<S>
where
    S: Service<Request<RequestBody>, Response = Response<B>, Error = Infallible> + Clone,
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Response = Response<AnswerBody<B>>;
    type Error = Infallible;
    type Future = EdgeFuture<Stack<S>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let (mut head, incoming) = request.into_parts();
        let state = &self.state;
        state.set_http_10(head.version == Version::HTTP_10);
        let read = state.take_read();
        let waits = settle_expectation(&mut head, read);
        let line = state.take_malformed();
        let is_malformed = line.is_some_and(|line| is_line_of(&line, &head.method, &head.uri));
        let client = self.rules.client(self.peer, &head.headers);
        let draining = state.gauges.is_draining();
        let decision = match is_malformed {
            true => self.rules.malformed_line(&head, client),
            false => self
                .rules
                .check(&mut head, client, self.of_connection(), draining),
        };
        state.set_body_open(!incoming.is_end_stream());
        let body = RequestBody::new(incoming, state, waits, self.body_timeout);
        EdgeFuture {
            step: self.begin(head, body, client, decision, state),
            state: state.clone(),
        }
    }
}

impl<S, B> EdgeService<S>
where
    S: Service<Request<RequestBody>, Response = Response<B>, Error = Infallible> + Clone,
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    /// Applies the rules to a request of an HTTP/2 stream, and gives it to the stack. `state` is that of
    /// the stream.
    pub(super) fn begin_stream(
        &self,
        request: Request<Incoming>,
        state: &Arc<ConnectionState>,
    ) -> Step<Stack<S>> {
        let (mut head, incoming) = request.into_parts();
        // The response is not held back; hyper would not send `100 Continue`.
        head.headers.remove(EXPECT);
        let client = self.rules.client(self.peer, &head.headers);
        let draining = state.gauges.is_draining();
        let decision = self
            .rules
            .check(&mut head, client, self.of_connection(), draining);
        let body = RequestBody::of_stream(incoming, self.body_timeout);
        self.begin(head, body, client, decision, state)
    }

    fn of_connection(&self) -> OfConnection<'_> {
        OfConnection {
            on_loopback: self.on_loopback,
            tls: self.tls.as_deref(),
        }
    }

    fn begin(
        &self,
        mut head: request::Parts,
        body: RequestBody,
        client: Option<IpAddr>,
        decision: Decision,
        state: &Arc<ConnectionState>,
    ) -> Step<Stack<S>> {
        if let Decision::Close(_) = &decision {
            state.set_unread(true);
        }
        match decision {
            Decision::Answer(answer) | Decision::Close(answer) => Step::Answer {
                answer: Some((answer, body)),
                _in_flight: state.begin(false),
            },
            Decision::Pass(admitted) => {
                // The gateway does not support protocol upgrades.
                head.extensions.remove::<OnUpgrade>();
                if let Some(client) = client {
                    ClientAddress(client).put_into(&mut head.extensions);
                }
                if let Some(tls) = &self.tls {
                    tls.put_into(&mut head);
                }
                let in_flight = Some(state.begin(true));
                Step::Stack {
                    future: self.stack.call(Request::from_parts(head, body)),
                    admitted,
                    in_flight,
                }
            }
        }
    }
}

/// Whether the client waits for `100 Continue` before it sends the body. If it does not wait, the
/// expectation is removed: the client uses HTTP/1.0, or the body arrived with the head (RFC 9110
/// 10.1.1). An unknown expectation stays, whenever the body arrives: the rules refuse it.
fn settle_expectation(head: &mut request::Parts, read: usize) -> bool {
    if !has(&head.headers, &EXPECT) || !only(&head.headers, &EXPECT, b"100-continue") {
        return false;
    }
    let fields = head.headers.iter();
    let fields = fields.map(|(name, value)| name.as_str().len() + value.len() + 4);
    let target = head.uri.path().len() + head.uri.query().map_or(0, |query| query.len() + 1);
    // The request line and the empty line. Unusual blanks in the head are counted as body; the only
    // effect is that no `100 Continue` is sent.
    let length = head.method.as_str().len() + target + 14 + fields.sum::<usize>();
    let waits = head.version >= Version::HTTP_11 && read <= length;
    if !waits {
        head.headers.remove(EXPECT);
    }
    waits
}

pin_project! {
    /// The future of a response.
    pub(super) struct EdgeFuture<S: HyperService<Request<RequestBody>>> {
        #[pin]
        step: Step<S>,
        state: Arc<ConnectionState>,
    }
}

pin_project! {
    /// What a request waits for.
    #[project = StepProjection]
    pub(super) enum Step<S: HyperService<Request<RequestBody>>> {
        Answer {
            answer: Option<(Answer, RequestBody)>,
            _in_flight: InFlight,
        },
        Stack {
            #[pin]
            future: S::Future,
            admitted: Option<HeaderValue>,
            in_flight: Option<InFlight>,
        },
    }
}

impl<S, B> Future for EdgeFuture<S>
where
    S: HyperService<Request<RequestBody>, Response = Response<B>, Error = Infallible>,
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Output = Result<Response<AnswerBody<B>>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let socket = &this.state.socket;
        let wrap = |body| ConnectionBody::new(body, socket.clone());
        let mut answer = ready!(this.step.poll_answer(this.state, wrap, cx));
        this.state.socket.set_unflushed();
        if this.state.gauges.is_draining() || this.state.is_unread() {
            // The client's next request must use another connection, to another process.
            let close = HeaderValue::from_static("close");
            answer.headers_mut().insert(CONNECTION, close);
        }
        Poll::Ready(Ok(answer))
    }
}

impl<S, B> Step<S>
where
    S: HyperService<Request<RequestBody>, Response = Response<B>, Error = Infallible>,
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    /// The response; `wrap` wraps the body of the stack's.
    pub(super) fn poll_answer<W>(
        self: Pin<&mut Self>,
        state: &Arc<ConnectionState>,
        wrap: impl FnOnce(ResponseBody<B>) -> W,
        cx: &mut Context<'_>,
    ) -> Poll<Response<Either<Full<Bytes>, W>>> {
        Poll::Ready(match self.project() {
            StepProjection::Answer { answer, .. } => {
                // The connection discards the unread body.
                let answer = answer.take().map(|(answer, _)| answer);
                answer.unwrap_or_default().map(Either::Left)
            }
            StepProjection::Stack {
                future,
                admitted,
                in_flight,
            } => {
                let Ok(answer) = ready!(future.poll(cx));
                let (mut head, body) = answer.into_parts();
                if let Some(origin) = admitted.take() {
                    origin::allow_read(&mut head.headers, origin);
                }
                // Version and framing belong to this hop.
                head.version = Version::HTTP_11;
                if has(&head.headers, &TRANSFER_ENCODING) {
                    head.headers.remove(TRANSFER_ENCODING);
                }
                let in_flight = in_flight.take().unwrap_or_else(|| state.begin(false));
                let body = ResponseBody::new(body, &mut head.headers, in_flight);
                Response::from_parts(head, Either::Right(wrap(body)))
            }
        })
    }
}
