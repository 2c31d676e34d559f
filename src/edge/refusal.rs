//! Responses of the edge itself: to requests that break its rules, and to connections without a
//! valid request.

use std::fmt;
use std::future::poll_fn;
use std::net::IpAddr;
use std::pin::Pin;
use std::task::ready;
use std::time::Duration;

use http::{HeaderValue, Method, StatusCode};
use llamatower_layers::Dialect;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes that are read and discarded after a connection's last response.
pub(super) const DISCARD_BYTES: usize = 1024 * 1024;
/// Time limit for reading them.
pub(super) const DISCARD_TIME: Duration = Duration::from_secs(2);

/// A refusal by the edge, for metrics and the log. No layer has seen the request.
#[derive(Clone, Copy, Debug)]
pub struct Refused<'a> {
    /// The response's status.
    pub status: StatusCode,
    /// The reason, as a stable value of `error.type`.
    pub reason: &'static str,
    /// The client's address, or its proxy's if no head was read; `None` on a unix socket.
    pub client: Option<IpAddr>,
    /// The request's method, if a head was read.
    pub method: Option<&'a Method>,
    /// The requested path without the base path, as far as it is known.
    pub path: Option<&'a str>,
    /// `Host`, as sent by the client.
    pub host: Option<&'a str>,
    /// `Origin`, as sent by the browser.
    pub origin: Option<&'a str>,
}

/// Receives the refusals of the edge.
pub trait RefusalObserver: fmt::Debug + Send + Sync {
    /// A request or a connection was refused.
    fn refused(&self, refused: &Refused<'_>);
}

/// Why a request is refused, and the text of the response.
#[derive(Debug)]
pub(super) struct Denial {
    pub(super) status: StatusCode,
    pub(super) reason: &'static str,
    pub(super) text: &'static str,
    /// The dialect of the path, unless set.
    pub(super) dialect: Option<Dialect>,
    pub(super) allow: Option<HeaderValue>,
    /// The origin whose pages may read the response.
    pub(super) admitted: Option<HeaderValue>,
    /// Whether the connection closes, because the end of the request is in doubt.
    pub(super) closes: bool,
}

/// Whom an edge serves, which decides what the texts of its refusals advise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Audience {
    /// The clients of a gateway.
    #[default]
    Clients,
    /// Its operators and the scrapers of its metrics.
    Operators,
    /// The programs of this machine, by `llamatower connect`.
    Programs,
}

impl Denial {
    /// The reason of [`foreign_origin`](Self::foreign_origin).
    pub(super) const FOREIGN_ORIGIN: &'static str = "foreign_origin";

    pub(super) fn foreign_origin(audience: Audience) -> Self {
        let text = match audience {
            Audience::Clients => {
                "web pages of this origin may not call this server; to allow it, add it to OLLAMA_ORIGINS"
            }
            Audience::Operators => {
                "web pages of other origins may not call the admin and metrics listeners, and no \
                 setting allows it"
            }
            Audience::Programs => {
                "web pages of this origin may not call this server; to allow it, give it to \
                 llamatower connect with --origin"
            }
        };
        Self::new(StatusCode::FORBIDDEN, Self::FOREIGN_ORIGIN, text)
    }

    pub(super) fn foreign_host(audience: Audience) -> Self {
        let text = match audience {
            Audience::Clients => {
                "this server listens on loopback and is not called by the name in the Host header; \
                 LLAMATOWER_ALLOWED_HOSTS allows more names, and with LLAMATOWER_API_KEYS any name is \
                 allowed"
            }
            Audience::Operators => {
                "the admin and metrics listeners are not called by the name in the Host header from \
                 this machine; LLAMATOWER_ALLOWED_HOSTS allows more names, each by itself"
            }
            Audience::Programs => {
                "this server is not called by the name in the Host header; call it by localhost or \
                 127.0.0.1"
            }
        };
        Self::new(StatusCode::FORBIDDEN, "foreign_host", text)
    }

