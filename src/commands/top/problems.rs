//! The lines above the tables that ask an operator to act.

use jiff::{SignedDuration, Timestamp};

use super::state::State;
use super::text::{escaped, seconds, since};
use crate::settings::EXPIRES_SOON;
use crate::status::{Certificate, Gateway, Overview, SharingState};

/// What is wrong, the most important first.
pub(super) fn all(state: &State) -> Vec<String> {
    let shown = state.shown();
    let (gateway, now) = (&shown.status.gateway, state.as_of());
    let lines = [
        lost(state),
        not_kept(shown),
        lost_log(gateway),
        redis(&shown.status.sharing, now),
        refused_reload(gateway, now),
        gateway.tls.as_ref().and_then(|tls| certificate(tls, now)),
        expired_keys(gateway),
    ];
    lines.into_iter().flatten().collect()
}

/// As many as fit into `most` lines. The last line tells how many others there are.
pub(super) fn fit_lines(mut lines: Vec<String>, most: usize) -> Vec<String> {
    if lines.len() > most {
        let shown = most.saturating_sub(1);
        let left_out = lines.len() - shown;
        lines.truncate(shown);
        lines.push(format!(
            "and {left_out} more problems; a screen with more rows shows them"
        ));
    }
    lines
}

/// There is no connection to the gateway.
fn lost(state: &State) -> Option<String> {
    let (reason, age) = state.lost()?;
    let age = seconds(age.floor());
    Some(format!(
        "No connection to the gateway, the data is {age} old: {}",
        escaped(reason)
    ))
}

/// Usage is not kept although a directory is set.
fn not_kept(overview: &Overview) -> Option<String> {
    let problem = overview.status.state.problem.as_ref()?;
    Some(format!(
        "Usage, token budgets and cordons are not kept over a restart: {}",
        escaped(problem)
    ))
}

/// Lines of the log cannot be written.
fn lost_log(gateway: &Gateway) -> Option<String> {
    let problem = gateway.log_problem.as_ref()?;
    Some(format!(
        "The log cannot be written, and its lines are lost: {}",
        escaped(problem)
    ))
}

/// Redis does not answer, or refuses calls.
fn redis(sharing: &SharingState, now: Timestamp) -> Option<String> {
    let redis = sharing.redis.as_ref()?;
    let problem = redis.problem.as_deref();
    let state = match (redis.is_connected, problem) {
        (true, None) => return None,
        (true, Some(problem)) => format!("Redis refuses calls: {}", escaped(problem)),
        (false, problem) => {
            let age = since(&redis.since, now).map(|age| format!(" for {}", seconds(age.floor())));
            let problem = problem.map(|problem| format!(": {}", escaped(problem)));
            let (age, problem) = (age.unwrap_or_default(), problem.unwrap_or_default());
            format!("Redis is not connected{age}{problem}")
        }
    };
    Some(format!(
        "{state}. Meanwhile, requests with a rate limit are {}, and requests with a token limit are {}",
        escaped(&redis.requests_meanwhile),
        escaped(&redis.tokens_meanwhile)
    ))
}

/// The last reload was refused.
fn refused_reload(gateway: &Gateway, now: Timestamp) -> Option<String> {
    let reload = gateway.last_reload.as_ref()?;
    if reload.is_applied {
        return None;
    }
    let ago = since(&reload.at, now).map(|ago| format!(" {} ago", seconds(ago.floor())));
    let errors = reload.error.as_deref().unwrap_or("the error is not known");
    let errors: Vec<String> = errors.lines().map(escaped).collect();
    Some(format!(
        "The reload{} was refused, the settings from before are in force: {}",
        ago.unwrap_or_default(),
        errors.join("; ")
    ))
}

/// The certificate expires soon, or its new files cannot be used.
fn certificate(tls: &Certificate, now: Timestamp) -> Option<String> {
    let mut problems = Vec::new();
    if let Some(error) = &tls.error {
        problems.push(format!(
            "its new files cannot be used, and the one from before is in force: {}",
            escaped(error)
        ));
    }
    if let Some(left) = left(tls, now).filter(|left| *left <= EXPIRES_SOON) {
        let at = day(&tls.expires_at);
        problems.push(match left.is_positive() {
            true => format!("it expires on {at}"),
            false => format!("it has expired on {at}"),
        });
    }
    let problems = problems.join("; ");
    (!problems.is_empty()).then(|| format!("TLS certificate: {problems}"))
}

fn left(tls: &Certificate, now: Timestamp) -> Option<SignedDuration> {
    let expires_at: Timestamp = tls.expires_at.parse().ok()?;
    Some(expires_at.duration_since(now))
}

/// Keys that are refused because they have expired.
fn expired_keys(gateway: &Gateway) -> Option<String> {
    let rows = gateway.expiring_keys.iter().filter(|row| row.is_expired);
    let names: Vec<String> = rows.map(|row| escaped(&row.name)).collect();
    (!names.is_empty()).then(|| {
        format!(
            "Expired keys are refused; extend or remove them: {}",
            names.join(", ")
        )
    })
}

/// The day of a time.
pub(super) fn day(time: &str) -> String {
    escaped(time.get(..10).unwrap_or(time))
}
