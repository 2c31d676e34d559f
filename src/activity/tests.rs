#![allow(clippy::unwrap_used)]

use std::time::Duration;

use http::{Request, StatusCode};
use llamatower_layers::endpoint::EndpointTable;
use llamatower_layers::usage::Usage;
use llamatower_layers::{ClientAddress, Ending};
use tokio::time::Instant;

use super::intervals::Intervals;
use super::*;

/// A request to this path that has ended well.
fn outcome(path: &str, client: u8) -> Outcome {
    let request = Request::post(path).body(()).unwrap();
    let mut outcome = Outcome::of(&request, Instant::now());
    let table = EndpointTable::ollama();
    outcome.route_match = Some(table.look_up(&outcome.method, path));
    outcome.client_address = Some(ClientAddress([10, 0, 0, client].into()));
    outcome.model = Some("tiny".into());
    outcome.stream = true;
    outcome.status = Some(StatusCode::OK);
    outcome.ending = Ending::Complete;
    outcome.time_to_first_byte = Some(Duration::from_millis(250));
    let mut usage = Usage::default();
    (usage.prompt_tokens, usage.output_tokens) = (10, 5);
    outcome.usage = Some(usage);
    outcome
}

#[test]
fn requests_that_run_or_manage_models_are_kept_and_lists_are_not() {
    let activity = Activity::default();
    for path in [
        "/api/chat",
        "/api/tags",
        "/api/pull",
        "/v1/embeddings",
        "/nowhere",
    ] {
        activity.finished(&outcome(path, 1));
    }
    let requests = activity.requests();
    let routes: Vec<_> = requests
        .iter()
        .filter_map(|row| row.route.as_deref())
        .collect();
    assert_eq!(routes, ["/v1/embeddings", "/api/pull", "/api/chat"]);
    let (_, totals) = activity.clients().pop().unwrap();
    assert_eq!(
        (totals.requests, totals.prompt_tokens, totals.output_tokens),
        (2, 20, 10)
    );
}

#[test]
fn only_the_last_hundred_requests_are_kept() {
    let activity = Activity::default();
    for _ in 0..250 {
        activity.finished(&outcome("/api/chat", 1));
    }
    assert_eq!(activity.requests().len(), REQUESTS);
}

#[test]
fn clients_beyond_the_number_that_is_kept_share_a_row() {
    let activity = Activity::default();
    for _ in 0..2 {
        for client in 0..=255 {
            activity.finished(&outcome("/api/chat", client));
        }
        let mut other = outcome("/api/chat", 0);
        other.client_address = Some(ClientAddress([10, 1, 0, 0].into()));
        activity.finished(&other);
    }
    let clients = activity.clients();
    assert_eq!(clients.len(), 257);
    assert!(
        clients[..256]
            .iter()
            .all(|(client, totals)| client.is_some() && totals.requests == 2)
    );
    let (client, others) = &clients[256];
    assert_eq!((client.is_none(), others.requests), (true, 2));
}

#[test]
fn a_long_name_of_a_model_is_cut() {
    let activity = Activity::default();
    let mut long = outcome("/api/chat", 1);
    long.model = Some("ä".repeat(10_000).into());
    activity.finished(&long);
    let kept = activity.requests().pop().unwrap().model.unwrap();
    assert!(kept.len() <= 256, "{}", kept.len());
}

#[test]
fn a_refused_request_counts_as_refused_and_a_broken_one_as_failed() {
    let activity = Activity::default();
    let mut refused = outcome("/api/chat", 1);
    (refused.status, refused.error) = (Some(StatusCode::UNAUTHORIZED), Some("missing_key"));
    activity.finished(&refused);
    let mut broken = outcome("/api/chat", 1);
    (broken.ending, broken.attempts) = (Ending::Broken, 1);
    activity.finished(&broken);
    let clients = activity.clients();
    let totals: Vec<_> = clients
        .iter()
        .map(|(client, totals)| (client.is_some(), totals.requests, totals.refused))
        .collect();
    // Addresses of which only refused requests are known have no row of their own.
    assert_eq!(totals, [(true, 1, 0), (false, 1, 1)]);
    let requests = activity.requests();
    let failed: Vec<_> = requests.iter().map(FinishedRequest::has_failed).collect();
    assert_eq!(failed, [true, false]);
}

fn ended_at(second: i64, first_byte: f64) -> FinishedRequest {
    let at = Timestamp::from_second(second).unwrap();
    let mut request = FinishedRequest::of(&outcome("/api/chat", 1), at);
    request.first_byte = Some(Duration::from_secs_f64(first_byte));
    request
}

#[test]
fn intervals_without_a_request_are_there_and_old_ones_are_gone() {
    let mut intervals = Intervals::default();
    for second in [1_000, 1_004, 1_012, 1_900] {
        intervals.add(&ended_at(second, 0.5), true);
    }
    let rows = intervals.complete(1_906);
    assert_eq!(rows.len(), 180);
    assert_eq!((rows[0].at, rows[179].at), (1_005, 1_900));
    let filled: Vec<_> = rows.iter().filter(|row| row.requests > 0).collect();
    let filled: Vec<_> = filled.iter().map(|row| (row.at, row.requests)).collect();
    assert_eq!(filled, [(1_010, 1), (1_900, 1)]);
}

#[test]
fn the_time_to_the_first_byte_has_quantiles_of_its_sample() {
    let mut intervals = Intervals::default();
    for index in 0..100 {
        intervals.add(&ended_at(1_000, f64::from(index) / 100.0), true);
    }
    intervals.add(&ended_at(1_000, 300.0), false);
    let row = intervals.complete(1_005).pop().unwrap();
    assert!((row.first_byte(0.5).unwrap() - 0.5).abs() < 0.02);
    assert!((row.first_byte(0.95).unwrap() - 0.94).abs() < 0.02);
    assert_eq!(IntervalTotals::default().first_byte(0.5), None);
}

#[test]
fn after_the_clock_was_set_back_requests_are_counted_at_the_new_time() {
    let mut intervals = Intervals::default();
    for second in [1_000, 990] {
        intervals.add(&ended_at(second, 0.5), true);
    }
    let rows = intervals.complete(995);
    let last = rows.last().unwrap();
    assert_eq!((last.at, last.requests), (990, 1));
}

#[test]
fn requests_that_end_at_a_boundary_in_another_order_are_all_counted() {
    let mut intervals = Intervals::default();
    for second in [1_000, 1_005, 1_004, 1_005] {
        intervals.add(&ended_at(second, 0.5), true);
    }
    let rows = intervals.complete(1_010);
    let rows: Vec<_> = rows.iter().rev().take(2).collect();
    let rows: Vec<_> = rows.iter().map(|row| (row.at, row.requests)).collect();
    assert_eq!(rows, [(1_005, 3), (1_000, 1)]);
}
