//! One call for all limits of a request.

use std::fmt;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ::redis::{ErrorKind, RedisError, Value, from_redis_value_ref};

use super::ask::{AccountAsk, Ask, Asked, BucketAsk, Owner};
use super::{Redis, RedisScript};
use crate::rate_limit::TakeResult;
use crate::store::StoreUnavailable;

static ADMIT: LazyLock<RedisScript> = LazyLock::new(|| RedisScript::new(include_str!("admit.lua")));

/// The answer for each limit that was asked.
#[derive(Default)]
pub(super) struct Answers {
    buckets: Vec<(BucketAsk, Result<TakeResult, StoreUnavailable>)>,
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
    /// All limits are `unavailable`.
    pub(super) fn unavailable(ask: Ask, unavailable: &StoreUnavailable) -> Self {
        let buckets = ask.buckets.into_iter();
        let accounts = ask.accounts.into_iter();
        Self {
            buckets: buckets.map(|ask| (ask, Err(unavailable.clone()))).collect(),
            accounts: accounts
                .map(|ask| (ask, Err(unavailable.clone())))
                .collect(),
        }
    }

    /// By what the script returns.
    fn parse(ask: Ask, values: &[Value]) -> Option<Self> {
        let (refusing, mut values) = values.split_first()?;
        let refusing: usize = from_redis_value_ref(refusing).ok()?;
        let mut next = || {
            let (value, rest) = values.split_first()?;
            values = rest;
            Some(value)
        };
        let mut answers = Self::default();
        for (index, bucket) in ask.buckets.into_iter().enumerate() {
            let number: u64 = from_redis_value_ref(next()?).ok()?;
            let is_refusal = index + 1 == refusing;
            let taken = match is_refusal {
                true => Err(Duration::from_micros(number)),
                false => Ok(u32::try_from(number).unwrap_or(u32::MAX)),
            };
            answers.buckets.push((bucket, Ok(taken)));
            if is_refusal {
                ask.accounts.into_iter().for_each(discard);
                return Some(answers);
            }
        }
        let mut accounts = ask.accounts.into_iter();
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
        accounts.for_each(discard);
        Some(answers)
    }

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
        let budgets = |asked: &Asked| asked.budget;
        let is_enough = match self.held.reservation {
            Some(_) => self.tokens >= tokens,
            None => self.tokens == tokens,
        };
        is_enough && self.asked.iter().map(budgets).eq(asked.iter().map(budgets))
    }
}

/// Drops what has reserved nothing.
fn discard(mut ask: AccountAsk) {
    ask.held.reservation = None;
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
    pub(super) fn bucket(
        &self,
        owner: &Owner,
        interval: u64,
        burst: u32,
    ) -> Option<Result<TakeResult, StoreUnavailable>> {
        let buckets = &mut self.lock().buckets;
        let is_it = |(ask, _): &(BucketAsk, _)| {
            (ask.interval, ask.burst) == (interval, burst) && ask.owner == *owner
        };
        let at = buckets.iter().position(is_it)?;
        Some(buckets.swap_remove(at).1)
    }

    /// The answer of an account, if it was asked for these budgets and enough tokens.
    pub(super) fn account(
        &self,
        owner: &Owner,
        asked: &[Asked],
        tokens: u64,
    ) -> Option<Result<AccountAnswer, StoreUnavailable>> {
        let accounts = &mut self.lock().accounts;
        let is_it = |(ask, _): &(AccountAsk, _)| ask.owner == *owner;
        let at = accounts.iter().position(is_it)?;
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
        let command = ask.command(ADMIT.hash());
        let accounts = &mut ask.accounts;
        let answer = self.call(operation, async |mut connection| {
            for account in accounts.iter_mut() {
                account.held.reservation = Some(account.reservation());
            }
            let answer = ADMIT.call::<Vec<Value>>(&command, &mut connection).await;
            // After another error, as that of a broken connection, Redis may have reserved.
            let is_refused = |error: &RedisError| matches!(error.kind(), ErrorKind::Server(_));
            if answer.as_ref().is_err_and(is_refused) {
                for account in accounts.iter_mut() {
                    account.held.reservation = None;
                }
            }
            answer
        });
        match answer.await {
            Ok(values) => {
                let Some(answers) = Answers::parse(ask, &values) else {
                    return Err((unexpected(), Ask::default()));
                };
                Ok(answers)
            }
            Err(unavailable) => Err((unavailable, ask)),
        }
    }
}
