//! Errors before the head of an answer.

use std::convert::Infallible;
use std::error::Error;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};
use http_body::Body;
use pin_project_lite::pin_project;
use tokio::sync::watch;

use super::RescueBody;
use super::service::Asked;
use crate::dialect::ErrorText;
use crate::endpoint::MethodNotAllowed;
use crate::{BoxError, Failure};

pin_project! {
    /// The future of [`Rescue`](super::Rescue).
    #[derive(Debug)]
    pub struct RescueFuture<F> {
        #[pin]
        inner: F,
        asked: Option<Asked>,
        cutoff: Option<watch::Receiver<bool>>,
    }
}

impl<F> RescueFuture<F> {
    pub(super) fn new(inner: F, asked: Asked, cutoff: Option<watch::Receiver<bool>>) -> Self {
        Self {
            inner,
            asked: Some(asked),
            cutoff,
        }
    }
}

impl<F, R, E> Future for RescueFuture<F>
where
    F: Future<Output = Result<Response<R>, E>>,
    E: Into<BoxError>,
    R: Body<Data = Bytes>,
    R::Error: Into<BoxError>,
{
    type Output = Result<Response<RescueBody<R>>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let answer = ready!(this.inner.poll(cx));
        let Some(asked) = this.asked.take() else {
            return Poll::Pending;
        };
        Poll::Ready(Ok(match answer {
            Ok(answer) => {
                let (head, body) = answer.into_parts();
                let body = RescueBody::watching(body, &head, asked, this.cutoff.take());
                Response::from_parts(head, body)
            }
            Err(error) => told(&*error.into(), &asked),
        }))
    }
}

/// The answer that tells of an error.
fn told<R>(error: &(dyn Error + 'static), asked: &Asked) -> Response<RescueBody<R>> {
    let failure = Failure::find(error);
    asked.note_error(failure.map_or("internal_error", Failure::kind));
    let status = failure.map_or(StatusCode::BAD_GATEWAY, Failure::status);
    let message = message_of(error);
    let text = ErrorText {
        status,
        message: &message,
        request_id: asked.request_id.as_ref().and_then(|id| id.to_str().ok()),
    };
    let (content_type, body) = asked.dialect.error_body(text);
    let length = body.len();
    let mut answer = Response::new(RescueBody::told(body));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, content_type);
    headers.insert(CONTENT_LENGTH, length.into());
    if let Some(failure) = failure {
        write_headers(failure, headers);
    }
    answer
}

fn write_headers(failure: &Failure, headers: &mut HeaderMap) {
    failure.write_headers(headers);
    if let Some(wait) = failure.retry_after() {
        headers.insert(RETRY_AFTER, whole_seconds(wait).into());
    }
    if let Some(MethodNotAllowed { allowed }) = failure.caused_by() {
        let names: Vec<_> = allowed.iter().map(Method::as_str).collect();
        if let Ok(names) = HeaderValue::try_from(names.join(", ")) {
            headers.insert(ALLOW, names);
        }
    }
}

/// Rounded up: who comes back too early is refused again.
fn whole_seconds(wait: Duration) -> u64 {
    wait.as_secs() + u64::from(wait.subsec_nanos() > 0)
}

/// What may be told of an error: a failure's own text. Any other error may say anything.
pub(super) fn message_of(error: &(dyn Error + 'static)) -> String {
    match Failure::find(error) {
        Some(failure) => failure.to_string(),
        None => "the gateway failed to get an answer; its log says why".to_owned(),
    }
}
