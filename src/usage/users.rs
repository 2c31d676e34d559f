//! The users of keys that have rows of their own.

use std::sync::{Arc, Mutex, PoisonError};

use foldhash::HashSet;

use crate::clients::delegation::{key_of_user, other_users};

/// The number of users of all keys with rows of their own on one day. The others of a key share the row
/// `KEY/(others)`. With 1000 users that use 2 models each day, 400 days take about 80 MB.
const USERS: usize = 1000;

/// The users of the current day.
#[derive(Debug, Default)]
pub(super) struct Users(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    day: i32,
    names: HashSet<Arc<str>>,
}

impl Users {
    /// The name of the row for a key or a user of a key.
    pub(super) fn row(&self, name: Arc<str>, day: i32) -> Arc<str> {
        if key_of_user(&name).is_none() {
            return name;
        }
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.day != day {
            known.day = day;
            known.names.clear();
        }
        if known.names.contains(&name) {
            return name;
        }
        if known.names.len() < USERS {
            known.names.insert(name.clone());
            return name;
        }
        other_users(&name).unwrap_or(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_users_is_limited_each_day() {
        let users = Users::default();
        let row = |name: String, day| users.row(name.into(), day).to_string();
        for number in 0..USERS {
            let name = format!("webui/{number}");
            assert_eq!(row(name.clone(), 1), name);
        }
        assert_eq!(row("webui/one more".to_owned(), 1), "webui/(others)");
        assert_eq!(row("webui/7".to_owned(), 1), "webui/7");
        assert_eq!(row("ada".to_owned(), 1), "ada", "a key always has a row");
        assert_eq!(row("webui/one more".to_owned(), 2), "webui/one more");
    }
}
