//! The service: it admits or refuses, and never waits.

use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::{Request, Response};
use http_body::Body;
use tower_service::Service;

use super::future::AdmissionFuture;
use super::permit::{Cap, Permit};
use crate::BoxError;
use crate::body::Guarded;
use crate::service::accessors;

/// The service of [`AdmissionLayer`](super::AdmissionLayer).
#[derive(Clone)]
pub struct AdmissionService<S> {
    pub(super) inner: S,
    pub(super) cap: Arc<Cap>,
}

accessors!([S] AdmissionService<S>, super::AdmissionLayer);

impl<S, B, R> Service<Request<B>> for AdmissionService<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Error: Into<BoxError>,
    R: Body,
{
    type Response = Response<Guarded<R, Permit>>;
    type Error = BoxError;
    type Future = AdmissionFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        match self.cap.try_admit() {
            Ok(permit) => AdmissionFuture::admitted(self.inner.call(request), permit),
            Err(refusal) => AdmissionFuture::refused(refusal),
        }
    }
}

impl<S: fmt::Debug> fmt::Debug for AdmissionService<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AdmissionService")
            .field("max", &self.cap.max())
            .field("in_flight", &self.cap.in_flight())
            .field("inner", &self.inner)
            .finish()
    }
}
