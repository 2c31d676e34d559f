//! Limits a panic to one request, so that the process continues.
//!
//! A panic in `poll_ready`, in `call`, in the future or in the response's body becomes the error
//! [`Panicked`]. The panicked future or body is dropped at once, with all its permits, and is not
//! polled again. tower-http's `CatchPanic` boxes every body and does not catch a panic while a body
//! is polled, which is when most of a stream's code runs.
//!
//! ```text
//! call  future     head   body                  end
//!  |------|---------|------- ... ----------------|
//!  |<---------------- guarded ------------------>|
//! ```
//!
//! Put this layer directly inside of the layer that turns errors into responses, so that a panic gets
//! a response too. It does not catch panics outside of it, nor a panic while an unfinished answer is
//! dropped: those end the task of the connection. With `panic = "abort"` it has no effect.
//!
//! The inner service stays in use after a panic in `call`. State that requests share must stay
//! valid after a panic, as it must after a panic in a task.
//!
//! ```
//! use http::{Request, Response};
//! use http_body_util::Empty;
//! use llamatower_layers::panic_guard::{PanicGuardLayer, Panicked};
//! use llamatower_layers::{BoxError, Failure};
//! use tower::{Layer, ServiceExt, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! let service = PanicGuardLayer::new().layer(service_fn(async |request: Request<()>| {
//!     assert!(request.uri().path() != "/bad", "no such luck");
//!     Ok::<_, BoxError>(Response::new(Empty::<bytes::Bytes>::new()))
//! }));
//!
//! let bad = Request::get("/bad").body(()).unwrap();
//! let error = service.clone().oneshot(bad).await.unwrap_err();
//! assert!(Failure::find(&*error).unwrap().caused_by::<Panicked>().is_some());
//! assert!(!error.to_string().contains("luck"));
//!
//! let good = Request::get("/good").body(()).unwrap();
//! assert!(service.oneshot(good).await.is_ok());
//! # }
//! ```
//!
//! The panic message goes to a hook, for example to a log:
//!
//! ```
//! # use llamatower_layers::panic_guard::PanicGuardLayer;
//! let layer = PanicGuardLayer::new().with_hook(|text| eprintln!("a request panicked: {text}"));
//! ```

mod body;
mod catch;
mod error;
mod future;
mod layer;
mod service;
#[cfg(test)]
mod tests;

pub use body::PanicGuardBody;
pub use error::Panicked;
pub use future::PanicGuardFuture;
pub use layer::PanicGuardLayer;
pub use service::PanicGuardService;
