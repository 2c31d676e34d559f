#![allow(clippy::unwrap_used)]

use std::future::Future;
use std::num::{NonZeroU32, NonZeroUsize};
use std::pin::Pin;
use std::time::Duration;

use http::request::Parts;
use http::{HeaderMap, Request, Response, StatusCode};
use proptest::prelude::*;
use tokio::time::{Instant, advance};
use tower::{Layer, ServiceExt, service_fn};

use super::buckets::Buckets;
use super::*;
use crate::store::{NoLimitKey, Replicas, StoreUnavailable, WhenUnavailable, WithoutKey};
use crate::{BoxError, Failure, Side};

const SECOND: Duration = Duration::from_secs(1);

fn quota(requests: u32, per: Duration) -> Quota {
    Quota::new(NonZeroU32::new(requests).unwrap(), per).unwrap()
}

async fn fine(_: Request<()>) -> Result<Response<()>, BoxError> {
    Ok(Response::new(()))
}

fn from(tenant: &str) -> Request<()> {
    Request::get("/")
        .header("x-tenant", tenant)
        .body(())
        .unwrap()
}

fn tenant(parts: &Parts) -> Option<String> {
    let value = parts.headers.get("x-tenant")?;
    Some(value.to_str().ok()?.to_owned())
}

fn limited(error: &BoxError) -> &RateLimited {
    Failure::find(&**error).unwrap().caused_by().unwrap()
}

fn lines<'a>(headers: &'a HeaderMap, name: &str) -> Vec<&'a str> {
    let values = headers.get_all(name).iter();
    values.map(|value| value.to_str().unwrap()).collect()
}

