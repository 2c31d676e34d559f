#![allow(clippy::unwrap_used)]

use std::num::{NonZeroU32, NonZeroU64};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::request::Parts;
use http::{HeaderMap, Request, Response, header};
use jiff::tz::TimeZone;
use tower::util::BoxCloneSyncService;
use tower::{ServiceBuilder, ServiceExt, service_fn};

use super::admit::Admitted;
use super::ask::Ask;
use super::test_server::Server;
use super::*;
use crate::rate_limit::{Quota, RateLimitLayer, RateLimited};
use crate::shared::Shared;
use crate::store::{StoreUnavailable, WhenUnavailable};
use crate::token_limit::{
    Budget, MemoryStore, TokenLimitLayer, TokenStore, TokensExhausted, Window,
};
use crate::{BoxError, Failure};

type Key = fn(&Parts) -> Option<String>;
type Stack = BoxCloneSyncService<Request<String>, Response<()>, BoxError>;

/// Counts the calls of each operation.
#[derive(Clone, Default)]
struct Calls(Arc<Mutex<Vec<&'static str>>>);

impl RedisObserver for Calls {
    fn called(&self, call: &RedisCall) {
        if call.operation != "settle" {
            self.0.lock().unwrap().push(call.operation);
        }
    }
}

impl Calls {
    /// Those since the last time.
    fn take(&self) -> Vec<&'static str> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

/// Two rates and a budget of tokens, with the layer that asks once or without it.
struct Limits {
    redis: Redis,
    calls: Calls,
    all: RateLimitLayer<String, Key, RedisBuckets<String>>,
    each: RateLimitLayer<String, Key, RedisBuckets<String>>,
    tokens: RedisTokens<String>,
    budgets: Vec<Budget>,
    rule: WhenUnavailable,
}

fn client(request: &Parts) -> Option<String> {
    let name = request.headers.get("x-client")?.to_str().ok()?;
    Some(name.to_owned())
}

impl Limits {
    async fn new(server: &Server, all: u32, each: u32, tokens: &[(u64, Window)]) -> Self {
        let calls = Calls::default();
        let redis = Redis::start(server.config().with_observer(Arc::new(calls.clone())));
        let connected = tokio::time::timeout(Duration::from_secs(20), redis.connected());
        connected.await.unwrap();
        let rate = |limit: &str, requests, key: Key| {
            let store = RedisBuckets::new(redis.clone(), limit, String::clone);
            let per = Duration::from_secs(3600);
            let quota = Quota::new(NonZeroU32::new(requests).unwrap(), per).unwrap();
            RateLimitLayer::with_store(store, [], Some(quota), key)
        };
        let memory = MemoryStore::new(TimeZone::UTC);
        let budgets = tokens.iter();
        let budgets =
            budgets.map(|(tokens, window)| Budget::new(NonZeroU64::new(*tokens).unwrap(), *window));
        Self {
            all: rate("all", all, |_| Some("all".to_owned())).named("all"),
            each: rate("each", each, client),
            tokens: RedisTokens::new(redis.clone(), "each", TimeZone::UTC, memory, String::clone),
            redis,
            calls,
            budgets: budgets.collect(),
            rule: WhenUnavailable::Refuse,
        }
    }

    fn stack(&self, once: bool) -> Stack {
        let patient = Duration::from_secs(5);
        let rate = |layer: &RateLimitLayer<_, _, _>| {
            let layer: RateLimitLayer<String, Key, RedisBuckets<String>> = layer.clone();
            layer.with_deadline(patient).when_unavailable(self.rule)
        };
        let (all, each) = (rate(&self.all), rate(&self.each));
        let tokens =
            TokenLimitLayer::with_store(self.tokens.clone(), self.budgets.clone(), client as Key)
                .with_deadline(patient)
                .when_unavailable(self.rule);
        let layer = match once {
            true => RedisLimitsLayer::new(self.redis.clone())
                .with_rate(&all, |store| Some(store))
                .with_rate(&each, |store| Some(store))
                .with_tokens(
                    &tokens,
                    |store| Some(store),
                    RedisLimitsLayer::expected_tokens_by_length,
                ),
            false => RedisLimitsLayer::off(),
        };
        let service = ServiceBuilder::new()
            .layer(layer)
            .layer(all)
            .layer(each)
            .layer(tokens)
            .service(service_fn(async |_: Request<String>| {
                // No success, so no tokens are used.
                let answer = Response::builder().status(404).body(String::new());
                Ok::<_, BoxError>(answer.unwrap())
            }));
        BoxCloneSyncService::new(service.map_response(|answer| answer.map(drop)))
    }

    async fn settled(&self) {
        self.tokens.settled().await;
    }
}

fn request(client: &str, bytes: usize) -> Request<String> {
    let body = "x".repeat(bytes);
    Request::builder()
        .header("x-client", client)
        .header(header::CONTENT_LENGTH, bytes)
        .body(body)
        .unwrap()
}

/// The `RateLimit` fields of an answer, without times.
fn fields(headers: &HeaderMap) -> Vec<String> {
    let of = |name| headers.get_all(name).iter();
    let text = |value: &http::HeaderValue| {
        let text = value.to_str().unwrap();
        text.split(";t=").next().unwrap().to_owned()
    };
    of("ratelimit-policy")
        .chain(of("ratelimit"))
        .map(text)
        .collect()
}

/// What a client sees: the fields of the answer, or of the refusal and its text without times.
async fn seen(stack: &Stack, request: Request<String>) -> Result<Vec<String>, String> {
    match stack.clone().oneshot(request).await {
        Ok(answer) => Ok(fields(answer.headers())),
        Err(error) => {
            let failure = Failure::find(&*error).unwrap();
            let mut headers = HeaderMap::new();
            failure.write_headers(&mut headers);
            let text = error.to_string();
            let text = text.split([';']).next().unwrap().to_owned();
            Err(format!("{} {text} {:?}", failure.kind(), fields(&headers)))
        }
    }
}

#[tokio::test]
async fn all_limits_of_a_request_are_asked_in_one_call_with_the_same_results() {
    let Some(server) = Server::start(&[]) else {
        return;
    };
    let mut results = Vec::new();
    for (run, once) in [true, false].into_iter().enumerate() {
        let limits = Limits::new(&server, 12, 5, &[(100, Window::Day)]).await;
        let stack = limits.stack(once);
        let mut seen_by = Vec::new();
        // Names of their own for each run; so the counts are separate. The common rate is reset.
        let name = |client: &str| format!("{client} {run}");
        for (client, bytes) in [
            ("ada", 40),
            ("ada", 400),
            ("ada", 4),
            ("bob", 40),
            ("ada", 40),
            ("ada", 40),
            ("eve", 40),
        ] {
            seen_by.push(seen(&stack, request(&name(client), bytes)).await);
            limits.settled().await;
            let expected: &[&str] = match once {
                true => &["admit"],
                false => &["take", "take", "reserve"],
            };
            assert_eq!(limits.calls.take(), expected);
        }
        // The fifth request was ada's last.
        seen_by.push(seen(&stack, request(&name("ada"), 40)).await);
        limits.calls.take();
        for _ in 0..5 {
            seen_by.push(seen(&stack, request(&name("bob"), 40)).await);
            limits.settled().await;
        }
        results.push(seen_by);
        let bucket = limits.redis.call("test", async |mut connection| {
            ::redis::cmd("FLUSHALL").exec_async(&mut connection).await
        });
        bucket.await.unwrap();
    }
    assert!(results[0][7].as_ref().unwrap_err().contains("rate_limited"));
    // What a rate refuses counts for the outer one only if each layer asks.
    assert_eq!(results[0][..8], results[1][..8]);
    assert_eq!(
        results[0][8],
        Ok(vec![
            r#""tokens-day";q=100;w=86400"#.to_owned(),
            r#""key";q=5;w=3600"#.to_owned(),
            r#""all";q=12;w=3600"#.to_owned(),
            r#""tokens-day";r=90"#.to_owned(),
            r#""key";r=3"#.to_owned(),
            r#""all";r=4"#.to_owned(),
        ])
    );
}

#[tokio::test]
async fn what_one_rate_refuses_does_not_count_for_the_others() {
    let Some(server) = Server::start(&[]) else {
        return;
    };
    let limits = Limits::new(&server, 10, 2, &[(1000, Window::Day)]).await;
    let stack = limits.stack(true);
    for number in 0..30 {
        let answer = stack.clone().oneshot(request("ada", 40)).await;
        assert_eq!(answer.is_ok(), number < 2, "{number}");
        if let Err(error) = answer {
            let failure = Failure::find(&*error).unwrap();
            assert!(failure.caused_by::<RateLimited>().is_some());
        }
    }
    limits.settled().await;
    let others = (0..20).map(|number| stack.clone().oneshot(request(&format!("c{number}"), 40)));
    let others = futures_util::future::join_all(others).await;
    let passed = others.iter().filter(|answer| answer.is_ok()).count();
    assert_eq!(passed, 8, "all but the two of ada");
    let (ada, budgets) = (Some("ada".to_owned()), &limits.budgets);
    let nothing = limits.tokens.reserve(ada, budgets, 0).await.unwrap();
    let left = nothing.unwrap().budget_states[0].remaining;
    assert_eq!(left, 1000, "refused requests reserve nothing");
}

#[tokio::test]
async fn a_body_of_unknown_length_costs_a_second_call() {
    let Some(server) = Server::start(&[]) else {
        return;
    };
    let limits = Limits::new(&server, 10, 10, &[(100, Window::Day)]).await;
    let stack = limits.stack(true);
    let mut chunked = request("ada", 40);
    chunked.headers_mut().remove(header::CONTENT_LENGTH);
    let answer = stack.clone().oneshot(chunked).await.unwrap();
    assert!(fields(answer.headers()).contains(&r#""tokens-day";r=90"#.to_owned()));
    assert_eq!(limits.calls.take(), ["admit", "reserve"]);
}

#[tokio::test]
async fn a_reservation_of_a_window_that_has_ended_is_made_again() {
    let Some(server) = Server::start(&[]) else {
        return;
    };
    for (window, calls) in [
        (Window::Day, &["admit"][..]),
        (Window::Minute, &["admit", "reserve"]),
    ] {
        let limits = Limits::new(&server, 10, 10, &[(100, window)]).await;
        let (ada, budgets) = (Some("ada".to_owned()), &limits.budgets);
        let mut ask = Ask::default();
        ask.account(limits.tokens.ask(ada.as_ref(), budgets, 10));
        let admitted = Admitted::new(ask).ask(&limits.redis).await;
        let mut extensions = http::Extensions::new();
        Shared::of_mut(&mut extensions).admitted = Some(admitted);
        // As for a request that has waited meanwhile.
        tokio::time::pause();
        tokio::time::advance(Duration::from_secs(61)).await;
        tokio::time::resume();
        let reserving = limits.tokens.reserve_for(&extensions, ada, budgets, 10);
        assert!(reserving.await.unwrap().is_ok());
        assert_eq!(limits.calls.take(), calls);
    }
}

#[tokio::test]
async fn a_reservation_that_no_layer_takes_is_given_back() {
    let Some(server) = Server::start(&[]) else {
        return;
    };
    let limits = Limits::new(&server, 10, 10, &[(100, Window::Day)]).await;
    let stack = limits.stack(true);
    // The head announces more than the layer finds: it asks for less than was reserved.
    let mut less = request("ada", 40);
    less.headers_mut()
        .insert(header::CONTENT_LENGTH, "200".parse().unwrap());
    let answer = stack.clone().oneshot(less).await.unwrap();
    assert!(
        fields(answer.headers()).contains(&r#""tokens-day";r=90"#.to_owned()),
        "the remaining tokens are those of the layer: {:?}",
        fields(answer.headers())
    );
    assert_eq!(limits.calls.take(), ["admit"]);
    limits.settled().await;
    // It announces less: the layer asks for more.
    let mut more = request("ada", 360);
    more.headers_mut()
        .insert(header::CONTENT_LENGTH, "4".parse().unwrap());
    stack.clone().oneshot(more).await.unwrap();
    assert_eq!(limits.calls.take(), ["admit", "reserve"]);
    limits.settled().await;
    let answer = stack.oneshot(request("ada", 4)).await.unwrap();
    assert!(fields(answer.headers()).contains(&r#""tokens-day";r=99"#.to_owned()));
}

#[tokio::test]
async fn a_cancelled_request_gives_back_what_redis_reserves_for_it() {
    let Some(server) = Server::start(&[]) else {
        return;
    };
    let limits = Limits::new(&server, 10, 10, &[(100, Window::Day)]).await;
    let stack = limits.stack(true);
    server.signal("STOP");
    let mut asking = Box::pin(stack.clone().oneshot(request("ada", 360)));
    let sent = tokio::time::timeout(Duration::from_millis(100), &mut asking);
    assert!(sent.await.is_err(), "Redis does not answer");
    drop(asking);
    server.signal("CONT");
    limits.settled().await;
    let answer = stack.oneshot(request("ada", 360)).await.unwrap();
    assert!(fields(answer.headers()).contains(&r#""tokens-day";r=10"#.to_owned()));
}

#[tokio::test]
async fn a_refusal_of_tokens_names_its_budget() {
    let Some(server) = Server::start(&[]) else {
        return;
    };
    let limits = Limits::new(&server, 10, 10, &[(50, Window::Minute), (80, Window::Day)]).await;
    let stack = limits.stack(true);
    let (ada, budgets) = (Some("ada".to_owned()), &limits.budgets);
    let _held = limits.tokens.reserve(ada, budgets, 45).await.unwrap();
    limits.calls.take();
    let error = stack.oneshot(request("ada", 200)).await.unwrap_err();
    let failure = Failure::find(&*error).unwrap();
    let exhausted = failure.caused_by::<TokensExhausted>().unwrap();
    assert_eq!(exhausted.budget_state.budget, limits.budgets[1]);
    assert_eq!(exhausted.budget_state.remaining, 35);
    assert_eq!(limits.calls.take(), ["admit"]);
}

#[tokio::test]
async fn without_an_answer_the_rule_of_each_layer_applies_after_one_call() {
    let Some(server) = Server::start(&["--maxmemory", "1"]) else {
        return;
    };
    for rule in [WhenUnavailable::Admit, WhenUnavailable::Refuse] {
        let mut limits = Limits::new(&server, 10, 10, &[(100, Window::Day)]).await;
        limits.rule = rule;
        let answer = limits.stack(true).oneshot(request("ada", 40)).await;
        assert_eq!(limits.calls.take(), ["admit"]);
        match rule {
            WhenUnavailable::Admit => assert_eq!(fields(answer.unwrap().headers()), [""; 0]),
            WhenUnavailable::Refuse => {
                let error = answer.unwrap_err();
                let failure = Failure::find(&*error).unwrap();
                assert!(failure.caused_by::<StoreUnavailable>().is_some(), "{error}");
            }
        }
    }
}

#[tokio::test]
async fn a_single_limit_asks_for_itself() {
    let Some(server) = Server::start(&[]) else {
        return;
    };
    let limits = Limits::new(&server, 10, 10, &[]).await;
    limits.all.set_quotas([], None);
    let stack = limits.stack(true);
    let mut chunked = request("ada", 40);
    chunked.headers_mut().remove(header::CONTENT_LENGTH);
    stack.oneshot(chunked).await.unwrap();
    assert_eq!(limits.calls.take(), ["take", "reserve"]);
}
