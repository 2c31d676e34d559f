#![allow(clippy::unwrap_used)]

use std::convert::Infallible;
use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Full};
use proptest::prelude::*;
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_test::mock::{self, Mock, Spawn};

use super::*;
use crate::{BoxError, Failure, Side};

type Spawned = Spawn<AdmissionService<Mock<Request<()>, Response<Full<Bytes>>>>>;

fn layer(max: usize) -> AdmissionLayer {
    AdmissionLayer::new(NonZeroUsize::new(max).unwrap())
}

#[tokio::test]
async fn a_permit_is_held_until_the_last_frame() {
    let layer = layer(1);
    let service = layer.layer(service_fn(async |_: Request<()>| {
        Ok::<_, BoxError>(Response::new(Full::new(Bytes::from("text"))))
    }));
    let answer = service.clone().oneshot(Request::default()).await.unwrap();
    assert_eq!(layer.in_flight(), 1);

    let refusal = service
        .clone()
        .oneshot(Request::default())
        .await
        .unwrap_err();
    let failure = Failure::find(&*refusal).unwrap();
    assert_eq!(failure.caused_by(), Some(&AtCapacity { max: layer.max() }));
    assert_eq!(failure.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(failure.side(), Side::Gateway);
    assert_eq!(failure.retry_after(), Some(Duration::from_secs(1)));

    answer.into_body().frame().await.unwrap().unwrap();
    assert_eq!(layer.in_flight(), 0);
    service.oneshot(Request::default()).await.unwrap();
}

#[tokio::test]
async fn a_refused_request_does_not_reach_the_inner_service() {
    let layer = layer(1);
    let (service, mut inner) = mock::spawn_with(|mock| layer.layer(mock));
    let mut service: Spawned = service;
    inner.allow(2);

    assert!(service.poll_ready().is_ready());
    let _held = service.call(Request::default());
    assert!(service.poll_ready().is_ready());
    service.call(Request::default()).await.unwrap_err();

    assert!(inner.next_request().await.is_some());
    assert!(
        pin!(inner.next_request())
            .as_mut()
            .poll(&mut Context::from_waker(Waker::noop()))
            .is_pending()
    );
}

#[tokio::test]
async fn readiness_comes_from_the_inner_service() {
    let layer = layer(1);
    let (service, mut inner) = mock::spawn_with(|mock| layer.layer(mock));
    let mut service: Spawned = service;
    inner.allow(0);
    assert!(service.poll_ready().is_pending());
    inner.allow(1);
    assert!(service.poll_ready().is_ready());
    assert_eq!(layer.in_flight(), 0, "readiness takes no permit");
}

#[test]
fn debug_shows_the_state() {
    let layer = layer(3);
    let _service = layer.layer(());
    assert_eq!(
        format!("{layer:?}"),
        "AdmissionLayer { max: 3, in_flight: 0 }"
    );
}

/// Unwinds without running the panic hook, which would print a message.
fn quiet_panic() -> ! {
    std::panic::resume_unwind(Box::new("scripted"))
}

/// The next step of a scripted request.
#[derive(Clone, Copy, Debug)]
enum Step {
    Pending,
    Go,
    Fail,
    Panic,
}

/// A response that follows a script, one step for each poll. It ends after the last step.
struct Scripted(std::vec::IntoIter<Step>);

impl Body for Scripted {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.0.next() {
            Some(Step::Pending) => Poll::Pending,
            Some(Step::Go) => Poll::Ready(Some(Ok(Frame::data(Bytes::from("x"))))),
            Some(Step::Fail) => Poll::Ready(Some(Err("broken".into()))),
            Some(Step::Panic) => quiet_panic(),
            None => Poll::Ready(None),
        }
    }
}

type Answer = Pin<Box<dyn Future<Output = Result<Response<Guarded>, BoxError>>>>;
type Guarded = crate::body::Guarded<Scripted, Permit>;

enum Flight {
    Head(Answer),
    Body(Pin<Box<Guarded>>),
}

#[derive(Clone, Debug)]
struct Script {
    head: Vec<Step>,
    body: Vec<Step>,
}

