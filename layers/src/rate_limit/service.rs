//! The service: take from a bucket or refuse, never wait.

use std::fmt;
use std::hash::Hash;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::Response;
use http::request::{Parts, Request};
use tower_service::Service;

use super::ResponseFuture;
use super::layer::Limit;
use crate::BoxError;

/// The service of [`RateLimitLayer`](super::RateLimitLayer).
pub struct RateLimitService<S, K: Clone + Hash + Eq, X> {
    inner: S,
    limit: Arc<Limit<K, X>>,
}

impl<S, K: Clone + Hash + Eq, X> RateLimitService<S, K, X> {
    pub(super) fn new(inner: S, limit: Arc<Limit<K, X>>) -> Self {
        Self { inner, limit }
    }
}

impl<S, B, R, K, X> Service<Request<B>> for RateLimitService<S, K, X>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Error: Into<BoxError>,
    K: Clone + Hash + Eq,
    X: Fn(&Parts) -> Option<K>,
{
    type Response = Response<R>;
    type Error = BoxError;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let (request, verdict) = self.limit.take(request);
        match verdict.transpose() {
            Ok(standing) => ResponseFuture::passed(self.inner.call(request), standing),
            Err(refusal) => ResponseFuture::refused(refusal),
        }
    }
}

impl<S: Clone, K: Clone + Hash + Eq, X> Clone for RateLimitService<S, K, X> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            limit: self.limit.clone(),
        }
    }
}

impl<S: fmt::Debug, K: Clone + Hash + Eq, X> fmt::Debug for RateLimitService<S, K, X> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RateLimitService")
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}
