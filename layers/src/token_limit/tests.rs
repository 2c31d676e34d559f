#![allow(clippy::unwrap_used)]

use std::future::{Future, pending};
use std::num::NonZeroU64;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use http::request::Parts;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;
use tower::{Layer, ServiceBuilder, ServiceExt, service_fn};

use super::ledger::Ledger;
use super::*;
use crate::store::{NoLimitKey, Replicas, StoreUnavailable, WhenUnavailable, WithoutKey};
use crate::usage::UsageLayer;
use crate::{BoxError, Failure};

const NOON: &str = "2028-02-29T12:00:00Z";
const LINE: &str = "{\"response\":\"a\",\"done\":false}\n";
const LAST: &str = "{\"done\":true,\"prompt_eval_count\":30,\"eval_count\":12}\n";

/// A clock that the test sets.
#[derive(Clone)]
struct Clock(Arc<Mutex<Timestamp>>);

impl Clock {
    fn new() -> Self {
        Self(Arc::new(Mutex::new(NOON.parse().unwrap())))
    }

    fn advance(&self, seconds: i64) {
        *self.0.lock().unwrap() += SignedDuration::from_secs(seconds);
    }

    fn store(&self) -> MemoryStore<String> {
        let clock = self.clone();
        MemoryStore::with_clock(TimeZone::UTC, move || *clock.0.lock().unwrap())
    }
}

fn budget(tokens: u64, window: Window) -> Budget {
    Budget::new(NonZeroU64::new(tokens).unwrap(), window)
}

fn key_of(request: &Parts) -> Option<String> {
    let key = request.headers.get("key")?;
    Some(key.to_str().unwrap().to_owned())
}

type KeyOf = fn(&Parts) -> Option<String>;

/// The behaviour of a scripted backend.
#[derive(Clone, Copy, Debug)]
enum Backend {
    /// Sends these frames and ends.
    Sends(&'static [&'static str]),
    /// Sends these frames and then pauses for ever.
    Stalls(&'static [&'static str]),
    Refuses(StatusCode),
    Fails,
}

type Frames = Pin<Box<dyn futures_util::Stream<Item = Result<Frame<Bytes>, BoxError>> + Send>>;

async fn answer(backend: Backend) -> Result<Response<StreamBody<Frames>>, BoxError> {
    let (status, lines): (_, &[&str]) = match backend {
        Backend::Sends(lines) | Backend::Stalls(lines) => (StatusCode::OK, lines),
        Backend::Refuses(status) => (status, &["{\"error\":\"no\"}"]),
        Backend::Fails => return Err("broken".into()),
    };
    let said = lines.iter().map(|line| Ok(Frame::data(Bytes::from(*line))));
    let said = futures_util::stream::iter(said);
    let frames: Frames = match backend {
        Backend::Stalls(_) => Box::pin(said.chain(futures_util::stream::once(pending()))),
        _ => Box::pin(said),
    };
    let answer = Response::builder()
        .status(status)
        .header("content-type", "application/x-ndjson");
    Ok(answer.body(StreamBody::new(frames))?)
}

type Answer = Response<Guarded>;
type Guarded = http_body_util::combinators::UnsyncBoxBody<Bytes, BoxError>;

/// Sends a request of `key` through `layer`, with an estimate of 10 tokens.
async fn send<T>(
    layer: &TokenLimitLayer<String, KeyOf, T>,
    key: &str,
    backend: Backend,
) -> Result<Answer, BoxError>
where
    T: TokenStore<String> + Send + Sync + 'static,
    T::Reservation: Send + 'static,
{
    let request = Request::builder().header("key", key);
    send_request(layer, request, backend).await
}

async fn send_request<T>(
    layer: &TokenLimitLayer<String, KeyOf, T>,
    request: http::request::Builder,
    backend: Backend,
) -> Result<Answer, BoxError>
where
    T: TokenStore<String> + Send + Sync + 'static,
    T::Reservation: Send + 'static,
{
    let service = ServiceBuilder::new()
        .layer(layer.clone())
        .layer(UsageLayer::new())
        .service(service_fn(move |_: Request<String>| answer(backend)));
    let request = request.body("x".repeat(40)).unwrap();
    let answer = service.oneshot(request).await?;
    Ok(answer.map(Guarded::new))
}

fn layer(store: MemoryStore<String>, budgets: &[Budget]) -> TokenLimitLayer<String, KeyOf> {
    TokenLimitLayer::with_store(store, budgets.iter().copied(), key_of as KeyOf)
}

