//! The future of a response, with its turns.

use std::fmt;
use std::hash::Hash;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http::Response;
use http_body::Body;
use pin_project_lite::pin_project;

use super::KeyConcurrencyReached;
use super::taking::Turns;
use crate::body::Guarded;
use crate::{BoxError, Failure};

/// The wait for the turns, and then the call of the inner service.
type Waiting<F, K> = Pin<Box<dyn Future<Output = Result<(F, Turns<K>), BoxError>> + Send>>;

pin_project! {
    /// The future of [`KeyConcurrencyService`](super::KeyConcurrencyService).
    pub struct KeyConcurrencyFuture<F, K> where K: Clone, K: Eq, K: Hash {
        #[pin]
        state: State<F, K>,
    }
}

pin_project! {
    #[project = StateProjection]
    enum State<F, K> where K: Clone, K: Eq, K: Hash {
        Waiting { waiting: Waiting<F, K> },
        Calling {
            #[pin]
            inner: F,
            turns: Option<Turns<K>>,
        },
        Refused { refusal: KeyConcurrencyReached },
    }
}

impl<F, K: Clone + Eq + Hash> KeyConcurrencyFuture<F, K> {
    pub(super) fn calling(inner: F, turns: Option<Turns<K>>) -> Self {
        Self {
            state: State::Calling { inner, turns },
        }
    }

    pub(super) fn waiting(
        waiting: impl Future<Output = Result<(F, Turns<K>), BoxError>> + Send + 'static,
    ) -> Self {
        Self {
            state: State::Waiting {
                waiting: Box::pin(waiting),
            },
        }
    }

    pub(super) fn refused(refusal: KeyConcurrencyReached) -> Self {
        Self {
            state: State::Refused { refusal },
        }
    }
}

impl<F, R, E, K> Future for KeyConcurrencyFuture<F, K>
where
    F: Future<Output = Result<Response<R>, E>>,
    E: Into<BoxError>,
    R: Body,
    K: Clone + Eq + Hash,
{
    type Output = Result<Response<Guarded<R, Turns<K>>>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.project().state;
        loop {
            match state.as_mut().project() {
                StateProjection::Waiting { waiting } => {
                    let (inner, turns) = ready!(waiting.as_mut().poll(cx))?;
                    let turns = Some(turns);
                    state.set(State::Calling { inner, turns });
                }
                StateProjection::Calling { inner, turns } => {
                    let answer = ready!(inner.poll(cx));
                    // Taken on an error too, so that a caller who keeps the future does not keep the
                    // turns.
                    let turns = turns.take();
                    return Poll::Ready(match answer {
                        Ok(answer) => Ok(answer.map(|body| Guarded::maybe(body, turns))),
                        Err(error) => Err(error.into()),
                    });
                }
                StateProjection::Refused { refusal } => {
                    return Poll::Ready(Err(Failure::from(*refusal).into()));
                }
            }
        }
    }
}

impl<F, K: Clone + Eq + Hash> fmt::Debug for KeyConcurrencyFuture<F, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyConcurrencyFuture")
            .finish_non_exhaustive()
    }
}
