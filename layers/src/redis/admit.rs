//! One call for all limits of a request.

use std::fmt;
use std::str::SplitAsciiWhitespace;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ::redis::{ErrorKind, RedisError};
use http::Extensions;

use super::ask::{Account, AccountAsk, Ask, Asked, Bucket, BucketAsk, Held};
use super::{Redis, RedisScript};
use crate::rate_limit::TakeResult;
use crate::shared::Shared;
use crate::store::StoreUnavailable;
use crate::token_limit::Budget;

static ADMIT: LazyLock<RedisScript> = LazyLock::new(|| RedisScript::new(include_str!("admit.lua")));

/// The tokens left in each budget, and the reservation; `None` in it is a refusal.
pub(super) struct AccountAnswer {
    pub(super) account: Arc<Account>,
    pub(super) asked: Vec<Asked>,
    pub(super) reservation: Option<String>,
}

type Words<'a> = SplitAsciiWhitespace<'a>;

fn number(words: &mut Words<'_>) -> Option<u64> {
    words.next()?.parse().ok()
}

impl Ask {
    /// Reads what the script returns. `None` if it is malformed.
    fn read(&mut self, text: &str) -> Option<()> {
        let words = &mut text.split_ascii_whitespace();
        let refusing = number(words)?;
        for (ask, place) in self.buckets.iter_mut().zip(1..) {
            let number = number(words)?;
            if place == refusing {
                ask.answer = Some(Err(Duration::from_micros(number)));
                break;
            }
            ask.answer = Some(Ok(u32::try_from(number).unwrap_or(u32::MAX)));
        }
        let mut is_refused = refusing > 0;
        for account in &mut self.accounts {
            account.held = match is_refused {
                true => Held::Nothing,
                false => account.read(words)?,
            };
            is_refused |= matches!(account.held, Held::Nothing);
        }
        Some(())
    }

    /// The answer of the only bucket.
    pub(super) fn only_bucket(mut self) -> Result<TakeResult, StoreUnavailable> {
        let bucket = self.buckets.pop();
        bucket.and_then(|ask| ask.answer).ok_or_else(unexpected)
    }

    /// The answer of the only account.
    pub(super) fn only_account(mut self) -> Result<AccountAnswer, StoreUnavailable> {
        let account = self.accounts.pop();
        let account = account.filter(|ask| ask.is_answered);
        account.map(AccountAsk::answer).ok_or_else(unexpected)
    }
}

impl AccountAsk {
    fn read(&mut self, words: &mut Words<'_>) -> Option<Held> {
        let is_granted = words.next()? == "1";
        let reservation = words.next()?;
        for asked in &mut self.asked {
            asked.remaining = number(words)?;
        }
        self.is_answered = true;
        Some(match is_granted {
            true => Held::Reservation(reservation.to_owned()),
            false => Held::Nothing,
        })
    }

    fn answer(mut self) -> AccountAnswer {
        let reservation = match std::mem::replace(&mut self.held, Held::Nothing) {
            Held::Reservation(reservation) => Some(reservation),
            Held::Nothing | Held::Perhaps => None,
        };
        AccountAnswer {
            account: self.account.clone(),
            asked: std::mem::take(&mut self.asked),
            reservation,
        }
    }

    /// Whether the answer is valid for this number of tokens. A reservation of more tokens is.
    fn answers(&self, budgets: &[Budget], tokens: u64) -> bool {
        let is_enough = match self.held {
            Held::Reservation(_) => self.tokens >= tokens,
            Held::Nothing | Held::Perhaps => self.tokens == tokens,
        };
        let asked = self.asked.iter().map(|asked| &asked.budget);
        self.is_answered && is_enough && asked.eq(budgets)
    }
}

/// The answers to what was asked for a request before its layers ask, in the request's extensions. Each is
/// given once. A reservation that no layer has taken is given back when the request is dropped.
#[derive(Clone)]
pub(crate) struct Admitted(Arc<Mutex<Answers>>);

struct Answers {
    ask: Ask,
    /// Why there are none.
    unavailable: Option<StoreUnavailable>,
}

impl Admitted {
    /// Those of the request with these extensions, if its limits were asked for.
    pub(super) fn of(request: &Extensions) -> Option<&Self> {
        Shared::of(request)?.admitted.as_ref()
    }

    /// By what [`Redis::admit`] returns.
    pub(super) fn new(admitted: Result<Ask, (StoreUnavailable, Ask)>) -> Self {
        let (ask, unavailable) = match admitted {
            Ok(ask) => (ask, None),
            Err((unavailable, ask)) => (ask, Some(unavailable)),
        };
        Self(Arc::new(Mutex::new(Answers { ask, unavailable })))
    }

    /// The answer of a bucket, if it was asked.
    pub(super) fn bucket(&self, bucket: &Bucket) -> Option<Result<TakeResult, StoreUnavailable>> {
        let Answers { ask, unavailable } = &mut *self.lock();
        let is_it = |asked: &BucketAsk| asked.bucket.key == bucket.key;
        let at = ask.buckets.iter().position(is_it)?;
        let answer = ask.buckets.swap_remove(at).answer;
        match unavailable {
            Some(unavailable) => Some(Err(unavailable.clone())),
            None => answer.map(Ok),
        }
    }

    /// The answer of an account, if it was asked for these budgets and enough tokens.
    pub(super) fn account(
        &self,
        account: &Account,
        budgets: &[Budget],
        tokens: u64,
    ) -> Option<Result<AccountAnswer, StoreUnavailable>> {
        let Answers { ask, unavailable } = &mut *self.lock();
        let is_it = |asked: &AccountAsk| asked.account.key == account.key;
        let at = ask.accounts.iter().position(is_it)?;
        let mut ask = ask.accounts.swap_remove(at);
        if let Some(unavailable) = unavailable {
            return Some(Err(unavailable.clone()));
        }
        if !ask.answers(budgets, tokens) {
            return None;
        }
        // As if only these tokens were reserved; the rest is free at the end.
        if matches!(ask.held, Held::Reservation(_)) {
            for asked in &mut ask.asked {
                let limit = asked.budget.tokens();
                asked.remaining += ask.tokens.min(limit) - tokens.min(limit);
            }
        }
        Some(Ok(ask.answer()))
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
    ) -> Result<Ask, (StoreUnavailable, Ask)> {
        let command = ask.command(ADMIT.hash());
        let accounts = &mut ask.accounts;
        let answer = self.call(operation, async |mut connection| {
            for account in accounts.iter_mut() {
                account.held = Held::Perhaps;
            }
            let answer = ADMIT.call::<String>(&command, &mut connection).await;
            // After another error, as that of a broken connection, Redis may have reserved.
            let is_refused = |error: &RedisError| matches!(error.kind(), ErrorKind::Server(_));
            if answer.as_ref().is_err_and(is_refused) {
                for account in accounts.iter_mut() {
                    account.held = Held::Nothing;
                }
            }
            answer
        });
        match answer.await {
            Ok(text) => {
                if ask.read(&text).is_none() {
                    return Err((unexpected(), Ask::default()));
                }
                Ok(ask)
            }
            Err(unavailable) => Err((unavailable, ask)),
        }
    }
}
