//! A layer that ties a service to the socket of its connection.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http::{Method, Request, Response, StatusCode, Version};
use http_body::Body;
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use crate::body::ConnectionBody;
use crate::state::{Exchange, SocketState};

/// A layer that ties a service to the [`ClientSocket`](crate::ClientSocket) of its connection. It
/// must be the outermost one.
///
/// It tells the socket that a request is being answered, from its arrival to the end of the
/// response's body, and wraps that body in a [`ConnectionBody`]. Requests in HTTP/2 are passed on
/// unchanged.
#[derive(Clone, Debug)]
pub struct ConnectionLayer {
    state: SocketState,
}

impl ConnectionLayer {
    /// A layer for the connection of a socket, by [`ClientSocket::state`].
    ///
    /// [`ClientSocket::state`]: crate::ClientSocket::state
    pub fn new(state: &SocketState) -> Self {
        Self {
            state: state.clone(),
        }
    }
}

impl<S> Layer<S> for ConnectionLayer {
    type Service = ConnectionService<S>;

    fn layer(&self, inner: S) -> ConnectionService<S> {
        ConnectionService {
            inner,
            state: self.state.clone(),
        }
    }
}

/// The service of a [`ConnectionLayer`].
#[derive(Clone, Debug)]
pub struct ConnectionService<S> {
    inner: S,
    state: SocketState,
}

impl<S> ConnectionService<S> {
    /// The inner service.
    pub fn get_ref(&self) -> &S {
        &self.inner
    }

    /// The inner service.
    pub fn get_mut(&mut self) -> &mut S {
        &mut self.inner
    }

    /// The inner service.
    pub fn into_inner(self) -> S {
        self.inner
    }
}

impl<S, B, R> Service<Request<B>> for ConnectionService<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    R: Body,
{
    type Response = Response<ConnectionBody<R>>;
    type Error = S::Error;
    type Future = ConnectionFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let is_http1 = request.version() < Version::HTTP_2;
        ConnectionFuture {
            exchange: is_http1.then(|| Exchange::begin(self.state.clone())),
            is_connect: request.method() == Method::CONNECT,
            inner: self.inner.call(request),
        }
    }
}

pin_project! {
    /// The future of a [`ConnectionService`].
    #[derive(Debug)]
    pub struct ConnectionFuture<F> {
        #[pin]
        inner: F,
        exchange: Option<Exchange>,
        is_connect: bool,
    }
}

impl<F, R, E> Future for ConnectionFuture<F>
where
    F: Future<Output = Result<Response<R>, E>>,
    R: Body,
{
    type Output = Result<Response<ConnectionBody<R>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let response = ready!(this.inner.poll(cx))?;
        let status = response.status();
        let is_tunnel =
            status == StatusCode::SWITCHING_PROTOCOLS || *this.is_connect && status.is_success();
        // The bytes of another protocol are not read ahead.
        let exchange = this.exchange.take().filter(|_| !is_tunnel);
        Poll::Ready(Ok(
            response.map(|body| ConnectionBody::maybe(body, exchange))
        ))
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::future::ready;

    use bytes::Bytes;
    use http_body_util::Full;
    use tower::{ServiceExt, service_fn};

    use super::*;

    /// Whether the socket takes a request as being answered: before its response, and after.
    async fn is_answering(request: Request<()>, status: StatusCode) -> (bool, bool) {
        let state = SocketState::new(None);
        let inner = service_fn(move |_: Request<()>| {
            let mut response = Response::new(Full::<Bytes>::from("text"));
            *response.status_mut() = status;
            ready(Ok::<_, Infallible>(response))
        });
        let mut service = ConnectionLayer::new(&state).layer(inner);
        let response = service.ready().await.expect("ready").call(request);
        let before = state.is_answering();
        let _response = response.await;
        (before, state.is_answering())
    }

    fn request(method: Method, version: Version) -> Request<()> {
        let request = Request::builder().method(method).version(version);
        request.body(()).expect("a request")
    }

    #[tokio::test]
    async fn a_request_is_answered_until_the_end_of_its_body() {
        for status in [StatusCode::OK, StatusCode::NOT_FOUND] {
            let get = request(Method::GET, Version::HTTP_11);
            assert_eq!(is_answering(get, status).await, (true, true));
        }
        let old = request(Method::GET, Version::HTTP_10);
        assert_eq!(is_answering(old, StatusCode::OK).await, (true, true));
    }

    #[tokio::test]
    async fn an_upgrade_or_a_tunnel_is_no_answer() {
        let get = request(Method::GET, Version::HTTP_11);
        let upgrade = is_answering(get, StatusCode::SWITCHING_PROTOCOLS);
        assert_eq!(upgrade.await, (true, false));
        let connect = || request(Method::CONNECT, Version::HTTP_11);
        assert_eq!(is_answering(connect(), StatusCode::OK).await, (true, false));
        let refused = is_answering(connect(), StatusCode::FORBIDDEN);
        assert_eq!(refused.await, (true, true));
    }

    #[tokio::test]
    async fn http_2_is_passed_on() {
        let get = request(Method::GET, Version::HTTP_2);
        assert_eq!(is_answering(get, StatusCode::OK).await, (false, false));
    }
}
