//! Renews and releases the leases that this gateway holds.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use foldhash::HashMap;
use llamatower_layers::redis::RedisScript;
use tokio::time::{MissedTickBehavior, interval};

use super::{LASTS, Leases, Released, lock, millis};

static RENEW: LazyLock<RedisScript> = LazyLock::new(|| RedisScript::new(include_str!("renew.lua")));
static RELEASE: LazyLock<RedisScript> =
    LazyLock::new(|| RedisScript::new(include_str!("release.lua")));

/// The time between two renewals.
const RENEW_EVERY: Duration = Duration::from_secs(1);
/// After Redis was gone, slots are shared again after so many renewals in a row: until then the other
/// gateways have added the leases that they hold.
const RENEWALS: u32 = 3;
/// The releases that can wait for Redis. Further ones are not sent, and end by themselves.
const RELEASES: usize = 4096;

impl Leases {
    /// Renews and releases leases until it is dropped.
    pub async fn run(self) {
        let mut ticks = interval(RENEW_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut renewals = 0;
        loop {
            let is_due = tokio::select! {
                _ = ticks.tick() => true,
                () = self.0.has_released.notified() => false,
            };
            if !is_due {
                self.release().await;
            } else if self.renew().await {
                self.release().await;
                renewals += 1;
                if renewals >= RENEWALS && !self.0.is_sharing.send_replace(true) {
                    tracing::info!("slots are shared again");
                }
            } else {
                renewals = 0;
            }
        }
    }

    /// Sends the releases that wait.
    pub async fn release(&self) {
        let released = std::mem::take(&mut *lock(&self.0.released));
        let rows = released.iter().flat_map(|released| {
            let keys = released.keys.iter().step_by(2);
            keys.map(|key| (key.as_str(), released.lease.as_str()))
        });
        let (keys, arguments) = indexed(Vec::new(), rows);
        if keys.is_empty() {
            return;
        }
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let releasing = self.0.redis.run("release", &RELEASE, &keys, &arguments);
        if releasing.await.is_err() {
            // They are sent after the next renewal, or have ended by themselves.
            for released in released {
                self.add_released(released);
            }
        }
        self.0.were_released.notify_one();
    }

    pub(super) fn add_released(&self, released: Released) {
        let mut waiting = lock(&self.0.released);
        if waiting.len() < RELEASES {
            waiting.push(released);
        }
    }

    /// Renews all leases. Returns whether Redis has answered.
    async fn renew(&self) -> bool {
        let renewed = lock(&self.0.held).clone();
        let held: Vec<(String, &Arc<[String]>)> = renewed
            .iter()
            .map(|(number, keys)| (self.name(*number), keys))
            .collect();
        if held.is_empty() && self.is_sharing() {
            return true;
        }
        let probe = self.0.redis.key("lease:probe", "all");
        let rows = held.iter().flat_map(|(lease, keys)| {
            let keys = keys.iter().step_by(2);
            keys.map(|key| (key.as_str(), lease.as_str()))
        });
        let (keys, mut arguments) = indexed(vec![&*probe], rows);
        arguments.insert(0, millis(LASTS));
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let renewing = self.0.redis.run("renew", &RENEW, &keys, &arguments);
        let has_answered = renewing.await.is_ok();
        if !has_answered {
            self.note_failure();
        }
        // One that was released meanwhile, with the lease of the next request, may have been added again.
        let ended: Vec<u64> = {
            let held = lock(&self.0.held);
            let ended = renewed.keys().filter(|number| !held.contains_key(number));
            ended.copied().collect()
        };
        for number in ended {
            if let Some(keys) = renewed.get(&number) {
                self.add_released(Released {
                    keys: keys.clone(),
                    lease: self.name(number),
                });
            }
        }
        has_answered
    }
}

/// The different keys of these rows, behind those that are given, and each row with the index of its key.
fn indexed<'a>(
    mut keys: Vec<&'a str>,
    rows: impl Iterator<Item = (&'a str, &'a str)>,
) -> (Vec<&'a str>, Vec<String>) {
    let mut arguments = Vec::new();
    let mut indices: HashMap<&str, usize> = HashMap::default();
    for (key, lease) in rows {
        let index = *indices.entry(key).or_insert_with(|| {
            keys.push(key);
            keys.len()
        });
        arguments.extend([index.to_string(), lease.to_owned()]);
    }
    (keys, arguments)
}
