#![allow(clippy::unwrap_used)]

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::num::NonZeroUsize;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Full, StreamBody};
use proptest::prelude::*;
use tokio::time::{Instant, advance};
use tokio_test::{assert_pending, assert_ready, task};
use tower::{Layer, ServiceExt, service_fn};
use tower_test::mock;

use super::controller::{Controller, Sample};
use super::*;
use crate::{BoxError, Fail, Failure, Side};

const TARGET: Duration = Duration::from_secs(5);

fn count(n: usize) -> NonZeroUsize {
    NonZeroUsize::new(n).unwrap()
}

fn ms(time: u64) -> Duration {
    Duration::from_millis(time)
}

/// Fills the limit and completes a round of responses whose first byte came after `after`.
fn round(controller: &mut Controller, now: &mut Instant, after: Duration) {
    *now += ms(1);
    let sent = *now;
    let mut samples = 0;
    while controller.try_admit().is_ok() {
        samples += 1;
    }
    *now += after;
    for _ in 0..samples.max(4) {
        controller.note(sent, Sample::FirstByte(after), *now);
    }
    for _ in 0..samples {
        controller.leave();
    }
}

#[test]
fn it_rises_by_one_while_answers_begin_in_time() {
    let (mut controller, mut now) = (Controller::new(TARGET), Instant::now());
    for limit in 4..20 {
        assert_eq!(controller.limit(), limit);
        round(&mut controller, &mut now, ms(900));
    }
}

#[test]
fn it_falls_by_a_tenth_when_answers_begin_late() {
    let (mut controller, mut now) = (Controller::new(TARGET), Instant::now());
    controller.set_limit(100);
    for limit in [90, 81, 72, 64, 57] {
        round(&mut controller, &mut now, ms(9000));
        assert_eq!(controller.limit(), limit);
    }
    for _ in 0..100 {
        round(&mut controller, &mut now, ms(9000));
    }
    assert_eq!(controller.limit(), 1, "the limit never falls to 0");
}

#[test]
fn a_single_long_prompt_or_model_load_is_no_overload() {
    for (late, limit) in [(1, 5), (2, 4), (3, 3)] {
        let (mut controller, now) = (Controller::new(TARGET), Instant::now());
        for at in 0..4 {
            controller.try_admit().unwrap();
            let after = if at < late { ms(60_000) } else { ms(800) };
            controller.note(now, Sample::FirstByte(after), now + after);
        }
        assert_eq!(controller.limit(), limit, "{late} of 4 were late");
    }
}

#[test]
fn it_does_not_rise_while_it_is_not_reached() {
    let (mut controller, mut now) = (Controller::new(TARGET), Instant::now());
    for _ in 0..50 {
        controller.try_admit().unwrap();
        now += ms(100);
        controller.note(now - ms(100), Sample::FirstByte(ms(100)), now);
        controller.leave();
    }
    assert_eq!(controller.limit(), 4);
}

#[test]
fn requests_sent_before_a_decrease_do_not_cause_the_next() {
    let (mut controller, now) = (Controller::new(TARGET), Instant::now());
    controller.set_limit(20);
    for _ in 0..20 {
        controller.try_admit().unwrap();
    }
    for _ in 0..20 {
        controller.note(now, Sample::Overloaded, now + ms(100));
    }
    assert_eq!(
        controller.limit(),
        18,
        "all requests were sent under the old limit"
    );
}

#[test]
fn a_request_cancelled_in_time_does_not_count() {
    let (mut controller, now) = (Controller::new(TARGET), Instant::now());
    controller.try_admit().unwrap();
    for _ in 0..40 {
        controller.note(now, Sample::Cancelled(ms(100)), now + ms(100));
    }
    assert_eq!(controller.limit(), 4);
    for _ in 0..4 {
        controller.note(now, Sample::Cancelled(ms(6000)), now + ms(6000));
    }
    assert_eq!(controller.limit(), 3);
}

const HOUR: u64 = 3_600_000;

/// A simulated server that works on `parallel` requests at a time and queues the others.
struct Server {
    parallel: usize,
    waiting: VecDeque<(u64, u64)>,
    busy: usize,
    /// The coming events: the time in milliseconds, and the event.
    events: BinaryHeap<Reverse<(u64, Event)>>,
    seed: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    FirstByte { sent: u64 },
    End,
    Arrival,
}

