//! One call for all limits of a request.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ::redis::{Cmd, Value, from_redis_value_ref};
use jiff::Timestamp;

use super::settle::{Settlement, Settlements};
use super::{Redis, RedisScript};
use crate::rate_limit::TakeResult;
use crate::store::StoreUnavailable;
use crate::token_limit::Budget;

static ADMIT: LazyLock<RedisScript> = LazyLock::new(|| RedisScript::new(include_str!("admit.lua")));

/// What one request takes: a request from each bucket, and tokens from accounts.
#[derive(Default)]
pub(super) struct Ask {
    buckets: Vec<BucketAsk>,
    accounts: Vec<AccountAsk>,
}

pub(super) struct BucketAsk {
    pub(super) key: String,
    /// The microseconds to refill one request.
    pub(super) interval: u64,
    pub(super) burst: u32,
}

pub(super) struct AccountAsk {
    pub(super) tokens: u64,
    /// When the reservation expires if its process dies.
    pub(super) lasts: Duration,
    pub(super) asked: Vec<Asked>,
    id: String,
    held: Held,
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
        key: String,
        tokens: u64,
        lasts: Duration,
        asked: Vec<Asked>,
        settlements: Settlements,
    ) -> Self {
        Self {
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
    fn reservation(&self) -> String {
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

/// A reservation in Redis. It is given back when this is dropped.
struct Held {
    account: String,
    reservation: Option<String>,
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

    fn command(&self) -> Cmd {
        let mut call = Cmd::with_capacity(
            4 + 3 * self.buckets.len() + 16 * self.accounts.len(),
            192 * (1 + self.limits()),
        );
        call.arg("EVALSHA").arg(ADMIT.hash());
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

    /// The answer for each limit, all of which are `unavailable`.
    pub(super) fn unavailable(self, unavailable: &StoreUnavailable) -> Answers {
        let buckets = self.buckets.into_iter();
        let accounts = self.accounts.into_iter();
        Answers {
            buckets: buckets
                .map(|ask| (ask.key, Err(unavailable.clone())))
                .collect(),
            accounts: accounts
                .map(|ask| (ask, Err(unavailable.clone())))
                .collect(),
        }
    }

    fn answers(self, values: &[Value]) -> Option<Answers> {
        let (refusing, mut values) = values.split_first()?;
        let refusing: usize = from_redis_value_ref(refusing).ok()?;
        let mut next = || {
            let (value, rest) = values.split_first()?;
            values = rest;
            Some(value)
        };
        let mut answers = Answers::default();
        for (index, bucket) in self.buckets.into_iter().enumerate() {
            let number: u64 = from_redis_value_ref(next()?).ok()?;
            let is_refusal = index + 1 == refusing;
            let taken = match is_refusal {
                true => Err(Duration::from_micros(number)),
                false => Ok(u32::try_from(number).unwrap_or(u32::MAX)),
            };
            answers.buckets.push((bucket.key, Ok(taken)));
            if is_refusal {
                self.accounts.into_iter().for_each(AccountAsk::discard);
                return Some(answers);
            }
        }
        let mut accounts = self.accounts.into_iter();
        for mut account in accounts.by_ref() {
            let is_granted = from_redis_value_ref::<u8>(next()?).ok()? == 1;
            let reservation: String = from_redis_value_ref(next()?).ok()?;
            account.held.reservation = is_granted.then_some(reservation);
            let lefts = account.asked.iter();
            let lefts = lefts.map(|_| from_redis_value_ref(next()?).ok());
            let lefts: Option<Vec<u64>> = lefts.collect();
            answers.accounts.push((account, Ok(lefts?)));
            if !is_granted {
                break;
            }
        }
        accounts.for_each(AccountAsk::discard);
        Some(answers)
    }
}

impl AccountAsk {
    /// Drops it without a reservation.
    fn discard(mut self) {
        self.held.reservation = None;
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

/// The answer for each limit that was asked.
#[derive(Default)]
pub(super) struct Answers {
    buckets: Vec<(String, Result<TakeResult, StoreUnavailable>)>,
    accounts: Vec<(AccountAsk, Result<Vec<u64>, StoreUnavailable>)>,
}

/// The tokens left in each budget, and the reservation; `None` in it is a refusal.
pub(super) struct AccountAnswer {
    pub(super) lefts: Vec<u64>,
    pub(super) granted: Option<GrantedAccount>,
}

/// The names of a reservation, to be settled.
pub(super) struct GrantedAccount {
    pub(super) account: String,
    pub(super) reservation: String,
}

impl Answers {
    /// The answer of the only bucket.
    pub(super) fn only_bucket(mut self) -> Result<TakeResult, StoreUnavailable> {
        match self.buckets.pop() {
            Some((_, answer)) => answer,
            None => Err(unexpected()),
        }
    }

    /// The answer of the only account.
    pub(super) fn only_account(mut self) -> Result<AccountAnswer, StoreUnavailable> {
        match self.accounts.pop() {
            Some((ask, lefts)) => Ok(ask.answer(lefts?)),
            None => Err(unexpected()),
        }
    }
}

impl AccountAsk {
    fn answer(mut self, lefts: Vec<u64>) -> AccountAnswer {
        let reservation = self.held.reservation.take();
        let granted = reservation.map(|reservation| GrantedAccount {
            account: std::mem::take(&mut self.held.account),
            reservation,
        });
        AccountAnswer { lefts, granted }
    }

    /// Whether the answer is valid for this number of tokens. A reservation of more tokens is.
    fn answers(&self, asked: &[Asked], tokens: u64) -> bool {
        let budgets = |asked: &[Asked]| asked.iter().map(|asked| asked.budget).collect::<Vec<_>>();
        let is_enough = match self.held.reservation {
            Some(_) => self.tokens >= tokens,
            None => self.tokens == tokens,
        };
        is_enough && budgets(&self.asked) == budgets(asked)
    }
}

/// The answers to what was asked for a request before its layers ask, in the request's extensions. Each is
/// given once. A reservation that no layer has taken is given back when the request is dropped.
#[derive(Clone)]
pub(super) struct Admitted(Arc<Mutex<Answers>>);

impl Admitted {
    pub(super) fn new(answers: Answers) -> Self {
        Self(Arc::new(Mutex::new(answers)))
    }

    /// The answer of a bucket, if it was asked.
    pub(super) fn bucket(&self, key: &str) -> Option<Result<TakeResult, StoreUnavailable>> {
        let buckets = &mut self.lock().buckets;
        let at = buckets.iter().position(|(known, _)| known == key)?;
        Some(buckets.swap_remove(at).1)
    }

    /// The answer of an account, if it was asked for these budgets and enough tokens.
    pub(super) fn account(
        &self,
        key: &str,
        asked: &[Asked],
        tokens: u64,
    ) -> Option<Result<AccountAnswer, StoreUnavailable>> {
        let accounts = &mut self.lock().accounts;
        let is_key = |(known, _): &(AccountAsk, _)| known.held.account == key;
        let at = accounts.iter().position(is_key)?;
        let (ask, lefts) = accounts.swap_remove(at);
        let mut lefts = match lefts {
            Ok(lefts) if ask.answers(asked, tokens) => lefts,
            Ok(_) => return None,
            Err(unavailable) => return Some(Err(unavailable)),
        };
        // As if only these tokens were reserved; the rest is free at the end.
        if ask.held.reservation.is_some() {
            for (left, asked) in lefts.iter_mut().zip(&ask.asked) {
                let limit = asked.budget.tokens();
                *left += ask.tokens.min(limit) - tokens.min(limit);
            }
        }
        Some(Ok(ask.answer(lefts)))
    }

    fn lock(&self) -> MutexGuard<'_, Answers> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Admitted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admitted").finish_non_exhaustive()
    }
}

fn unexpected() -> StoreUnavailable {
    StoreUnavailable::new("Redis: an unexpected response")
}

impl Redis {
    /// Asks for all limits in one call. If the response is late, or this future is dropped before it, what
    /// was reserved is given back.
    ///
    /// # Errors
    /// As [`run`](Self::run); the asked limits are returned with the error.
    pub(super) async fn admit(
        &self,
        operation: &'static str,
        mut ask: Ask,
    ) -> Result<Answers, (StoreUnavailable, Ask)> {
        let command = ask.command();
        let accounts = &mut ask.accounts;
        let answer = self.call(operation, async |mut connection| {
            for account in accounts.iter_mut() {
                account.held.reservation = Some(account.reservation());
            }
            let answer = ADMIT.call::<Vec<Value>>(&command, &mut connection).await;
            if answer.is_err() {
                for account in accounts.iter_mut() {
                    account.held.reservation = None;
                }
            }
            answer
        });
        match answer.await {
            Ok(values) => {
                let Some(answers) = ask.answers(&values) else {
                    return Err((unexpected(), Ask::default()));
                };
                Ok(answers)
            }
            Err(unavailable) => Err((unavailable, ask)),
        }
    }
}
