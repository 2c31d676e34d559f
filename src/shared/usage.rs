//! Usage in Redis: the sum of all gateways.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use foldhash::{HashMap, HashMapExt};
use jiff::civil::Date;
use llamatower_layers::redis::{Redis, RedisScript};
use llamatower_layers::store::StoreUnavailable;
use tokio::sync::Notify;
use tokio::time::sleep;
use uuid::Uuid;

use crate::state::{COUNTS, Changes, Counts, Persist, Restored, UsageKey, add, day_number};
use crate::usage::Usage;

static ADD: LazyLock<RedisScript> = LazyLock::new(|| RedisScript::new(include_str!("usage.lua")));
static READ: LazyLock<RedisScript> =
    LazyLock::new(|| RedisScript::new(include_str!("usage_of_days.lua")));

/// The wait after a change, so that many are sent together.
const DELAY: Duration = Duration::from_millis(500);
/// The wait after Redis has refused them.
const RETRY: Duration = Duration::from_secs(2);
/// The rows of one call.
const ROWS: usize = 200;
/// The days of one call.
const DAYS: usize = 32;
/// The deadline for an operator's question.
const DEADLINE: Duration = Duration::from_secs(2);
/// Between the parts of a field. Names of keys and models have no such character.
const SEPARATOR: char = '\u{1f}';

/// Copies the changes of [`Usage`] for Redis, on their way to the file of this gateway.
#[derive(Clone)]
pub struct SharedUsage {
    usage: Arc<Usage>,
    redis: Redis,
    /// How long a day is kept.
    lasts: Duration,
    pending: Arc<Pending>,
}

#[derive(Default)]
struct Pending {
    rows: Mutex<HashMap<UsageKey, Counts>>,
    /// One sender at a time.
    sending: tokio::sync::Mutex<Sending>,
    changed: Notify,
}

/// What Redis gets. It keeps the number of the last batch of a sender, so that a repetition, however late,
/// does not count.
struct Sending {
    sender: Uuid,
    batches: u64,
    batch: Option<Batch>,
}

impl Default for Sending {
    fn default() -> Self {
        Self {
            sender: Uuid::new_v4(),
            batches: 0,
            batch: None,
        }
    }
}

/// Rows that are sent, until Redis has confirmed them. A repetition has the same number.
struct Batch {
    number: u64,
    rows: Vec<(UsageKey, Counts)>,
}

impl SharedUsage {
    /// Of `usage`. Days are kept in Redis for `days`.
    pub fn new(usage: Arc<Usage>, redis: Redis, days: u32) -> Self {
        let days = u64::from(days).saturating_add(2);
        Self {
            usage,
            redis,
            lasts: Duration::from_secs(days.saturating_mul(24 * 60 * 60)),
            pending: Arc::default(),
        }
    }

    /// Sends changes to Redis until it is dropped.
    pub async fn run(self) {
        loop {
            self.pending.changed.notified().await;
            sleep(DELAY).await;
            self.redis.connected().await;
            while !self.send().await {
                sleep(RETRY).await;
                self.redis.connected().await;
            }
        }
    }

    /// Sends all changes. Returns whether Redis has confirmed them.
    pub async fn send(&self) -> bool {
        let mut sending = self.pending.sending.lock().await;
        loop {
            if sending.batch.is_none() {
                sending.batch = self.next_batch(sending.batches + 1);
                sending.batches += u64::from(sending.batch.is_some());
            }
            // It stays there meanwhile: an operator's client that disconnects ends this function at any time.
            let Some(batch) = &sending.batch else {
                return true;
            };
            if self.add(sending.sender, batch).await.is_err() {
                return false;
            }
            sending.batch = None;
        }
    }

    fn next_batch(&self, number: u64) -> Option<Batch> {
        let mut pending = self.lock();
        let keys: Vec<UsageKey> = pending.keys().take(ROWS).cloned().collect();
        let rows = keys
            .into_iter()
            .filter_map(|key| pending.remove_entry(&key));
        let rows: Vec<_> = rows.collect();
        (!rows.is_empty()).then_some(Batch { number, rows })
    }

    async fn add(&self, sender: Uuid, batch: &Batch) -> Result<Vec<String>, StoreUnavailable> {
        let mut keys = vec![self.redis.key("usage:batch", &sender.to_string())];
        let mut days: BTreeMap<i32, usize> = BTreeMap::new();
        let mut arguments = vec![self.lasts.as_millis().to_string(), batch.number.to_string()];
        for (row, counts) in &batch.rows {
            let day = *days.entry(row.day).or_insert_with(|| {
                keys.push(self.day(row.day));
                keys.len() - 1
            });
            for (index, count) in counts.iter().enumerate().filter(|(_, count)| **count > 0) {
                let field = format!("{}{SEPARATOR}{}{SEPARATOR}{index}", row.key, row.model);
                arguments.extend([day.to_string(), field, count.to_string()]);
            }
        }
        let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let adding = self
            .redis
            .run_within(DEADLINE, "usage", &ADD, &keys, &arguments);
        adding.await
    }

    fn day(&self, day: i32) -> String {
        self.redis.key("usage", &day.to_string())
    }

