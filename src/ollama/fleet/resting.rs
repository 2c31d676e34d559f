//! All that could serve a request are left alone for a moment.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use llamatower_layers::{Fail, Retryable, Side};

/// The breakers of all backends that could serve a request are open.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{} failed several times of late and {} left alone for a moment; try again in {:.0} s",
    match &backends[..] {
        [one] => format!("the backend {one} has"),
        several => format!("the backends {} have", several.join(", ")),
    },
    if backends.len() == 1 { "is" } else { "are" },
    retry_after.as_secs_f64().ceil(),
)]
pub struct BackendsResting {
    /// Who they are.
    pub backends: Vec<Arc<str>>,
    /// After how long the first of them may be tried again.
    pub retry_after: Duration,
}

impl Fail for BackendsResting {
    fn side(&self) -> Side {
        Side::Gateway
    }
    fn status(&self) -> StatusCode {
        StatusCode::SERVICE_UNAVAILABLE
    }
    fn kind(&self) -> &'static str {
        "circuit_open"
    }
    fn retryable(&self) -> Retryable {
        Retryable::Yes
    }
    fn retry_after(&self) -> Option<Duration> {
        Some(self.retry_after)
    }
}
