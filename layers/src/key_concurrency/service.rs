//! The service: it calls at once, or waits for the turns of the request first.

use std::fmt;
use std::mem;
use std::task::{Context, Poll};

use http::{Request, Response};
use http_body::Body;
use smallvec::SmallVec;
use tower_service::Service;

use super::counts::{Entered, Turn};
use super::limits::ConcurrencyLimits;
use super::wait::{self, Wait};
use super::{KeyConcurrencyFuture, KeyConcurrencyLayer, KeyConcurrencyReached};
use crate::BoxError;
use crate::body::Guarded;
use crate::service::accessors;

/// The turns of a request.
pub(super) type Turns<K> = SmallVec<[Turn<K>; 1]>;

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
        let mut limits = layer.limits.of(&parts).into_iter();
        let request = Request::from_parts(parts, body);
        let mut turns = Turns::new();
        while let Some((key, limit)) = limits.next() {
            match layer.counts.enter(key, limit, layer.max_waiting) {
                Entered::Turn(turn) => turns.push(turn),
                Entered::Full(waiting) => {
                    let refusal = KeyConcurrencyReached {
                        limit,
                        waiting,
                        waited: None,
                    };
                    return KeyConcurrencyFuture::refused(refusal);
                }
                Entered::Place(place, semaphore) => {
                    let wait = Wait {
                        counts: layer.counts.clone(),
                        max_waiting: layer.max_waiting,
                        max_wait: layer.max_wait,
                        turns,
                        first: (place, semaphore, limit),
                        others: limits.collect(),
                    };
                    // Calls the instance whose readiness was polled.
                    let next = self.inner.clone();
                    let readied = mem::replace(&mut self.inner, next);
                    return KeyConcurrencyFuture::waiting(wait::call(wait, readied, request));
                }
            }
        }
        let turns = Some(turns).filter(|turns| !turns.is_empty());
        KeyConcurrencyFuture::calling(self.inner.call(request), turns)
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
