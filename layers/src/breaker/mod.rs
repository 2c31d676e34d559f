//! A circuit breaker for one backend: after repeated failures it gets no requests for a while.
//!
//! A backend that fails fast looks idle and would attract all requests. A [`Breaker`] opens after
//! several failures in a row, or when a given share of the recent requests failed. Later it allows
//! single requests as probes ([`Token`]s), and closes if they succeed.
//!
//! ```text
//!            failures                 time is over              probes succeed
//! closed ───────────────▶ open ───────────────────▶ half-open ───────────────▶ closed
//!                          ▲  refuses                  │ a few probes at a time
//!                          └───────── a probe fails ───┘ (open for twice as long)
//!
//! choice ── request ── head ── stream ── end
//! token taken          next probe         success or failure: the token is settled
//!     (dropped before the end: the client disconnected, and the request does not count)
//! ```
//!
//! The result of a stream is known at its end, not at its head: a stream that breaks is a failure,
//! whatever its status. Failures are errors of the backend's side
//! ([`Side::Upstream`](crate::Side::Upstream)) and the statuses of [`BreakerLayer::with_statuses`].
//! Known errors of other crates get their side by [`classify`](crate::classify); an error of an unknown
//! kind counts as the backend's.
//! A client's error does not count, and neither does a 500 or a 503 of Ollama, which concerns a
//! single model: its runner failed, or there is no memory to load it. Likewise, a stream with a
//! clean end is a success, even if its last line is an error or is missing, because the server was
//! available. To count such an end as a failure, place a body inside that returns an error.
//!
//! With the head of its response, a probe frees its place for the next one. Ollama sends the head
//! with the first token. Otherwise one long response, or one client that reads slowly, would block
//! all others.
//!
//! Place it in the service of each backend, outside of the stream clocks whose errors it counts. A
//! load balancer calls [`Breaker::would_allow`], takes the token together with its choice unless
//! the breaker [is closed](Breaker::is_closed), and sends it with the request
//! ([`Breaker::put_token`]); without one, the layer takes it itself. If the breakers of all
//! backends are open, the load balancer can still send the request ([`Breaker::acquire_anyway`]).
//! A [`RetryLayer`](crate::retry) outside does not wait until a breaker closes: [`CircuitOpen`] is
//! retried only if another backend can be tried; a load balancer tells it that by
//! [`Attempts`](crate::retry::Attempts). An error of `poll_ready` does not count: the inner service
//! reports its failures by its futures, as clients do.
//! tower and tower-http have no circuit breaker.
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
//! Stricter, and with a hook:
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
