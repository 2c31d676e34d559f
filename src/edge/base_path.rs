//! A prefix of every path.

use std::fmt;
use std::str::FromStr;

use http::Uri;
use http::uri::PathAndQuery;

/// A prefix of every path, for clients that use `https://gateway/prefix` as the server's address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BasePath(String);

/// The text is not a base path.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a base path: it must begin with / and contain only letters, digits, '-', '_', '.' and single slashes"
)]
pub struct InvalidBasePath(String);

impl FromStr for BasePath {
    type Err = InvalidBasePath;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let path = text.strip_suffix('/').unwrap_or(text);
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
        let is_valid = path.strip_prefix('/').is_some_and(|rest| {
            rest.split('/')
                .all(|part| !matches!(part, "" | "." | "..") && part.bytes().all(plain))
        });
        if is_valid {
            Ok(Self(path.to_owned()))
        } else {
            Err(InvalidBasePath(text.to_owned()))
        }
    }
}

impl fmt::Display for BasePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl BasePath {
    /// The path without the prefix; `None` if it does not begin with the prefix.
    pub(super) fn strip<'a>(&self, path: &'a str) -> Option<&'a str> {
        match path.strip_prefix(&*self.0)? {
            "" => Some("/"),
            rest => rest.starts_with('/').then_some(rest),
        }
    }

    /// The target without the prefix; the rest is unchanged.
    pub(super) fn strip_uri(&self, uri: &Uri) -> Option<Uri> {
        let path = self.strip(uri.path())?;
        let target = match uri.query() {
            Some(query) => format!("{path}?{query}"),
            None => path.to_owned(),
        };
        PathAndQuery::try_from(target).ok().map(Uri::from)
    }
}
