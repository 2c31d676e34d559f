//! The response, or the first heartbeat.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName};
use http::{HeaderValue, Response};
use http_body::Body;
use pin_project_lite::pin_project;

use super::body::Watched;
use super::{HeartbeatBody, Waiting};
use crate::{BoxError, Record};

/// Tells nginx and similar proxies not to buffer the stream.
const X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

pin_project! {
    /// The future of [`HeartbeatService`](super::HeartbeatService).
    #[derive(Debug)]
    pub struct HeartbeatFuture<F> {
        #[pin]
        state: State<F>,
    }
}

pin_project! {
    #[derive(Debug)]
    #[project = StateProjection]
    enum State<F> {
        Passed { #[pin] response: F },
        Watched { watched: Option<Watched<F>> },
    }
}

impl<F> HeartbeatFuture<F> {
    pub(super) fn passed(response: F) -> Self {
        Self {
            state: State::Passed { response },
        }
    }

    pub(super) fn watched(
        response: F,
        every: Duration,
        waiting: Waiting,
        record: Option<Record>,
    ) -> Self {
        let watched = Some(Watched::new(response, every, waiting, record));
        Self {
            state: State::Watched { watched },
        }
    }
}

impl<F, R, E> Future for HeartbeatFuture<F>
where
    F: Future<Output = Result<Response<R>, E>>,
    E: Into<BoxError>,
    R: Body<Data = Bytes>,
{
    type Output = Result<Response<HeartbeatBody<F, R>>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let answer = match self.project().state.project() {
            StateProjection::Passed { response } => ready!(response.poll(cx)),
            StateProjection::Watched { watched } => {
                let Some(waits) = watched else {
                    return Poll::Pending;
                };
                match waits.poll(cx) {
                    Poll::Ready(answer) => answer,
                    Poll::Pending => {
                        let heartbeat = ready!(waits.poll_heartbeat(cx));
                        let body = watched
                            .take()
                            .map(|waits| HeartbeatBody::new(waits, heartbeat));
                        return body.map_or(Poll::Pending, |body| Poll::Ready(Ok(head(body))));
                    }
                }
            }
        };
        let answer = answer.map_err(Into::into)?;
        Poll::Ready(Ok(answer.map(HeartbeatBody::passed)))
    }
}

/// The head of Ollama's event streams.
fn head<B>(body: B) -> Response<B> {
    let mut answer = Response::new(body);
    let fields = [
        (CONTENT_TYPE, "text/event-stream"),
        (CACHE_CONTROL, "no-cache"),
        (X_ACCEL_BUFFERING, "no"),
    ];
    for (name, value) in fields {
        answer
            .headers_mut()
            .insert(name, HeaderValue::from_static(value));
    }
    answer
}
