//! How many requests a server runs at once for one model: as configured, or as learned.
//!
//! Ollama tells nobody its `OLLAMA_NUM_PARALLEL`. A request beyond it waits in the server, where
//! nothing orders or shows it. So the limit is learned from what requests show:
//!
//! - Requests that generate at the same time prove as many slots.
//! - A request that waited in the server although only `n` others were in flight shows that there
//!   are `n` slots.
//!
//! Until the first wait is seen, a quarter more requests than proven are sent, and at least one.
//! After it, no more than the slots that are known, and one more from time to time to see whether
//! that is still true.

use std::time::Duration;

use tokio::time::Instant;

/// After a wait was seen, one request more than there are slots is sent after this time; twice as
/// long after each further wait.
const FIRST_RETRY: Duration = Duration::from_secs(10);
/// The longest such time.
const LONGEST_RETRY: Duration = Duration::from_secs(15 * 60);

/// So many responses in a row must look as if they had waited, where the server does not tell: that
/// another one ended shortly before their first byte is often a coincidence.
const SIGNS: u32 = 5;
/// The configured number for no limit.
pub(crate) const NO_LIMIT: u32 = u32::MAX;

/// The number of requests that may be in flight for one model on one server.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SlotLimit {
    /// The configured number, or this gateway's part of it.
    configured: Option<u32>,
    /// The configured number of all gateways together.
    of_all: Option<u32>,
    /// So many requests have run at the same time.
    proven: u32,
    /// The slots, once a request had to wait in the server.
    full_at: Option<u32>,
    /// The number that [`learned`](Self::learned) has returned last.
    told: Option<u32>,
    retry_at: Option<Instant>,
    retry_after: Duration,
    /// Responses in a row that look as if they had waited.
    signs: u32,
}

/// The limit as operators see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotStatus {
    /// The number of requests that may be in flight now; `None` for no limit.
    pub limit: Option<u32>,
    /// The number of slots as far as it is known; `None` if there is no limit.
    pub known: Option<u32>,
    /// Where the number comes from.
    pub source: SlotSource,
}

/// Where the number of slots comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlotSource {
    /// It is configured.
    Configured,
    /// It was learned: a request waited in the server.
    Learned,
    /// So many requests have run at the same time. There may be more slots.
    Searching,
    /// Slots are not counted.
    Off,
}

impl SlotSource {
    /// A short name for `/status`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Configured => "configured",
            Self::Learned => "learned",
            Self::Searching => "searching",
            Self::Off => "off",
        }
    }
}

impl SlotLimit {
    /// The configured number, or `None` to learn it.
    pub(crate) fn new(configured: Option<u32>) -> Self {
        Self {
            configured,
            of_all: configured,
            proven: 1,
            full_at: None,
            told: None,
            retry_at: None,
            retry_after: FIRST_RETRY,
            signs: 0,
        }
    }

    /// Divides the configured number by that of the gateways. A learned number is not divided: it is what
    /// the server leaves to this gateway.
    pub(crate) fn divide(&mut self, gateways: u32) {
        self.configured = self.of_all.map(|slots| part(slots, gateways));
    }

    /// The number of requests that may be in flight now.
    pub(crate) fn limit(&self, now: Instant) -> u32 {
        self.configured.unwrap_or_else(|| self.learned_limit(now))
    }

    /// The number of requests that the server probably runs at once: the limit, or what was learned
    /// where there is no limit. More of them are expected to wait in the server.
    pub(crate) fn at_once(&self, now: Instant) -> u32 {
        let limit = match self.configured {
            Some(NO_LIMIT) | None => self.learned_limit(now),
            Some(configured) => configured,
        };
        limit.max(1)
    }

    fn learned_limit(&self, now: Instant) -> u32 {
        match self.full_at {
            None => self.proven.saturating_add((self.proven / 4).max(1)),
            Some(slots) if self.retry_at.is_some_and(|at| now >= at) => slots.saturating_add(1),
            Some(slots) => slots,
        }
    }

    /// The number of slots as far as it is known: configured, seen to be full, or proven so far.
    pub(crate) fn known(&self) -> u32 {
        self.configured.or(self.full_at).unwrap_or(self.proven)
    }

    /// Whether the number is known, and not only a lower limit.
    pub(crate) fn is_certain(&self) -> bool {
        self.configured.is_some() || self.full_at.is_some()
    }

    /// The limit as operators see it.
    pub(crate) fn status(&self, now: Instant) -> SlotStatus {
        let source = match self.configured {
            Some(NO_LIMIT) => SlotSource::Off,
            Some(_) => SlotSource::Configured,
            None if self.is_certain() => SlotSource::Learned,
            None => SlotSource::Searching,
        };
        let is_limited = source != SlotSource::Off;
        SlotStatus {
            limit: is_limited.then(|| self.limit(now)),
            known: is_limited.then(|| self.known()),
            source,
        }
    }

    /// So many requests have run at the same time.
    pub(crate) fn proven(&self) -> u32 {
        self.proven
    }

    /// Records that so many requests ran at the same time.
    pub(crate) fn ran_together(&mut self, requests: u32) {
        self.proven = self.proven.max(requests);
        if self.full_at.is_some_and(|slots| requests > slots) {
            // There are more slots than it seemed: look for the limit again.
            self.full_at = None;
            self.retry_after = FIRST_RETRY;
        }
    }

