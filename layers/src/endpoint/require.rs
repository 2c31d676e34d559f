//! The layer that refuses unknown endpoints.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use http::Request;
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use super::RouteMatch;
use crate::order;
use crate::service::accessors;
use crate::{BoxError, Failure};

/// Refuses each request for an unknown endpoint or with a wrong method: with
/// [`NotFound`](super::NotFound), [`MethodNotAllowed`](super::MethodNotAllowed) or
/// [`NoWebSocket`](super::NoWebSocket).
///
/// Place it inside of the layer that turns errors into responses. tower's filter with
/// [`RouteMatch::require`] does the same, but moves the whole request.
///
/// ```
/// use http::{Request, Response};
/// use llamatower_layers::endpoint::{EndpointLayer, RequireEndpointLayer};
/// use llamatower_layers::{BoxError, EndpointTable, Failure};
/// use tower::{ServiceBuilder, ServiceExt, service_fn};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let service = ServiceBuilder::new()
///     .layer(EndpointLayer::new(EndpointTable::ollama()))
///     .layer(RequireEndpointLayer)
///     .service(service_fn(async |_: Request<()>| Ok::<_, BoxError>(Response::new(()))));
///
/// let unknown = Request::get("/api/unknown").body(()).unwrap();
/// let error = service.oneshot(unknown).await.unwrap_err();
/// assert_eq!(Failure::find(&*error).unwrap().status(), 404);
/// # }
/// ```
#[derive(Clone, Copy, Debug)]
pub struct RequireEndpointLayer;

impl<S> Layer<S> for RequireEndpointLayer {
    type Service = RequireEndpointService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        order::check::<S>("RequireEndpoint");
        RequireEndpointService { inner }
    }
}

/// The service of [`RequireEndpointLayer`].
#[derive(Clone, Debug)]
pub struct RequireEndpointService<S> {
    pub(super) inner: S,
}

accessors!([S] RequireEndpointService<S>, RequireEndpointLayer);

impl<S, B> Service<Request<B>> for RequireEndpointService<S>
where
    S: Service<Request<B>>,
    S::Error: Into<BoxError>,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = RequireEndpointFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let step = match RouteMatch::refusal(&request) {
            None => Step::Called {
                inner: self.inner.call(request),
            },
            Some(failure) => Step::Refused {
                failure: Some(failure),
            },
        };
        RequireEndpointFuture { step }
    }
}

pin_project! {
    /// The future of [`RequireEndpointService`].
    #[derive(Debug)]
    pub struct RequireEndpointFuture<F> {
        #[pin]
        step: Step<F>,
    }
}

pin_project! {
    #[project = StepProjection]
    #[derive(Debug)]
    enum Step<F> {
        Called { #[pin] inner: F },
        Refused { failure: Option<Failure> },
    }
}

impl<F, T, E> Future for RequireEndpointFuture<F>
where
    F: Future<Output = Result<T, E>>,
    E: Into<BoxError>,
{
    type Output = Result<T, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().step.project() {
            StepProjection::Called { inner } => inner.poll(cx).map_err(Into::into),
            StepProjection::Refused { failure } => match failure.take() {
                Some(failure) => Poll::Ready(Err(failure.into())),
                None => Poll::Pending,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use http::{HeaderMap, Method, Response};
    use tower::{ServiceExt, service_fn};

    use super::*;
    use crate::EndpointTable;

    /// The status and header fields of a refusal; `None` if the request passes.
    async fn refusal(
        method: Method,
        path: &str,
        fields: &[(&'static str, &'static str)],
    ) -> Option<(u16, HeaderMap)> {
        let inner = service_fn(async |_: Request<()>| Ok::<_, Infallible>(Response::new(())));
        let mut request = Request::new(());
        let route = EndpointTable::ollama().look_up(&method, path);
        route.put_into(request.extensions_mut());
        *request.method_mut() = method;
        for (name, value) in fields {
            let value = value.parse().expect("a value");
            request.headers_mut().append(*name, value);
        }
        let error = RequireEndpointLayer
            .layer(inner)
            .oneshot(request)
            .await
            .err()?;
        let failure = Failure::find(&*error).expect("a failure");
        let mut headers = HeaderMap::new();
        failure.write_headers(&mut headers);
        Some((failure.status().as_u16(), headers))
    }

    #[tokio::test]
    async fn a_websocket_handshake_gets_426_with_the_supported_protocol() {
        for (path, fields) in [
            ("/v1/responses", &[("upgrade", "websocket")][..]),
            ("/v1/responses", &[("upgrade", "h2c, WebSocket")]),
            (
                "/v1/responses",
                &[("upgrade", "h2c"), ("upgrade", "websocket")],
            ),
            ("/v1/chat/completions", &[("upgrade", "websocket")]),
            ("/api/chat", &[("upgrade", "websocket")]),
        ] {
            let (status, headers) = refusal(Method::GET, path, fields).await.expect(path);
            assert_eq!(status, 426, "{path}");
            assert_eq!(headers["upgrade"], "HTTP/1.1");
            assert_eq!(headers["connection"], "Upgrade");
        }
    }

    #[tokio::test]
    async fn an_upgrade_changes_nothing_elsewhere() {
        let websocket = &[("upgrade", "websocket")][..];
        for (method, path, fields, status) in [
            (Method::GET, "/v1/responses", &[][..], Some(405)),
            (
                Method::GET,
                "/v1/responses",
                &[("upgrade", "h2c")],
                Some(405),
            ),
            (Method::PUT, "/v1/responses", websocket, Some(405)),
            (Method::GET, "/v1/realtime", websocket, Some(404)),
            (Method::GET, "/api/tags", websocket, None),
            (Method::POST, "/v1/responses", websocket, None),
        ] {
            let refused = refusal(method.clone(), path, fields).await;
            assert_eq!(refused.map(|(status, _)| status), status, "{method} {path}");
        }
    }
}