fn script() -> impl Strategy<Value = Script> {
    let step = || {
        prop_oneof![
            3 => Just(Step::Pending),
            5 => Just(Step::Go),
            1 => Just(Step::Fail),
            1 => Just(Step::Panic),
        ]
    };
    (
        prop::collection::vec(step(), 0..4),
        prop::collection::vec(step(), 0..6),
    )
        .prop_map(|(head, body)| Script { head, body })
}

#[derive(Clone, Debug)]
enum Action {
    Start(Script),
    Poll(prop::sample::Index),
    Drop(prop::sample::Index),
}

fn actions() -> impl Strategy<Value = Vec<Action>> {
    let one = prop_oneof![
        2 => script().prop_map(Action::Start),
        6 => any::<prop::sample::Index>().prop_map(Action::Poll),
        1 => any::<prop::sample::Index>().prop_map(Action::Drop),
    ];
    prop::collection::vec(one, 0..80)
}

async fn play(script: Script) -> Result<Response<Scripted>, BoxError> {
    for step in script.head {
        match step {
            Step::Pending => {
                let mut first = true;
                std::future::poll_fn(|_| match std::mem::take(&mut first) {
                    true => Poll::Pending,
                    false => Poll::Ready(()),
                })
                .await;
            }
            Step::Go => break,
            Step::Fail => return Err("no answer".into()),
            Step::Panic => quiet_panic(),
        }
    }
    Ok(Response::new(Scripted(script.body.into_iter())))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn permits_are_released_however_requests_end(actions in actions()) {
        const MAX: usize = 3;
        let layer = layer(MAX);
        let service = layer.layer(service_fn(|request: Request<Script>| play(request.into_body())));
        let mut flights: Vec<Flight> = Vec::new();
        let cx = &mut Context::from_waker(Waker::noop());

        for step in actions {
            match step {
                Action::Start(script) => {
                    let mut service = service.clone();
                    let full = flights.len() == MAX;
                    let mut answer: Answer = Box::pin(service.call(Request::new(script)));
                    if full {
                        let refused = answer.as_mut().poll(cx);
                        prop_assert!(matches!(refused, Poll::Ready(Err(_))));
                    } else {
                        flights.push(Flight::Head(answer));
                    }
                }
                Action::Poll(at) if !flights.is_empty() => {
                    let at = at.index(flights.len());
                    let flight = flights.swap_remove(at);
                    // Drop the panicked value, as the task of a connection does.
                    let next = catch_unwind(AssertUnwindSafe(|| match flight {
                        Flight::Head(mut answer) => match answer.as_mut().poll(cx) {
                            Poll::Pending => Some(Flight::Head(answer)),
                            Poll::Ready(Ok(head)) => Some(Flight::Body(Box::pin(head.into_body()))),
                            Poll::Ready(Err(_)) => None,
                        },
                        Flight::Body(mut body) => match body.as_mut().poll_frame(cx) {
                            Poll::Pending | Poll::Ready(Some(Ok(_))) => Some(Flight::Body(body)),
                            Poll::Ready(Some(Err(_)) | None) => None,
                        },
                    }));
                    flights.extend(next.ok().flatten());
                }
                Action::Drop(at) if !flights.is_empty() => {
                    flights.swap_remove(at.index(flights.len()));
                }
                Action::Poll(_) | Action::Drop(_) => {}
            }
            prop_assert_eq!(layer.in_flight(), flights.len());
        }
        flights.clear();
        prop_assert_eq!(layer.in_flight(), 0);
    }
}

#[tokio::test]
async fn a_failed_future_that_is_kept_holds_no_permit() {
    let layer = layer(1);
    let mut service = layer.layer(service_fn(async |_: Request<()>| {
        Err::<Response<Full<Bytes>>, _>(BoxError::from("no answer"))
    }));
    let mut answer = Box::pin(service.call(Request::default()));
    (&mut answer).await.unwrap_err();
    assert_eq!(layer.in_flight(), 0);
}

#[test]
fn an_infallible_service_can_be_wrapped() {
    let _ = layer(1)
        .layer(service_fn(async |_: Request<()>| {
            Ok::<_, Infallible>(Response::new(Full::new(Bytes::new())))
        }))
        .boxed();
}
