//! What is asked for a request.

use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ::redis::{Cmd, RedisWrite};
use jiff::Timestamp;
use smallvec::SmallVec;
use tokio::time::Instant;

use super::settle::{Settlement, Settlements};
use crate::rate_limit::TakeResult;
use crate::token_limit::Budget;

/// What one request takes: a request from each bucket, and tokens from accounts. Redis' answers are added to
/// it. The usual limits fit without an allocation.
#[derive(Default)]
pub(super) struct Ask {
    pub(super) buckets: SmallVec<[BucketAsk; 2]>,
    pub(super) accounts: SmallVec<[AccountAsk; 1]>,
}

/// A bucket of requests in Redis.
pub(super) struct Bucket {
    pub(super) key: String,
    /// The microseconds to refill one request.
    pub(super) interval: u64,
    pub(super) burst: u32,
    /// Both, as the script reads them.
    words: String,
}

pub(super) struct BucketAsk {
    pub(super) bucket: Arc<Bucket>,
    /// `None` if Redis was not asked, or something else was refused before.
    pub(super) answer: Option<TakeResult>,
}

/// The token counts of a client in Redis.
#[derive(Debug)]
pub(super) struct Account {
    pub(super) key: String,
    /// The key of the open reservations.
    pub(super) open: String,
    /// What Redis said last, for each window.
    pub(super) seen: Mutex<[Seen; 3]>,
}

/// The used and reserved tokens of a window by Redis' last answer.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Seen {
    pub(super) start: Timestamp,
    pub(super) used: u64,
}

pub(super) struct AccountAsk {
    pub(super) account: Arc<Account>,
    pub(super) tokens: u64,
    /// When the reservation expires if its process dies.
    pub(super) lasts: Duration,
    pub(super) asked: AskedBudgets,
    /// When `asked` was current.
    pub(super) asked_at: Instant,
    /// Whether Redis has answered.
    pub(super) is_answered: bool,
    pub(super) held: Held,
    /// Of the reservation; unique in this process.
    number: u64,
    settlements: Settlements,
}

/// What Redis holds for a request. It is given back when the [`AccountAsk`] is dropped.
pub(super) enum Held {
    Nothing,
    /// The response is not known, or has not come.
    Perhaps,
    /// The reservation of this name.
    Reservation(String),
}

/// Most clients have at most two budgets, which fit without an allocation.
pub(super) type AskedBudgets = SmallVec<[Asked; 2]>;

/// A budget with its current window.
#[derive(Clone, Copy)]
pub(super) struct Asked {
    pub(super) budget: Budget,
    pub(super) start: Timestamp,
    pub(super) left: Duration,
    /// The tokens left, by Redis' answer.
    pub(super) remaining: u64,
}

impl Bucket {
    pub(super) fn new(key: String, interval: u64, burst: u32) -> Self {
        Self {
            key,
            interval,
            burst,
            words: format!("{interval} {burst} "),
        }
    }
}

impl Account {
    pub(super) fn new(key: String) -> Self {
        Self {
            open: format!("{key}:open"),
            key,
            seen: Mutex::default(),
        }
    }

    pub(super) fn seen(&self) -> MutexGuard<'_, [Seen; 3]> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AccountAsk {
    pub(super) fn new(
        account: Arc<Account>,
        tokens: u64,
        lasts: Duration,
        asked: AskedBudgets,
        settlements: Settlements,
    ) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self {
            account,
            tokens,
            lasts,
            asked,
            asked_at: Instant::now(),
            is_answered: false,
            held: Held::Nothing,
            number: NEXT.fetch_add(1, Ordering::Relaxed),
            settlements,
        }
    }

    /// The reservation's name, unless the window of another process is ahead.
    fn reservation(&self) -> String {
        use std::fmt::Write;
        let mut name = format!("{}{}", *PROCESS, self.number);
        for (at, asked) in self.asked.iter().enumerate() {
            let window = asked.budget.window();
            let is_window = |asked: &&Asked| asked.budget.window() == window;
            if self.asked[..at].iter().any(|asked| is_window(&asked)) {
                continue;
            }
            let held = self.asked.iter().filter(is_window);
            let held: u64 = held
                .map(|asked| self.tokens.min(asked.budget.tokens()))
                .sum();
            let start = asked.start.as_second();
            // A text accepts every write.
            let _ = write!(name, ";{}:{start}:{held}", window.name());
        }
        name
    }
}

