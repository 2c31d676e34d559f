#![allow(clippy::unwrap_used)]

use std::time::Duration;

use bytes::Bytes;
use http::request::Builder;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt, Full};
use ruzstd::encoding::{CompressionLevel, compress_to_vec};
use serde_json::{Value, json};
use tower::{Layer, ServiceExt, service_fn};

use super::scan::ScanError;
use super::*;
use crate::body::{MemoryBudget, ReplayBody};
use crate::endpoint::EndpointLayer;
use crate::{BoxError, EndpointTable, Failure, Retryable, Side};

type Body = ReplayBody<Full<Bytes>>;

/// What the inner service received.
struct Given {
    request: Request<Body>,
}

impl Given {
    fn llm(&self) -> &LlmRequest {
        LlmRequest::of(self.request.extensions()).unwrap()
    }

    fn model(&self) -> Option<&str> {
        self.llm().model.as_deref()
    }

    fn body(&self) -> Bytes {
        self.request.body().segments().unwrap().concat().into()
    }
}

async fn send(layer: LlmRequestLayer, request: Request<Body>) -> Result<Given, BoxError> {
    let inner = service_fn(async |request| Ok::<_, BoxError>(Given { request }));
    let extra = EndpointTable::ollama()
        .with_path("/api/rerank", &[http::Method::GET, http::Method::POST])
        .unwrap();
    EndpointLayer::new(extra)
        .layer(layer.layer(inner))
        .oneshot(request)
        .await
}

fn post(path: &str, body: impl Into<Bytes>) -> Request<Body> {
    with(Request::post(path), body)
}

fn with(builder: Builder, body: impl Into<Bytes>) -> Request<Body> {
    let bytes = body.into();
    builder
        .header(header::CONTENT_LENGTH, bytes.len())
        .body(ReplayBody::from(bytes))
        .unwrap()
}

async fn given(path: &str, body: &'static str) -> Given {
    send(LlmRequestLayer::new(), post(path, body))
        .await
        .unwrap()
}

async fn refusal(layer: LlmRequestLayer, request: Request<Body>) -> (StatusCode, String) {
    let error = send(layer, request).await.err().unwrap();
    let failure = Failure::find(&*error).unwrap();
    assert_eq!(failure.retryable(), Retryable::No);
    (failure.status(), failure.to_string())
}

async fn refused(path: &str, body: &'static [u8]) -> (StatusCode, String) {
    refusal(LlmRequestLayer::new(), post(path, body)).await
}

fn defaulting() -> LlmRequestLayer {
    LlmRequestLayer::new().with_default_model(Some("fall\"back".into()))
}

#[tokio::test]
async fn the_inner_service_receives_the_scan_result() {
    let body = r#"{"model":"llama3","messages":[{}],"keep_alive":"5m","options":{"num_ctx":8}}"#;
    let given = given("/api/chat", body).await;
    let expected = LlmRequest {
        dialect: Dialect::Ollama,
        operation: Operation::Chat,
        model: Some("llama3".into()),
        stream: true,
        keep_alive: Some(KeepAlive::For(Duration::from_secs(300))),
        num_ctx: Some(8),
        has_no_prompt: false,
        needs: Default::default(),
        body_bytes: body.len() as u64,
        prompt_bytes: body.len() as u64,
        prefix: Default::default(),
        places: given.llm().places.clone(),
    };
    assert_eq!(given.llm(), &expected);
    assert!(expected.places.has_num_ctx() && expected.places.has_keep_alive());
    assert_eq!(given.body(), body);
}

