//! The tables of the screen, from the documents of the gateway.

use std::collections::BTreeMap;

use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::table::{Cell, Column, Row, Table, Tone};
use super::text::{UNKNOWN, bytes, clock, count, known, left, rate, seconds};
use crate::status::{Backend, CostTerms, ModelOnBackend, Overview, QueueRow, RequestRow};

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
            Self::Servers => servers(overview, now),
            Self::Queue => queue(overview),
            Self::Requests => requests(overview, zone),
            Self::Models => models(overview),
            Self::Clients => clients(overview),
        }
    }
}

/// The state of a server in words.
pub(super) fn state_of(server: &Backend) -> (String, Tone) {
    match server {
        Backend { is_up: false, .. } => ("down".to_owned(), Tone::Bad),
        Backend {
            is_cordoned: true, ..
        } => ("cordoned".to_owned(), Tone::Warned),
        Backend { breaker, .. } if breaker != "closed" && !breaker.is_empty() => {
            (format!("breaker {}", breaker.replace('_', "-")), Tone::Bad)
        }
        _ => ("up".to_owned(), Tone::Good),
    }
}

fn servers(overview: &Overview, now: Timestamp) -> Table {
    let servers = &overview.status.backends;
    let up = servers.iter().filter(|server| server.is_up).count();
    Table {
        title: format!("Servers: {up} of {} up", servers.len()),
        columns: vec![
            Column::name("Server"),
            Column::word("State", 8),
            Column::number("In flight", 9),
            Column::name("Model in memory"),
            Column::number("Slots", 5),
            Column::number("Size", 6),
            Column::number("Left", 7),
            Column::number("Tok/s", 5),
        ],
        rows: servers
            .iter()
            .map(|server| server_row(server, now))
            .collect(),
        empty: "There are no servers",
    }
}

fn server_row(server: &Backend, now: Timestamp) -> Row {
    let (state, tone) = state_of(server);
    let mut state = Cell::toned(state, tone);
    for row in &server.avoided {
        state = state.and(format!("avoided: {}", row.reason), Tone::Warned);
    }
    let in_flight = match server.max_in_flight {
        Some(limit) => format!("{}/{limit}", server.in_flight),
        None => server.in_flight.to_string(),
    };
    let [mut model, mut slots, mut size, mut expiry, mut speed] = [const { Cell::none() }; 5];
    for resident in server.resident.iter().flatten() {
        let known_of = server.models.iter().find(|row| row.model == resident.model);
        model = model.line(&resident.model);
        slots = slots.and(
            known_of.map_or_else(String::new, slots_of),
            slots_tone(known_of),
        );
        size = size.line(bytes(resident.size));
        expiry = expiry.line(left(resident.expires_at.as_deref(), now));
        speed = speed.line(known(
            known_of.and_then(|row| row.output_tokens_per_second),
            rate,
        ));
    }
    let is_resident = |name: &str| {
        let mut rows = server.resident.iter().flatten();
        rows.any(|row| row.model == name)
    };
    for row in server.models.iter().filter(|row| !is_resident(&row.model)) {
        let residency = match &*row.residency {
            "unknown" => String::new(),
            residency => format!(" ({residency})"),
        };
        model = model.and(format!("{}{residency}", row.model), Tone::Hint);
        slots = slots.and(slots_of(row), slots_tone(Some(row)));
        (size, expiry) = (size.line(""), expiry.line(""));
        speed = speed.line(known(row.output_tokens_per_second, rate));
    }
    for row in server.preloads.iter().filter(|row| row.state != "loaded") {
        model = model.and(
            format!("{} (preload: {})", row.model, row.state),
            Tone::Hint,
        );
    }
    if server.is_up && server.resident.is_none() && server.models.is_empty() {
        model = model.and("not listed", Tone::Hint);
    }
    let name = Cell::new(&server.name);
    let cells = [
        name,
        state,
        Cell::new(in_flight),
        model,
        slots,
        size,
        expiry,
        speed,
    ];
    Row::new(&server.name, cells)
}

/// Requests in flight of a model and how many there may be; or that it rests.
fn slots_of(row: &ModelOnBackend) -> String {
    match (row.rests_for, row.limit) {
        (Some(_), _) => "rests".to_owned(),
        (None, Some(limit)) => format!("{}/{limit}", row.in_flight),
        (None, None) => row.in_flight.to_string(),
    }
}

