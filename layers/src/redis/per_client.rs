//! What is the same for each request of a client.

use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use foldhash::{HashMap, HashMapExt};

/// The clients whose values are kept. One takes about 300 bytes.
const CLIENTS: usize = 10_000;

/// A value for each client, and one for requests without a key. It is made at the first request: to make a
/// key of Redis costs a hash and several allocations.
pub(super) struct PerClient<K, T>(Mutex<Kept<K, T>>);

struct Kept<K, T> {
    of_keys: HashMap<K, Arc<T>>,
    without_key: Option<Arc<T>>,
}

impl<K: Clone + Hash + Eq, T> PerClient<K, T> {
    /// The value of the client if `is_current`, or a new one. If there are too many clients, the others are
    /// forgotten.
    pub(super) fn get_or_make(
        &self,
        key: Option<&K>,
        is_current: impl FnOnce(&T) -> bool,
        make: impl FnOnce() -> T,
    ) -> Arc<T> {
        let mut kept = self.lock();
        if let Some(known) = kept.get(key).filter(|known| is_current(known)) {
            return known.clone();
        }
        let value = Arc::new(make());
        kept.set(key, value.clone());
        value
    }

    /// The value of the client, if there is one.
    #[cfg(test)]
    pub(super) fn get(&self, key: Option<&K>) -> Option<Arc<T>> {
        self.lock().get(key).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, Kept<K, T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Clone + Hash + Eq, T> Kept<K, T> {
    fn get(&self, key: Option<&K>) -> Option<&Arc<T>> {
        match key {
            Some(key) => self.of_keys.get(key),
            None => self.without_key.as_ref(),
        }
    }

    fn set(&mut self, key: Option<&K>, value: Arc<T>) {
        let Some(key) = key else {
            self.without_key = Some(value);
            return;
        };
        if self.of_keys.len() >= CLIENTS && !self.of_keys.contains_key(key) {
            self.of_keys.clear();
        }
        self.of_keys.insert(key.clone(), value);
    }
}

impl<K, T> Default for PerClient<K, T> {
    fn default() -> Self {
        Self(Mutex::new(Kept {
            of_keys: HashMap::new(),
            without_key: None,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_made_once_and_again_if_it_is_not_current() {
        let values = PerClient::<String, u32>::default();
        let ada = "ada".to_owned();
        let get = |key, value| *values.get_or_make(key, |known| *known >= 10, || value);
        assert_eq!(get(Some(&ada), 1), 1);
        assert_eq!(get(Some(&ada), 12), 12);
        assert_eq!(get(Some(&ada), 13), 12);
        assert_eq!(values.get(None), None);
        assert_eq!(get(None, 20), 20);
        assert_eq!(get(None, 21), 20);
        assert_eq!(values.get(Some(&ada)).as_deref(), Some(&12));
    }

    #[test]
    fn the_number_of_clients_is_limited() {
        let values = PerClient::<usize, usize>::default();
        for client in 0..=CLIENTS {
            values.get_or_make(Some(&client), |_| true, || client);
        }
        assert!(values.lock().of_keys.len() < CLIENTS);
        assert_eq!(values.get(Some(&CLIENTS)).as_deref(), Some(&CLIENTS));
    }
}
