//! The service of one backend, of one type whatever layers stand before it.

use bytes::Bytes;
use http::{Request, Response, response};
use http_body::Body;
use http_body_util::combinators::UnsyncBoxBody;
use llamatower_layers::BoxError;
use tower::util::BoxCloneSyncService;
use tower::{Service, ServiceExt};

/// The body of a backend's answer, of one type whatever layers stand before the backend.
pub type AnswerBody = UnsyncBoxBody<Bytes, BoxError>;

/// A stack of layers before one backend, of one type whatever they are.
pub type Attempt<B> = BoxCloneSyncService<Request<B>, Response<AnswerBody>, BoxError>;

/// The attempt that `stack` is; `finish` has the last word on the heads of its answers.
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
    BoxCloneSyncService::new(stack.map_response(move |answer: Response<R>| {
        let (mut head, body) = answer.into_parts();
        finish(&mut head);
        Response::from_parts(head, AnswerBody::new(body))
    }))
}
