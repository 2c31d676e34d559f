//! The lines above the tables: the gateway itself, and whether there is a connection to it.

use super::problems::day;
use super::state::State;
use super::table::Tone;
use super::text::{count, escaped, known, rate, seconds, since};
use crate::status::{CloudService, Gateway, Interval, Overview, RegisteredGateway};

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
    facts.extend(expiring_keys(gateway));
    let certificate = gateway.tls.as_ref();
    let certificate = certificate.filter(|tls| !tls.expires_at.is_empty());
    facts.extend(certificate.map(|tls| format!("certificate until {}", day(&tls.expires_at))));
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
        true if reload.need_restart.is_empty() => format!("reloaded {ago} ago"),
        true => format!(
            "reloaded {ago} ago, a restart is needed for {}",
            escaped(&reload.need_restart.join(" "))
        ),
        false => format!("reload failed {ago} ago"),
    })
}

/// The keys that expire soon. Those that have expired are a problem.
fn expiring_keys(gateway: &Gateway) -> Option<String> {
    let rows = gateway.expiring_keys.iter().filter(|row| !row.is_expired);
    let rows = rows.map(|row| format!("{} on {}", escaped(&row.name), day(&row.expires_at)));
    let rows: Vec<String> = rows.collect();
    (!rows.is_empty()).then(|| format!("keys expire: {}", rows.join(", ")))
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

/// What this gateway shares with others, and which these are; `None` if it shares nothing.
pub(super) fn replicas(overview: &Overview) -> Option<String> {
    let sharing = &overview.status.sharing;
    if !sharing.is_on() {
        return None;
    }
    let how = match (&sharing.redis, &sharing.peers) {
        (Some(redis), _) if redis.is_connected => "through Redis".to_owned(),
        (Some(_), _) => "Redis is not connected".to_owned(),
        (None, Some(peers)) => format!("by the addresses of {}", escaped(peers)),
        (None, None) => String::new(),
    };
    let mut rows: Vec<String> = sharing.registered.iter().map(replica).collect();
    if sharing.not_listed > 0 {
        rows.push(format!("and {} more", sharing.not_listed));
    }
    let rows = match rows.is_empty() {
        true => String::new(),
        false => format!(": {}", rows.join(", ")),
    };
    Some(format!("replicas {} ({how}){rows}", sharing.gateways))
}

fn replica(row: &RegisteredGateway) -> String {
    let mut facts = Vec::new();
    if row.is_this {
        facts.push("this".to_owned());
    }
    if let Some(in_flight) = row.in_flight {
        facts.push(format!("in flight {in_flight}"));
    }
    facts.extend(row.waiting.map(|waiting| format!("queue {waiting}")));
    let version = row.version.as_deref().filter(|of| !of.is_empty());
    facts.extend(version.map(escaped));
    if row.is_draining == Some(true) {
        facts.push("about to end".to_owned());
    }
    if row.seen_ago > 0 {
        facts.push(format!("seen {} ago", seconds(row.seen_ago as f64)));
    }
    let host = row.host.as_deref().filter(|host| !host.is_empty());
    let name = escaped(host.unwrap_or(&row.id));
    let address = row.address.as_deref().filter(|of| !of.is_empty());
    let address = address.map(|address| format!(" {}", escaped(address)));
    format!(
        "{name}{} ({})",
        address.unwrap_or_default(),
        facts.join(" ")
    )
}
