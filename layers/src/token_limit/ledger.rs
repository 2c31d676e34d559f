//! Bookkeeping: used and reserved tokens by key.

use std::collections::HashMap;
use std::hash::Hash;

use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::store::{BudgetState, Granted};
use super::window::{Budget, Span, Window};

/// The accounts of all keys. It has no clock: the caller passes the time.
#[derive(Debug)]
pub(super) struct Ledger<K> {
    zone: TimeZone,
    spans: [Span; 3],
    accounts: HashMap<K, Account>,
    /// The shared account of keys beyond `max_keys`.
    overflow: Account,
    /// The shared account of requests without a key.
    without_key: Account,
    max_keys: usize,
    new_keys: usize,
}

/// The tokens that one key used and reserved in each window.
#[derive(Clone, Debug, Default)]
struct Account {
    counts: [Count; 3],
}

#[derive(Clone, Copy, Debug, Default)]
struct Count {
    /// The start of the window that is counted here.
    start: Timestamp,
    used: u64,
    reserved: u64,
}

/// The reservation of one request.
#[derive(Debug)]
pub(super) struct Reserved<K> {
    holder: Holder<K>,
    parts: [Option<Part>; 3],
}

/// The holder of an account.
#[derive(Debug)]
enum Holder<K> {
    Key(K),
    /// All keys beyond `max_keys`.
    Overflow,
    /// All requests without a key.
    WithoutKey,
}

#[derive(Debug)]
struct Part {
    window: Window,
    start: Timestamp,
    tokens: u64,
}

impl<K: Hash + Eq + Clone> Ledger<K> {
    pub(super) fn new(zone: TimeZone, max_keys: usize, now: Timestamp) -> Self {
        Self {
            spans: Window::ALL.map(|window| window.span(now, &zone)),
            zone,
            accounts: HashMap::new(),
            overflow: Account::default(),
            without_key: Account::default(),
            max_keys,
            new_keys: 0,
        }
    }

    /// Reserves `tokens` in all budgets, or in none if one has too few left.
    pub(super) fn reserve(
        &mut self,
        key: Option<K>,
        budgets: &[Budget],
        tokens: u64,
        now: Timestamp,
    ) -> Result<Granted<Reserved<K>>, BudgetState> {
        self.update_spans(now);
        let spans = self.spans;
        let holder = match key {
            None => Holder::WithoutKey,
            Some(key) if self.has_room(&key) => Holder::Key(key),
            Some(_) => Holder::Overflow,
        };
        let account = match &holder {
            Holder::Key(key) => self.accounts.entry(key.clone()).or_default(),
            Holder::Overflow => &mut self.overflow,
            Holder::WithoutKey => &mut self.without_key,
        };
        let mut refusal = None;
        for budget in budgets {
            let span = &spans[budget.window() as usize];
            let left = account.left(budget, span);
            if left < tokens.min(budget.tokens()) {
                let budget_state = BudgetState {
                    budget: *budget,
                    remaining: left,
                    reset: span.left(now),
                };
                let lasts_longest = |known: &BudgetState| budget_state.reset > known.reset;
                refusal = match refusal.as_ref().is_none_or(lasts_longest) {
                    true => Some(budget_state),
                    false => refusal,
                };
            }
        }
        if let Some(refusal) = refusal {
            return Err(refusal);
        }
        let mut budget_states = Vec::with_capacity(budgets.len());
        let mut parts: [Option<Part>; 3] = Default::default();
        for budget in budgets {
            let (window, span) = (budget.window(), &spans[budget.window() as usize]);
            let tokens = tokens.min(budget.tokens());
            let count = account.count(window, span);
            count.reserved = count.reserved.saturating_add(tokens);
            budget_states.push(BudgetState {
                budget: *budget,
                remaining: account.left(budget, span),
                reset: span.left(now),
            });
            // Two budgets for the same window share its count.
            let before = parts[window as usize].take().map_or(0, |part| part.tokens);
            parts[window as usize] = Some(Part {
                window,
                start: span.start,
                tokens: before.saturating_add(tokens),
            });
        }
        Ok(Granted {
            reservation: Reserved { holder, parts },
            budget_states,
        })
    }

    /// Replaces the reservation by the `used` tokens, in the windows of the reservation. A window
    /// that has ended is not counted any more.
    pub(super) fn settle(&mut self, reserved: Reserved<K>, used: u64) {
        let account = match &reserved.holder {
            Holder::Key(key) => self.accounts.get_mut(key),
            Holder::Overflow => Some(&mut self.overflow),
            Holder::WithoutKey => Some(&mut self.without_key),
        };
        let Some(account) = account else { return };
        for part in reserved.parts.into_iter().flatten() {
            let count = &mut account.counts[part.window as usize];
            if count.start == part.start {
                count.reserved = count.reserved.saturating_sub(part.tokens);
                count.used = count.used.saturating_add(used);
            }
        }
    }

    /// The used and reserved tokens of an account in its current window.
    pub(super) fn used(&mut self, key: Option<&K>, window: Window, now: Timestamp) -> u64 {
        self.update_spans(now);
        let account = match key {
            None => Some(&self.without_key),
            Some(key) => self.accounts.get(key),
        };
        let count = account.map(|account| account.counts[window as usize]);
        let current = count.filter(|count| count.start == self.spans[window as usize].start);
        current.map_or(0, |count| count.used.saturating_add(count.reserved))
    }

    pub(super) fn set_max_keys(&mut self, max_keys: usize) {
        self.max_keys = max_keys;
    }

    pub(super) fn keys(&self) -> usize {
        self.accounts.len()
    }

    fn update_spans(&mut self, now: Timestamp) {
        for window in Window::ALL {
            let span = &mut self.spans[window as usize];
            if !span.contains(now) {
                *span = window.span(now, &self.zone);
            }
        }
    }

    /// Whether the key has an account or may get one. From time to time this drops unused accounts,
    /// so rarely that each new key costs only a few look-ups.
    fn has_room(&mut self, key: &K) -> bool {
        if self.accounts.contains_key(key) {
            return true;
        }
        self.new_keys += 1;
        if self.new_keys >= 64 && self.new_keys >= self.accounts.len() / 4 {
            self.new_keys = 0;
            let spans = self.spans;
            self.accounts.retain(|_, account| account.is_in_use(&spans));
        }
        self.accounts.len() < self.max_keys
    }
}

impl Account {
    /// The count of the current window.
    fn count(&mut self, window: Window, span: &Span) -> &mut Count {
        let count = &mut self.counts[window as usize];
        if count.start != span.start {
            *count = Count {
                start: span.start,
                ..Count::default()
            };
        }
        count
    }

    fn left(&mut self, budget: &Budget, span: &Span) -> u64 {
        let count = self.count(budget.window(), span);
        let taken = count.used.saturating_add(count.reserved);
        budget.tokens().saturating_sub(taken)
    }

    fn is_in_use(&self, spans: &[Span; 3]) -> bool {
        let mut counts = self.counts.iter().zip(spans);
        counts.any(|(count, span)| {
            count.start == span.start && (count.used > 0 || count.reserved > 0)
        })
    }
}
