#![allow(clippy::unwrap_used)]
use std::convert::Infallible;
use std::error::Error;
use std::fmt;
use std::io::{self, ErrorKind};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Empty, StreamBody};
use tower::{ServiceBuilder, ServiceExt, service_fn};

use super::*;
use crate::{BoxError, Failure, Retryable, Side};

#[derive(Debug)]
struct Odd;

impl fmt::Display for Odd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("key=secret")
    }
}

impl Error for Odd {}

/// An error of a library, around another.
#[derive(Debug, thiserror::Error)]
#[error("sending failed")]
struct Around(#[source] BoxError);

fn kind(error: impl Into<BoxError>) -> Option<&'static str> {
    Failure::find(&*classify(error)).map(Failure::kind)
}

#[test]
fn io_errors_are_classified_by_their_kind_wherever_they_are_in_the_chain() {
    for (given, expected) in [
        (ErrorKind::ConnectionRefused, Some("connect_failed")),
        (ErrorKind::HostUnreachable, Some("connect_failed")),
        (ErrorKind::TimedOut, Some("upstream_timeout")),
        (ErrorKind::ConnectionReset, Some("connection_lost")),
        (ErrorKind::BrokenPipe, Some("connection_lost")),
        (ErrorKind::NotFound, None),
        (ErrorKind::PermissionDenied, None),
    ] {
        assert_eq!(kind(io::Error::from(given)), expected, "{given}");
        let deep = Around(Around(io::Error::from(given).into()).into());
        assert_eq!(kind(deep), expected, "{given} below two others");
    }
}

#[test]
fn the_original_error_stays_in_the_chain_and_its_deepest_cause_in_the_text() {
    let refused = io::Error::from(ErrorKind::ConnectionRefused);
    let error = classify(Around(refused.into()));
    assert_eq!(
        error.to_string(),
        "cannot connect to the backend: connection refused"
    );
    let original = crate::failure::sources(&*error).find_map(|error| error.downcast_ref());
    let Around(cause) = original.unwrap();
    assert!(cause.is::<io::Error>());
    let classified: &ClassifiedError = Failure::find(&*error).unwrap().caused_by().unwrap();
    assert_eq!(classified.class(), Class::CONNECT_FAILED);
}

#[test]
fn a_failure_and_an_unknown_error_stay_as_they_are() {
    let failure = Class::TIMEOUT.failure(io::Error::from(ErrorKind::ConnectionRefused));
    let error = classify(Around(failure.into()));
    assert!(error.is::<Around>(), "it is not wrapped again");
    assert_eq!(kind(error), Some("upstream_timeout"));
    assert!(classify(Odd).is::<Odd>());
}

#[test]
fn an_error_inside_of_an_io_error_is_found() {
    let failure = Class::TIMEOUT.failure(Odd);
    let error = classify(Around(io::Error::other(failure).into()));
    assert!(error.is::<Around>(), "it has a failure already");
    assert_eq!(kind(error), Some("upstream_timeout"));
    let lost = io::Error::from(ErrorKind::ConnectionReset);
    assert_eq!(
        kind(io::Error::other(Around(lost.into()))),
        Some("connection_lost")
    );
}

#[tokio::test(start_paused = true)]
async fn tokios_time_out_is_known() {
    let never = std::future::pending::<Infallible>();
    let elapsed = tokio::time::timeout(Duration::from_millis(1), never).await;
    assert_eq!(kind(elapsed.unwrap_err()), Some("upstream_timeout"));
}

const ODD: Class = Class::new(
    Side::Upstream,
    StatusCode::BAD_GATEWAY,
    "odd",
    "the backend is odd",
)
.with_retryable(Retryable::Yes)
.with_retry_after(Duration::from_secs(7));

fn layer() -> ClassifyLayer {
    ClassifyLayer::new(|error| error.is::<Odd>().then_some(ODD))
}

#[tokio::test]
async fn the_closure_sees_each_source_and_decides_before_the_known_kinds() {
    let fail = async |error: BoxError| {
        let mut error = Some(error);
        let failing = service_fn(move |_: Request<()>| {
            let error = error.take().unwrap();
            async { Err::<Response<Empty<Bytes>>, _>(error) }
        });
        let service = ServiceBuilder::new().layer(layer()).service(failing);
        service.oneshot(Request::default()).await.unwrap_err()
    };
    let error = fail(Around(Odd.into()).into()).await;
    let failure = Failure::find(&*error).unwrap();
    assert_eq!((failure.kind(), failure.status().as_u16()), ("odd", 502));
    assert_eq!(failure.retryable(), Retryable::Yes);
    assert_eq!(failure.retry_after(), Some(Duration::from_secs(7)));
    assert_eq!(failure.to_string(), "the backend is odd", "no secrets");
    let shown = ODD.with_cause(true).failure(Odd);
    assert_eq!(shown.to_string(), "the backend is odd: key=secret");

    let known = fail(io::Error::from(ErrorKind::ConnectionRefused).into()).await;
    assert_eq!(Failure::find(&*known).unwrap().kind(), "connect_failed");
    let unknown = fail("something else".into()).await;
    assert!(Failure::find(&*unknown).is_none());
}

#[tokio::test]
async fn errors_of_the_response_body_are_classified() {
    let service =
        ServiceBuilder::new()
            .layer(layer())
            .service(service_fn(async |_: Request<()>| {
                let frames = [Ok(Frame::data(Bytes::from("one"))), Err(Odd)];
                let body = StreamBody::new(futures_util::stream::iter(frames));
                Ok::<_, BoxError>(Response::new(body))
            }));
    let answer = service.oneshot(Request::default()).await.unwrap();
    let mut body = answer.into_body();
    assert!(!body.is_end_stream());
    assert_eq!(
        body.frame().await.unwrap().unwrap().into_data().unwrap(),
        "one"
    );
    let error = body.frame().await.unwrap().unwrap_err();
    assert_eq!(Failure::find(&*error).unwrap().kind(), "odd");
}

#[cfg(feature = "breaker")]
#[tokio::test]
async fn the_closures_class_decides_whether_the_breaker_counts_an_error() {
    use crate::breaker::{Breaker, BreakerLayer, BreakerPolicy, State};
    for (side, expected) in [(Side::Upstream, State::Open), (Side::Client, State::Closed)] {
        let class = Class::new(side, StatusCode::BAD_GATEWAY, "odd", "it is odd");
        let breaker = Breaker::new(BreakerPolicy::default());
        let service = ServiceBuilder::new()
            .layer(BreakerLayer::new(breaker.clone()))
            .layer(ClassifyLayer::new(move |error| {
                error.is::<Odd>().then_some(class)
            }))
            .service(service_fn(async |_: Request<()>| {
                Err::<Response<Empty<Bytes>>, BoxError>(Odd.into())
            }));
        for _ in 0..5 {
            let request = Request::default();
            service
                .clone()
                .oneshot(request)
                .await
                .map(drop)
                .unwrap_err();
        }
        assert_eq!(breaker.state(), expected);
    }
}
