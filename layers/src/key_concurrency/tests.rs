#![allow(clippy::unwrap_used)]

use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use http::request::Parts;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use proptest::prelude::*;
use tokio::time::advance;
use tower::{Layer, ServiceExt, service_fn};

use super::*;
use crate::{BoxError, Failure, Side};

type Name = &'static str;
type Answer = Pin<Box<dyn Future<Output = Result<Response<Counted>, BoxError>> + Send>>;
type Counted = crate::body::Guarded<Full<Bytes>, smallvec::SmallVec<[Turn<Name>; 1]>>;

/// The keys of a request, each with its limit.
#[derive(Clone)]
struct Keys(Vec<(Name, u32)>);

struct OfRequest;

impl ConcurrencyLimits for OfRequest {
    type Key = Name;

    fn of(&self, request: &Parts) -> KeyLimits<Name> {
        let Keys(keys) = request.extensions.get().unwrap();
        let limits = keys
            .iter()
            .map(|(key, limit)| (*key, (*limit).try_into().unwrap()));
        limits.collect()
    }
}

fn layer() -> KeyConcurrencyLayer<OfRequest> {
    KeyConcurrencyLayer::new(OfRequest)
}

/// Sends a request through the layer to a service that responds at once.
fn send(layer: &KeyConcurrencyLayer<OfRequest>, keys: &[(Name, u32)]) -> Answer {
    let service = layer.layer(service_fn(async |_: Request<()>| {
        Ok::<_, BoxError>(Response::new(Full::new(Bytes::from("text"))))
    }));
    let mut request = Request::new(());
    request.extensions_mut().insert(Keys(keys.to_vec()));
    Box::pin(service.oneshot(request))
}

fn running(answer: &mut Answer) -> Option<Response<Counted>> {
    answer.now_or_never().map(Result::unwrap)
}

