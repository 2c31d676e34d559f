//! The boxed service of one backend: its type does not depend on the layers in front.

use bytes::Bytes;
use futures_util::FutureExt;
use http::{Request, Response, response};
use http_body::Body;
use http_body_util::combinators::UnsyncBoxBody;
use llamatower_layers::BoxError;
use tower::util::BoxCloneSyncService;
use tower::{Service, ServiceExt};

use super::error_cause::with_cause;

/// The body of a backend's response, boxed.
pub type AnswerBody = UnsyncBoxBody<Bytes, BoxError>;

/// The layers and the client of one backend, boxed.
pub type Attempt<B> = BoxCloneSyncService<Request<B>, Response<AnswerBody>, BoxError>;

/// Boxes `stack`; `finish` edits the head of each response. An error that the server is not the cause of
/// gets its [`ErrorCause`](llamatower_layers::ErrorCause).
pub fn attempt<S, B, R>(
    stack: S,
    finish: impl Fn(&mut response::Parts) + Clone + Send + Sync + 'static,
) -> Attempt<B>
where
    S: Service<Request<B>, Response = Response<R>, Error = BoxError>,
    S: Clone + Send + Sync + 'static,
    S::Future: Send,
    B: 'static,
    R: Body<Data = Bytes, Error = BoxError> + Send + 'static,
{
    BoxCloneSyncService::new(stack.and_then(move |answer: Response<R>| {
        let (mut head, body) = answer.into_parts();
        finish(&mut head);
        with_cause(Response::from_parts(head, AnswerBody::new(body))).map(Ok)
    }))
}

/// The service of one server, as management and unloads use it: a clone for each request.
pub trait ServerService<B>:
    Service<Request<B>, Response = Response<AnswerBody>, Error = BoxError, Future: Send + 'static>
    + Clone
    + Send
    + Sync
    + 'static
{
}

impl<S, B> ServerService<B> for S
where
    S: Service<Request<B>, Response = Response<AnswerBody>, Error = BoxError>
        + Clone
        + Send
        + Sync
        + 'static,
    S::Future: Send + 'static,
{
}
