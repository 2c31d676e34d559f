//! The service.

use std::task::{Context, Poll};

use http::{Request, Response};
use http_body::Body;
use tower_service::Service;

use super::{Choose, RouteFuture};
use crate::BoxError;
use crate::body::Guarded;

/// Calls the service that a [`Choose`] policy chooses for each request.
#[derive(Clone, Debug)]
pub struct RouteService<C> {
    policy: C,
}

impl<C> RouteService<C> {
    /// Routes by `policy`, which is cloned for each request; an `Arc` of a policy is a policy too.
    pub fn new(policy: C) -> Self {
        Self { policy }
    }

    /// The policy.
    pub fn get_ref(&self) -> &C {
        &self.policy
    }

    /// The policy, mutable. Clones of this service have their own policy, unless it is an `Arc`.
    pub fn get_mut(&mut self) -> &mut C {
        &mut self.policy
    }

    /// The policy, without the service.
    pub fn into_inner(self) -> C {
        self.policy
    }
}

impl<C, B, R> Service<Request<B>> for RouteService<C>
where
    C: Choose + Clone,
    C::Service: Service<Request<B>, Response = Response<R>>,
    <C::Service as Service<Request<B>>>::Error: Into<BoxError>,
    R: Body,
{
    type Response = Response<Guarded<R, C::Slot>>;
    type Error = BoxError;
    type Future = RouteFuture<C, B>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        RouteFuture::new(self.policy.clone(), request)
    }
}
