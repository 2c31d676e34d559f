//! The service: it calls at once, or waits for the turns of the request first.

use std::fmt;
use std::mem;
use std::task::{Context, Poll};

use http::{Request, Response};
use http_body::Body;
use tower_service::Service;

use super::limits::ConcurrencyLimits;
use super::taking::{Taking, Turns};
use super::{KeyConcurrencyFuture, KeyConcurrencyLayer, wait};
use crate::BoxError;
use crate::body::Guarded;
use crate::service::accessors;

/// The service of [`KeyConcurrencyLayer`].
pub struct KeyConcurrencyService<S, L: ConcurrencyLimits> {
    pub(super) inner: S,
    pub(super) layer: KeyConcurrencyLayer<L>,
}

accessors!([S, L: ConcurrencyLimits] KeyConcurrencyService<S, L>, KeyConcurrencyLayer<L>);

impl<S, B, R, L> Service<Request<B>> for KeyConcurrencyService<S, L>
where
    S: Service<Request<B>, Response = Response<R>> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send,
    B: Send + 'static,
    R: Body,
    L: ConcurrencyLimits,
    L::Key: Send + Sync + 'static,
{
    type Response = Response<Guarded<R, Turns<L::Key>>>;
    type Error = BoxError;
    type Future = KeyConcurrencyFuture<S::Future, L::Key>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let layer = &self.layer;
        if !layer.limits.are_any() {
            return KeyConcurrencyFuture::calling(self.inner.call(request), None);
        }
        let (parts, body) = request.into_parts();
        let limits = layer.limits.of(&parts);
        let request = Request::from_parts(parts, body);
        let mut taking = Taking::new(layer.counts.clone(), layer.max_waiting, limits);
        match taking.advance() {
            Err(refusal) => KeyConcurrencyFuture::refused(refusal),
            Ok(None) => {
                let turns = Some(taking.into_turns()).filter(|turns| !turns.is_empty());
                KeyConcurrencyFuture::calling(self.inner.call(request), turns)
            }
            Ok(Some(place)) => {
                // Calls the instance whose readiness was polled.
                let next = self.inner.clone();
                let readied = mem::replace(&mut self.inner, next);
                let max_wait = layer.max_wait;
                let waiting = wait::call(taking, place, max_wait, readied, request);
                KeyConcurrencyFuture::waiting(waiting)
            }
        }
    }
}

impl<S: Clone, L: ConcurrencyLimits> Clone for KeyConcurrencyService<S, L> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            layer: self.layer.clone(),
        }
    }
}

impl<S: fmt::Debug, L: ConcurrencyLimits> fmt::Debug for KeyConcurrencyService<S, L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyConcurrencyService")
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}
