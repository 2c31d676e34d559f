//! Tests of the layer.

use std::num::NonZeroUsize;
use std::pin::pin;

use bytes::Bytes;
use http::request::Parts;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use tokio_test::{assert_pending, assert_ready, task};
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_test::mock;

use super::*;

type Answer = Response<Full<Bytes>>;

fn one_slot() -> QueueLayer {
    QueueLayer::new(NonZeroUsize::MIN)
}

fn text() -> impl Service<Request<()>, Response = Answer, Error = BoxError, Future: Send> + Clone {
    service_fn(async |_: Request<()>| Ok(Response::new(Full::from("text"))))
}

#[tokio::test]
async fn the_slot_is_held_until_the_last_frame() {
    let layer = one_slot();
    let service = layer.layer(text());
    let first = service.clone().oneshot(Request::default()).await.unwrap();
    let mut second = task::spawn(service.oneshot(Request::default()));
    assert_pending!(second.poll());
    assert_eq!(layer.queue().waiting(), 1);

    first.into_body().collect().await.unwrap();
    assert!(second.is_woken());
    assert_ready!(second.poll()).unwrap();
}

#[tokio::test]
async fn it_is_always_ready_and_waits_for_the_inner_service_in_the_future() {
    let layer = one_slot();
    let (mut service, mut inner) =
        mock::spawn_with(|mock: mock::Mock<Request<()>, Answer>| layer.layer(mock));
    inner.allow(0);
    assert_ready!(service.poll_ready()).unwrap();
    let mut answer = task::spawn(service.call(Request::default()));
    assert_pending!(answer.poll());
    assert_eq!(layer.queue().dispatch().in_use(), 1);

    inner.allow(1);
    assert!(answer.is_woken());
    assert_pending!(answer.poll());
    let (_, respond) = inner.next_request().await.unwrap();
    respond.send_response(Response::new(Full::from("text")));
    assert_ready!(answer.poll()).unwrap();
}

#[tokio::test]
async fn a_waiting_request_does_not_reach_the_inner_service() {
    let layer = one_slot();
    let (mut service, mut inner) =
        mock::spawn_with(|mock: mock::Mock<Request<()>, Answer>| layer.layer(mock));
    inner.allow(2);
    let mut first = task::spawn(service.call(Request::default()));
    let mut second = task::spawn(service.call(Request::default()));
    assert_pending!(first.poll());
    assert_pending!(second.poll());
    let (_, respond) = inner.next_request().await.unwrap();
    assert!(pin!(inner.next_request()).now_or_never().is_none());

    respond.send_error("no answer");
    assert_ready!(first.poll()).unwrap_err();
    assert!(
        second.is_woken(),
        "a failed future that is kept holds no slot"
    );
    assert_pending!(second.poll());
    assert!(pin!(inner.next_request()).now_or_never().is_some());
}

#[tokio::test]
async fn a_client_that_leaves_releases_its_position_or_slot() {
    let layer = one_slot();
    let service = layer.layer(service_fn(|_: Request<()>| {
        std::future::pending::<Result<Answer, BoxError>>()
    }));
    let mut under_way = task::spawn(service.clone().oneshot(Request::default()));
    assert_pending!(under_way.poll());
    let mut waiting = task::spawn(service.clone().oneshot(Request::default()));
    assert_pending!(waiting.poll());
    drop(waiting);
    assert_eq!(layer.queue().waiting(), 0);
    drop(under_way);
    assert_eq!(layer.queue().dispatch().in_use(), 0);
}

#[tokio::test]
async fn beyond_its_limit_it_refuses() {
    let layer = one_slot().with_max_waiting(0);
    let service = layer.layer(text());
    let _first = service.clone().oneshot(Request::default()).await.unwrap();
    let error = service.oneshot(Request::default()).await.unwrap_err();
    let failure = Failure::find(&*error).unwrap();
    assert_eq!(failure.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(failure.kind(), "queue_full");
}

#[tokio::test]
async fn a_key_that_several_clients_share_is_no_ones_fault() {
    let without_key = one_slot().with_max_waiting_per_key(Some(1));
    let by_tenant = without_key
        .clone()
        .with_key(|parts: &Parts| header(parts, "x-tenant"));
    let shared = by_tenant.clone().with_shared_key(|_| true);
    async fn kind(service: impl Service<Request<()>, Error = BoxError> + Clone) -> &'static str {
        let _first = service.clone().oneshot(Request::default()).await;
        let mut waiting = pin!(service.clone().oneshot(Request::default()));
        assert!(waiting.as_mut().now_or_never().is_none());
        let refused = service.oneshot(Request::default()).await;
        let error = refused.err().expect("a refusal");
        Failure::find(&*error).unwrap().kind()
    }
    assert_eq!(kind(without_key.layer(text())).await, "queue_full");
    assert_eq!(kind(by_tenant.layer(text())).await, "key_queue_full");
    assert_eq!(kind(shared.layer(text())).await, "queue_full");
}

