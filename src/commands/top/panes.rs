//! The tables of the screen, from the documents of the gateway.

use std::collections::BTreeMap;

use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::table::{Cell, Column, Row, Table, Tone};
use super::text::{UNKNOWN, bytes, count, known, seconds};
use super::{requests, servers};
use crate::status::{Holder, Overview, QueueRow};

/// A table of the screen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Pane {
    #[default]
    Servers,
    Queue,
    Requests,
    Models,
    Clients,
}

impl Pane {
    /// All of them, in the order of the screen.
    pub(super) const ALL: [Self; 5] = [
        Self::Servers,
        Self::Queue,
        Self::Requests,
        Self::Models,
        Self::Clients,
    ];

    /// Its table at the time `now`.
    pub(super) fn table(self, overview: &Overview, now: Timestamp, zone: &TimeZone) -> Table {
        match self {
            Self::Servers => servers::table(overview, now),
            Self::Queue => queue(overview),
            Self::Requests => requests::table(overview, zone),
            Self::Models => models(overview),
            Self::Clients => clients(overview),
        }
    }
}

fn queue(overview: &Overview) -> Table {
    let waiting: usize = overview.status.queue.iter().map(|row| row.waiting).sum();
    let shown = overview.waiting.len();
    let rows = overview.waiting.iter().map(|row| {
        let cells = [
            Cell::new(or_unknown(&row.client)),
            Cell::new(or_unknown(&row.model)),
            Cell::new(&row.priority),
            Cell::new(seconds(row.waited)),
            Cell::new(row.ahead.to_string()),
            Cell::new(known(row.expected_wait, seconds)),
        ];
        Row::new(row.id, cells)
    });
    Table {
        title: match waiting > shown {
            true => format!("Queue: {shown} of {waiting} waiting requests"),
            false => format!("Queue: {shown} waiting"),
        },
        columns: vec![
            Column::name("Client"),
            Column::name("Model"),
            Column::word("Priority", 8),
            Column::number("Waited", 7),
            Column::number("Ahead", 5),
            Column::number("Expected wait", 13),
        ],
        rows: rows.collect(),
        empty: "No request waits",
    }
}

fn models(overview: &Overview) -> Table {
    let queue = &overview.status.queue;
    let queue: BTreeMap<&str, &QueueRow> = queue.iter().map(|row| (&*row.model, row)).collect();
    let rows = overview.models.iter().map(|row| {
        let queued = queue.get(&*row.model);
        let size = row.servers.iter().map(|holder| holder.size).max();
        let names = |is_wanted: fn(&Holder) -> bool| {
            let holders = row.servers.iter().filter(|holder| is_wanted(holder));
            let names: Vec<&str> = holders.map(|holder| &*holder.name).collect();
            match names.is_empty() {
                true => UNKNOWN.to_owned(),
                false => names.join(", "),
            }
        };
        let mut name = Cell::new(&row.model);
        if row.digests_differ {
            name = name.and("different models under this name", Tone::Warned);
        }
        let cells = [
            name,
            Cell::new(bytes(size.unwrap_or(0))),
            Cell::new(names(|holder| holder.is_in_memory)),
            Cell::new(names(|_| true)),
            Cell::new(queued.map_or(0, |row| row.in_flight).to_string()),
            Cell::new(queued.map_or(0, |row| row.waiting).to_string()),
            Cell::new(known(queued.and_then(|row| row.oldest), seconds)),
            Cell::new(known(queued.and_then(|row| row.predicted_wait), seconds)),
        ];
        Row::new(&row.model, cells)
    });
    Table {
        title: format!("Models: {}", overview.models.len()),
        columns: vec![
            Column::name("Model"),
            Column::number("Size", 6),
            Column::name("In memory on"),
            Column::name("Installed on"),
            Column::number("In flight", 9),
            Column::number("Waiting", 7),
            Column::number("Longest wait", 12).from(110),
            Column::number("Expected wait", 13).from(95),
        ],
        rows: rows.collect(),
        empty: "No server has a model",
    }
}

fn clients(overview: &Overview) -> Table {
    let clients = &overview.activity.clients;
    let rows = clients.iter().map(|row| {
        let cells = [
            Cell::new(&row.client),
            Cell::new(count(row.requests)),
            Cell::new(count(row.refused)),
            Cell::new(count(row.prompt_tokens)),
            Cell::new(count(row.output_tokens)),
        ];
        Row::new(&row.client, cells)
    });
    Table {
        title: format!("Clients since the start: {}", clients.len()),
        columns: vec![
            Column::name("Client"),
            Column::number("Requests", 8),
            Column::number("Refused", 7),
            Column::number("Prompt tokens", 13),
            Column::number("Output tokens", 13),
        ],
        rows: rows.collect(),
        empty: "No client has sent a request yet",
    }
}

/// A text that may be missing.
pub(super) fn or_unknown(text: &Option<String>) -> &str {
    match text.as_deref() {
        None | Some("") => UNKNOWN,
        Some(text) => text,
    }
}
