#![allow(clippy::unwrap_used)]

use std::fs;
use std::num::NonZeroU64;
use std::path::Path;

use llamatower_layers::token_limit::{Budget, MemoryStore, TokenStore, Window};
use tempfile::TempDir;

use super::*;
use crate::clients::Client;

/// Changes that a test hands over.
#[derive(Default)]
struct Given(Mutex<Changes>);

impl Persist for Given {
    fn take_changes(&self, changes: &mut Changes) {
        let given = std::mem::take(&mut *self.0.lock().unwrap());
        for (key, counts) in given.usage {
            changes.add_usage(key, &counts);
        }
        changes.windows.extend(given.windows);
        changes.cordons = given.cordons.or(changes.cordons.take());
    }
}

fn open(directory: &Path, sources: Vec<Arc<dyn Persist>>) -> Arc<State> {
    let config = StateConfig {
        directory: Some(directory.to_owned()),
        days: 400,
        zone: TimeZone::UTC,
    };
    State::open_blocking(config, ChangeSignal::default(), sources)
}

fn row(day: i32, key: &str, model: &str, count: u64) -> (UsageKey, Counts) {
    let (key, model) = (key.into(), model.into());
    (UsageKey { day, key, model }, [count; COUNTS])
}

fn give(given: &Given, rows: impl IntoIterator<Item = (UsageKey, Counts)>) {
    for (key, counts) in rows {
        given.0.lock().unwrap().add_usage(key, &counts);
    }
}

/// All rows, as text.
fn rows(state: &State) -> Vec<String> {
    let mut rows = std::collections::BTreeMap::<_, u64>::new();
    let (from, to) = (Date::new(1970, 1, 1), Date::new(9999, 12, 31));
    let read = state.usage(from.unwrap(), to.unwrap(), |day, key, model, counts| {
        let row = (day, key.to_owned(), model.to_owned());
        *rows.entry(row).or_default() += counts[0];
    });
    read.unwrap();
    let texts = rows.into_iter();
    texts
        .map(|((day, key, model), count)| format!("{day} {key} {model} {count}"))
        .collect()
}

/// A directory with a file that holds a row.
fn with_a_row() -> TempDir {
    let directory = TempDir::new().unwrap();
    let given = Arc::new(Given::default());
    let state = open(directory.path(), vec![given.clone()]);
    give(&given, [row(today(), "ada", "tiny:latest", 7)]);
    assert!(state.write_blocking());
    directory
}

fn today() -> i32 {
    day_number(TimeZone::UTC.to_datetime(Timestamp::now()).date())
}

fn file(directory: &TempDir) -> PathBuf {
    directory.path().join("state.redb")
}

#[test]
fn rows_are_added_up_over_writes_and_restarts() {
    let directory = TempDir::new().unwrap();
    for run in 1..=3 {
        let given = Arc::new(Given::default());
        let state = open(directory.path(), vec![given.clone()]);
        assert_eq!(state.health().file, Some(file(&directory)));
        give(&given, [row(today(), "ada", "tiny", 1)]);
        // What is not written yet is told too.
        let expected = format!("{} ada tiny {}", today(), run * 2 - 1);
        assert_eq!(rows(&state), [expected]);
        assert!(state.write_blocking());
        give(&given, [row(today(), "ada", "tiny", 1)]);
        assert!(state.write_blocking());
        assert!(state.health().written_at.is_some());
    }
    let state = open(directory.path(), Vec::new());
    assert_eq!(rows(&state), [format!("{} ada tiny 6", today())]);
}

#[test]
fn nothing_is_written_without_a_change() {
    let directory = with_a_row();
    let given = Arc::new(Given::default());
    let state = open(directory.path(), vec![given.clone()]);
    let before = fs::read(file(&directory)).unwrap();
    assert!(state.write_blocking());
    assert_eq!(state.health().written_at, None);
    assert!(fs::read(file(&directory)).unwrap() == before);
    give(&given, [row(today(), "ada", "tiny", 1)]);
    assert!(state.write_blocking());
    assert!(state.health().written_at.is_some());
}

