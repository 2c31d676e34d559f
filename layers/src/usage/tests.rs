#![allow(clippy::unwrap_used)]

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{Method, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use proptest::prelude::*;
use tower::{Layer, ServiceBuilder, ServiceExt, service_fn};

use super::*;
use crate::EndpointTable;
use crate::endpoint::EndpointLayer;

const NDJSON: &str = "application/x-ndjson";
const JSON: &str = "application/json; charset=utf-8";
const SSE: &str = "text/event-stream";

type Sent = crate::body::ReplayBody<http_body_util::Full<Bytes>>;
type Frames =
    StreamBody<futures_util::stream::Iter<std::vec::IntoIter<Result<Frame<Bytes>, Infallible>>>>;

fn body(frames: &[&str]) -> Frames {
    let frames = frames
        .iter()
        .map(|text| Ok(Frame::data(Bytes::copy_from_slice(text.as_bytes()))));
    StreamBody::new(futures_util::stream::iter(frames.collect::<Vec<_>>()))
}

async fn answer(content_type: &str, frames: &[&str]) -> Response<UsageBody<Frames>> {
    let answer = Response::builder().header(CONTENT_TYPE, content_type);
    let answer = answer.body(body(frames)).unwrap();
    let mut answer = Some(answer);
    let service = UsageLayer::new().layer(service_fn(move |_: Request<()>| {
        std::future::ready(Ok::<_, Infallible>(answer.take().unwrap()))
    }));
    service.oneshot(Request::default()).await.unwrap()
}

/// The report of a complete answer.
async fn measured(content_type: &str, frames: &[&str]) -> Measured {
    let answer = answer(content_type, frames).await;
    let report = answer.extensions().get::<UsageReport>().unwrap().clone();
    let sent = answer.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(sent, frames.concat(), "the frames are unchanged");
    *report.get().unwrap()
}

fn counts(measured: Measured) -> Option<(u64, u64)> {
    measured
        .usage
        .map(|usage| (usage.prompt_tokens, usage.output_tokens))
}

#[tokio::test]
async fn the_counts_of_every_dialect_are_read() {
    for (content_type, frames, expected, items) in [
        (
            NDJSON,
            &[
                "{\"response\":\"a\",\"done\":false}\n",
                "{\"response\":\"\",\"done\":true,\"context\":[1,2],\"load_duration\":5,\"prompt_eval_count\":37,\"prompt_eval_duration\":671000,\"eval_count\":6,\"eval_duration\":738000}\n",
            ][..],
            Some((37, 6)),
            2,
        ),
        (
            JSON,
            &["{\"embeddings\":[[0.1]],\"total_duration\":9,\"prompt_eval_count\":4}"],
            Some((4, 0)),
            0,
        ),
        (JSON, &["{\"done\":true,\"eval_count\":6}"], Some((0, 6)), 0),
        (
            JSON,
            &[
                "{\"choices\":[],\"usage\":{\"prompt_tokens\":37,\"completion_tokens\":6,\"total_tokens\":43}}",
            ],
            Some((37, 6)),
            0,
        ),
        (
            SSE,
            &[
                "data: {\"choices\":[{}],\"usage\":{\"prompt_tokens\":0,\"completion_tokens\":0}}\n\n",
                "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":37,\"completion_tokens\":6}}\n\n",
                "data: [DONE]\n\n",
            ],
            Some((37, 6)),
            3,
        ),
        (
            SSE,
            &[
                "event: message_start\ndata: {\"message\":{\"usage\":{\"input_tokens\":37,\"output_tokens\":0}}}\n\n",
                "event: message_delta\ndata: {\"delta\":{},\"usage\":{\"input_tokens\":37,\"output_tokens\":6}}\n\n",
                "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n",
            ],
            Some((37, 6)),
            3,
        ),
        (
            SSE,
            &[
                "event: response.completed\ndata: {\"response\":{\"usage\":{\"input_tokens\":37,\"output_tokens\":6,\"input_tokens_details\":{\"cached_tokens\":0}},\"metadata\":{}}}\n\n",
            ],
            Some((37, 6)),
            1,
        ),
        (
            SSE,
            &["data: {\"choices\":[{}]}\n\ndata: [DONE]\n", "\n"],
            None,
            2,
        ),
    ] {
        let measured = measured(content_type, frames).await;
        assert_eq!(counts(measured), expected, "{frames:?}");
        assert_eq!(measured.items, items, "{frames:?}");
    }
}

#[tokio::test]
async fn a_whole_answer_without_counts_has_a_token_for_four_bytes() {
    // As Ollama answers when the model repeats a token and is cut.
    let cut = [
        r#"{"choices":[{"message":{"role":"assistant","content":"la la la la la"}}],"#,
        r#""usage":{"prompt_tokens":0,"completion_tokens":0,"total_tokens":0}}"#,
    ];
    let bytes = cut.concat().len() as u64;
    for frames in [&cut[..], &[&cut.concat()]] {
        let measured = measured(JSON, frames).await;
        assert_eq!((measured.usage, measured.items), (None, bytes / 4));
    }
    let embeddings = r#"{"embedding":[0.1,0.2,0.3,0.4]}"#;
    let load = r#"{"model":"tiny","response":"","done":true,"done_reason":"load"}"#;
    for (path, sent, answer) in [
        (
            "/api/embeddings",
            r#"{"model":"tiny","prompt":"hi"}"#,
            embeddings,
        ),
        (
            "/v1/embeddings",
            r#"{"model":"tiny","input":"hi"}"#,
            embeddings,
        ),
        ("/api/generate", r#"{"model":"tiny","stream":false}"#, load),
    ] {
        let service = ServiceBuilder::new()
            .layer(EndpointLayer::new(EndpointTable::ollama()))
            .layer(crate::llm_request::LlmRequestLayer::new())
            .layer(UsageLayer::new())
            .service(service_fn(async move |_: Request<Sent>| {
                let head = Response::builder().header(CONTENT_TYPE, JSON);
                Ok::<_, crate::BoxError>(head.body(body(&[answer])).unwrap())
            }));
        let request = Request::post(path)
            .body(Sent::from(Bytes::from(sent)))
            .unwrap();
        let answer = service.oneshot(request).await.unwrap();
        let report = answer.extensions().get::<UsageReport>().unwrap().clone();
        answer.into_body().collect().await.unwrap();
        assert_eq!(report.get().unwrap().items, 0, "{path}");
    }
}

#[tokio::test]
async fn counts_before_the_probabilities_of_all_tokens_are_read() {
    let measured = measured(JSON, &[include_str!("generate_with_logprobs.json")]).await;
    assert_eq!(counts(measured), Some((39, 6)));
    assert!(measured.usage.unwrap().timings.unwrap().output > Duration::ZERO);
}

#[tokio::test]
async fn the_durations_of_ollama_are_read() {
    let line = "{\"done\":true,\"total_duration\":4,\"load_duration\":1,\"prompt_eval_count\":1,\"prompt_eval_duration\":2,\"eval_count\":1,\"eval_duration\":3}\n";
    let timings = measured(NDJSON, &[line])
        .await
        .usage
        .unwrap()
        .timings
        .unwrap();
    let parts = [timings.load, timings.prompt, timings.output, timings.total];
    assert_eq!(parts, [1, 2, 3, 4].map(Duration::from_nanos));
}

#[tokio::test]
async fn model_output_is_not_read_as_counts() {
    let line = "{\"response\":\"{\\\"eval_count\\\":9,\\\"usage\\\":{\\\"prompt_tokens\\\":9}}\",\"done\":false}\n";
    assert_eq!(measured(NDJSON, &[line]).await.usage, None);
}

#[tokio::test]
async fn the_lines_of_a_dropped_stream_are_counted() {
    let answer = answer(NDJSON, &["{}\n{}\n", "{}\n"]).await;
    let report = answer.extensions().get::<UsageReport>().unwrap().clone();
    let mut body = answer.into_body();
    body.frame().await.unwrap().unwrap();
    assert_eq!(report.get(), None);
    drop(body);
    assert_eq!(
        *report.get().unwrap(),
        Measured {
            usage: None,
            items: 2
        }
    );
}

#[tokio::test]
async fn errors_lists_and_other_content_types_have_no_report() {
    let service = ServiceBuilder::new()
        .layer(EndpointLayer::new(EndpointTable::ollama()))
        .layer(UsageLayer::new())
        .service(service_fn(async |request: Request<()>| {
            let header = |name| {
                request
                    .headers()
                    .get(name)
                    .map_or("", |value| value.to_str().unwrap())
            };
            let status = header("status").parse().unwrap_or(StatusCode::OK);
            let answer = Response::builder()
                .status(status)
                .header(CONTENT_TYPE, header("content-type"));
            Ok::<_, Infallible>(answer.body(body(&["{}"])).unwrap())
        }));
    for (method, path, status, content_type, expected) in [
        (Method::POST, "/api/chat", "200", NDJSON, true),
        (Method::POST, "/api/chat", "404", JSON, false),
        (Method::POST, "/api/chat", "200", "text/plain", false),
        (Method::GET, "/api/tags", "200", JSON, false),
        (Method::GET, "/nowhere", "200", JSON, false),
    ] {
        let request = Request::builder().method(method).uri(path);
        let request = request
            .header("status", status)
            .header("content-type", content_type);
        let answer = service
            .clone()
            .oneshot(request.body(()).unwrap())
            .await
            .unwrap();
        let has_report = answer.extensions().get::<UsageReport>().is_some();
        assert_eq!(has_report, expected, "{path} {status} {content_type}");
    }
}

proptest! {
    #[test]
    fn the_counts_are_found_with_any_split_into_frames(cuts in proptest::collection::vec(0usize..700, 0..20)) {
        let padding = "event: x\ndata: {\"delta\":\"word\"}\n\n".repeat(15);
        let text = format!("{padding}data: {{\"usage\":{{\"prompt_tokens\":37,\"completion_tokens\":6}}}}\n\ndata: [DONE]\n\n");
        let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(text.len())).collect();
        cuts.extend([0, text.len()]);
        cuts.sort_unstable();
        let frames: Vec<&str> = cuts.windows(2).map(|pair| &text[pair[0]..pair[1]]).collect();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let measured = runtime.block_on(measured(SSE, &frames));
        prop_assert_eq!(counts(measured), Some((37, 6)));
        prop_assert_eq!(measured.items, 17);
    }
}

#[test]
fn cached_and_reasoning_tokens_are_read_if_they_are_told_and_other_types_hide_no_counts() {
    let details = |text: &str| {
        let usage = Usage::find_last(text.as_bytes()).unwrap();
        let counts = (usage.prompt_tokens, usage.output_tokens);
        (counts, usage.cached_prompt_tokens, usage.reasoning_tokens)
    };
    let chat = r#"{"usage":{"prompt_tokens":30,"completion_tokens":20,"total_tokens":50,
        "prompt_tokens_details":{"cached_tokens":10,"audio_tokens":0},
        "completion_tokens_details":{"reasoning_tokens":5}}}"#;
    assert_eq!(details(chat), ((30, 20), Some(10), Some(5)));
    let responses = r#"{"usage":{"input_tokens":3,"input_tokens_details":{"cached_tokens":0},
        "output_tokens":2,"output_tokens_details":{"reasoning_tokens":1},"total_tokens":5}}"#;
    assert_eq!(details(responses), ((3, 2), Some(0), Some(1)));
    for other in ["null", "7", "[]", "{}", r#"{"cached_tokens":"x"}"#] {
        let text = format!(
            r#""usage":{{"prompt_tokens":3,"completion_tokens":2,"prompt_tokens_details":{other}}}"#
        );
        assert_eq!(details(&text), ((3, 2), None, None), "{other}");
    }
    let ollama = r#"{"done":true,"prompt_eval_count":3,"eval_count":2}"#;
    assert_eq!(details(ollama), ((3, 2), None, None));
}
