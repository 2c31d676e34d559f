//! One call for all limits of a request.

use std::fmt;
use std::ops::Range;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ::redis::{ErrorKind, RedisError};
use http::Extensions;

use super::ask::{Account, AccountAsk, Ask, AskedBudgets, Bucket, BucketAsk, Held};
use super::{Redis, RedisScript};
use crate::rate_limit::TakeResult;
use crate::shared::Shared;
use crate::store::StoreUnavailable;
use crate::token_limit::Budget;

static ADMIT: LazyLock<RedisScript> = LazyLock::new(|| RedisScript::new(include_str!("admit.lua")));

/// The tokens left in each budget, and the reservation; `None` in it is a refusal.
pub(super) struct AccountAnswer {
    pub(super) account: Arc<Account>,
    pub(super) asked: AskedBudgets,
    pub(super) reservation: Option<String>,
}

/// Reads the words of an answer, which have one space between them.
struct Words {
    text: String,
    at: usize,
}

impl Words {
    /// The place of the next word.
    fn next(&mut self) -> Option<Range<usize>> {
        let rest = self.text.as_bytes().get(self.at..)?;
        let length = rest.iter().position(|byte| *byte == b' ');
        let word = self.at..self.at + length.unwrap_or(rest.len());
        self.at = word.end + 1;
        (!word.is_empty()).then_some(word)
    }

    fn number(&mut self) -> Option<u64> {
        let word = self.next()?;
        self.text[word].parse().ok()
    }

    /// A word that was read. If it is the last one that is needed, no text is allocated for it.
    fn take(&mut self, word: Range<usize>, is_last: bool) -> String {
        if !is_last {
            return self.text[word].to_owned();
        }
        let mut text = std::mem::take(&mut self.text);
        text.truncate(word.end);
        text.drain(..word.start);
        text
    }
}

impl Ask {
    /// Reads what the script returns. `None` if it is malformed.
    fn read(&mut self, text: String) -> Option<()> {
        let words = &mut Words { text, at: 0 };
        let refusing = words.number()?;
        for (ask, place) in self.buckets.iter_mut().zip(1..) {
            let number = words.number()?;
            if place == refusing {
                ask.answer = Some(Err(Duration::from_micros(number)));
                break;
            }
            ask.answer = Some(Ok(u32::try_from(number).unwrap_or(u32::MAX)));
        }
        let mut is_refused = refusing > 0;
        let last = self.accounts.len();
        for (account, place) in self.accounts.iter_mut().zip(1..) {
            let reservation = match is_refused {
                true => None,
                false => account.read(words)?,
            };
            is_refused |= reservation.is_none();
            account.held = reservation.map_or(Held::Nothing, |word| {
                Held::Reservation(words.take(word, place == last))
            });
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
    /// Returns the place of the reservation in the text, and no place for a refusal.
    fn read(&mut self, words: &mut Words) -> Option<Option<Range<usize>>> {
        let is_granted = words.number()? == 1;
        let reservation = words.next()?;
        for asked in &mut self.asked {
            asked.remaining = words.number()?;
        }
        self.is_answered = true;
        Some(is_granted.then_some(reservation))
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

    /// Whether the answer is valid for this number of tokens, in the current windows. A reservation of more tokens
    /// is.
    fn answers(&self, budgets: &[Budget], tokens: u64) -> bool {
        let is_enough = match self.held {
            Held::Reservation(_) => self.tokens >= tokens,
            Held::Nothing | Held::Perhaps => self.tokens == tokens,
        };
        let since = self.asked_at.elapsed();
        let is_current = self.asked.iter().all(|asked| since < asked.left);
        let asked = self.asked.iter().map(|asked| &asked.budget);
        self.is_answered && is_enough && is_current && asked.eq(budgets)
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

    /// Forgets refusals of tokens for the request with these extensions, which has to wait: they will be old then,
    /// and the layers of these tokens ask themselves. What was reserved stays so.
    #[cfg(feature = "key-concurrency")]
    pub(crate) fn forget_refused_tokens(request: &Extensions) {
        if let Some(admitted) = Self::of(request) {
            let is_reserved = |ask: &mut AccountAsk| matches!(ask.held, Held::Reservation(_));
            admitted.lock().ask.accounts.retain(is_reserved);
        }
    }

    /// Without answers.
    pub(super) fn new(ask: Ask) -> Self {
        let unavailable = None;
        Self(Arc::new(Mutex::new(Answers { ask, unavailable })))
    }

    /// Asks Redis. Without a lock, because there is no clone yet.
    pub(super) async fn ask(mut self, redis: &Redis) -> Self {
        if let Some(answers) = Arc::get_mut(&mut self.0) {
            let answers = answers.get_mut().unwrap_or_else(PoisonError::into_inner);
            answers.unavailable = redis.admit("admit", &mut answers.ask).await.err();
        }
        self
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
    /// As [`run`](Self::run).
    pub(super) async fn admit(
        &self,
        operation: &'static str,
        ask: &mut Ask,
    ) -> Result<(), StoreUnavailable> {
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
        let text = answer.await?;
        ask.read(text).ok_or_else(|| {
            *ask = Ask::default();
            unexpected()
        })
    }
}
