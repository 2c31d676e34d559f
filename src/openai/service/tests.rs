#![allow(clippy::unwrap_used)]

use std::sync::Mutex;
use std::time::Duration;

use futures_util::StreamExt;
use http_body::Frame;
use http_body_util::{BodyStream, Empty, StreamBody};
use llamatower_layers::body::{MemoryBudget, ReplayBody};
use llamatower_layers::{Outcome, Retryable};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};
use tower::{ServiceExt, service_fn};

use super::*;

type RequestBody = ReplayBody<Empty<Bytes>>;
type AnswerBody = http_body_util::combinators::UnsyncBoxBody<Bytes, BoxError>;

/// A request as the server has seen it.
#[derive(Clone, Debug)]
struct Seen {
    method: Method,
    path: String,
    headers: http::HeaderMap,
    body: String,
}

type Log = Arc<Mutex<Vec<Seen>>>;

/// The service in front of a server that answers with `answer`.
fn translate<F>(
    has_v1: bool,
    log: &Log,
    answer: F,
) -> impl Service<
    Request<RequestBody>,
    Response = Response<TranslatedBody<AnswerBody>>,
    Error = BoxError,
> + Clone
+ use<F>
where
    F: Fn(&Seen) -> Response<AnswerBody> + Clone + Send + Sync + 'static,
{
    let log = log.clone();
    let client = service_fn(move |request: Request<RequestBody>| {
        let seen = Seen {
            method: request.method().clone(),
            path: request.uri().path().to_owned(),
            headers: request.headers().clone(),
            body: String::from_utf8(request.body().segments().unwrap().concat()).unwrap(),
        };
        let answer = answer(&seen);
        log.lock().unwrap().push(seen);
        std::future::ready(Ok::<_, BoxError>(answer))
    });
    let server = Server::new("gpu-1:8000".into(), has_v1);
    Translate::new(client, Some(Arc::new(server)))
}

fn whole(status: u16, body: &'static str) -> Response<AnswerBody> {
    let body = http_body_util::Full::from(body).map_err(|never| match never {});
    let answer = Response::builder().status(status);
    let answer = answer.header(CONTENT_TYPE, "application/json");
    answer.body(AnswerBody::new(body)).unwrap()
}

