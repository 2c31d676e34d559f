//! The state of the screen: made from documents and keys, and not from anything else.

use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::actions::Action;
use super::details::Details;
use super::panes::Pane;
use super::table::Table;
use crate::status::{DecisionRow, Decisions, Overview};

/// The state of the screen.
#[derive(Clone, Debug)]
pub(super) struct State {
    /// The latest documents.
    latest: Overview,
    /// The documents that are shown while it is paused.
    paused: Option<Overview>,
    /// Why there is no connection to the gateway; `None` while there is one.
    lost: Option<String>,
    /// When the latest document came.
    heard_at: Timestamp,
    pub(super) now: Timestamp,
    zone: TimeZone,
    pub(super) focus: Pane,
    places: [Place; Pane::ALL.len()],
    pub(super) filter: String,
    pub(super) mode: Mode,
    /// What an action has done; until the next key.
    pub(super) note: Option<Note>,
}

/// The selected row of a table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Place {
    /// Its key; `None` for the first row.
    key: Option<String>,
    /// Its index when it was there last.
    index: usize,
}

/// What keys are about.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) enum Mode {
    /// The tables.
    #[default]
    Tables,
    /// The text of the filter.
    Filter,
    /// The help.
    Help {
        /// The number of lines above the screen.
        scrolled: u16,
    },
    /// The details of a row.
    Details(Box<Opened>),
    /// A question.
    Question(Action),
}

/// The details of a row.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Opened {
    pane: Pane,
    key: String,
    /// As they were last, if the row has gone.
    pub(super) details: Details,
    /// The choice of the server of a request.
    pub(super) decision: Option<DecisionRow>,
    /// The number of lines above the screen.
    pub(super) scrolled: u16,
}

/// What an action has done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Note {
    pub(super) text: String,
    pub(super) is_error: bool,
}

/// What is to be done outside of the state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Command {
    Quit,
    Do(Action),
    /// Ask for the last choices of servers.
    AskForDecisions,
}

impl State {
    pub(super) fn new(now: Timestamp, zone: TimeZone) -> Self {
        Self {
            latest: Overview::default(),
            paused: None,
            lost: None,
            heard_at: now,
            now,
            zone,
            focus: Pane::default(),
            places: Default::default(),
            filter: String::new(),
            mode: Mode::default(),
            note: None,
        }
    }

    /// The latest documents.
    pub(super) fn latest(&self) -> &Overview {
        &self.latest
    }

    /// The documents that are shown.
    pub(super) fn shown(&self) -> &Overview {
        self.paused.as_ref().unwrap_or(&self.latest)
    }

    pub(super) fn is_paused(&self) -> bool {
        self.paused.is_some()
    }

    /// Why there is no connection, and how old the documents are in seconds.
    pub(super) fn lost(&self) -> Option<(&str, f64)> {
        let age = self.now.duration_since(self.heard_at).as_secs_f64();
        self.lost.as_deref().map(|reason| (reason, age.max(0.0)))
    }

    /// The time of what is shown.
    pub(super) fn as_of(&self) -> Timestamp {
        match self.lost {
            Some(_) => self.heard_at,
            None => self.now,
        }
    }

    /// Whether no document has come yet.
    pub(super) fn is_empty(&self) -> bool {
        self.latest.status.gateway.version.is_empty()
    }

    /// Replaces all documents.
    pub(super) fn set(&mut self, overview: Overview) {
        self.latest = overview;
    }

    /// Takes a part of the documents, as an event of the gateway has it. Parts that are not known here
    /// are those of a newer gateway.
    pub(super) fn receive(&mut self, part: &str, data: &[u8]) {
        let (status, activity) = (&mut self.latest.status, &mut self.latest.activity);
        let read = match part {
            "gateway" => read(data, &mut status.gateway),
            "backends" => read(data, &mut status.backends),
            "queue" => read(data, &mut status.queue),
            "waiting" => read(data, &mut self.latest.waiting),
            "digests_differ" => read(data, &mut status.digests_differ),
            "cloud" => read(data, &mut status.cloud),
            "models_sync" => read(data, &mut status.models_sync),
            "state" => read(data, &mut status.state),
            "sharing" => read(data, &mut status.sharing),
            "models" => read(data, &mut self.latest.models),
            "requests" => read(data, &mut activity.requests),
            "intervals" => read(data, &mut activity.intervals),
            "clients" => read(data, &mut activity.clients),
            "keys" => read(data, &mut self.latest.keys),
            _ => Ok(()),
        };
        (self.lost, self.heard_at) = (None, self.now);
        if let Err(error) = read {
            self.tell(Err(format!(
                "{part} of the gateway cannot be read: {error}"
            )));
        }
        self.refresh_details();
    }

