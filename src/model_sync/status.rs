//! What the sync knows of each server, for itself and for `/status`.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use llamatower_layers::ModelName;
use tokio::time::Instant;

/// The pause after the first failure is at most this; it doubles with each further one.
const FIRST_PAUSE: Duration = Duration::from_secs(30);
const LONGEST_PAUSE: Duration = Duration::from_secs(3600);

/// The number of pulled models that are kept for each server.
const PULLED_KEPT: usize = 10;

/// The state of the sync. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct SyncStatus(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    /// `None` if the sync is off.
    every: Option<Duration>,
    servers: BTreeMap<Arc<str>, ServerState>,
}

/// The state of the sync, as operators see it.
#[derive(Clone, Debug, Default)]
pub struct SyncReport {
    /// The interval; `None` if the sync is off.
    pub every: Option<Duration>,
    /// The servers, by name.
    pub servers: Vec<(Arc<str>, ServerState)>,
}

/// The state of the sync on one server.
#[derive(Clone, Debug)]
pub struct ServerState {
    /// When its models were compared last.
    pub compared_at: Option<Timestamp>,
    /// The model that is pulled now.
    pub pulling: Option<ModelName>,
    /// The models that were pulled last, and when that was done; the latest is the last one.
    pub pulled: Vec<(ModelName, Timestamp)>,
    /// The models that are missing because their pulls failed.
    pub failed: Vec<FailedPull>,
    is_ready: bool,
    /// A comparison or a pull is under way.
    is_busy: bool,
    /// How often the server had come up when it was compared last.
    ups: u64,
    /// When it is compared again.
    next_at: Instant,
}

/// A model whose pull failed.
#[derive(Clone, Debug)]
pub struct FailedPull {
    /// The model.
    pub model: ModelName,
    /// The reason of the last failure.
    pub reason: Arc<str>,
    /// The number of failures in a row.
    pub failures: u32,
    /// When it is pulled again.
    pub retry_at: Instant,
}

impl Default for ServerState {
    fn default() -> Self {
        Self {
            compared_at: None,
            pulling: None,
            pulled: Vec::new(),
            failed: Vec::new(),
            is_ready: false,
            is_busy: false,
            ups: 0,
            next_at: Instant::now(),
        }
    }
}

impl ServerState {
    /// One word: `waiting` for a server that is down, cordoned or not known yet, `pulling`, `failed`
    /// or `in_sync`.
    pub fn name(&self) -> &'static str {
        match () {
            () if self.pulling.is_some() => "pulling",
            () if !self.is_ready || self.compared_at.is_none() => "waiting",
            () if !self.failed.is_empty() => "failed",
            () => "in_sync",
        }
    }
}

impl SyncStatus {
    /// The current state.
    pub fn report(&self) -> SyncReport {
        let state = self.lock();
        let servers = state.servers.iter();
        SyncReport {
            every: state.every,
            servers: servers
                .map(|(name, row)| (name.clone(), row.clone()))
                .collect(),
        }
    }

    /// Begins anew with other rules: all servers are due, also for models that failed before.
    pub(super) fn begin(&self, every: Option<Duration>) {
        let mut state = self.lock();
        state.every = every;
        if every.is_none() {
            state.servers.retain(|_, row| row.is_busy);
        }
        for row in state.servers.values_mut() {
            row.failed.clear();
            row.next_at = Instant::now();
        }
    }

    /// Forgets the servers that are not among these.
    pub(super) fn keep(&self, names: &[Arc<str>]) {
        let mut state = self.lock();
        state
            .servers
            .retain(|name, row| row.is_busy || names.contains(name));
    }

    /// Whether a server is to be compared now; then it is busy until [`end`](Self::end).
    pub(super) fn begin_if_due(&self, name: &Arc<str>, is_ready: bool, ups: u64) -> bool {
        let mut state = self.lock();
        let row = state.servers.entry(name.clone()).or_default();
        row.is_ready = is_ready;
        let has_come_up = row.ups != ups;
        let is_due = has_come_up || row.next_at <= Instant::now();
        if !is_ready || row.is_busy || !is_due {
            return false;
        }
        (row.is_busy, row.ups) = (true, ups);
        true
    }

    /// Records a comparison; returns the first missing model that is to be pulled now.
    pub(super) fn compared(&self, name: &Arc<str>, missing: &[ModelName]) -> Option<ModelName> {
        let (mut state, now) = (self.lock(), Instant::now());
        let row = state.servers.entry(name.clone()).or_default();
        row.compared_at = Some(Timestamp::now());
        row.failed.retain(|failed| missing.contains(&failed.model));
        let pauses = |model: &&ModelName| {
            let mut failed = row.failed.iter();
            failed.any(|failed| failed.model == **model && failed.retry_at > now)
        };
        let next = missing.iter().find(|model| !pauses(model)).cloned();
        row.pulling.clone_from(&next);
        next
    }

