//! Outlier detection: what a backend did lately with each model.
//!
//! A backend that refuses or fails at once looks idle, and would draw all requests. So the result of
//! each request that runs a model is recorded for its backend and model, and a backend with a bad
//! record is chosen after all others that have the model. Other models of the backend are not
//! affected. A good response removes the record.
//!
//! ```text
//! bad result ── avoided ── one request as a trial ✗ ── avoided, twice as long ── trial ✓ ── normal
//!               1 s                                    2 s .. 10 s
//! ```
//!
//! A backend that was silent gets no request as a trial, because the client would have to wait for
//! the time-out. The gateway itself tries the model instead.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use foldhash::HashMap;
use llamatower_layers::ModelName;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::clients::Client;

/// How long a backend is avoided after the first bad result; each further one doubles it.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest time that a backend is avoided without a trial, if it does not ask for more.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// The longest time for which a backend's `Retry-After` is respected. A longer one may be a mistake,
/// and would keep a backend out of use that works again.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(60);
/// A client that leaves earlier than this says nothing about the backend: editors cancel their
/// requests with each key stroke.
const SHORTEST_PATIENCE: Duration = Duration::from_millis(500);
/// A client that leaves twice in a row counts twice only if it has waited this many times as long the
/// second time: editors cancel several requests in a row.
const SAME_CLIENT_PATIENCE: u32 = 3;
/// It counts again too if it left this much later.
const SAME_CLIENT_LATER: Duration = Duration::from_secs(30);
/// The most models with a record. Clients choose the names, so there must be a limit; beyond it the
/// record whose trial is due first is forgotten.
const MOST_RECORDS: usize = 256;
/// So many clients in a row that wait and leave without a byte count as silence.
const CLIENTS_LEFT: u32 = 2;

/// Why a backend is avoided for a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// It refused a request: 503 or 429.
    Busy,
    /// It responded with another 5xx status, or lost the connection before a response.
    Failing,
    /// It did not respond in time, or clients gave up in a row.
    Silent,
}

impl Reason {
    /// A short name for logs and `/status`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Busy => "busy",
            Self::Failing => "failing",
            Self::Silent => "silent",
        }
    }
}

/// A client that has left before the first byte.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ClientLeft {
    /// Who it is, if that is known.
    pub(crate) client: Option<Client>,
    /// The time since the request was sent.
    pub(crate) waited: Duration,
    /// The expected time until the first byte; zero if nothing is known.
    pub(crate) expected: Duration,
}

impl ClientLeft {
    /// How long a client must have waited for its leaving to count: half as long again as is expected.
    fn patience(&self) -> Duration {
        let late = self.expected.saturating_add(self.expected / 2);
        late.max(SHORTEST_PATIENCE)
    }
}

/// The result of a request, as far as it says something about its backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// A response that shows that the backend runs the model.
    Good,
    /// A good response to the gateway's own trial. It says less than one to a client: if clients
    /// leave again, the first one is enough, and the next trial is later.
    GoodTrial,
    /// A bad response, or none; with the backend's `Retry-After`.
    Bad(Reason, Option<Duration>),
    /// The client left before the first byte.
    ClientLeft(ClientLeft),
}

/// What the choice of a backend needs to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// No bad record.
    Normal,
    /// The next request is a trial.
    TrialDue,
    /// It is chosen only without an alternative.
    Avoided,
}

impl Standing {
    /// The standing for a request that was tried before if `is_retry`. Such a request is no trial:
    /// where many backends fail, it could meet one after the other.
    pub(crate) fn for_attempt(self, is_retry: bool) -> Self {
        match self {
            Self::TrialDue if is_retry => Self::Avoided,
            standing => standing,
        }
    }
}

/// A backend that is avoided for a model.
#[derive(Clone, Debug)]
pub struct Avoided {
    /// The model.
    pub model: ModelName,
    /// The reason.
    pub reason: Reason,
    /// The number of bad results in a row.
    pub failures: u32,
    /// The time until a trial; zero if one is due or under way.
    pub trial_in: Duration,
}

