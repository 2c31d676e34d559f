//! Which endpoint a request is for: an exact table, because a prefix can be walked round.
//!
//! Ollama answers `/api/%74ags` as `/api/tags` and redirects `//api/tags`, so a rule on a raw
//! path alone protects nothing. Here a path is one of the table or it is none, and what goes
//! upstream is rebuilt from the table. Percent-encoding is decoded in the place of a parameter and
//! nowhere else.

mod layer;
mod parameter;
mod require;
mod table;

use std::borrow::Cow;
use std::sync::Arc;

use http::header::{ALLOW, CONNECTION, UPGRADE};
use http::{Extensions, HeaderMap, HeaderValue, Method, StatusCode};

use crate::shared::Shared;
use crate::{BoxError, Dialect, Fail, Failure, Side};

pub use layer::{EndpointLayer, EndpointService};
pub use require::{RequireEndpoint, RequireEndpointFuture, RequireEndpointLayer};
pub use table::{EndpointTable, InvalidPath};

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Operation {
    /// `/`: is there a server.
    Root,
    /// The server's version.
    Version,
    /// The server's status.
    Status,
    /// The installed models, as Ollama lists them.
    Tags,
    /// The models in memory.
    Ps,
    /// The installed models, as OpenAI lists them.
    Models,
    /// One model, as OpenAI shows it.
    Model,
    /// One model's details.
    Show,
    /// Completion of a prompt.
    Generate,
    /// The next message of a chat.
    Chat,
    /// Vectors for texts.
    Embed,
    /// Text of a recording.
    Transcribe,
    /// Fetch a model from a registry.
    Pull,
    /// Send a model to a registry.
    Push,
    /// Make a model.
    Create,
    /// Give a model another name.
    Copy,
    /// Remove a model.
    Delete,
    /// Upload or ask for a blob.
    Blob,
    /// The account and tools of Ollama's cloud.
    Account,
    /// A path that the operator allowed by a setting.
    Extra,
}

impl Operation {
    /// Whether the operation runs a model.
    pub fn is_inference(self) -> bool {
        use Operation::{Chat, Embed, Extra, Generate, Transcribe};
        matches!(self, Generate | Chat | Embed | Transcribe | Extra)
    }

    /// Whether the operation changes what a server holds, and so is for administrators.
    pub fn is_management(self) -> bool {
        use Operation::{Account, Blob, Copy, Create, Delete, Pull, Push};
        matches!(self, Pull | Push | Create | Copy | Delete | Blob | Account)
    }

    /// Whether the request may be sent a second time without doing harm.
    pub fn is_replayable(self) -> bool {
        !self.is_management()
    }

    /// The operation's name in OpenTelemetry's GenAI conventions (`gen_ai.operation.name`),
    /// or its own name where the conventions have none.
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
    /// The path, with `{}` where a parameter stands; a name of few values for metrics.
    pub route: Arc<str>,
    /// The methods that the endpoint knows, in the order in which `Allow` names them.
    pub methods: Arc<[Method]>,
    /// How its requests and answers look.
    pub dialect: Dialect,
    /// What it does.
    pub operation: Operation,
    /// Whether a request that does not say so is answered by a stream.
    pub streams_by_default: bool,
}

/// What the table said of a request; travels with the request from then on ([`RouteMatch::of`]).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RouteMatch {
    /// The endpoint, and what stood in the place of its parameter.
    Found {
        /// The row of the table.
        endpoint: Arc<Endpoint>,
        /// The path's parameter, if the route has one.
        parameter: Option<Arc<str>>,
    },
    /// The path is known, the method is not.
    WrongMethod {
        /// The row of the table.
        endpoint: Arc<Endpoint>,
    },
    /// No such path.
    Unknown {
        /// The dialect that the path's beginning suggests.
        dialect: Dialect,
    },
}

impl RouteMatch {
    /// What the table said of the request with these extensions.
    pub fn of(extensions: &Extensions) -> Option<&Self> {
        Shared::of(extensions)?.route.as_ref()
    }

    /// Notes this of the request with these extensions, as the layer does.
    pub fn put_into(self, extensions: &mut Extensions) {
        Shared::of_mut(extensions).route = Some(self);
    }

    /// Refuses a request whose path or method is not in the table; a predicate for tower's
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
            Some(Self::WrongMethod { endpoint }) => Some(Failure::from(MethodNotAllowed {
                allowed: endpoint.methods.clone(),
            })),
            Some(Self::Unknown { .. }) | None => Some(Failure::from(NotFound)),
        }
    }

    /// The row that the path belongs to, whatever the method.
    pub fn endpoint(&self) -> Option<&Arc<Endpoint>> {
        match self {
            Self::Found { endpoint, .. } | Self::WrongMethod { endpoint } => Some(endpoint),
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

    /// The dialect in which a failure is told. Ollama tells a wrong path or method as text.
    pub fn dialect(&self) -> Dialect {
        match self {
            Self::Found { endpoint, .. } => endpoint.dialect,
            Self::WrongMethod { .. } => Dialect::Text,
            Self::Unknown { dialect } => *dialect,
        }
    }

    /// The path to ask a backend for, built from the table and never from the request.
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
    /// What `Allow` names.
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
    /// `Allow` is a must on a 405 (RFC 9110 15.5.6).
    fn write_headers(&self, headers: &mut HeaderMap) {
        let methods: Vec<_> = self.allowed.iter().map(Method::as_str).collect();
        if let Ok(value) = HeaderValue::try_from(methods.join(", ")) {
            headers.insert(ALLOW, value);
        }
    }
}

/// A WebSocket was asked for at a path that is served by plain requests. Clients that can do both go
/// on with those when they see this status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("426 upgrade required: there is no WebSocket here; send the request by HTTP/1.1 POST")]
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
    /// `Upgrade` is a must on a 426, and `Connection` names it (RFC 9110 15.5.22 and 7.8).
    fn write_headers(&self, headers: &mut HeaderMap) {
        headers.insert(UPGRADE, HeaderValue::from_static("HTTP/1.1"));
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    }
}

/// Whether this is the handshake of a WebSocket (RFC 6455 4.1).
fn wants_websocket<B>(request: &http::Request<B>) -> bool {
    let mut offered = request.headers().get_all(UPGRADE).iter();
    *request.method() == Method::GET
        && offered.any(|value| {
            let mut protocols = value.as_bytes().split(|byte| *byte == b',');
            protocols.any(|name| name.trim_ascii().eq_ignore_ascii_case(b"websocket"))
        })
}