    pub(super) fn note_pulled(&self, name: &Arc<str>, model: &ModelName) {
        let mut state = self.lock();
        let row = state.servers.entry(name.clone()).or_default();
        row.pulling = None;
        row.failed.retain(|failed| failed.model != *model);
        row.pulled.push((model.clone(), Timestamp::now()));
        let surplus = row.pulled.len().saturating_sub(PULLED_KEPT);
        row.pulled.drain(..surplus);
    }

    /// Records a failed pull; returns the pause before the next one.
    pub(super) fn note_failed(
        &self,
        name: &Arc<str>,
        model: &ModelName,
        reason: &str,
        every: Duration,
    ) -> Duration {
        let mut state = self.lock();
        let row = state.servers.entry(name.clone()).or_default();
        row.pulling = None;
        let known = row.failed.iter().position(|failed| failed.model == *model);
        let before = known.map(|place| row.failed.remove(place).failures);
        let failures = before.unwrap_or(0).saturating_add(1);
        let pause = pause(failures, every);
        row.failed.push(FailedPull {
            model: model.clone(),
            reason: reason.into(),
            failures,
            retry_at: Instant::now() + pause,
        });
        pause
    }

    /// Ends the work on a server; it is compared again after the interval, or when a failed pull is
    /// due.
    pub(super) fn end(&self, name: &Arc<str>, every: Duration) {
        let mut state = self.lock();
        if let Some(row) = state.servers.get_mut(name) {
            let retries = row.failed.iter().map(|failed| failed.retry_at);
            let regular = Instant::now() + every;
            row.next_at = retries.fold(regular, Ord::min);
            (row.is_busy, row.pulling) = (false, None);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn pause(failures: u32, every: Duration) -> Duration {
    let doublings = failures.saturating_sub(1).min(20);
    let first = every.min(FIRST_PAUSE);
    first.saturating_mul(1 << doublings).min(LONGEST_PAUSE)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const EVERY: Duration = Duration::from_secs(600);

    fn name() -> Arc<str> {
        "gpu-1:11434".into()
    }

    fn model(text: &str) -> ModelName {
        ModelName::parse(text).unwrap()
    }

    #[test]
    fn the_pause_doubles_up_to_an_hour() {
        let seconds = |failures| pause(failures, EVERY).as_secs();
        assert_eq!([1, 2, 3].map(seconds), [30, 60, 120]);
        assert_eq!(seconds(u32::MAX), 3600);
        assert_eq!(pause(1, Duration::from_secs(1)), Duration::from_secs(1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_is_due_at_first_after_the_interval_and_when_it_has_come_up() {
        let (status, name) = (SyncStatus::default(), name());
        assert!(!status.begin_if_due(&name, false, 0), "it is down");
        assert!(status.begin_if_due(&name, true, 0));
        assert!(!status.begin_if_due(&name, true, 0), "it is busy");
        status.end(&name, EVERY);
        assert!(!status.begin_if_due(&name, true, 0));
        assert!(status.begin_if_due(&name, true, 1), "it has come up again");
        status.end(&name, EVERY);
        tokio::time::advance(EVERY).await;
        assert!(status.begin_if_due(&name, true, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_failed_pull_pauses_and_stops_no_other() {
        let (status, name) = (SyncStatus::default(), name());
        let (a, b) = (model("a"), model("b"));
        let missing = [a.clone(), b.clone()];
        assert!(status.begin_if_due(&name, true, 0));
        assert_eq!(status.compared(&name, &missing), Some(a.clone()));
        let pause = status.note_failed(&name, &a, "no such model", EVERY);
        assert_eq!(status.compared(&name, &missing), Some(b.clone()));
        status.note_pulled(&name, &b);
        assert_eq!(status.compared(&name, std::slice::from_ref(&a)), None);
        status.end(&name, EVERY);
        assert!(!status.begin_if_due(&name, true, 0));
        tokio::time::advance(pause).await;
        assert!(
            status.begin_if_due(&name, true, 0),
            "the failed pull is due"
        );
        assert_eq!(
            status.compared(&name, std::slice::from_ref(&a)),
            Some(a.clone())
        );
        assert_eq!(status.note_failed(&name, &a, "again", EVERY), pause * 2);
        assert_eq!(status.compared(&name, &[]), None);
        let (_, row) = status.report().servers.remove(0);
        assert!(row.failed.is_empty(), "somebody else has pulled it");
    }
}
