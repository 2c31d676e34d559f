//! Token windows of the day and the month.

use std::hash::Hash;
use std::sync::Arc;

use jiff::Timestamp;
use llamatower_layers::token_limit::{AccountId, MemoryStore, Window, WindowUse};

use super::{Changes, Persist, Restored, WindowCount, WindowKey};
use crate::clients::Client;

/// Keys beyond the number that the store counts by themselves.
const OTHER_KEYS: &str = "others";
/// Requests without a key.
const WITHOUT_KEY: &str = "none";

/// An account as a text in the file.
pub trait AccountText: Sized {
    /// The text. It is neither `others` nor `none`.
    fn text(&self) -> String;
    /// The account of a text; `None` if it is not one.
    fn of_text(text: &str) -> Option<Self>;
}

impl AccountText for Client {
    fn text(&self) -> String {
        self.to_string()
    }
    fn of_text(text: &str) -> Option<Self> {
        match text.split_once(':')? {
            ("key", name) => Some(Self::Key(name.into())),
            ("user", name) => Some(Self::User(name.into())),
            ("address", address) => address.parse().ok().map(Self::Address),
            _ => None,
        }
    }
}

/// All clients together.
impl AccountText for () {
    fn text(&self) -> String {
        "all".to_owned()
    }
    fn of_text(text: &str) -> Option<Self> {
        (text == "all").then_some(())
    }
}

/// The windows of one limit. Those of a minute are not kept: a restart takes a good part of it.
pub struct Windows<K> {
    limit: Arc<str>,
    store: MemoryStore<K>,
}

impl<K: Hash + Eq + Clone> Windows<K> {
    /// Those of `store`, under the name of the limit.
    pub fn new(limit: &str, store: MemoryStore<K>) -> Self {
        let limit = limit.into();
        Self { limit, store }
    }
}

impl<K: AccountText + Hash + Eq + Clone + Send> Persist for Windows<K> {
    fn take_changes(&self, changes: &mut Changes) {
        for row in self.store.take_changes() {
            if row.window == Window::Minute {
                continue;
            }
            let key = WindowKey {
                limit: self.limit.clone(),
                account: match &row.account {
                    AccountId::Key(key) => key.text(),
                    AccountId::OtherKeys => OTHER_KEYS.to_owned(),
                    AccountId::WithoutKey => WITHOUT_KEY.to_owned(),
                },
                window: row.window,
            };
            let count = WindowCount {
                start: row.start.as_second(),
                end: row.end.as_second(),
                used: row.used,
            };
            changes.windows.insert(key, count);
        }
    }

    fn restore(&self, stored: &Restored) {
        let own = stored.windows.iter();
        let own = own.filter(|(key, _)| key.limit == self.limit);
        let rows = own.filter_map(|(key, count)| {
            Some(WindowUse {
                account: match &*key.account {
                    OTHER_KEYS => AccountId::OtherKeys,
                    WITHOUT_KEY => AccountId::WithoutKey,
                    text => AccountId::Key(K::of_text(text)?),
                },
                window: key.window,
                start: Timestamp::from_second(count.start).ok()?,
                end: Timestamp::from_second(count.end).ok()?,
                used: count.used,
            })
        });
        self.store.restore(rows);
    }
}

impl<K> std::fmt::Debug for Windows<K> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Windows").field(&self.limit).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_of_an_account_names_it() {
        for client in [
            Client::Key("webui".into()),
            Client::User("webui/ada:b/c@example.org".into()),
            Client::Address([10, 0, 0, 7].into()),
        ] {
            assert_eq!(Client::of_text(&client.text()), Some(client));
        }
    }
}
