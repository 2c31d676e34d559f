//! The service.

use std::task::{Context, Poll};

use http::{Request, Response};
use http_body::Body;
use tower_service::Service;

use super::{StreamClocksBody, StreamClocksFuture, StreamClocksLayer, StreamClocksRequestBody};
use crate::BoxError;
use crate::service::accessors;

/// The service of [`StreamClocksLayer`].
#[derive(Clone, Debug)]
pub struct StreamClocksService<S> {
    pub(super) inner: S,
    pub(super) clocks: StreamClocksLayer,
}

accessors!([S] StreamClocksService<S>, StreamClocksLayer);

impl<S, B, R> Service<Request<B>> for StreamClocksService<S>
where
    S: Service<Request<StreamClocksRequestBody<B>>, Response = Response<R>>,
    S::Error: Into<BoxError>,
    B: Body,
    R: Body,
    R::Error: Into<BoxError>,
{
    type Response = Response<StreamClocksBody<R>>;
    type Error = BoxError;
    type Future = StreamClocksFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let (parts, body) = request.into_parts();
        let limits = self.clocks.limits_of(&parts);
        let (body, sent) = StreamClocksRequestBody::new(body, limits.first_byte.is_some());
        let called = self.inner.call(Request::from_parts(parts, body));
        StreamClocksFuture::new(called, sent, limits)
    }
}