impl Server {
    fn random(&mut self, from: u64, to: u64) -> u64 {
        self.seed = self
            .seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        from + (self.seed >> 33) % (to - from)
    }

    fn start(&mut self, now: u64) {
        while self.busy < self.parallel
            && let Some((sent, prompt)) = self.waiting.pop_front()
        {
            self.busy += 1;
            let answer = self.random(2_000, 30_000);
            self.events
                .push(Reverse((now + prompt, Event::FirstByte { sent })));
            self.events
                .push(Reverse((now + prompt + answer, Event::End)));
        }
    }

    /// Sends a request every 300 ms to 700 ms for `hours` hours. Returns the mean limit and the
    /// share of responses in time for each hour.
    fn run(&mut self, controller: &mut Controller, epoch: Instant, hours: u64) -> Vec<(f64, f64)> {
        let at = |time: u64| epoch + ms(time);
        let mut hourly = Vec::new();
        let (mut limits, mut answers, mut prompt_answers) = ((0, 0), 0, 0);
        self.events.push(Reverse((0, Event::Arrival)));
        while let Some(Reverse((now, event))) = self.events.pop() {
            match event {
                Event::Arrival => {
                    if controller.try_admit().is_ok() {
                        // Some prompts are long.
                        let prompt = match self.random(0, 10) {
                            0 => self.random(4_000, 8_000),
                            _ => self.random(200, 2_000),
                        };
                        self.waiting.push_back((now, prompt));
                    }
                    limits = (limits.0 + controller.limit(), limits.1 + 1);
                    let next = now + self.random(300, 700);
                    self.events.push(Reverse((next, Event::Arrival)));
                }
                Event::FirstByte { sent } => {
                    let after = ms(now - sent);
                    answers += 1;
                    prompt_answers += u32::from(after <= 2 * TARGET);
                    controller.note(at(sent), Sample::FirstByte(after), at(now));
                }
                Event::End => {
                    self.busy -= 1;
                    controller.leave();
                }
            }
            self.start(now);
            if now >= (hourly.len() as u64 + 1) * HOUR {
                let share = f64::from(prompt_answers) / f64::from(answers);
                hourly.push((limits.0 as f64 / f64::from(limits.1), share));
                (limits, answers, prompt_answers) = ((0, 0), 0, 0);
                if hourly.len() as u64 == hours {
                    break;
                }
            }
        }
        hourly
    }
}

fn server(parallel: usize) -> Server {
    Server {
        parallel,
        waiting: VecDeque::new(),
        busy: 0,
        events: BinaryHeap::new(),
        seed: 1,
    }
}

#[test]
fn it_finds_the_capacity_of_a_server_and_keeps_it_during_a_long_overload() {
    for parallel in [4, 8, 16] {
        let hourly = server(parallel).run(&mut Controller::new(TARGET), Instant::now(), 12);
        for (limit, in_time) in &hourly[1..] {
            let factor = limit / parallel as f64;
            assert!((0.9..1.4).contains(&factor), "{parallel}: {hourly:?}");
            assert!(*in_time > 0.75, "{parallel}: {hourly:?}");
        }
    }
}

#[test]
fn it_follows_a_server_that_becomes_slower() {
    let (mut controller, now) = (Controller::new(TARGET), Instant::now());
    let fast = server(16).run(&mut controller, now, 3)[2].0;
    // From here on the server is slower; the earlier requests have ended.
    while controller.in_flight() > 0 {
        controller.leave();
    }
    let slow = server(4).run(&mut controller, now + 4 * ms(HOUR), 3)[2].0;
    assert!(fast > 14.0 && slow < 6.5, "{fast} {slow}");
}

proptest! {
    #[test]
    fn it_stays_within_its_bounds(
        min in 1..20_usize,
        more in 0..20_usize,
        samples in prop::collection::vec((0..3_u8, 0..10_000_u64), 0..400),
    ) {
        let (mut controller, mut now) = (Controller::new(TARGET), Instant::now());
        controller.set_bounds(count(min), count(min + more));
        let mut admitted = 0;
        for (kind, time) in samples {
            match controller.try_admit() {
                Ok(()) => admitted += 1,
                Err(refusal) => prop_assert!(admitted >= refusal.limit),
            }
            let sent = now;
            now += ms(time);
            let sample = match kind {
                0 => Sample::FirstByte(ms(time)),
                1 => Sample::Cancelled(ms(time)),
                _ => Sample::Overloaded,
            };
            controller.note(sent, sample, now);
            if kind == 0 && admitted > 0 {
                controller.leave();
                admitted -= 1;
            }
            prop_assert!((min..=min + more).contains(&controller.limit()));
            prop_assert_eq!(controller.in_flight(), admitted);
        }
    }
}

