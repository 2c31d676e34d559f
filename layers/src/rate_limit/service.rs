//! The service: takes from a bucket or refuses; never waits.

use std::fmt;
use std::future::Future;
use std::hash::Hash;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use http::Response;
use http::request::{Parts, Request};
use tower_service::Service;

use super::{RateLimitFuture, RateLimitLayer, RateStore};
use crate::BoxError;
use crate::service::accessors;

/// The service of [`RateLimitLayer`].
pub struct RateLimitService<S, K, X, T> {
    pub(super) inner: S,
    pub(super) layer: RateLimitLayer<K, X, T>,
}

accessors!([S, K, X, T] RateLimitService<S, K, X, T>, RateLimitLayer<K, X, T>);

impl<S, B, R, K, X, T> Service<Request<B>> for RateLimitService<S, K, X, T>
where
    S: Service<Request<B>, Response = Response<R>> + Clone,
    S::Error: Into<BoxError>,
    K: Hash + Eq,
    X: Fn(&Parts) -> Option<K>,
    T: RateStore<K>,
{
    type Response = Response<R>;
    type Error = BoxError;
    type Future = RateLimitFuture<S, B, S::Future, T::Taking>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let limit = &*self.layer.limit;
        if limit.rules.get().is_unlimited() {
            return RateLimitFuture::calling(self.inner.call(request), None);
        }
        let (parts, body) = request.into_parts();
        let key = limit.key(&parts);
        let request = Request::from_parts(parts, body);
        let rule = match key {
            Ok(key) => key.and_then(|key| {
                let rules = limit.rules.get();
                Some((rules.rule(key.as_ref())?.clone(), key))
            }),
            Err(refusal) => return RateLimitFuture::refused(refusal.into()),
        };
        let Some((rule, key)) = rule else {
            return RateLimitFuture::calling(self.inner.call(request), None);
        };
        let mut taking = self
            .layer
            .store
            .take_for(request.extensions(), key, &rule.quota);
        let at_once = &mut Context::from_waker(Waker::noop());
        if let Poll::Ready(answer) = Pin::new(&mut taking).poll(at_once) {
            return match rule.state(limit.policy.settle(answer)) {
                Ok(state) => RateLimitFuture::calling(self.inner.call(request), state),
                Err(refusal) => RateLimitFuture::refused(refusal),
            };
        }
        let next = self.inner.clone();
        let readied = std::mem::replace(&mut self.inner, next);
        RateLimitFuture::taking(taking, limit.policy, rule, readied, request)
    }
}

impl<S: Clone, K, X, T> Clone for RateLimitService<S, K, X, T> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            layer: self.layer.clone(),
        }
    }
}

impl<S: fmt::Debug, K, X, T> fmt::Debug for RateLimitService<S, K, X, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RateLimitService")
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}
