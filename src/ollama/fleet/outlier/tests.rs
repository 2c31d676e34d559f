//! What is remembered of a server, and what follows from it.

#![allow(clippy::unwrap_used)]

use tokio::time::advance;

use super::*;

const BUSY: Outcome = Outcome::Bad(Reason::Busy, None);

fn model(name: &str) -> ModelName {
    ModelName::parse(name).unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_bad_result_avoids_the_backend_for_this_model_until_one_trial() {
    let (outliers, small, large) = (Outliers::default(), model("small"), model("large"));
    let change = outliers.record(&small, BUSY, Instant::now());
    assert_eq!(change, Change::Avoided(Reason::Busy));
    assert_eq!(outliers.standing(&small, Instant::now()), Standing::Avoided);
    assert_eq!(outliers.standing(&large, Instant::now()), Standing::Normal);
    advance(FIRST_PAUSE).await;
    assert_eq!(
        outliers.standing(&small, Instant::now()),
        Standing::TrialDue
    );
    let standing = outliers.standing(&small, Instant::now());
    assert_eq!(standing.for_attempt(true), Standing::Avoided, "a retry");
    outliers.begin_trial(&small);
    assert_eq!(
        outliers.standing(&small, Instant::now()),
        Standing::Avoided,
        "one trial"
    );
    assert_eq!(
        outliers.record(&small, Outcome::Good, Instant::now()),
        Change::Normal
    );
    assert_eq!(outliers.standing(&small, Instant::now()), Standing::Normal);
    assert!(outliers.avoided(Instant::now()).is_empty());
}

#[tokio::test(start_paused = true)]
async fn the_pause_doubles_up_to_its_limit_and_follows_retry_after() {
    let (outliers, small) = (Outliers::default(), model("small"));
    let mut pauses = Vec::new();
    for _ in 0..8 {
        outliers.record(&small, BUSY, Instant::now());
        pauses.push(outliers.avoided(Instant::now())[0].trial_in.as_secs());
    }
    assert_eq!(pauses, [1, 2, 4, 8, 10, 10, 10, 10]);
    outliers.record(&small, Outcome::Good, Instant::now());
    for (retry_after, pause) in [(7, 7), (45, 45), (3600, 60), (1, 8)] {
        let later = Some(Duration::from_secs(retry_after));
        outliers.record(&small, Outcome::Bad(Reason::Busy, later), Instant::now());
        let avoided = outliers.avoided(Instant::now());
        assert_eq!(avoided[0].trial_in.as_secs(), pause, "{retry_after}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_trial_without_a_result_leaves_the_next_one_due() {
    let (outliers, small) = (Outliers::default(), model("small"));
    outliers.record(&small, BUSY, Instant::now());
    advance(FIRST_PAUSE).await;
    outliers.begin_trial(&small);
    outliers.end_trial(&small);
    assert_eq!(
        outliers.standing(&small, Instant::now()),
        Standing::TrialDue
    );
}

#[tokio::test(start_paused = true)]
async fn names_that_clients_make_up_do_not_fill_the_memory() {
    let outliers = Outliers::default();
    for number in 0..2 * MOST_RECORDS {
        outliers.record(&model(&format!("made-up-{number}")), BUSY, Instant::now());
        advance(Duration::from_millis(1)).await;
    }
    let kept = outliers.avoided(Instant::now());
    assert_eq!(kept.len(), MOST_RECORDS);
    let newest = model(&format!("made-up-{}", 2 * MOST_RECORDS - 1));
    assert_eq!(
        outliers.standing(&newest, Instant::now()),
        Standing::Avoided
    );
}

/// A client that left after so many milliseconds, where the first byte was expected after others.
fn left(client: &str, waited: u64, expected: u64) -> Outcome {
    Outcome::ClientLeft(ClientLeft {
        client: Some(Client::Key(client.into())),
        waited: Duration::from_millis(waited),
        expected: Duration::from_millis(expected),
    })
}

#[tokio::test(start_paused = true)]
async fn a_client_that_leaves_before_a_first_byte_is_due_says_nothing() {
    let (outliers, small) = (Outliers::default(), model("small"));
    let record = |outcome| outliers.record(&small, outcome, Instant::now());
    for client in ["ada", "bob", "eve"] {
        assert_eq!(record(left(client, 800, 3000)), Change::None);
        assert_eq!(record(left(client, 4400, 3000)), Change::None);
        assert_eq!(record(left(client, 499, 0)), Change::None);
    }
    assert_eq!(outliers.standing(&small, Instant::now()), Standing::Normal);
    assert_eq!(record(left("ada", 4600, 3000)), Change::None);
    let change = record(left("bob", 4600, 3000));
    assert_eq!(change, Change::Avoided(Reason::Silent));
}

#[tokio::test(start_paused = true)]
async fn the_same_client_counts_again_if_it_waits_long_or_leaves_much_later() {
    let small = model("small");
    let after = async |pause: Duration, again: Outcome| {
        let outliers = Outliers::default();
        let record = |outcome| outliers.record(&small, outcome, Instant::now());
        for _ in 0..5 {
            assert_eq!(record(left("ada", 800, 200)), Change::None);
        }
        advance(pause).await;
        record(again)
    };
    let silent = Change::Avoided(Reason::Silent);
    let soon = Duration::from_secs(2);
    assert_eq!(after(soon, left("ada", 1400, 200)).await, Change::None);
    assert_eq!(after(soon, left("ada", 1500, 200)).await, silent);
    assert_eq!(after(soon, left("bob", 800, 200)).await, silent);
    assert_eq!(
        after(SAME_CLIENT_LATER, left("ada", 800, 200)).await,
        silent
    );
}

#[tokio::test(start_paused = true)]
async fn clients_that_wait_and_leave_in_a_row_count_as_silence() {
    let (outliers, small) = (Outliers::default(), model("small"));
    let (patient, other) = (|| left("ada", 1000, 0), || left("bob", 1000, 0));
    for client in ["ada", "bob"].repeat(5) {
        let hasty = left(client, 100, 0);
        assert_eq!(outliers.record(&small, hasty, Instant::now()), Change::None);
    }
    assert_eq!(
        outliers.record(&small, patient(), Instant::now()),
        Change::None
    );
    assert_eq!(
        outliers.record(&small, Outcome::Good, Instant::now()),
        Change::None
    );
    assert_eq!(
        outliers.record(&small, patient(), Instant::now()),
        Change::None
    );
    let change = outliers.record(&small, other(), Instant::now());
    assert_eq!(change, Change::Avoided(Reason::Silent));
    outliers.silence().await;
    let (next, pause) = outliers.next_silent(Instant::now(), &[]).unwrap();
    assert_eq!((next, pause), (small.clone(), FIRST_PAUSE));
    advance(LONGEST_PAUSE).await;
    let standing = outliers.standing(&small, Instant::now());
    assert_eq!(standing, Standing::Avoided, "no client is a trial");
    assert_eq!(
        outliers.record(&small, Outcome::GoodTrial, Instant::now()),
        Change::Normal
    );
    assert_eq!(outliers.standing(&small, Instant::now()), Standing::Normal);
    let change = outliers.record(&small, other(), Instant::now());
    assert_eq!(change, Change::Avoided(Reason::Silent), "one is enough now");
    assert_eq!(
        outliers.next_silent(Instant::now(), &[]).unwrap().1,
        2 * FIRST_PAUSE
    );
}
