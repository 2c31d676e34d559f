//! Models that the gateway loads by itself: once after a server has come up, or again and again if
//! they are pinned.
//!
//! One task for each server loads one model after the other, when that disturbs no client: the
//! policy decides when ([`OwnLoad`]), and treats the load like one by a client, so that requests for
//! the model wait for it.

use std::fmt;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use llamatower_layers::ModelName;
use tokio::time::{Instant, sleep};

use super::Fleet;
use super::inventory::Resident;
use super::load_request::{NotLoaded, Stay};
use super::member::Member;
use super::policy::{Grant, OwnLoad};
use super::rules::Preload;

/// How often the task looks whether a load is due.
const LOOK_AGAIN: Duration = Duration::from_millis(250);
/// The pause after the first failure; it doubles with each further one.
const FIRST_PAUSE: Duration = Duration::from_secs(2);
const LONGEST_PAUSE: Duration = Duration::from_secs(300);
/// A pinned model that is in memory for a limited time gets its `keep_alive` again, but not more
/// often than this.
const PIN_AGAIN: Duration = Duration::from_secs(60);
/// Ollama shows a model that stays for ever with a time in a few centuries.
const FOR_EVER: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// A model that the gateway loads by itself on a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PreloadStatus {
    /// The model.
    pub model: ModelName,
    /// Whether it is kept in memory.
    pub is_pinned: bool,
    /// Whether it is in memory.
    pub state: PreloadState,
}

/// How far the load of a model is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum PreloadState {
    /// The server is down, not asked yet, or busy.
    #[default]
    Waiting,
    /// The server does not have the model on its disk, and does not have to.
    NotInstalled,
    /// The gateway loads it.
    Loading,
    /// It is in memory.
    Loaded,
    /// It was loaded, and has left memory since: its time was over, or another model took its place.
    Unloaded,
    /// The reason, and what to do.
    Failed(Arc<str>),
}

impl fmt::Display for PreloadState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Waiting => f.write_str("waiting"),
            Self::NotInstalled => f.write_str("not_installed"),
            Self::Loading => f.write_str("loading"),
            Self::Loaded => f.write_str("loaded"),
            Self::Unloaded => f.write_str("unloaded"),
            Self::Failed(reason) => write!(f, "failed: {reason}"),
        }
    }
}

/// The states of a server's preloads, for `/status`.
#[derive(Debug, Default)]
pub(super) struct Preloads(Mutex<Arc<[PreloadStatus]>>);

impl Preloads {
    pub(super) fn status(&self) -> Arc<[PreloadStatus]> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn set(&self, rows: &[Row]) {
        let rows = rows.iter().map(|row| PreloadStatus {
            model: row.preload.model.clone(),
            is_pinned: row.preload.is_pinned,
            state: row.state.clone(),
        });
        let rows: Arc<[_]> = rows.collect();
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = rows;
    }
}

/// A preload, and what the task knows of it.
struct Row {
    preload: Preload,
    state: PreloadState,
    /// It was in memory since the server came up.
    was_loaded: bool,
    /// When it leaves memory, as listed last.
    expires: Option<Timestamp>,
    /// The starts of the server when it was in memory last.
    seen: Starts,
    /// The reason of the failure that was logged last, if none of its loads has succeeded since.
    told: Option<Box<str>>,
    retry_at: Option<Instant>,
    pause: Duration,
    pinned_at: Option<Instant>,
}

/// What tells that a server was started again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Starts {
    /// How often it has come up.
    pub(super) ups: u64,
    /// How often a probe found that it had closed its connections.
    pub(super) closed: u64,
}

/// What the task does next.
enum Step {
    Load(Grant),
    /// The server does not tell what is in its memory: without the policy.
    LoadUnseen,
    /// The model is in memory, and gets its `keep_alive` again.
    Pin,
    Nothing,
}

impl Row {
    fn new(preload: Preload) -> Self {
        Self {
            preload,
            state: PreloadState::Waiting,
            was_loaded: false,
            expires: None,
            seen: Starts::default(),
            told: None,
            retry_at: None,
            pause: FIRST_PAUSE,
            pinned_at: None,
        }
    }

    fn is_failed(&self) -> bool {
        matches!(self.state, PreloadState::Failed(_))
    }

    fn wait(&mut self) {
        if !self.is_failed() {
            self.state = PreloadState::Waiting;
        }
    }

