//! A panic fails one request, not the process.
//!
//! A panic in `poll_ready`, in `call`, in the future or while the answer's body is polled
//! becomes the error [`Panicked`]; what panicked is dropped at once, with all the permits it
//! holds, and is not polled again. tower-http's `CatchPanic` boxes every body and does not
//! see a panic while a body is polled, which is when most of a stream's code runs.
//!
//! ```text
//! call  future     head   body                  end
//!  |------|---------|------- ... ----------------|
//!  |<---------------- guarded ------------------>|
//! ```
//!
//! In a stack it belongs just inside of what makes answers of errors, so that a panic has an
//! answer as well. It has no part in panics outside of it, nor when an answer is dropped
//! half-way: those end the task of the connection. With `panic = "abort"` it can do nothing.
//!
//! The inner service stays in use after a panic in `call`. What is shared between requests
//! must bear that, as it must bear a panic in a task.
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
//! The text of the panic goes to a hook, to a log say:
//!
//! ```
//! # use llamatower_layers::panic_guard::PanicGuardLayer;
//! let layer = PanicGuardLayer::new().with_hook(|text| eprintln!("a request panicked: {text}"));
//! ```

mod body;
mod error;
mod future;
mod layer;
mod service;
mod shield;
#[cfg(test)]
mod tests;

pub use body::PanicGuardBody;
pub use error::Panicked;
pub use future::ResponseFuture;
pub use layer::PanicGuardLayer;
pub use service::PanicGuardService;
