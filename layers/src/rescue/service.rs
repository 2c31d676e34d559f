//! The service.

use std::convert::Infallible;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body::Body;
use tokio::sync::watch;
use tower_service::Service;

use super::{RescueBody, RescueFuture};
use crate::{BoxError, Dialect, Operation, RouteMatch};

/// The service of [`RescueLayer`](super::RescueLayer).
#[derive(Clone, Debug)]
pub struct Rescue<S> {
    pub(super) inner: S,
    pub(super) cutoff: Option<watch::Receiver<bool>>,
}

/// What the rescue needs to remember of a request.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) dialect: Dialect,
    pub(super) operation: Option<Operation>,
    pub(super) is_head: bool,
    pub(super) request_id: Option<http::HeaderValue>,
    #[cfg(feature = "outcome")]
    pub(super) record: Option<crate::Record>,
}

impl Asked {
    fn of<B>(request: &Request<B>) -> Self {
        let route = RouteMatch::of(request.extensions());
        Self {
            dialect: route.map_or(Dialect::Text, RouteMatch::dialect),
            operation: route.and_then(RouteMatch::operation),
            is_head: request.method() == Method::HEAD,
            request_id: request.headers().get("x-request-id").cloned(),
            #[cfg(feature = "outcome")]
            record: request.extensions().get().cloned(),
        }
    }

    /// Notes why the request failed.
    pub(super) fn note_error(&self, kind: &'static str) {
        #[cfg(feature = "outcome")]
        if let Some(record) = &self.record {
            record.update(|outcome| outcome.error = Some(kind));
        }
        #[cfg(not(feature = "outcome"))]
        let _ = kind;
    }

    /// Notes that an answer which had begun was not whole.
    pub(super) fn note_broken(&self, kind: &'static str) {
        self.note_error(kind);
        #[cfg(feature = "outcome")]
        if let Some(record) = &self.record {
            record.update(|outcome| outcome.ending = crate::Ending::Broken);
        }
    }
}

impl<S, B, R> Service<Request<B>> for Rescue<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Error: Into<BoxError>,
    R: Body<Data = Bytes>,
    R::Error: Into<BoxError>,
{
    type Response = Response<RescueBody<R>>;
    type Error = Infallible;
    type Future = RescueFuture<S::Future>;

    /// A service that can never be ready again says so to each request, as an answer.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        match self.inner.poll_ready(cx) {
            Poll::Ready(_) => Poll::Ready(Ok(())),
            Poll::Pending => Poll::Pending,
        }
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let asked = Asked::of(&request);
        RescueFuture::new(self.inner.call(request), asked, self.cutoff.clone())
    }
}
