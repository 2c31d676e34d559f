//! The turns of a request, taken from one key after the other.

use std::hash::Hash;
use std::num::NonZeroU32;
use std::sync::Arc;

use smallvec::SmallVec;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};

use super::KeyConcurrencyReached;
use super::counts::{Counts, Entered, Turn};
use super::limits::KeyLimits;

/// The turns that a request has.
pub(super) type Turns<K> = SmallVec<[Turn<K>; 1]>;

/// Takes the turns of a request.
pub(super) struct Taking<K: Clone + Eq + Hash> {
    counts: Arc<Counts<K>>,
    max_waiting: usize,
    turns: Turns<K>,
    left: <KeyLimits<K> as IntoIterator>::IntoIter,
}

impl<K: Clone + Eq + Hash> Taking<K> {
    pub(super) fn new(counts: Arc<Counts<K>>, max_waiting: usize, limits: KeyLimits<K>) -> Self {
        Self {
            counts,
            max_waiting,
            turns: Turns::new(),
            left: limits.into_iter(),
        }
    }

    /// Takes turns until there is none at once. Returns the place at which the next one is waited for,
    /// and `None` if the request has all.
    ///
    /// # Errors
    /// Too many wait there already.
    pub(super) fn advance(&mut self) -> Result<Option<Place<K>>, KeyConcurrencyReached> {
        for (key, limit) in self.left.by_ref() {
            match self.counts.enter(key, limit, self.max_waiting) {
                Entered::Turn(turn) => self.turns.push(turn),
                Entered::Place(turn, semaphore) => {
                    return Ok(Some(Place {
                        turn,
                        semaphore,
                        limit,
                    }));
                }
                Entered::Full(waiting) => {
                    return Err(KeyConcurrencyReached {
                        limit,
                        waiting,
                        waited: None,
                    });
                }
            }
        }
        Ok(None)
    }

    /// Waits at this place and those after it. Returns all turns.
    ///
    /// # Errors
    /// A turn did not come by the deadline, or too many wait for a later one.
    pub(super) async fn wait(
        mut self,
        place: Place<K>,
        begun: Instant,
        deadline: Option<Instant>,
    ) -> Result<Turns<K>, KeyConcurrencyReached> {
        let mut next = Some(place);
        while let Some(place) = next {
            self.turns.push(place.turn(begun, deadline).await?);
            next = self.advance()?;
        }
        Ok(self.turns)
    }

    /// The turns that it has.
    pub(super) fn into_turns(self) -> Turns<K> {
        self.turns
    }
}

/// A place among the requests that wait for a turn of a key.
pub(super) struct Place<K: Clone + Eq + Hash> {
    turn: Turn<K>,
    semaphore: Arc<Semaphore>,
    limit: NonZeroU32,
}

impl<K: Clone + Eq + Hash> Place<K> {
    async fn turn(
        mut self,
        begun: Instant,
        deadline: Option<Instant>,
    ) -> Result<Turn<K>, KeyConcurrencyReached> {
        let permit = self.semaphore.acquire_owned();
        let permit = match deadline {
            Some(deadline) => timeout_at(deadline, permit).await.ok(),
            None => Some(permit.await),
        };
        // The semaphore is never closed.
        let Some(Ok(permit)) = permit else {
            return Err(KeyConcurrencyReached {
                limit: self.limit,
                waiting: self.turn.others_waiting(),
                waited: Some(begun.elapsed()),
            });
        };
        self.turn.begin(permit);
        Ok(self.turn)
    }
}