fn header(parts: &Parts, name: &str) -> String {
    let value = parts.headers.get(name);
    value.map_or("", |value| value.to_str().unwrap()).to_owned()
}

#[tokio::test]
async fn a_class_gets_no_more_than_its_maximum_of_slots() {
    let layer = QueueLayer::new(NonZeroUsize::new(2).unwrap())
        .with_max_per_class(NonZeroUsize::MIN)
        .with_class(|parts: &Parts| header(parts, "x-model"));
    let service = layer.layer(text());
    let ask = |model: &str| {
        let request = Request::builder()
            .header("x-model", model)
            .body(())
            .unwrap();
        task::spawn(service.clone().oneshot(request))
    };
    let first = assert_ready!(ask("a").poll()).unwrap();
    let mut second = ask("a");
    assert_pending!(second.poll());
    assert_ready!(ask("b").poll()).unwrap();
    drop(first);
    assert_ready!(second.poll()).unwrap();
}

#[tokio::test]
async fn keys_and_priorities_are_read_from_the_request() {
    let layer = one_slot()
        .with_max_waiting_per_key(Some(1))
        .with_key(|parts: &Parts| header(parts, "x-tenant"))
        .with_priority(
            |parts: &Parts| match parts.headers.contains_key("x-urgent") {
                true => Priority::High,
                false => Priority::Normal,
            },
        );
    let service = layer.layer(text());
    let ask = |tenant: &str, urgent: bool| {
        let mut request = Request::builder().header("x-tenant", tenant);
        if urgent {
            request = request.header("x-urgent", "1");
        }
        task::spawn(service.clone().oneshot(request.body(()).unwrap()))
    };
    let first = assert_ready!(ask("ada", false).poll()).unwrap();
    let mut second = ask("ada", false);
    assert_pending!(second.poll());
    let error = assert_ready!(ask("ada", false).poll()).unwrap_err();
    cause::<KeyQueueFull>(&error);
    let mut urgent = ask("bob", true);
    assert_pending!(urgent.poll());
    drop(first);
    assert_pending!(second.poll());
    assert_ready!(urgent.poll()).unwrap();
}

#[tokio::test]
async fn the_real_cost_can_be_set_through_the_answer() {
    let layer = one_slot().with_cost(|_| 100);
    let service = layer.layer(service_fn(async |request: Request<()>| {
        assert!(request.extensions().get::<Meter>().is_some());
        Ok::<_, BoxError>(Response::new(Full::<Bytes>::from("text")))
    }));
    let answer = service.oneshot(Request::default()).await.unwrap();
    answer.extensions().get::<Meter>().unwrap().set(7);
}

#[tokio::test(start_paused = true)]
async fn an_arrival_is_set_once() {
    let first = Arrival::stamp(Request::new(()));
    let arrival = Arrival::of(first.extensions()).unwrap();
    tokio::time::advance(secs(1)).await;
    let again = Arrival::stamp(first);
    assert_eq!(Arrival::of(again.extensions()), Some(arrival));
}

#[test]
fn debug_shows_the_state() {
    let layer = one_slot().with_class(|_| "a").with_max_waiting(3);
    assert_eq!(
        format!("{layer:?}"),
        "QueueLayer { slots: SlotPool { slots: 1, in_use: 0, .. }, waiting: 0, .. }"
    );
}

#[test]
fn it_can_be_boxed() {
    let layer = one_slot().with_key(|_: &Parts| String::new());
    let _ = tower::util::BoxCloneSyncService::new(layer.layer(text()));
}

#[tokio::test]
async fn a_broken_inner_service_holds_no_slot() {
    let layer = one_slot();
    let (mut service, mut inner) =
        mock::spawn_with(|mock: mock::Mock<Request<()>, Answer>| layer.layer(mock));
    inner.send_error("broken");
    let mut answer = task::spawn(service.call(Request::default()));
    assert_ready!(answer.poll()).unwrap_err();
    assert_eq!(layer.queue().dispatch().in_use(), 0);
}
