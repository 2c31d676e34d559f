//! The requests that the simulated server received, and an event for each change.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use bytes::Bytes;
use data_encoding::HEXLOWER;
use http::{HeaderMap, Method, Uri};
use jiff::Timestamp;
use serde::Serialize;
use sha2::{Digest, Sha256};
use tokio::sync::Notify;
use tokio::sync::futures::Notified;

/// The outcome of an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Outcome {
    /// The whole answer was written.
    Complete,
    /// The client disconnected before the end.
    Cancelled,
    /// A fault ended it.
    Faulted,
}

/// A request that the server received. Clones are cheap and show the current state until the
/// request has ended.
#[derive(Clone, Debug)]
pub struct SeenRequest {
    inner: Arc<Seen>,
}

#[derive(Debug)]
struct Seen {
    id: u64,
    connection: u64,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    arrived: Timestamp,
    body: OnceLock<Bytes>,
    body_len: AtomicU64,
    model: OnceLock<String>,
    status: OnceLock<u16>,
    lines: AtomicU64,
    end: OnceLock<(Outcome, Timestamp)>,
}

impl SeenRequest {
    /// The number of the request, from 1, in order of arrival.
    pub fn id(&self) -> u64 {
        self.inner.id
    }
    /// The number of the connection, from 1, in order of arrival.
    pub fn connection(&self) -> u64 {
        self.inner.connection
    }
    /// The method.
    pub fn method(&self) -> &Method {
        &self.inner.method
    }
    /// The path, as received.
    pub fn path(&self) -> &str {
        self.inner.uri.path()
    }
    /// The whole request target, as received.
    pub fn uri(&self) -> &Uri {
        &self.inner.uri
    }
    /// The header fields.
    pub fn headers(&self) -> &HeaderMap {
        &self.inner.headers
    }
    /// The body, after it was read completely. The body of a blob is hashed and not kept.
    pub fn body(&self) -> Option<&Bytes> {
        self.inner.body.get()
    }
    /// The number of body bytes read so far.
    pub fn body_len(&self) -> u64 {
        self.inner.body_len.load(Ordering::Relaxed)
    }
    /// The SHA-256 of the body in hex, after it was read.
    pub fn body_sha256(&self) -> Option<String> {
        self.body()
            .map(|body| HEXLOWER.encode(&Sha256::digest(body)))
    }
    /// The model name in the body, as written there.
    pub fn model(&self) -> Option<&str> {
        self.inner.model.get().map(|model| &**model)
    }
    /// The status of the answer, if there is one.
    pub fn status(&self) -> Option<u16> {
        self.inner.status.get().copied()
    }
    /// The number of body chunks sent to the connection so far.
    pub fn lines(&self) -> u64 {
        self.inner.lines.load(Ordering::Relaxed)
    }
    /// The time when the request's head had arrived.
    pub fn arrived(&self) -> Timestamp {
        self.inner.arrived
    }
    /// The outcome, if the request has ended.
    pub fn outcome(&self) -> Option<Outcome> {
        self.inner.end.get().map(|(outcome, _)| *outcome)
    }
    /// The time of the end, if the request has ended.
    pub fn ended(&self) -> Option<Timestamp> {
        self.inner.end.get().map(|(_, at)| *at)
    }

    pub(crate) fn set_body(&self, body: Bytes) {
        self.inner
            .body_len
            .store(body.len() as u64, Ordering::Relaxed);
        let _ = self.inner.body.set(body);
    }
    pub(crate) fn add_body_len(&self, bytes: usize) {
        self.inner
            .body_len
            .fetch_add(bytes as u64, Ordering::Relaxed);
    }
    pub(crate) fn set_model(&self, model: &str) {
        let _ = self.inner.model.set(model.to_owned());
    }
    pub(crate) fn set_status(&self, status: u16) {
        let _ = self.inner.status.set(status);
    }
}

impl Serialize for SeenRequest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Shown<'a> {
            id: u64,
            connection: u64,
            method: &'a str,
            path: &'a str,
            query: Option<&'a str>,
            headers: Vec<(&'a str, std::borrow::Cow<'a, str>)>,
            model: Option<&'a str>,
            body_len: u64,
            body_sha256: Option<String>,
            status: Option<u16>,
            lines: u64,
            arrived: String,
            outcome: Option<Outcome>,
            ended: Option<String>,
        }
        Shown {
            id: self.id(),
            connection: self.connection(),
            method: self.method().as_str(),
            path: self.path(),
            query: self.uri().query(),
            headers: self
                .headers()
                .iter()
                .map(|(name, value)| (name.as_str(), String::from_utf8_lossy(value.as_bytes())))
                .collect(),
            model: self.model(),
            body_len: self.body_len(),
            body_sha256: self.body_sha256(),
            status: self.status(),
            lines: self.lines(),
            arrived: self.arrived().to_string(),
            outcome: self.outcome(),
            ended: self.ended().map(|at| at.to_string()),
        }
        .serialize(serializer)
    }
}

