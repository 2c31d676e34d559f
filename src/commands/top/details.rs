//! All that is known of one row.

use jiff::Timestamp;

use super::panes::{Pane, or_unknown};
use super::table::{Cell, Tone};
use super::text::{bytes, count, known, seconds};
use super::{requests, servers};
use crate::status::{ModelRow, Overview};

/// The name of a fact, and its value.
pub(super) type Fact = (&'static str, Cell);

/// All that is known of one row.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Details {
    pub(super) title: &'static str,
    /// Names and values.
    pub(super) facts: Vec<Fact>,
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
                (
                    "Server",
                    servers::facts(servers.find(|row| row.name == key)?, now),
                )
            }
            Pane::Queue => ("Waiting request", waiter(overview, key)?),
            Pane::Requests => {
                let mut requests = overview.activity.requests.iter();
                let row = requests.find(|row| requests::key_of(row) == key)?;
                return Some(Self {
                    title: "Request",
                    facts: requests::facts(row),
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

/// One fact of several lines, if there are any.
pub(super) fn lines(
    name: &'static str,
    texts: impl Iterator<Item = String>,
    tone: Tone,
) -> Option<Fact> {
    let cell = texts.fold(Cell::default(), |cell, text| cell.and(text, tone));
    (!cell.lines().is_empty()).then_some((name, cell))
}

fn waiter(overview: &Overview, key: &str) -> Option<Vec<Fact>> {
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

fn model(row: &ModelRow, overview: &Overview) -> Vec<Fact> {
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

fn client(overview: &Overview, key: &str) -> Option<Vec<Fact>> {
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
