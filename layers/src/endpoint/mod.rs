//! The endpoint of a request, from a table of exact paths, because prefix rules can be bypassed.
//!
//! Ollama treats `/api/%74ags` as `/api/tags` and redirects `//api/tags`, so a rule on the raw path
//! alone gives no protection. Here a path is in the table or it is unknown, which
//! [`RequireEndpointLayer`] refuses; [`RouteMatch::upstream_path`] is built from the table.
//! Percent-encoding is decoded only in a path parameter.

mod layer;
mod parameter;
mod presets;
mod require;
mod table;

use std::borrow::Cow;
use std::sync::Arc;

use http::header::{ALLOW, CONNECTION, UPGRADE};
use http::{Extensions, HeaderMap, HeaderValue, Method, StatusCode};

use crate::shared::Shared;
use crate::{BoxError, Dialect, Fail, Failure, Side};

pub use layer::{EndpointLayer, EndpointService};
pub use require::{RequireEndpointFuture, RequireEndpointLayer, RequireEndpointService};
pub use table::{EndpointTable, InvalidPath};

/// The operation of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Operation {
    /// `/`: a check whether the server is alive.
    Root,
    /// The server's version.
    Version,
    /// The server's status.
    Status,
    /// The installed models, in Ollama's format.
    Tags,
    /// The models in memory.
    Ps,
    /// The installed models, in OpenAI's format.
    Models,
    /// One model, in OpenAI's format.
    Model,
    /// One model's details.
    Show,
    /// Completion of a prompt.
    Generate,
    /// The next message in a chat.
    Chat,
    /// Embeddings of texts.
    Embed,
    /// Transcription of audio.
    Transcribe,
    /// Count of a prompt's tokens.
    CountTokens,
    /// Download a model from a registry.
    Pull,
    /// Upload a model to a registry.
    Push,
    /// Create a model.
    Create,
    /// Copy a model to another name.
    Copy,
    /// Delete a model.
    Delete,
    /// Upload a blob, or check that it exists.
    Blob,
    /// The account and tools of Ollama's cloud.
    Account,
    /// Another operation that runs a model, which the request names: reranking, or a path that an
    /// operator has allowed by a setting.
    Extra,
}

impl Operation {
    /// Whether the operation runs a model.
    pub fn is_inference(self) -> bool {
        use Operation::{Chat, Embed, Extra, Generate, Transcribe};
        matches!(self, Generate | Chat | Embed | Transcribe | Extra)
    }

    /// Whether the operation changes a server's models, and so needs an administrator's key.
    pub fn is_management(self) -> bool {
        use Operation::{Account, Blob, Copy, Create, Delete, Pull, Push};
        matches!(self, Pull | Push | Create | Copy | Delete | Blob | Account)
    }

    /// Whether the request may safely be sent twice.
    pub fn is_replayable(self) -> bool {
        !self.is_management()
    }

    /// Whether a response in Ollama's dialect is a stream unless the request disables it.
    fn streams_in_ollama(self) -> bool {
        use Operation::{Chat, Create, Extra, Generate, Pull, Push};
        matches!(self, Generate | Chat | Pull | Push | Create | Extra)
    }

    /// The operation's name in OpenTelemetry's GenAI conventions (`gen_ai.operation.name`), or our
    /// own name if there is none.
    pub fn name(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::Version => "version",
            Self::Status => "status",
            Self::Tags => "tags",
            Self::Ps => "ps",
            Self::Models => "models",
            Self::Model => "model",
            Self::Show => "show",
            Self::Generate => "text_completion",
            Self::Chat => "chat",
            Self::Embed => "embeddings",
            Self::Transcribe => "transcription",
            Self::CountTokens => "count_tokens",
            Self::Pull => "pull",
            Self::Push => "push",
            Self::Create => "create",
            Self::Copy => "copy",
            Self::Delete => "delete",
            Self::Blob => "blob",
            Self::Account => "account",
            Self::Extra => "extra",
        }
    }
}

/// One row of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The path, with `{}` for a parameter; a low-cardinality name for metrics.
    pub route: Arc<str>,
    /// The allowed methods, in the order of `Allow`.
    pub methods: Arc<[Method]>,
    /// The format of its requests and responses.
    pub dialect: Dialect,
    /// Its operation.
    pub operation: Operation,
    /// Whether the response is a stream unless the request disables it.
    pub streams_by_default: bool,
}

impl Endpoint {
    /// A row as [`EndpointTable::route`] adds it.
    fn new(path: &str, methods: &[Method], dialect: Dialect, operation: Operation) -> Self {
        Self {
            route: path.into(),
            methods: methods.into(),
            dialect,
            operation,
            streams_by_default: dialect == Dialect::Ollama && operation.streams_in_ollama(),
        }
    }
}

/// The result of the lookup; stored in the request's extensions ([`RouteMatch::of`]).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RouteMatch {
    /// The endpoint, and the value of its path parameter.
    Found {
        /// The row of the table.
        endpoint: Arc<Endpoint>,
        /// The path's parameter, if the route has one.
        parameter: Option<Arc<str>>,
    },
    /// The path is known, but not with this method.
    WrongMethod {
        /// The row of the table.
        endpoint: Arc<Endpoint>,
        /// The dialect of the refusal ([`EndpointTable::with_refusal_dialect`]).
        dialect: Dialect,
    },
    /// The path is unknown.
    Unknown {
        /// The dialect of the refusal ([`EndpointTable::with_refusal_dialect`]).
        dialect: Dialect,
    },
}

