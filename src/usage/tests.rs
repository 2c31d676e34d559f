#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::time::Duration;

use http::{Request, StatusCode};
use llamatower_layers::Ending;
use llamatower_layers::endpoint::EndpointTable;
use llamatower_layers::usage::Usage as Tokens;
use tokio::time::Instant;

use super::*;
use crate::cloud::{Reason, SentToCloud};
use crate::state::{State, StateConfig};

/// A request that has ended well.
fn outcome(key: Option<&str>, model: &str) -> Outcome {
    let request = Request::post("/api/chat").body(()).unwrap();
    let mut outcome = Outcome::of(&request, Instant::now());
    let table = EndpointTable::ollama();
    outcome.route_match = Some(table.look_up(&outcome.method, "/api/chat"));
    outcome.identity = key.map(Into::into);
    outcome.model = Some(model.into());
    outcome.backend = Some("gpu-1:11434".into());
    outcome.attempts = 1;
    outcome.status = Some(StatusCode::OK);
    outcome.ending = Ending::Complete;
    outcome.duration = Some(Duration::from_millis(2500));
    outcome.queued = Some(Duration::from_millis(500));
    let mut usage = Tokens::default();
    (usage.prompt_tokens, usage.output_tokens) = (10, 5);
    outcome.usage = Some(usage);
    outcome
}

fn usage(zone: TimeZone) -> (Arc<Usage>, Arc<State>) {
    let signal = ChangeSignal::default();
    let usage = Arc::new(Usage::new(zone.clone(), signal.clone()));
    let config = StateConfig {
        directory: None,
        days: 31,
        zone,
    };
    let state = State::open_blocking(config, signal, vec![usage.clone()]);
    (usage, state)
}

fn query(text: &str) -> Result<Query, QueryError> {
    Query::parse(text, "2026-11-30".parse().unwrap())
}

/// The rows that a query gives, as CSV without its head.
fn rows(state: &State, text: &str) -> Vec<String> {
    let query = Query::parse(text, state.today()).unwrap();
    let text = to_csv(&query, &query.sums(state, None).unwrap().0).unwrap();
    let text = String::from_utf8(text).unwrap();
    text.lines().skip(1).map(str::to_owned).collect()
}

#[test]
fn requests_are_summed_up_by_key_and_model() {
    let (usage, state) = usage(TimeZone::UTC);
    for (key, model) in [
        (Some("ada"), "tiny"),
        (Some("ada"), "tiny:latest"),
        (Some("ada"), "big"),
        (Some("bob"), "tiny"),
        (None, "tiny"),
    ] {
        usage.finished(&outcome(key, model));
    }
    let today = state.today();
    let expected = [
        format!("{today},ada,big:latest,1,0,0,10,5,0,2,0,0,0"),
        format!("{today},ada,tiny:latest,2,0,0,20,10,0,4,0,0,0"),
        format!("{today},anonymous,tiny:latest,1,0,0,10,5,0,2,0,0,0"),
        format!("{today},bob,tiny:latest,1,0,0,10,5,0,2,0,0,0"),
    ];
    assert_eq!(rows(&state, ""), expected);
    let expected = [
        "ada,3,0,0,30,15,0,6,0,0,0",
        "anonymous,1,0,0,10,5,0,2,0,0,0",
        "bob,1,0,0,10,5,0,2,0,0,0",
    ];
    assert_eq!(rows(&state, "by=key"), expected);
    assert_eq!(rows(&state, "by=total"), ["5,0,0,50,25,0,10,0,0,0"]);
    let month = today.strftime("%Y-%m");
    assert_eq!(
        rows(&state, "by=model,month"),
        [
            format!("{month},big:latest,1,0,0,10,5,0,2,0,0,0"),
            format!("{month},tiny:latest,4,0,0,40,20,0,8,0,0,0"),
        ]
    );
}

#[test]
fn only_requests_that_run_a_model_count() {
    let (usage, state) = usage(TimeZone::UTC);
    let mut list = outcome(Some("ada"), "tiny");
    let table = EndpointTable::ollama();
    list.route_match = Some(table.look_up(&http::Method::GET, "/api/tags"));
    assert!(list.operation().is_some());
    usage.finished(&list);
    assert!(rows(&state, "").is_empty());
}