/// The records of one backend.
#[derive(Debug, Default)]
pub(crate) struct Outliers {
    /// The number of records, so that a backend without any costs no lock.
    count: AtomicUsize,
    by_model: Mutex<HashMap<ModelName, Record>>,
    silence: Notify,
}

#[derive(Debug)]
struct Record {
    /// `None` while only clients have left.
    reason: Option<Reason>,
    failures: u32,
    clients_left: u32,
    /// The last client that has left, and when; `None` after a trial.
    last_left: Option<(Option<Client>, Instant)>,
    trial_at: Instant,
    /// A request is under way as a trial.
    is_tried: bool,
}

impl Record {
    fn new(now: Instant) -> Self {
        Self {
            reason: None,
            failures: 0,
            clients_left: 0,
            last_left: None,
            trial_at: now,
            is_tried: false,
        }
    }

    /// Whether the backend was silent.
    fn is_silent(&self) -> bool {
        self.reason == Some(Reason::Silent)
    }

    fn fail(&mut self, reason: Reason, retry_after: Option<Duration>, now: Instant) {
        self.reason = Some(reason);
        let pause = FIRST_PAUSE.saturating_mul(1 << self.failures.min(5));
        let retry_after = retry_after.unwrap_or_default().min(LONGEST_RETRY_AFTER);
        let pause = pause.min(LONGEST_PAUSE).max(retry_after);
        self.failures = self.failures.saturating_add(1);
        self.trial_at = now + pause;
        self.is_tried = false;
    }

    /// Counts a client that has left after its patience, if it says more than the last one did.
    fn client_left(&mut self, left: &ClientLeft, now: Instant) {
        let counts = match &self.last_left {
            Some((client, at)) if *client == left.client => {
                left.waited >= left.patience().saturating_mul(SAME_CLIENT_PATIENCE)
                    || now.saturating_duration_since(*at) >= SAME_CLIENT_LATER
            }
            _ => true,
        };
        if counts {
            self.clients_left += 1;
            self.last_left = Some((left.client.clone(), now));
        }
    }

    fn standing(&self, now: Instant) -> Standing {
        match self.reason {
            None => Standing::Normal,
            Some(Reason::Silent) => Standing::Avoided,
            Some(_) if self.is_tried || now < self.trial_at => Standing::Avoided,
            Some(_) => Standing::TrialDue,
        }
    }
}

/// What has changed by a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    None,
    /// The backend is avoided now, or for another reason.
    Avoided(Reason),
    /// It is no longer avoided.
    Normal,
}

impl Outliers {
    /// The backend's standing for a model.
    pub(crate) fn standing(&self, model: &ModelName, now: Instant) -> Standing {
        if self.count.load(Ordering::Relaxed) == 0 {
            return Standing::Normal;
        }
        let records = self.records();
        let record = records.get(model);
        record.map_or(Standing::Normal, |record| record.standing(now))
    }

    /// Whether the backend was silent with a model.
    pub(crate) fn is_silent(&self, model: &ModelName) -> bool {
        if self.count.load(Ordering::Relaxed) == 0 {
            return false;
        }
        let records = self.records();
        let record = records.get(model);
        record.is_some_and(Record::is_silent)
    }

    /// Notes that the next request is the trial that was due.
    pub(crate) fn begin_trial(&self, model: &ModelName) {
        if let Some(record) = self.records().get_mut(model) {
            record.is_tried = true;
        }
    }

    /// Notes that a request ended without a result.
    pub(crate) fn end_trial(&self, model: &ModelName) {
        if self.count.load(Ordering::Relaxed) > 0
            && let Some(record) = self.records().get_mut(model)
        {
            record.is_tried = false;
        }
    }

