//! The exchange of service between the queues of several processes.
//!
//! Each process tells the others what its keys have received, and raises the counters of its own keys to
//! what all processes have served. All of them count on the scale of the highest floor.

use std::hash::Hash;

use foldhash::HashSet;

use super::ClassQueues;

/// What the other processes have not been told.
#[derive(Debug)]
pub(super) struct Exchange<C, K> {
    /// The keys that are new or have received service.
    listed: Vec<(C, K)>,
    has_new: bool,
}

/// What a key has received, for the other processes; see [`ClassQueues::take_service`].
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Service<C, K> {
    /// The class.
    pub class: C,
    /// The key; `None` for the floor of the class, at which new keys start.
    pub key: Option<K>,
    /// The counter without what is added, in tokens for each unit of weight.
    pub before: f64,
    /// What this process has added since it told of the key last; 0 for a new key and for a floor.
    pub added: f64,
}

/// What all processes together have served; see [`ClassQueues::raise`].
#[derive(Clone, Debug, PartialEq)]
pub struct Raise<C, K> {
    /// The class.
    pub class: C,
    /// The key; `None` for the floor of the class.
    pub key: Option<K>,
    /// The counter of the key, or the floor.
    pub to: f64,
    /// A key does not get further than this ahead of where new keys start.
    pub lead: f64,
}

impl<C: Clone + Eq + Hash, K: Clone + Eq + Hash, R> ClassQueues<C, K, R> {
    /// Begins to list the service of keys.
    pub fn exchange_service(&mut self) {
        self.exchange.get_or_insert(Exchange {
            listed: Vec::new(),
            has_new: false,
        });
    }

    pub(super) fn note_new(&mut self, class: &C, key: &K) {
        let Some(exchange) = &mut self.exchange else {
            return;
        };
        let known = self.classes.get_mut(class);
        if known.is_some_and(|of| of.class_queue.lists_new(key)) {
            exchange.listed.push((class.clone(), key.clone()));
            exchange.has_new = true;
        }
    }

    pub(super) fn note_served(&mut self, class: &C, key: &K) {
        let Some(exchange) = &mut self.exchange else {
            return;
        };
        let known = self.classes.get_mut(class);
        if known.is_some_and(|of| of.class_queue.lists_served(key)) {
            exchange.listed.push((class.clone(), key.clone()));
        }
    }

    /// Whether there are new keys since the last call.
    pub fn take_has_new_keys(&mut self) -> bool {
        let exchange = self.exchange.as_mut();
        exchange.is_some_and(|exchange| std::mem::take(&mut exchange.has_new))
    }

    /// The keys that are new or have received service since the last call, each after the floor of its
    /// class.
    pub fn take_service(&mut self) -> Vec<Service<C, K>> {
        let Some(exchange) = &mut self.exchange else {
            return Vec::new();
        };
        let mut rows = Vec::new();
        let mut classes = HashSet::default();
        for (class, key) in std::mem::take(&mut exchange.listed) {
            let Some(of) = self.classes.get_mut(&class) else {
                continue;
            };
            let Some((before, added)) = of.class_queue.tell(&key) else {
                continue;
            };
            if classes.insert(class.clone()) {
                rows.push(Service {
                    class: class.clone(),
                    key: None,
                    before: of.class_queue.floor(),
                    added: 0.0,
                });
            }
            rows.push(Service {
                class,
                key: Some(key),
                before,
                added,
            });
        }
        rows
    }

    /// Raises a floor or the counter of a key. The floor of a class comes before its keys: a class that
    /// is not on the scale of the other processes moves to it by that.
    pub fn raise(&mut self, raise: &Raise<C, K>) {
        let Some(of) = self.classes.get_mut(&raise.class) else {
            return;
        };
        match &raise.key {
            None => of.class_queue.raise_floor(raise.to),
            Some(key) => of.class_queue.raise(key, raise.to, raise.lead),
        }
    }

    /// The other processes have gone on without this one: all classes move to their scale at the next
    /// [`raise`](Self::raise) of the floor.
    pub fn leave_scale(&mut self) {
        for class in self.classes.values_mut() {
            class.class_queue.leave_scale();
        }
    }
}
