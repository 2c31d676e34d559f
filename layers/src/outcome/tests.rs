#![allow(clippy::unwrap_used)]

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Mutex;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Empty, Full};
use proptest::prelude::*;
use tokio::time::{Instant, sleep};
use tower::{Layer, ServiceExt, service_fn};

use super::*;

#[derive(Default)]
struct Log {
    started: Mutex<usize>,
    finished: Mutex<Vec<Outcome>>,
}

impl Observer for Log {
    fn started(&self, _: &Outcome) {
        *self.started.lock().unwrap() += 1;
    }
    fn finished(&self, outcome: &Outcome) {
        self.finished.lock().unwrap().push(outcome.clone());
    }
}

impl Log {
    fn only(&self) -> Outcome {
        let finished = self.finished.lock().unwrap();
        assert_eq!(finished.len(), 1, "one ending for each request");
        finished[0].clone()
    }
    fn is_silent(&self) -> bool {
        self.finished.lock().unwrap().is_empty()
    }
}

fn get() -> Request<Empty<Bytes>> {
    Request::new(Empty::new())
}

/// The result of one poll of a scripted body.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Step {
    Pending,
    Data,
    Trailers,
    Error,
    End,
}

#[derive(Debug)]
struct Script {
    steps: VecDeque<Step>,
    /// `is_end_stream` is true when only this many steps are left.
    knows_its_end_at: Option<usize>,
}

impl Body for Script {
    type Data = Bytes;
    type Error = &'static str;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, &'static str>>> {
        match self.steps.pop_front() {
            Some(Step::Pending) => Poll::Pending,
            Some(Step::Data) => Poll::Ready(Some(Ok(Frame::data(Bytes::from("x"))))),
            Some(Step::Trailers) => Poll::Ready(Some(Ok(Frame::trailers(HeaderMap::new())))),
            Some(Step::Error) => Poll::Ready(Some(Err("broken pipe"))),
            Some(Step::End) | None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.knows_its_end_at == Some(self.steps.len())
    }
}

/// The rule for the end, in a second implementation: reads the script up to `polls`.
fn expected(script: &Script, polls: usize, break_at: Option<usize>) -> Ending {
    let mut ending = Ending::Cancelled;
    if script.is_end_stream() {
        ending = Ending::Complete;
    }
    for poll in 0..polls {
        if ending != Ending::Cancelled {
            break;
        }
        if break_at == Some(poll) {
            return Ending::Broken;
        }
        let left = script.steps.len().saturating_sub(poll + 1);
        match script.steps.get(poll) {
            Some(Step::Pending) => {}
            Some(Step::Data) if script.knows_its_end_at != Some(left) => {}
            Some(Step::Error) => ending = Ending::Broken,
            Some(Step::Data | Step::Trailers | Step::End) | None => ending = Ending::Complete,
        }
    }
    ending
}

fn a_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => Just(Step::Data),
        2 => Just(Step::Pending),
        1 => Just(Step::Trailers),
        1 => Just(Step::Error),
        1 => Just(Step::End),
    ]
}

proptest! {
    #[test]
    fn a_record_is_completed_exactly_once_whatever_the_body_does(
        steps in proptest::collection::vec(a_step(), 0..12),
        knows_its_end_at in proptest::option::of(0usize..12),
        polls in 0usize..16,
        break_at in proptest::option::of(0usize..16),
    ) {
        let script = Script { steps: steps.into(), knows_its_end_at };
        let expected = expected(&script, polls, break_at);

        let log = Arc::new(Log::default());
        let record = Arc::new(Mutex::new(None));
        let seen = record.clone();
        let mut script = Some(script);
        let mut service = OutcomeLayer::new(log.clone()).layer(service_fn(
            move |request: Request<Empty<Bytes>>| {
                *seen.lock().unwrap() = Record::of(request.extensions()).cloned();
                let answer = Response::new(script.take().unwrap());
                std::future::ready(Ok::<_, Infallible>(answer))
            },
        ));
        let mut cx = Context::from_waker(Waker::noop());
        let mut call = Box::pin(tower_service::Service::call(&mut service, get()));
        let Poll::Ready(answer) = Future::poll(call.as_mut(), &mut cx) else {
            panic!("the service answers at once");
        };
        let mut body = answer.unwrap().into_body();
        let record: Record = record.lock().unwrap().clone().unwrap();
        for poll in 0..polls {
            if break_at == Some(poll) {
                record.update(|outcome| outcome.ending = Ending::Broken);
            }
            let _ = Pin::new(&mut body).poll_frame(&mut cx);
        }
        drop(body);
        prop_assert_eq!(*log.started.lock().unwrap(), 1);
        prop_assert_eq!(log.only().ending, expected);
    }
}