type Answer = Response<Full<Bytes>>;

#[tokio::test]
async fn beyond_the_limit_it_refuses_and_a_permit_is_held_until_the_last_frame() {
    let layer = AdaptiveLayer::new(TARGET).with_initial(count(1));
    let (service, mut inner) = mock::spawn_with(|mock| layer.layer(mock));
    let mut service: mock::Spawn<AdaptiveService<mock::Mock<Request<()>, Answer>>> = service;
    inner.allow(5);
    assert_ready!(service.poll_ready()).unwrap();
    let mut answer = task::spawn(service.call(Request::default()));
    let (_, respond) = inner.next_request().await.unwrap();
    assert_ready!(service.poll_ready()).unwrap();
    let error = service.call(Request::default()).await.unwrap_err();
    let failure = Failure::find(&*error).unwrap();
    assert_eq!(failure.caused_by(), Some(&LimitReached { limit: 1 }));
    assert_eq!(failure.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(failure.retry_after(), Some(ms(1000)));

    respond.send_response(Response::new(Full::from("text")));
    let answer = assert_ready!(answer.poll()).unwrap();
    assert_eq!(layer.in_flight(), 1);
    answer.into_body().collect().await.unwrap();
    assert_eq!(layer.in_flight(), 0);
}

#[tokio::test]
async fn readiness_comes_from_the_inner_service() {
    let layer = AdaptiveLayer::new(TARGET);
    let (service, mut inner) = mock::spawn_with(|mock| layer.layer(mock));
    let mut service: mock::Spawn<AdaptiveService<mock::Mock<Request<()>, Answer>>> = service;
    inner.allow(0);
    assert_pending!(service.poll_ready());
    inner.allow(1);
    assert_ready!(service.poll_ready()).unwrap();
}

/// The behaviour of a response: the time until its head, and from there to its first frame.
#[derive(Clone, Copy, Debug)]
enum Behaviour {
    Stream(u64, u64),
    Status(StatusCode),
    /// A layer inside of the limit refuses the request after this time.
    Refuses(Side, StatusCode, u64),
    Fails,
    Breaks,
}

fn stream(after: u64) -> impl Body<Data = Bytes, Error = BoxError> + Unpin {
    let frame = async move {
        tokio::time::sleep(ms(after)).await;
        Ok(Frame::data(Bytes::from("text")))
    };
    StreamBody::new(Box::pin(futures_util::stream::once(frame)))
}

fn broken() -> impl Body<Data = Bytes, Error = BoxError> + Unpin {
    StreamBody::new(Box::pin(futures_util::stream::once(async {
        Err(BoxError::from("broken"))
    })))
}

/// An error of another layer.
#[derive(Debug, thiserror::Error)]
#[error("refused")]
struct Refused(Side, StatusCode);

impl Fail for Refused {
    fn side(&self) -> Side {
        self.0
    }
    fn status(&self) -> StatusCode {
        self.1
    }
    fn kind(&self) -> &'static str {
        "refused"
    }
}

/// The limit after a round of four responses of this kind, starting at 4.
async fn limit_after(behaviour: Behaviour, layer: AdaptiveLayer) -> usize {
    let service = layer.layer(service_fn(move |_: Request<()>| async move {
        Ok::<_, BoxError>(match behaviour {
            Behaviour::Stream(head, first) => {
                tokio::time::sleep(ms(head)).await;
                Response::new(stream(first).boxed_unsync())
            }
            Behaviour::Status(status) => {
                let mut answer = Response::new(stream(0).boxed_unsync());
                *answer.status_mut() = status;
                answer
            }
            Behaviour::Refuses(side, status, after) => {
                tokio::time::sleep(ms(after)).await;
                return Err(Failure::from(Refused(side, status)).into());
            }
            Behaviour::Breaks => Response::new(broken().boxed_unsync()),
            Behaviour::Fails => return Err("no connection".into()),
        })
    }));
    let ask = || async {
        if let Ok(answer) = service.clone().oneshot(Request::default()).await {
            drop(answer.into_body().collect().await);
        }
    };
    tokio::join!(ask(), ask(), ask(), ask());
    assert_eq!(layer.in_flight(), 0);
    layer.limit()
}

