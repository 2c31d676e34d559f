use std::convert::Infallible;
use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Full, StreamBody};
use tokio::sync::{mpsc, watch};
use tower::{Layer, ServiceExt, service_fn};

use super::*;
use crate::endpoint::{MethodNotAllowed, NotFound};
use crate::{BoxError, EndpointTable, Failure};

fn request(method: &Method, path: &str) -> Request<()> {
    let mut request = Request::new(());
    *request.method_mut() = method.clone();
    let found = EndpointTable::ollama().look_up(method, path);
    request.extensions_mut().insert(found);
    request
}

type Item = Result<&'static str, &'static str>;

fn stream(
    content_type: &'static str,
    items: Vec<Item>,
) -> Response<impl Body<Data = Bytes, Error = BoxError>> {
    let frames = items.into_iter().map(|item| match item {
        Ok(text) => Ok(Frame::data(Bytes::from(text))),
        Err(text) => Err(BoxError::from(text)),
    });
    let body = StreamBody::new(futures_util::stream::iter(frames));
    Response::builder()
        .header("content-type", content_type)
        .body(body)
        .expect("sound")
}

/// What the client of a stream sees: its text, and whether it ended cleanly.
async fn seen(path: &str, content_type: &'static str, items: Vec<Item>) -> (String, bool) {
    let inner = service_fn(move |_: Request<()>| {
        let answer = stream(content_type, items.clone());
        async move { Ok::<_, Infallible>(answer) }
    });
    let Ok(answer) = RescueLayer::new()
        .layer(inner)
        .oneshot(request(&Method::POST, path))
        .await;
    let mut body = pin!(answer.into_body());
    let mut text = String::new();
    loop {
        match body.frame().await {
            Some(Ok(frame)) => {
                text.push_str(std::str::from_utf8(frame.data_ref().expect("data")).expect("text"))
            }
            Some(Err(_)) => return (text, false),
            None => return (text, true),
        }
    }
}

const NDJSON: &str = "application/x-ndjson";
const SSE: &str = "text/event-stream";

#[tokio::test]
async fn a_whole_stream_passes_as_it_is() {
    let line = "{\"done\":false}\n";
    let last = "{\"done\":true}\n";
    let (text, clean) = seen("/api/chat", NDJSON, vec![Ok(line), Ok(last)]).await;
    assert_eq!((text, clean), (format!("{line}{last}"), true));
}

#[tokio::test]
async fn a_stream_that_breaks_between_lines_ends_with_an_error_line() {
    let (text, clean) = seen(
        "/api/chat",
        NDJSON,
        vec![Ok("{\"done\":false}\n"), Err("gone")],
    )
    .await;
    assert!(
        text.starts_with("{\"done\":false}\n{\"error\":\"") && text.ends_with("\"}\n"),
        "{text}"
    );
    assert!(clean);
}

#[tokio::test]
async fn a_stream_that_breaks_inside_a_line_ends_unclean() {
    let half = "{\"done\":fal";
    assert_eq!(
        seen("/api/chat", NDJSON, vec![Ok(half), Err("gone")]).await,
        (half.to_owned(), false)
    );
    assert_eq!(
        seen("/api/chat", NDJSON, vec![Ok(half)]).await,
        (half.to_owned(), false)
    );
}

#[tokio::test]
async fn a_stream_without_its_end_is_broken() {
    for (path, content_type, item, error) in [
        ("/api/generate", NDJSON, "{\"done\":false}\n", "{\"error\":"),
        (
            "/v1/chat/completions",
            SSE,
            "data: {\"choices\":[]}\n\n",
            "data: {\"error\":{\"message\":",
        ),
        (
            "/v1/messages",
            SSE,
            "event: content_block_delta\ndata: {}\n\n",
            "event: error\ndata: {\"type\":\"error\"",
        ),
        (
            "/v1/responses",
            SSE,
            "event: response.output_text.delta\ndata: {}\n\n",
            "event: error\ndata: {\"type\":\"error\"",
        ),
    ] {
        let (text, clean) = seen(path, content_type, vec![Ok(item)]).await;
        assert!(
            text.strip_prefix(item)
                .is_some_and(|rest| rest.starts_with(error)),
            "{text}"
        );
        assert!(clean);
    }
}

