//! The layers between the edge and the gateway.

use std::convert::Infallible;

use bytes::Bytes;
use http::header::EXPECT;
use http::uri::PathAndQuery;
use http::{HeaderName, Request, Response, StatusCode};
use http_body::Body;
use llamatower_layers::endpoint::EndpointLayer;
use llamatower_layers::forward::{NotForwarded, remove_hop_by_hop};
use llamatower_layers::panic_guard::PanicGuardLayer;
use llamatower_layers::rescue::RescueLayer;
use llamatower_layers::{BoxError, EndpointTable, Fail, Failure, Retryable, RouteMatch, Side};
use tokio_util::sync::CancellationToken;
use tower::{Service, ServiceBuilder};

use super::gateway::{Gateway, innermost};

/// The paths whose errors have a dialect.
pub(super) fn endpoints() -> EndpointTable {
    EndpointTable::ollama()
}

/// The gateway cannot be reached.
#[derive(Debug, thiserror::Error)]
#[error("the gateway at {url} cannot be reached: {reason}")]
struct Unreachable {
    url: String,
    reason: String,
}

impl Fail for Unreachable {
    fn side(&self) -> Side {
        Side::Upstream
    }
    fn status(&self) -> StatusCode {
        StatusCode::BAD_GATEWAY
    }
    fn kind(&self) -> &'static str {
        "gateway_unreachable"
    }
    fn retryable(&self) -> Retryable {
        Retryable::Yes
    }
}

/// Passes each request on to the gateway. Errors are in the dialect of the request.
pub(super) fn service<B>(
    gateway: &Gateway,
    cutoff: CancellationToken,
) -> impl Service<
    Request<B>,
    Response = Response<impl Body<Data = Bytes, Error = BoxError> + Send + use<B>>,
    Error = Infallible,
    Future: Send,
> + Clone
+ Send
+ use<B>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let url = gateway.address.url();
    ServiceBuilder::new()
        .layer(EndpointLayer::new(endpoints()))
        .layer(RescueLayer::new().with_cutoff(cutoff))
        .layer(PanicGuardLayer::new())
        .filter(clean_request::<B>)
        .map_response(|answer: Response<_>| {
            let (mut head, body) = answer.into_parts();
            remove_hop_by_hop(&mut head.headers, |_| false);
            Response::from_parts(head, body)
        })
        .map_err(move |error: BoxError| unreachable(&url, error))
        .service(gateway.client())
}

/// Removes what belongs to this hop or tells of the client, and credentials: the key is the gateway's.
/// The edge has checked `Origin`. A known path is written as the table has it, like `tiny:latest` for
/// `tiny%3Alatest`; the gateway may know others.
fn clean_request<B>(mut request: Request<B>) -> Result<Request<B>, BoxError> {
    let route = RouteMatch::of(request.extensions());
    let known = route.and_then(RouteMatch::upstream_path);
    let path = known.unwrap_or_else(|| request.uri().path().into());
    if is_ambiguous(&path) {
        return Err(Failure::from(NotForwarded::AmbiguousPath).into());
    }
    let target = match request.uri().query() {
        Some(query) => PathAndQuery::try_from(format!("{path}?{query}")),
        None => PathAndQuery::try_from(&*path),
    };
    *request.uri_mut() = target.map_err(http::Error::from)?.into();
    remove_hop_by_hop(request.headers_mut(), is_unwanted);
    Ok(request)
}

/// Whether a proxy in front of the gateway could read it as another path.
fn is_ambiguous(path: &str) -> bool {
    path.contains(['%', '\\']) || path.split('/').any(|part| part == "." || part == "..")
}

fn is_unwanted(name: &HeaderName) -> bool {
    let text = name.as_str();
    *name == EXPECT
        || matches!(
            text,
            "authorization"
                | "proxy-authorization"
                | "x-api-key"
                | "cookie"
                | "origin"
                | "referer"
                | "forwarded"
                | "x-real-ip"
        )
        || text.starts_with("x-forwarded-")
}

/// The client's errors are about a backend; here it is a gateway.
fn unreachable(url: &str, error: BoxError) -> BoxError {
    match Failure::find(&*error) {
        Some(failure) if failure.side() == Side::Upstream => Failure::from(Unreachable {
            url: url.to_owned(),
            reason: innermost(&*error),
        })
        .into(),
        _ => error,
    }
}
