//! The wait of a request for its turns.

use std::hash::Hash;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use http::{Extensions, Request};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};
use tower_service::Service;

use super::KeyConcurrencyReached;
use super::counts::{Counts, Entered, Turn};
use super::limits::KeyLimits;
use super::service::Turns;
use crate::{BoxError, Failure};

/// What a request waits for.
pub(super) struct Wait<K: Clone + Eq + Hash> {
    pub(super) counts: Arc<Counts<K>>,
    pub(super) max_waiting: usize,
    pub(super) max_wait: Option<Duration>,
    /// What it has.
    pub(super) turns: Turns<K>,
    /// Its place at the first key that has no turn for it.
    pub(super) first: (Turn<K>, Arc<Semaphore>, NonZeroU32),
    /// The keys after that.
    pub(super) others: KeyLimits<K>,
}

/// Waits for all turns, and calls the service with the request.
pub(super) async fn call<S, B, K>(
    wait: Wait<K>,
    mut service: S,
    request: Request<B>,
) -> Result<(S::Future, Turns<K>), BoxError>
where
    S: Service<Request<B>>,
    K: Clone + Eq + Hash,
{
    let told = Told::new(request.extensions());
    let turns = wait.turns().await?;
    drop(told);
    Ok((service.call(request), turns))
}

impl<K: Clone + Eq + Hash> Wait<K> {
    async fn turns(self) -> Result<Turns<K>, Failure> {
        let Self {
            counts,
            max_waiting,
            max_wait,
            mut turns,
            first,
            others,
        } = self;
        let begun = Instant::now();
        let deadline = max_wait.and_then(|wait| begun.checked_add(wait));
        let mut entered = Some(first);
        let mut others = others.into_iter();
        loop {
            if let Some((mut place, semaphore, limit)) = entered.take() {
                let permit = semaphore.acquire_owned();
                let permit = match deadline {
                    Some(deadline) => timeout_at(deadline, permit).await.ok(),
                    None => Some(permit.await),
                };
                // The semaphore is never closed.
                let Some(Ok(permit)) = permit else {
                    return Err(KeyConcurrencyReached {
                        limit,
                        waiting: place.others_waiting(),
                        waited: Some(begun.elapsed()),
                    }
                    .into());
                };
                place.begin(permit);
                turns.push(place);
            }
            let Some((key, limit)) = others.next() else {
                return Ok(turns);
            };
            match counts.enter(key, limit, max_waiting) {
                Entered::Turn(turn) => turns.push(turn),
                Entered::Place(place, semaphore) => entered = Some((place, semaphore, limit)),
                Entered::Full(waiting) => {
                    return Err(KeyConcurrencyReached {
                        limit,
                        waiting,
                        waited: None,
                    }
                    .into());
                }
            }
        }
    }
}

/// Tells the wait: to the record of the request, also if its client leaves, and in heartbeats.
struct Told {
    #[cfg(feature = "outcome")]
    record: Option<(crate::Record, Instant)>,
    #[cfg(feature = "heartbeat")]
    waiting: Option<crate::heartbeat::Waiting>,
}

impl Told {
    fn new(_extensions: &Extensions) -> Self {
        let told = Self {
            #[cfg(feature = "outcome")]
            record: crate::Record::of(_extensions).map(|record| (record.clone(), Instant::now())),
            #[cfg(feature = "heartbeat")]
            waiting: crate::heartbeat::Waiting::of(_extensions).cloned(),
        };
        #[cfg(feature = "heartbeat")]
        if let Some(waiting) = &told.waiting {
            let text = "waiting until another request of the same client ends";
            waiting.set_description(|| Some(text.to_owned()));
        }
        told
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        #[cfg(feature = "outcome")]
        if let Some((record, since)) = &self.record {
            let time = since.elapsed();
            record.update(|outcome| {
                outcome.queued = Some(outcome.queued.unwrap_or_default() + time);
            });
        }
        #[cfg(feature = "heartbeat")]
        if let Some(waiting) = &self.waiting {
            waiting.set_description(|| None);
        }
    }
}