/// A snapshot of the server; tests wait for conditions on it.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct SimState {
    /// Connections accepted since the start.
    pub connections_accepted: u64,
    /// Open connections.
    pub connections_open: usize,
    /// Requests received since the start, without those for `/sim`.
    pub requests_seen: u64,
    /// Requests in progress.
    pub in_flight: usize,
    /// Requests whose client disconnected before the end of the answer.
    pub cancelled: u64,
    /// Requests that hold a slot of a model.
    pub generating: usize,
    /// Requests for a resident model that wait for a slot.
    pub waiting_for_slot: usize,
    /// Requests that wait for a model load, or for memory for it.
    pub waiting_for_load: usize,
    /// Loads started since the start.
    pub loads: u64,
    /// Loads cancelled because the client disconnected.
    pub loads_aborted: u64,
    /// The names of the resident models.
    pub resident: Vec<String>,
    /// The latest requests, oldest first, without those for `/sim`.
    pub requests: Vec<SeenRequest>,
}

/// The log and the counters.
#[derive(Debug)]
pub(crate) struct Log {
    capacity: usize,
    seen: Mutex<VecDeque<SeenRequest>>,
    pub(crate) requests_seen: AtomicU64,
    pub(crate) in_flight: AtomicUsize,
    pub(crate) cancelled: AtomicU64,
    pub(crate) connections_accepted: AtomicU64,
    pub(crate) connections_open: AtomicUsize,
    pub(crate) events: Arc<Events>,
}

impl Log {
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            capacity,
            seen: Mutex::default(),
            requests_seen: AtomicU64::new(0),
            in_flight: AtomicUsize::new(0),
            cancelled: AtomicU64::new(0),
            connections_accepted: AtomicU64::new(0),
            connections_open: AtomicUsize::new(0),
            events: Arc::default(),
        }
    }

    fn seen(&self) -> MutexGuard<'_, VecDeque<SeenRequest>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn requests(&self) -> Vec<SeenRequest> {
        self.seen().iter().cloned().collect()
    }

    pub(crate) fn clear(&self) {
        self.seen().clear();
    }

    /// Logs a request; the returned guard logs its end.
    pub(crate) fn arrive(
        self: &Arc<Self>,
        connection: u64,
        method: &Method,
        uri: &Uri,
        headers: &HeaderMap,
    ) -> ExchangeGuard {
        let request = SeenRequest {
            inner: Arc::new(Seen {
                id: self.requests_seen.fetch_add(1, Ordering::Relaxed) + 1,
                connection,
                method: method.clone(),
                uri: uri.clone(),
                headers: headers.clone(),
                arrived: Timestamp::now(),
                body: OnceLock::new(),
                body_len: AtomicU64::new(0),
                model: OnceLock::new(),
                status: OnceLock::new(),
                lines: AtomicU64::new(0),
                end: OnceLock::new(),
            }),
        };
        {
            let mut seen = self.seen();
            if seen.len() >= self.capacity {
                seen.pop_front();
            }
            if self.capacity > 0 {
                seen.push_back(request.clone());
            }
        }
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        self.events.notify_waiters();
        ExchangeGuard {
            request,
            log: self.clone(),
            ended: false,
        }
    }
}

/// Follows an exchange to its end and logs the outcome. Dropping it early logs a cancellation.
pub(crate) struct ExchangeGuard {
    request: SeenRequest,
    log: Arc<Log>,
    ended: bool,
}

impl ExchangeGuard {
    pub(crate) fn request(&self) -> &SeenRequest {
        &self.request
    }

    pub(crate) fn line(&mut self) {
        self.request.inner.lines.fetch_add(1, Ordering::Relaxed);
        self.log.events.notify_waiters();
    }

    pub(crate) fn complete(&mut self) {
        self.end(Outcome::Complete);
    }

    pub(crate) fn cut_short(&mut self) {
        self.end(Outcome::Faulted);
    }

    fn end(&mut self, outcome: Outcome) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        let _ = self.request.inner.end.set((outcome, Timestamp::now()));
        self.log.in_flight.fetch_sub(1, Ordering::Relaxed);
        if outcome == Outcome::Cancelled {
            self.log.cancelled.fetch_add(1, Ordering::Relaxed);
        }
        self.log.events.notify_waiters();
    }
}

impl Drop for ExchangeGuard {
    fn drop(&mut self) {
        self.end(Outcome::Cancelled);
    }
}

/// Wakes the waiters for a change; costs one load if there is no waiter.
#[derive(Debug, Default)]
pub(crate) struct Events {
    has_waiters: AtomicBool,
    notify: Notify,
}

impl Events {
    pub(crate) fn notify_waiters(&self) {
        if self.has_waiters.load(Ordering::SeqCst) {
            self.notify.notify_waiters();
        }
    }

    /// Enable the returned value before you read the state.
    pub(crate) fn next(&self) -> Notified<'_> {
        self.has_waiters.store(true, Ordering::SeqCst);
        self.notify.notified()
    }
}
