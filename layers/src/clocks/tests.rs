use std::convert::Infallible;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use tokio::time::{Instant, sleep};
use tower::{Layer, ServiceExt, service_fn};

use super::*;
use crate::{BoxError, Deadline, Failure, Retryable};

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// A body whose frames arrive after these pauses, in seconds.
fn paused(pauses: &'static [u64]) -> impl Body<Data = Bytes, Error = Infallible> + Send {
    let frames = futures_util::stream::unfold(pauses.iter(), |mut pauses| async {
        sleep(seconds(*pauses.next()?)).await;
        Some((Ok(Frame::data(Bytes::from("x"))), pauses))
    });
    StreamBody::new(frames)
}

/// The response of a backend with this delay of the head and these pauses.
async fn answer(
    layer: StreamClocksLayer,
    head: u64,
    pauses: &'static [u64],
) -> Result<Response<impl Body<Data = Bytes, Error = BoxError>>, BoxError> {
    let inner = service_fn(
        move |_: Request<StreamClocksRequestBody<Empty<Bytes>>>| async move {
            sleep(seconds(head)).await;
            Ok::<_, Infallible>(Response::new(paused(pauses)))
        },
    );
    layer.layer(inner).oneshot(Request::new(Empty::new())).await
}

fn kind(error: &BoxError) -> &'static str {
    Failure::find(&**error).expect("a failure").kind()
}

fn clocks() -> StreamClocksLayer {
    StreamClocksLayer::new()
        .with_first_byte(Some(seconds(10)))
        .with_idle(Some(seconds(5)))
}

#[tokio::test(start_paused = true)]
async fn a_long_response_is_not_an_error() {
    let answer = answer(clocks(), 9, &[4; 1000]).await.expect("a head");
    let whole = answer.into_body().collect().await.expect("a whole body");
    assert_eq!(whole.to_bytes().len(), 1000);
}

#[tokio::test(start_paused = true)]
async fn silence_before_the_first_byte_ends_the_request() {
    let started = Instant::now();
    let Err(error) = answer(clocks(), 11, &[]).await else {
        panic!("it is late")
    };
    assert_eq!(kind(&error), "first_byte_timeout");
    assert_eq!(
        Failure::find(&*error).expect("a failure").retryable(),
        Retryable::Once
    );
    assert_eq!(started.elapsed(), seconds(10));
}

#[tokio::test(start_paused = true)]
async fn silence_within_an_answer_ends_it() {
    let answer = answer(clocks(), 0, &[4, 4, 6]).await.expect("a head");
    let started = Instant::now();
    let error = answer.into_body().collect().await.expect_err("it pauses");
    assert_eq!(kind(&error), "idle_timeout");
    assert_eq!(started.elapsed(), seconds(4 + 4 + 5));
}

#[tokio::test(start_paused = true)]
async fn silence_after_the_head_counts_from_the_head() {
    let answer = answer(clocks(), 9, &[6]).await.expect("a head");
    let started = Instant::now();
    let error = answer.into_body().collect().await.expect_err("it pauses");
    assert_eq!(kind(&error), "idle_timeout");
    assert_eq!(started.elapsed(), seconds(5));
}

#[tokio::test(start_paused = true)]
async fn by_default_a_stream_may_pause_while_the_arguments_of_a_tool_call_are_collected() {
    let answer = answer(StreamClocksLayer::new(), 0, &[1, 600, 899]).await;
    let body = answer.expect("a head").into_body();
    assert_eq!(
        body.collect().await.expect("a whole body").to_bytes().len(),
        3
    );
}

#[tokio::test(start_paused = true)]
async fn quiet_requests_have_their_own_limit_before_and_within_the_response() {
    let is_quiet: fn(&http::request::Parts) -> bool = |head| head.method == http::Method::GET;
    let unlimited = clocks().with_quiet(is_quiet, None);
    let body = answer(unlimited, 3600, &[7200])
        .await
        .expect("a head")
        .into_body();
    body.collect().await.expect("a whole body");

    let limited = clocks().with_quiet(is_quiet, seconds(100));
    let body = answer(limited.clone(), 99, &[99, 101])
        .await
        .expect("a head")
        .into_body();
    let error = body.collect().await.expect_err("it pauses");
    assert!(error.to_string().contains("100s"), "{error}");
    let Err(error) = answer(limited, 101, &[]).await else {
        panic!("it is late")
    };
    assert_eq!(kind(&error), "first_byte_timeout");

    let of_others = clocks().with_quiet(|_| false, None);
    let body = answer(of_others, 9, &[6])
        .await
        .expect("a head")
        .into_body();
    assert_eq!(
        kind(&body.collect().await.expect_err("it pauses")),
        "idle_timeout"
    );
}

