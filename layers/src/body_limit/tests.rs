#![allow(clippy::unwrap_used)]

use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{Method, Request, StatusCode};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tower::{Layer, ServiceExt, service_fn};

use super::*;
use crate::body::{MemoryBudget, ReplayBody};
use crate::{BoxError, EndpointTable, Failure, Side};

/// The body that the inner service receives, as one text; or the failure.
async fn send<B>(layer: &BodyLimitLayer, body: B) -> Result<String, BoxError>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    let inner = service_fn(async |request: Request<ReplayBody<B>>| {
        let bytes = request.into_body().collect().await?.to_bytes();
        Ok::<_, BoxError>(String::from_utf8(bytes.to_vec()).unwrap())
    });
    layer.layer(inner).oneshot(Request::new(body)).await
}

/// The pieces of the body that the inner service receives.
async fn pieces_of<B>(layer: &BodyLimitLayer, body: B) -> Vec<Bytes>
where
    B: Body<Data = Bytes, Error = BoxError>,
{
    let inner = service_fn(async |request: Request<ReplayBody<B>>| {
        Ok::<_, BoxError>(request.into_body().segments().unwrap().to_vec())
    });
    layer
        .layer(inner)
        .oneshot(Request::new(body))
        .await
        .unwrap()
}

fn chunks<'a>(
    chunks: impl IntoIterator<Item = &'static str, IntoIter: 'a>,
) -> StreamBody<impl stream::Stream<Item = Result<Frame<Bytes>, BoxError>> + Unpin> {
    let frames = chunks
        .into_iter()
        .map(|chunk| Ok(Frame::data(Bytes::from(chunk))));
    StreamBody::new(stream::iter(frames))
}

/// A body that records whether it was polled for a frame.
struct CountsPolls(u64, Arc<AtomicUsize>);

impl Body for CountsPolls {
    type Data = Bytes;
    type Error = BoxError;
    fn poll_frame(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        self.1.fetch_add(1, Ordering::Relaxed);
        std::task::Poll::Pending
    }
    fn size_hint(&self) -> http_body::SizeHint {
        http_body::SizeHint::with_exact(self.0)
    }
}

/// A body that declares this length.
struct Declares<B>(u64, B);

impl<B: Body<Data = Bytes, Error = BoxError> + Unpin> Body for Declares<B> {
    type Data = Bytes;
    type Error = BoxError;
    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        std::pin::Pin::new(&mut self.1).poll_frame(cx)
    }
    fn size_hint(&self) -> http_body::SizeHint {
        http_body::SizeHint::with_exact(self.0)
    }
}

fn limited(limit: u64, budget: &MemoryBudget) -> BodyLimitLayer {
    BodyLimitLayer::new(budget.clone()).with_rule(move |_| BodyRule::Buffer { limit })
}

fn failure(result: Result<String, BoxError>) -> (StatusCode, &'static str, Side) {
    let error = result.unwrap_err();
    let failure = Failure::find(&*error).unwrap();
    (failure.status(), failure.kind(), failure.side())
}

const TOO_LARGE: (StatusCode, &str, Side) = (
    StatusCode::PAYLOAD_TOO_LARGE,
    "body_too_large",
    Side::Client,
);
const EXHAUSTED: (StatusCode, &str, Side) = (
    StatusCode::SERVICE_UNAVAILABLE,
    "body_memory_exhausted",
    Side::Gateway,
);
const TOO_SLOW: (StatusCode, &str, Side) = (
    StatusCode::REQUEST_TIMEOUT,
    "body_read_timeout",
    Side::Client,
);

#[tokio::test]
async fn a_body_arrives_unchanged_and_its_memory_is_released() {
    let budget = MemoryBudget::new(1 << 20);
    let layer = limited(1 << 20, &budget);
    let text = "x".repeat(5000);
    assert_eq!(
        send(&layer, Full::new(Bytes::from(text.clone())))
            .await
            .unwrap(),
        text
    );
    assert_eq!(send(&layer, chunks(["ab", "", "c"])).await.unwrap(), "abc");
    assert_eq!(send(&layer, Empty::new()).await.unwrap(), "");
    assert_eq!(budget.available(), 1 << 20);
}

