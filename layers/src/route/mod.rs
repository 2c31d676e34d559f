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
//! use llamatower_layers::route::{Choice, Choose, Route};
//! use std::sync::Arc;
//! use tower::{ServiceExt, service_fn, util::BoxCloneSyncService};
//!
//! type Backend = BoxCloneSyncService<Request<()>, Response<Empty<&'static [u8]>>, BoxError>;
//!
//! struct OnlyOne(Backend);
//!
//! impl Choose for OnlyOne {
//!     type Service = Backend;
//!     type Slot = ();
//!     async fn choose(&self, _: &mut Parts) -> Result<Choice<Backend, ()>, BoxError> {
//!         Ok(Choice { service: self.0.clone(), slot: () })
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

use std::future::Future;
use std::sync::Arc;

use http::request::Parts;
use http::response;

use crate::BoxError;

pub use future::RouteFuture;
pub use service::Route;

/// Who is asked, and what is held for as long as the answer lasts.
#[derive(Debug)]
pub struct Choice<S, G> {
    /// The chosen backend's service.
    pub service: S,
    /// The place taken at the backend; dropped at the end of the answer.
    pub slot: G,
}

/// What a policy answers.
pub type ChoiceOf<C> = Result<Choice<<C as Choose>::Service, <C as Choose>::Slot>, BoxError>;

/// A policy that chooses a backend for a request.
pub trait Choose {
    /// The service of one backend.
    type Service;
    /// The guard of a place at a backend.
    type Slot;

    /// Chooses, waiting if it must, and takes the slot in the same critical section. What it puts
    /// into the request's extensions travels with the request.
    ///
    /// # Errors
    /// No backend can serve the request; the error says why.
    fn choose(&self, request: &mut Parts) -> impl Future<Output = ChoiceOf<Self>> + Send;

    /// Chooses at once, where there is nothing to wait for: a request that is chosen for so costs
    /// no memory for its wait. `None` has taken nothing and leaves the choice to
    /// [`choose`](Self::choose), as it does unless said.
    ///
    /// # Errors
    /// As those of [`choose`](Self::choose).
    fn choose_now(&self, request: &mut Parts) -> Option<ChoiceOf<Self>> {
        let _ = request;
        None
    }

    /// Shows the slot the head of the answer that it is held for.
    fn answered(&self, slot: &mut Self::Slot, answer: &response::Parts) {
        let _ = (slot, answer);
    }
}

impl<C: Choose + Send + Sync> Choose for Arc<C> {
    type Service = C::Service;
    type Slot = C::Slot;

    fn choose(&self, request: &mut Parts) -> impl Future<Output = ChoiceOf<Self>> + Send {
        C::choose(self, request)
    }

    fn choose_now(&self, request: &mut Parts) -> Option<ChoiceOf<Self>> {
        C::choose_now(self, request)
    }

    fn answered(&self, slot: &mut Self::Slot, answer: &response::Parts) {
        C::answered(self, slot, answer);
    }
}