impl RouteMatch {
    /// The lookup's result in these extensions.
    pub fn of(extensions: &Extensions) -> Option<&Self> {
        Shared::of(extensions)?.route.as_ref()
    }

    /// Stores the result in these extensions, as the layer does.
    pub fn put_into(self, extensions: &mut Extensions) {
        Shared::of_mut(extensions).route = Some(self);
    }

    /// Refuses a request whose path or method is not in the table. It is a predicate for tower's
    /// filter.
    ///
    /// # Errors
    /// [`NotFound`], [`MethodNotAllowed`] and [`NoWebSocket`].
    pub fn require<B>(request: http::Request<B>) -> Result<http::Request<B>, BoxError> {
        match Self::refusal(&request) {
            None => Ok(request),
            Some(failure) => Err(failure.into()),
        }
    }

    fn refusal<B>(request: &http::Request<B>) -> Option<Failure> {
        match Self::of(request.extensions()) {
            Some(Self::Found { .. }) => None,
            Some(Self::WrongMethod { .. }) if wants_websocket(request) => {
                Some(Failure::from(NoWebSocket))
            }
            Some(Self::WrongMethod { endpoint, .. }) => Some(Failure::from(MethodNotAllowed {
                allowed: endpoint.methods.clone(),
            })),
            Some(Self::Unknown { .. }) | None => Some(Failure::from(NotFound)),
        }
    }

    /// The row of the path, for any method.
    pub fn endpoint(&self) -> Option<&Arc<Endpoint>> {
        match self {
            Self::Found { endpoint, .. } | Self::WrongMethod { endpoint, .. } => Some(endpoint),
            Self::Unknown { .. } => None,
        }
    }

    /// The operation, if path and method are known.
    pub fn operation(&self) -> Option<Operation> {
        match self {
            Self::Found { endpoint, .. } => Some(endpoint.operation),
            _ => None,
        }
    }

    /// The dialect of errors.
    pub fn dialect(&self) -> Dialect {
        match self {
            Self::Found { endpoint, .. } => endpoint.dialect,
            Self::WrongMethod { dialect, .. } | Self::Unknown { dialect } => *dialect,
        }
    }

    /// The upstream path, built from the table and not from the raw path.
    pub fn upstream_path(&self) -> Option<Cow<'_, str>> {
        match self {
            Self::Found {
                endpoint,
                parameter,
            } => Some(match parameter {
                Some(value) => endpoint.route.replace("{}", value).into(),
                None => (&*endpoint.route).into(),
            }),
            _ => None,
        }
    }
}

/// No endpoint has this path. The text is Ollama's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("404 page not found")]
pub struct NotFound;

impl Fail for NotFound {
    fn side(&self) -> Side {
        Side::Client
    }
    fn status(&self) -> StatusCode {
        StatusCode::NOT_FOUND
    }
    fn kind(&self) -> &'static str {
        "unknown_path"
    }
}

/// The endpoint does not know this method. The text is Ollama's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("405 method not allowed")]
pub struct MethodNotAllowed {
    /// The value of `Allow`.
    pub allowed: Arc<[Method]>,
}

impl Fail for MethodNotAllowed {
    fn side(&self) -> Side {
        Side::Client
    }
    fn status(&self) -> StatusCode {
        StatusCode::METHOD_NOT_ALLOWED
    }
    fn kind(&self) -> &'static str {
        "wrong_method"
    }
    /// A 405 requires `Allow` (RFC 9110 15.5.6).
    fn write_headers(&self, headers: &mut HeaderMap) {
        let methods: Vec<_> = self.allowed.iter().map(Method::as_str).collect();
        if let Ok(value) = HeaderValue::try_from(methods.join(", ")) {
            headers.insert(ALLOW, value);
        }
    }
}

/// The request wants a WebSocket, which is not supported. Clients that can also use plain requests
/// do so when they see this status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("426 upgrade required: WebSocket is not supported; send the request by HTTP/1.1 POST")]
pub struct NoWebSocket;

impl Fail for NoWebSocket {
    fn side(&self) -> Side {
        Side::Client
    }
    fn status(&self) -> StatusCode {
        StatusCode::UPGRADE_REQUIRED
    }
    fn kind(&self) -> &'static str {
        "no_websocket"
    }
    /// A 426 requires `Upgrade`, which `Connection` must list (RFC 9110 15.5.22 and 7.8).
    fn write_headers(&self, headers: &mut HeaderMap) {
        headers.insert(UPGRADE, HeaderValue::from_static("HTTP/1.1"));
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    }
}

/// Whether this is a WebSocket handshake (RFC 6455 4.1).
fn wants_websocket<B>(request: &http::Request<B>) -> bool {
    let mut offered = request.headers().get_all(UPGRADE).iter();
    *request.method() == Method::GET
        && offered.any(|value| {
            let mut protocols = value.as_bytes().split(|byte| *byte == b',');
            protocols.any(|name| name.trim_ascii().eq_ignore_ascii_case(b"websocket"))
        })
}