#[test]
fn refusals_failures_and_the_cloud_have_their_own_columns() {
    let (usage, state) = usage(TimeZone::UTC);
    let mut refused = outcome(Some("ada"), "tiny");
    refused.attempts = 0;
    refused.error = Some("rate_limited");
    refused.status = Some(StatusCode::TOO_MANY_REQUESTS);
    refused.backend = None;
    refused.usage = None;
    let mut broken = outcome(Some("ada"), "tiny");
    broken.ending = Ending::Broken;
    let mut of_cloud = outcome(Some("ada"), "tiny");
    of_cloud.served_model = Some("openai/gpt-oss-20b".into());
    of_cloud.extensions.insert(SentToCloud(Reason::Down));
    usage.finished(&outcome(Some("ada"), "tiny"));
    for outcome in [refused, broken, of_cloud] {
        usage.finished(&outcome);
    }
    let expected = [
        "openai/gpt-oss-20b,1,0,0,10,5,0,2,1,10,5",
        "tiny:latest,3,1,1,20,10,0,4,0,0,0",
    ];
    assert_eq!(rows(&state, "by=model"), expected);
}

#[test]
fn a_model_in_any_case_has_one_row() {
    let (usage, state) = usage(TimeZone::UTC);
    usage.finished(&outcome(None, "tiny"));
    usage.finished(&outcome(None, "TINY:Latest"));
    let expected = ["tiny:latest,2,0,0,20,10,0,4,0,0,0"];
    assert_eq!(rows(&state, "by=model"), expected);
}

#[test]
fn any_number_of_keys_and_models_has_a_bounded_number_of_rows() {
    let (usage, state) = usage(TimeZone::UTC);
    let mut random = fastrand::Rng::with_seed(7);
    for _ in 0..5000 {
        let name: String = std::iter::repeat_with(|| random.alphanumeric())
            .take(12)
            .collect();
        // Of a model that a server has answered for, and of one that no server has.
        usage.finished(&outcome(None, &name));
        let spelling = format!("{name}://registry.ollama.ai/library/tiny");
        usage.finished(&outcome(None, &spelling));
        let mut missing = outcome(None, &format!("{name}x"));
        missing.status = Some(StatusCode::NOT_FOUND);
        usage.finished(&missing);
    }
    let rows = rows(&state, "by=key,model");
    assert_eq!(rows.len(), 201);
    let keys: BTreeSet<_> = rows.iter().map(|row| row.split(',').next()).collect();
    assert_eq!(keys, BTreeSet::from([Some(ANONYMOUS)]));
    assert_eq!(usage.models.known_spellings(), 1000);
}

#[test]
fn a_name_of_the_fleet_and_of_the_cloud_has_the_same_rows_in_either_order() {
    let mut of_cloud = outcome(None, "tiny");
    of_cloud.extensions.insert(SentToCloud(Reason::Down));
    let of_fleet = outcome(None, "tiny");
    for order in [[&of_cloud, &of_fleet], [&of_fleet, &of_cloud]] {
        let (usage, state) = usage(TimeZone::UTC);
        // Twice, because the second time the names are remembered.
        for outcome in order.into_iter().chain(order) {
            usage.finished(outcome);
        }
        let expected = [
            "tiny,2,0,0,20,10,0,4,2,20,10",
            "tiny:latest,2,0,0,20,10,0,4,0,0,0",
        ];
        assert_eq!(rows(&state, "by=model"), expected);
    }
}

#[test]
fn a_request_for_a_model_beyond_the_limit_waits_for_no_other() {
    let usage = Usage::new(TimeZone::UTC, ChangeSignal::default());
    for number in 0..200 {
        usage.finished(&outcome(None, &format!("model-{number}")));
    }
    let reading = usage.models.read();
    std::thread::scope(|scope| {
        let (done, is_done) = std::sync::mpsc::channel();
        let usage = &usage;
        scope.spawn(move || {
            usage.finished(&outcome(None, "one-more"));
            done.send(()).unwrap();
        });
        let finished = is_done.recv_timeout(Duration::from_secs(10));
        drop(reading);
        assert_eq!(finished, Ok(()));
    });
}