#[tokio::test]
async fn memory_is_held_until_the_body_is_dropped() {
    let budget = MemoryBudget::new(1 << 20);
    let inner = service_fn(async |request: Request<ReplayBody<_>>| Ok::<_, BoxError>(request));
    let request = Request::new(chunks(["abc", "defg"]));
    let held = limited(1 << 20, &budget)
        .layer(inner)
        .oneshot(request)
        .await
        .unwrap();
    assert_eq!(budget.available(), (1 << 20) - 7);
    drop(held);
    assert_eq!(budget.available(), 1 << 20);
}

#[tokio::test]
async fn a_declared_length_over_the_limit_is_refused_unread() {
    let budget = MemoryBudget::new(100);
    let polls = Arc::new(AtomicUsize::new(0));
    let body = CountsPolls(11, polls.clone());
    assert_eq!(failure(send(&limited(10, &budget), body).await), TOO_LARGE);
    assert_eq!(polls.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_declared_length_beyond_the_free_budget_is_refused_unread() {
    let budget = MemoryBudget::new(100);
    let _held = budget.try_reserve(95).unwrap();
    let polls = Arc::new(AtomicUsize::new(0));
    let result = send(&limited(10, &budget), CountsPolls(6, polls.clone())).await;
    assert_eq!(failure(result), EXHAUSTED);
    assert_eq!((polls.load(Ordering::Relaxed), budget.available()), (0, 5));
}

/// A body of this declared length, of which a part arrives for each number of bytes that is sent.
fn fed(
    declared: u64,
) -> (
    UnboundedSender<usize>,
    Declares<impl Body<Data = Bytes, Error = BoxError> + Unpin>,
) {
    let (feed, parts) = unbounded_channel();
    let parts = stream::unfold(parts, async |mut parts| {
        let part: usize = parts.recv().await?;
        let frame = Frame::data(Bytes::from(vec![b'x'; part]));
        Some((Ok::<_, BoxError>(frame), parts))
    });
    (feed, Declares(declared, StreamBody::new(Box::pin(parts))))
}

/// How a body of this declared length is answered that arrives at once.
async fn whole(layer: &BodyLimitLayer, len: usize) -> Result<usize, BoxError> {
    let body = Full::new(Bytes::from(vec![b'x'; len]));
    send(layer, body).await.map(|text| text.len())
}

#[tokio::test]
async fn of_two_bodies_that_exceed_the_budget_together_one_is_refused_unread_and_one_completes() {
    let budget = MemoryBudget::new(1 << 20);
    let layer = limited(1 << 20, &budget);
    let (feed, body) = fed(500 << 10);
    let mut first = tokio_test::task::spawn(send(&layer, body));
    feed.send(100 << 10).unwrap();
    tokio_test::assert_pending!(first.poll());

    let polls = Arc::new(AtomicUsize::new(0));
    let second = send(&layer, CountsPolls(700 << 10, polls.clone())).await;
    assert_eq!(failure(second), EXHAUSTED);
    assert_eq!(polls.load(Ordering::Relaxed), 0);
    let long = vec!["x"; 600 << 10];
    assert_eq!(
        failure(send(&layer, chunks(long)).await),
        EXHAUSTED,
        "a body without a length takes nothing of it either"
    );

    feed.send(400 << 10).unwrap();
    drop(feed);
    assert_eq!(first.await.unwrap().len(), 500 << 10);
    assert_eq!(whole(&layer, 700 << 10).await.unwrap(), 700 << 10);
}

#[tokio::test(start_paused = true)]
async fn a_declared_length_whose_body_does_not_arrive_takes_no_memory_from_others_for_long() {
    for trickles in [false, true] {
        let budget = MemoryBudget::new(1 << 20);
        let layer = limited(1 << 20, &budget);
        let (feed, body) = fed(512 << 10);
        let mut silent = tokio_test::task::spawn(send(&layer, body));
        for second in 0..6 {
            tokio_test::assert_pending!(silent.poll());
            let other = whole(&layer, 900 << 10).await;
            match second {
                5 => assert_eq!(other.unwrap(), 900 << 10, "{trickles}"),
                _ => assert_eq!(failure(other.map(|_| String::new())), EXHAUSTED),
            }
            tokio::time::advance(Duration::from_secs(1)).await;
            if trickles {
                feed.send(5 << 10).unwrap();
            }
        }
        // It can be completed, as there is room for it.
        let rest = if trickles { 30 << 10 } else { 0 };
        feed.send((512 << 10) - rest).unwrap();
        drop(feed);
        assert_eq!(silent.await.unwrap().len(), 512 << 10);
        assert_eq!(budget.available(), 1 << 20);
    }
}

#[tokio::test(start_paused = true)]
async fn a_silent_client_loses_the_memory_of_its_declared_length_without_sending() {
    let budget = MemoryBudget::new(1 << 20);
    let layer = limited(1 << 20, &budget);
    let began = tokio::time::Instant::now();
    let silent = send(&layer, CountsPolls(512 << 10, Arc::default()));
    let released = async {
        loop {
            tokio::time::sleep(Duration::from_millis(100)).await;
            if budget.available() > 512 << 10 {
                assert!(budget.promise(512 << 10).is_some(), "no promise is left");
                return (began.elapsed().as_secs(), budget.available());
            }
        }
    };
    let (silent, released) = tokio::join!(silent, released);
    assert_eq!(released, (5, (1 << 20) - (64 << 10)));
    assert_eq!(failure(silent), TOO_SLOW);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_keeps_its_pace_keeps_the_memory_of_its_declared_length() {
    let budget = MemoryBudget::new(2 << 20);
    let layer = limited(1 << 20, &budget);
    let (feed, body) = fed(1 << 20);
    let mut steady = tokio_test::task::spawn(send(&layer, body));
    for _ in 0..16 {
        tokio_test::assert_pending!(steady.poll());
        assert_eq!(budget.available(), 1 << 20);
        feed.send(64 << 10).unwrap();
        tokio::time::advance(Duration::from_secs(3)).await;
    }
    drop(feed);
    assert_eq!(steady.await.unwrap().len(), 1 << 20);
}

#[tokio::test]
async fn lengths_that_are_only_declared_take_at_most_half_of_the_budget() {
    let budget = MemoryBudget::new(1 << 20);
    let layer = limited(1 << 20, &budget);
    let silent = |length: u64| {
        let (feed, body) = fed(length);
        let mut reading = tokio_test::task::spawn(send(&layer, body));
        tokio_test::assert_pending!(reading.poll());
        (feed, reading)
    };
    let mut all: Vec<_> = (0..100).map(|_| silent(100 << 10)).collect();
    all.push(silent(500 << 10));
    assert_eq!(budget.available(), 524 << 10);
    assert_eq!(whole(&layer, 500 << 10).await.unwrap(), 500 << 10);

    // What has arrived is no longer promised, so that the next length can be.
    let (feed, first) = &mut all[0];
    feed.send(60 << 10).unwrap();
    tokio_test::assert_pending!(first.poll());
    assert_eq!(budget.available(), 524 << 10);
    all.push(silent(60 << 10));
    assert_eq!(budget.available(), 464 << 10);
    // The rest of a length that was not promised is, once there is room.
    let (late_feed, mut late) = all.remove(50);
    late_feed.send(1 << 10).unwrap();
    tokio_test::assert_pending!(late.poll());
    let not_promised = budget.available();
    assert_eq!(not_promised, 400 << 10, "it has its first step");
    drop(all.drain(..2));
    late_feed.send(1 << 10).unwrap();
    tokio_test::assert_pending!(late.poll());
    assert_eq!(budget.available(), 564 << 10, "200 KiB less, 36 KiB more");
    drop((all, late_feed, late));
    assert_eq!(budget.available(), 1 << 20);
    let (_feed, _reading) = silent(512 << 10);
    assert_eq!(budget.available(), 512 << 10, "all promises have ended");
}

#[tokio::test]
async fn a_declared_length_is_never_exceeded_by_the_reservation() {
    let budget = MemoryBudget::new(1 << 20);
    let layer = limited(1 << 20, &budget);
    let frames = [30 << 10, 40 << 10].map(|len| Frame::data(Bytes::from(vec![b'x'; len])));
    let rest = stream::pending();
    let frames = stream::iter(frames.map(Ok::<_, BoxError>)).chain(rest);
    let body = Declares(70 << 10, StreamBody::new(frames));
    let mut reading = tokio_test::task::spawn(send(&layer, body));
    tokio_test::assert_pending!(reading.poll());
    assert_eq!(budget.available(), (1 << 20) - (70 << 10));
}

#[tokio::test]
async fn a_body_beyond_the_whole_budget_is_too_large() {
    let budget = MemoryBudget::new(5);
    let result = send(&limited(10, &budget), Full::from("sixsix")).await;
    assert_eq!(failure(result), TOO_LARGE);
}

#[tokio::test]
async fn a_chunked_body_is_refused_when_it_exceeds_the_limit() {
    let budget = MemoryBudget::new(1 << 20);
    let layer = limited(6, &budget);
    assert_eq!(
        send(&layer, chunks(["abc", "def"])).await.unwrap(),
        "abcdef"
    );
    assert_eq!(
        failure(send(&layer, chunks(["abc", "defg"])).await),
        TOO_LARGE
    );
    // It is refused before its end.
    let endless = chunks(std::iter::repeat("abc"));
    assert_eq!(failure(send(&layer, endless).await), TOO_LARGE);
    assert_eq!(budget.available(), 1 << 20);
}

#[tokio::test]
async fn a_chunked_body_beyond_the_free_budget_is_refused() {
    let budget = MemoryBudget::new(100);
    let layer = limited(100, &budget);
    let held = budget.try_reserve(95).unwrap();
    assert_eq!(send(&layer, chunks(["abc", "de"])).await.unwrap(), "abcde");
    assert_eq!(
        failure(send(&layer, chunks(["abc", "def"])).await),
        EXHAUSTED
    );
    drop(held);
    assert_eq!(
        send(&layer, chunks(["abc", "def"])).await.unwrap(),
        "abcdef"
    );
}

#[tokio::test]
async fn tiny_chunks_are_joined_and_large_ones_are_kept() {
    let budget = MemoryBudget::new(1 << 20);
    let layer = limited(1 << 20, &budget);
    let body = chunks(std::iter::repeat_n("x", 200_000));
    let pieces = pieces_of(&layer, body).await;
    assert!(pieces.len() <= 4, "{}", pieces.len());

    static BIG: [u8; 4096] = [b'x'; 4096];
    let big = std::str::from_utf8(&BIG).unwrap();
    let pieces = pieces_of(&layer, chunks(["ab", "cd", big, "ef", big, big, "gh"])).await;
    assert_eq!(pieces.len(), 6);
    assert_eq!(pieces[0], "abcd");
    assert_eq!(pieces[1].as_ptr(), BIG.as_ptr());
    assert_eq!(pieces.concat().len(), 3 * 4096 + 8);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_stops_sending_times_out_and_its_memory_is_released() {
    let budget = MemoryBudget::new(100);
    let body = StreamBody::new(stream::unfold(0, async |n| {
        if n == 2 {
            pending::<()>().await;
        }
        tokio::time::sleep(Duration::from_secs(9)).await;
        Some((Ok::<_, BoxError>(Frame::data(Bytes::from("x"))), n + 1))
    }));
    let began = tokio::time::Instant::now();
    let layer = limited(100, &budget)
        .with_read_timeout(Duration::from_secs(10))
        .with_min_rate(0);
    assert_eq!(failure(send(&layer, Box::pin(body)).await), TOO_SLOW);
    // Two pauses of nine seconds were allowed; the third reached ten.
    assert_eq!(began.elapsed().as_secs(), 9 + 9 + 10);
    assert_eq!(budget.available(), 100);
}

#[tokio::test(start_paused = true)]
async fn a_client_below_the_minimum_rate_times_out() {
    let budget = MemoryBudget::new(1 << 20);
    let drip = || {
        Box::pin(StreamBody::new(stream::unfold(0, async |n| {
            tokio::time::sleep(Duration::from_secs(1)).await;
            (n < 1000).then(|| (Ok::<_, BoxError>(Frame::data(Bytes::from("x"))), n + 1))
        })))
    };
    let layer = limited(1 << 20, &budget).with_read_timeout(Duration::from_secs(30));
    let began = tokio::time::Instant::now();
    assert_eq!(failure(send(&layer, drip()).await), TOO_SLOW);
    assert!((30..32).contains(&began.elapsed().as_secs()));

    let patient = layer.with_read_timeout(Duration::MAX).with_min_rate(0);
    assert_eq!(send(&patient, drip()).await.unwrap().len(), 1000);
}

#[cfg(feature = "outcome")]
#[tokio::test(start_paused = true)]
async fn the_time_in_which_the_body_was_waited_for_is_in_the_record() {
    use crate::{Outcome, Record};
    let layer = limited(1 << 20, &MemoryBudget::new(1 << 20));
    let seconds = Duration::from_secs;
    for pauses in [&[0, 0][..], &[0, 3, 4], &[2]] {
        let frames = stream::iter(pauses).then(async |pause| {
            if *pause > 0 {
                tokio::time::sleep(seconds(*pause)).await;
            }
            Ok::<_, BoxError>(Frame::data(Bytes::from("x")))
        });
        let mut request = Request::new(Box::pin(StreamBody::new(frames)));
        let record = Record::new(Outcome::starting(tokio::time::Instant::now()));
        record.clone().put_into(request.extensions_mut());
        let inner = service_fn(async |_: Request<ReplayBody<_>>| {
            // The backend's time does not count.
            tokio::time::sleep(seconds(60)).await;
            Ok::<_, BoxError>(())
        });
        layer.layer(inner).oneshot(request).await.unwrap();
        let waited = seconds(pauses.iter().sum());
        assert_eq!(record.snapshot().waited, waited, "{pauses:?}");
    }
}

#[tokio::test]
async fn a_client_that_disconnects_is_a_failure_on_the_client_side() {
    let budget = MemoryBudget::new(100);
    let frames = stream::iter([Ok(Frame::data(Bytes::from("ab"))), Err("connection reset")]);
    let result = send(&limited(10, &budget), StreamBody::new(frames)).await;
    assert_eq!(
        failure(result),
        (StatusCode::BAD_REQUEST, "client_body_failed", Side::Client)
    );
    assert_eq!(budget.available(), 100);
}

#[tokio::test]
async fn a_streamed_body_is_forwarded_unread_and_takes_no_memory() {
    let budget = MemoryBudget::new(1);
    let layer = BodyLimitLayer::new(budget).with_rule(|_| BodyRule::Stream);
    let inner = service_fn(async |request: Request<ReplayBody<_>>| {
        Ok::<_, BoxError>(request.body().segments().is_none())
    });
    let polls = Arc::new(AtomicUsize::new(0));
    let body = CountsPolls(1 << 40, polls.clone());
    assert!(
        layer
            .layer(inner)
            .oneshot(Request::new(body))
            .await
            .unwrap()
    );
    assert_eq!(polls.load(Ordering::Relaxed), 0);
}

/// A service that counts calls of `poll_ready`.
#[derive(Clone)]
struct CountsReadiness(Arc<AtomicUsize>);

impl<B> tower::Service<Request<B>> for CountsReadiness {
    type Response = ();
    type Error = BoxError;
    type Future = std::future::Ready<Result<(), BoxError>>;
    fn poll_ready(
        &mut self,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Result<(), BoxError>> {
        self.0.fetch_add(1, Ordering::Relaxed);
        std::task::Poll::Ready(Ok(()))
    }
    fn call(&mut self, _: Request<B>) -> Self::Future {
        std::future::ready(Ok(()))
    }
}

#[tokio::test]
async fn the_inner_service_is_polled_for_readiness_after_the_body_has_arrived() {
    let asked = Arc::new(AtomicUsize::new(0));
    let service = limited(10, &MemoryBudget::new(100)).layer(CountsReadiness(asked.clone()));
    let endless = Request::new(CountsPolls(5, Arc::default()));
    let mut slow = tokio_test::task::spawn(service.clone().oneshot(endless));
    tokio_test::assert_pending!(slow.poll());
    assert_eq!(asked.load(Ordering::Relaxed), 0);
    service
        .oneshot(Request::new(Full::from("x")))
        .await
        .unwrap();
    assert_eq!(asked.load(Ordering::Relaxed), 1);
}

#[test]
fn limits_follow_the_route() {
    let table = EndpointTable::ollama();
    let rule = |method: Method, path: &str| {
        let mut request = Request::new(());
        let route = table.look_up(&method, path);
        route.put_into(request.extensions_mut());
        RouteLimits::default().rule(&request.into_parts().0)
    };
    let buffer = |mebibytes: u64| BodyRule::Buffer {
        limit: mebibytes << 20,
    };
    for path in [
        "/api/chat",
        "/api/embed",
        "/v1/messages",
        "/v1/audio/transcriptions",
    ] {
        assert_eq!(rule(Method::POST, path), buffer(128), "{path}");
    }
    assert_eq!(rule(Method::POST, "/api/create"), buffer(16));
    assert_eq!(rule(Method::DELETE, "/api/delete"), buffer(16));
    assert_eq!(rule(Method::POST, "/api/show"), buffer(1));
    assert_eq!(rule(Method::POST, "/nowhere"), buffer(1));
    assert_eq!(rule(Method::POST, "/api/blobs/sha256:0"), BodyRule::Stream);
}
