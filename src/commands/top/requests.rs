//! The last requests: their table, and all that is known of one.

use jiff::tz::TimeZone;

use super::details::Fact;
use super::panes::or_unknown;
use super::table::{Cell, Column, Row, Table, Tone};
use super::text::{UNKNOWN, clock, count, known, seconds};
use crate::status::{CostTerms, DecisionRow, Overview, RequestRow};

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

/// The last requests.
pub(super) fn table(overview: &Overview, zone: &TimeZone) -> Table {
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

/// All that is known of a request.
pub(super) fn facts(row: &RequestRow) -> Vec<Fact> {
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
        ("Ended at", Cell::new(without_fraction(&row.ended_at))),
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

/// A time to the second.
fn without_fraction(time: &str) -> String {
    match time.split_once('.') {
        Some((seconds, _)) => format!("{seconds}Z"),
        None => time.to_owned(),
    }
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
