//! The future of an answer.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http::Response;
use llamatower_layers::BoxError;
use pin_project_lite::pin_project;

use crate::openai::lines::TranslatedBody;

pin_project! {
    /// The future of [`Translate`](super::Translate).
    pub struct TranslateFuture<F, A> {
        #[pin]
        kind: Kind<F, A>,
    }
}

pin_project! {
    #[project = KindProjected]
    enum Kind<F, A> {
        // In front of an Ollama server.
        Unaltered {
            #[pin]
            inner: F,
        },
        Translated {
            answer: Pin<Box<dyn Future<Output = Result<A, BoxError>> + Send>>,
        },
    }
}

impl<F, A> TranslateFuture<F, A> {
    pub(super) fn unaltered(inner: F) -> Self {
        let kind = Kind::Unaltered { inner };
        Self { kind }
    }

    pub(super) fn translated(
        answer: impl Future<Output = Result<A, BoxError>> + Send + 'static,
    ) -> Self {
        let answer = Box::pin(answer);
        let kind = Kind::Translated { answer };
        Self { kind }
    }
}

impl<F, R> Future for TranslateFuture<F, Response<TranslatedBody<R>>>
where
    F: Future<Output = Result<Response<R>, BoxError>>,
{
    type Output = Result<Response<TranslatedBody<R>>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().kind.project() {
            KindProjected::Unaltered { inner } => {
                let answer = ready!(inner.poll(cx));
                Poll::Ready(answer.map(|answer| answer.map(TranslatedBody::unaltered)))
            }
            KindProjected::Translated { answer } => answer.as_mut().poll(cx),
        }
    }
}
