//! The service.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

use http::request::Parts;
use http::{Request, Response};
use http_body::Body;
use tower_service::Service;

use super::layer::Limit;
use super::{TokenLimitFuture, TokenStore};
use crate::BoxError;
use crate::body::Guarded;
use crate::service::accessors;
use crate::usage::expected_prompt_tokens;

/// The service of [`TokenLimitLayer`](super::TokenLimitLayer).
pub struct TokenLimitService<S, K, X, T> {
    pub(super) inner: S,
    pub(super) limit: Arc<Limit<K, X, T>>,
}

accessors!([S, K, X, T] TokenLimitService<S, K, X, T>, super::TokenLimitLayer<K, X, T>);

impl<S, K, X, T, B, R> Service<Request<B>> for TokenLimitService<S, K, X, T>
where
    S: Service<Request<B>, Response = Response<R>> + Clone,
    S::Error: Into<BoxError>,
    T: TokenStore<K>,
    X: Fn(&Parts) -> Option<K>,
    B: Body,
    R: Body,
{
    type Response = Response<Guarded<R, super::Settlement<K, T>>>;
    type Error = BoxError;
    type Future = TokenLimitFuture<S, B, K, T>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let limit = &*self.limit;
        let options = &limit.options;
        if !options.is_on.load(Ordering::Relaxed) {
            return TokenLimitFuture::uncounted(self.inner.call(request));
        }
        let (parts, body) = request.into_parts();
        let key = limit.key(&parts);
        let estimate = match &options.estimate {
            Some(estimate) => estimate(&parts),
            None => expected_tokens(&parts, body.size_hint().lower()),
        };
        let output = options.output.as_ref().map_or(0, |output| output(&parts));
        let request = Request::from_parts(parts, body);
        let key = match key {
            Ok(Some(key)) => key,
            Ok(None) => return TokenLimitFuture::uncounted(self.inner.call(request)),
            Err(refusal) => return TokenLimitFuture::refused(refusal.into()),
        };
        let budgets = limit.budgets(key.as_ref());
        let tokens = estimate.saturating_add(output);
        let reserving = limit
            .store
            .reserve_for(request.extensions(), key, &budgets, tokens);
        let next = self.inner.clone();
        let ready_service = std::mem::replace(&mut self.inner, next);
        TokenLimitFuture::reserving(reserving, ready_service, request, limit, estimate)
    }
}

/// The default of [`with_estimate`](super::TokenLimitLayer::with_estimate).
fn expected_tokens(request: &Parts, body_bytes: u64) -> u64 {
    #[cfg(feature = "llm-request")]
    if let Some(request) = crate::LlmRequest::of(&request.extensions) {
        return crate::usage::expected_text_tokens(request.prompt_bytes);
    }
    let _ = request;
    expected_prompt_tokens(body_bytes)
}

impl<S: Clone, K, X, T> Clone for TokenLimitService<S, K, X, T> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            limit: self.limit.clone(),
        }
    }
}

impl<S: fmt::Debug, K, X, T> fmt::Debug for TokenLimitService<S, K, X, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenLimitService")
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}
