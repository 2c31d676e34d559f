//! How long the service gets no requests.
//!
//! A single failure begins no rest, because the request may be its cause: others would not be served
//! for it. A rest begins if the service asks for it, cannot be reached, or fails several times in a row
//! for more than one client.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::header::RETRY_AFTER;
use http::{HeaderMap, Response, StatusCode};
use jiff::Timestamp;
use llamatower_layers::{BoxError, Failure};
use tokio::time::Instant;

use crate::clients::Client;
use crate::ollama::upstream::{ConnectFailed, ConnectTimeout};

/// The rest after a refusal for too many requests that does not say how long to wait.
const AFTER_REFUSAL: Duration = Duration::from_secs(30);

/// The rest after failures, so that not each request waits for the next one.
const AFTER_FAILURE: Duration = Duration::from_secs(2);

/// So many failures in a row begin a rest.
const FAILURES: u32 = 3;

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
pub struct Rest(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    until: Option<Instant>,
    failures: Option<Failures>,
}

/// The failures since the last request that the service has answered or refused.
#[derive(Debug)]
struct Failures {
    count: u32,
    /// The client of the first one.
    client: Option<Client>,
    are_of_several_clients: bool,
}

impl Rest {
    /// How long it still rests; `None` if it gets requests.
    pub fn left(&self) -> Option<Duration> {
        let left = self
            .state()
            .until?
            .saturating_duration_since(Instant::now());
        (left > Duration::ZERO).then_some(left)
    }

    /// Notes the result of a request of this client: the head of an answer, with the limits in it, or
    /// an error before it.
    pub(super) fn note<R>(&self, client: Option<Client>, answer: &Result<Response<R>, BoxError>) {
        let mut state = self.state();
        match answer {
            Ok(answer) => {
                let status = answer.status();
                if let Some((rest, reason)) = rest_after(status, answer.headers()) {
                    state.begin(rest, reason);
                } else if is_failure(status) {
                    state.count(client);
                }
                if !is_failure(status) {
                    state.failures = None;
                }
            }
            Err(error) if cannot_connect(error) => {
                state.begin(AFTER_FAILURE, "it cannot be reached");
            }
            Err(_) => state.count(client),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn count(&mut self, client: Option<Client>) {
        let failures = self.failures.get_or_insert_with(|| Failures {
            count: 0,
            client: client.clone(),
            are_of_several_clients: false,
        });
        failures.count = failures.count.saturating_add(1);
        failures.are_of_several_clients |= failures.client != client;
        if failures.count >= FAILURES && failures.are_of_several_clients {
            self.begin(AFTER_FAILURE, "it failed several times in a row");
        }
    }

    fn begin(&mut self, rest: Duration, reason: &'static str) {
        let rest = rest.min(LONGEST);
        let until = Instant::now() + rest;
        if self.until.is_none_or(|known| known < until) {
            self.until = Some(until);
            let seconds = rest.as_secs_f64();
            tracing::warn!(
                seconds,
                reason,
                "the cloud service gets no requests for some time"
            );
        }
    }
}

fn cannot_connect(error: &BoxError) -> bool {
    Failure::find(&**error).is_some_and(|failure| {
        failure.caused_by::<ConnectFailed>().is_some()
            || failure.caused_by::<ConnectTimeout>().is_some()
    })
}

/// Whether an answer is a failure that may be that of the service or that of the request. Services
/// refuse some requests for their content with 403.
fn is_failure(status: StatusCode) -> bool {
    status.is_server_error() || status == StatusCode::FORBIDDEN
}

/// How long to wait after an answer, and why.
fn rest_after(status: StatusCode, headers: &HeaderMap) -> Option<(Duration, &'static str)> {
    let exhausted = exhausted_for(headers);
    let asked = retry_after(headers).max(exhausted);
    if matches!(status.as_u16(), 429 | CAPACITY_EXCEEDED) {
        return Some((asked.unwrap_or(AFTER_REFUSAL), "it refused a request"));
    }
    // A key that is wrong now is wrong for some time.
    if status == StatusCode::UNAUTHORIZED {
        return Some((AFTER_REFUSAL, "it refused the key"));
    }
    if status.is_server_error() {
        return asked.map(|rest| (rest, "it asked to wait"));
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
        assert_eq!(rest(429, &[]), Some(30.0));
        assert_eq!(rest(529, &[("retry-after", "9")]), Some(9.0));
        for status in [403, 500, 503] {
            assert_eq!(rest(status, &[]), None, "{status}: it may be the request's");
        }
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

    fn client(name: &str) -> Option<Client> {
        Some(Client::Key(name.into()))
    }

    fn answered(status: u16) -> Result<Response<()>, BoxError> {
        Ok(Response::builder().status(status).body(()).unwrap())
    }

    #[tokio::test(start_paused = true)]
    async fn the_failures_of_one_client_begin_no_rest() {
        for status in [403, 500, 502, 503] {
            let service = Rest::default();
            for _ in 0..20 {
                service.note(client("ada"), &answered(status));
            }
            assert_eq!(service.left(), None, "{status}");
            service.note(client("bob"), &answered(200));
            service.note(client("ada"), &answered(status));
            service.note(client("bob"), &answered(400));
            service.note(client("bob"), &answered(status));
            assert_eq!(service.left(), None, "{status}: not in a row");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn failures_in_a_row_of_several_clients_begin_a_rest_and_another_one_goes_on_with_it() {
        let service = Rest::default();
        service.note(client("ada"), &answered(500));
        service.note(client("ada"), &answered(500));
        assert_eq!(service.left(), None);
        service.note::<()>(client("bob"), &Err("the connection broke".into()));
        assert_eq!(service.left(), Some(AFTER_FAILURE));
        tokio::time::advance(AFTER_FAILURE).await;
        assert_eq!(service.left(), None);
        service.note(client("ada"), &answered(500));
        assert_eq!(service.left(), Some(AFTER_FAILURE));
    }

    #[tokio::test(start_paused = true)]
    async fn it_rests_until_the_later_time_and_no_longer() {
        let service = Rest::default();
        assert_eq!(service.left(), None);
        let begin = |rest| service.state().begin(rest, "test");
        begin(Duration::from_secs(10));
        begin(Duration::from_secs(2));
        tokio::time::advance(Duration::from_secs(9)).await;
        assert_eq!(service.left(), Some(Duration::from_secs(1)));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(service.left(), None);
        begin(Duration::MAX);
        assert_eq!(service.left(), Some(LONGEST));
    }
}
