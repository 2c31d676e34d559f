//! Requests and tokens by key.

use std::collections::hash_map::Entry;
use std::sync::{Arc, PoisonError, RwLock};

use foldhash::HashMap;
use llamatower_layers::Outcome;
use opentelemetry::KeyValue;
use opentelemetry::metrics::{BoundCounter, Counter, Meter};

use super::names;
use crate::clients::delegation::{key_of_user, other_users};

/// The number of users of keys that have counters of their own. The others share those of
/// `KEY/(others)`.
const USERS: usize = 256;

/// The counters of all keys. Only configured keys have a name, so their number is bounded; that of their
/// users is limited.
pub(super) struct KeyCounters {
    requests: Counter<u64>,
    tokens: Counter<u64>,
    anonymous: OfKey,
    known: RwLock<Known>,
}

#[derive(Default)]
struct Known {
    counters: HashMap<Arc<str>, Arc<OfKey>>,
    /// How many of these are users.
    users: usize,
}

/// The counters of one key.
struct OfKey {
    requests: BoundCounter<u64>,
    input: BoundCounter<u64>,
    output: BoundCounter<u64>,
}

impl KeyCounters {
    pub(super) fn new(meter: &Meter) -> Self {
        let count = |name: &'static str, unit: &'static str, text: &'static str| {
            let counter = meter.u64_counter(name).with_unit(unit);
            counter.with_description(text).build()
        };
        let requests = count(
            names::KEY_REQUESTS,
            "{request}",
            "Requests that run a model, by key",
        );
        let tokens = count(
            names::KEY_TOKENS,
            "{token}",
            "Tokens of prompts and responses, by key",
        );
        Self {
            anonymous: OfKey::new(&requests, &tokens, names::ANONYMOUS.into()),
            requests,
            tokens,
            known: RwLock::default(),
        }
    }

    /// Begins the counters of these keys with 0.
    pub(super) fn begin(&self, keys: impl Iterator<Item = Arc<str>>) {
        for key in keys {
            let _ = self.of(&key);
        }
    }

    /// Counts a request that has ended, if it was one for inference.
    pub(super) fn record(&self, outcome: &Outcome) {
        let operation = outcome.operation();
        if !operation.is_some_and(|operation| operation.is_inference()) {
            return;
        }
        match &outcome.identity {
            None => self.anonymous.record(outcome),
            Some(key) => self.of(key).record(outcome),
        }
    }

    fn of(&self, key: &Arc<str>) -> Arc<OfKey> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(counters) = known.counters.get(key) {
            return counters.clone();
        }
        drop(known);
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        let others = match known.users < USERS {
            true => None,
            false => other_users(key),
        };
        let name = others.as_ref().unwrap_or(key);
        if others.is_none() && key_of_user(key).is_some() && !known.counters.contains_key(key) {
            known.users += 1;
        }
        match known.counters.entry(name.clone()) {
            Entry::Occupied(place) => place.get().clone(),
            Entry::Vacant(place) => {
                let counters = OfKey::new(&self.requests, &self.tokens, name.clone());
                place.insert(Arc::new(counters)).clone()
            }
        }
    }
}

impl OfKey {
    fn new(requests: &Counter<u64>, tokens: &Counter<u64>, key: Arc<str>) -> Self {
        let key = KeyValue::new(names::IDENTITY, key);
        let of = |direction| {
            let direction = KeyValue::new(names::GEN_AI_TOKEN_TYPE, direction);
            tokens.bind(&[key.clone(), direction])
        };
        Self {
            requests: requests.bind(std::slice::from_ref(&key)),
            input: of("input"),
            output: of("output"),
        }
    }

    fn record(&self, outcome: &Outcome) {
        self.requests.add(1);
        if let Some(usage) = &outcome.usage {
            self.input.add(usage.prompt_tokens);
            self.output.add(usage.output_tokens);
        }
    }
}
