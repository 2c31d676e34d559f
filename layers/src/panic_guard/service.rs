//! The service.

use std::task::{Context, Poll};

use http::{Request, Response};
use tower_service::Service;

use super::catch::{PanicHook, catch};
use super::{PanicGuardBody, PanicGuardFuture};
use crate::service::accessors;
use crate::{BoxError, Failure};

/// The service of [`PanicGuardLayer`](super::PanicGuardLayer).
#[derive(Clone, Debug)]
pub struct PanicGuardService<S> {
    pub(super) inner: S,
    pub(super) hook: Option<PanicHook>,
}

accessors!([S] PanicGuardService<S>, super::PanicGuardLayer);

impl<S, B, R> Service<Request<B>> for PanicGuardService<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Error: Into<BoxError>,
{
    type Response = Response<PanicGuardBody<R>>;
    type Error = BoxError;
    type Future = PanicGuardFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        match catch(self.hook.as_ref(), || self.inner.poll_ready(cx)) {
            Ok(ready) => ready.map_err(Into::into),
            Err(panicked) => Poll::Ready(Err(Failure::from(panicked).into())),
        }
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let (mut request, mut called) = (Some(request), None);
        // If this panics, `called` stays `None`.
        let _ = catch(self.hook.as_ref(), || {
            called = request.take().map(|request| self.inner.call(request));
        });
        PanicGuardFuture::new(called, self.hook.clone())
    }
}
