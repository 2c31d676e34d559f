//! All that is known of one row.

use jiff::Timestamp;

use super::panes::{Pane, key_of, or_unknown, result_of, state_of, why};
use super::table::{Cell, Column, Row, Table, Tone};
use super::text::{UNKNOWN, bytes, count, known, left, rate, seconds};
use crate::status::{Backend, DecisionRow, ModelOnBackend, ModelRow, Overview, RequestRow};

/// All that is known of one row.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Details {
    pub(super) title: &'static str,
    /// Names and values.
    pub(super) facts: Vec<(&'static str, Cell)>,
    /// The number of the choice of the server, if the row is a request.
    pub(super) decision: Option<u64>,
}

impl Details {
    /// The details of the row with this key; `None` if it is no longer there.
    pub(super) fn of(pane: Pane, key: &str, overview: &Overview, now: Timestamp) -> Option<Self> {
        let status = &overview.status;
        let (title, facts) = match pane {
            Pane::Servers => {
                let mut servers = status.backends.iter();
                ("Server", server(servers.find(|row| row.name == key)?, now))
            }
            Pane::Queue => ("Waiting request", waiter(overview, key)?),
            Pane::Requests => {
                let mut requests = overview.activity.requests.iter();
                let row = requests.find(|row| key_of(row) == key)?;
                return Some(Self {
                    title: "Request",
                    facts: request(row),
                    decision: row.decision,
                });
            }
            Pane::Models => {
                let row = overview.models.iter().find(|row| row.model == key)?;
                ("Model", model(row, overview))
            }
            Pane::Clients => ("Client", client(overview, key)?),
        };
        Some(Self {
            title,
            facts,
            decision: None,
        })
    }
}

fn server(row: &Backend, now: Timestamp) -> Vec<(&'static str, Cell)> {
    let (state, tone) = state_of(row);
    let number = |value: Option<usize>| known(value, |value| value.to_string());
    let mut facts = vec![
        ("Server", Cell::new(&row.name)),
        ("State", Cell::toned(state, tone)),
        ("Breaker", Cell::new(row.breaker.replace('_', "-"))),
        ("Version", Cell::new(or_unknown(&row.version))),
        ("In flight", Cell::new(row.in_flight.to_string())),
        (
            "Limit of all requests",
            Cell::new(number(row.max_in_flight)),
        ),
        ("Slots of a model, set", Cell::new(number(row.slots))),
        ("Weight", Cell::new(row.weight.to_string())),
        ("Labels", Cell::new(row.labels.join(", "))),
        ("Models on disk", Cell::new(row.installed.to_string())),
    ];
    if let Some(load) = &row.reported {
        let text = format!(
            "{} running, {} waiting; {} of others",
            load.running, load.waiting, load.of_others
        );
        facts.push(("By its own count", Cell::new(text)));
    }
    if let Some(memory) = &row.memory {
        let held = format!(
            "{} models, {}",
            memory.held.models,
            bytes(memory.held.bytes)
        );
        facts.push(("Most in memory", Cell::new(held)));
    }
    let residents = row.resident.iter().flatten().map(|model| {
        let on_gpu = match model.size > 0 && model.size_vram < model.size {
            true => format!(", {} % on GPUs", model.size_vram * 100 / model.size),
            false => String::new(),
        };
        let context = known(model.context_length, count);
        let (size, left) = (bytes(model.size), left(model.expires_at.as_deref(), now));
        let model = &model.model;
        format!("{model}: {size}{on_gpu}, context {context}, left {left}")
    });
    facts.extend(lines("In memory", residents, Tone::Plain));
    facts.extend(lines(
        "Models",
        row.models.iter().map(model_here),
        Tone::Plain,
    ));
    let preloads = row.preloads.iter().map(|row| {
        let kept = if row.pinned { ", kept in memory" } else { "" };
        format!("{}: {}{kept}", row.model, row.state)
    });
    facts.extend(lines("Preloads", preloads, Tone::Plain));
    let avoided = row.avoided.iter().map(|row| {
        let (failures, trial) = (row.failures, seconds(row.trial_in));
        let (model, reason) = (&row.model, &row.reason);
        format!("{model}: {reason}, {failures} in a row, next trial in {trial}")
    });
    facts.extend(lines("Avoided for", avoided, Tone::Warned));
    facts
}

/// What is measured of a model on a server.
fn model_here(row: &ModelOnBackend) -> String {
    let mut facts = vec![
        row.residency.clone(),
        format!("{} in flight", row.in_flight),
    ];
    if let Some(limit) = row.limit {
        facts.push(format!("at most {limit}"));
    }
    facts.push(match row.slots {
        Some(slots) => format!("{slots} slots ({})", row.slots_source),
        None => format!("slots {}", row.slots_source),
    });
    let rates = [
        (row.prompt_tokens_per_second, "prompt tokens/s"),
        (row.output_tokens_per_second, "tokens/s"),
    ];
    for (value, unit) in rates {
        facts.extend(value.map(|value| format!("{} {unit}", rate(value))));
    }
    facts.extend(
        row.load_seconds
            .map(|time| format!("load {}", seconds(time))),
    );
    facts.extend(
        row.rests_for
            .map(|time| format!("rests for {}", seconds(time))),
    );
    format!("{}: {}", row.model, facts.join(", "))
}

/// One fact of several lines, if there are any.
fn lines(
    name: &'static str,
    texts: impl Iterator<Item = String>,
    tone: Tone,
) -> Option<(&'static str, Cell)> {
    let cell = texts.fold(Cell::default(), |cell, text| cell.and(text, tone));
    (!cell.lines().is_empty()).then_some((name, cell))
}

