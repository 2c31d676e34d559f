//! Bookkeeping: used and reserved tokens by key.

use std::collections::HashMap;
use std::hash::Hash;

use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::saved::{AccountId, WindowUse};
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
    /// Whether used tokens of any account have changed since the changes were taken.
    has_changes: bool,
}

/// The tokens that one key used and reserved in each window.
#[derive(Clone, Debug, Default)]
struct Account {
    counts: [Count; 3],
    /// Those of the window that was counted before. It becomes the current one again if the clock is set back.
    others: [Count; 3],
}

#[derive(Clone, Copy, Debug, Default)]
struct Count {
    /// The start of the window that is counted here.
    start: Timestamp,
    used: u64,
    reserved: u64,
    /// Whether `used` has changed since the changes were taken.
    is_changed: bool,
}

/// The reservation of one request.
#[derive(Debug)]
pub(super) struct Reserved<K> {
    account: AccountId<K>,
    parts: [Option<Part>; 3],
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
            has_changes: false,
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
        let id = self.id(key);
        let account = self.account(&id);
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
            reservation: Reserved { account: id, parts },
            budget_states,
        })
    }

    /// Replaces the reservation by the `used` tokens, in the windows of the reservation. A window
    /// that has ended is not counted any more.
    pub(super) fn settle(&mut self, reserved: Reserved<K>, used: u64) {
        let account = match &reserved.account {
            AccountId::Key(key) => self.accounts.get_mut(key),
            AccountId::OtherKeys => Some(&mut self.overflow),
            AccountId::WithoutKey => Some(&mut self.without_key),
        };
        let Some(account) = account else { return };
        for part in reserved.parts.into_iter().flatten() {
            if let Some(count) = account.known(part.window, part.start) {
                count.reserved = count.reserved.saturating_sub(part.tokens);
                count.used = count.used.saturating_add(used);
                count.is_changed |= used > 0;
                self.has_changes |= used > 0;
            }
        }
    }

    /// Counts `used` tokens that nothing was reserved for, in the current windows of the budgets.
    #[cfg(feature = "redis")]
    pub(super) fn count(&mut self, key: Option<K>, budgets: &[Budget], used: u64, now: Timestamp) {
        if used == 0 {
            return;
        }
        self.update_spans(now);
        let spans = self.spans;
        self.has_changes = true;
        let count = |account: &mut Account| {
            for window in Window::ALL {
                if budgets.iter().any(|budget| budget.window() == window) {
                    let count = account.count(window, &spans[window as usize]);
                    count.used = count.used.saturating_add(used);
                    count.is_changed = true;
                }
            }
        };
        // Nearly all keys have an account, which one look-up finds.
        match key.as_ref().and_then(|key| self.accounts.get_mut(key)) {
            Some(account) => count(account),
            None => {
                let id = self.id(key);
                count(self.account(&id));
            }
        }
    }

    /// The current windows.
    #[cfg(feature = "redis")]
    pub(super) fn spans(&mut self, now: Timestamp) -> [Span; 3] {
        self.update_spans(now);
        self.spans
    }

    fn id(&mut self, key: Option<K>) -> AccountId<K> {
        match key {
            None => AccountId::WithoutKey,
            Some(key) if self.has_room(&key) => AccountId::Key(key),
            Some(_) => AccountId::OtherKeys,
        }
    }

    /// The used tokens that have changed since the last call, in windows that have not ended.
    pub(super) fn take_changes(&mut self, now: Timestamp) -> Vec<WindowUse<K>> {
        self.update_spans(now);
        if !std::mem::take(&mut self.has_changes) {
            return Vec::new();
        }
        let spans = &self.spans;
        let mut changes = Vec::new();
        let mut add = |account: &mut Account, id: &dyn Fn() -> AccountId<K>| {
            for window in Window::ALL {
                let span = &spans[window as usize];
                let Some(count) = account.known(window, span.start) else {
                    continue;
                };
                if std::mem::take(&mut count.is_changed) {
                    changes.push(WindowUse {
                        account: id(),
                        window,
                        start: span.start,
                        end: span.end,
                        used: count.used,
                    });
                }
            }
        };
        for (key, account) in &mut self.accounts {
            add(account, &|| AccountId::Key(key.clone()));
        }
        add(&mut self.overflow, &|| AccountId::OtherKeys);
        add(&mut self.without_key, &|| AccountId::WithoutKey);
        changes
    }

    /// Adds used tokens to the current windows, if they were used in windows that have not ended.
    pub(super) fn restore(
        &mut self,
        saved: impl IntoIterator<Item = WindowUse<K>>,
        now: Timestamp,
    ) {
        self.update_spans(now);
        for row in saved {
            if !(row.start..row.end).contains(&now) {
                continue;
            }
            let id = match row.account {
                AccountId::Key(key) if !self.has_room(&key) => AccountId::OtherKeys,
                id => id,
            };
            let span = self.spans[row.window as usize];
            let count = self.account(&id).count(row.window, &span);
            count.used = count.used.saturating_add(row.used);
        }
    }

    fn account(&mut self, id: &AccountId<K>) -> &mut Account {
        match id {
            AccountId::Key(key) => self.accounts.entry(key.clone()).or_default(),
            AccountId::OtherKeys => &mut self.overflow,
            AccountId::WithoutKey => &mut self.without_key,
        }
    }

    /// The used and reserved tokens of an account in its current window.
    pub(super) fn used(&mut self, key: Option<&K>, window: Window, now: Timestamp) -> u64 {
        self.update_spans(now);
        let account = match key {
            None => Some(&mut self.without_key),
            Some(key) => self.accounts.get_mut(key),
        };
        let start = self.spans[window as usize].start;
        let count = account.and_then(|account| account.known(window, start));
        count.map_or(0, |count| count.used.saturating_add(count.reserved))
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
            if span.contains(now) {
                continue;
            }
            let is_set_back = now < span.start;
            *span = window.span(now, &self.zone);
            if is_set_back {
                self.change_all(window);
            }
        }
    }

    /// Has the counts of a window saved again, because those of a later one may have replaced them.
    fn change_all(&mut self, window: Window) {
        let accounts = self.accounts.values_mut();
        for account in accounts.chain([&mut self.overflow, &mut self.without_key]) {
            for counts in [&mut account.counts, &mut account.others] {
                let count = &mut counts[window as usize];
                count.is_changed = count.used > 0;
            }
        }
        self.has_changes = true;
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
        let at = window as usize;
        let (count, other) = (&mut self.counts[at], &mut self.others[at]);
        if count.start != span.start {
            std::mem::swap(count, other);
        }
        if count.start != span.start {
            *count = Count {
                start: span.start,
                ..Count::default()
            };
        }
        count
    }

    /// The count of the window that began at `start`, unless it is forgotten.
    fn known(&mut self, window: Window, start: Timestamp) -> Option<&mut Count> {
        let at = window as usize;
        let both = [&mut self.counts[at], &mut self.others[at]];
        both.into_iter().find(|count| count.start == start)
    }

    fn left(&mut self, budget: &Budget, span: &Span) -> u64 {
        let count = self.count(budget.window(), span);
        let taken = count.used.saturating_add(count.reserved);
        budget.tokens().saturating_sub(taken)
    }

    fn is_in_use(&self, spans: &[Span; 3]) -> bool {
        let of_both = self.counts.iter().zip(&self.others).zip(spans);
        of_both
            .flat_map(|((count, other), span)| [(count, span), (other, span)])
            .any(|(count, span)| {
                count.start == span.start && (count.used > 0 || count.reserved > 0)
            })
    }
}