#[cfg(unix)]
#[test]
fn only_the_user_of_the_gateway_can_read_the_file() {
    use std::os::unix::fs::PermissionsExt;
    let directory = with_a_row();
    let mode = fs::metadata(file(&directory)).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn days_beyond_the_number_that_is_kept_are_removed() {
    let directory = TempDir::new().unwrap();
    let given = Arc::new(Given::default());
    let config = StateConfig {
        directory: Some(directory.path().to_owned()),
        days: 2,
        zone: TimeZone::UTC,
    };
    let sources: Vec<Arc<dyn Persist>> = vec![given.clone()];
    let state = State::open_blocking(config, ChangeSignal::default(), sources);
    let yesterday = day_number(state.today().yesterday().unwrap());
    let before = day_number(state.today().yesterday().unwrap().yesterday().unwrap());
    give(
        &given,
        [today(), yesterday, before].map(|day| row(day, "ada", "tiny", 1)),
    );
    assert!(state.write_blocking());
    let expected = [yesterday, today()].map(|day| format!("{day} ada tiny 1"));
    assert_eq!(rows(&state), expected);
}

#[test]
fn a_token_window_is_restored_and_an_open_reservation_is_not() {
    let budget = Budget::new(NonZeroU64::new(100).unwrap(), Window::Month);
    let reserve = |store: &MemoryStore<Client>, client: &Client, tokens| {
        let reserved = store.reserve(Some(client.clone()), &[budget], tokens);
        reserved.into_inner().unwrap().unwrap()
    };
    let ada = Client::Key("ada".into());
    let near = Client::Address("10.0.0.7".parse().unwrap());
    let directory = TempDir::new().unwrap();
    for (used, left) in [(30, 100), (20, 70), (0, 50)] {
        let store = MemoryStore::new(TimeZone::UTC);
        let windows = Windows::new("tokens", store.clone());
        let state = open(directory.path(), vec![Arc::new(windows)]);
        for client in [&ada, &near] {
            let granted = reserve(&store, client, 0);
            assert_eq!(granted.budget_states[0].remaining, left, "{client}");
            store.settle(granted.reservation, used);
        }
        let _open = reserve(&store, &ada, 10);
        assert!(state.write_blocking());
    }
}

#[test]
fn a_file_with_other_content_is_put_aside() {
    let directory = TempDir::new().unwrap();
    fs::write(file(&directory), "no database").unwrap();
    let state = open(directory.path(), Vec::new());
    assert_eq!(state.health().problem, None);
    assert_eq!(state.health().file, Some(file(&directory)));
    let entries = fs::read_dir(directory.path()).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut aside = names.filter(|name| name.starts_with("state.redb.damaged-"));
    let aside = directory.path().join(aside.next().unwrap());
    assert_eq!(fs::read_to_string(aside).unwrap(), "no database");
}

#[test]
fn a_damaged_file_does_not_keep_the_gateway_from_starting() {
    let directory = with_a_row();
    let sound = fs::read(file(&directory)).unwrap();
    let used = sound.iter().rposition(|byte| *byte != 0).unwrap();
    let mut random = fastrand::Rng::with_seed(7);
    for round in 0..60 {
        let mut damaged = sound.clone();
        match round % 3 {
            // A bit, a page, or the end is gone.
            0 => damaged[random.usize(..used)] ^= 1 << random.u8(..8),
            1 => damaged[random.usize(..used) & !4095..][..4096].fill(random.u8(..)),
            _ => damaged.truncate(random.usize(..sound.len())),
        }
        let elsewhere = TempDir::new().unwrap();
        fs::write(file(&elsewhere), &damaged).unwrap();
        let given = Arc::new(Given::default());
        let state = open(elsewhere.path(), vec![given.clone()]);
        let kept = rows(&state);
        let whole = [format!("{} ada tiny:latest 7", today())];
        assert!(kept.is_empty() || kept == whole, "{round}: {kept:?}");
        give(&given, [row(today(), "bob", "tiny", 1)]);
        assert!(state.write_blocking(), "{round}: {:?}", state.health());
    }
}

#[test]
fn the_content_of_a_file_of_a_newer_version_is_left_as_it_is() {
    let directory = with_a_row();
    let meta = redb::TableDefinition::<&str, u64>::new("meta");
    let database = redb::Database::open(file(&directory)).unwrap();
    let writing = database.begin_write().unwrap();
    let number = store::FORMAT + 1;
    let mut table = writing.open_table(meta).unwrap();
    table.insert("format", number).unwrap();
    drop(table);
    writing.commit().unwrap();
    drop(database);
    let given = Arc::new(Given::default());
    let state = open(directory.path(), vec![given.clone()]);
    let problem = state.health().problem.unwrap();
    assert!(problem.contains("newer version"), "{problem}");
    give(&given, [row(today(), "bob", "tiny", 1)]);
    assert!(state.write_blocking(), "in memory");
    assert_eq!(rows(&state), [format!("{} bob tiny 1", today())]);
    drop(state);
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    let database = redb::Database::open(file(&directory)).unwrap();
    let writing = database.begin_write().unwrap();
    let mut table = writing.open_table(meta).unwrap();
    let found = table.insert("format", store::FORMAT).unwrap();
    assert_eq!(found.map(|found| found.value()), Some(number));
    drop(table);
    writing.commit().unwrap();
    drop(database);
    let state = open(directory.path(), Vec::new());
    assert_eq!(rows(&state), [format!("{} ada tiny:latest 7", today())]);
}

#[test]
fn a_file_has_one_user_at_a_time() {
    let directory = with_a_row();
    let first = open(directory.path(), Vec::new());
    let second = open(directory.path(), Vec::new());
    let problem = second.health().problem.unwrap();
    assert!(problem.contains("in use by another process"), "{problem}");
    assert_eq!((rows(&first).len(), rows(&second).len()), (1, 0));
    drop(first);
    let third = open(directory.path(), Vec::new());
    assert_eq!(third.health().problem, None);
}

#[test]
fn a_file_that_is_in_use_at_first_gets_what_was_counted_until_it_is_free() {
    let budget = Budget::new(NonZeroU64::new(100).unwrap(), Window::Month);
    let ada = Client::Key("ada".into());
    let left = |store: &MemoryStore<Client>, used| {
        let reserved = store.reserve(Some(ada.clone()), &[budget], 0).into_inner();
        let granted = reserved.unwrap().unwrap();
        store.settle(granted.reservation, used);
        granted.budget_states[0].remaining
    };
    struct Process {
        state: Arc<State>,
        given: Arc<Given>,
        tokens: MemoryStore<Client>,
        cordons: Arc<KeptCordons>,
    }
    let directory = TempDir::new().unwrap();
    let start = || {
        let (given, tokens) = (Arc::new(Given::default()), MemoryStore::new(TimeZone::UTC));
        let cordons = Arc::new(KeptCordons::new(ChangeSignal::default()));
        let windows = Arc::new(Windows::new("tokens", tokens.clone()));
        let state = open(
            directory.path(),
            vec![given.clone(), windows, cordons.clone()],
        );
        Process {
            state,
            given,
            tokens,
            cordons,
        }
    };
    let cordoned = |process: &Process| process.cordons.cordons().names().join(" ");

    let first = start();
    give(&first.given, [row(today(), "ada", "tiny", 7)]);
    assert_eq!(left(&first.tokens, 30), 100);
    for name in ["gpu-1", "gpu-2"] {
        first.cordons.cordons().set(name, true);
    }
    assert!(first.state.write_blocking());

    let second = start();
    second.state.open_late_blocking();
    assert!(second.state.health().problem.is_some(), "still in use");
    assert_eq!(second.state.days(), 31);
    give(&second.given, [row(today(), "ada", "tiny", 2)]);
    assert_eq!(left(&second.tokens, 20), 100);
    second.cordons.cordons().set("gpu-3", true);
    second.cordons.cordons().set("gpu-2", false);
    // One part is written to memory, another is not.
    assert!(second.state.write_blocking());
    give(&second.given, [row(today(), "bob", "tiny", 1)]);
    give(&first.given, [row(today(), "ada", "tiny", 1)]);
    assert!(first.state.write_blocking());
    drop(first);
    second.state.open_late_blocking();

    let whole = [("ada", 10), ("bob", 1)];
    let whole = whole.map(|(key, count)| format!("{} {key} tiny {count}", today()));
    let check = |process: &Process| {
        let health = process.state.health();
        assert_eq!(
            (health.file, health.problem),
            (Some(file(&directory)), None)
        );
        assert_eq!(process.state.days(), 400);
        assert_eq!(rows(&process.state), whole);
        assert_eq!(left(&process.tokens, 0), 50);
        assert_eq!(cordoned(process), "gpu-1 gpu-3");
    };
    check(&second);
    assert!(second.state.write_blocking());
    // It is not added again.
    second.state.open_late_blocking();
    check(&second);
    drop(second);
    check(&start());
}

#[test]
fn a_directory_that_cannot_be_made_is_a_problem_and_no_failure() {
    let directory = TempDir::new().unwrap();
    fs::write(directory.path().join("file"), "").unwrap();
    let inside = directory.path().join("file/state");
    let state = open(&inside, Vec::new());
    let problem = state.health().problem.unwrap();
    assert!(problem.contains(&*inside.to_string_lossy()), "{problem}");
    assert!(problem.contains("Not a directory"), "{problem}");
    assert!(state.write_blocking());
}

#[test]
fn usage_in_memory_is_kept_for_a_month_at_most() {
    let config = StateConfig {
        directory: None,
        days: 400,
        zone: TimeZone::UTC,
    };
    let state = State::open_blocking(config, ChangeSignal::default(), Vec::new());
    assert_eq!(state.days(), 31);
    assert_eq!(state.health(), Health::default());
}

/// The result of a query of all days, with `each` for its rows.
fn query_all(state: &State, each: impl FnMut(i32, &str, &str, &Counts)) -> Result<bool, String> {
    let (from, to) = (Date::new(1970, 1, 1), Date::new(9999, 12, 31));
    state.usage(from.unwrap(), to.unwrap(), each)
}

#[test]
fn changes_are_written_while_a_query_reads() {
    let directory = TempDir::new().unwrap();
    let given = Arc::new(Given::default());
    let state = open(directory.path(), vec![given.clone()]);
    give(&given, [row(today(), "ada", "tiny", 1)]);
    assert!(state.write_blocking());
    let mut found = Vec::new();
    let complete = query_all(&state, |_, key, _, counts| {
        give(&given, [row(today(), "bob", "tiny", 1)]);
        std::thread::scope(|scope| {
            let writing = scope.spawn(|| state.write_blocking());
            assert!(writing.join().unwrap());
        });
        found.push((key.to_owned(), counts[0]));
    });
    assert_eq!(complete, Ok(true));
    // Those of the moment of the query.
    assert_eq!(found, [("ada".to_owned(), 1)]);
    assert_eq!(rows(&state).len(), 2);
}

#[test]
fn usage_is_in_memory_and_told_to_be_incomplete_while_the_file_cannot_be_opened() {
    let directory = with_a_row();
    let given = Arc::new(Given::default());
    let state = open(directory.path(), vec![given.clone()]);
    assert!(state.health().is_kept());
    let moved = directory.path().join("moved");
    // As after a failed write, when the file cannot be opened again.
    state.lock_writing().close();
    fs::rename(file(&directory), &moved).unwrap();
    fs::create_dir(file(&directory)).unwrap();
    give(&given, [row(today(), "bob", "tiny", 1)]);
    assert!(!state.write_blocking());
    let health = state.health();
    assert!(!health.is_kept() && health.problem.is_some(), "{health:?}");
    assert_eq!(query_all(&state, |_, _, _, _| {}), Ok(false));
    assert_eq!(rows(&state), [format!("{} bob tiny 1", today())]);
    fs::remove_dir(file(&directory)).unwrap();
    fs::rename(&moved, file(&directory)).unwrap();
    // A query does not open the file.
    assert_eq!(query_all(&state, |_, _, _, _| {}), Ok(false));
    assert!(state.write_blocking());
    assert!(state.health().is_kept());
    let both = [("ada tiny:latest", 7), ("bob tiny", 1)];
    let both = both.map(|(name, count)| format!("{} {name} {count}", today()));
    assert_eq!(query_all(&state, |_, _, _, _| {}), Ok(true));
    assert_eq!(rows(&state), both);
}