#[tokio::test(start_paused = true)]
async fn requests_above_the_quota_are_refused_until_it_refills() {
    let layer = RateLimitLayer::global(quota(2, 10 * SECOND));
    let service = layer.layer(service_fn(fine));
    let send = || service.clone().oneshot(Request::default());
    send().await.unwrap();
    send().await.unwrap();

    let error = send().await.unwrap_err();
    assert_eq!(limited(&error).retry_after, 5 * SECOND);
    assert_eq!(limited(&error).scope, Scope::Global);
    let failure = Failure::find(&*error).unwrap();
    assert_eq!(failure.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(failure.side(), Side::Gateway);
    assert_eq!(failure.retry_after(), Some(5 * SECOND));
    assert_eq!(
        error.to_string(),
        "rate limit reached: all clients together have used up 2 requests in 10 s; try again in 5 s"
    );

    advance(5 * SECOND - Duration::from_nanos(1)).await;
    send().await.unwrap_err();
    advance(Duration::from_nanos(1)).await;
    send().await.unwrap();
    send().await.unwrap_err();
}

#[tokio::test(start_paused = true)]
async fn each_key_has_its_own_quota() {
    let layer = RateLimitLayer::per_key(quota(1, SECOND), tenant);
    let service = layer.layer(service_fn(fine));
    let send = |request| service.clone().oneshot(request);
    send(from("a")).await.unwrap();
    send(from("b")).await.unwrap();
    let error = send(from("a")).await.unwrap_err();
    assert_eq!(limited(&error).scope, Scope::Key);
    assert_eq!(Failure::find(&*error).unwrap().side(), Side::Client);
    assert!(
        error
            .to_string()
            .contains("this client has used up 1 request in 1 s")
    );

    assert_eq!(layer.keys(), 2);
}

#[tokio::test(start_paused = true)]
async fn replicas_divide_a_quota_and_keep_what_was_counted() {
    let (quota, replicas) = (quota(10, 10 * SECOND), Replicas::default());
    let store = MemoryBuckets::new([quota], NonZeroUsize::MAX).with_replicas(replicas.clone());
    let take = || store.take_result(&Some("a"), &quota);
    assert_eq!(take(), Ok(9), "alone");
    replicas.set(NonZeroU32::new(3).unwrap());
    assert_eq!([take(), take(), take()], [Ok(2), Ok(1), Ok(0)]);
    assert_eq!(take(), Err(3 * SECOND));
    replicas.set(NonZeroU32::MIN);
    assert_eq!(take(), Err(SECOND), "alone again");
    replicas.set(NonZeroU32::new(50).unwrap());
    assert_eq!(take(), Err(10 * SECOND));
    advance(10 * SECOND).await;
    assert_eq!(take(), Ok(0), "a full bucket gives one request");
}

#[tokio::test(start_paused = true)]
async fn requests_without_a_key_share_one_quota_by_default() {
    let layer =
        RateLimitLayer::per_key(quota(2, 10 * SECOND), tenant).with_max_keys(NonZeroUsize::MIN);
    let service = layer.layer(service_fn(fine));
    let send = |request| service.clone().oneshot(request);
    let answer = send(Request::default()).await.unwrap();
    assert_eq!(answer.headers()["ratelimit"], r#""key";r=1;t=5"#);
    send(Request::get("/other").body(()).unwrap())
        .await
        .unwrap();
    let error = send(Request::default()).await.unwrap_err();
    assert_eq!(limited(&error).retry_after, 5 * SECOND);

    // Neither a key nor the keys beyond the limit use it.
    for key in ["a", "b", "a", "c"] {
        send(from(key)).await.unwrap();
    }
    send(from("a")).await.unwrap_err();
    assert_eq!(layer.keys(), 1);
    advance(5 * SECOND).await;
    send(Request::default()).await.unwrap();
    send(Request::default()).await.unwrap_err();
}

#[tokio::test(start_paused = true)]
async fn requests_without_a_key_have_the_quota_of_other_keys() {
    let own = ("a".to_owned(), quota(5, SECOND));
    for (others, passed) in [(Some(quota(1, SECOND)), 1), (None, 4)] {
        let layer = RateLimitLayer::per_key_with([own.clone()], others, tenant);
        let service = layer.layer(service_fn(fine));
        let mut count = 0;
        for _ in 0..4 {
            count += usize::from(service.clone().oneshot(Request::default()).await.is_ok());
        }
        assert_eq!(count, passed, "{others:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn requests_without_a_key_can_pass() {
    let layer = RateLimitLayer::per_key(quota(1, SECOND), tenant).without_key(WithoutKey::Admit);
    let service = layer.layer(service_fn(fine));
    for _ in 0..3 {
        let answer = service.clone().oneshot(Request::default()).await.unwrap();
        assert!(answer.headers().is_empty());
    }
    service.clone().oneshot(from("a")).await.unwrap();
    service.oneshot(from("a")).await.unwrap_err();
}

#[tokio::test(start_paused = true)]
async fn requests_without_a_key_can_be_refused() {
    let layer = RateLimitLayer::per_key(quota(1, SECOND), tenant).without_key(WithoutKey::Refuse);
    let service = layer.layer(service_fn(fine));
    let error = service
        .clone()
        .oneshot(Request::default())
        .await
        .unwrap_err();
    let failure = Failure::find(&*error).unwrap();
    assert!(failure.caused_by::<NoLimitKey>().is_some());
    assert_eq!(failure.status(), StatusCode::FORBIDDEN);
    assert_eq!(failure.side(), Side::Client);
    service.oneshot(from("a")).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn responses_report_the_remaining_quota() {
    let service = RateLimitLayer::per_key(quota(60, 60 * SECOND), tenant).layer(service_fn(fine));
    let answer = service.clone().oneshot(from("a")).await.unwrap();
    assert_eq!(answer.headers()["ratelimit-policy"], r#""key";q=60;w=60"#);
    assert_eq!(answer.headers()["ratelimit"], r#""key";r=59;t=1"#);
    advance(SECOND / 2).await;
    let answer = service.oneshot(from("a")).await.unwrap();
    assert_eq!(answer.headers()["ratelimit"], r#""key";r=58;t=2"#);
}

#[tokio::test(start_paused = true)]
async fn two_layers_report_two_policies() {
    let inner = RateLimitLayer::per_key(quota(5, SECOND), tenant).layer(service_fn(fine));
    let service = RateLimitLayer::global(quota(9, SECOND)).layer(inner);
    let answer = service.oneshot(from("a")).await.unwrap();
    assert_eq!(
        lines(answer.headers(), "ratelimit-policy"),
        [r#""key";q=5;w=1"#, r#""global";q=9;w=1"#]
    );
    assert_eq!(lines(answer.headers(), "ratelimit").len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_refusal_reports_its_policy_too() {
    let uneven = quota(1, Duration::from_millis(2500));
    let service = RateLimitLayer::global(uneven).layer(service_fn(fine));
    service.clone().oneshot(Request::default()).await.unwrap();
    let error = service.oneshot(Request::default()).await.unwrap_err();
    let mut headers = HeaderMap::new();
    Failure::find(&*error).unwrap().write_headers(&mut headers);
    assert_eq!(lines(&headers, "ratelimit-policy"), [r#""global";q=1"#]);
    assert_eq!(lines(&headers, "ratelimit"), [r#""global";r=0;t=3"#]);
}

#[tokio::test(start_paused = true)]
async fn keys_above_the_limit_share_one_bucket() {
    let layer = RateLimitLayer::per_key(quota(1, SECOND), tenant)
        .with_max_keys(NonZeroUsize::new(2).unwrap());
    let service = layer.layer(service_fn(fine));
    let send = |name| service.clone().oneshot(from(name));
    send("a").await.unwrap();
    send("b").await.unwrap();
    send("c").await.unwrap();
    send("d").await.unwrap_err();
    assert_eq!(layer.keys(), 2);
    advance(SECOND).await;
    send("a").await.unwrap();
    send("d").await.unwrap();
    send("c").await.unwrap_err();
}

#[tokio::test(start_paused = true)]
async fn idle_keys_are_dropped_as_others_arrive() {
    let layer = RateLimitLayer::per_key(quota(1, SECOND), tenant);
    let service = layer.layer(service_fn(fine));
    for n in 0..1000 {
        service
            .clone()
            .oneshot(from(&format!("old {n}")))
            .await
            .unwrap();
    }
    assert_eq!(layer.keys(), 1000);
    advance(3 * SECOND).await;
    for n in 0..300 {
        service
            .clone()
            .oneshot(from(&format!("new {n}")))
            .await
            .unwrap();
    }
    assert!(layer.keys() <= 300, "{} are left", layer.keys());
    service.oneshot(from("new 299")).await.unwrap_err();
}

#[test]
fn debug_shows_the_state() {
    let layer = RateLimitLayer::per_key(Quota::per_minute(NonZeroU32::MIN), tenant);
    let text = format!("{layer:?}");
    assert!(
        text.contains("scope: Key") && text.contains("keys: 0"),
        "{text}"
    );
}

#[test]
fn an_impossible_quota_is_refused() {
    let one = NonZeroU32::MIN;
    assert_eq!(
        Quota::new(one, Duration::ZERO),
        Err(InvalidQuota::ZeroPeriod)
    );
    assert_eq!(Quota::new(one, Duration::MAX), Err(InvalidQuota::TooLong));
    assert_eq!(
        Quota::per_minute(one).with_burst(NonZeroU32::MAX),
        Err(InvalidQuota::TooLong)
    );
    let seven = NonZeroU32::new(7).unwrap();
    assert!(Quota::new(seven, Quota::LONGEST).is_ok());
    assert!(Quota::new(NonZeroU32::MAX, Duration::from_nanos(1)).is_ok());
}

fn any_quota() -> impl Strategy<Value = Quota> {
    (1u32..50, 1u64..100_000, 1u32..50).prop_map(|(requests, millis, burst)| {
        quota(requests, Duration::from_millis(millis))
            .with_burst(NonZeroU32::new(burst).unwrap())
            .unwrap()
    })
}

/// Pauses between requests, in fractions of the quota's interval; some are zero.
fn pauses() -> impl Strategy<Value = Vec<f64>> {
    prop::collection::vec(
        prop_oneof![3 => Just(0.0), 2 => 0.0..1.5, 1 => 0.0..60.0],
        1..150,
    )
}

fn paused(test: impl Future<Output = Result<(), TestCaseError>>) -> Result<(), TestCaseError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(test)
}

proptest! {
    #[test]
    fn a_bucket_never_gives_more_than_its_rate(quota in any_quota(), pauses in pauses()) {
        paused(async move {
            let bucket = Buckets::new(quota, 1);
            let rate = f64::from(quota.requests().get()) / quota.per().as_secs_f64();
            let mut given: Vec<Instant> = Vec::new();
            for pause in pauses {
                advance(Duration::from_secs_f64(pause / rate)).await;
                match bucket.take(&Some(()), NonZeroU32::MIN) {
                    Ok(_) => given.push(Instant::now()),
                    Err(wait) => {
                        prop_assert!(!wait.is_zero());
                        prop_assert!(wait <= quota.interval());
                    }
                }
            }
            for (from, start) in given.iter().enumerate() {
                for (count, end) in (1..).zip(&given[from..]) {
                    let most = f64::from(quota.burst().get()) + (*end - *start).as_secs_f64() * rate;
                    prop_assert!(f64::from(count) <= most + 1e-6);
                }
            }
            Ok(())
        })?;
    }

    #[test]
    fn a_bucket_refills_after_the_reported_wait(quota in any_quota(), pauses in pauses()) {
        paused(async move {
            let bucket = Buckets::new(quota, 1);
            for pause in pauses {
                advance(quota.interval().mul_f64(pause)).await;
                if let Err(wait) = bucket.take(&Some(()), NonZeroU32::MIN) {
                    advance(wait - Duration::from_nanos(1)).await;
                    prop_assert!(bucket.take(&Some(()), NonZeroU32::MIN).is_err());
                    advance(Duration::from_nanos(1)).await;
                    prop_assert!(bucket.take(&Some(()), NonZeroU32::MIN).is_ok());
                }
            }
            Ok(())
        })?;
    }

    #[test]
    fn memory_is_bounded_and_dropping_a_bucket_grants_no_extra_requests(
        quota in any_quota(),
        max_keys in prop_oneof![1usize..200, Just(1000)],
        requests in prop::collection::vec((0u32..1000, 0.0..0.2), 1..600),
    ) {
        paused(async move {
            let buckets = Buckets::new(quota, max_keys);
            let rate = f64::from(quota.requests().get()) / quota.per().as_secs_f64();
            let start = Instant::now();
            let mut given = std::collections::HashMap::<u32, u32>::new();
            for (key, pause) in requests {
                // A few keys are frequent, many are rare.
                let key = if key < 500 { key % 5 } else { key };
                advance(Duration::from_secs_f64(pause / rate)).await;
                if buckets.take(&Some(key), NonZeroU32::MIN).is_ok() {
                    *given.entry(key).or_default() += 1;
                }
                prop_assert!(buckets.len() <= max_keys);
            }
            // A key may have used the shared bucket in addition to its own, unless there is room
            // for all.
            let buckets_each = if max_keys < 1000 { 2.0 } else { 1.0 };
            let most = buckets_each * (f64::from(quota.burst().get()) + start.elapsed().as_secs_f64() * rate);
            for count in given.into_values() {
                prop_assert!(f64::from(count) <= most + 1e-6);
            }
            Ok(())
        })?;
    }
}

#[tokio::test(start_paused = true)]
async fn single_keys_can_have_their_own_quota() {
    let one = Quota::per_minute(NonZeroU32::MIN);
    let two = Quota::per_minute(NonZeroU32::new(2).unwrap());
    for (others, of_bob) in [(Some(one), 1), (None, 3)] {
        let layer =
            RateLimitLayer::per_key_with([("ada".to_owned(), two)], others, |parts: &Parts| {
                Some(parts.headers.get("key")?.to_str().ok()?.to_owned())
            });
        for (key, expected) in [("ada", 2), ("bob", of_bob)] {
            let mut passed = 0;
            for _ in 0..3 {
                let service = layer.layer(service_fn(async |_: Request<()>| {
                    Ok::<_, BoxError>(Response::new(()))
                }));
                let request = Request::builder().header("key", key).body(()).unwrap();
                passed += usize::from(service.oneshot(request).await.is_ok());
            }
            assert_eq!(passed, expected, "{key}");
        }
    }
}

/// An external store that responds after a delay.
struct Slow(Duration);

impl RateStore<()> for Slow {
    type Taking = Pin<Box<dyn Future<Output = Result<TakeResult, StoreUnavailable>> + Send>>;
    fn take(&self, _: Option<()>, _: &Quota) -> Self::Taking {
        let wait = tokio::time::sleep(self.0);
        Box::pin(async move {
            wait.await;
            Ok(Err(SECOND))
        })
    }
}

#[tokio::test(start_paused = true)]
async fn an_external_store_is_waited_for_until_the_deadline() {
    for (wait, policy, expected) in [
        (10, WhenUnavailable::Admit, Some("rate_limited")),
        (30, WhenUnavailable::Admit, None),
        (30, WhenUnavailable::Refuse, Some("limits_unavailable")),
    ] {
        let store = Slow(Duration::from_millis(wait));
        let layer =
            RateLimitLayer::with_store(store, [], Some(quota(1, SECOND)), |_: &Parts| Some(()))
                .with_deadline(Duration::from_millis(20))
                .when_unavailable(policy);
        let began = Instant::now();
        let answer = layer
            .layer(service_fn(fine))
            .oneshot(Request::default())
            .await;
        assert_eq!(began.elapsed(), Duration::from_millis(wait.min(20)));
        let kind = answer
            .err()
            .map(|error| Failure::find(&*error).unwrap().kind());
        assert_eq!(kind, expected, "{wait} {policy:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn quotas_are_replaced_for_existing_services_and_used_quota_still_counts() {
    let layer = RateLimitLayer::per_key(quota(1, 60 * SECOND), tenant);
    let service = layer.layer(service_fn(fine));
    let send = async |name: &str| service.clone().oneshot(from(name)).await.is_ok();
    assert!(send("ada").await && !send("ada").await);

    layer.set_quotas(
        [("bob".to_owned(), quota(2, 60 * SECOND))],
        Some(quota(1, 60 * SECOND)),
    );
    assert!(!send("ada").await, "its quota is the same");
    assert!(send("bob").await && send("bob").await && !send("bob").await);

    layer.set_quotas([], None);
    assert!(send("ada").await && send("ada").await && send("bob").await);

    layer.set_quotas([], Some(quota(3, 60 * SECOND)));
    assert!(send("ada").await && send("ada").await && send("ada").await);
    assert!(!send("ada").await);
}

#[tokio::test(start_paused = true)]
async fn a_named_policy_is_reported_by_its_name() {
    let layer = RateLimitLayer::per_key(quota(1, 60 * SECOND), tenant).named("listing");
    let service = layer.layer(service_fn(fine));
    let answer = service.clone().oneshot(from("ada")).await.unwrap();
    assert_eq!(
        lines(answer.headers(), "ratelimit-policy"),
        ["\"listing\";q=1;w=60"]
    );
    let error = service.oneshot(from("ada")).await.unwrap_err();
    assert_eq!(limited(&error).scope, Scope::Named("listing"));
    let mut headers = HeaderMap::new();
    Failure::find(&*error).unwrap().write_headers(&mut headers);
    assert_eq!(lines(&headers, "ratelimit"), ["\"listing\";r=0;t=60"]);
    assert!(
        error.to_string().contains("this client has used up"),
        "{error}"
    );
    layer.set_quotas([], Some(quota(5, 60 * SECOND)));
    let service = layer.layer(service_fn(fine));
    let answer = service.oneshot(from("ada")).await.unwrap();
    assert_eq!(
        lines(answer.headers(), "ratelimit-policy"),
        ["\"listing\";q=5;w=60"]
    );
}

#[tokio::test(start_paused = true)]
async fn only_selected_requests_use_the_global_quota() {
    let layer = RateLimitLayer::global(quota(1, 60 * SECOND))
        .with_requests(|request| request.headers.contains_key("x-tenant"));
    let service = layer.layer(service_fn(fine));
    let send = async |request| service.clone().oneshot(request).await;
    for _ in 0..3 {
        let answer = send(Request::default()).await.unwrap();
        assert!(answer.headers().is_empty());
    }
    send(from("ada")).await.unwrap();
    send(from("bob")).await.unwrap_err();
    send(Request::default()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_request_that_is_not_selected_is_not_counted_with_or_without_a_key() {
    let layer = RateLimitLayer::per_key(quota(1, 60 * SECOND), tenant)
        .with_requests(|request| request.uri.path() != "/health")
        .without_key(WithoutKey::Refuse);
    let service = layer.layer(service_fn(fine));
    let send = async |request| service.clone().oneshot(request).await;
    for key in [None, Some("ada")] {
        for _ in 0..3 {
            let request = Request::get("/health");
            let request = key
                .iter()
                .fold(request, |request, key| request.header("x-tenant", *key));
            send(request.body(()).unwrap()).await.unwrap();
        }
    }
    send(from("ada")).await.unwrap();
    send(from("ada")).await.unwrap_err();
    send(Request::default()).await.unwrap_err();
}

#[tokio::test(start_paused = true)]
async fn a_global_limit_counts_every_request_whatever_holds_for_those_without_a_key() {
    for without_key in [WithoutKey::Share, WithoutKey::Admit, WithoutKey::Refuse] {
        let layer = RateLimitLayer::global(quota(1, 60 * SECOND)).without_key(without_key);
        let service = layer.layer(service_fn(fine));
        let send = async || service.clone().oneshot(Request::default()).await.is_ok();
        assert!(send().await && !send().await, "{without_key:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_global_limit_can_begin_without_a_quota() {
    let layer = RateLimitLayer::global(None);
    let service = layer.layer(service_fn(fine));
    let send = async || service.clone().oneshot(Request::default()).await.is_ok();
    assert!(send().await && send().await);
    layer.set_quotas([], Some(quota(1, 60 * SECOND)));
    assert!(send().await && !send().await);
}
