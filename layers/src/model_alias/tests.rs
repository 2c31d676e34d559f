#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, VecDeque};
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use http::{HeaderName, Request, Response, StatusCode};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Full, StreamBody};
use tokio::time::{Instant, sleep};
use tower::{Layer, ServiceExt, service_fn};

use super::*;
use crate::body::ReplayBody;
use crate::endpoint::EndpointLayer;
use crate::llm_request::LlmRequestLayer;
use crate::{
    BoxError, EndpointTable, ErrorCause, Fail, Failure, LlmRequest, ModelName, Outcome, Record,
    Side,
};

const MODEL: HeaderName = HeaderName::from_static("x-model");

type Sent = ReplayBody<Full<Bytes>>;

fn chain(name: &str, models: &[&str]) -> Alias {
    Alias::chain(name, models).unwrap()
}

fn choosing(choice: AliasChoice, models: &[&str]) -> Alias {
    let targets = models.iter().map(|model| AliasTarget::new(model).unwrap());
    Alias::new("gpt", targets, choice).unwrap()
}

fn texts(aliases: &Aliases, alias: &str, asked: &Asked<'_>, known: &dyn KnownModels) -> String {
    let alias = aliases.find(alias).unwrap();
    let models = aliases.candidates(alias, asked, known);
    let models: Vec<_> = models.iter().map(|model| &*model.text).collect();
    models.join(" ")
}

// === the table ===

#[test]
fn an_alias_is_found_in_every_spelling_and_other_names_are_not() {
    let aliases = Aliases::new([chain("GPT-4o", &["a"]), chain("openai/gpt:8b", &["b"])]).unwrap();
    for name in [
        "gpt-4o",
        "GPT-4O:latest",
        "library/gpt-4o",
        " gpt-4o",
        "OpenAI/gpt:8B",
    ] {
        assert!(aliases.find(name).is_some(), "{name}");
    }
    for name in [
        "gpt-4",
        "gpt-4o:1b",
        "gpt",
        "gpt:8b",
        "x/gpt-4o",
        "",
        ":",
        "/",
    ] {
        assert!(aliases.find(name).is_none(), "{name}");
    }
}

#[test]
fn unusable_aliases_are_refused_by_name() {
    let error = |alias: Result<Alias, AliasError>| alias.unwrap_err().to_string();
    assert!(error(Alias::chain("a b", ["c"])).contains("\"a b\" is not"));
    assert!(error(Alias::chain("a", ["c@"])).contains("\"c@\" is not"));
    assert!(error(Alias::chain("a", [""; 0])).contains("a stands for no model"));
    assert!(error(Alias::chain("a", ["A:latest"])).contains("a stands for itself"));
    let twice = Aliases::new([chain("a", &["b"]), chain("a:latest", &["c"])]);
    assert!(twice.unwrap_err().to_string().contains("twice"));
    let loops = Aliases::new([
        chain("a", &["x", "b"]),
        chain("b", &["c"]),
        chain("c", &["b", "y"]),
    ]);
    let text = loops.unwrap_err().to_string();
    assert!(text.contains("b, c, b"), "{text}");
}

#[test]
fn an_alias_in_its_own_list_is_the_model_of_that_name() {
    let aliases = Aliases::new([chain("a", &["a", "b"]), chain("c", &["a", "d"])]).unwrap();
    assert_eq!(texts(&aliases, "a", &Asked::new(), &()), "a b");
    assert_eq!(texts(&aliases, "c", &Asked::new(), &()), "a b d");
    let both = Aliases::new([chain("a", &["a", "b"]), chain("b", &["b", "a"])]).unwrap();
    assert_eq!(texts(&both, "a", &Asked::new(), &()), "a b");
    assert_eq!(texts(&both, "b", &Asked::new(), &()), "b a");
    assert!(Aliases::new([chain("a", &["a", "b"]), chain("b", &["a"])]).is_err());
}

