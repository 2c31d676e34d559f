//! How long the service gets no requests.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use http::header::RETRY_AFTER;
use http::{HeaderMap, StatusCode};
use jiff::Timestamp;
use tokio::time::Instant;

/// The rest after a refusal for too many requests that does not say how long to wait.
const AFTER_REFUSAL: Duration = Duration::from_secs(30);

/// The rest after a failure, so that not each request waits for the next one.
const AFTER_FAILURE: Duration = Duration::from_secs(2);

/// No rest is longer, whatever the service says.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

/// Groq's status for a flex request when its capacity is used up.
const CAPACITY_EXCEEDED: u16 = 498;

/// The kinds of limits in `x-ratelimit-*`.
const KINDS: [(&str, &str); 2] = [
    (
        "x-ratelimit-remaining-requests",
        "x-ratelimit-reset-requests",
    ),
    ("x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens"),
];

/// Until when the service gets no requests.
#[derive(Debug, Default)]
pub struct Rest(Mutex<Option<Instant>>);

impl Rest {
    /// How long it still rests; `None` if it gets requests.
    pub fn left(&self) -> Option<Duration> {
        let until = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let left = until?.saturating_duration_since(Instant::now());
        (left > Duration::ZERO).then_some(left)
    }

    /// Reads the limits in the head of an answer.
    pub(super) fn note(&self, status: StatusCode, headers: &HeaderMap) {
        if let Some((rest, reason)) = rest_after(status, headers) {
            self.begin(rest, reason);
        }
    }

    /// The service could not be reached.
    pub(super) fn note_failure(&self) {
        self.begin(AFTER_FAILURE, "it failed");
    }

    fn begin(&self, rest: Duration, reason: &'static str) {
        let rest = rest.min(LONGEST);
        let until = Instant::now() + rest;
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.is_none_or(|known| known < until) {
            *known = Some(until);
            let seconds = rest.as_secs_f64();
            tracing::warn!(
                seconds,
                reason,
                "the cloud service gets no requests for some time"
            );
        }
    }
}

/// How long to wait after an answer, and why.
fn rest_after(status: StatusCode, headers: &HeaderMap) -> Option<(Duration, &'static str)> {
    let exhausted = exhausted_for(headers);
    let is_refusal = matches!(status.as_u16(), 429 | CAPACITY_EXCEEDED | 503);
    if is_refusal {
        let wait = retry_after(headers).max(exhausted);
        return Some((wait.unwrap_or(AFTER_REFUSAL), "it refused a request"));
    }
    // A key that is wrong now is wrong for some time.
    if matches!(status.as_u16(), 401 | 403) {
        return Some((AFTER_REFUSAL, "it refused the key"));
    }
    if status.is_server_error() {
        return Some((retry_after(headers).unwrap_or(AFTER_FAILURE), "it failed"));
    }
    exhausted.map(|reset| (reset, "its limit is used up"))
}

/// `Retry-After`: seconds, or a date (RFC 9110 10.2.3).
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Duration::try_from_secs_f64(seconds).ok();
    }
    let date = jiff::fmt::rfc2822::parse(text).ok()?;
    let wait = date.timestamp().duration_since(Timestamp::now());
    Duration::try_from(wait).ok()
}

/// The time until the last of the limits that are used up is reset.
fn exhausted_for(headers: &HeaderMap) -> Option<Duration> {
    let text = |name| headers.get(name)?.to_str().ok();
    let resets = KINDS.iter().filter_map(|(remaining, reset)| {
        let is_used_up = text(*remaining)?.trim().parse() == Ok(0_u64);
        is_used_up.then(|| time(text(*reset)?)).flatten()
    });
    resets.max()
}

/// A time as Groq and OpenAI write it (`2m59.56s`, `7.66s`, `120ms`), or a number of seconds.
fn time(text: &str) -> Option<Duration> {
    let mut rest = text.trim();
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| c != '.' && !c.is_ascii_digit());
        let (number, after) = rest.split_at(digits.unwrap_or(rest.len()));
        let letters = after.find(|c: char| !c.is_ascii_alphabetic());
        let (unit, after) = after.split_at(letters.unwrap_or(after.len()));
        let unit = match unit {
            "ms" => 0.001,
            "" | "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            "d" => 86_400.0,
            _ => return None,
        };
        seconds += number.parse::<f64>().ok()? * unit;
        rest = after;
    }
    Duration::try_from_secs_f64(seconds).ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn rest(status: u16, fields: &[(&'static str, &str)]) -> Option<f64> {
        let fields = fields.iter();
        let fields = fields.map(|(name, value)| {
            (
                name.parse::<http::HeaderName>().unwrap(),
                value.parse().unwrap(),
            )
        });
        let status = StatusCode::from_u16(status).unwrap();
        let rest = rest_after(status, &fields.collect());
        rest.map(|(rest, _)| rest.as_secs_f64())
    }

    #[test]
    fn a_refusal_says_how_long_to_wait() {
        assert_eq!(rest(429, &[("retry-after", "7")]), Some(7.0));
        assert_eq!(rest(498, &[]), Some(30.0));
        assert_eq!(rest(503, &[("retry-after", "1.5")]), Some(1.5));
        let used_up = [
            ("retry-after", "2"),
            ("x-ratelimit-remaining-tokens", "0"),
            ("x-ratelimit-reset-tokens", "2m59.5s"),
        ];
        assert_eq!(rest(429, &used_up), Some(179.5));
        assert_eq!(rest(500, &[]), Some(2.0));
        assert_eq!(rest(401, &[]), Some(30.0));
        let date = [("retry-after", "Wed, 21 Oct 2099 07:28:00 GMT")];
        assert!(rest(429, &date) > Some(1e9));
        let past = [("retry-after", "Wed, 21 Oct 2015 07:28:00 GMT")];
        assert_eq!(rest(429, &past), Some(30.0));
        assert_eq!(rest(429, &[("retry-after", "soon")]), Some(30.0));
    }

    #[test]
    fn the_last_request_of_a_limit_says_when_it_is_reset() {
        let left = |remaining, reset| {
            let fields = [
                ("x-ratelimit-remaining-requests", remaining),
                ("x-ratelimit-reset-requests", reset),
            ];
            rest(200, &fields)
        };
        assert_eq!(left("0", "120ms"), Some(0.12));
        assert_eq!(left("0", "1h2m"), Some(3720.0));
        assert_eq!(left("1", "1h2m"), None);
        assert_eq!(left("0", "tomorrow"), None);
        assert_eq!(rest(200, &[]), None);
        assert_eq!(rest(404, &[]), None);
    }

    #[tokio::test(start_paused = true)]
    async fn it_rests_until_the_later_time_and_no_longer() {
        let service = Rest::default();
        assert_eq!(service.left(), None);
        service.begin(Duration::from_secs(10), "test");
        service.begin(Duration::from_secs(2), "test");
        tokio::time::advance(Duration::from_secs(9)).await;
        assert_eq!(service.left(), Some(Duration::from_secs(1)));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(service.left(), None);
        service.begin(Duration::MAX, "test");
        assert_eq!(service.left(), Some(LONGEST));
    }
}
