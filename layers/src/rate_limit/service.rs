//! The service: take from a bucket or refuse, never wait.

use std::fmt;
use std::hash::Hash;
use std::task::{Context, Poll};

use http::Response;
use http::request::{Parts, Request};
use tower_service::Service;

use super::{RateLimitFuture, RateLimitLayer, RateStore};
use crate::BoxError;

/// The service of [`RateLimitLayer`].
pub struct RateLimitService<S, K, X, T> {
    inner: S,
    layer: RateLimitLayer<K, X, T>,
}

impl<S, K, X, T> RateLimitService<S, K, X, T> {
    pub(super) fn new(inner: S, layer: RateLimitLayer<K, X, T>) -> Self {
        Self { inner, layer }
    }
}

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
        if limit.is_off() {
            return RateLimitFuture::unlimited(self.inner.call(request));
        }
        let (parts, body) = request.into_parts();
        let key = (limit.key_of)(&parts);
        let request = Request::from_parts(parts, body);
        let rule = key.and_then(|key| Some((limit.rule(&key)?, key)));
        let Some((rule, key)) = rule else {
            return RateLimitFuture::unlimited(self.inner.call(request));
        };
        if let Some(verdict) = self.layer.store.take_at_once(&key, &rule.quota) {
            return match rule.judge(verdict) {
                Ok(standing) => RateLimitFuture::admitted(self.inner.call(request), standing),
                Err(refusal) => RateLimitFuture::refused(refusal.into()),
            };
        }
        let taking = self.layer.store.take(key, &rule.quota);
        let next = self.inner.clone();
        let readied = std::mem::replace(&mut self.inner, next);
        RateLimitFuture::taking(taking, limit.patience, rule, readied, request)
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
