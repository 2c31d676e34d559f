//! One stream: its request to the stack, and the response back.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::header::CONTENT_LENGTH;
use http::{Method, Request, Response, StatusCode};
use http_body::Body;
use http_body_util::{Either, Full};
use hyper::body::Incoming;
use hyper::service::Service as HyperService;
use llamatower_layers::BoxError;
use pin_project_lite::pin_project;
use tower::Service;

use super::body::StreamBody;
use super::streams::{StreamState, StreamsHandle};
use crate::edge::request_body::RequestBody;
use crate::edge::response_body::ResponseBody;
use crate::edge::service::{EdgeService, Step};
use crate::edge::stack::Stack;
use crate::edge::state::ConnectionState;

/// The body of a response: the edge's own, or the stack's.
type AnswerBody<B> = StreamBody<Either<Full<Bytes>, ResponseBody<B>>>;

/// The service that hyper calls for each stream of a connection.
pub(super) struct StreamService<S> {
    edge: EdgeService<S>,
    streams: StreamsHandle,
}

impl<S> StreamService<S> {
    pub(super) fn new(edge: EdgeService<S>, streams: StreamsHandle) -> Self {
        Self { edge, streams }
    }
}

impl<S, B> HyperService<Request<Incoming>> for StreamService<S>
where
    S: Service<Request<RequestBody>, Response = Response<B>, Error = Infallible> + Clone,
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Response = Response<AnswerBody<B>>;
    type Error = Infallible;
    type Future = StreamFuture<Stack<S>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let connection = &self.edge.state;
        let of_request = ConnectionState::new(connection.socket.clone(), connection.gauges.clone());
        let state = StreamState::new(of_request);
        self.streams.begin(state.clone());
        StreamFuture {
            is_head: request.method() == Method::HEAD,
            step: self.edge.begin_stream(request, &state.of_request),
            state,
        }
    }
}

pin_project! {
    /// The future of a response.
    pub(super) struct StreamFuture<S: HyperService<Request<RequestBody>>> {
        #[pin]
        step: Step<S>,
        state: Arc<StreamState>,
        is_head: bool,
    }
}

impl<S, B> Future for StreamFuture<S>
where
    S: HyperService<Request<RequestBody>, Response = Response<B>, Error = Infallible>,
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Output = Result<Response<AnswerBody<B>>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let answer = this
            .step
            .poll_answer(&this.state.of_request, ResponseBody::uncut, cx);
        let answer = ready!(answer);
        this.state.set_answered();
        let answer = match *this.is_head {
            true => without_body(answer),
            false => answer,
        };
        Poll::Ready(Ok(
            answer.map(|body| StreamBody::new(body, this.state.clone()))
        ))
    }
}

/// The response to HEAD: with the length of its body, and without the body. In HTTP/1 hyper does this; in HTTP/2
/// it would send the body, and clients break off the stream.
fn without_body<B>(mut answer: Response<Either<Full<Bytes>, B>>) -> Response<Either<Full<Bytes>, B>>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    let length = answer.body().size_hint().exact();
    let has_content = !matches!(
        answer.status(),
        StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED
    );
    if let Some(length) = length.filter(|_| has_content) {
        let headers = answer.headers_mut();
        headers
            .entry(CONTENT_LENGTH)
            .or_insert_with(|| length.into());
    }
    answer.map(|_| Either::Left(Full::default()))
}
