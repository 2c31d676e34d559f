//! A waiting queue for whoever hands out slots, and a layer that is one.
//!
//! A server of models works on few requests at a time; what it is sent beyond that waits inside
//! of it, where it cannot be ordered, counted or taken back. This queue keeps it outside: bounded
//! in number and in expected wait, fair between keys, apart for each class (the model, say), and
//! visible.
//!
//! ```text
//! enter ── ticket: waits in line ── slot taken ── request, head, body ── end, error or drop
//!   │                                   └──────────── permit ────────────┘
//!   └ refused at once: QueueFull (503), KeyQueueFull (429)         └ offered to the next
//! ```
//!
//! - A [`Dispatch`] hands out the slots. It is asked under the queue's lock, so two requests
//!   never see the same free slot. A class for which it has none does not hold up the others.
//! - More urgent requests ([`Priority`]) go first, but whoever waits rises in time.
//! - Of equals, the key goes first that was served least, in tokens for each unit of its weight:
//!   an estimate is charged when the slot is taken and corrected by the [`Permit`] at the end.
//!   Who comes back from doing nothing starts at the least of those who wait: what was not
//!   asked for is not saved up.
//! - Expected waits are those ahead, times the service time of the class (a moving average of
//!   how long its slots were held), through the slots that it holds.
//! - A dropped [`Ticket`] leaves at once. A request that is sent again keeps its place by its
//!   [`Arrival`].
//!
//! Whoever chooses among several backends uses [`Queue`] itself, in the place of the choice:
//!
//! ```
//! use std::sync::{Arc, Mutex};
//!
//! use llamatower_layers::BoxError;
//! use llamatower_layers::queue::{Dispatch, Entry, Queue};
//!
//! /// The backends that are free, by name.
//! struct Backends(Arc<Mutex<Vec<&'static str>>>);
//!
//! struct Slot(&'static str, Arc<Mutex<Vec<&'static str>>>);
//! impl Drop for Slot {
//!     fn drop(&mut self) {
//!         self.1.lock().unwrap().push(self.0);
//!     }
//! }
//!
//! impl Dispatch for Backends {
//!     type Class = Arc<str>;
//!     type Key = &'static str;
//!     type Request = ();
//!     type Slot = Slot;
//!     fn try_take(&self, _model: &Arc<str>, _: &()) -> Result<Option<Slot>, BoxError> {
//!         let free = self.0.lock().unwrap().pop();
//!         Ok(free.map(|name| Slot(name, self.0.clone())))
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), BoxError> {
//! let queue = Queue::new(Backends(Arc::new(Mutex::new(vec!["one"]))));
//! let permit = queue.enter("llama3".into(), Entry::new("ada", ()).with_cost(500))?.await?;
//! assert_eq!(permit.slot().0, "one");
//!
//! let ticket = queue.enter("llama3".into(), Entry::new("bob", ()))?;
//! let standing = ticket.watch().and_then(|watch| watch.standing()).unwrap();
//! assert_eq!(standing.ahead, 0);
//! permit.settle(720);
//! assert_eq!(ticket.await?.slot().0, "one");
//! # Ok(())
//! # }
//! ```
//!
//! [`QueueLayer`] stands in front of one service with a number of slots. It belongs innermost,
//! inside of retries and of whatever refuses cheaply:
//!
//! ```
//! use std::num::NonZeroUsize;
//! use std::time::Duration;
//!
//! use bytes::Bytes;
//! use http::request::Parts;
//! use http::{HeaderValue, Request, Response};
//! use http_body_util::{BodyExt, Full};
//! use llamatower_layers::BoxError;
//! use llamatower_layers::queue::QueueLayer;
//! use tower::{ServiceBuilder, ServiceExt, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), BoxError> {
//! let layer = QueueLayer::new(NonZeroUsize::MIN)
//!     .with_class(|parts: &Parts| parts.uri.path().to_owned())
//!     .with_key(|parts: &Parts| parts.headers.get("x-tenant").cloned())
//!     .with_max_waiting(100)
//!     .with_max_predicted_wait(Some(Duration::from_secs(60)));
//! let service = ServiceBuilder::new()
//!     .layer(layer.clone())
//!     .service(service_fn(async |_: Request<()>| {
//!         Ok::<_, BoxError>(Response::new(Full::<Bytes>::from("some text")))
//!     }));
//!
//! let first = service.clone().oneshot(Request::new(())).await?;
//! let second = service.oneshot(Request::new(()));
//! let read = async {
//!     tokio::task::yield_now().await;
//!     assert_eq!(layer.queue().waiting(), 1, "the first answer has not been read");
//!     first.into_body().collect().await
//! };
//! let (second, _) = tokio::join!(second, read);
//! assert!(second?.status().is_success());
//! # Ok(())
//! # }
//! ```
//!
//! tower's `ConcurrencyLimit` waits too, but without a bound, in the order of arrival, and its
//! permit ends at the head of an answer.

mod entry;
mod error;
mod future;
mod layer;
mod line;
mod lines;
mod permit;
#[allow(
    clippy::module_inception,
    reason = "the queue itself, beside what is made of it"
)]
mod queue;
mod service;
mod slots;
mod ticket;

#[cfg(test)]
mod tests;

pub use entry::{Arrival, Entry, Priority};
pub use error::{KeyQueueFull, QueueFull, QueueTimeout};
pub use future::QueueFuture;
pub use layer::QueueLayer;
pub use permit::{Meter, Permit};
pub use queue::{Dispatch, Queue};
pub use service::QueueService;
pub use slots::{PoolSlot, SlotPool};
pub use ticket::{ClassSnapshot, Standing, Ticket, TicketWatch};