#[tokio::test(start_paused = true)]
async fn the_time_to_the_first_byte_ends_at_the_head_and_the_duration_at_the_end() {
    let log = Arc::new(Log::default());
    let service = OutcomeLayer::new(log.clone()).layer(service_fn(|_| async {
        sleep(Duration::from_millis(30)).await;
        Ok::<_, Infallible>(Response::new(Full::new(Bytes::from("text"))))
    }));
    let answer = service.oneshot(get()).await.unwrap();
    sleep(Duration::from_millis(70)).await;
    assert!(log.is_silent());
    answer.into_body().collect().await.unwrap();
    let outcome = log.only();
    assert_eq!(outcome.time_to_first_byte, Some(Duration::from_millis(30)));
    assert_eq!(outcome.duration, Some(Duration::from_millis(100)));
    assert_eq!(outcome.status, Some(StatusCode::OK));
    assert_eq!(outcome.ending, Ending::Complete);
}

#[tokio::test]
async fn a_client_that_leaves_before_the_head_is_a_cancellation() {
    let log = Arc::new(Log::default());
    let service = OutcomeLayer::new(log.clone()).layer(service_fn(|_| {
        std::future::pending::<Result<Response<Empty<Bytes>>, Infallible>>()
    }));
    let mut call = tokio_test::task::spawn(service.oneshot(get()));
    assert!(call.poll().is_pending());
    assert!(log.is_silent());
    drop(call);
    assert_eq!(log.only().ending, Ending::Cancelled);
    assert_eq!(log.only().status, None);
}

#[tokio::test]
async fn an_error_instead_of_an_answer_is_broken() {
    let log = Arc::new(Log::default());
    let service = OutcomeLayer::new(log.clone()).layer(service_fn(|_| async {
        Err::<Response<Empty<Bytes>>, _>("no answer")
    }));
    assert!(service.oneshot(get()).await.is_err());
    assert_eq!(log.only().ending, Ending::Broken);
}

#[tokio::test]
async fn the_answer_to_head_is_complete_without_reading_its_body() {
    let log = Arc::new(Log::default());
    let service = OutcomeLayer::new(log.clone()).layer(service_fn(|_| async {
        Ok::<_, Infallible>(Response::new(Full::new(Bytes::from("text"))))
    }));
    let mut request = get();
    *request.method_mut() = Method::HEAD;
    drop(service.oneshot(request).await.unwrap());
    assert_eq!(log.only().ending, Ending::Complete);
}

async fn answer_of_length(length: &'static str, chunks: usize) -> Ending {
    let log = Arc::new(Log::default());
    let service = OutcomeLayer::new(log.clone()).layer(service_fn(move |_| async move {
        let body = Script {
            steps: vec![Step::Data; chunks].into(),
            knows_its_end_at: None,
        };
        let answer = Response::builder().header("content-length", length);
        Ok::<_, Infallible>(answer.body(body).unwrap())
    }));
    let mut body = service.oneshot(get()).await.unwrap().into_body();
    for _ in 0..3 {
        let _ = body.frame().await;
    }
    drop(body);
    log.only().ending
}

