//! Requests that may end the servers they are sent to.
//!
//! A server that closes the connection before it responds may have ended because of the request: a
//! prompt that its engine cannot bear, for example. Another server would end in the same way, so
//! such a request is sent to one more server, and to no third one.
//!
//! A connection that had served other requests may have been closed because it was idle, or by a restart,
//! and the server has then not seen the request. The first such loss of a request does not count. A further
//! one does, so that a request that ends servers is bounded also where each of them has idle connections.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use http::{Request, StatusCode};
use llamatower_layers::{BoxError, Fail, Failure, Outcome, Record, Side};
use pin_project_lite::pin_project;
use tower::Service;

use super::upstream::ConnectionLost;
use crate::telemetry::bounded;

/// How many losses of one request count before it is sent to no other server.
const MOST: usize = 2;

/// Two servers, or one server twice, closed the connection after the same request had been sent to them.
/// Other failures may lie between.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}; it may have ended them, so it is sent to no other one", self.what())]
pub struct ServersLost {
    servers: Vec<Arc<str>>,
}

impl ServersLost {
    fn what(&self) -> String {
        match &*self.servers {
            [first, others @ ..] if others.iter().all(|server| server == first) => {
                format!(
                    "the server {first} closed the connection twice while it worked on this request"
                )
            }
            servers => format!(
                "two servers ({}) closed the connection while they worked on this request",
                servers.join(", ")
            ),
        }
    }
}

impl Fail for ServersLost {
    fn side(&self) -> Side {
        Side::Upstream
    }
    fn status(&self) -> StatusCode {
        StatusCode::BAD_GATEWAY
    }
    fn kind(&self) -> &'static str {
        "servers_lost"
    }
    fn is_final(&self) -> bool {
        true
    }
}

/// The lost connections of a request, in its record.
#[derive(Clone, Debug, Default)]
struct Losses {
    /// The servers of those that count.
    servers: Vec<Arc<str>>,
    /// Whether there was one that does not count.
    was_idle: bool,
}

/// Ends a request with [`ServersLost`] at its second loss that counts. Each attempt passes through
/// it; the losses are counted in the record of the request, so that those of all models of an alias
/// count together.
#[derive(Clone, Debug)]
pub struct CountLost<S>(S);

impl<S> CountLost<S> {
    /// Counts the losses of the attempts that `inner` makes.
    pub fn new(inner: S) -> Self {
        Self(inner)
    }
}

impl<S, B> Service<Request<B>> for CountLost<S>
where
    S: Service<Request<B>, Error = BoxError>,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = CountLostFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        CountLostFuture {
            record: Record::of(request.extensions()).cloned(),
            attempt: self.0.call(request),
        }
    }
}

pin_project! {
    /// The future of [`CountLost`].
    #[derive(Debug)]
    pub struct CountLostFuture<F> {
        #[pin]
        attempt: F,
        record: Option<Record>,
    }
}

impl<F, R> Future for CountLostFuture<F>
where
    F: Future<Output = Result<R, BoxError>>,
{
    type Output = Result<R, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let answer = ready!(this.attempt.poll(cx));
        Poll::Ready(answer.map_err(|error| match this.record {
            Some(record) => judged(error, record),
            None => error,
        }))
    }
}

/// The error of an attempt, or [`ServersLost`] in its place.
fn judged(error: BoxError, record: &Record) -> BoxError {
    let lost = Failure::find(&*error).and_then(Failure::caused_by::<ConnectionLost>);
    let Some(lost) = lost else {
        return error;
    };
    let server: Arc<str> = lost.address().to_string().into();
    let is_reused = lost.is_reused();
    record.update(|outcome| {
        let losses = outcome.extensions.get_or_insert_default::<Losses>();
        if is_reused && !std::mem::replace(&mut losses.was_idle, true) {
            return error;
        }
        losses.servers.push(server);
        if losses.servers.len() < MOST {
            return error;
        }
        let servers = losses.servers.clone();
        warn(outcome, &servers);
        Failure::from(ServersLost { servers }).into()
    })
}

/// Names the request, so that the operator can find its client and stop it.
fn warn(outcome: &Outcome, servers: &[Arc<str>]) {
    tracing::warn!(
        request_id = outcome.request_id().map(bounded),
        client = outcome
            .client_address
            .map(|client| tracing::field::display(client.0)),
        identity = outcome.identity.as_deref(),
        model = outcome.model.as_deref().map(bounded),
        path = bounded(outcome.uri.path()),
        servers = servers.join(", "),
        "servers closed the connection while they worked on a request, which is sent to no other server; \
         the request may have ended them"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_tells_one_server_from_two() {
        let text = |servers: &[&str]| {
            let servers = servers.iter().map(|&server| server.into()).collect();
            ServersLost { servers }.to_string()
        };
        assert!(text(&["a:1", "a:1"]).starts_with("the server a:1 closed the connection twice"));
        assert!(text(&["a:1", "b:1"]).starts_with("two servers (a:1, b:1) closed the connection"));
    }
}
