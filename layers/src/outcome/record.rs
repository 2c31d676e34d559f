//! The data about a request, and the handle through which layers add to it.

use std::any::Any;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::{Extensions, HeaderName, HeaderValue, Method, Request, StatusCode, Uri};
use tokio::time::Instant;

use crate::shared::Shared;
use crate::{ClientAddress, Dialect, Operation, RouteMatch};

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The ending of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Ending {
    /// The request has not ended.
    #[default]
    Open,
    /// The response was sent completely.
    Complete,
    /// The client disconnected before the end.
    Cancelled,
    /// The backend or the gateway broke the response off.
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

/// The outcome of a request. The layer that knows a field sets it, through the [`Record`].
///
/// What only a program's own choice of a backend knows is set by no layer of this crate: `backend`,
/// `choice`, `attempts`, `queued`, `first_sent` and `last_answered`. Set them by
/// [`Record::update_in`] in the [`Choose`](crate::route) policy or in the service of a backend.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Outcome {
    /// The time when the request's head had been read.
    pub started: Instant,
    /// The request's method.
    pub method: Method,
    /// The request's address, as the client wrote it.
    pub uri: Uri,
    /// The result of the endpoint table, if there is one.
    pub route_match: Option<RouteMatch>,
    /// The request id: the `x-request-id` header as it reached this layer.
    pub request_id: Option<HeaderValue>,
    /// The model name as the client wrote it.
    pub model: Option<Arc<str>>,
    /// The model that answered, if [`model`](Self::model) is an alias; while none has, the one that
    /// was tried last.
    pub served_model: Option<Arc<str>>,
    /// Whether a streamed response was requested.
    pub stream: bool,
    /// The size of the request's body, if a layer has read it.
    pub body_bytes: Option<u64>,
    /// That size for an estimate of its tokens (`LlmRequest::prompt_bytes`), if a layer has read it.
    pub prompt_bytes: Option<u64>,
    /// Whether the prompt is missing or empty, if a layer has read the body: such a request loads or
    /// unloads a model.
    pub has_no_prompt: bool,
    /// The limit of the response in tokens that the request asks for, if a layer has read the body.
    pub max_tokens: Option<u64>,
    /// The address of the client, if the server has recorded it.
    pub client_address: Option<ClientAddress>,
    /// Whether the request arrived over TLS, as the server has recorded it.
    pub over_tls: bool,
    /// The name of the client's API key.
    pub identity: Option<Arc<str>>,
    /// The backend that gave the response.
    pub backend: Option<Arc<str>>,
    /// How a [`CacheLayer`](crate::cache::CacheLayer) answered without a request to a backend: `hit` or
    /// `collapsed`, as in its `Cache-Status`.
    #[cfg(feature = "cache")]
    pub cache: Option<&'static str>,
    /// What the router tells of its latest choice of a backend, in a type of its own. It has a field
    /// because most requests have a choice, and a map of [`extensions`](Self::extensions) costs three
    /// allocations.
    pub choice: Option<Arc<dyn Any + Send + Sync>>,
    /// The number of attempts, as the program counts them: 0 if it does not.
    pub attempts: u32,
    /// Of these, the attempts whose request a backend had got, and for whose answer nobody waited any
    /// longer: the client disconnected, or a time-out passed, before the response could begin. The backend
    /// has worked for them, and nobody knows for how many tokens. The client of the backends counts them.
    pub unanswered: u32,
    /// The time in the queue, of all waits together, also of those that ended without a slot; `None` if
    /// the request did not wait.
    pub queued: Option<Duration>,
    /// The time in which nothing could be done for the request but wait, besides the time in a queue:
    /// for the client's body, for the answers of backends, and between attempts.
    pub waited: Duration,
    /// When the request was first sent to a backend.
    pub first_sent: Option<Instant>,
    /// When the head of a backend's latest answer had arrived, or the attempt had failed; later, if the
    /// gateway needed more of the answer before it could go on.
    pub last_answered: Option<Instant>,
    /// The response's status.
    pub status: Option<StatusCode>,
    /// The time from the start to the response head. Ollama sends the head with the first byte.
    pub time_to_first_byte: Option<Duration>,
    /// The time from the start to the end; set when the record is complete.
    pub duration: Option<Duration>,
    /// The backend's token counts, if there is a [`UsageLayer`](crate::usage::UsageLayer); set when
    /// the record is complete.
    #[cfg(feature = "usage")]
    pub usage: Option<crate::usage::Usage>,
    #[cfg(feature = "usage")]
    report: Option<crate::usage::UsageReport>,
    /// Another request reports the usage of the response, which it shares with this one.
    #[cfg(feature = "usage")]
    is_usage_given_up: bool,
    /// The reason of a failure: [`Failure::kind`](crate::Failure::kind).
    pub error: Option<&'static str>,
    /// The ending. A layer that ends a broken answer with an error line sets [`Ending::Broken`].
    /// [`OutcomeLayer`](super::OutcomeLayer) sets all other endings.
    pub ending: Ending,
    /// Other data to keep until the end of the request, by type: for example a span or a token
    /// count.
    pub extensions: Extensions,
}

impl Outcome {
    /// The record of a request that starts now.
    pub fn starting(now: Instant) -> Self {
        Self::new(now, Method::GET, Uri::default())
    }