fn remaining(headers: &HeaderMap) -> Vec<String> {
    let fields = headers.get_all("ratelimit").iter();
    fields
        .map(|field| field.to_str().unwrap().to_owned())
        .collect()
}

/// The tokens that a key has left in a budget of `of`.
async fn left(store: &MemoryStore<String>, of: u64) -> u64 {
    let reserved = store.reserve(Some("ada".into()), &[budget(of, Window::Day)], 0);
    let granted = reserved.await.unwrap().unwrap();
    granted.budget_states[0].remaining
}

#[tokio::test]
async fn an_answer_is_charged_what_the_backend_counted() {
    let store = Clock::new().store();
    let layer = layer(store.clone(), &[budget(100, Window::Day)]);
    let answer = send(&layer, "ada", Backend::Sends(&[LINE, LAST]))
        .await
        .unwrap();
    assert_eq!(left(&store, 100).await, 90, "the estimate is reserved");
    assert_eq!(remaining(answer.headers()), ["\"tokens-day\";r=90;t=43200"]);
    assert_eq!(
        answer.headers()["ratelimit-policy"],
        "\"tokens-day\";q=100;w=86400"
    );
    answer.into_body().collect().await.unwrap();
    assert_eq!(left(&store, 100).await, 58);
}

#[tokio::test]
async fn an_answer_without_counts_is_charged_by_estimate_and_lines() {
    for (backend, used) in [
        (Backend::Sends(&[LINE, LINE]), 12),
        (Backend::Stalls(&[LINE, LINE, LINE]), 13),
        (Backend::Stalls(&[]), 10),
        (Backend::Refuses(StatusCode::NOT_FOUND), 0),
        (Backend::Fails, 0),
    ] {
        let store = Clock::new().store();
        let layer = layer(store.clone(), &[budget(100, Window::Day)]);
        if let Ok(answer) = send(&layer, "ada", backend).await {
            let mut body = answer.into_body();
            let lines = async { while body.frame().await.is_some() {} };
            let _ = tokio::time::timeout(Duration::from_millis(1), lines).await;
        }
        assert_eq!(left(&store, 100).await, 100 - used, "{backend:?}");
    }
}

#[tokio::test]
async fn a_request_that_is_dropped_before_its_answer_costs_nothing() {
    let store = Clock::new().store();
    let layer = layer(store.clone(), &[budget(100, Window::Day)]);
    let service = layer.layer(service_fn(|_: Request<String>| {
        pending::<Result<Response<String>, BoxError>>()
    }));
    let request = Request::builder().header("key", "ada").body("x".repeat(40));
    let mut call = tokio_test::task::spawn(service.oneshot(request.unwrap()));
    assert!(call.poll().is_pending());
    assert_eq!(left(&store, 100).await, 90);
    drop(call);
    assert_eq!(left(&store, 100).await, 100);
}

#[tokio::test]
async fn the_expected_output_is_reserved_and_only_what_was_used_is_charged() {
    for (backend, used) in [
        (Backend::Sends(&[LINE, LAST]), 42),
        (Backend::Sends(&[LINE, LINE]), 12),
        (Backend::Fails, 0),
    ] {
        let store = Clock::new().store();
        let layer = layer(store.clone(), &[budget(100, Window::Day)]);
        let layer = layer.with_expected_output(|_| 50);
        let first = send(&layer, "ada", backend).await;
        if let Ok(answer) = first {
            assert_eq!(left(&store, 100).await, 40, "10 and 50 are reserved");
            let refused = send(&layer, "ada", backend).await;
            assert!(refused.is_err(), "too few are left for another one");
            answer.into_body().collect().await.unwrap();
        }
        assert_eq!(left(&store, 100).await, 100 - used, "{backend:?}");
    }
}

/// Cancels a request after `during` it, and returns what it has cost. One attempt was unanswered before.
#[cfg(feature = "outcome")]
async fn cost_of_a_cancelled_request(during: impl FnOnce(&crate::Record)) -> u64 {
    let store = Clock::new().store();
    let layer = layer(store.clone(), &[budget(100, Window::Day)]);
    let service = layer.layer(service_fn(|_: Request<String>| {
        pending::<Result<Response<String>, BoxError>>()
    }));
    let record = crate::Record::new(crate::Outcome::starting(tokio::time::Instant::now()));
    record.update(|outcome| outcome.unanswered = 1);
    let request = Request::builder().header("key", "ada").body("x".repeat(40));
    let mut request = request.unwrap();
    record.clone().put_into(request.extensions_mut());
    let mut call = tokio_test::task::spawn(service.oneshot(request));
    assert!(call.poll().is_pending());
    during(&record);
    drop(call);
    100 - left(&store, 100).await
}

