//! The environment variables that settings are read from.

use std::collections::{BTreeMap, BTreeSet};

/// Environment variables, by name. Values may be secrets, so `Debug` shows only names.
#[derive(Clone, Default)]
pub struct Environment {
    variables: BTreeMap<String, String>,
    /// Names of variables whose values are not UTF-8.
    unreadable: BTreeSet<String>,
}

impl Environment {
    /// The variables of this process.
    pub fn of_process() -> Self {
        let mut environment = Self::default();
        for (name, value) in std::env::vars_os() {
            // No setting's name contains anything other than UTF-8.
            let Ok(name) = name.into_string() else {
                continue;
            };
            match value.into_string() {
                Ok(value) => {
                    environment.variables.insert(name, value);
                }
                Err(_) => {
                    environment.unreadable.insert(name);
                }
            }
        }
        environment
    }

    /// The value of a variable; a blank one counts as not set.
    pub fn get(&self, name: &str) -> Option<&str> {
        let value = self.variables.get(name).map(String::as_str);
        value.filter(|value| !is_blank(value))
    }

    /// Whether a variable is set to a blank value.
    pub(super) fn is_blank(&self, name: &str) -> bool {
        self.variables
            .get(name)
            .is_some_and(|value| is_blank(value))
    }

    /// Whether a variable is set to a value that is not UTF-8.
    pub(super) fn is_unreadable(&self, name: &str) -> bool {
        self.unreadable.contains(name)
    }

    /// The names of all variables, including those with blank values.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        let readable = self.variables.keys();
        readable.chain(&self.unreadable).map(String::as_str)
    }
}

/// Some editors write a byte order mark before a text.
fn is_blank(value: &str) -> bool {
    value.trim_start_matches('\u{feff}').trim().is_empty()
}

impl<N: Into<String>, V: Into<String>> FromIterator<(N, V)> for Environment {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(variables: I) -> Self {
        let variables = variables.into_iter();
        Self {
            variables: variables
                .map(|(name, value)| (name.into(), value.into()))
                .collect(),
            unreadable: BTreeSet::new(),
        }
    }
}

impl std::fmt::Debug for Environment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.names()).finish()
    }
}
