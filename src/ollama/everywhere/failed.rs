//! The servers on which a management request failed, and why.

use std::error::Error;
use std::fmt;
use std::sync::Arc;

use http::StatusCode;
use llamatower_layers::{Fail, Failure, Side};
use serde::Deserialize;

/// A server on which the request failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FailedServer {
    pub(super) server: Arc<str>,
    /// The status of its response, if it has refused the request; 504 if it did not respond in time.
    pub(super) status: Option<StatusCode>,
    pub(super) reason: String,
}

/// A management request failed on some of its servers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ServersFailed {
    /// The number of servers that were asked.
    count: usize,
    failed: Vec<FailedServer>,
}

impl ServersFailed {
    pub(super) fn new(count: usize, failed: Vec<FailedServer>) -> Self {
        Self { count, failed }
    }
}

impl fmt::Display for ServersFailed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let servers = if self.count == 1 { "server" } else { "servers" };
        let failed = self.failed.len();
        write!(f, "{failed} of {} {servers} failed: ", self.count)?;
        for (place, row) in self.failed.iter().enumerate() {
            let separator = if place == 0 { "" } else { "; " };
            write!(f, "{separator}{}: {}", row.server, row.reason)?;
        }
        Ok(())
    }
}

impl Error for ServersFailed {}

impl Fail for ServersFailed {
    fn side(&self) -> Side {
        match self.status().is_client_error() {
            true => Side::Client,
            false => Side::Upstream,
        }
    }

    /// The status of all servers, if all have refused the request with the same one.
    fn status(&self) -> StatusCode {
        let first = self.failed.first().and_then(|row| row.status);
        let is_common =
            self.failed.len() == self.count && self.failed.iter().all(|row| row.status == first);
        match first.filter(|_| is_common) {
            Some(status) => status,
            None => StatusCode::BAD_GATEWAY,
        }
    }

    fn kind(&self) -> &'static str {
        "servers_failed"
    }
}

/// The status for a client if a server did not respond in time.
pub(super) fn timeout_status(error: &(dyn Error + 'static)) -> Option<StatusCode> {
    let status = Failure::find(error)?.status();
    Some(status).filter(|status| *status == StatusCode::GATEWAY_TIMEOUT)
}

/// The text of a failed exchange that a client may see.
pub(super) fn text_of(error: &(dyn Error + 'static)) -> String {
    match Failure::find(error) {
        Some(failure) => failure.to_string(),
        None => "the response cannot be read".to_owned(),
    }
}

/// The error in a response of Ollama, if it is one.
pub(super) fn error_text(answer: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Page {
        error: String,
    }
    let page: Option<Page> = serde_json::from_slice(answer).ok();
    page.map(|page| page.error)
}
