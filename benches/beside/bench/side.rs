//! One side of a comparison: a layer, ours or a peer's, around the same backend.

use std::cell::RefCell;
use std::fmt::Debug;
use std::future::{Ready, ready};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body::Body;
use llamatower_layers::{BoxError, Fail, Failure, Retryable};
use tower::Service;

use super::exchange::{ClientBody, Lines, is_served, request};

/// A request, from the call to the end of the answer.
pub(crate) type Pass = Box<dyn Fn()>;

/// A layer beside its peers.
pub(crate) struct Group {
    pub(crate) layer: &'static str,
    pub(crate) ours: Side,
    pub(crate) peers: Vec<Peer>,
}

/// A layer of another crate.
pub(crate) struct Peer {
    pub(crate) name: &'static str,
    pub(crate) side: Side,
    /// In which way it does not do the same.
    pub(crate) remark: &'static str,
}

/// The requests through one layer.
pub(crate) struct Side {
    with: Pass,
    without: Pass,
    refused: Option<Pass>,
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Case {
    With,
    Without,
    Refused,
}

impl Case {
    pub(crate) const ALL: [Self; 3] = [Self::With, Self::Without, Self::Refused];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::With => "with",
            Self::Without => "without",
            Self::Refused => "refused",
        }
    }
}

impl Side {
    /// A service with the layer, and the same service without it.
    pub(crate) fn new<S, T, R, Q>(with: S, without: T) -> Self
    where
        S: Service<Request<ClientBody>, Response = Response<R>, Error: Debug> + Clone + 'static,
        T: Service<Request<ClientBody>, Response = Response<Q>, Error: Debug> + Clone + 'static,
        R: Body<Data = Bytes, Error: Debug>,
        Q: Body<Data = Bytes, Error: Debug>,
    {
        Self::sending(request(), with, without)
    }

    /// Like [`new`](Self::new), for this request.
    pub(crate) fn sending<S, T, R, Q>(request: Request<ClientBody>, with: S, without: T) -> Self
    where
        S: Service<Request<ClientBody>, Response = Response<R>, Error: Debug> + Clone + 'static,
        T: Service<Request<ClientBody>, Response = Response<Q>, Error: Debug> + Clone + 'static,
        R: Body<Data = Bytes, Error: Debug>,
        Q: Body<Data = Bytes, Error: Debug>,
    {
        Self {
            with: pass(with, request.clone(), true),
            without: pass(without, request, true),
            refused: None,
        }
    }

    /// A service whose layer refuses each request.
    pub(crate) fn refusing<S, R>(self, service: S) -> Self
    where
        S: Service<Request<ClientBody>, Response = Response<R>, Error: Debug> + Clone + 'static,
        R: Body<Data = Bytes, Error: Debug>,
    {
        let refused = Some(pass(service, request(), false));
        Self { refused, ..self }
    }

    /// A service whose layer answers `request` itself.
    pub(crate) fn answering<S, R>(self, service: S, request: Request<ClientBody>) -> Self
    where
        S: Service<Request<ClientBody>, Response = Response<R>, Error: Debug> + Clone + 'static,
        R: Body<Data = Bytes, Error: Debug>,
    {
        let refused = Some(pass(service, request, true));
        Self { refused, ..self }
    }

    pub(crate) fn pass(&self, case: Case) -> Option<&Pass> {
        match case {
            Case::With => Some(&self.with),
            Case::Without => Some(&self.without),
            Case::Refused => self.refused.as_ref(),
        }
    }
}

/// A pass that must be served, or refused.
fn pass<S, R>(service: S, request: Request<ClientBody>, served: bool) -> Pass
where
    S: Service<Request<ClientBody>, Response = Response<R>, Error: Debug> + Clone + 'static,
    R: Body<Data = Bytes, Error: Debug>,
{
    // A server clones its service for each request.
    Box::new(move || assert_eq!(is_served(service.clone(), request.clone()), served))
}

/// The harness's own part of a refused request: the request is copied and dropped.
pub(crate) fn dropped() -> Pass {
    let request = request();
    Box::new(move || drop(std::hint::black_box(request.clone())))
}

/// Leaves a request in flight for ever.
pub(crate) fn occupy<S>(service: &S)
where
    S: Service<Request<ClientBody>, Error: Debug> + Clone,
{
    let mut service = service.clone();
    let cx = &mut Context::from_waker(Waker::noop());
    assert!(service.poll_ready(cx).is_ready(), "the first has a place");
    let mut call = Box::pin(service.call(request()));
    assert!(call.as_mut().poll(cx).is_pending(), "the head is awaited");
    std::mem::forget(call);
}

/// A backend that cannot be reached.
#[derive(Clone)]
pub(crate) struct Unreachable;

impl<B> Service<Request<B>> for Unreachable {
    type Response = Response<Lines>;
    type Error = BoxError;
    type Future = Ready<Result<Self::Response, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<B>) -> Self::Future {
        ready(Err(Failure::from(ConnectionRefused).into()))
    }
}

#[derive(Debug)]
struct ConnectionRefused;

impl std::error::Error for ConnectionRefused {}

impl std::fmt::Display for ConnectionRefused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the backend refused the connection")
    }
}

impl Fail for ConnectionRefused {
    fn side(&self) -> llamatower_layers::Side {
        llamatower_layers::Side::Upstream
    }

    fn status(&self) -> StatusCode {
        StatusCode::BAD_GATEWAY
    }

    fn kind(&self) -> &'static str {
        "connect"
    }

    fn retryable(&self) -> Retryable {
        Retryable::Yes
    }
}

/// A service in a box on the heap that its clones share, for services that cannot be cloned.
pub(crate) struct OneForAll<S>(Rc<RefCell<S>>);

impl<S> OneForAll<S> {
    pub(crate) fn new(service: S) -> Self {
        Self(Rc::new(RefCell::new(service)))
    }
}

impl<S> Clone for OneForAll<S> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<S: Service<T>, T> Service<T> for OneForAll<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.borrow_mut().poll_ready(cx)
    }

    fn call(&mut self, request: T) -> S::Future {
        self.0.borrow_mut().call(request)
    }
}

/// A future of [`Collect`].
type Collected<T, E> = Pin<Box<dyn Future<Output = Result<T, E>> + Send>>;

/// Reads the whole body of a request before it calls the service, as an extractor of axum does.
#[derive(Clone)]
pub(crate) struct Collect<S>(pub(crate) S);

impl<S, B> Service<Request<B>> for Collect<S>
where
    S: Service<Request<ClientBody>, Error = BoxError, Future: Send> + Clone + Send + 'static,
    B: Body<Error: Into<BoxError>> + Send + 'static,
    B::Data: Send,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = Collected<S::Response, BoxError>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let fresh = self.0.clone();
        let mut service = std::mem::replace(&mut self.0, fresh);
        Box::pin(async move {
            let (head, body) = request.into_parts();
            let body = http_body_util::BodyExt::collect(body).await;
            let body = body.map_err(Into::into)?.to_bytes();
            service.call(Request::from_parts(head, body.into())).await
        })
    }
}
