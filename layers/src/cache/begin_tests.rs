//! What others can do while the leader of an exchange calls the inner service.

#![allow(clippy::unwrap_used)]

use std::future::Ready;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use http::{Request, Response};
use http_body_util::{BodyExt, Empty, Full};
use tokio_test::task::spawn;
use tower::{Layer, Service, ServiceBuilder, ServiceExt};

use super::*;
use crate::body::ReplayBody;
use crate::endpoint::EndpointLayer;
use crate::{BoxError, EndpointTable};

type Sent = ReplayBody<Empty<Bytes>>;

/// More than any step takes.
const LIMIT: Duration = Duration::from_secs(10);

fn embed(input: &str) -> Request<Sent> {
    let body = format!(r#"{{"model":"tiny","input":"{input}"}}"#);
    Request::post("/api/embed")
        .body(Sent::from(Bytes::from(body)))
        .unwrap()
}

/// A service whose `call` does this.
#[derive(Clone)]
struct Inner<F>(F);

impl<F: Fn()> Service<Request<Sent>> for Inner<F> {
    type Response = Response<Full<Bytes>>;
    type Error = BoxError;
    type Future = Ready<Result<Self::Response, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<Sent>) -> Self::Future {
        (self.0)();
        std::future::ready(Ok(Response::new(Full::from("{\"embeddings\":[]}"))))
    }
}

fn cache() -> CacheLayer {
    CacheLayer::new(1 << 20, |_| Some(Arc::from("v1")))
}

/// A service behind this cache.
fn behind<F: Fn() + Clone>(
    cache: &CacheLayer,
    call: F,
) -> impl Service<
    Request<Sent>,
    Response = Response<CacheBody<Full<Bytes>>>,
    Error = BoxError,
    Future: Send + 'static,
> + Clone
+ use<F> {
    let layers = ServiceBuilder::new()
        .layer(EndpointLayer::new(EndpointTable::ollama()))
        .layer(cache.clone());
    layers.into_inner().layer(Inner(call))
}

/// Tells that it was called, and waits for the word.
fn held() -> (impl Fn() + Clone + Send + 'static, Receiver<()>, Sender<()>) {
    let (called, is_called) = channel();
    let (word, awaited) = channel();
    let awaited = Arc::new(std::sync::Mutex::new(awaited));
    let call = move || {
        called.send(()).unwrap();
        awaited.lock().unwrap().recv_timeout(LIMIT).unwrap();
    };
    (call, is_called, word)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_call_of_the_inner_service_does_not_hold_up_other_requests() {
    let cache = cache();
    let (call, is_called, word) = held();
    let slow = tokio::spawn(behind(&cache, call).oneshot(embed("a")));
    tokio::task::block_in_place(|| is_called.recv_timeout(LIMIT)).unwrap();
    let other = tokio::spawn(behind(&cache, || ()).oneshot(embed("b")));
    let other = tokio::time::timeout(LIMIT / 2, other).await;
    word.send(()).unwrap();
    assert!(other.expect("not held up").unwrap().is_ok());
    assert!(slow.await.unwrap().is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_joined_an_exchange_fail_if_it_could_not_begin() {
    let cache = cache();
    let (call, is_called, word) = held();
    let call = move || {
        call();
        panic!("as a layer further in could");
    };
    let leader = behind(&cache, call);
    let leader = async move { leader.oneshot(embed("a")).await.map(drop) };
    let leader = tokio::spawn(AssertUnwindSafe(leader).catch_unwind());
    tokio::task::block_in_place(|| is_called.recv_timeout(LIMIT)).unwrap();
    let mut follower = spawn(behind(&cache, || ()).oneshot(embed("a")));
    assert!(follower.poll().is_pending(), "it has joined");
    word.send(()).unwrap();
    assert!(leader.await.unwrap().is_err(), "the panic");
    let failed = tokio::time::timeout(LIMIT, follower).await.unwrap();
    assert!(
        failed
            .unwrap_err()
            .to_string()
            .contains("could not be sent")
    );

    let again = behind(&cache, || ()).oneshot(embed("a")).await.unwrap();
    let body = again.into_body().collect().await.unwrap();
    assert_eq!(body.to_bytes(), "{\"embeddings\":[]}");
}
