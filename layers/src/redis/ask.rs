//! What is asked for a request.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use ::redis::Cmd;
use jiff::Timestamp;

use super::settle::{Settlement, Settlements};
use crate::token_limit::Budget;

/// What one request takes: a request from each bucket, and tokens from accounts.
#[derive(Default)]
pub(super) struct Ask {
    pub(super) buckets: Vec<BucketAsk>,
    pub(super) accounts: Vec<AccountAsk>,
}

/// Whose limit it is: the kind of the limit, and the text of the client's key.
#[derive(PartialEq, Eq)]
pub(super) struct Owner {
    pub(super) kind: Arc<str>,
    pub(super) name: String,
}

pub(super) struct BucketAsk {
    pub(super) owner: Owner,
    pub(super) key: String,
    /// The microseconds to refill one request.
    pub(super) interval: u64,
    pub(super) burst: u32,
}

pub(super) struct AccountAsk {
    pub(super) owner: Owner,
    pub(super) tokens: u64,
    /// When the reservation expires if its process dies.
    pub(super) lasts: Duration,
    pub(super) asked: Vec<Asked>,
    id: String,
    pub(super) held: Held,
}

/// A budget with its current window.
#[derive(Clone, Copy)]
pub(super) struct Asked {
    pub(super) budget: Budget,
    pub(super) start: Timestamp,
    pub(super) left: Duration,
}

impl AccountAsk {
    pub(super) fn new(
        owner: Owner,
        key: String,
        tokens: u64,
        lasts: Duration,
        asked: Vec<Asked>,
        settlements: Settlements,
    ) -> Self {
        Self {
            owner,
            tokens,
            lasts,
            asked,
            id: id(),
            held: Held {
                account: key,
                reservation: None,
                settlements,
            },
        }
    }

    /// The reservation's name, unless the window of another process is ahead.
    pub(super) fn reservation(&self) -> String {
        use std::fmt::Write;
        let mut name = self.id.clone();
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

impl Owner {
    /// `text` is that of the client's key, if the request has one.
    pub(super) fn new(kind: &Arc<str>, text: Option<String>) -> Self {
        let name = match text {
            Some(text) => format!("key {text}"),
            None => "none".to_owned(),
        };
        let kind = kind.clone();
        Self { kind, name }
    }
}

/// A reservation in Redis. It is given back when this is dropped.
pub(super) struct Held {
    pub(super) account: String,
    /// What is to be settled, if there may be something.
    pub(super) reservation: Option<String>,
    settlements: Settlements,
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(reservation) = self.reservation.take() {
            self.settlements.send(Settlement {
                account: std::mem::take(&mut self.account),
                reservation,
                used: 0,
            });
        }
    }
}

impl Ask {
    /// Asks for a request of this bucket too. A bucket that is in it already is not asked twice.
    pub(super) fn bucket(&mut self, ask: BucketAsk) {
        if self.buckets.iter().all(|known| known.key != ask.key) {
            self.buckets.push(ask);
        }
    }

    /// Asks for a reservation too. An account that is in it already is not asked twice.
    pub(super) fn account(&mut self, ask: AccountAsk) {
        let is_new = |known: &AccountAsk| known.held.account != ask.held.account;
        if self.accounts.iter().all(is_new) {
            self.accounts.push(ask);
        }
    }

    /// The number of limits.
    pub(super) fn limits(&self) -> usize {
        self.buckets.len() + self.accounts.len()
    }

    /// The call of the script `admit.lua`, which has this hash.
    pub(super) fn command(&self, hash: &str) -> Cmd {
        let mut call = Cmd::with_capacity(
            4 + 3 * self.buckets.len() + 16 * self.accounts.len(),
            192 * (1 + self.limits()),
        );
        call.arg("EVALSHA").arg(hash);
        call.arg(self.buckets.len() + 2 * self.accounts.len());
        for bucket in &self.buckets {
            call.arg(&bucket.key);
        }
        for account in &self.accounts {
            let key = &account.held.account;
            call.arg(key).arg(open_of(key));
        }
        call.arg(self.buckets.len());
        for bucket in &self.buckets {
            call.arg(bucket.interval).arg(bucket.burst);
        }
        for account in &self.accounts {
            call.arg(&account.id)
                .arg(account.tokens)
                .arg(millis(account.lasts))
                .arg(account.asked.len());
            for asked in &account.asked {
                call.arg(asked.budget.window().name())
                    .arg(asked.budget.tokens())
                    .arg(asked.start.as_second())
                    .arg(millis(asked.left));
            }
        }
        call
    }
}

/// The key of the open reservations of an account.
pub(super) fn open_of(account: &str) -> String {
    format!("{account}:open")
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Unique among all processes: a random part for each process, and a number.
fn id() -> String {
    static PROCESS: LazyLock<u64> = LazyLock::new(|| {
        // The seed of the standard library's maps, which is random for each process.
        use std::hash::{BuildHasher, RandomState};
        let now = Timestamp::now().as_nanosecond();
        RandomState::new().hash_one((std::process::id(), now))
    });
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("{:016x}-{number:x}", *PROCESS)
}