fn waiter(overview: &Overview, key: &str) -> Option<Vec<(&'static str, Cell)>> {
    let mut rows = overview.waiting.iter();
    let row = rows.find(|row| row.id.to_string() == key)?;
    Some(vec![
        ("Number", Cell::new(row.id.to_string())),
        ("Client", Cell::new(or_unknown(&row.client))),
        ("Model", Cell::new(or_unknown(&row.model))),
        ("Priority", Cell::new(&row.priority)),
        ("Waited", Cell::new(seconds(row.waited))),
        ("Requests before it", Cell::new(row.ahead.to_string())),
        (
            "Expected wait",
            Cell::new(known(row.expected_wait, seconds)),
        ),
    ])
}

fn request(row: &RequestRow) -> Vec<(&'static str, Cell)> {
    let (result, tone) = result_of(row);
    let text = |text: &Option<String>| Cell::new(or_unknown(text));
    let time = |time: Option<f64>| Cell::new(known(time, seconds));
    let mut facts = vec![
        ("Route", Cell::new(&row.route)),
        ("Client", text(&row.client)),
        ("Model", text(&row.model)),
        ("Result", Cell::toned(result, tone)),
        ("Server", text(&row.backend)),
        ("Why there", Cell::new(why(&row.terms))),
        ("Attempts", Cell::new(row.attempts.to_string())),
        ("In the queue", time(row.queued)),
        ("First byte after", time(row.first_byte)),
        ("Duration", time(row.duration)),
        ("Prompt tokens", Cell::new(known(row.prompt_tokens, count))),
        ("Output tokens", Cell::new(known(row.output_tokens, count))),
        ("Ended at", Cell::new(&row.ended_at)),
        ("Request id", text(&row.request_id)),
    ];
    let rare = [
        ("Served by", &row.served_model),
        ("In the cloud because", &row.cloud),
        ("Trace id", &row.trace_id),
    ];
    let rare = rare.into_iter().filter(|(_, value)| value.is_some());
    facts.extend(rare.map(|(name, value)| (name, text(value))));
    facts
}

fn model(row: &ModelRow, overview: &Overview) -> Vec<(&'static str, Cell)> {
    let servers = row.servers.iter().map(|holder| {
        let memory = if holder.is_in_memory {
            ", in memory"
        } else {
            ""
        };
        let digest: String = holder.digest.chars().take(12).collect();
        format!(
            "{}: {}, digest {digest}{memory}",
            holder.name,
            bytes(holder.size)
        )
    });
    let mut facts = vec![("Model", Cell::new(&row.model))];
    if row.digests_differ {
        let warning = "this name stands for different models; pull it again on all servers";
        facts.push(("Warning", Cell::toned(warning, Tone::Warned)));
    }
    facts.extend(lines("Installed on", servers, Tone::Plain));
    let mut queue = overview.status.queue.iter();
    if let Some(queue) = queue.find(|queue| queue.model == row.model) {
        facts.push(("In flight", Cell::new(queue.in_flight.to_string())));
        facts.push(("Waiting", Cell::new(queue.waiting.to_string())));
        facts.push(("Longest wait", Cell::new(known(queue.oldest, seconds))));
        facts.push((
            "Expected wait",
            Cell::new(known(queue.predicted_wait, seconds)),
        ));
    }
    facts
}

fn client(overview: &Overview, key: &str) -> Option<Vec<(&'static str, Cell)>> {
    let mut rows = overview.activity.clients.iter();
    let row = rows.find(|row| row.client == key)?;
    let is_of = |client: &Option<String>| client.as_deref() == Some(key);
    let waiting = overview
        .waiting
        .iter()
        .filter(|row| is_of(&row.client))
        .count();
    Some(vec![
        ("Client", Cell::new(&row.client)),
        ("Requests", Cell::new(count(row.requests))),
        ("Refused", Cell::new(count(row.refused))),
        ("Prompt tokens", Cell::new(count(row.prompt_tokens))),
        ("Output tokens", Cell::new(count(row.output_tokens))),
        ("Waiting now", Cell::new(waiting.to_string())),
    ])
}

/// The servers that a request could go to, with the terms of the cost of each.
pub(super) fn candidates(decision: &DecisionRow) -> Table {
    let term = |value: Option<f64>| Cell::new(known(value, seconds));
    let rows = decision.candidates.iter().map(|row| {
        let is_chosen = decision.backend.as_ref() == Some(&row.backend);
        let mut state = vec![row.state.replace('_', " ")];
        let notes = [
            (is_chosen, "chosen"),
            (row.loads, "loads"),
            (!row.is_open, "busy"),
            (row.was_tried, "tried before"),
        ];
        let notes = notes.iter().filter(|(applies, _)| *applies);
        state.extend(notes.map(|(_, note)| (*note).to_owned()));
        let saved = row.terms.affinity.filter(|saved| *saved < 0.0);
        let saved = saved.map_or_else(
            || UNKNOWN.to_owned(),
            |saved| format!("-{}", seconds(-saved)),
        );
        let tone = if is_chosen { Tone::Good } else { Tone::Plain };
        let cells = [
            Cell::toned(&row.backend, tone),
            Cell::toned(state.join(", "), tone),
            term(row.terms.load),
            term(row.terms.wait),
            term(row.terms.work),
            Cell::new(saved),
            term(row.terms.total),
        ];
        Row::new(&row.backend, cells)
    });
    Table {
        title: "The servers it could go to".to_owned(),
        columns: vec![
            Column::name("Server"),
            Column::name("State"),
            Column::number("Load", 6),
            Column::number("Wait", 6),
            Column::number("Work", 6),
            Column::number("Cached", 7),
            Column::number("Total", 6),
        ],
        rows: rows.collect(),
        empty: "",
    }
}
