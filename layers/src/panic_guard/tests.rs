#![allow(clippy::unwrap_used)]

use std::cell::RefCell;
use std::panic::resume_unwind;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, Full};
use tower::{Layer, Service, ServiceExt, service_fn};

use super::*;
use crate::{BoxError, Failure, Retryable, Side};

thread_local! {
    static MESSAGES: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

fn layer() -> PanicGuardLayer {
    PanicGuardLayer::new()
        .with_hook(|text| MESSAGES.with_borrow_mut(|messages| messages.push(text.into())))
}

fn messages() -> Vec<String> {
    MESSAGES.take()
}

/// Unwinds without running the panic hook, which would print a message.
fn quiet_panic(text: &'static str) -> ! {
    resume_unwind(Box::new(text))
}

fn assert_panicked(error: &BoxError) {
    let failure = Failure::find(&**error).unwrap();
    assert!(failure.caused_by::<Panicked>().is_some());
    assert_eq!(failure.status(), StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!(failure.side(), Side::Gateway);
    assert_eq!(failure.retryable(), Retryable::No);
    assert!(!error.to_string().contains("secret"));
}

/// Panics at the second poll, counts the polls, and panics again when it is dropped.
struct PanickingBody {
    polls: Arc<std::sync::atomic::AtomicU32>,
    permit: Option<Arc<()>>,
}

impl Body for PanickingBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self
            .polls
            .fetch_add(1, std::sync::atomic::Ordering::Relaxed)
        {
            0 => Poll::Ready(Some(Ok(Frame::data(Bytes::from("first"))))),
            _ => quiet_panic("a secret of the body"),
        }
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(10)
    }
}

impl Drop for PanickingBody {
    fn drop(&mut self) {
        self.permit = None;
        quiet_panic("in drop");
    }
}

#[tokio::test]
async fn a_panic_in_call_fails_only_that_request() {
    let service = layer().layer(service_fn(|request: Request<&'static str>| {
        if *request.body() == "bad" {
            quiet_panic("a secret of the call");
        }
        async { Ok::<_, BoxError>(Response::new(Full::new(Bytes::from("well")))) }
    }));
    let error = service
        .clone()
        .oneshot(Request::new("bad"))
        .await
        .unwrap_err();
    assert_panicked(&error);
    assert_eq!(messages(), ["a secret of the call"]);

    let answer = service.oneshot(Request::new("good")).await.unwrap();
    assert_eq!(
        answer.into_body().collect().await.unwrap().to_bytes(),
        "well"
    );
    assert!(messages().is_empty());
}

#[tokio::test]
async fn a_panicked_future_is_dropped_at_once() {
    let permit = Arc::new(());
    let held = permit.clone();
    let mut service = layer().layer(service_fn(move |_: Request<()>| {
        let held = held.clone();
        async move {
            let _held = held;
            tokio::task::yield_now().await;
            if true {
                resume_unwind(Box::new(String::from("a secret of the future")));
            }
            Ok::<_, BoxError>(Response::new(Full::<Bytes>::default()))
        }
    }));
    let mut answer = Box::pin(service.call(Request::new(())));
    drop(service);
    assert_eq!(Arc::strong_count(&permit), 2);
    assert_panicked(&(&mut answer).await.unwrap_err());
    assert_eq!(Arc::strong_count(&permit), 1);
    assert_eq!(messages(), ["a secret of the future"]);
}

#[tokio::test]
async fn a_panic_in_a_body_becomes_its_error_and_its_end() {
    let permit = Arc::new(());
    let polls = Arc::default();
    let bomb = PanickingBody {
        polls: Arc::clone(&polls),
        permit: Some(permit.clone()),
    };
    let bomb = std::sync::Mutex::new(Some(bomb));
    let service = layer().layer(service_fn(async |_: Request<()>| {
        Ok::<_, BoxError>(Response::new(bomb.lock().unwrap().take().unwrap()))
    }));
    let mut body = service.oneshot(Request::new(())).await.unwrap().into_body();
    assert_eq!(body.size_hint().exact(), Some(10));
    assert_eq!(
        body.frame().await.unwrap().unwrap().into_data().unwrap(),
        "first"
    );
    assert!(!body.is_end_stream());

    assert_panicked(&body.frame().await.unwrap().unwrap_err());
    assert_eq!(messages(), ["a secret of the body"]);
    assert_eq!(
        Arc::strong_count(&permit),
        1,
        "dropped although its drop panics"
    );
    assert!(body.is_end_stream());
    assert!(body.frame().await.is_none());
    assert_eq!(polls.load(std::sync::atomic::Ordering::Relaxed), 2);
}

#[tokio::test]
async fn a_panic_in_poll_ready_is_an_error() {
    struct NeverReady;
    impl Service<Request<()>> for NeverReady {
        type Response = Response<Full<Bytes>>;
        type Error = BoxError;
        type Future = std::future::Ready<Result<Self::Response, BoxError>>;
        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
            quiet_panic("a secret of readiness")
        }
        fn call(&mut self, _: Request<()>) -> Self::Future {
            unreachable!("it is never ready")
        }
    }
    let error = layer()
        .layer(NeverReady)
        .oneshot(Request::new(()))
        .await
        .unwrap_err();
    assert_panicked(&error);
    assert_eq!(messages(), ["a secret of readiness"]);
}

#[tokio::test]
async fn a_panic_in_the_payload_or_the_hook_is_caught() {
    struct Payload;
    impl Drop for Payload {
        fn drop(&mut self) {
            quiet_panic("in the payload");
        }
    }
    let layer = PanicGuardLayer::new().with_hook(|_| quiet_panic("in the hook"));
    let service = layer.layer(service_fn(async |_: Request<()>| {
        if true {
            resume_unwind(Box::new(Payload));
        }
        Ok::<_, BoxError>(Response::new(Full::<Bytes>::default()))
    }));
    assert_panicked(&service.oneshot(Request::new(())).await.unwrap_err());
}

#[tokio::test]
async fn an_ordinary_error_passes_unchanged() {
    let service = layer().layer(service_fn(async |_: Request<()>| {
        Err::<Response<Full<Bytes>>, _>(BoxError::from("ordinary"))
    }));
    let error = service.oneshot(Request::new(())).await.unwrap_err();
    assert_eq!(error.to_string(), "ordinary");
    assert!(messages().is_empty());
}
