//! Chooses a backend for each request when the request is known.
//!
//! `tower::balance` chooses in `poll_ready`, before it sees the request, so it cannot route by
//! model. [`RouteService`] asks a [`Choose`] policy for a service and a slot, calls the service, and holds
//! the slot until the end of the response.
//!
//! ```text
//! call ── choose ── service ─────── head ── body ─────────── end
//!              └ slot taken ──────────────────────── returned ┘
//! ```
//!
//! Put it innermost, inside of a retry layer, so that each attempt chooses again.
//!
//! ```
//! use http::{Request, Response, request::Parts};
//! use http_body_util::Empty;
//! use llamatower_layers::BoxError;
//! use llamatower_layers::route::{Choice, ChoiceOf, Choose, RouteService};
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
//! let route = RouteService::new(Arc::new(OnlyOne(BoxCloneSyncService::new(backend))));
//! assert!(route.oneshot(Request::new(())).await?.status().is_success());
//! # Ok(())
//! # }
//! ```
//!
//! With several backends, the policy tells its choices to the retry layer, by
//! [`Attempts`](crate::retry::Attempts). Otherwise that layer knows of no other backend: an open circuit
//! breaker ends the request, even if another backend is free.
//!
//! ```
//! # #[cfg(all(feature = "breaker", feature = "retry"))]
//! # mod example {
//! # use http::{Request, Response, request::Parts};
//! # use http_body_util::Empty;
//! # use llamatower_layers::BoxError;
//! # use llamatower_layers::breaker::{Breaker, BreakerLayer, BreakerPolicy};
//! # use llamatower_layers::retry::{RetryBudget, RetryLayer};
//! # use llamatower_layers::route::{Choice, ChoiceOf, Choose, RouteService};
//! # use std::sync::Arc;
//! # use std::task::{Context, Poll};
//! # use tower::{Layer, ServiceExt, service_fn};
//! use llamatower_layers::retry::Attempts;
//!
//! struct Backends<S>(Vec<(Arc<str>, S)>);
//!
//! impl<S: Clone> Choose for Backends<S> {
//!     type Service = S;
//!     type Slot = ();
//!     type Wait = ();
//!     fn poll_choose(
//!         &self,
//!         _: &mut (),
//!         request: &mut Parts,
//!         _: &mut Context<'_>,
//!     ) -> Poll<ChoiceOf<Self>> {
//!         let Some(attempts) = Attempts::of(&request.extensions) else {
//!             return Poll::Ready(Err("there is no RetryLayer outside".into()));
//!         };
//!         let mut untried = self.0.iter().filter(|(name, _)| !attempts.has_tried(name));
//!         let (name, service) = untried.next().unwrap_or(&self.0[0]);
//!         attempts.record_untried(untried.count());
//!         attempts.record_backend(name.clone());
//!         Poll::Ready(Ok(Choice { service: service.clone(), slot: () }))
//!     }
//! }
//! # #[tokio::main(flavor = "current_thread")]
//! # pub async fn main() -> Result<(), BoxError> {
//! #     let policy = BreakerPolicy::default().with_consecutive_failures(Some(std::num::NonZeroU32::MIN));
//! #     let breakers = [Breaker::new(policy), Breaker::new(policy)];
//! #     breakers[0].acquire_anyway().fail();
//! #     assert!(!breakers[0].would_allow());
//! #     let backends = ["one", "two"].into_iter().zip(breakers).map(|(name, breaker)| {
//! #         let service = service_fn(|_: Request<()>| async { Ok::<_, BoxError>(Response::new(Empty::<&[u8]>::new())) });
//! #         (name.into(), BreakerLayer::new(breaker).layer(service))
//! #     });
//! #     let route = RouteService::new(Arc::new(Backends(backends.collect())));
//! #     let route = RetryLayer::new(RetryBudget::default()).layer(route);
//! #     assert!(route.oneshot(Request::new(())).await?.status().is_success());
//! #     Ok(())
//! # }
//! # }
//! # #[cfg(all(feature = "breaker", feature = "retry"))]
//! # fn main() { example::main().unwrap() }
//! # #[cfg(not(all(feature = "breaker", feature = "retry")))]
//! # fn main() {}
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
pub use service::RouteService;

/// The chosen service, and the slot that the response holds.
#[derive(Debug)]
pub struct Choice<S, G> {
    /// The chosen backend's service.
    pub service: S,
    /// The slot taken at the backend; dropped at the end of the response.
    pub slot: G,
}

/// The result of a policy.
pub type ChoiceOf<C> = Result<Choice<<C as Choose>::Service, <C as Choose>::Slot>, BoxError>;

/// A policy that chooses a backend for a request.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no policy that chooses a backend",
    label = "not a `Choose` policy",
    note = "implement `Choose` for it: `poll_choose` returns the service of a backend and its slot; an \
            `Arc` of a policy is a policy too"
)]
pub trait Choose {
    /// The service of one backend.
    type Service;
    /// The guard of a slot at a backend.
    type Slot;
    /// The state of a choice that has to wait, kept between two polls; `()` for a policy that never
    /// waits.
    type Wait: Default;

    /// Chooses a backend and takes its slot in the same critical section. Data that the policy puts
    /// into the request's extensions travels with the request. Each request starts with its own
    /// `wait`, which is dropped after the choice or when the request is cancelled.
    ///
    /// # Errors
    /// No backend can serve the request; the error gives the reason.
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