    /// Records a result.
    pub(crate) fn record(&self, model: &ModelName, outcome: Outcome, now: Instant) -> Change {
        if outcome == Outcome::Good && self.count.load(Ordering::Relaxed) == 0 {
            return Change::None;
        }
        let mut records = self.records();
        let change = match outcome {
            Outcome::Good => match records.remove(model) {
                Some(Record {
                    reason: Some(_), ..
                }) => Change::Normal,
                _ => Change::None,
            },
            Outcome::GoodTrial => match records.get_mut(model) {
                Some(record) => {
                    record.clients_left = CLIENTS_LEFT - 1;
                    record.last_left = None;
                    match record.reason.take() {
                        Some(_) => Change::Normal,
                        None => Change::None,
                    }
                }
                None => Change::None,
            },
            Outcome::Bad(reason, retry_after) => {
                let record = entry(&mut records, model, now);
                let before = record.reason;
                record.fail(reason, retry_after, now);
                changed(before, reason)
            }
            Outcome::ClientLeft(left) if left.waited < left.patience() => Change::None,
            Outcome::ClientLeft(left) => {
                let record = entry(&mut records, model, now);
                let before = record.clients_left;
                record.client_left(&left, now);
                record.is_tried = false;
                if record.clients_left < CLIENTS_LEFT || record.clients_left == before {
                    Change::None
                } else {
                    let before = record.reason;
                    record.fail(Reason::Silent, None, now);
                    changed(before, Reason::Silent)
                }
            }
        };
        self.count.store(records.len(), Ordering::Relaxed);
        drop(records);
        if change == Change::Avoided(Reason::Silent) {
            self.silence.notify_one();
        }
        change
    }

    /// The model with which the backend was silent whose trial is due next, and the time until
    /// then; none of `others`.
    pub(crate) fn next_silent(
        &self,
        now: Instant,
        others: &[ModelName],
    ) -> Option<(ModelName, Duration)> {
        let records = self.records();
        let silent = records
            .iter()
            .filter(|(model, record)| record.is_silent() && !others.contains(model));
        // The name decides between equal times, and not the order of the hash map.
        let (model, record) = silent.min_by(|(one, a), (other, b)| {
            let by_time = a.trial_at.cmp(&b.trial_at);
            by_time.then_with(|| one.full().cmp(other.full()))
        })?;
        let pause = record.trial_at.saturating_duration_since(now);
        Some((model.clone(), pause))
    }

    /// Whether the backend is silent with this model, and is to be tried now.
    pub(super) fn is_silent_trial_due(&self, model: &ModelName, now: Instant) -> bool {
        let records = self.records();
        let record = records.get(model);
        record.is_some_and(|record| record.is_silent() && record.trial_at <= now)
    }

    /// Waits until the backend is found silent.
    pub(super) async fn silence(&self) {
        self.silence.notified().await;
    }

    /// The models for which the backend is avoided, by name.
    pub(crate) fn avoided(&self, now: Instant) -> Vec<Avoided> {
        if self.count.load(Ordering::Relaxed) == 0 {
            return Vec::new();
        }
        let records = self.records();
        let rows = records.iter().filter_map(|(model, record)| {
            Some(Avoided {
                model: model.clone(),
                reason: record.reason?,
                failures: record.failures,
                trial_in: record.trial_at.saturating_duration_since(now),
            })
        });
        let mut rows: Vec<_> = rows.collect();
        rows.sort_by_cached_key(|row| row.model.to_string());
        rows
    }

    fn records(&self) -> MutexGuard<'_, HashMap<ModelName, Record>> {
        self.by_model.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn entry<'a>(
    records: &'a mut HashMap<ModelName, Record>,
    model: &ModelName,
    now: Instant,
) -> &'a mut Record {
    if records.len() >= MOST_RECORDS && !records.contains_key(model) {
        let first = records.iter().min_by_key(|(_, record)| record.trial_at);
        if let Some(first) = first.map(|(model, _)| model.clone()) {
            records.remove(&first);
        }
    }
    let record = records.entry(model.clone());
    record.or_insert_with(|| Record::new(now))
}

fn changed(before: Option<Reason>, reason: Reason) -> Change {
    match before == Some(reason) {
        true => Change::None,
        false => Change::Avoided(reason),
    }
}

#[cfg(test)]
mod tests;