    /// Records that the server has listed the model; `starts` are those that were known when it was
    /// asked.
    fn note_listed(&mut self, resident: &Resident, starts: Starts) {
        self.note_loaded();
        (self.seen, self.expires) = (starts, resident.expires_at);
    }

    fn note_loaded(&mut self) {
        self.state = PreloadState::Loaded;
        self.was_loaded = true;
        self.told = None;
        self.retry_at = None;
        self.pause = FIRST_PAUSE;
    }

    /// Records a failure, and logs it if it is another one than before.
    fn fail(&mut self, backend: &str, reason: &str) {
        let is_new = self.told.as_deref() != Some(reason);
        if is_new {
            self.told = Some(reason.into());
            let (model, setting) = (&self.preload.model, self.preload.setting());
            tracing::warn!(backend, %model, setting, reason, "the model was not preloaded");
        }
        self.state = PreloadState::Failed(reason.into());
    }

    fn retry_later(&mut self) {
        self.retry_at = Some(Instant::now() + self.pause);
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
    }

    /// Whether it is to be loaded if it is not in memory.
    fn is_due(&self, starts: Starts) -> bool {
        let has_vanished = || {
            let is_early = self.expires.is_none_or(|at| at > Timestamp::now());
            is_early && self.seen.closed != starts.closed
        };
        !self.was_loaded || self.preload.is_pinned || has_vanished()
    }

    /// Whether it stays in memory only for a time although it is pinned.
    fn is_unpinned(&self) -> bool {
        let ends = |at: Timestamp| Duration::try_from(at.duration_since(Timestamp::now()));
        let soon = |at| ends(at).is_ok_and(|left| left < FOR_EVER);
        let is_limited = self.preload.is_pinned && self.expires.is_some_and(soon);
        is_limited && self.pinned_at.is_none_or(|at| at.elapsed() >= PIN_AGAIN)
    }
}

impl<S> Fleet<S> {
    /// Begins no further load by the gateway itself, because it drains.
    pub fn stop_preloads(&self) {
        self.is_draining.store(true, Ordering::Relaxed);
    }

    /// Loads the models that a server is to have in memory, and keeps the pinned ones there.
    pub(super) async fn keep_preloads(&self, member: &Arc<Member<S>>) {
        let preloads = member.backend.rules().preloads.iter();
        let mut rows: Vec<_> = preloads.cloned().map(Row::new).collect();
        if rows.is_empty() {
            return;
        }
        let mut ups = 0;
        loop {
            let now_ups = member.backend.starts().ups;
            if now_ups != ups {
                ups = now_ups;
                for row in &mut rows {
                    (row.was_loaded, row.retry_at, row.pause) = (false, None, FIRST_PAUSE);
                }
            }
            for index in 0..rows.len() {
                // A load before this one may have taken minutes.
                let starts = member.backend.starts();
                match self.next_step(member, &mut rows[index], starts) {
                    Step::Nothing => {}
                    Step::Pin => self.pin_again(member, &mut rows[index]).await,
                    Step::Load(grant) => {
                        rows[index].state = PreloadState::Loading;
                        member.preloads.set(&rows);
                        self.preload(member, &mut rows[index], Some(grant)).await;
                    }
                    Step::LoadUnseen => {
                        rows[index].state = PreloadState::Loading;
                        member.preloads.set(&rows);
                        self.preload(member, &mut rows[index], None).await;
                    }
                }
            }
            member.preloads.set(&rows);
            sleep(LOOK_AGAIN).await;
        }
    }

    fn next_step(&self, member: &Arc<Member<S>>, row: &mut Row, starts: Starts) -> Step {
        let backend = &member.backend;
        if !backend.is_up() || backend.is_cordoned() || !member.was_probed() {
            row.wait();
            return Step::Nothing;
        }
        if member.installed(&row.preload.model).is_none() {
            self.note_not_installed(member, row);
            return Step::Nothing;
        }
        let Some(listing) = member.residency.read() else {
            row.wait();
            return Step::Nothing;
        };
        let listed = listing.list;
        if let Some(resident) = listed.as_deref().and_then(|rows| find(rows, row)) {
            row.note_listed(resident, listing.starts);
            return match row.is_unpinned() && !self.is_draining() {
                true => Step::Pin,
                false => Step::Nothing,
            };
        }
        // A server without a list keeps its models as far as anyone knows.
        let is_unseen = listed.is_none();
        if !row.is_due(starts) || (is_unseen && row.was_loaded) {
            row.state = match is_unseen {
                true => PreloadState::Loaded,
                false => PreloadState::Unloaded,
            };
            return Step::Nothing;
        }
        let is_pausing = row.retry_at.is_some_and(|at| Instant::now() < at);
        if is_pausing || self.is_draining() {
            row.wait();
            return Step::Nothing;
        }
        if is_unseen {
            return Step::LoadUnseen;
        }
        self.begin(member, row)
    }

