//! What the accounting of usage costs a request, and its file.
//!
//! `cargo bench --bench usage` also prints the size of the file for a year of 20 keys and 20 models, the time to write
//! a day of it, to open it and to sum it up.

use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{BatchSize, Criterion};
use http::{Request, StatusCode};
use jiff::ToSpan;
use jiff::tz::TimeZone;
use llamatower::state::{ChangeSignal, Changes, Persist, State, StateConfig, UsageKey, day_number};
use llamatower::usage::{Query, Usage};
use llamatower_layers::endpoint::EndpointTable;
use llamatower_layers::{Ending, Observer, Outcome};
use tokio_util::sync::CancellationToken;

fn outcome(key: u32, model: u32) -> Outcome {
    let request = Request::post("/api/chat").body(()).expect("valid");
    let mut outcome = Outcome::of(&request, tokio::time::Instant::now());
    let table = EndpointTable::ollama();
    outcome.route_match = Some(table.look_up(&outcome.method, "/api/chat"));
    outcome.identity = Some(format!("key-{key}").into());
    outcome.model = Some(format!("model-{model}").into());
    outcome.backend = Some("gpu-1:11434".into());
    outcome.attempts = 1;
    outcome.status = Some(StatusCode::OK);
    outcome.ending = Ending::Complete;
    outcome.duration = Some(Duration::from_millis(2500));
    outcome
}

fn count(criterion: &mut Criterion) {
    let usage = Usage::new(TimeZone::UTC, ChangeSignal::default());
    let one = outcome(1, 1);
    criterion.bench_function("one request", |bench| bench.iter(|| usage.finished(&one)));
    let many: Vec<_> = (0..400).map(|row| outcome(row % 20, row / 20)).collect();
    let mut next = many.iter().cycle();
    criterion.bench_function("one request of 400 rows", |bench| {
        bench.iter(|| usage.finished(next.next().expect("endless")));
    });
    criterion.bench_function("taking 400 rows", |bench| {
        let fill = || many.iter().for_each(|outcome| usage.finished(outcome));
        let take = |()| {
            let mut changes = Changes::default();
            usage.take_changes(&mut changes);
            changes
        };
        bench.iter_batched(fill, take, BatchSize::PerIteration);
    });
}

/// The rows of one day, each in turn.
struct Year(std::sync::Mutex<Vec<i32>>);

impl Persist for Year {
    fn take_changes(&self, changes: &mut Changes) {
        let Some(day) = self.0.lock().expect("no panic").pop() else {
            return;
        };
        for row in 0..400 {
            let key: Arc<str> = format!("key-{}", row % 20).into();
            let model: Arc<str> = format!("model-of-a-usual-length-{}:7b", row / 20).into();
            changes.add_usage(UsageKey { day, key, model }, &[123_456; 10]);
        }
    }
}

/// A year of 20 keys and 20 models, a write for each day.
async fn year() {
    let directory = tempfile::tempdir().expect("a directory");
    let config = || StateConfig {
        directory: Some(directory.path().to_owned()),
        days: 400,
        zone: TimeZone::UTC,
    };
    let today = jiff::Timestamp::now()
        .to_zoned_datetime(TimeZone::UTC)
        .date();
    let days = (0..365).map(|before: i64| day_number(today - before.days()));
    let source = Arc::new(Year(std::sync::Mutex::new(days.collect())));
    let state = State::open(config(), ChangeSignal::default(), vec![source.clone()]).await;
    let begun = Instant::now();
    for _ in 0..365 {
        // A writer that is stopped at once writes once.
        let stopped = CancellationToken::new();
        stopped.cancel();
        state.clone().run(stopped).await;
    }
    println!("365 writes of 400 rows: {:?} each", begun.elapsed() / 365);
    drop(state);
    let size = std::fs::metadata(directory.path().join("state.redb"))
        .expect("written")
        .len();
    println!(
        "a year of 20 keys and 20 models: {:.1} MB",
        size as f64 / 1e6
    );
    let begun = Instant::now();
    let state = State::open(config(), ChangeSignal::default(), Vec::new()).await;
    println!("opening it: {:?}", begun.elapsed());
    for by in ["month,key", "day,key,model"] {
        let begun = Instant::now();
        let query = Query::parse(&format!("from=2000-01-01&by={by}"), today);
        let rows = query
            .expect("valid")
            .sums(&state, None)
            .map(|(sums, _)| sums.len());
        println!("a query by {by}: {:?}, rows: {rows:?}", begun.elapsed());
    }
}

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    runtime.expect("a runtime").block_on(year());
    let mut criterion = Criterion::default().configure_from_args();
    count(&mut criterion);
    criterion.final_summary();
}
