//! The service.

use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use tokio_util::sync::CancellationToken;
use tower_service::Service;

use super::report::{Options, WithRequest};
use super::{RescueBody, RescueFuture};
use crate::BoxError;
use crate::classify::classify;
use crate::service::accessors;

/// The service of [`RescueLayer`](super::RescueLayer).
pub struct RescueService<S> {
    pub(super) inner: S,
    // Cloning the token itself takes a lock, and the service is cloned for each request.
    pub(super) cutoff: Option<Arc<CancellationToken>>,
    pub(super) options: Options,
    /// The error of `poll_ready`; the next call returns it.
    pub(super) unready: Option<BoxError>,
}

accessors!([S] RescueService<S>, super::RescueLayer);

impl<S: Clone> Clone for RescueService<S> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            cutoff: self.cutoff.clone(),
            options: self.options.clone(),
            unready: None,
        }
    }
}

impl<S: fmt::Debug> fmt::Debug for RescueService<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RescueService")
            .field("inner", &self.inner)
            .field("unready", &self.unready)
            .finish_non_exhaustive()
    }
}

impl<S, B, R> Service<Request<B>> for RescueService<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Error: Into<BoxError>,
    R: Body<Data = Bytes>,
    R::Error: Into<BoxError>,
{
    type Response = Response<RescueBody<R>>;
    type Error = Infallible;
    type Future = RescueFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // Only the latest answer counts: an inner service that has become ready is called.
        self.unready = ready!(self.inner.poll_ready(cx)).err().map(classify);
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let with_request = WithRequest::of(&request, self.cutoff.as_deref(), self.options.clone());
        match self.unready.take() {
            Some(error) => RescueFuture::failed(error, with_request),
            None => RescueFuture::new(self.inner.call(request), with_request),
        }
    }
}
