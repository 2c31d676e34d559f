//! The service.

use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::Request;
use http_body::Body;
use tower_service::Service;

use super::buffering::Buffering;
use super::layer::Config;
use super::{BodyLimitFuture, BodyRule};
use crate::BoxError;
use crate::body::ReplayBody;
use crate::service::accessors;

/// The service of [`BodyLimitLayer`](super::BodyLimitLayer).
#[derive(Clone)]
pub struct BodyLimitService<S> {
    pub(super) inner: S,
    pub(super) config: Arc<Config>,
}

accessors!([S] BodyLimitService<S>, super::BodyLimitLayer);

impl<S: fmt::Debug> fmt::Debug for BodyLimitService<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BodyLimitService")
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}

impl<S, B> Service<Request<B>> for BodyLimitService<S>
where
    S: Service<Request<ReplayBody<B>>> + Clone,
    S::Error: Into<BoxError>,
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = BodyLimitFuture<S, B>;

    /// Always ready: the inner service is polled for readiness after the body was read.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let (head, body) = request.into_parts();
        let inner = self.inner.clone();
        if body.is_end_stream() {
            return BodyLimitFuture::forwarding(inner, head, ReplayBody::empty());
        }
        let Config { budget, rule, pace } = &*self.config;
        match rule(&head) {
            BodyRule::Stream => {
                let body = ReplayBody::streaming(body).with_read_timeout(pace.read_timeout);
                BodyLimitFuture::forwarding(inner, head, body)
            }
            BodyRule::Buffer { limit } => {
                match Buffering::begin(&body.size_hint(), limit, budget, *pace) {
                    Ok(buffering) => BodyLimitFuture::reading(inner, head, body, buffering),
                    Err(failure) => BodyLimitFuture::refused(inner, failure),
                }
            }
        }
    }
}