#[test]
fn nine_clients_of_ten_get_the_model_with_nine_tenths_of_the_weight_and_each_the_same_again() {
    let weight = |weight| NonZeroU32::new(weight).unwrap();
    let target = |model, of| AliasTarget::new(model).unwrap().with_weight(weight(of));
    let alias = |first, second| {
        let targets = [target("a", first), target("b", second)];
        Aliases::new([Alias::new("mix", targets, AliasChoice::Weighted).unwrap()]).unwrap()
    };
    let first_of = |aliases: &Aliases, client: &str| {
        let asked = Asked::new().with_client(Some(client));
        texts(aliases, "mix", &asked, &())
    };
    let (before, after) = (alias(9, 1), alias(8, 2));
    let mut counts = BTreeMap::new();
    let mut moved = 0;
    for client in (0..4000).map(|number| format!("key:user-{number}")) {
        let chosen = first_of(&before, &client);
        assert_eq!(chosen, first_of(&before, &client));
        moved += usize::from(chosen != first_of(&after, &client));
        *counts.entry(chosen).or_insert(0) += 1;
    }
    // Both models are there, so that one is tried if the other fails.
    assert!((3500..3700).contains(&counts["a b"]), "{counts:?}");
    assert_eq!(counts["a b"] + counts["b a"], 4000);
    assert!((300..500).contains(&moved), "{moved}");
    // The order does not depend on the process: two gateways agree.
    let clients = ["key:ada", "key:bob", "address:10.0.0.7", "key:eve"];
    let even = alias(1, 1);
    let chosen: Vec<_> = clients
        .iter()
        .map(|client| first_of(&even, client))
        .collect();
    // Fixed values: another hash would give clients another model after an update.
    assert_eq!(chosen, ["b a", "b a", "a b", "b a"]);
}

#[test]
fn without_a_client_each_request_gets_a_model_by_chance() {
    let aliases = Aliases::new([choosing(AliasChoice::Weighted, &["a", "b"])]).unwrap();
    let chosen = (0..64).map(|_| texts(&aliases, "gpt", &Asked::new(), &()));
    let chosen: std::collections::BTreeSet<_> = chosen.collect();
    assert_eq!(chosen.len(), 2);
}

/// What a test says of models: those in memory, their cost and what they lack.
#[derive(Default)]
struct Known {
    resident: Vec<&'static str>,
    times: Vec<(&'static str, f64, Option<f64>)>,
    blind: Vec<&'static str>,
    missing: Vec<&'static str>,
    down: Vec<&'static str>,
}

impl KnownModels for Known {
    fn lacks(&self, model: &ModelName, needs: Needs) -> bool {
        needs.images && self.blind.contains(&model.model())
    }
    fn is_missing(&self, model: &ModelName) -> bool {
        self.missing.contains(&model.model())
    }
    fn is_down(&self, model: &ModelName) -> bool {
        self.down.contains(&model.model())
    }
    fn is_resident(&self, model: &ModelName) -> bool {
        self.resident.contains(&model.model())
    }
    fn expected(&self, model: &ModelName, _: &Asked<'_>) -> Option<ExpectedTime> {
        let known = self.times.iter().find(|(name, ..)| *name == model.model());
        known.map(|(_, delay, work)| ExpectedTime {
            delay: *delay,
            work: *work,
        })
    }
}

#[test]
fn a_set_prefers_what_is_in_memory_or_answers_soonest_and_never_what_lacks_a_capability() {
    let known = Known {
        resident: vec!["b", "c"],
        times: vec![
            ("a", 3.0, Some(0.0)),
            ("b", 0.0, Some(1.0)),
            ("c", 1.0, Some(1.0)),
        ],
        blind: vec!["b"],
        ..Known::default()
    };
    let images = Asked::new().with_needs(Needs::new().with_images(true));
    let text = Asked::new();
    let all = ["d", "a", "b", "c"];
    for (choice, of_text, of_images) in [
        (AliasChoice::InOrder, "d a b c", "d a c"),
        (AliasChoice::Resident, "b c", "c"),
        (AliasChoice::Cheapest, "b c a d", "c a d"),
    ] {
        let aliases = Aliases::new([choosing(choice, &all)]).unwrap();
        assert_eq!(texts(&aliases, "gpt", &text, &known), of_text);
        assert_eq!(texts(&aliases, "gpt", &images, &known), of_images);
    }
    let none_resident = Known::default();
    let aliases = Aliases::new([choosing(AliasChoice::Resident, &all)]).unwrap();
    assert_eq!(texts(&aliases, "gpt", &text, &none_resident), "d a b c");
    let single = Aliases::new([chain("gpt", &["b"])]).unwrap();
    assert_eq!(texts(&single, "gpt", &images, &known), "b");
}

#[test]
fn a_model_of_unknown_speed_is_compared_by_its_delay() {
    let known = |work_of_b| Known {
        times: vec![("a", 0.0, Some(9.0)), ("b", 2.0, work_of_b)],
        ..Known::default()
    };
    let aliases = Aliases::new([choosing(AliasChoice::Cheapest, &["b", "a"])]).unwrap();
    assert_eq!(texts(&aliases, "gpt", &Asked::new(), &known(None)), "a b");
    let fast = known(Some(1.0));
    assert_eq!(texts(&aliases, "gpt", &Asked::new(), &fast), "b a");
}

#[test]
fn a_model_that_is_on_no_server_is_tried_last() {
    let known = Known {
        missing: vec!["a", "c"],
        ..Known::default()
    };
    let aliases = Aliases::new([chain("gpt", &["a", "b", "c", "d"])]).unwrap();
    assert_eq!(texts(&aliases, "gpt", &Asked::new(), &known), "b d a c");
}

#[test]
fn a_model_whose_servers_are_down_is_tried_last_whatever_the_choice() {
    let known = Known {
        missing: vec!["c"],
        down: vec!["a", "d"],
        times: vec![("a", 0.0, None), ("b", 1.0, None)],
        ..Known::default()
    };
    for choice in [AliasChoice::InOrder, AliasChoice::Cheapest] {
        let aliases = Aliases::new([choosing(choice, &["a", "c", "d", "b"])]).unwrap();
        assert_eq!(texts(&aliases, "gpt", &Asked::new(), &known), "b c a d");
    }
}

// === the service ===

/// What an inner service answers.
#[derive(Clone, Copy, Debug)]
enum Does {
    Status(u16),
    Fails(u16),
    /// With a body that is too large to keep.
    SaysTooMuch(u16),
    /// With status 500 for this cause.
    Blames(ErrorCause),
}

#[derive(Debug, thiserror::Error)]
#[error("failed with {0}")]
struct Broke(u16);

impl Fail for Broke {
    fn side(&self) -> Side {
        Side::Gateway
    }
    fn status(&self) -> StatusCode {
        StatusCode::from_u16(self.0).unwrap()
    }
    fn kind(&self) -> &'static str {
        "broke"
    }
}

