//! The servers: their table, and all that is known of one.

use jiff::Timestamp;

use super::details::{Fact, lines};
use super::panes::or_unknown;
use super::table::{Cell, Column, Row, Table, Tone};
use super::text::{bytes, count, known, left, rate, seconds};
use crate::status::{Backend, ModelOnBackend, Overview, ResidentModel};

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

/// The servers, with the models in memory of each.
pub(super) fn table(overview: &Overview, now: Timestamp) -> Table {
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

/// All that is known of a server.
pub(super) fn facts(row: &Backend, now: Timestamp) -> Vec<Fact> {
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
    let residents = row
        .resident
        .iter()
        .flatten()
        .map(|model| resident(model, now));
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

/// What is known of a model in the memory of a server.
fn resident(row: &ResidentModel, now: Timestamp) -> String {
    let mut facts = vec![bytes(row.size)];
    if row.size_vram < row.size {
        facts.push(format!("{} % on GPUs", row.size_vram * 100 / row.size));
    }
    facts.extend(
        row.context_length
            .map(|tokens| format!("context {}", count(tokens))),
    );
    facts.push(match &*left(row.expires_at.as_deref(), now) {
        "stays" => "stays".to_owned(),
        time => format!("{time} left"),
    });
    format!("{}: {}", row.model, facts.join(", "))
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
        Some(slots) => format!("slots {slots} ({})", row.slots_source),
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