    /// The counts of all gateways on these days.
    ///
    /// # Errors
    /// Redis does not answer.
    pub async fn of_days(
        &self,
        from: Date,
        to: Date,
    ) -> Result<HashMap<UsageKey, Counts>, StoreUnavailable> {
        if !self.send().await {
            return Err(StoreUnavailable::new("Redis does not accept usage"));
        }
        // What is older has expired.
        let most = usize::try_from(self.lasts.as_secs() / (24 * 60 * 60)).unwrap_or(usize::MAX);
        let days: Vec<i32> = to
            .series(jiff::Span::new().days(-1))
            .take_while(|day| *day >= from)
            .take(most)
            .map(day_number)
            .collect();
        let mut rows = HashMap::new();
        for days in days.chunks(DAYS) {
            let keys: Vec<String> = days.iter().map(|day| self.day(*day)).collect();
            let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
            let reading = self.redis.run_within(DEADLINE, "usage", &READ, &keys, &[]);
            for row in reading.await?.chunks_exact(3) {
                if let Some((key, counts)) = parse(row, days) {
                    add(rows.entry(key).or_default(), &counts);
                }
            }
        }
        Ok(rows)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<UsageKey, Counts>> {
        let rows = self.pending.rows.lock();
        rows.unwrap_or_else(PoisonError::into_inner)
    }
}

/// A count in a row of its own; `None` if it is of another version.
fn parse(row: &[String], days: &[i32]) -> Option<(UsageKey, Counts)> {
    let [day, field, count] = row else {
        return None;
    };
    let day = *days.get(day.parse::<usize>().ok()?.checked_sub(1)?)?;
    let mut parts = field.split(SEPARATOR);
    let (key, model, index) = (parts.next()?, parts.next()?, parts.next()?);
    let mut counts = [0; COUNTS];
    *counts.get_mut(index.parse::<usize>().ok()?)? = count.parse().ok()?;
    let (key, model) = (key.into(), model.into());
    Some((UsageKey { day, key, model }, counts))
}

impl Persist for SharedUsage {
    fn take_changes(&self, changes: &mut Changes) {
        let mut taken = Changes::default();
        self.usage.take_changes(&mut taken);
        if taken.usage.is_empty() {
            return;
        }
        let mut pending = self.lock();
        for (key, counts) in taken.usage {
            add(pending.entry(key.clone()).or_default(), &counts);
            changes.add_usage(key, &counts);
        }
        drop(pending);
        self.pending.changed.notify_one();
    }

    fn restore(&self, stored: &Restored) {
        self.usage.restore(stored);
    }
}

impl std::fmt::Debug for SharedUsage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SharedUsage").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use jiff::tz::TimeZone;
    use llamatower_layers::redis::RedisConfig;
    use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::sync::mpsc;

    use super::*;
    use crate::state::ChangeSignal;

    /// The words of a command.
    async fn read_command(client: &mut BufReader<TcpStream>) -> Option<Vec<String>> {
        async fn number(client: &mut BufReader<TcpStream>) -> Option<usize> {
            let mut line = String::new();
            client.read_line(&mut line).await.ok()?;
            line.get(1..)?.trim().parse().ok()
        }
        let mut words = Vec::new();
        for _ in 0..number(client).await? {
            let mut word = vec![0; number(client).await? + 2];
            client.read_exact(&mut word).await.ok()?;
            words.push(String::from_utf8(word).ok()?.trim_end().to_owned());
        }
        Some(words)
    }

    /// A Redis that tells of each call of a script, and disconnects instead of answering the first.
    async fn redis_that_fails_once() -> (Redis, mpsc::UnboundedReceiver<Vec<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("redis://{}", listener.local_addr().unwrap());
        let (told, calls) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            let mut has_failed = false;
            while let Ok((client, _)) = listener.accept().await {
                let mut client = BufReader::new(client);
                while let Some(words) = read_command(&mut client).await {
                    let is_script = words[0] == "EVALSHA";
                    let fails = is_script && !has_failed;
                    if is_script {
                        told.send(words).unwrap();
                    }
                    has_failed |= fails;
                    let answer = if is_script { "*0\r\n" } else { "+OK\r\n" };
                    if fails || client.write_all(answer.as_bytes()).await.is_err() {
                        break;
                    }
                }
            }
        });
        let config = RedisConfig::new(address.parse().unwrap());
        let redis = Redis::start(config.with_deadline(Duration::from_secs(20)));
        redis.connected().await;
        (redis, calls)
    }

    #[tokio::test]
    async fn usage_is_sent_again_after_a_sender_was_dropped_in_the_middle() {
        let (redis, mut calls) = redis_that_fails_once().await;
        let usage = Arc::new(Usage::new(TimeZone::UTC, ChangeSignal::default()));
        let shared = SharedUsage::new(usage, redis.clone(), 30);
        let (day, key, model) = (20_261_130, "ada".into(), "tiny".into());
        let row = UsageKey { day, key, model };
        shared.lock().insert(row.clone(), [7; COUNTS]);
        // An operator's client asks for the usage, and disconnects.
        let first = tokio::select! {
            biased;
            call = calls.recv() => call.unwrap(),
            _ = shared.send() => panic!("Redis has not answered"),
        };
        redis.connected().await;
        while !shared.send().await {
            redis.connected().await;
        }
        assert_eq!(
            calls.try_recv().as_ref().ok(),
            Some(&first),
            "the same batch"
        );
        assert!(shared.send().await);
        assert!(calls.try_recv().is_err(), "and only once");
        shared.lock().insert(row, [7; COUNTS]);
        assert!(shared.send().await);
        let next = calls.try_recv().unwrap();
        // The script, two keys, when they expire, the number.
        assert_eq!(next[..6], first[..6]);
        assert_eq!([&*first[6], &*next[6]], ["1", "2"]);
    }
}