    /// The record of this request, which starts now.
    pub fn of<B>(request: &Request<B>, now: Instant) -> Self {
        let shared = Shared::of(request.extensions());
        Self {
            route_match: shared.and_then(|shared| shared.route.clone()),
            request_id: request.headers().get(X_REQUEST_ID).cloned(),
            client_address: shared.and_then(|shared| shared.client.map(ClientAddress)),
            over_tls: shared.is_some_and(|shared| shared.over_tls),
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
            over_tls: false,
            model: None,
            served_model: None,
            stream: false,
            body_bytes: None,
            prompt_bytes: None,
            has_no_prompt: false,
            max_tokens: None,
            identity: None,
            backend: None,
            #[cfg(feature = "cache")]
            cache: None,
            choice: None,
            attempts: 0,
            unanswered: 0,
            queued: None,
            waited: Duration::ZERO,
            first_sent: None,
            last_answered: None,
            status: None,
            time_to_first_byte: None,
            duration: None,
            #[cfg(feature = "usage")]
            usage: None,
            #[cfg(feature = "usage")]
            report: None,
            #[cfg(feature = "usage")]
            is_usage_given_up: false,
            error: None,
            ending: Ending::Open,
            extensions: Extensions::new(),
        }
    }

    /// The route of the path: one of few values. `None` for unknown paths.
    pub fn route(&self) -> Option<&Arc<str>> {
        let endpoint = self.route_match.as_ref()?.endpoint()?;
        Some(&endpoint.route)
    }

    /// The operation, if path and method are known.
    pub fn operation(&self) -> Option<Operation> {
        self.route_match.as_ref()?.operation()
    }

    /// The API dialect of the request.
    pub fn dialect(&self) -> Option<Dialect> {
        self.route_match.as_ref().map(RouteMatch::dialect)
    }

    /// The request's id as text.
    pub fn request_id(&self) -> Option<&str> {
        self.request_id.as_ref()?.to_str().ok()
    }

    /// What a [`UsageLayer`](crate::usage::UsageLayer) has measured of the response, also if the
    /// backend has sent no counts; `None` before the end, and for a response without inference.
    #[cfg(feature = "usage")]
    pub fn measured(&self) -> Option<&crate::usage::Measured> {
        let report = self.report.as_ref().filter(|_| !self.is_usage_given_up);
        report?.get()
    }

    /// Records an attempt at a backend: it was sent, and its answer's head or its failure came `now`.
    /// A later part of the answer is recorded in the same way, from the beginning of the wait for it.
    pub fn attempted(&mut self, sent: Instant, now: Instant) {
        self.first_sent.get_or_insert(sent);
        self.last_answered = Some(now);
        self.waited += now.saturating_duration_since(sent);
    }

    /// Copies what is a part of the request's head in memory: a server such as hyper would keep its
    /// whole buffer of 8 kB for it.
    pub(super) fn leave_head(&mut self) {
        if self.uri.authority().is_none()
            && let Some(target) = self.uri.path_and_query()
            && let Ok(copy) = Uri::try_from(target.as_str())
        {
            self.uri = copy;
        }
        if let Some(id) = &mut self.request_id
            && let Ok(mut copy) = HeaderValue::from_bytes(id.as_bytes())
        {
            copy.set_sensitive(id.is_sensitive());
            *id = copy;
        }
    }

    /// Sets the ending and the duration. An ending that an inner layer set is kept.
    pub(super) fn complete(&mut self, ending: Ending, now: Instant) {
        if self.ending == Ending::Open {
            self.ending = ending;
        }
        self.duration = Some(now.duration_since(self.started));
        #[cfg(feature = "usage")]
        if let Some(measured) = self.measured() {
            self.usage = measured.usage;
        }
    }
}

/// The record of a request in progress. It travels with the request ([`Record::of`]).
#[derive(Clone, Debug)]
pub struct Record(Arc<Mutex<Outcome>>);

impl Record {
    /// A new record.
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

    /// Puts this record into these extensions, as the layer does.
    pub fn put_into(self, extensions: &mut Extensions) {
        Shared::of_mut(extensions).record = Some(self);
    }

    /// Changes the record. Changes after the end are not reported.
    pub fn update<T>(&self, change: impl FnOnce(&mut Outcome) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Waits for a part of a backend's answer without which the gateway cannot go on, and records the
    /// time as a part of the attempt ([`Outcome::attempted`]): it is the backend's time, not the gateway's.
    /// Without an attempt the answer is the gateway's own, and nothing is recorded.
    pub async fn reading<F: Future>(record: Option<&Self>, part: F) -> F::Output {
        let began = Instant::now();
        let read = part.await;
        if let Some(record) = record {
            record.update(|outcome| {
                if outcome.first_sent.is_some() {
                    outcome.attempted(began, Instant::now());
                }
            });
        }
        read
    }

    /// The usage report of the response, after its head has passed a
    /// [`UsageLayer`](crate::usage::UsageLayer).
    #[cfg(feature = "usage")]
    pub fn usage_report(&self) -> Option<crate::usage::UsageReport> {
        self.update(|outcome| outcome.report.clone())
    }

    #[cfg(feature = "usage")]
    pub(crate) fn set_usage_report(&self, report: crate::usage::UsageReport) {
        self.update(|outcome| outcome.report = Some(report));
    }

    /// Leaves the usage to another request with the same response. The report stays, for the layers that
    /// settle the exchange.
    #[cfg(all(feature = "cache", feature = "usage"))]
    pub(crate) fn give_up_usage(&self) {
        self.update(|outcome| outcome.is_usage_given_up = true);
    }

    /// A copy of the current data.
    pub fn snapshot(&self) -> Outcome {
        self.update(|outcome| outcome.clone())
    }
}
