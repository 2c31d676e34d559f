//! The layer and its service.

use std::error::Error;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::{Request, Response};
use http_body::Body;
use tower_layer::Layer;
use tower_service::Service;

use super::{Class, ClassifyBody, ClassifyFuture, classify};
use crate::failure::sources;
use crate::service::{Hook, accessors};
use crate::{BoxError, Failure};

/// Gives errors of unknown kinds a meaning; see the [module](super).
#[derive(Clone, Debug)]
pub struct ClassifyLayer {
    policy: Policy,
}

/// Gives an error its class.
#[derive(Clone, Debug)]
pub(super) struct Policy(Hook<ClassOf>);

type ClassOf = dyn Fn(&(dyn Error + 'static)) -> Option<Class> + Send + Sync;

impl Policy {
    pub(super) fn apply(&self, error: impl Into<BoxError>) -> BoxError {
        let error = error.into();
        if Failure::find(&*error).is_some() {
            return error;
        }
        let class = sources(&*error).find_map(|error| (self.0)(error));
        match class {
            Some(class) => class.failure(error).into(),
            None => classify(error),
        }
    }
}

impl ClassifyLayer {
    /// Calls `class_of` with an error that is no [`Failure`], then with each of its sources, until
    /// it returns a class. If it never does, [`classify`] decides. Errors of the response's body are
    /// classified too.
    pub fn new(
        class_of: impl Fn(&(dyn Error + 'static)) -> Option<Class> + Send + Sync + 'static,
    ) -> Self {
        Self {
            policy: Policy(Hook(Arc::new(class_of))),
        }
    }
}

impl<S> Layer<S> for ClassifyLayer {
    type Service = ClassifyService<S>;

    fn layer(&self, inner: S) -> ClassifyService<S> {
        ClassifyService {
            inner,
            policy: self.policy.clone(),
        }
    }
}

/// The service of [`ClassifyLayer`].
#[derive(Clone, Debug)]
pub struct ClassifyService<S> {
    inner: S,
    policy: Policy,
}

accessors!([S] ClassifyService<S>, ClassifyLayer);

impl<S, B, R> Service<Request<B>> for ClassifyService<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Error: Into<BoxError>,
    R: Body,
    R::Error: Into<BoxError>,
{
    type Response = Response<ClassifyBody<R>>;
    type Error = BoxError;
    type Future = ClassifyFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        let ready = self.inner.poll_ready(cx);
        ready.map_err(|error| self.policy.apply(error))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        ClassifyFuture::new(self.inner.call(request), self.policy.clone())
    }
}
