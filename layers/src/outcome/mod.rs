//! One record for a request: what came of it, completed exactly once, at the end of the answer.
//!
//! The answer of a model is a stream that can last for minutes, so what a request came to is
//! known at the end of its body and not when `call` returns. [`OutcomeLayer`] opens a
//! [`Record`], puts it into the request's extensions for the layers inside to fill in, and
//! tells its [`Observer`] of the finished [`Outcome`] once, whatever happens.
//!
//! ```text
//! request -> |call ........ head| first chunk ........ last chunk| -> finished
//!            started            status, time to first byte        ending
//! ```
//!
//! It belongs outermost, where it sees every final status, refusals included; only the layers
//! that set the request's id and its [`RouteMatch`] stand before it.
//!
//! # The end
//! - [`Ending::Complete`]: `None`, trailers, all bytes of a known length, or a body that says
//!   that it is at its end, after a frame or already at the head. hyper polls none of these
//!   again, so there is nothing later to wait for. The answer to a `HEAD` and the statuses that
//!   have no body are complete at the head for the same reason.
//! - [`Ending::Broken`]: the service or the body failed, or a layer inside said so in the record:
//!   an answer that ended tidily with an error line is broken nevertheless.
//! - [`Ending::Cancelled`]: everything else that is dropped.
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
//!         self.0.lock().expect("no one panics here").push(outcome.clone());
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
//! assert!(log.0.lock().expect("as above").is_empty(), "the answer is under way");
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

/// Who is told of outcomes: telemetry, a log, a test.
///
/// Both calls are made on the request's own task, so they must be short and must not block, nor
/// change the request's [`Record`], which is locked at the end.
/// Two observers are one as a pair.
pub trait Observer: Send + Sync {
    /// A request has come in; its head is all that is known of it.
    fn started(&self, outcome: &Outcome) {
        let _ = outcome;
    }

    /// The request has ended, and the record with it. Called once for each `started`.
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
