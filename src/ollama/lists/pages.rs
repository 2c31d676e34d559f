//! Asks all backends for a page.

use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use serde::Deserialize;
use serde_json::json;
use tokio::time::timeout;

use super::as_models;
use crate::ollama::fleet::{Backend, Unreachable};

/// The lowest version of all backends: a client can rely on it at every backend.
///
/// # Errors
/// No backend responded; the error is that of the first backend.
pub(in crate::ollama) async fn lowest_version<'a>(
    backends: impl Iterator<Item = &'a Backend>,
    limit: Duration,
) -> Result<Bytes, Unreachable> {
    let pages = pages_of(backends, "/api/version", limit).await?;
    let pages = pages.into_iter().map(|(_, page)| page);
    let lowest = pages.min_by_key(|page| version_in(page));
    Ok(lowest.unwrap_or_default())
}

fn version_in(page: &[u8]) -> Option<semver::Version> {
    #[derive(Deserialize)]
    struct Page {
        version: String,
    }
    let page: Page = serde_json::from_slice(page).ok()?;
    semver::Version::parse(&page.version).ok()
}

/// The page of each backend that is up and responds in time or has done so lately; if none is up, of each
/// that responds.
///
/// # Errors
/// No backend responded; the error is that of the first backend.
pub(super) async fn pages_of<'a>(
    backends: impl Iterator<Item = &'a Backend>,
    path: &'static str,
    limit: Duration,
) -> Result<Vec<(&'a Backend, Bytes)>, Unreachable> {
    let (up, down): (Vec<_>, Vec<_>) = backends.partition(|backend| backend.is_up());
    let backends = if up.is_empty() { down } else { up };
    let answers = join_all(backends.iter().map(|backend| page_of(backend, path, limit))).await;
    let mut pages = Vec::with_capacity(answers.len());
    let mut first_error = None;
    for (backend, answer) in backends.into_iter().zip(answers) {
        match answer {
            Ok(page) => pages.push((backend, page)),
            Err(error) => first_error = first_error.or(Some(error)),
        }
    }
    match first_error {
        Some(error) if pages.is_empty() => Err(error),
        _ => Ok(pages),
    }
}

/// The part of the time-out that a server has if the gateway knows what it has said lately.
const PART_IF_KNOWN: u32 = 4;

/// The page of one server. A server that counts as up but is late may be down or busy: what it has
/// said lately stands for its answer then, so that the list neither waits for it nor lacks its models.
async fn page_of(
    backend: &Backend,
    path: &'static str,
    limit: Duration,
) -> Result<Bytes, Unreachable> {
    let asked = backend.page(path, limit);
    if !backend.is_up() {
        return asked.await;
    }
    let mut asked = pin!(asked);
    match timeout(limit / PART_IF_KNOWN, &mut asked).await {
        Ok(page) => page,
        Err(_) => match last_page(backend, path) {
            Some(page) => Ok(page),
            None => asked.await,
        },
    }
}

/// What a server has said lately, as the page of this path.
fn last_page(backend: &Backend, path: &str) -> Option<Bytes> {
    match path {
        "/api/version" => {
            let version = backend.version()?;
            Some(json!({ "version": &*version }).to_string().into())
        }
        // Probes do not read it. The list of an OpenAI-compatible server has other names than tags.
        "/v1/models" if backend.openai().is_some() => None,
        "/v1/models" => backend.last_list("/api/tags").map(|tags| as_models(&tags)),
        path => backend.last_list(path),
    }
}

#[cfg(test)]
mod tests {
    use super::version_in;

    #[test]
    fn a_release_candidate_is_lower_than_its_release() {
        let candidate = version_in(br#"{"version":"0.33.0-rc2"}"#);
        assert!(candidate < version_in(br#"{"version":"0.33.0"}"#));
        assert!(version_in(br#"{"version":"0.9.1"}"#) < version_in(br#"{"version":"0.17.4"}"#));
    }
}