#[tokio::test]
async fn the_last_byte_of_a_known_length_is_the_end() {
    assert_eq!(answer_of_length("3", 5).await, Ending::Complete);
    assert_eq!(answer_of_length("4", 5).await, Ending::Cancelled);
}

#[tokio::test]
async fn fewer_bytes_than_declared_are_broken() {
    assert_eq!(answer_of_length("4", 2).await, Ending::Broken);
}

#[tokio::test]
async fn a_kept_record_does_not_keep_the_extensions_of_the_outcome() {
    let log = Arc::new(());
    let hung = log.clone();
    let kept = Arc::new(Mutex::new(None));
    let keep = kept.clone();
    let service = OutcomeLayer::new(Arc::new(Log::default())).layer(service_fn(move |request| {
        let request: Request<Empty<Bytes>> = request;
        let record = Record::of(request.extensions()).cloned().unwrap();
        record.update(|outcome| outcome.extensions.insert(hung.clone()));
        *keep.lock().unwrap() = Some(record);
        std::future::ready(Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new())))
    }));
    let _answer = service.oneshot(get()).await.unwrap();
    let record: Record = kept.lock().unwrap().take().unwrap();
    assert!(record.snapshot().extensions.get::<Arc<()>>().is_none());
    assert_eq!(record.snapshot().ending, Ending::Complete);
    drop(log);
}

/// A part of a buffer, as a server's parser gives it to a request.
struct Buffer(Arc<[u8]>);

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

#[tokio::test]
async fn the_record_of_a_stream_does_not_keep_the_memory_of_the_head() {
    let buffer: Arc<[u8]> = Arc::from(*b"/api/chat?a=b 17");
    let head = Bytes::from_owner(Buffer(buffer.clone()));
    let mut request = get();
    *request.uri_mut() = Uri::from_maybe_shared(head.slice(..13)).unwrap();
    let id = HeaderValue::from_maybe_shared(head.slice(14..)).unwrap();
    request.headers_mut().insert("x-request-id", id);
    drop(head);
    let log = Arc::new(Log::default());
    let service = OutcomeLayer::new(log.clone()).layer(service_fn(|_| async {
        let body = Script {
            steps: [Step::Data].into(),
            knows_its_end_at: None,
        };
        Ok::<_, Infallible>(Response::new(body))
    }));
    let answer = service.oneshot(request).await.unwrap();
    assert_eq!(Arc::strong_count(&buffer), 1, "only the test has it");
    drop(answer);
    assert_eq!(log.only().uri, "/api/chat?a=b");
    assert_eq!(log.only().request_id(), Some("17"));
}

#[tokio::test(start_paused = true)]
async fn the_times_of_attempts_add_up() {
    let started = Instant::now();
    let at = |seconds| started + Duration::from_secs(seconds);
    let mut outcome = Outcome::starting(started);
    outcome.attempted(at(1), at(3));
    outcome.attempted(at(4), at(9));
    assert_eq!(outcome.first_sent, Some(at(1)));
    assert_eq!(outcome.last_answered, Some(at(9)));
    assert_eq!(outcome.waited, Duration::from_secs(2 + 5));
}

#[tokio::test(start_paused = true)]
async fn a_part_that_comes_after_the_head_is_time_of_the_attempt_and_without_one_nothing() {
    let started = Instant::now();
    let (second, part) = (Duration::from_secs(1), || sleep(Duration::from_secs(4)));
    let record = Record::new(Outcome::starting(started));
    Record::reading(Some(&record), part()).await;
    let own = record.snapshot();
    assert_eq!((own.first_sent, own.waited), (None, Duration::ZERO));
    let sent = Instant::now();
    sleep(second).await;
    record.update(|outcome| outcome.attempted(sent, Instant::now()));
    sleep(second).await;
    Record::reading(Some(&record), part()).await;
    let outcome = record.snapshot();
    assert_eq!(outcome.first_sent, Some(sent));
    assert_eq!(outcome.last_answered, Some(sent + 6 * second));
    assert_eq!(outcome.waited, 5 * second);
}
