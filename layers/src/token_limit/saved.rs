//! Used tokens as values that can be saved and restored.

use jiff::Timestamp;

use super::Window;

/// Whose tokens are counted together.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum AccountId<K> {
    /// One key.
    Key(K),
    /// All keys beyond [`with_max_keys`](super::MemoryStore::with_max_keys).
    OtherKeys,
    /// All requests without a key.
    WithoutKey,
}

/// The tokens that an account has used in one window, from
/// [`MemoryStore::take_changes`](super::MemoryStore::take_changes). Reserved tokens are not included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WindowUse<K> {
    /// The account.
    pub account: AccountId<K>,
    /// The kind of the window.
    pub window: Window,
    /// When the window began.
    pub start: Timestamp,
    /// When it ends. After that the row has no meaning.
    pub end: Timestamp,
    /// The used tokens.
    pub used: u64,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::num::NonZeroU64;
    use std::sync::{Arc, Mutex};

    use jiff::tz::{Offset, TimeZone};
    use proptest::prelude::*;

    use super::super::{Budget, MemoryStore, TokenStore};
    use super::*;

    type Store = MemoryStore<&'static str>;

    /// A store whose clock is the returned value.
    fn store(zone: TimeZone, now: &str) -> (Store, Arc<Mutex<Timestamp>>) {
        let now = Arc::new(Mutex::new(now.parse().unwrap()));
        let clock = now.clone();
        let store = MemoryStore::with_clock(zone, move || *clock.lock().unwrap());
        (store, now)
    }

    fn cet() -> TimeZone {
        TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap()
    }

    fn reserve(
        store: &Store,
        key: Option<&'static str>,
        window: Window,
        tokens: u64,
    ) -> super::super::Granted<super::super::MemoryReservation<&'static str>> {
        let budget = Budget::new(NonZeroU64::new(1000).unwrap(), window);
        let reserved = store.reserve(key, &[budget], tokens);
        reserved.into_inner().unwrap().unwrap()
    }

    fn spend(store: &Store, key: Option<&'static str>, window: Window, used: u64) {
        let granted = reserve(store, key, window, 0);
        store.settle(granted.reservation, used);
    }

    fn left(store: &Store, key: Option<&'static str>, window: Window) -> u64 {
        reserve(store, key, window, 0).budget_states[0].remaining
    }

    #[test]
    fn each_change_is_taken_once_with_the_whole_count() {
        let (store, _) = store(TimeZone::UTC, "2028-02-29T12:00:00Z");
        assert_eq!(store.take_changes(), []);
        spend(&store, Some("ada"), Window::Day, 10);
        spend(&store, None, Window::Day, 5);
        let taken = store.take_changes();
        let accounts: Vec<_> = taken
            .iter()
            .map(|row| (row.account.clone(), row.used))
            .collect();
        let expected = [(AccountId::Key("ada"), 10), (AccountId::WithoutKey, 5)];
        assert_eq!(accounts, expected);
        assert_eq!(store.take_changes(), []);
        spend(&store, Some("ada"), Window::Day, 7);
        let taken = store.take_changes();
        assert_eq!((taken.len(), taken[0].used), (1, 17));
        assert_eq!(taken[0].start.to_string(), "2028-02-29T00:00:00Z");
        assert_eq!(taken[0].end.to_string(), "2028-03-01T00:00:00Z");
    }

    #[test]
    fn what_is_reserved_is_not_saved_before_it_is_settled() {
        let (store, _) = store(TimeZone::UTC, "2028-02-29T12:00:00Z");
        spend(&store, Some("ada"), Window::Month, 10);
        let open = reserve(&store, Some("ada"), Window::Month, 500);
        assert_eq!(store.take_changes()[0].used, 10);
        store.settle(open.reservation, 20);
        assert_eq!(store.take_changes()[0].used, 30);
    }

    #[test]
    fn a_month_is_restored_after_the_clocks_were_changed() {
        let (before, _) = store(cet(), "2028-03-25T12:00:00Z");
        spend(&before, Some("ada"), Window::Month, 400);
        spend(&before, Some("ada"), Window::Day, 400);
        // Summer time has begun.
        let (after, now) = store(cet(), "2028-03-27T12:00:00Z");
        after.restore(before.take_changes());
        assert_eq!(left(&after, Some("ada"), Window::Month), 600);
        assert_eq!(left(&after, Some("ada"), Window::Day), 1000);
        spend(&after, Some("ada"), Window::Month, 100);
        *now.lock().unwrap() = "2028-03-31T21:59:59Z".parse().unwrap();
        assert_eq!(left(&after, Some("ada"), Window::Month), 500);
        *now.lock().unwrap() = "2028-03-31T22:00:00Z".parse().unwrap();
        assert_eq!(left(&after, Some("ada"), Window::Month), 1000);
    }

    #[test]
    fn a_day_counts_until_its_own_end_after_the_time_zone_was_changed() {
        let east = || TimeZone::fixed(Offset::constant(9));
        // Each day has begun at its midnight, and now is within both.
        for (old, new) in [(TimeZone::UTC, east()), (east(), TimeZone::UTC)] {
            let (before, _) = store(old, "2028-02-29T12:00:00Z");
            spend(&before, Some("ada"), Window::Day, 400);
            let (after, _) = store(new, "2028-02-29T12:10:00Z");
            after.restore(before.take_changes());
            assert_eq!(left(&after, Some("ada"), Window::Day), 600);
        }
        let (before, _) = store(east(), "2028-02-29T12:00:00Z");
        spend(&before, Some("ada"), Window::Day, 400);
        // The old day has ended at 15:00 UTC.
        let (after, _) = store(TimeZone::UTC, "2028-02-29T15:00:00Z");
        after.restore(before.take_changes());
        assert_eq!(left(&after, Some("ada"), Window::Day), 1000);
    }

    #[test]
    fn keys_beyond_the_limit_are_restored_together() {
        let now = "2028-02-29T12:00:00Z";
        let (before, _) = store(TimeZone::UTC, now);
        for key in ["ada", "bob", "eve"] {
            spend(&before, Some(key), Window::Day, 100);
        }
        let (after, _) = store(TimeZone::UTC, now);
        let after = after.with_max_keys(1.try_into().unwrap());
        after.restore(before.take_changes());
        assert_eq!(after.keys(), 1);
        let mut counts = ["ada", "bob", "eve"].map(|key| left(&after, Some(key), Window::Day));
        counts.sort_unstable();
        assert_eq!(counts, [800, 800, 900]);
    }

    proptest! {
        /// A store that is restored from all changes of another one grants the same.
        #[test]
        fn a_restored_store_has_the_same_counts(
            spent in proptest::collection::vec((0usize..4, 0u64..50, 0usize..3, any::<bool>()), 0..40),
        ) {
            let now = "2028-02-29T12:00:00Z";
            let ((before, _), (after, _)) = (store(cet(), now), store(cet(), now));
            let keys = [Some("ada"), Some("bob"), Some("eve"), None];
            let mut saved = std::collections::HashMap::new();
            let mut save = |store: &Store| {
                for row in store.take_changes() {
                    saved.insert((row.account.clone(), row.window), row);
                }
            };
            for (key, tokens, window, saves) in spent {
                spend(&before, keys[key], Window::ALL[window], tokens);
                if saves {
                    save(&before);
                }
            }
            save(&before);
            after.restore(saved.into_values());
            for key in keys {
                for window in Window::ALL {
                    prop_assert_eq!(left(&after, key, window), left(&before, key, window));
                }
            }
        }
    }
}
