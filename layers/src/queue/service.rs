//! The service: it enters the queue, then calls the inner service.

use std::fmt;
use std::hash::Hash;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::{Request, Response};
use http_body::Body;
use tower_service::Service;

use super::layer::Extractors;
use super::{Permit, Queue, QueueFuture, SlotPool};
use crate::BoxError;
use crate::body::Guarded;
use crate::service::accessors;

/// The service of [`QueueLayer`](super::QueueLayer).
pub struct QueueService<S, C: Clone + Eq + Hash, K: Clone + Eq + Hash> {
    pub(super) inner: S,
    pub(super) queue: Queue<SlotPool<C, K>>,
    pub(super) extractors: Arc<Extractors<C, K>>,
}

accessors!([S, C: Clone + Eq + Hash, K: Clone + Eq + Hash] QueueService<S, C, K>, super::QueueLayer<C, K>);

impl<S, B, R, C, K> Service<Request<B>> for QueueService<S, C, K>
where
    S: Service<Request<B>, Response = Response<R>> + Clone,
    S::Error: Into<BoxError>,
    R: Body,
    C: Clone + Eq + Hash,
    K: Clone + Eq + Hash,
{
    type Response = Response<Guarded<R, Permit<SlotPool<C, K>>>>;
    type Error = BoxError;
    type Future = QueueFuture<S, B, C, K>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let (mut parts, body) = request.into_parts();
        let class = self.extractors.class(&parts);
        match self.queue.enter(class, self.extractors.entry(&parts)) {
            Ok(ticket) => {
                let meter = self.extractors.meter();
                if let Some(meter) = &meter {
                    parts.extensions.insert(meter.clone());
                }
                let request = Request::from_parts(parts, body);
                QueueFuture::waiting(ticket, self.inner.clone(), request, meter)
            }
            Err(refusal) => QueueFuture::refused(refusal),
        }
    }
}

impl<S: Clone, C: Clone + Eq + Hash, K: Clone + Eq + Hash> Clone for QueueService<S, C, K> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            queue: self.queue.clone(),
            extractors: self.extractors.clone(),
        }
    }
}

impl<S: fmt::Debug, C, K> fmt::Debug for QueueService<S, C, K>
where
    C: Clone + Eq + Hash,
    K: Clone + Eq + Hash,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QueueService")
            .field("inner", &self.inner)
            .field("queue", &self.queue)
            .finish_non_exhaustive()
    }
}
