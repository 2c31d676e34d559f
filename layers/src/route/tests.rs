#![allow(clippy::unwrap_used)]

use std::future::Future;
use std::pin::Pin;
use std::sync::Mutex;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::FutureExt;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use tokio::sync::Notify;
use tokio::sync::futures::OwnedNotified;
use tower::{Service, ServiceExt};

use super::*;

/// A backend that is ready after a number of calls of `poll_ready`.
#[derive(Clone)]
struct SlowBackend {
    polls_left: usize,
}

impl Service<Request<()>> for SlowBackend {
    type Response = Response<Full<Bytes>>;
    type Error = BoxError;
    type Future = std::future::Ready<Result<Self::Response, BoxError>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        let Some(left) = self.polls_left.checked_sub(1) else {
            return Poll::Ready(Ok(()));
        };
        self.polls_left = left;
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn call(&mut self, request: Request<()>) -> Self::Future {
        assert_eq!(self.polls_left, 0, "called before it is ready");
        assert_eq!(request.extensions().get(), Some(&Chosen));
        std::future::ready(Ok(Response::new(Full::from("text"))))
    }
}

#[derive(Clone, Debug, PartialEq)]
struct Chosen;

/// A policy's state with one slot.
struct OneSlot {
    is_free: Mutex<bool>,
    notify: Arc<Notify>,
    backend: SlowBackend,
}

struct Slot(Arc<OneSlot>);

impl Drop for Slot {
    fn drop(&mut self) {
        *self.0.is_free.lock().unwrap() = true;
        self.0.notify.notify_one();
    }
}

#[derive(Clone)]
struct Policy(Arc<OneSlot>);

impl Policy {
    fn new(polls_left: usize) -> Self {
        Self(Arc::new(OneSlot {
            is_free: Mutex::new(true),
            notify: Arc::default(),
            backend: SlowBackend { polls_left },
        }))
    }

    fn is_free(&self) -> bool {
        *self.0.is_free.lock().unwrap()
    }

    fn take(&self) -> Option<Slot> {
        let is_free = std::mem::take(&mut *self.0.is_free.lock().unwrap());
        is_free.then(|| Slot(self.0.clone()))
    }
}

impl Choose for Policy {
    type Service = SlowBackend;
    type Slot = Slot;
    type Wait = Option<Pin<Box<OwnedNotified>>>;

    fn poll_choose(
        &self,
        wait: &mut Self::Wait,
        request: &mut Parts,
        cx: &mut Context<'_>,
    ) -> Poll<ChoiceOf<Self>> {
        loop {
            if let Some(slot) = self.take() {
                request.extensions.insert(Chosen);
                let service = self.0.backend.clone();
                return Poll::Ready(Ok(Choice { service, slot }));
            }
            let notified =
                wait.get_or_insert_with(|| Box::pin(self.0.notify.clone().notified_owned()));
            ready!(notified.as_mut().poll(cx));
            *wait = None;
        }
    }
}

async fn assert_answered(policy: &Policy) {
    let answer = RouteService::new(policy.clone()).oneshot(Request::new(()));
    let answer = answer.await.unwrap();
    assert!(
        !policy.is_free(),
        "the slot is held to the end of the answer"
    );
    assert_eq!(
        answer.into_body().collect().await.unwrap().to_bytes(),
        "text"
    );
    assert!(policy.is_free());
}

#[tokio::test]
async fn a_choice_without_a_wait_is_made_at_the_first_poll() {
    let policy = Policy::new(0);
    assert_answered(&policy)
        .now_or_never()
        .expect("there is no wait");
}

#[tokio::test]
async fn a_backend_is_called_when_it_is_ready() {
    assert_answered(&Policy::new(3)).await;
}

#[tokio::test]
async fn a_request_without_a_free_slot_waits_for_one() {
    let policy = Policy::new(0);
    let held = policy.take().unwrap();
    let mut waiting = Box::pin(assert_answered(&policy));
    assert!(waiting.as_mut().now_or_never().is_none());
    drop(held);
    waiting.await;
}

/// A backend whose `poll_ready` fails.
#[derive(Clone)]
struct FailingBackend;

impl Service<Request<()>> for FailingBackend {
    type Response = Response<Full<Bytes>>;
    type Error = BoxError;
    type Future = std::future::Ready<Result<Self::Response, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Err("unready".into()))
    }

    fn call(&mut self, _: Request<()>) -> Self::Future {
        unreachable!("it is never ready")
    }
}

#[derive(Clone)]
struct ChooseFailing(Arc<()>);

impl Choose for ChooseFailing {
    type Service = FailingBackend;
    type Slot = Arc<()>;
    type Wait = ();

    fn poll_choose(&self, (): &mut (), _: &mut Parts, _: &mut Context<'_>) -> Poll<ChoiceOf<Self>> {
        let (service, slot) = (FailingBackend, self.0.clone());
        Poll::Ready(Ok(Choice { service, slot }))
    }
}

#[tokio::test]
async fn a_backend_that_fails_to_become_ready_holds_no_slot() {
    let policy = ChooseFailing(Arc::new(()));
    let mut call = Box::pin(RouteService::new(policy.clone()).call(Request::new(())));
    let before = Arc::strong_count(&policy.0);
    assert!(call.as_mut().now_or_never().unwrap().is_err());
    assert_eq!(Arc::strong_count(&policy.0), before);
}

#[tokio::test]
async fn a_dropped_future_releases_its_slot() {
    let policy = Policy::new(usize::MAX);
    let mut call = Box::pin(RouteService::new(policy.clone()).call(Request::new(())));
    assert!(call.as_mut().now_or_never().is_none());
    assert!(!policy.is_free());
    drop(call);
    assert!(policy.is_free());
}
