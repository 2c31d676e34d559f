//! A wait queue for a service with limited slots, and a layer that uses it.
//!
//! A model server works on few requests at a time. Further requests wait inside the server, where
//! they cannot be ordered, counted or cancelled. This queue holds them before the server: limited
//! in number and in predicted wait, fair between keys, separate for each class (for example the
//! model), and visible.
//!
//! ```text
//! enter ── ticket: waits ───────── slot taken ── request, head, body ── end, error or drop
//!   │                                   └──────────── permit ────────────┘
//!   └ refused at once: QueueFull (503), KeyQueueFull (429)         └ offered to the next
//! ```
//!
//! - A [`Dispatch`] hands out the slots. It is called under the queue's lock, so two requests never
//!   get the same free slot. A class without a free slot does not block the others.
//! - A higher [`Priority`] goes first, but a waiting request rises in priority with time.
//! - Among equal priorities, the key with the least service goes first, measured in tokens for each
//!   unit of its weight. The estimated cost is charged when the slot is taken and corrected by the
//!   [`Permit`] at the end. A key that had no waiter starts at the least service of the keys that
//!   wait with the same priority, or keeps its own if that is more: it cannot save up service, and
//!   gains nothing if it leaves and returns. Requests in flight do not count for the start, so
//!   estimates that are too high cannot put a newcomer behind other keys: at most one request of
//!   each key that waits already is served before it.
//! - The expected wait is the number of requests ahead, times the service time of the class (a
//!   mean of how long its slots were held lately), divided by the number of its slots. A request is
//!   refused by it only if at least as many wait as there are slots.
//! - Queues of several processes can count what the others have served ([`Queue::with_exchange`]).
//! - [`Queue::waiters`] shows who waits, and [`Queue::cancel`] ends a wait with an error.
//! - A dropped [`Ticket`] leaves the queue at once. A retried request keeps its position through
//!   its [`Arrival`].
//!
//! A service that chooses among several backends uses [`Queue`] itself, in place of the choice:
//!
//! ```
//! use std::sync::{Arc, Mutex};
//!
//! use llamatower_layers::BoxError;
//! use llamatower_layers::queue::{Dispatch, Entry, Line, Queue};
//!
//! /// The names of the free backends.
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
//!     fn try_take(&self, _: &Arc<str>, _: &(), _: Line) -> Result<Option<Slot>, BoxError> {
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
//! let queue_position = ticket.watch().and_then(|watch| watch.queue_position()).unwrap();
//! assert_eq!(queue_position.ahead, 0);
//! permit.settle(720);
//! assert_eq!(ticket.await?.slot().0, "one");
//! # Ok(())
//! # }
//! ```
//!
//! [`QueueLayer`] is a queue in front of one service with a fixed number of slots. It is always ready,
//! and polls the inner service for readiness when the request has its slot. Set its options before it
//! is cloned: clones share the limits, but `with_class` and `with_key` make a new queue. Put it
//! innermost, inside of retries and of all layers that refuse without work:
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
//! The order, the limits and the predictions are plain code without a clock, in [`machine`], for
//! simulations on virtual time.
//!
//! tower's `ConcurrencyLimit` also waits, but has no limit on the wait, serves in order of arrival,
//! and releases its permit at the response head.

mod entry;
mod error;
mod exchange;
mod future;
mod inspect;
mod layer;
mod limit;
mod line;
pub mod machine;
mod permit;
#[allow(clippy::module_inception, reason = "the queue itself, among its parts")]
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
pub use limit::{QueueLimit, QueueLimitNames};
pub use line::Line;
pub use machine::{ClassSnapshot, QueuePosition, Raise, Service, WaiterSnapshot};
pub use permit::{Meter, Permit};
pub use queue::{Dispatch, Queue};
pub use service::QueueService;
pub use slots::{PoolSlot, SlotPool};
pub use ticket::{Ticket, TicketWatch};
