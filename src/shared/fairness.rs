//! What all gateways together have served to each client, in Redis.
//!
//! A counter is that of the client in the queue of a model: tokens for each unit of weight, on a scale that
//! all gateways have in common. Each gateway says what it knew of a counter and what it adds; Redis takes the
//! larger of what both knew, and adds. So nothing is counted twice if an answer is lost, and a Redis that
//! has lost its data gets the counters back from the gateways.

use std::sync::LazyLock;
use std::time::Duration;

use data_encoding::HEXLOWER;
use llamatower_layers::redis::{Redis, RedisScript};
use llamatower_layers::store::StoreUnavailable;
use sha2::{Digest, Sha256};

static EXCHANGE: LazyLock<RedisScript> =
    LazyLock::new(|| RedisScript::new(include_str!("fairness.lua")));

/// The counters in Redis. Beyond it, those that did not change for the longest time are forgotten.
pub(crate) const MOST_COUNTERS: usize = 4096;
/// The rows of one call, in each direction.
pub(crate) const MOST_ROWS: usize = 500;
/// The counters expire if no gateway has run for so long.
const LASTS: Duration = Duration::from_secs(600);
/// Between the names of a model and of a client. A model's name has no such character.
const SEPARATOR: char = '\u{1f}';

/// The hash of the name of a counter.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct CounterId(Box<str>);

impl CounterId {
    /// The counter of a client for a model; without a client, that at which new clients start.
    pub(crate) fn new(model: &str, client: Option<&str>) -> Self {
        let name = match client {
            Some(client) => format!("{model}{SEPARATOR}{client}"),
            None => model.to_owned(),
        };
        let digest = Sha256::digest(name.as_bytes());
        Self(HEXLOWER.encode(&digest[..16]).into())
    }
}

/// What this gateway tells of a counter.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Served {
    /// What it knew.
    pub(crate) before: f64,
    /// What it adds.
    pub(crate) added: f64,
}

impl Served {
    /// This, and then the other.
    pub(crate) fn then(self, next: Self) -> Self {
        Self {
            before: (next.before - self.added).max(self.before),
            added: self.added + next.added,
        }
    }

    /// What remains to be said if the answer was lost: what was added may be in Redis.
    fn without_answer(self) -> Self {
        Self {
            before: self.before + self.added,
            added: 0.0,
        }
    }
}

/// The exchange of counters with the other gateways.
pub(crate) struct SharedService {
    redis: Redis,
    keys: [String; 2],
    /// The version up to which all counters are known.
    seen: String,
}

impl SharedService {
    pub(super) fn new(redis: Redis) -> Self {
        let keys = ["fairness:served", "fairness:changed"].map(|kind| redis.key(kind, "all"));
        Self {
            redis,
            keys,
            seen: "0".to_owned(),
        }
    }

    /// Whether Redis is connected.
    pub(crate) fn is_connected(&self) -> bool {
        self.redis.is_connected()
    }

    /// All counters are returned once more.
    pub(crate) fn forget(&mut self) {
        "0".clone_into(&mut self.seen);
    }

    /// Sends up to 500 of these rows, which are taken out, and returns counters that have changed.
    ///
    /// # Errors
    /// Redis has not answered. The rows are kept as they are to be sent then.
    pub(crate) async fn exchange(
        &mut self,
        rows: &mut foldhash::HashMap<CounterId, Served>,
    ) -> Result<Vec<(CounterId, f64)>, StoreUnavailable> {
        let sent: Vec<CounterId> = rows.keys().take(MOST_ROWS).cloned().collect();
        let sent: Vec<(CounterId, Served)> = sent
            .into_iter()
            .filter_map(|id| rows.remove_entry(&id))
            .collect();
        let millis = LASTS.as_millis();
        let mut arguments = vec![self.seen.clone(), MOST_ROWS.to_string()];
        arguments.extend([MOST_COUNTERS.to_string(), millis.to_string()]);
        for (id, served) in &sent {
            let (before, added) = (served.before.to_string(), served.added.to_string());
            arguments.extend([id.0.to_string(), before, added]);
        }
        let keys = self.keys.each_ref().map(String::as_str);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let asking = self.redis.run("fairness", &EXCHANGE, &keys, &arguments);
        let answer = asking.await.inspect_err(|_| {
            rows.extend(sent.into_iter().map(|(id, row)| (id, row.without_answer())));
        })?;
        let Some((seen, counters)) = answer.split_first() else {
            return Ok(Vec::new());
        };
        self.seen.clone_from(seen);
        let counters = counters.chunks_exact(2).filter_map(|row| {
            let value: f64 = row[1].parse().ok()?;
            Some((CounterId(row[0].as_str().into()), value))
        });
        Ok(counters.filter(|(_, value)| value.is_finite()).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_sent_without_an_answer_is_not_added_twice() {
        let first = Served {
            before: 100.0,
            added: 30.0,
        };
        let lost = first.without_answer();
        assert_eq!((lost.before, lost.added), (130.0, 0.0));
        // 5 were added, and others have added 20 meanwhile.
        let next = Served {
            before: 150.0,
            added: 5.0,
        };
        let both = lost.then(next);
        assert_eq!((both.before, both.added), (150.0, 5.0));
        let waiting = first.then(next);
        assert_eq!((waiting.before, waiting.added), (120.0, 35.0));
    }

    #[test]
    fn clients_and_models_have_different_counters() {
        let ids = [
            CounterId::new("m", None),
            CounterId::new("m", Some("key:ada")),
            CounterId::new("m2", Some("key:ada")),
            CounterId::new("m", Some("key:bob")),
        ];
        let different: std::collections::HashSet<_> = ids.iter().collect();
        assert_eq!(different.len(), ids.len());
        assert!(!format!("{ids:?}").contains("ada"));
    }
}
