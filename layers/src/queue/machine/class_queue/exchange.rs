//! The service that keys have received from other processes.

use std::hash::Hash;

use super::ClassQueue;
use crate::queue::Priority;
use crate::queue::machine::account::{Account, Told};

impl<K: Clone + Eq + Hash, R> ClassQueue<K, R> {
    fn account(&self, key: &K) -> Option<&Account> {
        let mut waiting = self.key_queues.iter();
        match waiting.find(|key_queue| key_queue.key == *key) {
            Some(key_queue) => Some(&key_queue.account),
            None => self.idle.get(key),
        }
    }

    fn account_mut(&mut self, key: &K) -> Option<&mut Account> {
        let mut waiting = self.key_queues.iter_mut();
        match waiting.find(|key_queue| key_queue.key == *key) {
            Some(key_queue) => Some(&mut key_queue.account),
            None => self.idle.get_mut(key),
        }
    }

    /// Whether this key has to be added to the list of those that the other processes are told of,
    /// because it is new.
    pub(in crate::queue::machine) fn lists_new(&mut self, key: &K) -> bool {
        let account = self.account_mut(key);
        let new = account.filter(|account| account.told == Told::Never);
        new.map(|account| account.told = Told::Listed).is_some()
    }

    /// The same, because it has received service.
    pub(in crate::queue::machine) fn lists_served(&mut self, key: &K) -> bool {
        let account = self.account_mut(key);
        let served = account.filter(|account| account.told != Told::Listed && account.is_untold());
        served.map(|account| account.told = Told::Listed).is_some()
    }

    /// The service of a key that the other processes know, and what is to be added; `None` if the key is
    /// forgotten.
    pub(in crate::queue::machine) fn tell(&mut self, key: &K) -> Option<(f64, f64)> {
        self.account_mut(key).map(Account::tell)
    }

    /// The counter at which keys start if no request waits.
    pub(in crate::queue::machine) fn floor(&self) -> f64 {
        self.floor
    }

    /// Raises the floor to that of all processes. A queue that was not on their scale moves to it, with all
    /// of its keys: otherwise those that wait would seem to have received much less than others.
    pub(in crate::queue::machine) fn raise_floor(&mut self, floor: f64) {
        let by = floor - self.floor;
        if !std::mem::replace(&mut self.has_joined, true) && by > 0.0 {
            let waiting = self.key_queues.iter_mut();
            let waiting = waiting.map(|key_queue| &mut key_queue.account);
            let all = waiting.chain(self.idle.values_mut());
            all.for_each(|account| account.shift(by));
        }
        self.floor = self.floor.max(floor);
    }

    /// The other processes may be on another scale from now on.
    pub(in crate::queue::machine) fn leave_scale(&mut self) {
        self.has_joined = false;
    }

    /// Raises the counter of a key to what all processes have served, but not by more than `lead` over
    /// where a new key would start. Nothing happens before the floor was raised: the scale is not known.
    pub(in crate::queue::machine) fn raise(&mut self, key: &K, served: f64, lead: f64) {
        if !self.has_joined {
            return;
        }
        let most = self.start(Priority::Normal as usize) + lead;
        if let Some(account) = self.account_mut(key) {
            account.raise(served.min(most));
        }
    }

    /// The counter of a request of this key that arrives while no other one waits.
    pub(in crate::queue::machine) fn counter_of_newcomer(&self, key: &K) -> f64 {
        let mut account = self.account(key).copied().unwrap_or_default();
        account.lift(self.floor);
        account.counter()
    }
}
