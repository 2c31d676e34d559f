//! The service.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::{Request, Response};
use http_body::Body;
use tower_service::Service;

use super::Choose;
use crate::BoxError;
use crate::body::Guarded;

/// Calls, for each request, the service that a [`Choose`] names.
pub struct Route<C> {
    policy: Arc<C>,
}

impl<C> Route<C> {
    /// Routes by `policy`.
    pub fn new(policy: impl Into<Arc<C>>) -> Self {
        Self {
            policy: policy.into(),
        }
    }
}

impl<C> Clone for Route<C> {
    fn clone(&self) -> Self {
        Self {
            policy: self.policy.clone(),
        }
    }
}

impl<C: fmt::Debug> fmt::Debug for Route<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Route").field(&self.policy).finish()
    }
}

impl<C, B, R> Service<Request<B>> for Route<C>
where
    C: Choose + Send + Sync + 'static,
    C::Service: Service<Request<B>, Response = Response<R>> + Send,
    <C::Service as Service<Request<B>>>::Error: Into<BoxError>,
    <C::Service as Service<Request<B>>>::Future: Send,
    C::Slot: Send,
    B: Send + 'static,
    R: Body,
{
    type Response = Response<Guarded<R, C::Slot>>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let policy = self.policy.clone();
        Box::pin(async move {
            let (parts, body) = request.into_parts();
            let mut choice = policy.choose(&parts).await?;
            let request = Request::from_parts(parts, body);
            std::future::poll_fn(|cx| choice.service.poll_ready(cx))
                .await
                .map_err(Into::into)?;
            let answer = choice.service.call(request).await.map_err(Into::into)?;
            Ok(answer.map(|body| Guarded::new(body, choice.slot)))
        })
    }
}
