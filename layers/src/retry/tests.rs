use std::collections::VecDeque;
use std::fmt;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex};

use http::{Method, Request, Response, StatusCode};
use tower::{Layer, Service, ServiceExt, service_fn};

use super::*;
use crate::{BoxError, EndpointTable, Fail, Failure, Replay, Side};

#[derive(Clone, Debug, PartialEq)]
struct Whole(&'static str);

impl Replay for Whole {
    fn replay(&self) -> Option<Self> {
        (self.0 != "a stream").then(|| self.clone())
    }
}

#[derive(Clone, Copy, Debug)]
struct Broke {
    kind: &'static str,
    is_retryable: bool,
}

impl fmt::Display for Broke {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind)
    }
}

impl std::error::Error for Broke {}

impl Fail for Broke {
    fn side(&self) -> Side {
        Side::Upstream
    }
    fn status(&self) -> StatusCode {
        StatusCode::BAD_GATEWAY
    }
    fn kind(&self) -> &'static str {
        self.kind
    }
    fn is_retryable(&self) -> bool {
        self.is_retryable
    }
}

const REFUSED: Result<u16, Broke> = Err(Broke {
    kind: "connect_failed",
    is_retryable: true,
});
const SILENT: Result<u16, Broke> = Err(Broke {
    kind: "first_byte_timeout",
    is_retryable: true,
});
const FATAL: Result<u16, Broke> = Err(Broke {
    kind: "invalid_answer",
    is_retryable: false,
});

type Seen = Arc<Mutex<Vec<(u32, Vec<Arc<str>>)>>>;

/// A service that gives these answers in turn, and what it saw of the attempts.
fn scripted(
    script: &[Result<u16, Broke>],
) -> (
    impl Service<Request<Whole>, Response = Response<()>, Error = BoxError, Future: Send>
    + Clone
    + Send
    + 'static,
    Seen,
) {
    let script: Arc<Mutex<VecDeque<_>>> = Arc::new(Mutex::new(script.iter().copied().collect()));
    let seen = Seen::default();
    let noted = seen.clone();
    let service = service_fn(move |request: Request<Whole>| {
        let attempts = request
            .extensions()
            .get::<Attempts>()
            .expect("it is there")
            .clone();
        noted
            .lock()
            .expect("no panic")
            .push((attempts.number(), attempts.tried()));
        attempts.note_backend(format!("gpu-{}", attempts.number()).into());
        let next = script
            .lock()
            .expect("no panic")
            .pop_front()
            .expect("the script is longer");
        async move {
            match next {
                Ok(status) => Ok(Response::builder().status(status).body(()).expect("sound")),
                Err(broke) => Err(Failure::from(broke).into()),
            }
        }
    });
    (service, seen)
}

fn request(method: Method, path: &str, body: &'static str) -> Request<Whole> {
    let mut request = Request::new(Whole(body));
    *request.method_mut() = method.clone();
    request
        .extensions_mut()
        .insert(EndpointTable::ollama().look_up(&method, path));
    request
}

fn chat() -> Request<Whole> {
    request(Method::POST, "/api/chat", "{}")
}

async fn outcome(
    layer: &RetryLayer,
    script: &[Result<u16, Broke>],
    request: Request<Whole>,
) -> (String, usize) {
    let (service, seen) = scripted(script);
    let answer = match layer.layer(service).oneshot(request).await {
        Ok(answer) => answer.status().as_u16().to_string(),
        Err(error) => error.to_string(),
    };
    let attempts = seen.lock().expect("no panic").len();
    (answer, attempts)
}

#[tokio::test(start_paused = true)]
async fn a_refused_or_busy_backend_is_followed_by_another() {
    let layer = RetryLayer::new(RetryBudget::default());
    assert_eq!(
        outcome(&layer, &[REFUSED, Ok(503), Ok(200)], chat()).await,
        ("200".into(), 3)
    );
}

#[tokio::test(start_paused = true)]
async fn each_attempt_knows_who_was_asked_before() {
    let (service, seen) = scripted(&[REFUSED, REFUSED, Ok(200)]);
    let service = RetryLayer::new(RetryBudget::default()).layer(service);
    service.oneshot(chat()).await.expect("the third succeeds");
    let seen = seen.lock().expect("no panic");
    assert_eq!(seen[2], (3, vec!["gpu-1".into(), "gpu-2".into()]));
}

#[tokio::test(start_paused = true)]
async fn the_last_answer_goes_to_the_client_as_it_is() {
    let layer = RetryLayer::new(RetryBudget::default());
    assert_eq!(
        outcome(&layer, &[Ok(503); 3], chat()).await,
        ("503".into(), 3)
    );
    assert_eq!(
        outcome(&layer, &[REFUSED; 3], chat()).await,
        ("connect_failed".into(), 3)
    );
    let once = layer.with_attempts(NonZeroU32::MIN);
    assert_eq!(
        outcome(&once, &[REFUSED], chat()).await,
        ("connect_failed".into(), 1)
    );
}

#[tokio::test(start_paused = true)]
async fn what_is_final_is_not_asked_again() {
    let layer = RetryLayer::new(RetryBudget::default());
    for answer in [Ok(200), Ok(404), Ok(500), FATAL] {
        assert_eq!(outcome(&layer, &[answer], chat()).await.1, 1);
    }
}

#[tokio::test(start_paused = true)]
async fn what_changes_a_server_is_never_sent_twice() {
    let layer = RetryLayer::new(RetryBudget::default());
    for (method, path) in [
        (Method::POST, "/api/pull"),
        (Method::POST, "/api/create"),
        (Method::DELETE, "/api/delete"),
        (Method::POST, "/api/blobs/sha256:00"),
    ] {
        assert_eq!(
            outcome(&layer, &[REFUSED], request(method, path, "{}"))
                .await
                .1,
            1,
            "{path}"
        );
    }
    assert_eq!(
        outcome(
            &layer,
            &[REFUSED],
            request(Method::POST, "/api/chat", "a stream")
        )
        .await
        .1,
        1
    );
}

#[tokio::test(start_paused = true)]
async fn a_silent_backend_is_followed_by_one_more_at_most() {
    let layer = RetryLayer::new(RetryBudget::default());
    assert_eq!(
        outcome(&layer, &[SILENT, SILENT], chat()).await,
        ("first_byte_timeout".into(), 2)
    );
    assert_eq!(
        outcome(&layer, &[SILENT, Ok(200)], chat()).await,
        ("200".into(), 2)
    );
}

#[tokio::test(start_paused = true)]
async fn an_empty_budget_ends_the_retries_of_all_clones() {
    let layer = RetryLayer::new(RetryBudget::new(0.0, 2.0));
    assert_eq!(outcome(&layer, &[Ok(503); 3], chat()).await.1, 3);
    assert_eq!(outcome(&layer.clone(), &[Ok(503); 3], chat()).await.1, 1);
}

#[tokio::test(start_paused = true)]
async fn an_observer_is_told_why() {
    let reasons = Arc::new(Mutex::new(Vec::new()));
    let told = reasons.clone();
    let layer = RetryLayer::new(RetryBudget::default()).with_observer(Arc::new(move |reason| {
        told.lock().expect("no panic").push(reason)
    }));
    outcome(&layer, &[REFUSED, Ok(503), Ok(200)], chat()).await;
    assert_eq!(
        *reasons.lock().expect("no panic"),
        ["connect_failed", "status_503"]
    );
}
