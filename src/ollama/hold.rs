//! A request body that waits for `100 Continue` (RFC 9110 10.1.1).
//!
//! If an Ollama server already has a blob, it answers the upload without reading it. So a client
//! that expects `100 Continue` gets it only after the backend has sent it: until then its body is
//! not polled, and so not requested.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use http::header::EXPECT;
use http::{Request, StatusCode};
use http_body::{Body, Frame, SizeHint};
use llamatower_layers::{Operation, RouteMatch};
use pin_project_lite::pin_project;
use tokio::time::{Sleep, sleep};

/// How long to wait for the backend's `100 Continue` before the body is sent anyway, as the RFC
/// recommends.
const CONTINUE_TIMEOUT: Duration = Duration::from_secs(1);

pin_project! {
    /// A body that is not polled before the backend asks for it; see [`hold_until_continue`].
    #[derive(Debug)]
    pub struct Held<B> {
        #[pin]
        inner: B,
        waiting: Option<Waiting>,
    }
}

#[derive(Debug)]
struct Waiting {
    gate: Arc<Gate>,
    patience: Pin<Box<Sleep>>,
}

impl Waiting {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.gate.poll(cx) {
            return Poll::Ready(());
        }
        self.patience.as_mut().poll(cx)
    }
}

#[derive(Debug, Default)]
struct Gate(Mutex<(bool, Option<Waker>)>);

impl Gate {
    fn open(&self) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.0 = true;
        if let Some(waker) = state.1.take() {
            waker.wake();
        }
    }

    fn poll(&self, cx: &Context<'_>) -> bool {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !state.0 {
            state.1 = Some(cx.waker().clone());
        }
        state.0
    }
}

/// Holds back the body of an upload whose client expects `100 Continue`. Other bodies are not
/// delayed.
pub fn hold_until_continue<B>(mut request: Request<B>) -> Request<Held<B>> {
    let operation = RouteMatch::of(request.extensions()).and_then(RouteMatch::operation);
    if operation != Some(Operation::Blob) || !request.headers().contains_key(EXPECT) {
        return request.map(|inner| Held {
            inner,
            waiting: None,
        });
    }
    let gate = Arc::new(Gate::default());
    let opener = gate.clone();
    hyper::ext::on_informational(&mut request, move |answer| {
        if answer.status() == StatusCode::CONTINUE {
            opener.open();
        }
    });
    request.map(|inner| Held {
        inner,
        waiting: Some(Waiting {
            gate,
            patience: Box::pin(sleep(CONTINUE_TIMEOUT)),
        }),
    })
}

impl<B: Body> Body for Held<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let this = self.project();
        if let Some(waiting) = this.waiting {
            ready!(waiting.poll(cx));
            *this.waiting = None;
        }
        this.inner.poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
