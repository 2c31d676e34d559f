//! The queue as plain code: it gets the time as an argument, and knows no locks and no wakers.
//!
//! [`ClassQueues`] is what [`Queue`](super::Queue) runs under its lock. A simulation on virtual
//! time uses it itself and so tests the same order, limits and predictions:
//!
//! ```
//! use std::time::Duration;
//!
//! use llamatower_layers::queue::Entry;
//! use llamatower_layers::queue::machine::{ClassQueues, Finished, Rules};
//! use tokio::time::Instant;
//!
//! # fn main() -> Result<(), llamatower_layers::BoxError> {
//! let mut now = Instant::now();
//! let mut queues = ClassQueues::new(Rules::default());
//! let mut free = 1;
//! let mut take = |free: &mut u32| {
//!     let is_free = *free > 0;
//!     *free -= u32::from(is_free);
//!     Ok(is_free.then_some(()))
//! };
//!
//! let entry = Entry::new("ada", "first").with_cost(100);
//! let charge = entry.charge();
//! assert!(queues.admit(now, &"llama3", &entry, |_, _| take(&mut free))?.is_some());
//! let entry = Entry::new("ada", "second").with_cost(100);
//! assert!(queues.admit(now, &"llama3", &entry, |_, _| take(&mut free))?.is_none());
//! queues.push(now, &"llama3", entry)?;
//! assert_eq!(queues.waiting_of(&"llama3"), 1);
//!
//! now += Duration::from_secs(2);
//! free += 1;
//! let finished = Finished::after(Duration::from_secs(2)).with_cost(70);
//! queues.finish(&"llama3", &"ada", charge, finished);
//! let mut served = Vec::new();
//! queues.hand_out(
//!     now,
//!     |_, _, _| take(&mut free),
//!     |delivery| served.push(delivery.waiter.request),
//! );
//! assert_eq!(served, ["second"]);
//! # Ok(())
//! # }
//! ```

mod account;
mod class_queue;
mod class_queues;
mod exchange;
mod passing;
mod refusal;
mod rules;
mod snapshot;
mod waiter;

pub use class_queues::{ClassQueues, Offer};
pub use exchange::{Raise, Service};
pub use passing::Passing;
pub use rules::Rules;
pub use snapshot::{ClassSnapshot, QueuePosition, WaiterSnapshot};
pub use waiter::{Charge, Delivery, Finished, Position, Waiter};
