#![allow(clippy::unwrap_used, clippy::type_complexity)]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE};
use http::{Request, Response};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Empty, StreamBody};
use tokio::sync::mpsc;
use tokio_test::task::spawn;
use tower::{Service, ServiceBuilder, ServiceExt, service_fn};

use super::*;
use crate::body::ReplayBody;
use crate::endpoint::EndpointLayer;
use crate::{BoxError, EndpointTable, Failure};

type Sent = ReplayBody<Empty<Bytes>>;

const EMBED: &str = r#"{"model":"tiny","input":"a tower"}"#;
const COLD: &str = r#"{"model":"tiny","prompt":"a","options":{"temperature":0}}"#;
const LINE: &str = "{\"response\":\"a\",\"done\":false}\n";
const LAST: &str = "{\"response\":\"\",\"done\":true}\n";

fn layer() -> CacheLayer {
    CacheLayer::new(1 << 20, |_| Some(Arc::from("v1")))
}

fn request(path: &str, body: &str) -> Request<Sent> {
    let body = Sent::from(Bytes::copy_from_slice(body.as_bytes()));
    Request::post(path).body(body).unwrap()
}

/// The scripted answer of a backend.
#[derive(Clone, Debug)]
struct Script {
    status: u16,
    content_type: &'static str,
    length: Option<usize>,
    frames: Vec<&'static str>,
    breaks: bool,
}

impl Script {
    fn json(text: &'static str) -> Self {
        Self {
            status: 200,
            content_type: "application/json",
            length: Some(text.len()),
            frames: vec![text],
            breaks: false,
        }
    }