fn refusal(answer: &mut Answer) -> KeyConcurrencyReached {
    let error = answer.now_or_never().unwrap().unwrap_err();
    let failure = Failure::find(&*error).unwrap();
    assert_eq!(failure.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(failure.side(), Side::Client);
    assert_eq!(failure.retry_after(), Some(Duration::from_secs(1)));
    *failure.caused_by().unwrap()
}

/// The keys with requests: how many run and wait.
fn counts(layer: &KeyConcurrencyLayer<OfRequest>) -> Vec<(Name, usize, usize)> {
    let mut rows: Vec<_> = layer
        .snapshot()
        .into_iter()
        .map(|(key, of)| (key, of.running, of.waiting))
        .collect();
    rows.sort_unstable();
    rows
}

#[tokio::test]
async fn a_turn_is_held_to_the_end_of_the_response_and_goes_to_the_longest_wait() {
    let layer = layer();
    let ada = [("ada", 1)];
    let first = running(&mut send(&layer, &ada)).unwrap();
    let [mut second, mut third] = [send(&layer, &ada), send(&layer, &ada)];
    assert!(running(&mut second).is_none() && running(&mut third).is_none());
    assert!(running(&mut send(&layer, &[("ben", 1)])).is_some());
    assert_eq!(counts(&layer), [("ada", 1, 2)]);
    first.into_body().collect().await.unwrap();
    assert!(running(&mut third).is_none(), "it came later");
    let second = running(&mut second).unwrap();
    drop(second);
    assert!(running(&mut third).is_some());
    assert_eq!(counts(&layer), []);
}

#[tokio::test]
async fn a_request_that_leaves_gives_up_its_place() {
    let layer = layer();
    let ada = [("ada", 1)];
    let first = running(&mut send(&layer, &ada)).unwrap();
    let [mut second, mut third] = [send(&layer, &ada), send(&layer, &ada)];
    assert!(running(&mut second).is_none() && running(&mut third).is_none());
    drop(second);
    assert_eq!(counts(&layer), [("ada", 1, 1)]);
    drop(first);
    assert!(running(&mut third).is_some());
}

#[tokio::test]
async fn a_turn_that_has_come_unseen_goes_on_when_its_request_leaves() {
    let layer = layer();
    let ada = [("ada", 1)];
    let first = running(&mut send(&layer, &ada)).unwrap();
    let [mut second, mut third] = [send(&layer, &ada), send(&layer, &ada)];
    assert!(running(&mut second).is_none() && running(&mut third).is_none());
    drop(first);
    drop(second);
    assert!(running(&mut third).is_some());
}

#[tokio::test]
async fn an_error_ends_the_turn() {
    let layer = KeyConcurrencyLayer::per_key(1.try_into().unwrap(), |_: &Parts| Some("ada"));
    let service = layer.layer(service_fn(async |_: Request<()>| {
        Err::<Response<Full<Bytes>>, BoxError>("broken".into())
    }));
    for _ in 0..2 {
        let mut answer = Box::pin(service.clone().oneshot(Request::new(())));
        assert!((&mut answer).now_or_never().unwrap().is_err());
        assert!(layer.snapshot().is_empty(), "although the future is kept");
    }
}

#[tokio::test]
async fn more_waiting_requests_than_allowed_are_refused_at_once() {
    let layer = layer().with_max_waiting(Some(1));
    let ada = [("ada", 1)];
    let _first = running(&mut send(&layer, &ada)).unwrap();
    let mut second = send(&layer, &ada);
    assert!(running(&mut second).is_none());
    let refusal = refusal(&mut send(&layer, &ada));
    assert_eq!((refusal.limit.get(), refusal.waiting), (1, 1));
    let text = refusal.to_string();
    assert!(
        text.starts_with(
            "this client may have 1 requests at a time, and 1 more of its requests wait"
        ),
        "{text}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_request_that_has_waited_for_too_long_is_refused() {
    let layer = layer().with_max_wait(Some(Duration::from_secs(5)));
    let ada = [("ada", 1)];
    let first = running(&mut send(&layer, &ada)).unwrap();
    let mut second = send(&layer, &ada);
    assert!(running(&mut second).is_none());
    advance(Duration::from_secs(4)).await;
    assert!(running(&mut second).is_none());
    advance(Duration::from_secs(2)).await;
    let refusal = refusal(&mut second);
    assert!(
        refusal.to_string().contains("has waited 6 s for its turn"),
        "{refusal}"
    );
    assert_eq!(counts(&layer), [("ada", 1, 0)]);
    drop(first);
}

#[tokio::test]
async fn a_request_of_two_keys_has_a_turn_of_each() {
    let layer = layer();
    let (user, key) = (("ada", 1), ("team", 2));
    let first = running(&mut send(&layer, &[user, key])).unwrap();
    let other = running(&mut send(&layer, &[("ben", 1), key])).unwrap();
    let mut waits_for_key = send(&layer, &[("cid", 1), key]);
    let mut waits_for_both = send(&layer, &[user, key]);
    assert!(running(&mut waits_for_key).is_none() && running(&mut waits_for_both).is_none());
    let expected = [("ada", 1, 1), ("ben", 1, 0), ("cid", 1, 0), ("team", 2, 1)];
    assert_eq!(counts(&layer), expected);
    drop(first);
    assert!(
        running(&mut waits_for_both).is_none(),
        "the other one waits for the key longer"
    );
    let third = running(&mut waits_for_key).unwrap();
    drop(other);
    assert!(running(&mut waits_for_both).is_some());
    drop(third);
    assert_eq!(counts(&layer), []);
}

#[tokio::test]
async fn a_raised_limit_counts_for_those_that_wait_and_a_lowered_one_for_those_that_come() {
    let layer = layer();
    let ada = [("ada", 1)];
    let _first = running(&mut send(&layer, &ada)).unwrap();
    let [mut second, mut third] = [send(&layer, &ada), send(&layer, &ada)];
    assert!(running(&mut second).is_none() && running(&mut third).is_none());
    layer.set_limits(|_| 3.try_into().ok());
    let (second, third) = (running(&mut second).unwrap(), running(&mut third).unwrap());
    let mut fourth = send(&layer, &[("ada", 2)]);
    assert!(running(&mut fourth).is_none());
    drop(second);
    assert!(running(&mut fourth).is_none(), "two run still");
    drop(third);
    let _fourth = running(&mut fourth).unwrap();
    let mut fifth = send(&layer, &[("ada", 2)]);
    assert!(running(&mut fifth).is_none());
    layer.set_limits(|_| None);
    assert!(running(&mut fifth).is_some());
}

#[tokio::test]
async fn without_limits_requests_pass_and_their_keys_are_not_asked_for() {
    struct Off;
    impl ConcurrencyLimits for Off {
        type Key = Name;
        fn are_any(&self) -> bool {
            false
        }
        fn of(&self, _: &Parts) -> KeyLimits<Name> {
            unreachable!("there is no limit")
        }
    }
    let service = KeyConcurrencyLayer::new(Off).layer(service_fn(async |_: Request<()>| {
        Ok::<_, BoxError>(Response::new(Full::<Bytes>::default()))
    }));
    assert!(service.oneshot(Request::new(())).await.is_ok());
}

#[cfg(all(feature = "outcome", feature = "heartbeat"))]
#[tokio::test(start_paused = true)]
async fn the_wait_is_told_in_heartbeats_and_in_the_record() {
    use std::sync::{Arc, Mutex};

    use crate::heartbeat::Waiting;
    use crate::{Outcome, OutcomeLayer};

    #[derive(Default)]
    struct Seen(Mutex<Vec<Option<Duration>>>);
    impl crate::Observer for Seen {
        fn finished(&self, outcome: &Outcome) {
            self.0.lock().unwrap().push(outcome.queued);
        }
    }
    let seen = Arc::new(Seen::default());
    let limit = KeyConcurrencyLayer::per_key(1.try_into().unwrap(), |_: &Parts| Some("ada"));
    let service =
        OutcomeLayer::new(seen.clone()).layer(limit.layer(service_fn(async |_: Request<()>| {
            Ok::<_, BoxError>(Response::new(Full::new(Bytes::from("text"))))
        })));
    let waiting = Waiting::default();
    let mut request = Request::new(());
    waiting.clone().put_into(request.extensions_mut());
    let first = service.clone().oneshot(Request::new(())).await.unwrap();
    let mut second = Box::pin(service.oneshot(request));
    assert!((&mut second).now_or_never().is_none());
    let text = waiting.text().unwrap();
    assert!(
        text.contains("another request of the same client"),
        "{text}"
    );
    advance(Duration::from_secs(3)).await;
    drop(first);
    drop(second.await.unwrap());
    assert_eq!(waiting.text(), None);
    assert_eq!(
        *seen.0.lock().unwrap(),
        [None, Some(Duration::from_secs(3))]
    );
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Send(Name, u32),
    Poll(prop::sample::Index),
    Drop(prop::sample::Index),
    Limit(u32),
}

fn step() -> impl Strategy<Value = Step> {
    let key = prop::sample::select(&["ada", "ben"][..]);
    prop_oneof![
        (key, 1..4_u32).prop_map(|(key, limit)| Step::Send(key, limit)),
        any::<prop::sample::Index>().prop_map(Step::Poll),
        any::<prop::sample::Index>().prop_map(Step::Drop),
        (1..4_u32).prop_map(Step::Limit),
    ]
}

/// The highest limit of a [`Step`].
const HIGHEST: usize = 3;

struct Sent {
    key: Name,
    answer: Answer,
    response: Option<Response<Counted>>,
}

impl Sent {
    fn poll(&mut self) {
        if self.response.is_none() {
            self.response = running(&mut self.answer);
        }
    }
}

proptest! {
    #[test]
    fn no_turn_is_lost_however_requests_end(steps in prop::collection::vec(step(), 1..60)) {
        // There is no runtime for a timer.
        let layer = layer().with_max_wait(None);
        let mut requests: Vec<Sent> = Vec::new();
        for step in steps {
            match step {
                Step::Send(key, limit) => {
                    let answer = send(&layer, &[(key, limit)]);
                    requests.push(Sent { key, answer, response: None });
                }
                Step::Poll(at) if !requests.is_empty() => at.get_mut(&mut requests).poll(),
                Step::Drop(at) if !requests.is_empty() => {
                    drop(requests.remove(at.index(requests.len())));
                }
                Step::Limit(limit) => layer.set_limits(|_| limit.try_into().ok()),
                _ => {}
            }
            for (key, of) in layer.snapshot() {
                let of_key = requests.iter().filter(|sent| sent.key == key);
                let held = of_key.filter(|sent| sent.response.is_some()).count();
                prop_assert!(held == of.running && held <= HIGHEST, "{key}: {held}, {of:?}");
            }
        }
        // Each request that is left gets its turn when those before it end.
        while !requests.is_empty() {
            requests.iter_mut().for_each(Sent::poll);
            let before = requests.len();
            requests.retain(|sent| sent.response.is_none());
            prop_assert!(requests.len() < before, "none runs: {:?}", layer.snapshot());
        }
        prop_assert!(layer.snapshot().is_empty());
    }
}