#[cfg(feature = "outcome")]
#[tokio::test]
async fn a_request_that_a_backend_has_worked_for_costs_its_estimate_without_an_answer() {
    assert_eq!(cost_of_a_cancelled_request(|_| {}).await, 0);
    let is_sent = |record: &crate::Record| record.update(|outcome| outcome.unanswered += 1);
    assert_eq!(cost_of_a_cancelled_request(is_sent).await, 10);
}

#[tokio::test]
async fn a_key_without_tokens_is_refused_until_its_window_ends() {
    let clock = Clock::new();
    let layer = layer(
        clock.store(),
        &[budget(45, Window::Minute), budget(1000, Window::Day)],
    );
    clock.advance(20);
    let answer = send(&layer, "ada", Backend::Sends(&[LAST])).await.unwrap();
    answer.into_body().collect().await.unwrap();
    let error = send(&layer, "ada", Backend::Sends(&[LAST]))
        .await
        .unwrap_err();
    let failure = Failure::find(&*error).unwrap();
    assert_eq!(failure.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(failure.retry_after(), Some(Duration::from_secs(40)));
    let text = "token limit reached: 3 of this client's 45 tokens per minute are left, too few for \
                this request; the minute ends in 40 s";
    assert_eq!(failure.to_string(), text);
    let shared = failure.caused_by::<TokensExhausted>().copied();
    let shared = TokensExhausted::new(shared.unwrap().budget_state, true).to_string();
    assert!(
        shared.contains("3 of all clients' 45 tokens per minute"),
        "{shared}"
    );
    let mut headers = HeaderMap::new();
    failure.write_headers(&mut headers);
    assert_eq!(remaining(&headers), ["\"tokens-minute\";r=3;t=40"]);
    assert!(
        send(&layer, "bob", Backend::Sends(&[LAST])).await.is_ok(),
        "keys are separate"
    );
    clock.advance(40);
    let answer = send(&layer, "ada", Backend::Sends(&[LAST])).await.unwrap();
    let expected = [
        "\"tokens-minute\";r=35;t=60",
        "\"tokens-day\";r=948;t=43140",
    ];
    assert_eq!(remaining(answer.headers()), expected);
}

/// Sends a request without a key.
async fn send_without_key(layer: &TokenLimitLayer<String, KeyOf>) -> Result<Answer, BoxError> {
    send_request(layer, Request::builder(), Backend::Sends(&[LAST])).await
}

#[tokio::test]
async fn requests_without_a_key_share_one_account_by_default() {
    let own: Arc<[Budget]> = Arc::new([budget(1000, Window::Day)]);
    let store = Clock::new().store().with_max_keys(1.try_into().unwrap());
    let layer = layer(store.clone(), &[budget(60, Window::Day)])
        .with_budgets_of(move |_| Some(own.clone()));
    let answer = send_without_key(&layer).await.unwrap();
    let expected = ["\"tokens-day\";r=50;t=43200"];
    assert_eq!(remaining(answer.headers()), expected, "the default budget");
    answer.into_body().collect().await.unwrap();
    let answer = send_without_key(&layer).await.unwrap();
    answer.into_body().collect().await.unwrap();
    let error = send_without_key(&layer).await.err().unwrap();
    assert_eq!(Failure::find(&*error).unwrap().kind(), "tokens_exhausted");

    // Neither a key nor the keys beyond the limit use it.
    for key in ["ada", "bob", "carol"] {
        send(&layer, key, Backend::Sends(&[LAST])).await.unwrap();
    }
    assert_eq!(store.keys(), 1);
}

#[tokio::test]
async fn requests_without_a_key_can_pass_or_be_refused() {
    let layer = |rule| {
        let limit = layer(Clock::new().store(), &[budget(10, Window::Day)]);
        limit.without_key(rule)
    };
    let admitting = layer(WithoutKey::Admit);
    for _ in 0..3 {
        let answer = send_without_key(&admitting).await.unwrap();
        assert!(answer.headers().get("ratelimit").is_none());
    }
    let error = send_without_key(&layer(WithoutKey::Refuse)).await.err();
    let error = error.unwrap();
    let failure = Failure::find(&*error).unwrap();
    assert!(failure.caused_by::<NoLimitKey>().is_some());
    assert_eq!(failure.status(), StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn only_selected_requests_are_counted() {
    let layer = layer(Clock::new().store(), &[budget(10, Window::Day)])
        .with_requests(|request| request.uri.path() != "/free")
        .without_key(WithoutKey::Refuse);
    for _ in 0..3 {
        let free = || Request::get("/free");
        for request in [free(), free().header("key", "ada")] {
            let answer = send_request(&layer, request, Backend::Sends(&[LAST])).await;
            assert!(answer.unwrap().headers().get("ratelimit").is_none());
        }
    }
    send(&layer, "ada", Backend::Sends(&[LAST])).await.unwrap();
    assert!(send(&layer, "ada", Backend::Sends(&[LAST])).await.is_err());
}

#[tokio::test]
async fn an_estimate_beyond_a_budget_counts_as_the_whole_budget() {
    let layer = layer(Clock::new().store(), &[budget(5, Window::Day)]);
    let answer = send(&layer, "ada", Backend::Sends(&[LAST])).await.unwrap();
    assert_eq!(remaining(answer.headers()), ["\"tokens-day\";r=0;t=43200"]);
}

#[tokio::test]
async fn a_stream_that_ends_in_a_later_window_is_not_counted_there() {
    let clock = Clock::new();
    let store = clock.store();
    let layer = layer(store.clone(), &[budget(100, Window::Day)]);
    let answer = send(&layer, "ada", Backend::Sends(&[LAST])).await.unwrap();
    clock.advance(24 * 60 * 60);
    answer.into_body().collect().await.unwrap();
    assert_eq!(left(&store, 100).await, 100);
}

#[tokio::test]
async fn a_clock_that_is_set_forward_and_back_frees_no_budget() {
    let (clock, budgets) = (Clock::new(), [budget(100, Window::Day)]);
    let store = clock.store();
    let used_of =
        |rows: Vec<WindowUse<String>>| rows.iter().map(|row| row.used).collect::<Vec<_>>();
    let spend = async |used| {
        let granted = store.reserve(Some("ada".to_owned()), &budgets, 0).await;
        store.settle(granted.unwrap().unwrap().reservation, used);
    };
    spend(90).await;
    assert_eq!(used_of(store.take_changes()), [90]);
    let day = 24 * 60 * 60;
    clock.advance(day);
    spend(5).await;
    assert_eq!(used_of(store.take_changes()), [5]);
    clock.advance(-day);
    assert_eq!(used_of(store.take_changes()), [90], "they are saved again");
    assert_eq!(store.used(Some(&"ada".to_owned()), Window::Day), 90);
    assert_eq!(left(&store, 100).await, 10);
    clock.advance(day);
    assert_eq!(
        left(&store, 100).await,
        95,
        "of the next day, when it comes"
    );
    clock.advance(day);
    assert_eq!(left(&store, 100).await, 100);
}

#[tokio::test]
async fn replicas_divide_a_budget_and_keep_what_was_counted() {
    let replicas = Replicas::default();
    let store = Clock::new().store().with_replicas(replicas.clone());
    let budgets = [budget(100, Window::Day)];
    let reserve = async |tokens| {
        let verdict = store
            .reserve(Some("ada".to_owned()), &budgets, tokens)
            .await;
        let states = verdict.unwrap().map(|granted| granted.budget_states[0]);
        states.map(|state| (state.budget.tokens(), state.remaining))
    };
    assert_eq!(reserve(10).await, Ok((100, 90)), "alone");
    replicas.set(3.try_into().unwrap());
    assert_eq!(reserve(20).await, Ok((33, 3)));
    assert_eq!(reserve(10).await.unwrap_err().budget.tokens(), 33);
    replicas.set(1.try_into().unwrap());
    assert_eq!(reserve(70).await, Ok((100, 0)), "alone again");
}

#[tokio::test]
async fn a_key_can_have_its_own_budgets() {
    let own: Arc<[Budget]> = Arc::new([budget(1000, Window::Day)]);
    let layer = layer(Clock::new().store(), &[budget(100, Window::Day)])
        .with_budgets_of(move |key| (key == "ada").then(|| own.clone()));
    for (key, left) in [("ada", 990), ("bob", 90)] {
        let answer = send(&layer, key, Backend::Sends(&[LAST])).await.unwrap();
        let expected = format!("\"tokens-day\";r={left};t=43200");
        assert_eq!(remaining(answer.headers()), [expected]);
    }
}

/// An external store that never answers.
#[derive(Debug)]
struct Silent;

impl TokenStore<String> for Silent {
    type Reservation = ();
    type Reserving =
        Pin<Box<dyn Future<Output = Result<ReserveResult<()>, StoreUnavailable>> + Send>>;
    fn reserve(&self, _: Option<String>, _: &[Budget], _: u64) -> Self::Reserving {
        Box::pin(pending())
    }
    fn settle(&self, (): (), _: u64) {}
}

#[tokio::test(start_paused = true)]
async fn the_wait_for_a_silent_store_ends_at_the_deadline() {
    for (policy, expected) in [
        (WhenUnavailable::Admit, None),
        (WhenUnavailable::Refuse, Some("limits_unavailable")),
    ] {
        let layer = TokenLimitLayer::with_store(Silent, [], key_of as KeyOf)
            .with_deadline(Duration::from_millis(20))
            .when_unavailable(policy);
        let began = tokio::time::Instant::now();
        let answer = send(&layer, "ada", Backend::Sends(&[LAST])).await;
        assert_eq!(began.elapsed(), Duration::from_millis(20));
        let kind = answer
            .err()
            .map(|error| Failure::find(&*error).unwrap().kind());
        assert_eq!(kind, expected);
    }
}

#[tokio::test]
async fn memory_is_limited_with_any_number_of_keys() {
    let clock = Clock::new();
    let store = clock.store().with_max_keys(100.try_into().unwrap());
    let layer = layer(store.clone(), &[budget(100, Window::Minute)]);
    for number in 0..1000 {
        let _ = send(&layer, &number.to_string(), Backend::Sends(&[LAST])).await;
    }
    assert_eq!(store.keys(), 100);
    clock.advance(60);
    for number in 1000..1100 {
        let _ = send(&layer, &number.to_string(), Backend::Sends(&[LAST])).await;
    }
    assert!(
        store.keys() <= 100,
        "the keys of the last minute are forgotten"
    );
    let refused = send(&layer, "0", Backend::Sends(&[LAST])).await.is_err();
    assert!(!refused, "there is room for the key again");
}

/// One step of a random test of the ledger.
#[derive(Clone, Debug)]
enum Step {
    Reserve { key: Option<u8>, tokens: u64 },
    Settle { which: usize, used: u64 },
    Wait(i64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (proptest::option::of(0u8..4), 0u64..80)
            .prop_map(|(key, tokens)| Step::Reserve { key, tokens }),
        (0usize..8, 0u64..40).prop_map(|(which, used)| Step::Settle { which, used }),
        (0i64..90).prop_map(Step::Wait),
    ]
}

proptest! {
    /// Reservations never exceed a budget, and unused tokens are available again.
    #[test]
    fn reservations_can_be_settled_in_any_order(steps in proptest::collection::vec(step(), 1..60)) {
        let budgets = [budget(100, Window::Minute), budget(150, Window::Day)];
        let mut now: Timestamp = NOON.parse().unwrap();
        let mut ledger = Ledger::new(TimeZone::UTC, 2, now);
        let mut held = Vec::new();
        for step in steps {
            match step {
                Step::Reserve { key, tokens } => {
                    if let Ok(granted) = ledger.reserve(key, &budgets, tokens, now) {
                        for budget_state in &granted.budget_states {
                            prop_assert!(budget_state.remaining <= budget_state.budget.tokens());
                        }
                        held.push(granted.reservation);
                    }
                }
                Step::Settle { which, used } if which < held.len() => {
                    ledger.settle(held.swap_remove(which), used);
                }
                Step::Settle { .. } => {}
                Step::Wait(seconds) => now += SignedDuration::from_secs(seconds),
            }
        }
        for reservation in held {
            ledger.settle(reservation, 0);
        }
        now += SignedDuration::from_hours(24);
        for key in (0..4).map(Some).chain([None]) {
            let granted = ledger.reserve(key, &budgets, 0, now).unwrap();
            let left: Vec<u64> = granted.budget_states.iter().map(|budget_state| budget_state.remaining).collect();
            prop_assert_eq!(left, [100, 150]);
        }
    }
}
