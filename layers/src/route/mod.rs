//! The choice of a backend for each request, made when the request is known.
//!
//! `tower::balance` chooses while it becomes ready, before it has seen the request, and so cannot
//! route by model. [`Route`] asks a [`Choose`] for a service and a slot, calls the one, and lets
//! the other ride the answer to its end.
//!
//! ```text
//! call ── choose ── service ─────── head ── body ─────────── end
//!              └ slot taken ──────────────────────── returned ┘
//! ```
//!
//! It stands innermost, inside a retry, so that each attempt chooses anew.
//!
//! ```
//! use http::{Request, Response, request::Parts};
//! use http_body_util::Empty;
//! use llamatower_layers::BoxError;
//! use llamatower_layers::route::{Choice, ChoiceOf, Choose, Route};
//! use std::sync::Arc;
//! use std::task::{Context, Poll};
//! use tower::{ServiceExt, service_fn, util::BoxCloneSyncService};
//!
//! type Backend = BoxCloneSyncService<Request<()>, Response<Empty<&'static [u8]>>, BoxError>;
//!
//! struct OnlyOne(Backend);
//!
//! impl Choose for OnlyOne {
//!     type Service = Backend;
//!     type Slot = ();
//!     type Wait = ();
//!     fn poll_choose(
//!         &self,
//!         _: &mut (),
//!         _: &mut Parts,
//!         _: &mut Context<'_>,
//!     ) -> Poll<ChoiceOf<Self>> {
//!         Poll::Ready(Ok(Choice { service: self.0.clone(), slot: () }))
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), BoxError> {
//! let backend = service_fn(|_| async { Ok(Response::new(Empty::new())) });
//! let route = Route::new(Arc::new(OnlyOne(BoxCloneSyncService::new(backend))));
//! assert!(route.oneshot(Request::new(())).await?.status().is_success());
//! # Ok(())
//! # }
//! ```

mod future;
mod service;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::task::{Context, Poll};

use http::request::Parts;

use crate::BoxError;

pub use future::RouteFuture;
pub use service::Route;

/// Who is asked, and what is held for as long as the answer lasts.
#[derive(Debug)]
pub struct Choice<S, G> {
    /// The chosen backend's service.
    pub service: S,
    /// The slot taken at the backend; dropped at the end of the answer.
    pub slot: G,
}

/// What a policy answers.
pub type ChoiceOf<C> = Result<Choice<<C as Choose>::Service, <C as Choose>::Slot>, BoxError>;

/// A policy that chooses a backend for a request.
pub trait Choose {
    /// The service of one backend.
    type Service;
    /// The guard of a slot at a backend.
    type Slot;
    /// What a choice that has to wait keeps between two polls; `()` for a policy that never waits.
    type Wait: Default;

    /// Chooses, and takes the slot in the same critical section. What it puts into the request's
    /// extensions travels with the request. Each request begins with a `wait` of its own; it is
    /// dropped once there is a choice, or when the request is given up.
    ///
    /// # Errors
    /// No backend can serve the request; the error says why.
    fn poll_choose(
        &self,
        wait: &mut Self::Wait,
        request: &mut Parts,
        cx: &mut Context<'_>,
    ) -> Poll<ChoiceOf<Self>>;
}

impl<C: Choose> Choose for Arc<C> {
    type Service = C::Service;
    type Slot = C::Slot;
    type Wait = C::Wait;

    fn poll_choose(
        &self,
        wait: &mut Self::Wait,
        request: &mut Parts,
        cx: &mut Context<'_>,
    ) -> Poll<ChoiceOf<Self>> {
        C::poll_choose(self, wait, request, cx)
    }
}