/// The model in a request: as the body names it, and as the scan's result does.
async fn models_in(request: Request<Sent>) -> (String, String) {
    let scanned = LlmRequest::of(request.extensions()).unwrap().model.clone();
    let body = request.into_body().collect().await.unwrap().to_bytes();
    let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
    (
        body["model"].as_str().unwrap().to_owned(),
        scanned.unwrap().to_string(),
    )
}

/// The answer and the models that were tried.
async fn asked(aliases: Aliases, script: &[Does], body: &'static str) -> (String, Vec<String>) {
    let tried = Arc::new(Mutex::new(Vec::new()));
    let seen = tried.clone();
    let script: Arc<Mutex<VecDeque<Does>>> = Arc::new(Mutex::new(script.iter().copied().collect()));
    let inner = service_fn(move |request: Request<Sent>| {
        let (script, seen) = (script.clone(), seen.clone());
        async move {
            let (in_body, scanned) = models_in(request).await;
            assert_eq!(in_body, scanned);
            seen.lock().unwrap().push(in_body.clone());
            let next = script.lock().unwrap().pop_front().unwrap();
            let (status, cause) = match next {
                Does::Status(status) | Does::Fails(status) | Does::SaysTooMuch(status) => {
                    (status, None)
                }
                Does::Blames(cause) => (500, Some(cause)),
            };
            match next {
                Does::Fails(_) => Err(BoxError::from(Failure::from(Broke(status)))),
                Does::SaysTooMuch(_) => {
                    let answer = Response::builder().status(status);
                    let answer = answer.header("retry-after", "7");
                    Ok(answer.body(Full::<Bytes>::from("x".repeat(100_000)))?)
                }
                Does::Status(_) | Does::Blames(_) => {
                    let mut answer = Response::builder().status(status);
                    if let Some(cause) = cause {
                        answer = answer.extension(cause);
                    }
                    let answer = answer.header("content-type", "application/json");
                    Ok(answer.body(Full::<Bytes>::from(format!("{{\"model\":\"{in_body}\"}}")))?)
                }
            }
        }
    });
    let layer = ModelAliasLayer::new(aliases)
        .with_header(MODEL)
        .with_known_models(Known {
            blind: vec!["blind"],
            ..Known::default()
        })
        .with_allowed(|_, model| !model.model().starts_with("secret"));
    let service = EndpointLayer::new(EndpointTable::ollama())
        .layer(LlmRequestLayer::new().layer(layer.layer(inner)));
    let request = Request::post("/api/chat").body(Sent::from(Bytes::from(body)));
    let answer = match service.oneshot(request.unwrap()).await {
        Err(error) => format!(
            "{} {error}",
            Failure::find(&*error).unwrap().status().as_u16()
        ),
        Ok(answer) => {
            let (head, body) = answer.into_parts();
            let named = head
                .headers
                .get(MODEL)
                .map_or("-", |name| name.to_str().unwrap());
            let body = body.collect().await.unwrap().to_bytes();
            let body = String::from_utf8(body.to_vec()).unwrap();
            format!("{} {named} {body}", head.status.as_u16())
        }
    };
    let tried = tried.lock().unwrap().clone();
    (answer, tried)
}