/// A stream of these pieces; it breaks after them if `breaks`.
fn stream(pieces: &[&'static str], breaks: bool) -> Response<AnswerBody> {
    let pieces: Vec<Result<_, BoxError>> = pieces
        .iter()
        .map(|piece| Ok(Frame::data(Bytes::from(*piece))))
        .chain(breaks.then(|| Err("the connection broke".into())))
        .collect();
    let body = StreamBody::new(futures_util::stream::iter(pieces));
    let answer = Response::builder().header(CONTENT_TYPE, "text/event-stream; charset=utf-8");
    answer.body(AnswerBody::new(body)).unwrap()
}

const HI: &str = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"Hi\"}}]}\n\n";
const STOP: &str = "data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n";
const DONE: &str = "data: [DONE]\n\n";

fn post(path: &str, body: &Value) -> Request<RequestBody> {
    let body = Bytes::from(body.to_string());
    Request::post(path).body(body.into()).unwrap()
}

fn chat() -> Request<RequestBody> {
    let messages = json!([{"role": "user", "content": "hi"}]);
    post("/api/chat", &json!({"model": "tiny", "messages": messages}))
}

fn get(path: &str) -> Request<RequestBody> {
    Request::get(path).body(RequestBody::empty()).unwrap()
}

/// The answer to a request, and its text.
async fn answered(
    request: Request<RequestBody>,
    answer: impl Fn(&Seen) -> Response<AnswerBody> + Clone + Send + Sync + 'static,
) -> (StatusCode, String) {
    let answer = translate(true, &Log::default(), answer).oneshot(request);
    let (head, body) = answer.await.unwrap().into_parts();
    let text = body.collect().await.unwrap().to_bytes();
    (head.status, String::from_utf8(text.to_vec()).unwrap())
}

/// Why a request fails.
async fn failure(
    request: Request<RequestBody>,
    answer: impl Fn(&Seen) -> Response<AnswerBody> + Clone + Send + Sync + 'static,
) -> (StatusCode, String, Retryable) {
    let answer = translate(true, &Log::default(), answer).oneshot(request);
    let error = answer.await.expect_err("a failure");
    let failure = Failure::find(&*error).expect("a failure with a meaning");
    (failure.status(), error.to_string(), failure.retryable())
}

#[tokio::test]
async fn v1_requests_pass_unaltered() {
    for (has_v1, path) in [(true, "/v1/chat/completions"), (false, "/chat/completions")] {
        let log = Log::default();
        let service = translate(has_v1, &log, |_| stream(&[HI, "data: x\r\n\r\n"], false));
        let mut request = post("/v1/chat/completions", &json!({"model": "A", "odd": [1]}));
        request
            .headers_mut()
            .insert("x-own", HeaderValue::from_static("1"));
        let answer = service.oneshot(request).await.unwrap();
        assert_eq!(
            answer.headers()[CONTENT_TYPE],
            "text/event-stream; charset=utf-8"
        );
        let text = answer.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(text, [HI, "data: x\r\n\r\n"].concat());
        let seen = log.lock().unwrap()[0].clone();
        assert_eq!(seen.path, path);
        assert_eq!(seen.body, r#"{"model":"A","odd":[1]}"#);
        assert_eq!(seen.headers[CONTENT_TYPE], "application/json");
        assert_eq!(seen.headers.len(), 2);
    }
}

#[tokio::test]
async fn a_json_body_is_sent_as_json_whatever_the_client_says_of_it() {
    const JSON: &str = "application/json";
    const FORM: &str = "application/x-www-form-urlencoded";
    const PARTS: &str = "multipart/form-data; boundary=x";
    for (body, given, sent) in [
        ("{\"model\":\"a\"}", None, Some(JSON)),
        (" \n{\"model\":\"a\"}", Some(FORM), Some(JSON)),
        ("{}", Some("text/plain"), Some(JSON)),
        (
            "{}",
            Some("Application/JSON; charset=x"),
            Some("Application/JSON; charset=x"),
        ),
        ("--x\r\n", Some(PARTS), Some(PARTS)),
        ("", None, None),
        ("\u{28}\u{b5}\u{2f}", None, None),
    ] {
        let log = Log::default();
        let service = translate(true, &log, |_| whole(200, "{}"));
        let mut request = post("/v1/chat/completions", &json!({}));
        *request.body_mut() = Bytes::from(body).into();
        let given = given.map(HeaderValue::from_static);
        request
            .headers_mut()
            .extend(given.map(|given| (CONTENT_TYPE, given)));
        service.oneshot(request).await.unwrap();
        let seen = log.lock().unwrap()[0].headers.get(CONTENT_TYPE).cloned();
        assert_eq!(
            seen.as_ref().map(|value| value.to_str().unwrap()),
            sent,
            "{body}"
        );
    }
}

#[tokio::test]
async fn a_chat_is_sent_as_json_and_its_stream_becomes_lines() {
    let log = Log::default();
    let service = translate(true, &log, |_| stream(&[HI, STOP, DONE], false));
    let answer = service.oneshot(chat()).await.unwrap();
    assert_eq!(answer.headers()[CONTENT_TYPE], "application/x-ndjson");
    let text = answer.into_body().collect().await.unwrap().to_bytes();
    let text = String::from_utf8(text.to_vec()).unwrap();
    assert_eq!(text.lines().count(), 2);
    assert!(
        text.ends_with("}\n") && text.contains("\"done\":true"),
        "{text}"
    );
    let seen = log.lock().unwrap()[0].clone();
    assert_eq!(
        (seen.method, &*seen.path),
        (Method::POST, "/v1/chat/completions")
    );
    assert_eq!(seen.headers[CONTENT_TYPE], "application/json");
    assert_eq!(seen.headers[ACCEPT_ENCODING], "identity");
}

#[tokio::test]
async fn an_error_of_the_server_keeps_its_status_and_text_in_the_native_dialect() {
    let (status, text) = answered(chat(), |_| {
        whole(
            400,
            r#"{"error":{"message":"too long","type":"BadRequestError"}}"#,
        )
    })
    .await;
    assert_eq!((status.as_u16(), &*text), (400, r#"{"error":"too long"}"#));
    let busy = |_: &Seen| {
        let mut answer = whole(503, "busy");
        answer
            .headers_mut()
            .insert(RETRY_AFTER, HeaderValue::from_static("7"));
        answer
    };
    let answer = translate(true, &Log::default(), busy)
        .oneshot(chat())
        .await
        .unwrap();
    assert_eq!(
        (answer.status().as_u16(), &answer.headers()[RETRY_AFTER]),
        (503, &HeaderValue::from_static("7"))
    );
}

#[tokio::test]
async fn a_missing_model_is_told_in_the_words_of_the_route() {
    let missing = |_: &Seen| {
        whole(
            404,
            r#"{"error":{"message":"The model `tiny` does not exist."}}"#,
        )
    };
    let (status, text) = answered(chat(), missing).await;
    assert_eq!(
        (status.as_u16(), &*text),
        (404, r#"{"error":"model 'tiny' not found"}"#)
    );
    let embed = post("/api/embed", &json!({"model": "tiny", "input": "x"}));
    let (_, text) = answered(embed, missing).await;
    assert_eq!(
        text,
        r#"{"error":"model \"tiny\" not found, try pulling it first"}"#
    );
    // In OpenAI's dialect it passes as it is.
    let completion = post("/v1/chat/completions", &json!({"model": "tiny"}));
    let (_, text) = answered(completion, missing).await;
    assert_eq!(
        text,
        r#"{"error":{"message":"The model `tiny` does not exist."}}"#
    );
}

#[tokio::test]
async fn a_route_that_the_server_lacks_is_a_501_that_another_server_may_take() {
    for (path, status, body) in [
        ("/v1/messages", 404, r#"{"detail":"Not Found"}"#),
        ("/v1/responses", 405, "no"),
        ("/v1/rerank", 501, ""),
    ] {
        let request = post(path, &json!({"model": "tiny"}));
        let (refused, text, retry) = failure(request, move |_| whole(status, body)).await;
        assert_eq!((refused.as_u16(), retry), (501, Retryable::Elsewhere));
        assert!(text.contains("gpu-1:8000") && text.contains(path), "{text}");
    }
    let embed = post("/api/embed", &json!({"model": "tiny", "input": "x"}));
    let (status, text, _) = failure(embed, |_| whole(404, r#"{"detail":"Not Found"}"#)).await;
    assert_eq!(status.as_u16(), 501);
    assert!(text.contains("/v1/embeddings"), "{text}");
}

#[tokio::test]
async fn management_is_never_sent() {
    let unload = json!({"model": "tiny", "keep_alive": 0});
    for request in [
        post("/api/pull", &json!({"model": "x"})),
        post("/api/blobs/sha256:00", &json!({})),
        Request::delete("/api/delete")
            .body(RequestBody::empty())
            .unwrap(),
        get("/api/version"),
        post("/api/generate", &unload),
    ] {
        let (status, _, retry) = failure(request, |seen| panic!("sent: {seen:?}")).await;
        assert_eq!((status.as_u16(), retry), (501, Retryable::Elsewhere));
    }
}

#[tokio::test]
async fn a_refused_token_is_the_gateways_fault_and_not_the_clients() {
    let completion = post("/v1/chat/completions", &json!({"model": "tiny"}));
    for (request, refused) in [(chat(), 401), (completion, 403), (get("/api/tags"), 401)] {
        let (status, text, _) = failure(request, move |_| whole(refused, "{}")).await;
        assert_eq!(status.as_u16(), 502);
        assert!(text.contains("LLAMATOWER_BACKEND_TOKENS"), "{text}");
    }
}

#[tokio::test]
async fn a_server_without_a_list_of_models_is_told_with_the_path_that_was_asked() {
    let (status, text, _) = failure(get("/api/tags"), |_| whole(404, "no such page")).await;
    assert_eq!(status.as_u16(), 502);
    for part in ["/v1/models", "404", "no such page", "OLLAMA_URL"] {
        assert!(text.contains(part), "{text}");
    }
    let (_, text, _) = failure(get("/api/tags"), |_| whole(200, "<html>")).await;
    assert!(text.contains("not a list of models"), "{text}");
}

#[tokio::test]
async fn an_error_before_the_first_token_has_its_own_status() {
    const ERROR: &str = "data: {\"error\":{\"message\":\"engine is gone\",\"code\":503}}\n\n";
    const ROLE: &str =
        "data: {\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}]}\n\n";
    let (status, text) = answered(chat(), |_| stream(&[ROLE, ERROR], false)).await;
    assert_eq!(
        (status.as_u16(), &*text),
        (503, r#"{"error":"engine is gone"}"#)
    );
    let (status, text) = answered(chat(), |_| whole(200, r#"{"error":"no such endpoint"}"#)).await;
    assert_eq!(
        (status.as_u16(), &*text),
        (500, r#"{"error":"no such endpoint"}"#)
    );
    let (status, _, _) = failure(chat(), |_| stream(&[ROLE], false)).await;
    assert_eq!(status.as_u16(), 502, "the stream has ended");
    let (status, _, _) = failure(chat(), |_| whole(200, "<html>")).await;
    assert_eq!(status.as_u16(), 502);
}

#[tokio::test]
async fn a_stream_that_breaks_or_ends_early_fails_and_an_error_in_it_is_the_last_line() {
    for (pieces, breaks) in [
        (&[HI][..], true),
        (&[HI, STOP], false),
        (&[HI, "data: x\n"], false),
    ] {
        let service = translate(true, &Log::default(), move |_| stream(pieces, breaks));
        let answer = service.oneshot(chat()).await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
        assert!(answer.into_body().collect().await.is_err());
    }
    const ERROR: &str = "data: {\"error\":\"out of memory\"}\n\n";
    let (_, text) = answered(chat(), |_| stream(&[HI, ERROR, DONE], false)).await;
    let lines: Vec<_> = text.lines().collect();
    assert_eq!((lines.len(), lines[1]), (2, r#"{"error":"out of memory"}"#));
    let one_piece: &'static str = [HI, ERROR].concat().leak();
    let (_, text) = answered(chat(), move |_| stream(&[one_piece], false)).await;
    assert_eq!(text.lines().last(), Some(r#"{"error":"out of memory"}"#));
}

/// The same answer, whose body comes 3 s after its head.
fn late(answer: Response<AnswerBody>) -> Response<AnswerBody> {
    answer.map(|body| {
        let frames = futures_util::stream::once(async {
            sleep(Duration::from_secs(3)).await;
            BodyStream::new(body)
        });
        AnswerBody::new(StreamBody::new(frames.flatten()))
    })
}

#[tokio::test(start_paused = true)]
async fn the_time_between_a_head_and_what_the_translation_needs_is_the_servers() {
    let not_streamed = || {
        let messages = json!([{"role": "user", "content": "hi"}]);
        let body = json!({"model": "tiny", "messages": messages, "stream": false});
        post("/api/chat", &body)
    };
    let answer = r#"{"choices":[{"message":{"content":"Hi"},"finish_reason":"stop"}]}"#;
    type Case = (
        Request<RequestBody>,
        fn(&'static str) -> Response<AnswerBody>,
    );
    let cases: [Case; 3] = [
        (chat(), |_| stream(&[HI, STOP, DONE], false)),
        (not_streamed(), |answer| whole(200, answer)),
        (chat(), |_| whole(500, r#"{"error":"no"}"#)),
    ];
    for (mut request, answered) in cases {
        let head = Instant::now();
        let record = Record::new(Outcome::starting(head));
        record.update(|outcome| outcome.attempted(head, head));
        record.clone().put_into(request.extensions_mut());
        let service = translate(true, &Log::default(), move |_| late(answered(answer)));
        let status = service.oneshot(request).await.unwrap().status();
        let outcome = record.snapshot();
        let waited = Duration::from_secs(3);
        assert_eq!(outcome.waited, waited, "{status}");
        assert_eq!(outcome.last_answered, Some(head + waited), "{status}");
    }
}

#[tokio::test]
async fn one_object_in_the_place_of_a_stream_becomes_the_only_line() {
    const ANSWER: &str = r#"{"choices":[{"message":{"content":"Hi","reasoning":"hm","tool_calls":[]},"finish_reason":"stop"}],"usage":{"prompt_tokens":2,"completion_tokens":1}}"#;
    let (_, text) = answered(chat(), |_| whole(200, ANSWER)).await;
    assert_eq!(text.lines().count(), 1);
    let line: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        line["message"],
        json!({"role": "assistant", "content": "Hi", "thinking": "hm"})
    );
    assert_eq!(
        (&line["done"], &line["eval_count"]),
        (&json!(true), &json!(1))
    );
}

#[tokio::test]
async fn a_whole_answer_has_its_tool_calls() {
    const ANSWER: &str = r#"{"choices":[{"message":{"content":null,"tool_calls":[{"id":"c","type":"function","function":{"name":"f","arguments":"{\"a\":1}"}}]},"finish_reason":"tool_calls"}]}"#;
    let request = post(
        "/api/chat",
        &json!({"model": "tiny", "stream": false, "messages": [{"role": "user", "content": "x"}]}),
    );
    let (_, text) = answered(request, |_| whole(200, ANSWER)).await;
    let answer: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        answer["message"]["tool_calls"][0]["function"]["arguments"],
        json!({"a": 1})
    );
    assert_eq!(answer["done_reason"], "stop");
}

#[tokio::test]
async fn embeddings_are_in_the_order_of_their_texts() {
    const ANSWER: &str = r#"{"data":[{"index":1,"embedding":[3,4]},{"index":0,"embedding":[1,2.5]}],"usage":{"prompt_tokens":5}}"#;
    let embed = post("/api/embed", &json!({"model": "tiny", "input": ["a", "b"]}));
    let (_, text) = answered(embed, |_| whole(200, ANSWER)).await;
    let answer: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(answer["embeddings"], json!([[1, 2.5], [3, 4]]));
    assert_eq!(
        (&answer["model"], &answer["prompt_eval_count"]),
        (&json!("tiny"), &json!(5))
    );
    let old = post("/api/embeddings", &json!({"model": "tiny", "prompt": "a"}));
    let (_, text) = answered(old, |_| whole(200, ANSWER)).await;
    assert_eq!(text, r#"{"embedding":[1,2.5]}"#);
    for wrong in [
        r#"{"data":[{"embedding":"AAAA"}]}"#,
        r#"{"data":[{"embedding":[[1,2],[3,4]]}]}"#,
        r#"{"object":"list"}"#,
    ] {
        let embed = post("/api/embed", &json!({"model": "tiny", "input": "a"}));
        let (status, _, _) = failure(embed, move |_| whole(200, wrong)).await;
        assert_eq!(status.as_u16(), 502, "{wrong}");
    }
}

#[tokio::test]
async fn the_lists_and_the_ids_of_later_requests_come_from_the_list_of_models() {
    const MODELS: &str =
        r#"{"object":"list","data":[{"id":"Qwen/Tiny","created":7,"max_model_len":4096}]}"#;
    let log = Log::default();
    let service = translate(true, &log, |seen| match &*seen.path {
        "/v1/models" => whole(200, MODELS),
        "/v1/chat/completions" => stream(&[HI, STOP, DONE], false),
        _ => whole(404, r#"{"detail":"Not Found"}"#),
    });
    let ask = async |request| {
        let answer = service.clone().oneshot(request).await.unwrap();
        let (head, body) = answer.into_parts();
        let text = body.collect().await.unwrap().to_bytes();
        (
            head.status.as_u16(),
            serde_json::from_slice::<Value>(&text).unwrap_or_default(),
        )
    };
    let (_, tags) = ask(get("/api/tags")).await;
    assert_eq!(tags["models"][0]["name"], "Qwen/Tiny:latest");
    let (_, ps) = ask(get("/api/ps")).await;
    assert_eq!(ps["models"][0]["context_length"], 4096);
    let (_, shown) = ask(post("/api/show", &json!({"model": "qwen/tiny"}))).await;
    assert_eq!(shown["model_info"]["unknown.context_length"], 4096);
    let by_name = json!({"model": "", "name": "Qwen/Tiny"});
    assert_eq!(ask(post("/api/show", &by_name)).await.1, shown);
    let (_, row) = ask(get("/v1/models/qwen/tiny")).await;
    assert_eq!(
        row,
        json!({"id": "Qwen/Tiny", "created": 7, "max_model_len": 4096})
    );
    let (status, error) = ask(post("/api/show", &json!({"name": "other"}))).await;
    assert_eq!(
        (status, error),
        (404, json!({"error": "model 'other' not found"}))
    );
    let messages = json!([{"role": "user", "content": "hi"}]);
    ask(post(
        "/api/chat",
        &json!({"model": "qwen/TINY:latest", "messages": messages}),
    ))
    .await;
    let sent = log.lock().unwrap().last().unwrap().clone();
    assert!(
        sent.body.starts_with(r#"{"model":"Qwen/Tiny","#),
        "{}",
        sent.body
    );
}

#[tokio::test]
async fn a_translated_request_counts_in_the_budget_of_the_request() {
    let budget = MemoryBudget::new(1000);
    let request = || {
        let (head, body) = chat().into_parts();
        let bytes = body.segments().unwrap().concat();
        let held = budget.try_reserve(bytes.len() as u64);
        let body = RequestBody::buffered([bytes.into()], held);
        Request::from_parts(head, body)
    };
    let seen = budget.clone();
    let free = Arc::new(Mutex::new(0));
    let noted = free.clone();
    let answer = move |asked: &Seen| {
        *noted.lock().unwrap() = seen.available() + asked.body.len() as u64;
        whole(
            200,
            r#"{"choices":[{"message":{"content":"Hi"},"finish_reason":"stop"}]}"#,
        )
    };
    let (status, _) = answered(request(), answer.clone()).await;
    assert_eq!((status, *free.lock().unwrap()), (StatusCode::OK, 1000));
    assert_eq!(budget.available(), 1000);
    let own = request().body().len().unwrap();
    let others = budget.try_reserve(1000 - own - 10);
    let (status, text, _) = failure(request(), answer).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(text.contains("memory"), "{text}");
    drop(others);
    assert_eq!(budget.available(), 1000);
}
