//! What the edge refuses itself: requests by its rules, and connections on which there is no valid
//! request.

use std::fmt;
use std::future::poll_fn;
use std::net::IpAddr;
use std::pin::Pin;
use std::task::ready;
use std::time::Duration;

use http::{HeaderValue, Method, StatusCode};
use llamatower_layers::Dialect;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::listener::Stream;

/// Bytes that are read and discarded after the last answer of a connection.
pub(super) const DISCARD_BYTES: usize = 1024 * 1024;
/// How long they are waited for.
pub(super) const DISCARD_TIME: Duration = Duration::from_secs(2);

/// What the edge refused, for whoever counts and logs it. No layer has seen it.
#[derive(Clone, Copy, Debug)]
pub struct Refused<'a> {
    /// The answer's status.
    pub status: StatusCode,
    /// Why, in a spelling that never changes; a value of `error.type`.
    pub reason: &'static str,
    /// The client's address, or that of its proxy where no head was read; none at a unix socket.
    pub client: Option<IpAddr>,
    /// The request's method, if a head was read.
    pub method: Option<&'a Method>,
    /// The path that was asked for, without the base path and as far as it is known.
    pub path: Option<&'a str>,
    /// `Host`, as the client wrote it.
    pub host: Option<&'a str>,
    /// `Origin`, as the browser wrote it.
    pub origin: Option<&'a str>,
}

/// Who is told of what the edge refuses itself.
pub trait RefusalObserver: fmt::Debug + Send + Sync {
    /// A request or a connection was refused.
    fn refused(&self, refused: &Refused<'_>);
}

/// Why a request is not passed on, and what its answer says.
#[derive(Debug)]
pub(super) struct Denial {
    pub(super) status: StatusCode,
    pub(super) reason: &'static str,
    pub(super) text: &'static str,
    /// That of the path if not set.
    pub(super) dialect: Option<Dialect>,
    pub(super) allow: Option<HeaderValue>,
    /// The origin whose pages may read the answer.
    pub(super) admitted: Option<HeaderValue>,
}

impl Denial {
    pub(super) const FOREIGN_ORIGIN: Self = Self::new(
        StatusCode::FORBIDDEN,
        "foreign_origin",
        "web pages of this origin may not call this server; OLLAMA_ORIGINS allows more origins",
    );
    pub(super) const FOREIGN_HOST: Self = Self::new(
        StatusCode::FORBIDDEN,
        "foreign_host",
        "this server listens on loopback and is not called by the name in the Host header; \
         LLAMATOWER_ALLOWED_HOSTS allows more names, and with LLAMATOWER_API_KEYS any name is allowed",
    );
    pub(super) const WRONG_METHOD: Self = Self {
        status: StatusCode::METHOD_NOT_ALLOWED,
        reason: "wrong_method",
        text: "405 method not allowed",
        dialect: Some(Dialect::Text),
        allow: Some(HeaderValue::from_static("GET, HEAD, POST, DELETE, OPTIONS")),
        admitted: None,
    };
    pub(super) const TARGET_TOO_LONG: Self = Self::new(
        StatusCode::URI_TOO_LONG,
        "target_too_long",
        "the path and the query are longer than 8 KiB",
    );
    pub(super) const MALFORMED_TARGET: Self = Self::bad_request("the target is malformed");
    pub(super) const MALFORMED_LINE: Self =
        Self::bad_request("the line of the request is malformed: a target has no fragment");
    pub(super) const TWO_TRANSFER_ENCODINGS: Self =
        Self::bad_request("more than one Transfer-Encoding header");
    pub(super) const TRANSFER_ENCODING: Self = Self::new(
        StatusCode::NOT_IMPLEMENTED,
        "unsupported_transfer_encoding",
        "unsupported transfer encoding: send chunked, or a Content-Length",
    );
    pub(super) const EXPECTATION: Self = Self::new(
        StatusCode::EXPECTATION_FAILED,
        "unknown_expectation",
        "the only expectation known is 100-continue",
    );

    const fn new(status: StatusCode, reason: &'static str, text: &'static str) -> Self {
        Self {
            status,
            reason,
            text,
            dialect: None,
            allow: None,
            admitted: None,
        }
    }

    const fn bad_request(text: &'static str) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "malformed_request", text)
    }

    /// `Host` is missing, or is none.
    pub(super) fn bad_host(text: &'static str) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "malformed_host", text)
    }

