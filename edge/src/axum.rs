//! For [`axum::serve`]: a listener and a make service.
//!
//! ```no_run
//! use std::time::Duration;
//!
//! use axum::{Router, routing::get};
//! use llamatower_edge::axum::{ClientListener, MakeConnectionService};
//!
//! # async fn example() -> std::io::Result<()> {
//! let app = Router::new().route("/", get(|| async { "a stream" }));
//! let listener = tokio::net::TcpListener::bind("127.0.0.1:3000").await?;
//! let listener = ClientListener::new(listener, Duration::from_secs(60));
//! axum::serve(listener, MakeConnectionService::new(app)).await
//! # }
//! ```
//!
//! [`axum::serve`]: ::axum::serve()

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use ::axum::body::Body;
use ::axum::extract::{ConnectInfo, Request};
use ::axum::response::Response;
use ::axum::serve::{IncomingStream, Listener};
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use crate::layer::{ConnectionFuture, ConnectionLayer, ConnectionService};
use crate::socket::ClientSocket;

/// A listener whose sockets are [`ClientSocket`]s.
#[derive(Debug)]
pub struct ClientListener<L> {
    inner: L,
    write_stall_timeout: Option<Duration>,
}

impl<L> ClientListener<L> {
    /// Wraps a listener. A write that makes no progress for `write_stall_timeout` ends its
    /// connection; `None` is no limit.
    pub fn new(inner: L, write_stall_timeout: impl Into<Option<Duration>>) -> Self {
        Self {
            inner,
            write_stall_timeout: write_stall_timeout.into(),
        }
    }

    /// The inner listener.
    pub fn get_ref(&self) -> &L {
        &self.inner
    }

    /// The inner listener.
    pub fn get_mut(&mut self) -> &mut L {
        &mut self.inner
    }

    /// The inner listener.
    pub fn into_inner(self) -> L {
        self.inner
    }
}

impl<L: Listener> Listener for ClientListener<L> {
    type Io = ClientSocket<L::Io>;
    type Addr = L::Addr;

    async fn accept(&mut self) -> (Self::Io, L::Addr) {
        let (io, addr) = self.inner.accept().await;
        (ClientSocket::new(io, self.write_stall_timeout), addr)
    }

    fn local_addr(&self) -> io::Result<L::Addr> {
        self.inner.local_addr()
    }
}

/// Makes the service of each connection of a [`ClientListener`]: the `Router`, or what else
/// [`axum::serve`](::axum::serve()) takes, in a [`ConnectionLayer`].
///
/// Each request gets the client's address as an extension, so that the extractor
/// `ConnectInfo<SocketAddr>` works without `into_make_service_with_connect_info`.
#[derive(Clone, Debug)]
pub struct MakeConnectionService<M> {
    inner: M,
}

impl<M> MakeConnectionService<M> {
    /// Wraps a `Router`, a `MethodRouter`, a handler service or a make service.
    pub fn new(inner: M) -> Self {
        Self { inner }
    }
}

impl<'a, L, M> Service<IncomingStream<'a, ClientListener<L>>> for MakeConnectionService<M>
where
    L: Listener,
    L::Addr: Clone + Sync + 'static,
    M: Service<IncomingStream<'a, ClientListener<L>>, Error = Infallible>,
{
    type Response = AxumService<M::Response, L::Addr>;
    type Error = Infallible;
    type Future = MakeFuture<M::Future, L::Addr>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, stream: IncomingStream<'a, ClientListener<L>>) -> Self::Future {
        MakeFuture {
            layer: ConnectionLayer::new(stream.io().state()),
            client: ConnectInfo(stream.remote_addr().clone()),
            inner: self.inner.call(stream),
        }
    }
}

pin_project! {
    /// The future of a [`MakeConnectionService`].
    #[derive(Debug)]
    pub struct MakeFuture<F, A> {
        #[pin]
        inner: F,
        layer: ConnectionLayer,
        client: ConnectInfo<A>,
    }
}

impl<F, S, A> Future for MakeFuture<F, A>
where
    F: Future<Output = Result<S, Infallible>>,
    A: Clone,
{
    type Output = Result<AxumService<S, A>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let Ok(service) = ready!(this.inner.poll(cx));
        Poll::Ready(Ok(AxumService {
            inner: this.layer.layer(service),
            client: this.client.clone(),
        }))
    }
}

/// The service of a connection: a [`ConnectionService`] whose response has axum's body.
#[derive(Clone, Debug)]
pub struct AxumService<S, A> {
    inner: ConnectionService<S>,
    client: ConnectInfo<A>,
}

impl<S, A> Service<Request> for AxumService<S, A>
where
    S: Service<Request, Response = Response, Error = Infallible>,
    A: Clone + Send + Sync + 'static,
{
    type Response = Response;
    type Error = Infallible;
    type Future = AxumFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Service::<Request>::poll_ready(&mut self.inner, cx)
    }

    fn call(&mut self, mut request: Request) -> Self::Future {
        request.extensions_mut().insert(self.client.clone());
        AxumFuture {
            inner: self.inner.call(request),
        }
    }
}

pin_project! {
    /// The future of an [`AxumService`].
    #[derive(Debug)]
    pub struct AxumFuture<F> {
        #[pin]
        inner: ConnectionFuture<F>,
    }
}

impl<F: Future<Output = Result<Response, Infallible>>> Future for AxumFuture<F> {
    type Output = Result<Response, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Ok(response) = ready!(self.project().inner.poll(cx));
        Poll::Ready(Ok(response.map(Body::new)))
    }
}
