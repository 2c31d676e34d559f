//! `/status/decisions`: the last choices of a backend, and their reasons.

use serde_json::{Value, json};
use tokio::time::Instant;

use crate::ollama::fleet::{Candidate, Decision};

/// The content. Durations are in seconds.
pub(super) fn page(decisions: &[Decision], now: Instant) -> Value {
    let rows = decisions.iter().map(|row| decision(row, now));
    json!({ "decisions": rows.collect::<Value>() })
}

fn decision(row: &Decision, now: Instant) -> Value {
    let age = now.saturating_duration_since(row.at);
    json!({
        "age": seconds(age.as_secs_f64()),
        "model": row.model.to_string(),
        "waited": seconds(row.waited),
        "waiting": row.waiting,
        "backend": row.server.as_deref(),
        "candidates": row.candidates.iter().map(candidate).collect::<Value>(),
    })
}

fn candidate(row: &Candidate) -> Value {
    let term = |term: Option<f64>| term.map(seconds);
    let terms = row.terms.as_ref();
    json!({
        "backend": *row.server,
        "state": row.availability.name(),
        "was_tried": row.was_tried,
        "is_open": row.is_open,
        "loads": row.loads,
        "load": term(terms.map(|terms| terms.load)),
        "wait": term(terms.map(|terms| terms.wait)),
        "work": term(terms.map(|terms| terms.work)),
        "affinity": term(terms.map(|terms| terms.affinity)),
        "total": term(terms.map(|terms| terms.total())),
    })
}

/// Seconds to the microsecond. The digits beyond it are no information.
fn seconds(seconds: f64) -> f64 {
    // Not -0, which has a sign in JSON.
    (seconds * 1e6).round() / 1e6 + 0.0
}
