//! The lines above the tables: the replicas, and what an operator must act on.

use super::*;
use crate::commands::top::snapshot;

/// The gateway with these fields.
fn gateway(fields: &str) -> String {
    format!("{{\"version\": \"1.0.0\", \"started_at\": \"2026-01-01T08:59:00Z\", {fields}}}")
}

/// The screen, after these parts of a status, and the same as plain text.
fn drawn(parts: &[(&str, &str)]) -> (String, String) {
    let mut state = state();
    for (part, data) in parts {
        state.receive(part, data.as_bytes());
    }
    let text = snapshot::text(&state);
    (screen_of(&state, 160, 30), text)
}

#[track_caller]
fn assert_lines(parts: &[(&str, &str)], shown: &[&str], not_shown: &[&str]) {
    let (screen, text) = drawn(parts);
    for drawn in [screen, text] {
        for line in shown {
            assert!(drawn.contains(line), "{line}:\n{drawn}");
        }
        for line in not_shown {
            assert!(!drawn.contains(line), "{line}:\n{drawn}");
        }
    }
}

const REDIS: &str = r#"{"gateways": 2, "not_listed": 3,
    "redis": {"is_connected": true, "since": "2026-01-01T11:00:00Z"},
    "registered": [
        {"id": "1", "is_this": true, "host": "a", "address": "0.0.0.0:3000", "version": "1.0.0",
         "in_flight": 3, "waiting": 1, "is_draining": false, "seen_ago": 0},
        {"id": "2\u001b[2J", "host": null, "seen_ago": 4}
    ]}"#;
const WITHOUT_REDIS: &str = r#"{"gateways": 2,
    "redis": {"is_connected": false, "since": "2026-01-01T11:59:00Z", "problem": "no\nresponse",
        "requests_meanwhile": "not limited", "tokens_meanwhile": "refused"}}"#;
const FULL_REDIS: &str = r#"{"gateways": 2, "redis": {"is_connected": true, "problem": "OOM"}}"#;
const BY_DNS: &str = r#"{"gateways": 3, "peers": "backend-peers"}"#;

#[test]
fn the_replicas_are_in_a_line_if_anything_is_shared() {
    let registered = "replicas 2 (through Redis): \
        a 0.0.0.0:3000 (this in flight 3 queue 1 1.0.0), 2\\u001b[2J (seen 4.0 s ago), and 3 more";
    assert_lines(&[("sharing", REDIS)], &[registered], &["Meanwhile"]);
    let dns = "replicas 3 (by the addresses of backend-peers)";
    assert_lines(&[("sharing", BY_DNS)], &[dns], &["Redis"]);
    assert_lines(&[("sharing", r#"{"gateways": 1}"#)], &[], &["replicas"]);
}

#[test]
fn a_line_says_why_redis_is_not_used_and_what_happens_to_requests() {
    let lost = "Redis is not connected for 60 s: no\\u000aresponse. Meanwhile, \
        requests with a rate limit are not limited, and requests with a token limit are refused";
    let state = "replicas 2 (Redis is not connected)";
    assert_lines(&[("sharing", WITHOUT_REDIS)], &[lost, state], &[]);
    let full = "Redis refuses calls: OOM.";
    assert_lines(&[("sharing", FULL_REDIS)], &[full, "(through Redis)"], &[]);
    assert_lines(
        &[("sharing", WITHOUT_REDIS), ("sharing", REDIS)],
        &[],
        &[lost],
    );
}

#[test]
fn a_refused_reload_is_a_problem_and_an_applied_one_is_not() {
    let refused = gateway(
        r#""last_reload": {"at": "2026-01-01T11:55:00Z", "is_applied": false,
        "error": "limits.rate: no\nkeys.ada: wrong"}"#,
    );
    let line = "The reload 5 min ago was refused, the settings from before are in force: \
        limits.rate: no; keys.ada: wrong";
    assert_lines(&[("gateway", &refused)], &[line], &[]);
    let applied = gateway(
        r#""last_reload": {"at": "2026-01-01T11:55:00Z", "is_applied": true,
        "need_restart": ["LLAMATOWER_LISTEN"]}"#,
    );
    let quiet = "reloaded 5 min ago, a restart is needed for LLAMATOWER_LISTEN";
    assert_lines(&[("gateway", &applied)], &[quiet], &["was refused"]);
}

#[test]
fn a_certificate_is_a_problem_if_it_expires_within_a_week_or_its_new_files_are_wrong() {
    for (tls, shown, not_shown) in [
        (
            r#"{"expires_at": "2026-03-01T00:00:00Z"}"#,
            "certificate until 2026-03-01",
            "TLS certificate:",
        ),
        (
            r#"{"expires_at": "2026-01-08T11:00:00Z"}"#,
            "TLS certificate: it expires on 2026-01-08",
            "its new files",
        ),
        (
            r#"{"expires_at": "2025-12-31T00:00:00Z"}"#,
            "TLS certificate: it has expired on 2025-12-31",
            "it expires",
        ),
        (
            r#"{"expires_at": "2026-03-01T00:00:00Z", "error": "no key"}"#,
            "TLS certificate: its new files cannot be used, and the one from before is in force: no key",
            "it expires",
        ),
    ] {
        let gateway = gateway(&format!("\"tls\": {tls}"));
        assert_lines(&[("gateway", &gateway)], &[shown], &[not_shown]);
    }
}

#[test]
fn an_expired_key_is_a_problem_and_one_that_expires_soon_is_told() {
    let keys = gateway(
        r#""expiring_keys": [
        {"name": "ada", "expires_at": "2025-12-31T00:00:00Z", "is_expired": true},
        {"name": "ben", "expires_at": "2026-01-03T00:00:00Z", "is_expired": false}
    ]"#,
    );
    let lines = [
        "Expired keys are refused; extend or remove them: ada",
        "keys expire: ben on 2026-01-03",
    ];
    assert_lines(&[("gateway", &keys)], &lines, &["remove them: ada, ben"]);
}

#[test]
fn all_problems_together_leave_space_for_a_table_on_the_smallest_screen() {
    let mut state = state();
    let gateway = gateway(
        r#""last_reload": {"is_applied": false}, "tls": {"error": "no key"},
        "expiring_keys": [{"name": "ada", "is_expired": true}]"#,
    );
    let kept = r#"{"problem": "no space left"}"#;
    for (part, data) in [
        ("gateway", &*gateway),
        ("sharing", WITHOUT_REDIS),
        ("state", kept),
    ] {
        state.receive(part, data.as_bytes());
    }
    state.lose("connection refused".to_owned());
    let screen = screen_of(&state, 60, 16);
    for text in [
        "No connection",
        "and 3 more problems",
        "> … up",
        "Tab table",
    ] {
        assert!(screen.contains(text), "{text}:\n{screen}");
    }
    let screen = screen_of(&state, 60, 30);
    assert!(screen.contains("Expired keys"), "{screen}");
    assert!(!screen.contains("more problems"), "{screen}");
}
