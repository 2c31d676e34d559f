//! The service: it admits or refuses, and never waits.

use std::fmt;
use std::task::{Context, Poll};

use http::{Request, Response};
use http_body::Body;
use tokio::time::Instant;
use tower_service::Service;

use super::permit::Measurement;
use super::{AdaptiveBody, AdaptiveFuture, AdaptiveLayer, Permit};
use crate::BoxError;
use crate::body::Guarded;
use crate::service::accessors;

/// The service of [`AdaptiveLayer`](super::AdaptiveLayer).
#[derive(Clone)]
pub struct AdaptiveService<S> {
    pub(super) inner: S,
    pub(super) layer: AdaptiveLayer,
}

accessors!([S] AdaptiveService<S>, AdaptiveLayer);

impl<S, B, R> Service<Request<B>> for AdaptiveService<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Error: Into<BoxError>,
    R: Body,
{
    type Response = Response<Guarded<AdaptiveBody<R>, Permit>>;
    type Error = BoxError;
    type Future = AdaptiveFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let layer = &self.layer;
        if !layer.is_on {
            return AdaptiveFuture::unlimited(self.inner.call(request));
        }
        let permit = match layer.shared.try_admit() {
            Ok(permit) => permit,
            Err(refusal) => return AdaptiveFuture::refused(refusal),
        };
        let (parts, body) = request.into_parts();
        let measurement = match layer
            .is_measured
            .as_ref()
            .is_none_or(|selects| selects(&parts))
        {
            true => layer.shared.start_measurement(Instant::now()),
            false => Measurement::none(),
        };
        let request = Request::from_parts(parts, body);
        AdaptiveFuture::admitted(self.inner.call(request), permit, measurement)
    }
}

impl<S: fmt::Debug> fmt::Debug for AdaptiveService<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let controller = self.layer.shared.lock();
        f.debug_struct("AdaptiveService")
            .field("limit", &controller.limit())
            .field("in_flight", &controller.in_flight())
            .field("inner", &self.inner)
            .finish()
    }
}