    /// The path does not begin with the base path.
    pub(super) fn outside(admitted: Option<HeaderValue>) -> Self {
        Self {
            dialect: Some(Dialect::Text),
            admitted,
            ..Self::new(StatusCode::NOT_FOUND, "unknown_path", "404 page not found")
        }
    }
}

/// An answer to a connection, and not to a request: there is none, or what came is none. hyper has no
/// part in it. Its text says which limit was reached and how it is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// There are as many connections as there may be.
    TooManyConnections,
    /// The head did not come in time.
    HeadTimeout,
    /// The head is larger than it may be.
    HeadTooLarge,
    /// What came is no head of HTTP/1.
    Malformed,
}

impl Refusal {
    pub(super) fn status(self) -> StatusCode {
        match self {
            Self::TooManyConnections => StatusCode::SERVICE_UNAVAILABLE,
            Self::HeadTimeout => StatusCode::REQUEST_TIMEOUT,
            Self::HeadTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::Malformed => StatusCode::BAD_REQUEST,
        }
    }

    pub(super) fn reason(self) -> &'static str {
        match self {
            Self::TooManyConnections => "too_many_connections",
            Self::HeadTimeout => "head_timeout",
            Self::HeadTooLarge => "head_too_large",
            Self::Malformed => "malformed_head",
        }
    }

    fn text(self) -> &'static str {
        match self {
            Self::TooManyConnections => {
                "too many connections; LLAMATOWER_MAX_CONNECTIONS sets the limit"
            }
            Self::HeadTimeout => {
                "the head of the request did not arrive in time; LLAMATOWER_HEADER_TIMEOUT sets the limit"
            }
            Self::HeadTooLarge => {
                "the head of the request has too many bytes or fields; LLAMATOWER_MAX_HEAD_BYTES and \
                 LLAMATOWER_MAX_HEAD_FIELDS set the limits"
            }
            Self::Malformed => "what was sent is no request of HTTP/1.0 or HTTP/1.1",
        }
    }

    /// The bytes of the answer.
    fn answer(self, dialect: Dialect) -> Vec<u8> {
        let answer = dialect.error_response(self.status(), self.text());
        let status = answer.status();
        let reason = status.canonical_reason().unwrap_or_default();
        let mut text = format!("HTTP/1.1 {} {reason}\r\n", status.as_str()).into_bytes();
        for (name, value) in answer.headers() {
            text.extend_from_slice(name.as_str().as_bytes());
            text.extend_from_slice(b": ");
            text.extend_from_slice(value.as_bytes());
            text.extend_from_slice(b"\r\n");
        }
        if self == Self::TooManyConnections {
            text.extend_from_slice(b"retry-after: 1\r\n");
        }
        let length = answer.body().len();
        let rest = format!("content-length: {length}\r\nconnection: close\r\n\r\n");
        text.extend_from_slice(rest.as_bytes());
        text.extend_from_slice(answer.body());
        text
    }

    /// Says it to the client, and closes.
    pub(super) async fn tell(self, mut stream: Stream, dialect: Dialect) {
        let answer = self.answer(dialect);
        // The few bytes go into the send buffer in one piece, if it has room.
        let write = poll_fn(|cx| Pin::new(&mut stream).poll_write(cx, &answer));
        if let Ok(Ok(_)) = tokio::time::timeout(DISCARD_TIME, write).await {
            linger(stream).await;
        }
    }
}

/// Closes a socket on which bytes may arrive that are not wanted. Closed outright, the kernel
/// would answer them with a reset, and the reset can destroy an answer that the client has not
/// read yet. So: the end of our side first, then reading for a while, then the close.
pub(super) async fn linger(mut stream: Stream) {
    let end = poll_fn(move |cx| {
        let mut stream = Pin::new(&mut stream);
        if ready!(stream.as_mut().poll_shutdown(cx)).is_err() {
            return std::task::Poll::Ready(());
        }
        let mut discarded = 0;
        let mut piece = [std::mem::MaybeUninit::uninit(); 8 * 1024];
        while discarded < DISCARD_BYTES {
            let mut piece = ReadBuf::uninit(&mut piece);
            match ready!(stream.as_mut().poll_read(cx, &mut piece)) {
                Ok(()) if !piece.filled().is_empty() => discarded += piece.filled().len(),
                _ => return std::task::Poll::Ready(()),
            }
        }
        // A client that still sends is held by its window until the time is over.
        std::task::Poll::Pending
    });
    let _ = tokio::time::timeout(DISCARD_TIME, end).await;
}
