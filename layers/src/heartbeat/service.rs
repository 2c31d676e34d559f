//! The service.

use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use tower_service::Service;

use super::layer::is_event_stream;
use super::{HeartbeatBody, HeartbeatFuture, HeartbeatInterval, HeartbeatLayer, Waiting};
use crate::service::accessors;
use crate::{BoxError, Record};

/// The service of [`HeartbeatLayer`].
#[derive(Clone, Debug)]
pub struct HeartbeatService<S> {
    pub(super) inner: S,
    pub(super) layer: HeartbeatLayer,
}

accessors!([S] HeartbeatService<S>, HeartbeatLayer);

impl<S, B, R> Service<Request<B>> for HeartbeatService<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Error: Into<BoxError>,
    R: Body<Data = Bytes>,
    R::Error: Into<BoxError>,
{
    type Response = Response<HeartbeatBody<S::Future, R>>;
    type Error = BoxError;
    type Future = HeartbeatFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let own = request.extensions().get::<HeartbeatInterval>();
        let Some(every) = own.map_or(self.layer.every, |own| own.0) else {
            return HeartbeatFuture::passed(self.inner.call(request));
        };
        let (mut head, body) = request.into_parts();
        let is_event_stream = match &self.layer.is_event_stream {
            Some(selector) => selector(&head),
            None => is_event_stream(&head),
        };
        if !is_event_stream {
            return HeartbeatFuture::passed(self.inner.call(Request::from_parts(head, body)));
        }
        let waiting = Waiting::default();
        waiting.clone().put_into(&mut head.extensions);
        let record = Record::of(&head.extensions).cloned();
        let response = self.inner.call(Request::from_parts(head, body));
        HeartbeatFuture::watched(response, every, waiting, record)
    }
}