    /// Asks the policy for the load.
    fn begin(&self, member: &Arc<Member<S>>, row: &mut Row) -> Step {
        let kept = member.backend.rules().kept_beside(&row.preload);
        let (id, model, now) = (member.id, &row.preload.model, Instant::now());
        let begun = self
            .router
            .change(|policy| policy.begin_own_load(id, model, &kept, now));
        match begun {
            OwnLoad::Begin(grant) => return Step::Load(grant),
            // It is listed soon.
            OwnLoad::InMemory => row.note_loaded(),
            OwnLoad::Unknown | OwnLoad::Later => row.wait(),
            OwnLoad::NoRoom(others) => {
                let others: Vec<_> = others.iter().map(ToString::to_string).collect();
                let reason = format!(
                    "it does not fit into memory beside {}, which the settings keep there too; \
                     remove one of them for this server, or give it more memory",
                    others.join(", ")
                );
                row.fail(member.backend.name(), &reason);
            }
        }
        Step::Nothing
    }

    fn note_not_installed(&self, member: &Arc<Member<S>>, row: &mut Row) {
        let members = self.catalogue.members();
        let is_first = || {
            let first = members.all().first();
            first.is_some_and(|first| Arc::ptr_eq(first, member))
        };
        let is_nowhere = || {
            let are_known = members.all().iter().all(|member| member.was_probed());
            are_known && members.holders(&row.preload.model).is_empty()
        };
        let setting = row.preload.setting();
        if row.preload.is_named {
            let reason = format!(
                "it is not installed on this server; pull it there, or remove it from {setting}"
            );
            row.fail(member.backend.name(), &reason);
        } else if is_first() && is_nowhere() {
            let reason =
                format!("no server has it installed; pull it, or remove it from {setting}");
            row.fail(member.backend.name(), &reason);
        } else {
            row.state = PreloadState::NotInstalled;
        }
    }

    /// Loads a model, and records the result.
    async fn preload(&self, member: &Arc<Member<S>>, row: &mut Row, grant: Option<Grant>) {
        let (backend, model) = (&member.backend, &row.preload.model);
        let pinned = row.preload.is_pinned;
        let stay = match pinned {
            true => Stay::Pinned,
            false => Stay::Usual,
        };
        match self.load_now(member, model, stay, grant).await {
            Ok(time) => {
                let seconds = time.as_secs_f64();
                tracing::info!(backend = %backend.name(), %model, pinned, seconds, "the model was preloaded");
                row.pinned_at = Some(Instant::now());
                (row.expires, row.seen) = (None, backend.starts());
                row.note_loaded();
            }
            // The policy knows of it now, and says when it has ended.
            Err(NotLoaded::LoadsElsewhere) => row.state = PreloadState::Waiting,
            Err(NotLoaded::Failed(reason)) => {
                row.fail(backend.name(), &reason);
                row.retry_later();
            }
        }
    }

    /// Sets the `keep_alive` of a pinned model that is in memory.
    async fn pin_again(&self, member: &Arc<Member<S>>, row: &mut Row) {
        row.pinned_at = Some(Instant::now());
        let model = &row.preload.model;
        if let Err(error) = self.send_load(member, model, Stay::Pinned).await {
            let backend = member.backend.name();
            tracing::debug!(%backend, %model, error, "the model was not pinned again");
        }
        member.refresh_resident();
    }

    pub(super) fn is_draining(&self) -> bool {
        self.is_draining.load(Ordering::Relaxed)
    }
}

fn find<'a>(listed: &'a [Resident], row: &Row) -> Option<&'a Resident> {
    let mut listed = listed.iter();
    listed.find(|resident| resident.name == row.preload.model)
}
