//! Which requests may not wait, and with which error they are refused.

use std::hash::Hash;
use std::time::Duration;

use tokio::time::Instant;

use super::class_queue::{ClassQueue, OwnWaiters};
use super::{Charge, Position, Rules};
use crate::Failure;
use crate::queue::{KeyQueueFull, QueueFull, QueueLimit};

/// The shortest `Retry-After`, used also when no service time is known.
const MIN_RETRY_AFTER: Duration = Duration::from_secs(1);

/// Checks whether one more request may wait.
#[derive(Debug)]
pub(super) struct Check<'a, K, R> {
    pub(super) rules: &'a Rules,
    pub(super) class_queue: &'a ClassQueue<K, R>,
    pub(super) position: &'a Position<K>,
    pub(super) charge: Charge,
    /// Whether the key stands for several clients.
    pub(super) shares_key: bool,
    pub(super) now: Instant,
}

impl<K: Clone + Eq + Hash, R> Check<'_, K, R> {
    pub(super) fn run(&self) -> Result<(), Failure> {
        let (rules, class_queue) = (self.rules, self.class_queue);
        let own = class_queue.waiting_of(&self.position.key);
        let is_full = class_queue.waiting() >= rules.max_waiting;
        let full_share = rules.max_waiting_per_key.filter(|max| own >= *max);
        let full_share = full_share.filter(|_| !(is_full && self.shares_key));
        let excess = self.excess(OwnWaiters::Counted);
        let limit = match (full_share, is_full, rules.max_predicted_wait) {
            (Some(max), ..) => QueueLimit::WaitingPerKey(max),
            (None, true, _) => QueueLimit::Waiting(rules.max_waiting),
            (None, false, Some(max)) if excess.is_some() => QueueLimit::PredictedWait(max),
            (None, false, _) => return Ok(()),
        };

        // The refusal is due to the key if the key has more waiters than the average key, or
        // if the wait would be short enough without the key's own waiters.
        let has_more_than_others = own * class_queue.keys_waiting() > class_queue.waiting();
        let is_due_to_key = match limit {
            QueueLimit::WaitingPerKey(_) => true,
            QueueLimit::Waiting(_) => has_more_than_others,
            QueueLimit::PredictedWait(_) => own > 0 && self.excess(OwnWaiters::Excluded).is_none(),
        };
        let limit_name = rules.names.of(limit);
        let until_next_slot = || class_queue.expected_wait(0, rules.assumed_service);
        let retry_after = excess.or_else(until_next_slot).unwrap_or_default();
        let retry_after = retry_after.max(MIN_RETRY_AFTER);
        let predicted_wait = self.wait(OwnWaiters::Counted);
        if is_due_to_key && !self.shares_key {
            return Err(KeyQueueFull {
                waiting: own,
                whose: rules.names.key,
                limit,
                limit_name,
                predicted_wait,
                retry_after,
            }
            .into());
        }
        let is_for_group = is_due_to_key && !is_full;
        Err(QueueFull {
            waiting: match is_for_group {
                true => own,
                false => class_queue.waiting(),
            },
            whose: is_for_group.then_some(rules.names.shared_key),
            limit,
            limit_name,
            predicted_wait,
            retry_after,
        }
        .into())
    }

    fn wait(&self, own: OwnWaiters) -> Option<Duration> {
        let ageing = self.rules.at(self.now);
        let ahead = self
            .class_queue
            .ahead_of_newcomer(self.position, self.charge, own, ageing);
        self.class_queue
            .expected_wait(ahead, self.rules.assumed_service)
    }

    /// The time by which the predicted wait exceeds its limit.
    fn excess(&self, own: OwnWaiters) -> Option<Duration> {
        let bound = self.rules.max_predicted_wait?;
        if !self
            .class_queue
            .may_refuse_by_wait(self.rules.assumed_service)
        {
            return None;
        }
        let excess = self.wait(own)?.checked_sub(bound)?;
        (!excess.is_zero()).then_some(excess)
    }
}