#[test]
fn threads_count_all_of_their_requests() {
    let (usage, state) = usage(TimeZone::UTC);
    std::thread::scope(|scope| {
        let count = || {
            for _ in 0..500 {
                usage.finished(&outcome(Some("ada"), "tiny"));
            }
        };
        let counting: Vec<_> = (0..16).map(|_| scope.spawn(count)).collect();
        while !counting.iter().all(|thread| thread.is_finished()) {
            state.write_blocking();
        }
    });
    let expected = ["8000,0,0,80000,40000,0,16000,0,0,0"];
    assert_eq!(rows(&state, "by=total"), expected);
}

#[test]
fn a_day_begins_at_midnight_of_the_time_zone_also_when_the_clocks_change() {
    let zone = TimeZone::get("Europe/Zurich").unwrap();
    let (usage, state) = usage(zone);
    for time in [
        "2026-03-28T22:59:59Z",
        "2026-03-28T23:00:00Z",
        "2026-03-29T21:59:59Z",
        "2026-03-29T22:00:00Z",
    ] {
        let time: Timestamp = time.parse().unwrap();
        usage.add(&outcome(Some("ada"), "tiny"), time.as_second());
    }
    let expected = [
        "2026-03-28,1,0,0,10,5,0,2,0,0,0",
        "2026-03-29,2,0,0,20,10,0,4,0,0,0",
        "2026-03-30,1,0,0,10,5,0,2,0,0,0",
    ];
    assert_eq!(
        rows(&state, "from=2026-03-01&to=2026-03-31&by=day"),
        expected
    );
}

#[test]
fn a_query_without_parameters_is_the_last_30_days() {
    let all = query("").unwrap();
    assert_eq!(
        (all.from, all.to),
        ("2026-11-01".parse().unwrap(), "2026-11-30".parse().unwrap())
    );
    assert_eq!(all.by.names(), ["day", "key", "model"]);
    let old = query("to=2026-01-31&by=month&format=csv").unwrap();
    assert_eq!(old.from.to_string(), "2026-01-02");
    assert_eq!((old.by.names(), old.format), (vec!["month"], Format::Csv));
    assert_eq!(
        query("from=2026-11-30").unwrap().to.to_string(),
        "2026-11-30"
    );
    assert_eq!(
        query("from=2026-12-05").unwrap().to.to_string(),
        "2026-12-05"
    );
}

#[test]
fn a_wrong_parameter_is_named_with_what_is_allowed() {
    for (text, expected) in [
        (
            "from=yesterday",
            r#"from: "yesterday" is not a day like 2026-11-30"#,
        ),
        ("to=2026-02-30", r#"to: "2026-02-30" is not a day"#),
        ("to=2026-11-30T12:00", "is not a day like"),
        (
            "from=2026-11-02&to=2026-11-01",
            "from: 2026-11-02 is after 2026-11-01",
        ),
        (
            "by=user",
            r#"by: "user" is unknown; it is a comma-separated list of day or month, key and model"#,
        ),
        ("by=", r#"by: "" is unknown"#),
        ("by=key,key", r#"by: "key" is one too many"#),
        ("by=day,month", r#"by: "month" is one too many"#),
        (
            "format=xml",
            r#"format: "xml" is unknown; it is json or csv"#,
        ),
        (
            "since=2026",
            "since: it is unknown; there are from, to, by and format",
        ),
        ("by=key&by=model", "by: it is given twice"),
    ] {
        let error = query(text).unwrap_err().to_string();
        assert!(error.contains(expected), "{text}: {error}");
    }
}

#[test]
fn no_name_is_a_formula_in_a_spreadsheet() {
    let (usage, state) = usage(TimeZone::UTC);
    for key in ["-ada", "@bob", "=cmd|' /C calc'!A0", "+1,\"2\"\n3", "eve"] {
        usage.finished(&outcome(Some(key), "tiny"));
    }
    let query = Query::parse("by=key,model", state.today()).unwrap();
    let text = to_csv(&query, &query.sums(&state, None).unwrap().0).unwrap();
    let mut reader = csv::Reader::from_reader(&*text);
    assert_eq!(
        reader.headers().unwrap().iter().take(3).collect::<Vec<_>>(),
        ["key", "model", "requests"]
    );
    let keys: Vec<_> = reader
        .records()
        .map(|row| row.unwrap()[0].to_owned())
        .collect();
    assert_eq!(
        keys,
        [
            "'+1,\"2\"\n3",
            "'-ada",
            "'=cmd|' /C calc'!A0",
            "'@bob",
            "eve"
        ]
    );
}