impl Drop for AccountAsk {
    fn drop(&mut self) {
        let reservation = match std::mem::replace(&mut self.held, Held::Nothing) {
            Held::Nothing => return,
            Held::Perhaps => self.reservation(),
            Held::Reservation(reservation) => reservation,
        };
        self.settlements.send(Settlement {
            account: self.account.clone(),
            reservation,
            used: 0,
        });
    }
}

impl AccountAsk {
    /// What the script reads.
    fn write(&self, words: &mut Words<impl Write>) {
        words.text(&PROCESS);
        words.number(self.number);
        words.number(self.tokens);
        words.number(millis(self.lasts));
        words.number(self.asked.len());
        for asked in &self.asked {
            words.word(asked.budget.window().name());
            words.number(asked.budget.tokens());
            words.number(asked.start.as_second());
            words.number(millis(asked.left));
        }
    }
}

/// Words with a space after each, in an argument of a call.
pub(super) struct Words<W>(pub(super) W);

impl<W: Write> Words<W> {
    fn text(&mut self, text: &str) {
        // An argument accepts every write.
        let _ = self.0.write_all(text.as_bytes());
    }

    pub(super) fn word(&mut self, word: &str) {
        self.text(word);
        self.text(" ");
    }

    pub(super) fn number(&mut self, number: impl itoa::Integer) {
        self.word(itoa::Buffer::new().format(number));
    }
}

impl Ask {
    /// Asks for a request of this bucket too. A bucket that is in it already is not asked twice.
    pub(super) fn bucket(&mut self, bucket: Arc<Bucket>) {
        let is_new = |known: &BucketAsk| known.bucket.key != bucket.key;
        if self.buckets.iter().all(is_new) {
            let answer = None;
            self.buckets.push(BucketAsk { bucket, answer });
        }
    }

    /// Asks for a reservation too. An account that is in it already is not asked twice.
    pub(super) fn account(&mut self, ask: AccountAsk) {
        let is_new = |known: &AccountAsk| known.account.key != ask.account.key;
        if self.accounts.iter().all(is_new) {
            self.accounts.push(ask);
        }
    }

    /// The number of limits.
    pub(super) fn limits(&self) -> usize {
        self.buckets.len() + self.accounts.len()
    }

    /// The call of the script `admit.lua`, which has this hash. All numbers are in one argument: each
    /// argument costs about as much as the formatting of five numbers.
    pub(super) fn command(&self, hash: &str) -> Cmd {
        let keys = self.buckets.len() + 2 * self.accounts.len();
        let mut call = Cmd::with_capacity(4 + keys, 512);
        call.arg("EVALSHA").arg(hash).arg(keys);
        for BucketAsk { bucket, .. } in &self.buckets {
            call.arg(&bucket.key);
        }
        for AccountAsk { account, .. } in &self.accounts {
            call.arg(&account.key).arg(&account.open);
        }
        let mut words = Words(call.writer_for_next_arg());
        words.number(self.buckets.len());
        for BucketAsk { bucket, .. } in &self.buckets {
            words.text(&bucket.words);
        }
        for ask in &self.accounts {
            ask.write(&mut words);
        }
        drop(words);
        call
    }
}

/// The text of a client, of which the names of its keys are hashes.
pub(super) fn name_of_client<K>(key: Option<&K>, name_of: impl Fn(&K) -> String) -> String {
    match key {
        Some(key) => format!("key {}", name_of(key)),
        None => "none".to_owned(),
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// What the names of reservations begin with: random for each process, so that they are unique among all.
static PROCESS: LazyLock<String> = LazyLock::new(|| {
    // The seed of the standard library's maps, which is random for each process.
    use std::hash::{BuildHasher, RandomState};
    let now = Timestamp::now().as_nanosecond();
    let random = RandomState::new().hash_one((std::process::id(), now));
    format!("{random:016x}-")
});
