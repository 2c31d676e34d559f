//! What is known of a request, and the handle by which layers add to it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::{Extensions, HeaderName, HeaderValue, Method, Request, StatusCode, Uri};
use tokio::time::Instant;

use crate::shared::Shared;
use crate::{ClientAddress, Dialect, Operation, RouteMatch};

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// How a request ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Ending {
    /// It has not.
    #[default]
    Open,
    /// The answer was sent whole.
    Complete,
    /// The client went away first.
    Cancelled,
    /// The answer broke off on the backend's or the gateway's side.
    Broken,
}

impl Ending {
    /// The ending's name in logs and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Complete => "complete",
            Self::Cancelled => "cancelled",
            Self::Broken => "broken",
        }
    }
}

/// What came of a request. Whoever knows a field fills it in, through the [`Record`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Outcome {
    /// When the request's head had been read.
    pub started: Instant,
    /// The request's method.
    pub method: Method,
    /// The request's address, as the client wrote it.
    pub uri: Uri,
    /// What the table of endpoints said of the request, if one was asked.
    pub route_match: Option<RouteMatch>,
    /// The request's id: its `x-request-id` header as it came to this layer.
    pub request_id: Option<HeaderValue>,
    /// The model's name as the client wrote it.
    pub model: Option<Arc<str>>,
    /// Whether the answer was to be a stream.
    pub stream: bool,
    /// The address of the client, if whoever accepted the connection has said it.
    pub client_address: Option<ClientAddress>,
    /// The name of the key that the client showed.
    pub identity: Option<Arc<str>>,
    /// The backend that gave the answer.
    pub backend: Option<Arc<str>>,
    /// How many times a backend was asked.
    pub attempts: u32,
    /// How long it waited for a slot of a backend, all attempts together; `None` if it had not to.
    pub queued: Option<Duration>,
    /// The answer's status.
    pub status: Option<StatusCode>,
    /// From the start to the answer's head; Ollama sends it with the first byte.
    pub time_to_first_byte: Option<Duration>,
    /// From the start to the end; set when the record is complete.
    pub duration: Option<Duration>,
    /// What the backend counted, if there is a [`UsageLayer`](crate::usage::UsageLayer); set when
    /// the record is complete.
    #[cfg(feature = "usage")]
    pub usage: Option<crate::usage::Usage>,
    #[cfg(feature = "usage")]
    report: Option<crate::usage::UsageReport>,
    /// Why it failed: [`Failure::kind`](crate::Failure::kind).
    pub error: Option<&'static str>,
    /// How it ended. A layer that breaks an answer off tidily, with an error line, sets
    /// [`Ending::Broken`]; everything else is found by [`OutcomeLayer`](super::OutcomeLayer).
    pub ending: Ending,
    /// Whatever else is to be kept until the end of the request, by its type: a span, a count
    /// of tokens.
    pub extensions: Extensions,
}

impl Outcome {
    /// The record of a request that starts now.
    pub fn starting(now: Instant) -> Self {
        Self::new(now, Method::GET, Uri::default())
    }

    /// The record of this request, which starts now.
    pub fn of<B>(request: &Request<B>, now: Instant) -> Self {
        Self {
            route_match: RouteMatch::of(request.extensions()).cloned(),
            request_id: request.headers().get(X_REQUEST_ID).cloned(),
            client_address: ClientAddress::of(request.extensions()),
            ..Self::new(now, request.method().clone(), request.uri().clone())
        }
    }

    fn new(started: Instant, method: Method, uri: Uri) -> Self {
        Self {
            started,
            method,
            uri,
            route_match: None,
            request_id: None,
            client_address: None,
            model: None,
            stream: false,
            identity: None,
            backend: None,
            attempts: 0,
            queued: None,
            status: None,
            time_to_first_byte: None,
            duration: None,
            #[cfg(feature = "usage")]
            usage: None,
            #[cfg(feature = "usage")]
            report: None,
            error: None,
            ending: Ending::Open,
            extensions: Extensions::new(),
        }
    }

    /// The route that the path belongs to: a name of few values. `None` for unknown paths.
    pub fn route(&self) -> Option<&Arc<str>> {
        let endpoint = self.route_match.as_ref()?.endpoint()?;
        Some(&endpoint.route)
    }

    /// What the request asks for, if its path and method are known.
    pub fn operation(&self) -> Option<Operation> {
        self.route_match.as_ref()?.operation()
    }

    /// How the request is written.
    pub fn dialect(&self) -> Option<Dialect> {
        self.route_match.as_ref().map(RouteMatch::dialect)
    }

    /// The request's id as text.
    pub fn request_id(&self) -> Option<&str> {
        self.request_id.as_ref()?.to_str().ok()
    }

    /// The ending and the time it took. What a layer inside has said of the ending stands.
    pub(super) fn complete(&mut self, ending: Ending, now: Instant) {
        if self.ending == Ending::Open {
            self.ending = ending;
        }
        self.duration = Some(now.duration_since(self.started));
        #[cfg(feature = "usage")]
        if let Some(measured) = self.report.as_ref().and_then(|report| report.get()) {
            self.usage = measured.usage;
        }
    }
}

/// The record while the request is under way; travels with the request ([`Record::of`]).
#[derive(Clone, Debug)]
pub struct Record(Arc<Mutex<Outcome>>);

impl Record {
    /// A record to be filled in.
    pub fn new(outcome: Outcome) -> Self {
        Self(Arc::new(Mutex::new(outcome)))
    }

    /// Changes the record of the request that these extensions belong to, if it has one.
    pub fn update_in(extensions: &Extensions, change: impl FnOnce(&mut Outcome)) {
        if let Some(record) = Self::of(extensions) {
            record.update(change);
        }
    }

    /// The record of the request with these extensions.
    pub fn of(extensions: &Extensions) -> Option<&Self> {
        Shared::of(extensions)?.record.as_ref()
    }

    /// Lets the request with these extensions have this record, as the layer does.
    pub fn put_into(self, extensions: &mut Extensions) {
        Shared::of_mut(extensions).record = Some(self);
    }

    /// Changes the record. What is changed after the end is seen by nobody.
    pub fn update<T>(&self, change: impl FnOnce(&mut Outcome) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Where the counts of the answer will be told, once its head has come through a
    /// [`UsageLayer`](crate::usage::UsageLayer).
    #[cfg(feature = "usage")]
    pub fn usage_report(&self) -> Option<crate::usage::UsageReport> {
        self.update(|outcome| outcome.report.clone())
    }

    #[cfg(feature = "usage")]
    pub(crate) fn set_usage_report(&self, report: crate::usage::UsageReport) {
        self.update(|outcome| outcome.report = Some(report));
    }

    /// What is known so far.
    pub fn snapshot(&self) -> Outcome {
        self.update(|outcome| outcome.clone())
    }
}