    fn lines(frames: &[&'static str]) -> Self {
        Self {
            status: 200,
            content_type: "application/x-ndjson",
            length: None,
            frames: frames.to_vec(),
            breaks: false,
        }
    }
}

/// A stack whose backend gives this response, with a counter of its calls.
fn stack(
    layer: CacheLayer,
    script: Script,
) -> (
    impl Service<
        Request<Sent>,
        Response = Response<impl Body<Data = Bytes, Error = BoxError> + Send>,
        Error = BoxError,
    > + Clone,
    Arc<AtomicUsize>,
) {
    let calls = Arc::new(AtomicUsize::new(0));
    let count = calls.clone();
    let service = ServiceBuilder::new()
        .layer(EndpointLayer::new(EndpointTable::ollama()))
        .layer(layer)
        .service(service_fn(move |_: Request<Sent>| {
            count.fetch_add(1, Ordering::Relaxed);
            let script = script.clone();
            async move {
                let mut answer = Response::builder()
                    .status(script.status)
                    .header(CONTENT_TYPE, script.content_type);
                if let Some(length) = script.length {
                    answer = answer.header(CONTENT_LENGTH, length);
                }
                let frames = script
                    .frames
                    .into_iter()
                    .map(|text| Ok(Frame::data(Bytes::from(text))));
                let broken = script.breaks.then(|| Err(BoxError::from("broke")));
                let frames: Vec<_> = frames.chain(broken).collect();
                Ok::<_, BoxError>(answer.body(StreamBody::new(futures_util::stream::iter(frames)))?)
            }
        }));
    (service, calls)
}

/// The frames of a response, and its `Cache-Status`.
async fn call<S, B>(service: &S, request: Request<Sent>) -> (Vec<String>, String)
where
    S: Service<Request<Sent>, Response = Response<B>, Error = BoxError> + Clone,
    B: Body<Data = Bytes, Error = BoxError>,
{
    let answer = service.clone().oneshot(request).await.unwrap();
    let status = answer.headers().get("cache-status");
    let status = status.map_or(String::new(), |value| value.to_str().unwrap().to_owned());
    let mut body = Box::pin(answer.into_body());
    let mut frames = Vec::new();
    while let Some(Ok(frame)) = body.frame().await {
        frames.push(String::from_utf8(frame.into_data().unwrap().to_vec()).unwrap());
    }
    (frames, status)
}

#[tokio::test]
async fn equal_requests_are_answered_once_whatever_the_order_of_members() {
    let cache = layer();
    let (service, calls) = stack(cache.clone(), Script::json("{\"embeddings\":[]}"));
    let (frames, status) = call(&service, request("/api/embed", EMBED)).await;
    assert_eq!(
        (frames, &*status),
        (vec!["{\"embeddings\":[]}".into()], "llamatower; fwd=miss")
    );
    for body in [
        EMBED,
        r#"{ "input": "a tower", "model": "tiny" }"#,
        r#"{"input":"a tower","model":"tiny","keep_alive":"5m"}"#,
    ] {
        let (frames, status) = call(&service, request("/api/embed", body)).await;
        assert_eq!(
            (frames, &*status),
            (vec!["{\"embeddings\":[]}".into()], "llamatower; hit")
        );
    }
    let (_, status) = call(
        &service,
        request("/api/embed", r#"{"model":"tiny","input":"b"}"#),
    )
    .await;
    assert_eq!(status, "llamatower; fwd=miss");
    assert_eq!(calls.load(Ordering::Relaxed), 2);
    let counts = cache.counts();
    assert_eq!((counts.hits, counts.misses, counts.collapsed), (3, 2, 0));
}

#[tokio::test]
async fn the_order_within_a_schema_a_message_or_a_tool_makes_another_request() {
    let format = |order: [&str; 2]| {
        let [one, other] = order.map(|name| format!(r#""{name}":{{"type":"string"}}"#));
        format!(
            r#"{{"prompt":"a","options":{{"seed":7,"top_k":2}},"format":{{"properties":{{{one},{other}}}}}}}"#
        )
    };
    let [one, other] = [format(["why", "answer"]), format(["answer", "why"])];
    let sorted = one.replace(r#""seed":7,"top_k":2"#, r#""top_k": 2, "seed": 7"#);
    let (service, calls) = stack(layer(), Script::json("{}"));
    for (body, expected) in [(&one, "fwd=miss"), (&other, "fwd=miss"), (&sorted, "hit")] {
        let (_, status) = call(&service, request("/api/generate", body)).await;
        assert_eq!(status, format!("llamatower; {expected}"), "{body}");
    }
    assert_eq!(calls.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn a_stream_is_replayed_as_a_stream() {
    let (service, calls) = stack(layer(), Script::lines(&[LINE, LINE, LAST]));
    for expected in ["llamatower; fwd=miss", "llamatower; hit"] {
        let (frames, status) = call(&service, request("/api/generate", COLD)).await;
        assert_eq!(
            (frames, &*status),
            (vec![LINE.into(), LINE.into(), LAST.into()], expected)
        );
    }
    let answer = service
        .oneshot(request("/api/generate", COLD))
        .await
        .unwrap();
    assert_eq!(
        answer.body().size_hint().exact(),
        None,
        "a known length would add a Content-Length"
    );
    assert_eq!(calls.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn requests_that_are_not_deterministic_are_not_cached() {
    for (path, body, is_cached) in [
        ("/api/generate", r#"{"prompt":"a"}"#, false),
        (
            "/api/generate",
            r#"{"prompt":"a","options":{"temperature":0.1}}"#,
            false,
        ),
        (
            "/api/generate",
            r#"{"prompt":"a","options":{"seed":7}}"#,
            true,
        ),
        ("/api/generate", r#"{"prompt":"a","temperature":0}"#, false),
        ("/api/generate", r#"{"options":{"temperature":0}}"#, false),
        (
            "/api/generate",
            r#"{"prompt":"a","keep_alive":0,"options":{"seed":7}}"#,
            false,
        ),
        (
            "/v1/chat/completions",
            r#"{"messages":[{}],"temperature":0}"#,
            true,
        ),
        ("/v1/completions", r#"{"prompt":"a","seed":1}"#, true),
        // Ollama's default, which is another seed for each request.
        ("/v1/completions", r#"{"prompt":"a","seed":-1}"#, false),
        (
            "/api/generate",
            r#"{"prompt":"a","options":{"seed":-1,"temperature":1}}"#,
            false,
        ),
        // They unload and load the model.
        ("/api/embed", r#"{"input":"a","keep_alive":"0m"}"#, false),
        ("/api/embed", r#"{"input":"a","keep_alive":"0h0s"}"#, false),
        ("/api/embed", r#"{"input":"a","keep_alive":"10m"}"#, true),
        ("/api/embed", r#"{"keep_alive":"5m"}"#, false),
        ("/api/embed", r#"{"input":""}"#, false),
        ("/v1/embeddings", r#"{"input":"a"}"#, true),
        ("/api/show", r#"{"model":"tiny"}"#, false),
        ("/api/embed", "no JSON", false),
    ] {
        let (service, calls) = stack(layer(), Script::json("{\"done\":true}"));
        for _ in 0..2 {
            call(&service, request(path, body)).await;
        }
        let expected = if is_cached { 1 } else { 2 };
        assert_eq!(calls.load(Ordering::Relaxed), expected, "{path} {body}");
    }
}

#[tokio::test]
async fn only_complete_answers_are_cached() {
    let json = Script::json("{\"embeddings\":[]}");
    let lines = |frames: &[&'static str]| Script::lines(frames);
    for (path, body, script) in [
        (
            "/api/embed",
            EMBED,
            Script {
                status: 404,
                ..json.clone()
            },
        ),
        (
            "/api/embed",
            EMBED,
            Script {
                length: Some(99),
                ..json.clone()
            },
        ),
        (
            "/api/embed",
            EMBED,
            Script {
                breaks: true,
                ..json.clone()
            },
        ),
        ("/api/generate", COLD, lines(&[LINE])),
        (
            "/api/generate",
            COLD,
            lines(&[LINE, "{\"error\":\"no\"}\n"]),
        ),
        (
            "/api/generate",
            COLD,
            Script {
                breaks: true,
                ..lines(&[LINE, LAST])
            },
        ),
    ] {
        let layer = layer();
        let (service, calls) = stack(layer.clone(), script.clone());
        for _ in 0..2 {
            call(&service, request(path, body)).await;
        }
        assert_eq!(calls.load(Ordering::Relaxed), 2, "{script:?}");
        assert_eq!(
            (layer.entries(), layer.store.exchanges()),
            (0, 0),
            "{script:?}"
        );
    }
}

#[tokio::test]
async fn tenants_and_versions_are_separate_and_without_a_version_nothing_is_cached() {
    let version = Arc::new(Mutex::new(Some("v1")));
    let current = version.clone();
    let layer = CacheLayer::new(1 << 20, move |_| current.lock().unwrap().map(Arc::from))
        .with_tenant(|parts| Some(parts.headers.get("tenant")?.to_str().ok()?.into()));
    let (service, _) = stack(layer.clone(), Script::json("{}"));
    let of = |tenant: &str| {
        let mut request = request("/api/embed", EMBED);
        request
            .headers_mut()
            .insert("tenant", tenant.parse().unwrap());
        request
    };
    assert_eq!(call(&service, of("ada")).await.1, "llamatower; fwd=miss");
    assert_eq!(call(&service, of("bob")).await.1, "llamatower; fwd=miss");
    assert_eq!(call(&service, of("ada")).await.1, "llamatower; hit");
    *version.lock().unwrap() = Some("v2");
    assert_eq!(call(&service, of("ada")).await.1, "llamatower; fwd=miss");
    *version.lock().unwrap() = None;
    assert_eq!(call(&service, of("ada")).await.1, "");
}

#[tokio::test]
async fn headers_of_one_answer_are_not_sent_with_the_next() {
    #[derive(Clone)]
    struct OfThisOne;
    let backend = service_fn(async |_: Request<Sent>| {
        let answer = Response::builder()
            .header(CONTENT_TYPE, "application/json")
            .header("ratelimit", "\"tokens-day\";r=5;t=9")
            .header("x-request-id", "1")
            .header("x-llamatower-backend", "gpu-1")
            .extension(OfThisOne);
        Ok::<_, BoxError>(answer.body(http_body_util::Full::<Bytes>::from("{}"))?)
    });
    let service = ServiceBuilder::new()
        .layer(EndpointLayer::new(EndpointTable::ollama()))
        .layer(layer())
        .service(backend);
    for is_leader in [true, false] {
        let answer = service
            .clone()
            .oneshot(request("/api/embed", EMBED))
            .await
            .unwrap();
        let has = |name: &str| answer.headers().contains_key(name);
        assert!(has("x-llamatower-backend"));
        assert_eq!(
            (has("ratelimit"), has("x-request-id")),
            (is_leader, is_leader)
        );
        assert_eq!(answer.extensions().get::<OfThisOne>().is_some(), is_leader);
        answer.into_body().collect().await.unwrap();
    }
}

#[tokio::test]
async fn a_client_that_asks_for_a_fresh_answer_gets_one() {
    let (service, calls) = stack(layer(), Script::json("{}"));
    for directive in ["no-store", "no-cache", "max-age=0, no-cache"] {
        let mut request = request("/api/embed", EMBED);
        request
            .headers_mut()
            .insert(CACHE_CONTROL, directive.parse().unwrap());
        assert_eq!(call(&service, request).await.1, "llamatower; fwd=bypass");
    }
    assert_eq!(calls.load(Ordering::Relaxed), 3);
}

#[tokio::test(start_paused = true)]
async fn an_answer_is_cached_for_its_lifetime_and_within_the_byte_limit() {
    let layer = layer().with_time_to_live(Duration::from_secs(60));
    let (service, _) = stack(layer.clone(), Script::json("{}"));
    call(&service, request("/api/embed", EMBED)).await;
    tokio::time::advance(Duration::from_secs(59)).await;
    assert_eq!(
        call(&service, request("/api/embed", EMBED)).await.1,
        "llamatower; hit"
    );
    tokio::time::advance(Duration::from_secs(1)).await;
    assert_eq!(
        call(&service, request("/api/embed", EMBED)).await.1,
        "llamatower; fwd=miss"
    );

    let small = CacheLayer::new(64 << 10, |_| Some(Arc::from("v1"))).with_max_answer(100);
    let (service, _) = stack(small.clone(), Script::json("{}"));
    for number in 0..1000 {
        let body = format!(r#"{{"model":"tiny","input":"{number}"}}"#);
        call(&service, request("/api/embed", &body)).await;
    }
    assert!(
        small.entries() > 10 && small.bytes() <= 64 << 10,
        "{small:?}"
    );
    let (service, calls) = stack(
        small.clone(),
        Script::lines(&[LINE, LINE, LINE, LINE, LAST]),
    );
    for _ in 0..2 {
        call(&service, request("/api/generate", COLD)).await;
    }
    assert_eq!(
        calls.load(Ordering::Relaxed),
        2,
        "it is larger than the answer limit"
    );
}

type Lines = mpsc::UnboundedReceiver<Result<Frame<Bytes>, BoxError>>;

/// A stack whose only answer is scripted by the test, one frame at a time.
fn directed(
    layer: CacheLayer,
) -> (
    impl Service<
        Request<Sent>,
        Response = Response<impl Body<Data = Bytes, Error = BoxError> + Send>,
        Error = BoxError,
        Future: Send,
    > + Clone,
    mpsc::UnboundedSender<Result<Frame<Bytes>, BoxError>>,
) {
    let (say, said) = mpsc::unbounded_channel();
    let said: Arc<Mutex<Option<Lines>>> = Arc::new(Mutex::new(Some(said)));
    let service = ServiceBuilder::new()
        .layer(EndpointLayer::new(EndpointTable::ollama()))
        .layer(layer)
        .service(service_fn(move |_: Request<Sent>| {
            let said = said.lock().unwrap().take();
            async move {
                let said = said.ok_or("the backend was called twice")?;
                let frames = futures_util::stream::unfold(said, async |mut said| {
                    said.recv().await.map(|frame| (frame, said))
                });
                let answer = Response::builder().header(CONTENT_TYPE, "application/x-ndjson");
                Ok::<_, BoxError>(answer.body(StreamBody::new(Box::pin(frames)))?)
            }
        }));
    (service, say)
}

fn line(text: &'static str) -> Result<Frame<Bytes>, BoxError> {
    Ok(Frame::data(Bytes::from(text)))
}

#[tokio::test]
async fn equal_requests_share_an_answer_in_progress_and_the_first_can_leave() {
    let layer = layer();
    let (service, say) = directed(layer.clone());
    let first = service
        .clone()
        .oneshot(request("/api/generate", COLD))
        .await
        .unwrap();
    let mut first = Box::pin(first.into_body());
    say.send(line(LINE)).unwrap();
    assert!(first.frame().await.unwrap().is_ok());
    let second = service
        .clone()
        .oneshot(request("/api/generate", COLD))
        .await
        .unwrap();
    assert_eq!(
        second.headers()["cache-status"],
        "llamatower; fwd=miss; collapsed"
    );
    let mut second = Box::pin(second.into_body());
    let mut early = spawn(async { second.frame().await.unwrap().unwrap() });
    assert!(early.poll().is_ready(), "earlier frames arrive at once");
    drop(early);
    // Both wait. The one that was polled last is dropped; the other must still be woken.
    let mut waiting = spawn(async { second.collect().await.unwrap().to_bytes() });
    assert!(waiting.poll().is_pending());
    let mut leaving = spawn(first.frame());
    assert!(leaving.poll().is_pending());
    drop(leaving);
    drop(first);
    say.send(line(LAST)).unwrap();
    drop(say);
    assert!(waiting.is_woken());
    let rest = waiting.await;
    assert_eq!(rest, LAST);
    assert_eq!(layer.entries(), 1, "it was complete");
}

#[tokio::test]
async fn the_exchange_is_cancelled_when_the_last_request_leaves() {
    let layer = layer();
    let (service, say) = directed(layer.clone());
    let call = || service.clone().oneshot(request("/api/generate", COLD));
    let (first, second) = tokio::join!(call(), call());
    drop(first.unwrap());
    assert!(!say.is_closed());
    drop(second.unwrap());
    assert!(say.is_closed());
    assert_eq!(layer.store.exchanges(), 0);
}

#[tokio::test]
async fn all_requests_of_a_failed_exchange_get_the_failure() {
    let (service, say) = directed(layer());
    let call = || service.clone().oneshot(request("/api/generate", COLD));
    let (first, second) = tokio::join!(call(), call());
    let broke = crate::rescue::ShuttingDown;
    say.send(Err(Failure::from(broke).into())).unwrap();
    for answer in [first.unwrap(), second.unwrap()] {
        let error = answer.into_body().collect().await.map(|_| ()).unwrap_err();
        assert_eq!(Failure::find(&*error).unwrap().kind(), "shutting_down");
    }
}

/// A stack whose backend pauses before each line.
fn pausing(
    calls: Arc<AtomicUsize>,
) -> impl Service<
    Request<Sent>,
    Response = Response<impl Body<Data = Bytes, Error = BoxError> + Send>,
    Error = BoxError,
    Future: Send,
> + Clone
+ Send {
    ServiceBuilder::new()
        .layer(EndpointLayer::new(EndpointTable::ollama()))
        .layer(layer())
        .service(service_fn(move |_: Request<Sent>| {
            calls.fetch_add(1, Ordering::Relaxed);
            async {
                let frames = futures_util::stream::unfold(0, async |number| {
                    tokio::task::yield_now().await;
                    let text = if number < 50 { LINE } else { LAST };
                    (number <= 50).then(|| (line(text), number + 1))
                });
                let answer = Response::builder().header(CONTENT_TYPE, "application/x-ndjson");
                Ok::<_, BoxError>(answer.body(StreamBody::new(Box::pin(frames)))?)
            }
        }))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn equal_requests_on_many_threads_all_get_the_whole_answer() {
    let calls = Arc::new(AtomicUsize::new(0));
    let service = pausing(calls.clone());
    let asking = (0..200).map(|number| {
        let body = COLD.replace("\"a\"", &format!("\"{}\"", number % 5));
        let answer = service.clone().oneshot(request("/api/generate", &body));
        tokio::spawn(async move {
            let answer = answer.await.unwrap();
            // Some requests are dropped at once, whether they drive the exchange or not.
            match number % 7 {
                0 => None,
                _ => Some(answer.into_body().collect().await.unwrap().to_bytes().len()),
            }
        })
    });
    for len in futures_util::future::join_all(asking).await {
        let expected = 50 * LINE.len() + LAST.len();
        assert!(len.unwrap().is_none_or(|len| len == expected));
    }
    assert!(calls.load(Ordering::Relaxed) >= 5);
}