fn slots_tone(row: Option<&ModelOnBackend>) -> Tone {
    match row {
        Some(row) if row.rests_for.is_some() => Tone::Warned,
        _ => Tone::Plain,
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

/// The result of a request in words.
pub(super) fn result_of(row: &RequestRow) -> (String, Tone) {
    let error = row.error.as_deref();
    let with_error = |text: String| match error {
        Some(error) => format!("{text}: {error}"),
        None => text,
    };
    match (&*row.ending, row.status) {
        ("cancelled", _) => ("cancelled by the client".to_owned(), Tone::Warned),
        ("broken", _) => (with_error("broken off".to_owned()), Tone::Bad),
        (_, Some(status)) if status >= 500 => (with_error(status.to_string()), Tone::Bad),
        (_, Some(status)) if status >= 400 => (with_error(status.to_string()), Tone::Warned),
        (_, Some(status)) => (status.to_string(), Tone::Plain),
        (_, None) => ("no response".to_owned(), Tone::Plain),
    }
}

/// The terms of a cost in words.
pub(super) fn why(terms: &CostTerms) -> String {
    let Some(total) = terms.total else {
        return UNKNOWN.to_owned();
    };
    if total == 0.0 {
        return "no cost is known yet".to_owned();
    }
    let parts = [
        ("load", terms.load),
        ("wait", terms.wait),
        ("work", terms.work),
    ];
    let parts = parts.into_iter().filter_map(|(name, value)| {
        let value = value.filter(|value| *value > 0.0)?;
        Some(format!("{name} {}", seconds(value)))
    });
    let mut text = parts.collect::<Vec<_>>().join(" + ");
    if let Some(saved) = terms.affinity.filter(|saved| *saved < 0.0) {
        text.push_str(&format!(" - cached prompt {}", seconds(-saved)));
    }
    format!("{}: {text}", seconds(total))
}

/// A request has no number; this names it well enough.
pub(super) fn key_of(row: &RequestRow) -> String {
    format!("{} {}", row.ended_at, or_unknown(&row.request_id))
}

fn requests(overview: &Overview, zone: &TimeZone) -> Table {
    let rows = overview.activity.requests.iter().map(|row| {
        let (result, tone) = result_of(row);
        let tokens = match (row.prompt_tokens, row.output_tokens) {
            (None, None) => UNKNOWN.to_owned(),
            (prompt, output) => format!("{} + {}", known(prompt, count), known(output, count)),
        };
        let mut server = Cell::new(or_unknown(&row.backend));
        if let Some(reason) = &row.cloud {
            server = Cell::new(format!("cloud: {reason}"));
        }
        let cells = [
            Cell::toned(clock(&row.ended_at, zone), Tone::Hint),
            Cell::new(or_unknown(&row.client)),
            Cell::new(or_unknown(&row.model)),
            Cell::toned(result, tone),
            server,
            Cell::new(why(&row.terms)),
            Cell::new(known(row.queued, seconds)),
            Cell::new(known(row.first_byte, seconds)),
            Cell::new(known(row.duration, seconds)),
            Cell::new(tokens),
        ];
        Row::new(key_of(row), cells)
    });
    Table {
        title: format!("Last requests: {}", overview.activity.requests.len()),
        columns: vec![
            Column::word("Ended", 8),
            Column::name("Client").from(95),
            Column::name("Model"),
            Column::name("Result"),
            Column::name("Server"),
            Column::name("Why there").from(130),
            Column::number("Queue", 6).from(110),
            Column::number("First byte", 10),
            Column::number("Duration", 8),
            Column::number("Tokens", 9).from(75),
        ],
        rows: rows.collect(),
        empty: "No request has ended yet",
    }
}

fn models(overview: &Overview) -> Table {
    let queue = &overview.status.queue;
    let queue: BTreeMap<&str, &QueueRow> = queue.iter().map(|row| (&*row.model, row)).collect();
    let rows = overview.models.iter().map(|row| {
        let queued = queue.get(&*row.model);
        let size = row.servers.iter().map(|holder| holder.size).max();
        let names = |is_wanted: fn(&crate::status::Holder) -> bool| {
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
