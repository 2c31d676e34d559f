//! One request and the head of its answer.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version};
use http_body::Body;
use hyper::body::Incoming;
use llamatower_layers::{BoxError, Failure};

use super::connection::{Connection, SendFailed};
use super::pool::{Pool, PoolLimits};
use super::{Address, ConnectionLost, Connector, InvalidAnswer, UpstreamBody};

/// What the requests to one backend have in common.
#[derive(Debug)]
pub(super) struct Shared<B: Body + 'static> {
    connector: Connector,
    pub(super) pool: Arc<Pool<B>>,
}

impl<B: Body + 'static> Shared<B> {
    pub(super) fn new(address: Address, connect_timeout: Duration, limits: PoolLimits) -> Self {
        Self {
            pool: Arc::new(Pool::new(address.clone(), limits)),
            connector: Connector::new(address, connect_timeout),
        }
    }

    pub(super) fn address(&self) -> &Address {
        self.pool.address()
    }
}

/// Sends a request over an idle connection or a new one, and waits for the head of its answer.
pub(super) async fn exchange<B>(
    shared: Arc<Shared<B>>,
    mut request: Request<B>,
) -> Result<Response<UpstreamBody<B>>, BoxError>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    prepare(&mut request, shared.address().authority_header());
    loop {
        let (mut connection, is_reused) = match shared.pool.check_out() {
            Some(connection) => (connection, true),
            None => {
                let stream = shared.connector.connect().await?;
                let opened = Connection::open(stream, shared.connector.clone()).await;
                (opened.map_err(|error| shared.lost(error, false))?, false)
            }
        };
        match connection.send(request, is_reused).await {
            Ok(answer) => return shared.accept(answer, connection),
            // The backend had closed the connection before the request was begun.
            Err(SendFailed {
                unsent: Some(unsent),
                ..
            }) if is_reused => request = *unsent,
            Err(failed) => return Err(shared.lost(failed.error, is_reused)),
        }
    }
}

/// Sets what this hop decides: version, `Host` and framing (RFC 9112 6.3).
fn prepare<B: Body>(request: &mut Request<B>, authority: HeaderValue) {
    let length = request.body().size_hint().exact();
    let is_empty = request.body().is_end_stream();
    let expects_a_body = matches!(
        *request.method(),
        Method::POST | Method::PUT | Method::PATCH
    );
    *request.version_mut() = Version::HTTP_11;
    let headers = request.headers_mut();
    headers.insert(HOST, authority);
    // hyper writes the framing of a body whose length is not known.
    headers.remove(TRANSFER_ENCODING);
    match length.or(is_empty.then_some(0)) {
        // A server may wait for the body of such a request (RFC 9110 8.6).
        Some(0) if !expects_a_body => {
            headers.remove(CONTENT_LENGTH);
        }
        Some(length) => {
            headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
        }
        None => {}
    }
}

impl<B> Shared<B>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    fn accept(
        &self,
        answer: Response<Incoming>,
        connection: Connection<B>,
    ) -> Result<Response<UpstreamBody<B>>, BoxError> {
        if let Some(reason) = not_acceptable(answer.status(), answer.headers()) {
            return Err(self.invalid(reason));
        }
        let (head, incoming) = answer.into_parts();
        let body = UpstreamBody::new(incoming, &head.headers, connection, self.pool.clone());
        Ok(Response::from_parts(head, body))
    }

    /// A backend that was restarted closes all its connections, so one that was found dead
    /// condemns the idle ones, and the next attempt gets a fresh one.
    fn lost(&self, error: hyper::Error, is_reused: bool) -> BoxError {
        if error.is_parse() {
            return self.invalid("it is no HTTP/1.1 answer, or its head is too large");
        }
        if error.is_user() {
            // The request's own body failed: its maker knows what that means, and hyper's error
            // has the maker's as its source.
            return Box::new(error);
        }
        if is_reused {
            self.pool.clear();
        }
        Failure::from(ConnectionLost::new(self.address(), is_reused, error)).into()
    }

    fn invalid(&self, reason: &'static str) -> BoxError {
        Failure::from(InvalidAnswer::new(self.address(), reason)).into()
    }
}

/// Framing that two readers could understand differently (RFC 9112 6.3, 11.2) is not passed on, nor
/// is a transfer coding that hyper would leave in the body.
fn not_acceptable(status: StatusCode, headers: &HeaderMap) -> Option<&'static str> {
    if status == StatusCode::SWITCHING_PROTOCOLS {
        return Some("it switched protocols without being asked");
    }
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    let coding = codings.next()?;
    if headers.contains_key(CONTENT_LENGTH) {
        return Some("it has both Transfer-Encoding and Content-Length");
    }
    if codings.next().is_some() || !coding.as_bytes().eq_ignore_ascii_case(b"chunked") {
        return Some("its Transfer-Encoding is not chunked");
    }
    None
}
