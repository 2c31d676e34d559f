//! The lines above the tables: the gateway itself, and whether there is a connection to it.

use super::state::State;
use super::table::Tone;
use super::text::{count, escaped, known, rate, seconds, since};
use crate::status::{CloudService, Gateway, Interval, Overview};

/// The number of intervals in which a time to the first byte is looked for: a minute.
const RECENT: usize = 12;

/// A text and its emphasis.
pub(super) type Span = (String, Tone);

/// What the gateway is, and whether what is shown is current.
pub(super) fn gateway(state: &State) -> (String, Span) {
    let gateway = &state.shown().status.gateway;
    if state.is_empty() {
        return (
            "llamatower".to_owned(),
            ("no data yet".to_owned(), Tone::Warned),
        );
    }
    let mut facts = vec![format!("llamatower {}", escaped(&gateway.version))];
    if let Some(up) = since(&gateway.started_at, state.as_of()) {
        facts.push(format!("up {}", seconds(up.floor())));
    }
    facts.extend(reload(gateway, state));
    let mut servers = state.shown().status.backends.iter();
    let has_no_server = servers.len() > 0 && servers.all(|server| !server.is_up);
    let condition = match gateway {
        _ if state.lost().is_some() => ("old data", Tone::Bad),
        _ if state.is_paused() => ("paused", Tone::Warned),
        Gateway {
            is_draining: true, ..
        } => ("the gateway is about to end", Tone::Warned),
        _ if has_no_server => ("live, all servers are down", Tone::Bad),
        _ => ("live", Tone::Good),
    };
    (facts.join(", "), (condition.0.to_owned(), condition.1))
}

fn reload(gateway: &Gateway, state: &State) -> Option<String> {
    let reload = gateway.last_reload.as_ref()?;
    let ago = seconds(since(&reload.at, state.as_of())?.floor());
    Some(match reload.is_applied {
        true => format!("reloaded {ago} ago"),
        false => format!("reload failed {ago} ago"),
    })
}

/// What happens now.
pub(super) fn now(overview: &Overview) -> String {
    let status = &overview.status;
    let waiting: usize = status.queue.iter().map(|row| row.waiting).sum();
    let mut facts = vec![
        format!("in flight {}", status.gateway.in_flight),
        format!("queue {waiting}"),
        format!("tokens/s {}", known(tokens_per_second(overview), rate)),
        first_byte(&overview.activity.intervals),
    ];
    if let Some(cloud) = &status.cloud.service {
        facts.push(cloud_today(cloud));
    }
    facts.join("  ")
}

/// The output tokens of the last complete interval in a second.
fn tokens_per_second(overview: &Overview) -> Option<f64> {
    let rows = &overview.activity.intervals;
    let last = rows.last()?;
    let before = rows.get(rows.len().checked_sub(2)?)?;
    // Events do not have the length of an interval.
    let length = last.at.saturating_sub(before.at);
    (length > 0).then(|| last.output_tokens as f64 / length as f64)
}

/// The time to the first byte of the latest streams of the last minute.
fn first_byte(intervals: &[Interval]) -> String {
    let mut recent = intervals.iter().rev().take(RECENT);
    let latest = recent.find(|row| row.first_byte_p50.is_some());
    let time = |of: fn(&Interval) -> Option<f64>| known(latest.and_then(of), seconds);
    let (median, high) = (
        time(|row| row.first_byte_p50),
        time(|row| row.first_byte_p95),
    );
    format!("first byte {median} (95 %: {high})")
}

fn cloud_today(cloud: &CloudService) -> String {
    let used = count(cloud.tokens_today);
    let limit = cloud
        .tokens_limit
        .map(|limit| format!(" of {}", count(limit)));
    let rests = cloud
        .rests_for
        .map(|time| format!(", rests for {}", seconds(time)));
    let (limit, rests) = (limit.unwrap_or_default(), rests.unwrap_or_default());
    format!("cloud tokens today {used}{limit}{rests}")
}

/// What is said while usage is not kept although a directory is set.
pub(super) fn not_kept(overview: &Overview) -> Option<String> {
    let problem = overview.status.state.problem.as_ref()?;
    Some(format!(
        "Usage, token budgets and cordons are not kept over a restart: {}",
        escaped(problem)
    ))
}

/// What is said while there is no connection.
pub(super) fn lost(state: &State) -> Option<String> {
    let (reason, age) = state.lost()?;
    let age = seconds(age.floor());
    Some(format!(
        "No connection to the gateway, the data is {age} old: {}",
        escaped(reason)
    ))
}