    /// Records that a request waited in the server although only this number of others was in
    /// flight.
    pub(crate) fn waited_behind(&mut self, others: u32, now: Instant) {
        let slots = others.max(1);
        let is_new = match self.full_at {
            Some(known) if slots > known => return,
            Some(known) => slots < known || self.retry_at.is_some_and(|at| now >= at),
            None => true,
        };
        if !is_new {
            return;
        }
        self.proven = self.proven.min(slots);
        self.full_at = Some(slots);
        self.retry_at = Some(now + self.retry_after);
        self.retry_after = (2 * self.retry_after).min(LONGEST_RETRY);
    }

    /// Records whether a response looks as if it had waited behind so many others, by the gateway's
    /// clock.
    pub(crate) fn looks_waited(&mut self, behind: Option<u32>, now: Instant) {
        let Some(others) = behind else {
            self.signs = 0;
            return;
        };
        self.signs += 1;
        if self.signs >= SIGNS {
            self.signs = 0;
            self.waited_behind(others, now);
        }
    }

    /// The number of slots, if it was learned since the last call and differs from the one before.
    pub(crate) fn learned(&mut self) -> Option<u32> {
        let slots = self.full_at.filter(|_| self.configured.is_none())?;
        (self.told.replace(slots) != Some(slots)).then_some(slots)
    }

    /// Forgets what was learned, because the server has restarted.
    pub(crate) fn forget(&mut self) {
        *self = Self {
            configured: self.configured,
            ..Self::new(self.of_all)
        };
    }
}

/// One gateway's part of a number: rounded down, so that the sum is never above it, but at least 1.
pub(crate) fn part(of_all: u32, gateways: u32) -> u32 {
    match of_all {
        NO_LIMIT => NO_LIMIT,
        _ => (of_all / gateways.max(1)).max(1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configured_slots_are_divided_and_learned_ones_are_not() {
        let now = Instant::now();
        let mut slots = SlotLimit::new(Some(5));
        for (gateways, expected) in [(2, 2), (3, 1), (9, 1), (1, 5)] {
            slots.divide(gateways);
            assert_eq!((slots.limit(now), slots.known()), (expected, expected));
            slots.forget();
            assert_eq!(slots.limit(now), expected);
        }
        let mut off = SlotLimit::new(Some(NO_LIMIT));
        off.divide(2);
        assert_eq!(off.limit(now), NO_LIMIT);
        let mut learned = SlotLimit::new(None);
        learned.waited_behind(4, now);
        learned.divide(2);
        assert_eq!(learned.limit(now), 4);
    }

    #[test]
    fn configured_slots_are_not_learned() {
        let now = Instant::now();
        let mut slots = SlotLimit::new(Some(3));
        slots.ran_together(8);
        slots.waited_behind(1, now);
        assert_eq!((slots.limit(now), slots.known()), (3, 3));
    }

    #[test]
    fn the_limit_grows_until_a_request_waits_in_the_server() {
        let now = Instant::now();
        let mut slots = SlotLimit::new(None);
        assert_eq!(slots.limit(now), 2);
        slots.ran_together(2);
        assert_eq!((slots.limit(now), slots.is_certain()), (3, false));
        slots.ran_together(40);
        assert_eq!(slots.limit(now), 50);
        let mut slots = SlotLimit::new(None);
        slots.ran_together(3);
        slots.waited_behind(3, now);
        assert_eq!((slots.limit(now), slots.is_certain()), (3, true));
    }

    #[test]
    fn one_request_more_is_tried_from_time_to_time_and_more_slots_are_found() {
        let now = Instant::now();
        let mut slots = SlotLimit::new(None);
        slots.waited_behind(1, now);
        assert_eq!(slots.limit(now), 1);
        let later = now + FIRST_RETRY;
        assert_eq!(slots.limit(later), 2);
        slots.waited_behind(1, later);
        assert_eq!(slots.limit(later + FIRST_RETRY), 1, "twice as long");
        assert_eq!(slots.limit(later + 2 * FIRST_RETRY), 2);
        slots.ran_together(2);
        assert_eq!(slots.limit(later), 3);
    }

    #[test]
    fn what_only_looks_like_a_wait_must_be_seen_several_times_in_a_row() {
        let now = Instant::now();
        let mut slots = SlotLimit::new(None);
        slots.ran_together(4);
        for _ in 0..3 {
            for _ in 0..SIGNS - 1 {
                slots.looks_waited(Some(4), now);
            }
            slots.looks_waited(None, now);
        }
        assert!(!slots.is_certain());
        for _ in 0..SIGNS {
            slots.looks_waited(Some(4), now);
        }
        assert_eq!((slots.limit(now), slots.is_certain()), (4, true));
    }

    #[test]
    fn each_change_of_the_learned_number_is_told_once() {
        let now = Instant::now();
        let mut slots = SlotLimit::new(None);
        slots.ran_together(2);
        assert_eq!(slots.learned(), None, "there may be more");
        slots.waited_behind(2, now);
        assert_eq!((slots.learned(), slots.learned()), (Some(2), None));
        let later = now + FIRST_RETRY;
        slots.waited_behind(2, later);
        assert_eq!(slots.learned(), None, "the same as before");
        slots.ran_together(3);
        assert_eq!(slots.learned(), None);
        slots.waited_behind(3, later);
        assert_eq!((slots.learned(), slots.learned()), (Some(3), None));
        slots.forget();
        slots.waited_behind(3, later);
        assert_eq!(slots.learned(), Some(3), "of another process");
        let mut configured = SlotLimit::new(Some(3));
        configured.waited_behind(1, now);
        assert_eq!(configured.learned(), None);
    }

    #[test]
    fn a_server_with_fewer_slots_than_before_is_believed() {
        let now = Instant::now();
        let mut slots = SlotLimit::new(None);
        slots.ran_together(4);
        slots.waited_behind(1, now);
        assert_eq!((slots.limit(now), slots.known()), (1, 1));
    }
}
