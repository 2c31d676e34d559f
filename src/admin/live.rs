//! `/status/events`: what the status page shows, live, as server-sent events.
//!
//! The documents are made once a second for all pages together (and when a page is opened), and only
//! while a page is open. Each
//! part is an event of its own (`event: queue`), and a page gets it only if it has changed.

use std::convert::Infallible;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use http::header::CACHE_CONTROL;
use http::{HeaderName, HeaderValue};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use serde::Serialize;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until, timeout_at};

use super::answer::{self, Answer};
use super::session::Right;
use super::sources::Sources;
use crate::ollama::fleet::{BackendStatus, Installed, Resident};
use crate::status::{Activity, Models};

/// The time between two updates.
const UPDATE: Duration = Duration::from_secs(1);
/// The time after which a comment is sent if nothing has changed, so that proxies keep the
/// connection.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// The number of parts.
const PARTS: usize = 14;

/// The event of each part.
type Update = [Bytes; PARTS];

/// The live events. The task that makes them ends when this is dropped.
pub(super) struct Events {
    updates: watch::Sender<Arc<Update>>,
    page_opened: Arc<Notify>,
}

impl Events {
    /// Starts to make events from these sources.
    pub(super) fn start(sources: Arc<Sources>) -> Arc<Self> {
        let events = Arc::new(Self {
            updates: watch::Sender::default(),
            page_opened: Arc::default(),
        });
        let page_opened = events.page_opened.clone();
        tokio::spawn(make(Arc::downgrade(&events), page_opened, sources));
        events
    }

    /// The response with the events. It ends when the gateway ends, the client leaves, or has lost its
    /// right.
    pub(super) fn answer(&self, right: Right) -> Answer {
        let events = events_of(self.updates.subscribe(), right);
        self.page_opened.notify_one();
        let frames = events.map(|event| Ok::<_, Infallible>(Frame::data(event)));
        let body = StreamBody::new(frames).boxed_unsync();
        let mut answer = answer::with_body("text/event-stream", body);
        let headers = answer.headers_mut();
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        // nginx would hold the events back.
        let buffering = HeaderName::from_static("x-accel-buffering");
        headers.insert(buffering, HeaderValue::from_static("no"));
        answer
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        self.page_opened.notify_one();
    }
}

/// Makes an update each second while a page is open, and at once when one is opened.
async fn make(events: Weak<Events>, page_opened: Arc<Notify>, sources: Arc<Sources>) {
    let mut models = ModelsEvent::default();
    loop {
        page_opened.notified().await;
        loop {
            let next = Instant::now() + UPDATE;
            match events.upgrade() {
                Some(events) if events.updates.receiver_count() > 0 => {
                    let update = update(&sources, &mut models);
                    events.updates.send_replace(Arc::new(update));
                }
                Some(_) => break,
                None => return,
            }
            tokio::select! {
                () = sleep_until(next) => {}
                () = page_opened.notified() => {}
            }
        }
    }
}

/// What one page gets: each part that has changed since the last update.
fn events_of(
    updates: watch::Receiver<Arc<Update>>,
    right: Right,
) -> impl Stream<Item = Bytes> + Send {
    let page = Page {
        updates,
        right,
        sent: Update::default(),
        sent_at: Instant::now(),
    };
    stream::unfold(page, async |mut page| {
        let changed = page.changed().await?;
        page.sent_at = Instant::now();
        Some((changed, page))
    })
    .flat_map(stream::iter)
}

/// An open page.
struct Page {
    updates: watch::Receiver<Arc<Update>>,
    right: Right,
    sent: Update,
    sent_at: Instant,
}

impl Page {
    /// The next events; `None` at the end.
    async fn changed(&mut self) -> Option<Vec<Bytes>> {
        loop {
            match timeout_at(self.sent_at + KEEP_ALIVE, self.updates.changed()).await {
                Ok(Ok(())) if self.right.is_valid() => {}
                // The sender was dropped, or the operator must sign in again.
                Ok(_) => return None,
                Err(_) => return Some(vec![Bytes::from_static(b":\n\n")]),
            }
            let update = Update::clone(&self.updates.borrow_and_update());
            let parts = update.iter().zip(&self.sent);
            let changed = parts.filter(|(new, old)| new != old);
            let changed: Vec<_> = changed.map(|(new, _)| new.clone()).collect();
            self.sent = update;
            if !changed.is_empty() {
                return Some(changed);
            }
        }
    }
}

fn update(sources: &Sources, models: &mut ModelsEvent) -> Update {
    let backends = sources.fleet.status();
    let status = sources.status_of(&backends);
    let Activity {
        requests,
        intervals,
        clients,
        interval: _,
    } = sources.activity();
    [
        event("gateway", &status.gateway),
        event("backends", &status.backends),
        event("queue", &status.queue),
        event("waiting", &sources.waiting()),
        event("digests_differ", &status.digests_differ),
        event("cloud", &status.cloud),
        event("models_sync", &status.models_sync),
        event("state", &status.state),
        event("sharing", &status.sharing),
        models.update(sources, &backends),
        event("requests", &requests),
        event("intervals", &intervals),
        event("clients", &clients),
        event("keys", &sources.keys()),
    ]
}

fn event(name: &str, part: &impl Serialize) -> Bytes {
    // JSON without spaces has no line feeds, which would end the event's data.
    let data = serde_json::to_string(part).unwrap_or_default();
    format!("event: {name}\ndata: {data}\n\n").into()
}

/// The event with the models. A fleet can have thousands, so it is made again only after a probe.
#[derive(Default)]
struct ModelsEvent {
    made_from: Vec<ModelLists>,
    event: Bytes,
}

struct ModelLists(Arc<[Installed]>, Option<Arc<[Resident]>>);

impl ModelLists {
    fn of(backend: &BackendStatus) -> Self {
        Self(backend.models_on_disk.clone(), backend.resident.clone())
    }

    fn are_of(&self, backend: &BackendStatus) -> bool {
        let is_same = |one: &Arc<[Resident]>, other: &Arc<[Resident]>| Arc::ptr_eq(one, other);
        Arc::ptr_eq(&self.0, &backend.models_on_disk)
            && match (&self.1, &backend.resident) {
                (Some(one), Some(other)) => is_same(one, other),
                (one, other) => one.is_none() && other.is_none(),
            }
    }
}

impl ModelsEvent {
    fn update(&mut self, sources: &Sources, backends: &[BackendStatus]) -> Bytes {
        let pairs = self.made_from.iter().zip(backends);
        let is_current = self.made_from.len() == backends.len()
            && pairs
                .into_iter()
                .all(|(lists, backend)| lists.are_of(backend));
        if !is_current || self.event.is_empty() {
            let models = Models::new(backends, &sources.fleet.drifts());
            self.event = event("models", &models.models);
            self.made_from = backends.iter().map(ModelLists::of).collect();
        }
        self.event.clone()
    }
}
