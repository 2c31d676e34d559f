#![allow(clippy::unwrap_used)]

use std::sync::Mutex;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::FutureExt;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use tokio::sync::Notify;
use tower::{Service, ServiceExt};

use super::*;

/// A backend that is ready once it was asked so many times.
#[derive(Clone)]
struct Slowly {
    asks_left: usize,
}

impl Service<Request<()>> for Slowly {
    type Response = Response<Full<Bytes>>;
    type Error = BoxError;
    type Future = std::future::Ready<Result<Self::Response, BoxError>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        let Some(left) = self.asks_left.checked_sub(1) else {
            return Poll::Ready(Ok(()));
        };
        self.asks_left = left;
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn call(&mut self, request: Request<()>) -> Self::Future {
        assert_eq!(self.asks_left, 0, "not before it is ready");
        assert_eq!(request.extensions().get(), Some(&Chosen));
        std::future::ready(Ok(Response::new(Full::from("text"))))
    }
}

#[derive(Clone, Debug, PartialEq)]
struct Chosen;

/// Has one place, and says how it was asked for it.
struct OnePlace {
    is_free: Mutex<bool>,
    notify: Notify,
    waits: Mutex<usize>,
    backend: Slowly,
}

struct Place(Arc<OnePlace>);

impl Drop for Place {
    fn drop(&mut self) {
        *self.0.is_free.lock().unwrap() = true;
        self.0.notify.notify_one();
    }
}

#[derive(Clone)]
struct Policy(Arc<OnePlace>);

impl Policy {
    fn new(asks_left: usize) -> Self {
        Self(Arc::new(OnePlace {
            is_free: Mutex::new(true),
            notify: Notify::new(),
            waits: Mutex::new(0),
            backend: Slowly { asks_left },
        }))
    }

    fn is_free(&self) -> bool {
        *self.0.is_free.lock().unwrap()
    }
}

impl Choose for Policy {
    type Service = Slowly;
    type Slot = Place;

    fn choose_now(&self, request: &mut Parts) -> Option<ChoiceOf<Self>> {
        if !std::mem::take(&mut *self.0.is_free.lock().unwrap()) {
            return None;
        }
        request.extensions.insert(Chosen);
        Some(Ok(Choice {
            service: self.0.backend.clone(),
            slot: Place(self.0.clone()),
        }))
    }

    async fn choose(&self, request: &mut Parts) -> ChoiceOf<Self> {
        *self.0.waits.lock().unwrap() += 1;
        loop {
            if let Some(choice) = self.choose_now(request) {
                return choice;
            }
            self.0.notify.notified().await;
        }
    }
}

async fn answered(policy: &Policy) {
    let answer = Route::new(policy.clone()).oneshot(Request::new(()));
    let answer = answer.await.unwrap();
    assert!(!policy.is_free(), "it is held to the end of the answer");
    assert_eq!(
        answer.into_body().collect().await.unwrap().to_bytes(),
        "text"
    );
    assert!(policy.is_free());
}

#[tokio::test]
async fn who_need_not_wait_is_not_asked_to() {
    let policy = Policy::new(0);
    answered(&policy).await;
    assert_eq!(*policy.0.waits.lock().unwrap(), 0);
}

#[tokio::test]
async fn a_backend_is_called_when_it_is_ready() {
    answered(&Policy::new(3)).await;
}

#[tokio::test]
async fn who_finds_no_place_waits_for_one() {
    let policy = Policy::new(0);
    let held = policy.choose_now(&mut Request::new(()).into_parts().0);
    let mut waiting = Box::pin(answered(&policy));
    assert!(waiting.as_mut().now_or_never().is_none());
    drop(held);
    waiting.await;
    assert_eq!(*policy.0.waits.lock().unwrap(), 1);
}

#[tokio::test]
async fn a_future_that_is_dropped_gives_the_place_back() {
    let policy = Policy::new(usize::MAX);
    let mut call = Box::pin(Route::new(policy.clone()).call(Request::new(())));
    assert!(call.as_mut().now_or_never().is_none());
    assert!(!policy.is_free());
    drop(call);
    assert!(policy.is_free());
}
