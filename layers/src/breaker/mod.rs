//! A circuit breaker for one backend: who fails again and again is left alone for a while.
//!
//! A backend that fails fast looks idle, and would attract everything. A [`Breaker`] opens on
//! several failures in a row, or on a share of failures among the requests of late, and then lets
//! single requests try ([`Token`]s) before it closes again.
//!
//! ```text
//!            failures                 time is over              probes succeed
//! closed ───────────────▶ open ───────────────────▶ half-open ───────────────▶ closed
//!                          ▲  refuses                  │ few may wait for an answer
//!                          └───────── a probe fails ───┘ (and for twice as long)
//!
//! choice ── request ── head ── stream ── end
//! token taken          next probe         success or failure: the token is settled
//!     (dropped before the end: the client left, which says nothing of the backend)
//! ```
//!
//! A stream is judged at its end, not at its head, so an answer that breaks off is a failure
//! however good its status was. Failures are errors of the backend's side
//! ([`Side::Upstream`](crate::Side::Upstream)) and the statuses of [`BreakerLayer::with_statuses`]. What a
//! client did wrong says nothing of the backend, nor does a 500 or a 503 of Ollama, which are about
//! one model: its runner failed, or there is no room to load it. By the same rule a stream that ends
//! tidily is a success, though its last line tells of an error or is missing: the server was there to
//! end it. A body inside that fails on such an end has it counted.
//!
//! A probe's place goes to the next one with the head of its answer, which Ollama sends with the first
//! token: else one long answer, or one client that reads slowly, would keep all others away.
//!
//! It belongs into the service of each backend, outside of the stream clocks whose errors it
//! counts. Whoever chooses among backends asks [`Breaker::would_allow`], takes the token together
//! with the choice, unless the breaker [is closed](Breaker::is_closed), and sends it along with the
//! request ([`Breaker::put_token`]); without one the layer takes it itself. Where no backend would be
//! allowed, refusing is of use to nobody: the choice can let the request through
//! ([`Breaker::acquire_anyway`]). tower and tower-http have no breaker.
//!
//! Before one backend:
//!
//! ```
//! use http::{Request, Response};
//! use http_body_util::Empty;
//! use llamatower_layers::breaker::{Breaker, BreakerLayer, BreakerPolicy, CircuitOpen, State};
//! use llamatower_layers::{BoxError, Failure};
//! use tower::{Layer, ServiceExt, service_fn};
//!
//! # #[derive(Debug)] struct Refused;
//! # impl std::fmt::Display for Refused { fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result { f.write_str("refused") } }
//! # impl std::error::Error for Refused {}
//! # impl llamatower_layers::Fail for Refused {
//! #     fn side(&self) -> llamatower_layers::Side { llamatower_layers::Side::Upstream }
//! #     fn status(&self) -> http::StatusCode { http::StatusCode::BAD_GATEWAY }
//! #     fn kind(&self) -> &'static str { "refused" }
//! # }
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! let breaker = Breaker::new(BreakerPolicy::default());
//! let service = BreakerLayer::new(breaker.clone()).layer(service_fn(async |_: Request<()>| {
//!     Err::<Response<Empty<&[u8]>>, BoxError>(Failure::from(Refused).into())
//! }));
//! for _ in 0..5 {
//!     service.clone().oneshot(Request::default()).await.unwrap_err();
//! }
//! assert_eq!(breaker.state(), State::Open);
//! let error = service.oneshot(Request::default()).await.unwrap_err();
//! assert!(Failure::find(&*error).unwrap().caused_by::<CircuitOpen>().is_some());
//! # }
//! ```
//!
//! Stricter, and told of:
//!
//! ```
//! use std::num::NonZeroU32;
//! use std::time::Duration;
//! use http::StatusCode;
//! use llamatower_layers::breaker::{Breaker, BreakerLayer, BreakerPolicy};
//!
//! let policy = BreakerPolicy::default()
//!     .with_consecutive_failures(NonZeroU32::new(2))
//!     .with_failure_ratio(0.2, NonZeroU32::new(50).expect("not zero"))
//!     .with_window(Duration::from_secs(60))
//!     .with_open_for(Duration::from_secs(1), Duration::from_secs(120))
//!     .with_probes(NonZeroU32::new(3).expect("not zero"));
//! let breaker = Breaker::new(policy).with_hook(|from, to| eprintln!("{from:?} -> {to:?}"));
//! let layer = BreakerLayer::new(breaker).with_statuses([StatusCode::SERVICE_UNAVAILABLE]);
//! # let _ = layer;
//! ```

mod body;
mod error;
mod future;
mod handle;
mod layer;
mod machine;
mod policy;
#[cfg(test)]
mod tests;
mod window;

pub use body::BreakerBody;
pub use error::CircuitOpen;
pub use future::BreakerFuture;
pub use handle::{Breaker, Token};
pub use layer::{BreakerLayer, BreakerService};
pub use machine::State;
pub use policy::BreakerPolicy;