#[tokio::test]
async fn an_error_line_of_the_backend_is_not_followed_by_another() {
    let line = "{\"error\":\"it broke\"}\n";
    assert_eq!(
        seen("/api/chat", NDJSON, vec![Ok(line)]).await,
        (line.to_owned(), true)
    );
}

#[tokio::test]
async fn what_is_no_stream_breaks_uncleanly() {
    let (text, clean) = seen("/api/chat", "application/json", vec![Ok("{"), Err("gone")]).await;
    assert_eq!((text.as_str(), clean), ("{", false));
}

async fn told(error: BoxError, route: Request<()>) -> (http::response::Parts, Bytes) {
    let error = std::sync::Mutex::new(Some(error));
    let inner = service_fn(|_: Request<()>| {
        let error = error.lock().expect("no panic").take().expect("asked once");
        async { Err::<Response<Full<Bytes>>, _>(error) }
    });
    let Ok(answer) = RescueLayer::new().layer(inner).oneshot(route).await;
    let (head, body) = answer.into_parts();
    (head, body.collect().await.expect("whole").to_bytes())
}

#[tokio::test]
async fn an_error_becomes_an_answer_in_the_dialect_of_the_route() {
    for (path, begins) in [
        ("/api/chat", "{\"error\":\"404 page"),
        ("/v1/chat/completions", "{\"error\":{\"message\":\"404 page"),
        (
            "/v1/messages",
            "{\"type\":\"error\",\"error\":{\"type\":\"not_found_error\"",
        ),
        ("/nope", "404 page not found"),
    ] {
        let (head, body) = told(Failure::from(NotFound).into(), request(&Method::POST, path)).await;
        assert_eq!(head.status, StatusCode::NOT_FOUND);
        assert!(body.starts_with(begins.as_bytes()), "{body:?}");
    }
}

#[tokio::test]
async fn a_wrong_method_is_told_the_right_ones() {
    let allowed = vec![Method::GET, Method::HEAD].into();
    let error = Failure::from(MethodNotAllowed { allowed }).into();
    let (head, body) = told(error, request(&Method::POST, "/api/tags")).await;
    assert_eq!(head.headers["allow"], "GET, HEAD");
    assert_eq!(body, "405 method not allowed");
}

#[tokio::test]
async fn an_unknown_error_gives_nothing_away() {
    let (head, body) = told("secret path".into(), request(&Method::POST, "/api/chat")).await;
    assert_eq!(head.status, StatusCode::BAD_GATEWAY);
    assert!(!body.windows(6).any(|window| window == b"secret"));
}

#[tokio::test(start_paused = true)]
async fn the_cutoff_ends_a_waiting_stream_with_an_error_line() {
    let (cut, cutoff) = watch::channel(false);
    let (frames, receiver) = mpsc::unbounded_channel::<Result<Frame<Bytes>, BoxError>>();
    let receiver = std::sync::Mutex::new(Some(receiver));
    let inner = service_fn(|_: Request<()>| {
        let receiver = receiver.lock().expect("no panic").take();
        let frames = futures_util::stream::unfold(receiver, |receiver| async {
            let mut receiver = receiver?;
            receiver.recv().await.map(|frame| (frame, Some(receiver)))
        });
        let body = StreamBody::new(frames);
        let answer = Response::builder()
            .header("content-type", NDJSON)
            .body(body)
            .expect("sound");
        async { Ok::<_, Infallible>(answer) }
    });
    let layer = RescueLayer::new().with_cutoff(cutoff);
    let Ok(answer) = layer
        .layer(inner)
        .oneshot(request(&Method::POST, "/api/chat"))
        .await;
    let mut body = pin!(answer.into_body());
    frames
        .send(Ok(Frame::data("{}\n".into())))
        .expect("it is read");
    body.frame().await.expect("a frame").expect("no error");
    let reading = async {
        let frame = body.frame().await.expect("a frame").expect("no error");
        frame.into_data().expect("data")
    };
    let cutting = async {
        tokio::time::sleep(Duration::from_secs(5)).await;
        cut.send_replace(true);
    };
    let (last, ()) = tokio::join!(reading, cutting);
    assert!(
        last.starts_with(b"{\"error\":\"the gateway is shutting down"),
        "{last:?}"
    );
}