    pub(super) const WRONG_METHOD: Self = Self {
        status: StatusCode::METHOD_NOT_ALLOWED,
        reason: "wrong_method",
        text: "405 method not allowed",
        dialect: Some(Dialect::Text),
        allow: Some(HeaderValue::from_static("GET, HEAD, POST, DELETE, OPTIONS")),
        admitted: None,
        closes: false,
    };
    pub(super) const TARGET_TOO_LONG: Self = Self::new(
        StatusCode::URI_TOO_LONG,
        "target_too_long",
        "the path and the query are longer than 8 KiB",
    );
    pub(super) const MALFORMED_TARGET: Self = Self::bad_request("the target is malformed");
    pub(super) const MALFORMED_LINE: Self = Self::with_end(
        StatusCode::BAD_REQUEST,
        "malformed_request",
        "the request line is malformed: a target must not have a fragment",
        true,
    );
    pub(super) const TWO_TRANSFER_ENCODINGS: Self = Self::with_end(
        StatusCode::BAD_REQUEST,
        "malformed_request",
        "more than one Transfer-Encoding header",
        true,
    );
    pub(super) const TRANSFER_ENCODING: Self = Self::with_end(
        StatusCode::NOT_IMPLEMENTED,
        "unsupported_transfer_encoding",
        "unsupported transfer encoding: send chunked, or a Content-Length",
        true,
    );
    pub(super) const EXPECTATION: Self = Self::new(
        StatusCode::EXPECTATION_FAILED,
        "unknown_expectation",
        "the only supported expectation is 100-continue",
    );

    const fn new(status: StatusCode, reason: &'static str, text: &'static str) -> Self {
        Self::with_end(status, reason, text, false)
    }

    const fn with_end(
        status: StatusCode,
        reason: &'static str,
        text: &'static str,
        closes: bool,
    ) -> Self {
        Self {
            status,
            reason,
            text,
            dialect: None,
            allow: None,
            admitted: None,
            closes,
        }
    }

    const fn bad_request(text: &'static str) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "malformed_request", text)
    }

    /// HTTP/2 has no limit of fields below the edge.
    pub(super) const TOO_MANY_FIELDS: Self = Self::new(
        StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
        "head_too_large",
        "the head of the request has too many fields (limit: LLAMATOWER_MAX_HEAD_FIELDS)",
    );
    pub(super) const NO_CERTIFICATE: Self = Self::new(
        StatusCode::FORBIDDEN,
        "no_client_certificate",
        "this server needs a client's certificate, and the connection has none \
         (LLAMATOWER_TLS_CLIENT_CERTS=optional makes it optional)",
    );

    /// The `Host` header is missing or malformed.
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

/// A response to a connection without a valid request; hyper does not write it. Its text names the
/// limit that was reached and its setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The limit of open connections is reached.
    TooManyConnections,
    /// The head did not arrive in time.
    HeadTimeout,
    /// The head is too large.
    HeadTooLarge,
    /// The bytes are not an HTTP/1 head.
    Malformed,
    /// The port speaks TLS, and the client does not.
    PlainHttp,
}

impl Refusal {
    pub(super) fn status(self) -> StatusCode {
        match self {
            Self::TooManyConnections => StatusCode::SERVICE_UNAVAILABLE,
            Self::HeadTimeout => StatusCode::REQUEST_TIMEOUT,
            Self::HeadTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::Malformed | Self::PlainHttp => StatusCode::BAD_REQUEST,
        }
    }

    pub(super) fn reason(self) -> &'static str {
        match self {
            Self::TooManyConnections => "too_many_connections",
            Self::HeadTimeout => "head_timeout",
            Self::HeadTooLarge => "head_too_large",
            Self::Malformed => "malformed_head",
            Self::PlainHttp => "plain_http",
        }
    }

    fn text(self) -> &'static str {
        match self {
            Self::TooManyConnections => "too many connections (limit: LLAMATOWER_MAX_CONNECTIONS)",
            Self::HeadTimeout => {
                "the head of the request did not arrive in time (limit: LLAMATOWER_HEADER_TIMEOUT)"
            }
            Self::HeadTooLarge => {
                "the head of the request has too many bytes or fields (limits: \
                 LLAMATOWER_MAX_HEAD_BYTES and LLAMATOWER_MAX_HEAD_FIELDS)"
            }
            Self::Malformed => "this is not an HTTP/1.0 or HTTP/1.1 request",
            Self::PlainHttp => "this port speaks HTTPS: write https:// in the address",
        }
    }

    /// The bytes of the response.
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

    /// Sends the response and closes the connection.
    pub(super) async fn send<S>(self, mut stream: S, dialect: Dialect)
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let answer = self.answer(dialect);
        // The few bytes fit into the send buffer in one write, if it has room.
        let write = poll_fn(|cx| Pin::new(&mut stream).poll_write(cx, &answer));
        if let Ok(Ok(_)) = tokio::time::timeout(DISCARD_TIME, write).await {
            linger(stream).await;
        }
    }
}

/// Closes a socket on which unwanted bytes may still arrive. After an immediate close, the kernel
/// would answer them with a reset, and the reset can destroy a response that the client has not
/// read yet. So it closes the sending side, reads for a while, and then closes.
pub(super) async fn linger<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S) {
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
        // A client that still sends is stopped by its TCP window until the time is over.
        std::task::Poll::Pending
    });
    let _ = tokio::time::timeout(DISCARD_TIME, end).await;
}
