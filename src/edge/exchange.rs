//! One request and its answer: from hyper, past the rules, to the stack and back.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, EXPECT};
use http::{HeaderValue, Request, Response, Version};
use http_body::Body;
use http_body_util::{Either, Full};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use pin_project_lite::pin_project;
use tower::util::Oneshot;
use tower::{Service, ServiceExt};

use super::RequestBody;
use super::answer_body::StackBody;
use super::chunking::Chunking;
use super::origin;
use super::request::{Answer, Rules, Verdict};
use super::state::{ConnectionState, InFlight};

/// Whom a connection is with; an extension of each request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerAddr {
    /// The other end of a TCP connection.
    Ip(SocketAddr),
    /// A process on this machine.
    Unix,
}

/// The body of an answer: the edge's own, or the stack's.
pub(super) type AnswerBody<B> = Either<Full<Bytes>, StackBody<B>>;

/// What hyper calls with each request of one connection.
#[derive(Debug)]
pub(super) struct Exchange<S> {
    pub(super) stack: S,
    pub(super) rules: Arc<Rules>,
    pub(super) state: Arc<ConnectionState>,
    pub(super) peer: PeerAddr,
    pub(super) on_loopback: bool,
    pub(super) body_timeout: Option<Duration>,
}

impl<S, B> hyper::service::Service<Request<Incoming>> for Exchange<S>
where
    S: Service<Request<RequestBody>, Response = Response<B>, Error = Infallible> + Clone,
    B: Body<Data = Bytes>,
{
    type Response = Response<AnswerBody<B>>;
    type Error = Infallible;
    type Future = ExchangeFuture<S>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let (mut head, incoming) = request.into_parts();
        let draining = self.state.gauges.is_draining();
        let verdict = self.rules.judge(&mut head, self.on_loopback, draining);
        let waits = head.headers.contains_key(EXPECT);
        let body = RequestBody::new(incoming, self.state.clone(), waits, self.body_timeout);
        self.state.set_http_10(head.version == Version::HTTP_10);
        let state = self.state.clone();
        match verdict {
            Verdict::Answer(answer) => ExchangeFuture {
                step: Step::Answer {
                    answer: Some(answer),
                    _body: body,
                    _in_flight: state.begin(false),
                },
                state,
            },
            Verdict::Pass(admitted) => {
                // The gateway switches protocols for nobody.
                head.extensions.remove::<OnUpgrade>();
                head.extensions.insert(self.peer);
                let request = Request::from_parts(head, body);
                ExchangeFuture {
                    step: Step::Stack {
                        future: self.stack.clone().oneshot(request),
                        admitted,
                        in_flight: Some(state.begin(true)),
                    },
                    state,
                }
            }
        }
    }
}

pin_project! {
    /// The answer on its way.
    pub(super) struct ExchangeFuture<S: Service<Request<RequestBody>>> {
        #[pin]
        step: Step<S>,
        state: Arc<ConnectionState>,
    }
}

pin_project! {
    #[project = StepProjection]
    enum Step<S: Service<Request<RequestBody>>> {
        Answer {
            answer: Option<Answer>,
            _body: RequestBody,
            _in_flight: InFlight,
        },
        Stack {
            #[pin]
            future: Oneshot<S, Request<RequestBody>>,
            admitted: Option<HeaderValue>,
            in_flight: Option<InFlight>,
        },
    }
}

impl<S, B> Future for ExchangeFuture<S>
where
    S: Service<Request<RequestBody>, Response = Response<B>, Error = Infallible>,
    B: Body<Data = Bytes>,
{
    type Output = Result<Response<AnswerBody<B>>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let mut answer = match this.step.project() {
            StepProjection::Answer { answer, .. } => {
                answer.take().unwrap_or_default().map(Either::Left)
            }
            StepProjection::Stack {
                future,
                admitted,
                in_flight,
            } => {
                let Ok(mut answer) = ready!(future.poll(cx));
                if let Some(origin) = admitted.take() {
                    origin::admit(answer.headers_mut(), origin);
                }
                let chunking = Chunking::of(answer.headers());
                answer.map(|body| {
                    let state = this.state.clone();
                    Either::Right(StackBody::new(body, chunking, in_flight.take(), state))
                })
            }
        };
        if this.state.gauges.is_draining() {
            // The next request shall come by another connection, to another process.
            let close = HeaderValue::from_static("close");
            answer.headers_mut().insert(CONNECTION, close);
        }
        Poll::Ready(Ok(answer))
    }
}