#[tokio::test]
async fn each_model_that_is_tried_next_is_reported_with_the_alias_of_the_table() {
    let reported = Arc::new(Mutex::new(Vec::new()));
    let seen = reported.clone();
    let layer = ModelAliasLayer::new(abc()).with_observer(move |fallback| {
        let model = &fallback.model.text;
        let text = format!("{} {model} {}", fallback.alias, fallback.reason);
        seen.lock().unwrap().push(text);
    });
    let statuses = Arc::new(Mutex::new(VecDeque::from([404_u16, 503, 500])));
    let inner = service_fn(move |_: Request<Sent>| {
        let status = statuses.lock().unwrap().pop_front().unwrap();
        let answer = Response::builder()
            .status(status)
            .body(Full::<Bytes>::default());
        std::future::ready(answer.map_err(BoxError::from))
    });
    let service = EndpointLayer::new(EndpointTable::ollama())
        .layer(LlmRequestLayer::new().layer(layer.layer(inner)));
    let body = Sent::from(Bytes::from_static(br#"{"model":"GPT:latest"}"#));
    let request = Request::post("/api/chat").body(body).unwrap();
    assert_eq!(service.oneshot(request).await.unwrap().status(), 503);
    let reported = reported.lock().unwrap();
    assert_eq!(*reported, ["gpt a missing", "gpt b unavailable"]);
}

#[tokio::test]
async fn a_model_is_renamed_to_its_own_name_in_another_spelling() {
    for (model, asked_for) in [("A", "a"), ("a", "A:latest"), ("a", "a"), ("b", "a")] {
        let aliases = Aliases::new([Alias::renaming(asked_for, model).unwrap()]).unwrap();
        let body = format!(r#"{{"model":"{asked_for}","messages":[]}}"#);
        let (answer, tried) = asked(aliases, &[Does::Status(200)], body.leak()).await;
        assert_eq!(answer, format!(r#"200 {model} {{"model":"{asked_for}"}}"#));
        assert_eq!(tried, [model]);
    }
    assert!(Alias::renaming("a b", "a").is_err() && Alias::renaming("a", "a b").is_err());
}

#[tokio::test]
async fn a_model_that_the_request_may_not_run_is_left_out_while_there_is_another() {
    const BODY: &str = r#"{"model":"gpt","messages":[]}"#;
    let aliases = |models: &[&str]| Aliases::new([chain("gpt", models)]).unwrap();
    let (_, tried) = asked(aliases(&["secret", "a"]), &[Does::Status(200)], BODY).await;
    assert_eq!(tried, ["a"]);
    // The inner service says why it refuses the first one.
    let only = aliases(&["secret", "secret2"]);
    let (answer, tried) = asked(only, &[Does::Fails(403)], BODY).await;
    assert_eq!(
        (&*answer, &tried[..]),
        ("403 failed with 403", &["secret".to_owned()][..])
    );
}

fn abc() -> Aliases {
    Aliases::new([chain("gpt", &["a", "b", "c"])]).unwrap()
}

#[tokio::test]
async fn the_next_model_is_tried_if_one_is_missing_busy_or_failing() {
    use Does::{Blames, Fails, Status};
    for (script, expected, tried) in [
        (&[Status(200)][..], "200 a {\"model\":\"GPT\"}", 1),
        (&[Status(404), Status(200)], "200 b {\"model\":\"GPT\"}", 2),
        (
            &[Fails(404), Fails(503), Status(200)],
            "200 c {\"model\":\"GPT\"}",
            3,
        ),
        (
            &[Fails(429), Status(502), Status(200)],
            "200 c {\"model\":\"GPT\"}",
            3,
        ),
        (&[Status(400)], "400 a {\"model\":\"a\"}", 1),
        (&[Fails(403)], "403 failed with 403", 1),
        (&[Blames(ErrorCause::Request)], "500 a {\"model\":\"a\"}", 1),
        (
            &[Blames(ErrorCause::Model), Status(200)],
            "200 b {\"model\":\"GPT\"}",
            2,
        ),
    ] {
        let (answer, models) = asked(abc(), script, r#"{"model":"GPT"}"#).await;
        assert_eq!(answer, expected, "{script:?}");
        assert_eq!(models, ["a", "b", "c"][..tried], "{script:?}");
    }
}

#[tokio::test]
async fn without_an_answer_the_client_gets_the_first_failure_that_may_pass() {
    use Does::{Fails, SaysTooMuch, Status};
    for (script, expected) in [
        ([Fails(503), Status(500), Fails(404)], "503 failed with 503"),
        ([SaysTooMuch(503), Status(500), Fails(404)], "503 a "),
        ([Status(404), SaysTooMuch(500), Status(404)], "500 b "),
        (
            [Status(404), Status(500), Fails(503)],
            "500 b {\"model\":\"b\"}",
        ),
        ([Status(404), Fails(404), Fails(429)], "429 failed with 429"),
        (
            [Status(404), Fails(404), Status(503)],
            "503 c {\"model\":\"c\"}",
        ),
        (
            [Status(404), Fails(404), Status(404)],
            "404 model 'gpt' not found: it stands for a, b, c, and no server has one of these",
        ),
    ] {
        let (answer, models) = asked(abc(), &script, r#"{"model":"gpt"}"#).await;
        assert_eq!((&*answer, models.len()), (expected, 3), "{script:?}");
    }
}

#[tokio::test]
async fn a_request_that_no_model_can_serve_is_refused_with_what_it_needs() {
    let body = r#"{"model":"gpt","messages":[{"images":["aGk="]}]}"#;
    let aliases = Aliases::new([chain("gpt", &["blind", "other"])]).unwrap();
    let (_, tried) = asked(aliases, &[Does::Status(200)], body).await;
    assert_eq!(tried, ["other"]);
    let nested = Aliases::new([chain("gpt", &["blind", "gpt2"]), chain("gpt2", &["blind"])]);
    let (answer, tried) = asked(nested.unwrap(), &[Does::Status(200)], body).await;
    assert_eq!(tried, ["blind"], "a single model: {answer}");
    let two = Aliases::new([chain("gpt", &["blind", "blind:2"])]).unwrap();
    let (answer, tried) = asked(two, &[], body).await;
    assert_eq!(tried, [""; 0]);
    assert_eq!(
        answer,
        "400 no model of 'gpt' supports what the request needs (vision): it stands for blind, blind:2"
    );
}

#[tokio::test]
async fn a_request_without_an_alias_passes_unchanged() {
    let (answer, tried) = asked(abc(), &[Does::Status(404)], r#"{"model":"a"}"#).await;
    assert_eq!(
        (&*answer, &*tried),
        ("404 - {\"model\":\"a\"}", &["a".to_owned()][..])
    );
}

/// The length that a response declares and its body, for a response of these frames.
fn declared(frames: &[&str]) -> (Option<String>, String) {
    let whole = frames.concat();
    let frames: Vec<_> = frames
        .iter()
        .map(|frame| Ok::<_, BoxError>(Frame::data(Bytes::from(frame.to_string()))))
        .collect();
    let frames = Mutex::new(Some(frames));
    let inner = service_fn(move |_: Request<Sent>| {
        let frames = frames.lock().unwrap().take().unwrap();
        let body = StreamBody::new(futures_util::stream::iter(frames));
        let answer = Response::builder()
            .header("content-type", "application/json; charset=utf-8")
            .header("content-length", whole.len())
            .body(body);
        async { Ok::<_, BoxError>(answer.unwrap()) }
    });
    let inner = tower::util::BoxCloneService::new(Cloned(Arc::new(Mutex::new(inner))));
    let service = EndpointLayer::new(EndpointTable::ollama())
        .layer(LlmRequestLayer::new().layer(ModelAliasLayer::new(abc()).layer(inner)));
    let request =
        Request::post("/v1/embeddings").body(Sent::from(Bytes::from(r#"{"model":"gpt"}"#)));
    let answer = service
        .oneshot(request.unwrap())
        .now_or_never()
        .unwrap()
        .unwrap();
    let length = answer.headers().get("content-length");
    let length = length.map(|length| length.to_str().unwrap().to_owned());
    assert!(!answer.body().is_end_stream());
    let body = answer
        .into_body()
        .collect()
        .now_or_never()
        .unwrap()
        .unwrap()
        .to_bytes();
    (length, String::from_utf8(body.to_vec()).unwrap())
}

#[tokio::test(start_paused = true)]
async fn the_time_of_reading_an_answer_before_its_head_goes_on_is_the_backends() {
    let inner = service_fn(async |request: Request<Sent>| {
        let now = Instant::now();
        Record::update_in(request.extensions(), |outcome| outcome.attempted(now, now));
        let (status, delay) = match &*models_in(request).await.0 {
            "a" => (503, 500),
            _ => (200, 2000),
        };
        let text = r#"{"model":"it"}"#;
        let body = StreamBody::new(Box::pin(futures_util::stream::once(async move {
            sleep(Duration::from_millis(delay)).await;
            Ok::<_, BoxError>(Frame::data(Bytes::from(text)))
        })));
        let answer = Response::builder().status(status);
        let answer = answer.header("content-type", "application/json");
        Ok::<_, BoxError>(answer.header("content-length", text.len()).body(body)?)
    });
    let service = EndpointLayer::new(EndpointTable::ollama())
        .layer(LlmRequestLayer::new().layer(ModelAliasLayer::new(abc()).layer(inner)));
    let request =
        Request::post("/v1/embeddings").body(Sent::from(Bytes::from(r#"{"model":"gpt"}"#)));
    let mut request = request.unwrap();
    let record = Record::new(Outcome::starting(Instant::now()));
    record.clone().put_into(request.extensions_mut());
    let answer = service.oneshot(request).await.unwrap();
    assert_eq!(answer.status(), 200);
    let outcome = record.snapshot();
    assert_eq!(outcome.waited, Duration::from_millis(2500));
    assert_eq!(outcome.last_answered, Some(Instant::now()));
}

/// A service that can be cloned.
struct Cloned<S>(Arc<Mutex<S>>);

impl<S> Clone for Cloned<S> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<S: tower::Service<R>, R> tower::Service<R> for Cloned<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;
    fn poll_ready(
        &mut self,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Result<(), S::Error>> {
        self.0.lock().unwrap().poll_ready(cx)
    }
    fn call(&mut self, request: R) -> S::Future {
        self.0.lock().unwrap().call(request)
    }
}

#[test]
fn the_declared_length_is_that_of_the_new_body() {
    let (length, body) = declared(&[
        "{\"object\":\"list\",\"mod",
        "el\":\"abcdef",
        "ghi\",\"data\":[",
        "1]}",
    ]);
    assert_eq!(body, r#"{"object":"list","model":"gpt","data":[1]}"#);
    assert_eq!(length, Some(body.len().to_string()));
    let (length, body) = declared(&["{\"object\":\"list\",", "\"data\":[1]}"]);
    assert_eq!(
        (length, &*body),
        (Some("28".into()), r#"{"object":"list","data":[1]}"#)
    );
    let data = format!("{{\"data\":\"{}\",", "x".repeat(100_000));
    let (length, body) = declared(&[&data, "\"model\":\"a\"}"]);
    assert_eq!(length, None, "the model is too far from the beginning");
    assert!(body.ends_with("\"model\":\"gpt\"}"));
}