#[tokio::test(start_paused = true)]
async fn a_response_that_timed_out_drops_its_backend() {
    let answer = answer(clocks(), 0, &[6]).await.expect("a head");
    let mut body = pin!(answer.into_body());
    assert!(body.frame().await.expect("an error").is_err());
    assert!(body.is_end_stream());
    assert!(body.frame().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_limit_beyond_the_range_of_instant_is_off() {
    let endless = StreamClocksLayer::new()
        .with_first_byte(Duration::MAX)
        .with_idle(Duration::MAX)
        .with_total(Duration::MAX);
    let answer = answer(endless, 1_000_000, &[1_000_000]).await;
    let body = answer.expect("a head").into_body();
    body.collect().await.expect("a whole body");
}

#[tokio::test(start_paused = true)]
async fn the_clock_follows_a_body_to_another_task() {
    let answer = answer(clocks(), 0, &[60]).await.expect("a head");
    let mut body = Box::pin(answer.into_body());
    let mut first = tokio_test::task::spawn(());
    let is_pending = first.enter(|cx, _| body.as_mut().poll_frame(cx).is_pending());
    assert!(is_pending);
    let mut second = tokio_test::task::spawn(());
    let is_pending = second.enter(|cx, _| body.as_mut().poll_frame(cx).is_pending());
    assert!(is_pending);
    sleep(seconds(5)).await;
    assert!(
        second.is_woken(),
        "the timer wakes the task that polled last"
    );
    assert!(!first.is_woken());
}

#[tokio::test(start_paused = true)]
async fn a_slow_client_does_not_trigger_the_idle_timeout() {
    let answer = answer(clocks(), 0, &[1, 1, 1]).await.expect("a head");
    let mut body = pin!(answer.into_body());
    while let Some(frame) = body.frame().await {
        frame.expect("no fault");
        sleep(seconds(3600)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_total_timeout_covers_head_and_body() {
    let total = clocks().with_total(Some(seconds(8)));
    let Err(error) = answer(total.clone(), 9, &[]).await else {
        panic!("it is late")
    };
    assert_eq!(kind(&error), "total_timeout");
    let answer = answer(total, 4, &[3, 3]).await.expect("a head");
    let error = answer.into_body().collect().await.expect_err("it is late");
    assert_eq!(kind(&error), "total_timeout");
}

#[tokio::test(start_paused = true)]
async fn a_timeout_that_is_off_never_fires() {
    let off = StreamClocksLayer::new()
        .with_first_byte(None)
        .with_idle(None);
    let answer = answer(off, 1_000_000, &[1_000_000]).await.expect("a head");
    answer.into_body().collect().await.expect("a whole body");
}

/// A backend that reads the request for `read` seconds and then waits for `think` seconds.
async fn upload(read: u64, think: u64) -> Result<(), BoxError> {
    let inner = service_fn(
        move |request: Request<StreamClocksRequestBody<Full<Bytes>>>| async move {
            sleep(seconds(read)).await;
            request.into_body().collect().await.expect("a whole body");
            sleep(seconds(think)).await;
            Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
        },
    );
    let request = Request::new(Full::from("body"));
    clocks().layer(inner).oneshot(request).await.map(drop)
}

#[tokio::test(start_paused = true)]
async fn the_first_byte_clock_starts_when_the_request_has_been_sent() {
    upload(3600, 9).await.expect("in time");
    let error = upload(3600, 11).await.expect_err("late");
    assert_eq!(kind(&error), "first_byte_timeout");
}

#[tokio::test(start_paused = true)]
async fn a_request_counts_as_sent_at_the_end_of_its_body_even_if_it_is_kept() {
    let inner = service_fn(
        async move |request: Request<StreamClocksRequestBody<Full<Bytes>>>| {
            let mut body = request.into_body();
            body.frame().await.expect("a frame").expect("no fault");
            sleep(seconds(11)).await;
            drop(body);
            Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
        },
    );
    let request = Request::new(Full::from("body"));
    let error = clocks().layer(inner).oneshot(request).await.map(drop);
    assert_eq!(kind(&error.expect_err("late")), "first_byte_timeout");
}

#[tokio::test(start_paused = true)]
async fn a_ready_frame_takes_precedence_over_an_expired_clock() {
    struct Late(u8);
    impl Body for Late {
        type Data = Bytes;
        type Error = Infallible;
        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            self.0 += 1;
            match self.0 {
                1 => Poll::Pending,
                2 => Poll::Ready(Some(Ok(Frame::data(Bytes::from("x"))))),
                _ => Poll::Ready(None),
            }
        }
    }
    let mut body = pin!(StreamClocksBody::new(
        Late(0),
        clocks().limits,
        None,
        Deadline::default()
    ));
    let pending = std::future::poll_fn(|cx| Poll::Ready(body.as_mut().poll_frame(cx).is_pending()));
    assert!(pending.await);
    tokio::time::advance(seconds(60)).await;
    assert!(body.frame().await.expect("a frame").is_ok());
}

#[tokio::test(start_paused = true)]
async fn an_error_names_its_limit() {
    const USUAL: LimitNames = LimitNames {
        first_byte: "FIRST",
        idle: "IDLE",
        total: "TOTAL",
    };
    const QUIET: LimitNames = LimitNames {
        idle: "QUIET",
        ..USUAL
    };
    let named = || clocks().with_limit_names(&USUAL, &QUIET);
    let quiet = named().with_quiet(|_| true, Some(seconds(5)));
    let total = named().with_total(Some(seconds(1)));

    let late = answer(named(), 11, &[]).await.map(drop);
    let late = late.expect_err("it is late").to_string();
    assert!(late.contains("(limit: FIRST)"), "{late}");
    for (layer, expected) in [
        (named(), "in the middle of its response (limit: IDLE)"),
        (quiet, "in the middle of its response (limit: QUIET)"),
        (total, "took longer than 1s (limit: TOTAL)"),
        (clocks(), "(limit: the idle time-out)"),
    ] {
        let answer = answer(layer, 0, &[6]).await.expect("a head");
        let error = answer.into_body().collect().await.expect_err("it pauses");
        assert!(error.to_string().contains(expected), "{error}");
    }
}

/// The response to a request with its own time-outs.
async fn answer_within(
    timeouts: StreamTimeouts,
    head: u64,
    pauses: &'static [u64],
) -> Result<Response<impl Body<Data = Bytes, Error = BoxError>>, BoxError> {
    let inner = service_fn(
        move |_: Request<StreamClocksRequestBody<Empty<Bytes>>>| async move {
            sleep(seconds(head)).await;
            Ok::<_, Infallible>(Response::new(paused(pauses)))
        },
    );
    let names = &LimitNames {
        first_byte: "FIRST",
        idle: "IDLE",
        total: "TOTAL",
    };
    let layer = clocks()
        .with_quiet(|_| true, seconds(20))
        .with_total(seconds(100))
        .with_limit_names(names, names);
    let mut request = Request::new(Empty::new());
    request.extensions_mut().insert(timeouts);
    layer.layer(inner).oneshot(request).await
}

#[tokio::test(start_paused = true)]
async fn a_request_can_have_its_own_time_outs() {
    let own = StreamTimeouts::new;
    for (timeouts, head, pauses, kind_and_end, limit) in [
        (
            own(),
            21,
            &[][..],
            Some(("first_byte_timeout", 20)),
            "FIRST",
        ),
        (
            own().with_first_byte(seconds(3)),
            4,
            &[],
            Some(("first_byte_timeout", 3)),
            "time-out",
        ),
        (
            own()
                .with_first_byte(seconds(3))
                .with_first_byte_name("LOAD"),
            4,
            &[],
            Some(("first_byte_timeout", 3)),
            "LOAD",
        ),
        (
            own().with_first_byte(seconds(3)),
            2,
            &[21],
            Some(("idle_timeout", 22)),
            "IDLE",
        ),
        (own().with_first_byte(seconds(30)), 29, &[9], None, ""),
        (
            own().with_idle(seconds(3)),
            19,
            &[2, 4],
            Some(("idle_timeout", 24)),
            "time-out",
        ),
        (own().with_idle(None), 0, &[70], None, ""),
        (
            own().with_idle(None),
            0,
            &[101],
            Some(("total_timeout", 100)),
            "TOTAL",
        ),
        (
            own().with_total(seconds(7)),
            5,
            &[1, 9],
            Some(("total_timeout", 7)),
            "time-out",
        ),
        (
            own().with_total(seconds(7)),
            9,
            &[],
            Some(("total_timeout", 7)),
            "time-out",
        ),
        (own().with_total(None).with_idle(None), 0, &[5000], None, ""),
    ] {
        let started = Instant::now();
        let error = match answer_within(timeouts, head, pauses).await {
            Ok(answer) => answer.into_body().collect().await.err(),
            Err(error) => Some(error),
        };
        let ended = error
            .as_ref()
            .map(|error| (kind(error), started.elapsed().as_secs()));
        assert_eq!(ended, kind_and_end, "{timeouts:?}");
        if let Some(error) = error {
            let text = error.to_string();
            assert!(text.contains(&format!("{limit})")), "{text}");
        }
    }
}

#[cfg(feature = "replay-body")]
#[tokio::test(start_paused = true)]
async fn the_clock_of_the_first_byte_runs_for_a_body_that_a_service_below_sends_instead() {
    use crate::body::{Buffered, ReplayBody};
    type Body = StreamClocksRequestBody<ReplayBody<Empty<Bytes>>>;

    let inner = service_fn(|request: Request<Body>| async move {
        let read = request.body().segments().expect("in memory").concat();
        assert_eq!(read, b"question");
        let body = request.into_body().replaced("translated".into());
        let sent = body.expect("no budget").collect().await?.to_bytes();
        assert_eq!(sent, "translated");
        sleep(seconds(11)).await;
        Ok::<_, BoxError>(Response::new(paused(&[])))
    });
    let started = Instant::now();
    let body = ReplayBody::from(Bytes::from("question"));
    let Err(error) = clocks().layer(inner).oneshot(Request::new(body)).await else {
        panic!("it is late")
    };
    assert_eq!(kind(&error), "first_byte_timeout");
    assert_eq!(started.elapsed(), seconds(10));
}