#[tokio::test]
async fn what_a_request_needs_is_found_in_every_dialect() {
    const NONE: Needs = Needs {
        images: false,
        tools: false,
        thinking: false,
    };
    let (images, tools, thinking) = (
        NONE.with_images(true),
        NONE.with_tools(true),
        NONE.with_thinking(true),
    );
    for (path, body, needs) in [
        (
            "/api/generate",
            r#"{"model":"a","prompt":"images","images":["aGk="]}"#,
            images,
        ),
        (
            "/api/generate",
            r#"{"model":"a","images":[],"think":"high"}"#,
            thinking,
        ),
        (
            "/api/chat",
            r#"{"messages":[{"content":"a"},{"content":"b","images":["aGk="]}]}"#,
            images,
        ),
        (
            "/api/chat",
            r#"{"messages":[{"images":null},{"images":[]}],"tools":[]}"#,
            NONE,
        ),
        (
            "/api/chat",
            r#"{"messages":[{"tool_calls":[{"function":{"arguments":{"images":[1],"source":{}}}}]}]}"#,
            NONE,
        ),
        (
            "/api/chat",
            r#"{"tools":[{"type":"function","function":{"parameters":{"images":[1]}}}],"think":true}"#,
            tools.with_thinking(true),
        ),
        ("/api/chat", r#"{"think":false}"#, NONE),
        (
            "/v1/chat/completions",
            r#"{"messages":[{"role":"user","content":[{"type":"text","text":"image_url"},{"type":"image_url","image_url":{"url":"data:"}}]}]}"#,
            images,
        ),
        (
            "/v1/chat/completions",
            r#"{"messages":[],"tools":[{}],"reasoning_effort":"low"}"#,
            tools.with_thinking(true),
        ),
        (
            "/v1/chat/completions",
            r#"{"reasoning_effort":"none","reasoning":{"effort":"none"}}"#,
            NONE,
        ),
        (
            "/v1/responses",
            r#"{"input":[{"role":"user","content":[{"type":"input_image","image_url":"data:"}]}],"reasoning":{"summary":"auto","effort":"high"}}"#,
            images.with_thinking(true),
        ),
        (
            "/v1/responses",
            r#"{"input":"image_url","reasoning":{"summary":"auto"},"tools":[{"type":"function"}]}"#,
            tools,
        ),
        (
            "/v1/messages",
            r#"{"messages":[{"role":"user","content":[{"type":"image","source":{"type":"base64","media_type":"image/png"}}]}],"thinking":{"type":"enabled","budget_tokens":9}}"#,
            images.with_thinking(true),
        ),
        (
            "/v1/messages",
            r#"{"messages":[{"content":[{"type":"tool_result","content":[{"type":"image","source":{"media_type":"image/png"}}]}]}]}"#,
            images,
        ),
        (
            "/v1/messages",
            r#"{"messages":[{"content":[{"type":"tool_use","input":{"source":"a"}}]}],"thinking":{"type":"disabled"},"tools":[{"name":"t"}]}"#,
            tools,
        ),
    ] {
        assert_eq!(given(path, body).await.llm().needs, needs, "{path} {body}");
    }
}

#[tokio::test]
async fn the_length_of_a_prompt_is_that_of_its_text_and_little_of_its_images() {
    const MOST_OF_IMAGES: usize = 16 << 10;
    let (data, text) = ("A".repeat(500_000), "hello ".repeat(50_000));
    let (url, text_part) = (json!({"url": data}), json!({"type": "text", "text": text}));
    let source = json!({"type": "base64", "media_type": "image/png", "data": data});
    let image = json!({"type": "image", "source": source});
    let of_user = |content: Value| json!({"messages": [{"role": "user", "content": content}]});
    for (path, body) in [
        (
            "/api/generate",
            json!({"prompt": text, "images": [data, data]}),
        ),
        (
            "/api/chat",
            json!({"messages": [{"content": text}, {"images": [data], "content": "b"}]}),
        ),
        (
            "/v1/chat/completions",
            of_user(json!([{"type": "image_url", "image_url": url}, text_part])),
        ),
        (
            "/v1/chat/completions",
            of_user(json!([text_part, {"input_audio": url}, {"file": url}])),
        ),
        (
            "/v1/responses",
            json!({"input": [{"content": [{"image_url": data}, text_part]}]}),
        ),
        ("/v1/messages", of_user(json!([text_part, image]))),
        (
            "/v1/messages",
            of_user(json!([{"type": "tool_result", "content": [image, text_part]}])),
        ),
    ] {
        let given = send(LlmRequestLayer::new(), post(path, body.to_string()))
            .await
            .unwrap();
        let beside_text = given.llm().prompt_bytes as usize - text.len();
        let expected = MOST_OF_IMAGES..MOST_OF_IMAGES + 200;
        assert!(expected.contains(&beside_text), "{path}: {beside_text}");
    }
    let body = of_user(text.into()).to_string();
    let given = send(LlmRequestLayer::new(), post("/api/chat", body.clone()))
        .await
        .unwrap();
    assert_eq!(given.llm().prompt_bytes, body.len() as u64);
    // What the layer inserts is no part of the prompt.
    let layer = LlmRequestLayer::new()
        .with_default_model(Some("default".into()))
        .with_max_output_tokens(std::num::NonZeroU64::new(100));
    let body = r#"{"messages":[{}]}"#;
    let given = send(layer, post("/api/chat", body.to_owned()))
        .await
        .unwrap();
    assert_eq!(given.llm().prompt_bytes, body.len() as u64);
    assert!(given.llm().body_bytes > given.llm().prompt_bytes);
}

#[tokio::test]
async fn streams_are_the_default_on_the_same_routes_as_in_ollama() {
    for (path, body, stream) in [
        ("/api/generate", r#"{"prompt":"x"}"#, true),
        ("/api/generate", r#"{"prompt":"x","stream":null}"#, true),
        ("/api/generate", r#"{"prompt":"x","stream":false}"#, false),
        // Always one object, because the request only loads the model.
        ("/api/generate", r#"{"stream":true}"#, false),
        ("/api/chat", r#"{"messages":[],"stream":true}"#, false),
        ("/api/embed", r#"{"input":"x","stream":true}"#, false),
        ("/api/pull", r#"{"name":"x"}"#, true),
        ("/v1/chat/completions", r#"{"messages":[{}]}"#, false),
        (
            "/v1/chat/completions",
            r#"{"messages":[{}],"stream":true}"#,
            true,
        ),
        ("/v1/messages", r#"{"messages":[{}],"stream":true}"#, true),
    ] {
        assert_eq!(
            given(path, body).await.llm().stream,
            stream,
            "{path} {body}"
        );
    }
}

#[tokio::test]
async fn management_requests_have_a_model_too() {
    for (path, body) in [
        ("/api/show", r#"{"name":"a"}"#),
        ("/api/pull", r#"{"model":"a"}"#),
        ("/api/create", r#"{"model":"a","from":"b","files":{}}"#),
        ("/api/copy", r#"{"source":"a","destination":"b"}"#),
    ] {
        let given = given(path, body).await;
        assert_eq!(given.model(), Some("a"), "{path}");
        assert!(!given.llm().has_no_prompt);
    }
    let delete = with(Request::delete("/api/delete"), r#"{"name":"a"}"#);
    let given = send(LlmRequestLayer::new(), delete).await.unwrap();
    assert_eq!(given.model(), Some("a"));
}

#[tokio::test]
async fn a_request_without_a_body_to_scan_passes_unchanged() {
    for request in [
        with(Request::get("/api/tags"), ""),
        with(Request::get("/api/rerank"), ""),
        with(Request::post("/api/rerank"), ""),
        with(Request::post("/api/me"), ""),
        with(Request::post("/nowhere"), "{"),
        with(Request::post("/api/blobs/sha256:0"), "{"),
        Request::post("/api/chat")
            .body(ReplayBody::streaming(Full::from("{")))
            .unwrap(),
    ] {
        let given = send(defaulting(), request).await.unwrap();
        assert!(LlmRequest::of(given.request.extensions()).is_none());
    }
    let given = given("/api/rerank", r#"{"model":"a","query":"x"}"#).await;
    assert_eq!(given.model(), Some("a"));
    assert!(!given.llm().has_no_prompt);
}

#[tokio::test]
async fn refusals_have_ollamas_texts() {
    for (path, body, text) in [
        ("/api/generate", &b"{\"model\":"[..], "unexpected EOF"),
        (
            "/api/generate",
            b"[1]",
            "json: cannot unmarshal array into Go value of type api.GenerateRequest",
        ),
        (
            "/api/generate",
            b"\xef\xbb\xbf{\"model\":\"tiny\"}",
            "invalid character 'ï' looking for beginning of value",
        ),
        (
            "/api/generate",
            b"{\"model\":[\"a\"],\"prompt\":\"x\"}",
            "json: cannot unmarshal array into Go struct field GenerateRequest.model of type string",
        ),
        (
            "/api/generate",
            b"{\"model\": \"tiny\", \"stream\": \"true\"}",
            "json: cannot unmarshal string into Go struct field GenerateRequest.stream of type bool",
        ),
        ("/api/generate", b"", "missing request body"),
        ("/api/chat", b"", "missing request body"),
        ("/v1/chat/completions", b"", "EOF"),
        ("/v1/chat/completions", b"{", "unexpected EOF"),
        (
            "/api/generate",
            b"{\"model\":\"a\\nb\"}",
            "invalid model name",
        ),
        (
            "/api/generate",
            b"{\"model\":\"../../etc\"}",
            "invalid model name",
        ),
        (
            "/v1/responses",
            b"{\"model\":1}",
            "json: cannot unmarshal number into Go struct field ResponsesRequest.model of type string",
        ),
    ] {
        let expected = (StatusCode::BAD_REQUEST, text.to_owned());
        assert_eq!(refused(path, body).await, expected, "{path}");
    }
    let (status, text) = refused("/api/chat", br#"{"model":"a","Model":"b"}"#).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(text.contains("\"model\" must occur once"), "{text}");
    let delete = with(Request::delete("/api/delete"), "");
    let (status, text) = refusal(LlmRequestLayer::new(), delete).await;
    assert_eq!((status.as_u16(), &*text), (400, "missing request body"));
}

#[tokio::test]
async fn a_refusal_is_the_clients_error_and_has_a_kind() {
    for (body, kind) in [
        ("", "missing_body"),
        ("{", "malformed_body"),
        (r#"{"model":"a","model":"b"}"#, "ambiguous_key"),
        (r#"{"model":".."}"#, "invalid_model_name"),
    ] {
        let error = send(LlmRequestLayer::new(), post("/api/chat", body))
            .await
            .err()
            .unwrap();
        let failure = Failure::find(&*error).unwrap();
        assert_eq!((failure.kind(), failure.side()), (kind, Side::Client));
    }
}

#[tokio::test]
async fn a_missing_model_is_filled_in() {
    for (body, expected) in [
        ("{}", r#"{"model":"fall\"back"}"#),
        (" { } ", r#" {"model":"fall\"back" } "#),
        (
            r#"{"prompt":"x"}"#,
            r#"{"model":"fall\"back","prompt":"x"}"#,
        ),
        (
            "{\n\"prompt\":\"x\"}",
            "{\"model\":\"fall\\\"back\",\n\"prompt\":\"x\"}",
        ),
        (r#"{"model":null,"a":1}"#, r#"{"model":"fall\"back","a":1}"#),
        (
            r#"{"a":1,"model" : "" }"#,
            r#"{"a":1,"model" : "fall\"back" }"#,
        ),
    ] {
        let given = send(defaulting(), post("/api/generate", body))
            .await
            .unwrap();
        assert_eq!(given.body(), expected);
        assert_eq!(given.model(), Some("fall\"back"));
        assert_eq!(given.llm().body_bytes, expected.len() as u64);
        let length = &given.request.headers()[header::CONTENT_LENGTH];
        assert_eq!(length, expected.len().to_string().as_str());
        let sent = given
            .request
            .into_body()
            .collect()
            .await
            .unwrap()
            .to_bytes();
        assert_eq!(sent, expected);
    }
}

#[tokio::test]
async fn a_model_is_filled_in_only_for_inference() {
    for (path, body) in [
        ("/api/show", "{}"),
        ("/api/pull", r#"{"name":""}"#),
        ("/api/chat", r#"{"model":"given"}"#),
    ] {
        let given = send(defaulting(), post(path, body)).await.unwrap();
        assert_eq!(given.body(), body);
    }
    let chunked = Request::post("/api/chat")
        .header(header::TRANSFER_ENCODING, "chunked")
        .body(ReplayBody::from(Bytes::from("{}")))
        .unwrap();
    let given = send(defaulting(), chunked).await.unwrap();
    assert!(!given.request.headers().contains_key(header::CONTENT_LENGTH));
    let given = given_with_default(None).await;
    assert_eq!((given.model(), given.body()), (None, "{}".into()));
}

async fn given_with_default(model: Option<Arc<str>>) -> Given {
    let layer = LlmRequestLayer::new().with_default_model(model);
    send(layer, post("/api/chat", "{}")).await.unwrap()
}

#[tokio::test]
async fn a_long_body_is_scanned_in_slices_and_passes_byte_for_byte() {
    let image = "QUJD".repeat(1 << 20);
    let segments = [
        Bytes::from(r#"{"messages":[{"images":[""#),
        Bytes::from(image),
        Bytes::from(r#""]}],"model":"llava"}"#),
    ];
    let whole = segments.concat();
    let body: Body = ReplayBody::buffered(segments, None);
    let request = Request::post("/api/chat").body(body).unwrap();
    let given = send(LlmRequestLayer::new(), request).await.unwrap();
    assert_eq!(given.model(), Some("llava"));
    assert!(given.body() == whole);

    let cut = Bytes::from(whole).slice(..4 << 20);
    let (status, text) = refusal(LlmRequestLayer::new(), post("/api/chat", cut)).await;
    assert_eq!((status.as_u16(), &*text), (400, "unexpected EOF"));
}

#[tokio::test]
async fn other_tasks_run_while_a_long_body_is_scanned() {
    let body = format!(r#"{{"prompt":"{}"}}"#, "x".repeat(2 << 20));
    let mut sent =
        tokio_test::task::spawn(send(LlmRequestLayer::new(), post("/api/generate", body)));
    let mut turns = 0;
    while sent.poll().is_pending() {
        turns += 1;
    }
    assert!((3..10).contains(&turns), "{turns}");
}

fn zstd(path: &str, text: &[u8]) -> Request<Body> {
    let compressed = compress_to_vec(text, CompressionLevel::Fastest);
    let builder = Request::post(path).header(header::CONTENT_ENCODING, "zstd");
    with(builder, compressed)
}

#[tokio::test]
async fn a_zstd_body_is_scanned_and_passes_compressed() {
    let text = format!(
        r#"{{"input":"{}","stream":true,"model":"m"}}"#,
        "hello ".repeat(50_000)
    );
    let request = zstd("/v1/responses", text.as_bytes());
    let compressed = request.body().segments().unwrap().concat();
    let given = send(defaulting(), request).await.unwrap();
    assert_eq!((given.model(), given.llm().stream), (Some("m"), true));
    assert_eq!(given.llm().prompt_bytes, text.len() as u64);
    assert!(given.body() == compressed);
    // A missing model is not filled in.
    let given = send(defaulting(), zstd("/v1/responses", b"{}"))
        .await
        .unwrap();
    assert_eq!(given.model(), None);
}

#[tokio::test]
async fn a_zstd_body_is_refused_if_its_limit_of_the_response_would_have_to_be_changed() {
    let max = std::num::NonZeroU64::new(100);
    let layer = LlmRequestLayer::new().with_max_output_tokens(max);
    for (text, status) in [
        (r#"{"model":"m"}"#, 415),
        (r#"{"model":"m","max_output_tokens":101}"#, 415),
        (r#"{"model":"m","max_output_tokens":100}"#, 200),
    ] {
        let answer = send(layer.clone(), zstd("/v1/responses", text.as_bytes())).await;
        let found = answer.map_or_else(|error| status_of(&error), |_| 200);
        assert_eq!(found, status, "{text}");
    }
}

fn status_of(error: &BoxError) -> u16 {
    Failure::find(&**error).unwrap().status().as_u16()
}

#[tokio::test]
async fn a_zstd_body_of_several_frames_is_one_text() {
    let frames = [&b"{\"model\":"[..], b"\"m\"}"]
        .map(|text| compress_to_vec(text, CompressionLevel::Fastest))
        .concat();
    let builder = Request::post("/v1/responses").header(header::CONTENT_ENCODING, "zstd");
    let given = send(LlmRequestLayer::new(), with(builder, frames))
        .await
        .unwrap();
    assert_eq!(given.model(), Some("m"));
}

#[tokio::test]
async fn a_decompression_bomb_is_refused_at_the_limit_and_its_memory_is_released() {
    let text = [b"{\"input\":\"", &b"x".repeat(10 << 20)[..], b"\"}"].concat();
    let request = zstd("/v1/responses", &text);
    assert!(request.body().len().unwrap() < 1 << 20);
    let budget = MemoryBudget::new(16 << 20);
    let layer = LlmRequestLayer::new()
        .with_decoded_limit(1 << 20)
        .with_memory_budget(budget.clone());
    let (status, _) = refusal(layer.clone(), request).await;
    assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(budget.available(), 16 << 20);

    let _taken = budget.try_reserve(10 << 20);
    let error = send(layer, zstd("/v1/responses", b"{}"))
        .await
        .err()
        .unwrap();
    let failure = Failure::find(&*error).unwrap();
    assert_eq!(failure.status(), StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn a_large_zstd_window_is_refused() {
    // The head of a frame that asks for a window of 1 GiB, and its first block.
    let frame = [0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xa0, 0x01, 0x00, 0x00];
    let builder = Request::post("/v1/responses").header(header::CONTENT_ENCODING, "zstd");
    let request = with(builder, frame.to_vec());
    let (status, text) = refusal(LlmRequestLayer::new(), request).await;
    assert_eq!(
        (status.as_u16(), &*text),
        (400, "failed to decompress zstd body")
    );
}

#[tokio::test]
async fn other_encodings_are_not_supported() {
    for (path, encoding) in [
        ("/api/chat", "gzip"),
        ("/api/chat", "zstd"),
        ("/v1/responses", "br"),
        ("/v1/responses", "zstd, zstd"),
        ("/v1/responses", "gzip"),
    ] {
        let request = with(
            Request::post(path).header(header::CONTENT_ENCODING, encoding),
            "{}",
        );
        let (status, _) = refusal(LlmRequestLayer::new(), request).await;
        assert_eq!(
            status,
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "{path} {encoding}"
        );
    }
    let identity = with(
        Request::post("/api/chat").header(header::CONTENT_ENCODING, "identity"),
        "{}",
    );
    assert!(send(LlmRequestLayer::new(), identity).await.is_ok());
}

fn form(fields: &str) -> Request<Body> {
    let builder = Request::post("/v1/audio/transcriptions")
        .header(header::CONTENT_TYPE, "multipart/form-data; boundary=\"xx\"");
    with(builder, fields.replace('\n', "\r\n"))
}

#[tokio::test]
async fn a_forms_model_is_found() {
    let audio = "\0{\"model\":\"no\"}--x--".repeat(100_000);
    let text = format!(
        "--xx\nContent-Disposition: form-data; name=\"file\"; filename=\"model\"\n\
         Content-Type: audio/wav\n\n{audio}\n\
         --xx\nContent-Disposition: form-data; name=\"model\"\n\nwhisper\n--xx--\n"
    );
    let given = send(defaulting(), form(&text)).await.unwrap();
    assert_eq!(given.model(), Some("whisper"));
    assert_eq!(given.llm().operation, Operation::Transcribe);
    assert_eq!(given.body().len(), text.replace('\n', "\r\n").len());
}

#[tokio::test]
async fn a_form_without_a_model_is_unchanged_and_one_with_two_is_refused() {
    let field = "--xx\nContent-Disposition: form-data; name=\"model\"\n\na\n";
    let other = "--xx\nContent-Disposition: form-data; name=\"x\"\n\na\n--xx--\n";
    let given = send(defaulting(), form(other)).await.unwrap();
    assert_eq!(given.model(), None);
    let twice = form(&format!("{field}{field}--xx--\n"));
    let error = send(defaulting(), twice).await.err().unwrap();
    let cause = Failure::find(&*error).unwrap().caused_by::<MalformedBody>();
    assert_eq!(
        cause.unwrap().reason,
        ScanError::AmbiguousKey { key: "model" }
    );
    let cut = form("--xx\nContent-Disposition: form-data; name=\"model\"\n\na");
    assert_eq!(refusal(defaulting(), cut).await.0, StatusCode::BAD_REQUEST);
}

#[cfg(feature = "outcome")]
#[tokio::test]
async fn the_record_receives_the_model() {
    let record = crate::Record::new(crate::Outcome::starting(tokio::time::Instant::now()));
    let mut request = post("/api/generate", r#"{"prompt":"x"}"#);
    record.clone().put_into(request.extensions_mut());
    send(defaulting(), request).await.unwrap();
    let outcome = record.snapshot();
    assert_eq!(outcome.model.as_deref(), Some("fall\"back"));
    assert!(outcome.stream);
}
