//! One record for each request, completed exactly once, at the end of the response.
//!
//! A model's answer is a stream that can last for minutes, so the outcome of a request is known at
//! the end of its body, not when `call` returns. [`OutcomeLayer`] opens a [`Record`] and puts it
//! into the request's extensions, where inner layers add to it. It reports the finished [`Outcome`]
//! to its [`Observer`] exactly once, whatever happens.
//!
//! ```text
//! request -> |call ........ head| first chunk ........ last chunk| -> finished
//!            started            status, time to first byte        ending
//! ```
//!
//! Put this layer outermost, where it sees every final status, refusals included. Only the layers
//! that set the request id and the [`RouteMatch`] come before it.
//!
//! # The end
//! - [`Ending::Complete`]: `None`, trailers, all bytes of a known length, or a body whose
//!   `is_end_stream` is true, after a frame or at the head. hyper does not poll such a body again,
//!   so no later event would come. For the same reason, the response to a `HEAD` and a status without
//!   a body are complete at the head.
//! - [`Ending::Broken`]: the service or the body failed, or an inner layer set it in the record: an
//!   answer that ended cleanly with an error line is broken too.
//! - [`Ending::Cancelled`]: any other drop.
//!
//! # Example
//! ```
//! use std::convert::Infallible;
//! use std::sync::{Arc, Mutex};
//!
//! use bytes::Bytes;
//! use http::{Request, Response};
//! use http_body_util::{BodyExt, Full};
//! use llamatower_layers::{Ending, Observer, Outcome, OutcomeLayer, Record};
//! use tower::{ServiceBuilder, ServiceExt, service_fn};
//!
//! #[derive(Default)]
//! struct Log(Mutex<Vec<Outcome>>);
//! impl Observer for Log {
//!     fn finished(&self, outcome: &Outcome) {
//!         self.0.lock().expect("nothing panics here").push(outcome.clone());
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! let log = Arc::new(Log::default());
//! let service = ServiceBuilder::new()
//!     .layer(OutcomeLayer::new(log.clone()))
//!     .service(service_fn(|request: Request<Full<Bytes>>| async move {
//!         Record::update_in(request.extensions(), |outcome| outcome.attempts += 1);
//!         Ok::<_, Infallible>(Response::new(Full::new(Bytes::from("pong"))))
//!     }));
//!
//! let answer = service.oneshot(Request::new(Full::default())).await.expect("infallible");
//! assert!(log.0.lock().expect("as above").is_empty(), "the answer is in progress");
//! answer.into_body().collect().await.expect("a whole body");
//!
//! let outcomes = log.0.lock().expect("as above");
//! assert_eq!(outcomes[0].ending, Ending::Complete);
//! assert_eq!(outcomes[0].attempts, 1);
//! # }
//! ```
//!
//! [`RouteMatch`]: crate::RouteMatch

mod body;
mod completion;
mod future;
mod layer;
mod record;

pub use body::OutcomeBody;
pub use future::OutcomeFuture;
pub use layer::{OutcomeLayer, OutcomeService};
pub use record::{Ending, Outcome, Record};

use std::sync::Arc;

/// Receives outcomes: telemetry, a log, a test.
///
/// Both methods run on the request's own task, so they must be short and must not block. They must
/// not change the request's [`Record`], which is locked at the end. A pair of observers is an
/// observer too.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no observer of outcomes",
    label = "not an `Observer`",
    note = "implement `Observer` for it, and so `Send` and `Sync`: `finished` gets the record of each \
            request"
)]
pub trait Observer: Send + Sync {
    /// A request has arrived. Only its head is known.
    fn started(&self, outcome: &Outcome) {
        let _ = outcome;
    }

    /// The request and its record have ended. Called once for each `started`.
    fn finished(&self, outcome: &Outcome);
}

impl<O: Observer + ?Sized> Observer for Arc<O> {
    fn started(&self, outcome: &Outcome) {
        (**self).started(outcome);
    }
    fn finished(&self, outcome: &Outcome) {
        (**self).finished(outcome);
    }
}

impl<A: Observer, B: Observer> Observer for (A, B) {
    fn started(&self, outcome: &Outcome) {
        self.0.started(outcome);
        self.1.started(outcome);
    }
    fn finished(&self, outcome: &Outcome) {
        self.0.finished(outcome);
        self.1.finished(outcome);
    }
}

#[cfg(test)]
mod tests;