#[tokio::test(start_paused = true)]
async fn the_first_byte_is_the_first_byte_of_the_body() {
    let layer = || AdaptiveLayer::new(TARGET);
    assert_eq!(limit_after(Behaviour::Stream(1000, 1000), layer()).await, 5);
    assert_eq!(limit_after(Behaviour::Stream(6000, 0), layer()).await, 3);
    assert_eq!(limit_after(Behaviour::Stream(0, 6000), layer()).await, 3);
    assert_eq!(limit_after(Behaviour::Stream(3000, 3000), layer()).await, 3);
}

#[tokio::test(start_paused = true)]
async fn an_overload_status_decreases_the_limit_at_once() {
    let layer = || AdaptiveLayer::new(TARGET);
    let busy = Behaviour::Status(StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(limit_after(busy, layer()).await, 3);
}

#[tokio::test(start_paused = true)]
async fn other_failures_do_not_change_the_limit() {
    let layer = || AdaptiveLayer::new(TARGET);
    for behaviour in [
        Behaviour::Status(StatusCode::NOT_FOUND),
        Behaviour::Fails,
        Behaviour::Breaks,
    ] {
        assert_eq!(limit_after(behaviour, layer()).await, 4);
    }
}

#[tokio::test(start_paused = true)]
async fn only_the_server_can_say_that_it_is_overloaded() {
    let layer = || AdaptiveLayer::new(TARGET);
    let (budget, busy) = (
        StatusCode::TOO_MANY_REQUESTS,
        StatusCode::SERVICE_UNAVAILABLE,
    );
    for (behaviour, limit) in [
        (Behaviour::Refuses(Side::Upstream, busy, 0), 3),
        (Behaviour::Refuses(Side::Client, budget, 0), 4),
        (Behaviour::Refuses(Side::Client, budget, 6000), 4),
        (Behaviour::Refuses(Side::Gateway, busy, 0), 4),
        (Behaviour::Refuses(Side::Gateway, busy, 6000), 3),
    ] {
        assert_eq!(
            limit_after(behaviour, layer()).await,
            limit,
            "{behaviour:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn unmeasured_requests_count_towards_the_limit() {
    let layer = AdaptiveLayer::new(TARGET).with_measured(|_| false);
    assert_eq!(
        limit_after(Behaviour::Stream(9000, 0), layer.clone()).await,
        4
    );
    let service = layer.layer(service_fn(|_: Request<()>| {
        std::future::pending::<Result<Answer, BoxError>>()
    }));
    let mut asked: Vec<_> = (0..5)
        .map(|_| task::spawn(service.clone().oneshot(Request::default())))
        .collect();
    for answer in &mut asked[..4] {
        assert_pending!(answer.poll());
    }
    assert_ready!(asked[4].poll()).unwrap_err();
}

#[tokio::test(start_paused = true)]
async fn clients_that_cancel_at_a_stuck_server_lower_the_limit() {
    let layer = AdaptiveLayer::new(TARGET);
    let service = layer.layer(service_fn(|_: Request<()>| {
        std::future::pending::<Result<Answer, BoxError>>()
    }));
    let mut asked: Vec<_> = (0..4)
        .map(|_| task::spawn(service.clone().oneshot(Request::default())))
        .collect();
    for answer in &mut asked {
        assert_pending!(answer.poll());
    }
    advance(ms(6000)).await;
    drop(asked);
    assert_eq!((layer.limit(), layer.in_flight()), (3, 0));
}

/// A body with a known size.
struct Sized;

impl Body for Sized {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        Poll::Ready(None)
    }

    fn size_hint(&self) -> http_body::SizeHint {
        http_body::SizeHint::with_exact(7)
    }
}

#[tokio::test]
async fn the_size_hint_of_the_answer_is_kept() {
    let layer = AdaptiveLayer::new(TARGET);
    let service = layer.layer(service_fn(async |_: Request<()>| {
        Ok::<_, BoxError>(Response::new(Sized))
    }));
    let answer = service.oneshot(Request::default()).await.unwrap();
    assert_eq!(answer.body().size_hint().exact(), Some(7));
}

#[test]
fn debug_shows_the_state() {
    let layer = AdaptiveLayer::new(TARGET).with_bounds(count(8), count(4));
    assert_eq!(
        format!("{layer:?}"),
        "AdaptiveLayer { limit: 8, in_flight: 0 }"
    );
}
