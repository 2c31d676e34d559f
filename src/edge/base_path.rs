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
    fn strip<'a>(&self, path: &'a str) -> Option<&'a str> {
        match path.strip_prefix(&*self.0)? {
            "" => Some("/"),
            rest => rest.starts_with('/').then_some(rest),
        }
    }
}

/// The path that the stack knows: without the base path, and `/openai/v1/..` as `/v1/..`. `None` if
/// it is outside the base path.
///
/// Groq's API is below `/openai/v1`, and its libraries (PyPI `groq`, npm `groq-sdk`) append this to
/// the address that they are given.
pub(super) fn inside<'a>(base: Option<&BasePath>, path: &'a str) -> Option<&'a str> {
    let path = match base {
        Some(base) => base.strip(path)?,
        None => path,
    };
    match path.strip_prefix("/openai") {
        Some(rest) if rest.starts_with("/v1/") => Some(rest),
        _ => Some(path),
    }
}

/// The target with the path that the stack knows ([`inside`]), without scheme and authority. It is
/// copied into its own memory: otherwise it would keep hyper's whole read buffer alive until the end
/// of the stream.
pub(super) fn target_inside(base: Option<&BasePath>, target: &Uri) -> Option<Uri> {
    let given = target.path_and_query()?.as_str();
    let path = inside(base, target.path())?;
    let stripped = match (path.len() == target.path().len(), target.query()) {
        (true, _) => PathAndQuery::try_from(given),
        (false, Some(query)) => PathAndQuery::try_from(format!("{path}?{query}")),
        (false, None) => PathAndQuery::try_from(path),
    };
    stripped.ok().map(Uri::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groq_s_prefix_is_taken_off_after_the_base_path() {
        let base: BasePath = "/team".parse().expect("a base path");
        for (base, target, expected) in [
            (None, "/openai/v1/models?a=%2F", Some("/v1/models?a=%2F")),
            (None, "/openai/v1/models/a%2Fb", Some("/v1/models/a%2Fb")),
            (None, "/v1/models?a", Some("/v1/models?a")),
            (Some(&base), "/team/openai/v1/models", Some("/v1/models")),
            (Some(&base), "/team?a", Some("/?a")),
            (Some(&base), "/openai/v1/models", None),
            (Some(&base), "/teams/openai/v1/models", None),
        ] {
            let target = Uri::from_static(target);
            let inside = target_inside(base, &target).map(|uri| uri.to_string());
            assert_eq!(inside.as_deref(), expected, "{target}");
        }
    }

    #[test]
    fn other_paths_below_openai_stay_unknown() {
        for path in [
            "/openai",
            "/openai/",
            "/openai/api/tags",
            "/openai/v1",
            "/openai/v1x/models",
            "/openai/openai/v1/models",
            "/OpenAI/v1/models",
            "/x/openai/v1/models",
        ] {
            let inside = inside(None, path).expect("a path");
            assert!(!inside.starts_with("/v1"), "{path}: {inside}");
        }
    }
}
