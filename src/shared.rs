//! A service behind one pointer.
//!
//! The service of a backend is cloned for every request that is sent there. tower's
//! `BoxCloneSyncService` copies all layers into a new box for that; here a clone is a pointer, and
//! the layers are copied into the future that works with them.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use llamatower_layers::BoxError;
use tower::{Service, ServiceExt};

/// What a [`SharedService`] is called with.
type Called<T, U> = dyn Fn(T) -> Answering<U> + Send + Sync;

/// The future of [`SharedService`].
pub type Answering<U> = Pin<Box<dyn Future<Output = Result<U, BoxError>> + Send>>;

/// A service whose type is not told, and whose clone costs next to nothing.
pub struct SharedService<T, U>(Arc<Called<T, U>>);

impl<T, U> SharedService<T, U> {
    /// `service` is cloned for each request, and asked whether it is ready.
    pub fn new<S>(service: S) -> Self
    where
        S: Service<T, Response = U, Error = BoxError> + Clone + Send + Sync + 'static,
        S::Future: Send,
        T: Send + 'static,
    {
        Self(Arc::new(move |request| {
            Box::pin(service.clone().oneshot(request))
        }))
    }
}

impl<T, U> Clone for SharedService<T, U> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T, U> fmt::Debug for SharedService<T, U> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedService").finish_non_exhaustive()
    }
}

impl<T, U> Service<T> for SharedService<T, U> {
    type Response = U;
    type Error = BoxError;
    type Future = Answering<U>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: T) -> Answering<U> {
        (self.0)(request)
    }
}