    /// The connection to the gateway is lost.
    pub(super) fn lose(&mut self, reason: String) {
        self.lost = Some(reason);
    }

    /// Shows what an action has done.
    pub(super) fn tell(&mut self, result: Result<String, String>) {
        let is_error = result.is_err();
        let text = result.unwrap_or_else(|error| error);
        self.note = Some(Note { text, is_error });
    }

    /// Adds the choice of the server to the details of a request.
    pub(super) fn receive_decisions(&mut self, decisions: Decisions) {
        if let Mode::Details(opened) = &mut self.mode {
            let mut rows = decisions.decisions.into_iter();
            opened.decision = rows.find(|row| Some(row.id) == opened.details.decision);
        }
    }

    /// A table, with the rows that the filter leaves.
    pub(super) fn table(&self, pane: Pane) -> Table {
        let mut table = pane.table(self.shown(), self.as_of(), &self.zone);
        table.filter(&self.filter);
        table
    }

    /// The index of the selected row of a table.
    pub(super) fn selected(&self, pane: Pane, table: &Table) -> Option<usize> {
        let place = &self.places[pane as usize];
        let last = table.rows.len().checked_sub(1)?;
        let Some(key) = &place.key else {
            return Some(0);
        };
        let found = table.rows.iter().position(|row| row.key == *key);
        Some(found.unwrap_or(place.index.min(last)))
    }

    /// The key of the selected row of the table in focus.
    pub(super) fn selected_key(&self) -> Option<String> {
        let mut table = self.table(self.focus);
        let index = self.selected(self.focus, &table)?;
        Some(table.rows.swap_remove(index).key)
    }

    /// Selects the row that is so many rows below the selected one.
    pub(super) fn select(&mut self, by: isize) {
        let table = self.table(self.focus);
        let Some(selected) = self.selected(self.focus, &table) else {
            return;
        };
        let index = selected.saturating_add_signed(by).min(table.rows.len() - 1);
        self.places[self.focus as usize] = Place {
            // The first row stays the first when others come above it.
            key: (index > 0).then(|| table.rows[index].key.clone()),
            index,
        };
    }

    /// Moves the focus by so many tables.
    pub(super) fn move_focus(&mut self, by: isize) {
        let number = Pane::ALL.len().cast_signed();
        let index = (self.focus as isize + by).rem_euclid(number);
        self.focus = Pane::ALL[index.cast_unsigned()];
    }

    /// Shows the details of the selected row.
    pub(super) fn open(&mut self) -> Option<Command> {
        let key = self.selected_key()?;
        let details = Details::of(self.focus, &key, self.shown(), self.as_of())?;
        let command = details.decision.map(|_| Command::AskForDecisions);
        self.mode = Mode::Details(Box::new(Opened {
            pane: self.focus,
            key,
            details,
            decision: None,
            scrolled: 0,
        }));
        command
    }

    /// Takes back what was scrolled too far: only the screen tells how many lines there are.
    pub(super) fn scroll_at_most(&mut self, lines: u16) {
        if let Some(scrolled) = self.scrolled() {
            *scrolled = (*scrolled).min(lines);
        }
    }

    /// The number of lines above the screen, in a window that can be scrolled.
    pub(super) fn scrolled(&mut self) -> Option<&mut u16> {
        match &mut self.mode {
            Mode::Help { scrolled } => Some(scrolled),
            Mode::Details(opened) => Some(&mut opened.scrolled),
            Mode::Tables | Mode::Filter | Mode::Question(_) => None,
        }
    }

    fn refresh_details(&mut self) {
        if let Mode::Details(opened) = &self.mode {
            let (pane, key) = (opened.pane, &opened.key);
            let details = Details::of(pane, key, self.shown(), self.as_of());
            if let (Mode::Details(opened), Some(details)) = (&mut self.mode, details) {
                opened.details = details;
            }
        }
    }

    /// Keeps what is shown until it is called again.
    pub(super) fn pause(&mut self) {
        self.paused = match self.paused {
            Some(_) => None,
            None => Some(self.latest.clone()),
        };
    }
}

/// Replaces a value by the one of a document, if that can be read.
fn read<T: serde::de::DeserializeOwned>(data: &[u8], into: &mut T) -> serde_json::Result<()> {
    *into = serde_json::from_slice(data)?;
    Ok(())
}
