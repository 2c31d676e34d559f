//! Which requests are refused, and with which error.

use http::StatusCode;
use tokio::time::{Instant, advance};

use super::*;
use crate::{Retryable, Side};

fn refusal(queue: &TestQueue, key: Name) -> BoxError {
    queue.enter("a", entry(key)).unwrap_err()
}

#[tokio::test(start_paused = true)]
async fn a_request_beyond_the_limit_is_refused_at_once() {
    let queue = queue(&[("a", 1), ("b", 1)]).with_max_waiting(2);
    let _held = hold(&queue, "a");
    let _waiting = [0, 1].map(|_| enter(&queue, "a", entry("ada")));
    let error = refusal(&queue, "bob");
    let full: QueueFull = cause(&error);
    assert_eq!(full.waiting, 2);
    assert_eq!(full.predicted_wait, None);
    let failure = Failure::find(&*error).unwrap();
    assert_eq!(failure.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(failure.side(), Side::Gateway);
    assert_eq!(failure.retryable(), Retryable::No);
    assert_eq!(failure.retry_after(), Some(secs(1)));
    assert_eq!(
        failure.to_string(),
        "the queue is full: 2 requests are waiting (limit: the number of waiting requests); \
         try again in 1 s"
    );
    assert_eq!(queue.waiting(), 2);
    hold(&queue, "b");
}

#[tokio::test(start_paused = true)]
async fn one_waiting_request_is_told_in_the_singular() {
    let queue = queue(&[("a", 1)]).with_max_waiting(1);
    let _held = hold(&queue, "a");
    let _waiting = enter(&queue, "a", entry("ada"));
    let error = refusal(&queue, "bob");
    assert_eq!(
        Failure::find(&*error).unwrap().to_string(),
        "the queue is full: 1 request is waiting (limit: the number of waiting requests); \
         try again in 1 s"
    );
}

#[tokio::test(start_paused = true)]
async fn a_new_request_does_not_take_a_slot_from_waiters() {
    let queue = queue(&[("a", 1)]);
    let held = hold(&queue, "a");
    let mut waiting = enter(&queue, "a", entry("bob"));
    queue.dispatch().set("a", 2);
    let mut late = enter(&queue, "a", entry("ada"));
    assert!(is_served(&mut late).is_none());
    assert_eq!(queue.waiting(), 2);
    queue.slots_changed();
    let bobs = is_served(&mut waiting);
    assert!(bobs.is_some());
    assert!(is_served(&mut late).is_none());
    drop(held);
    assert!(is_served(&mut late).is_some());
    queue.dispatch().remove("a");
    assert!(queue.enter("a", entry("ada")).is_err());
}

#[tokio::test(start_paused = true)]
async fn the_key_that_filled_the_queue_gets_its_own_error() {
    let queue = queue(&[("a", 1)]).with_max_waiting(4);
    let _held = hold(&queue, "a");
    let _greedy = [0, 1, 2].map(|_| enter(&queue, "a", entry("greedy")));
    let _modest = enter(&queue, "a", entry("modest"));
    let error = refusal(&queue, "greedy");
    let full: KeyQueueFull = cause(&error);
    assert_eq!(full.waiting, 3);
    let failure = Failure::find(&*error).unwrap();
    assert_eq!(failure.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(failure.side(), Side::Client);
    cause::<QueueFull>(&refusal(&queue, "modest"));
    cause::<QueueFull>(&refusal(&queue, "third"));
}

const NAMES: &QueueLimitNames = &QueueLimitNames {
    max_waiting: "MAX_WAITING",
    max_waiting_per_key: "MAX_WAITING_PER_KEY",
    max_predicted_wait: "MAX_PREDICTED_WAIT",
    max_wait: "MAX_WAIT",
    key: "your key",
    shared_key: "your address",
};

#[tokio::test(start_paused = true)]
async fn a_client_that_shares_its_key_is_not_at_fault() {
    let shared = || entry("nat").with_shared_key(true);
    let limited = queue(&[("a", 1)]).with_max_waiting_per_key(Some(2));
    let slow = queue(&[("a", 1)])
        .with_max_predicted_wait(Some(secs(25)))
        .with_assumed_service_time(Some(secs(10)));
    let full = queue(&[("a", 1)]).with_max_waiting(2);
    for (queue, text) in [
        (
            limited,
            "the queue is full for your address: 2 of its requests are waiting \
             (limit: MAX_WAITING_PER_KEY); try again in 1 s",
        ),
        (
            slow,
            "the expected wait in the queue is too long for your address: 30 s, above 25 s \
             (limit: MAX_PREDICTED_WAIT); 2 of its requests are waiting; try again in 5 s",
        ),
        (
            full,
            "the queue is full: 2 requests are waiting (limit: MAX_WAITING); try again in 1 s",
        ),
    ] {
        let queue = queue.with_limit_names(NAMES);
        let _held = hold(&queue, "a");
        let _waiting = [0, 1].map(|_| enter(&queue, "a", shared()));
        let error = queue.enter("a", shared()).unwrap_err();
        cause::<QueueFull>(&error);
        let failure = Failure::find(&*error).unwrap();
        assert_eq!(failure.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(error.to_string(), text);
    }
    let queue = queue(&[("a", 1)]).with_max_waiting(4);
    let _held = hold(&queue, "a");
    let _greedy = [0, 1, 2].map(|_| enter(&queue, "a", shared()));
    let _modest = enter(&queue, "a", entry("modest"));
    let full: QueueFull = cause(&queue.enter("a", shared()).unwrap_err());
    assert_eq!((full.waiting, full.whose), (4, None));
}

#[tokio::test(start_paused = true)]
async fn each_key_has_a_limit() {
    let queue = queue(&[("a", 1)]).with_max_waiting_per_key(Some(1));
    let _held = hold(&queue, "a");
    let _waiting = enter(&queue, "a", entry("ada"));
    cause::<KeyQueueFull>(&refusal(&queue, "ada"));
    let _other = enter(&queue, "a", entry("bob"));
}

#[tokio::test(start_paused = true)]
async fn a_request_with_a_too_long_predicted_wait_is_refused() {
    let queue = queue(&[("a", 2)])
        .with_max_predicted_wait(Some(secs(12)))
        .with_assumed_service_time(Some(secs(10)));
    let _held = [0, 1].map(|_| hold(&queue, "a"));
    let _waiting = ["ada", "bob"].map(|key| enter(&queue, "a", entry(key)));
    let error = refusal(&queue, "carol");
    let full: QueueFull = cause(&error);
    assert_eq!(
        full.predicted_wait,
        Some(secs(15)),
        "three turns of two slots"
    );
    assert_eq!(full.retry_after, secs(3));
    assert_eq!(
        error.to_string(),
        "the expected wait in the queue is too long: 15 s, above 12 s \
         (limit: the predicted wait); 2 requests are waiting; try again in 3 s"
    );
}

/// Serves requests of this class that take so many seconds, one after the other.
async fn serve(queue: &TestQueue, class: Name, times: &[u64]) {
    for time in times {
        let held = hold(queue, class);
        advance(secs(*time)).await;
        drop(held);
    }
}

#[tokio::test(start_paused = true)]
async fn slots_that_serve_after_a_load_count_for_the_predicted_wait() {
    // While the model is loaded, one request of the ten is in flight.
    let queue = queue(&[("a", 1)]).with_max_predicted_wait(Some(secs(60)));
    queue.dispatch().tell("a", 10);
    serve(&queue, "a", &[40; 4]).await;
    let _loads = hold(&queue, "a");
    let mut waiting: Vec<_> = (0..14).map(|_| enter(&queue, "a", entry("ada"))).collect();
    let last = waiting[13].watch().unwrap().queue_position().unwrap();
    assert_eq!(last.expected_wait, Some(secs(56)), "14 turns of ten slots");
    drop(enter(&queue, "a", entry("ada")));
    let fifteenth = enter(&queue, "a", entry("ada"));
    let refused: KeyQueueFull = cause(&refusal(&queue, "ada"));
    assert_eq!(refused.predicted_wait, Some(secs(64)));
    drop(fifteenth);
    queue.dispatch().set("a", 10);
    queue.slots_changed();
    let served = waiting.iter_mut().filter_map(is_served);
    assert_eq!(served.collect::<Vec<_>>().len(), 9);
}

#[tokio::test(start_paused = true)]
async fn one_slow_response_does_not_refuse_quick_requests() {
    let queue = queue(&[("a", 1)]).with_max_predicted_wait(Some(secs(5)));
    serve(&queue, "a", &[15]).await;
    for _ in 0..6 {
        let held = hold(&queue, "a");
        let mut others = [0, 1, 2, 3].map(|_| enter(&queue, "a", entry("ada")));
        drop(held);
        others.iter_mut().for_each(|ticket| drop(is_served(ticket)));
    }
}

#[tokio::test(start_paused = true)]
async fn fewer_waiting_requests_than_slots_are_never_refused_by_prediction() {
    let queue = queue(&[("a", 2)]).with_max_predicted_wait(Some(secs(5)));
    serve(&queue, "a", &[40; 4]).await;
    let _held = [0, 1].map(|_| hold(&queue, "a"));
    let _waiting = [0, 1].map(|_| enter(&queue, "a", entry("ada")));
    let refused: QueueFull = cause(&refusal(&queue, "bob"));
    assert_eq!(refused.predicted_wait, Some(secs(40)));
}

#[tokio::test(start_paused = true)]
async fn a_key_that_waits_too_long_for_its_own_requests_gets_its_own_error() {
    let queue = queue(&[("a", 1)])
        .with_max_predicted_wait(Some(secs(45)))
        .with_assumed_service_time(Some(secs(10)));
    let _held = hold(&queue, "a");
    let _greedy = [0, 1, 2, 3].map(|_| enter(&queue, "a", entry("greedy")));
    cause::<KeyQueueFull>(&refusal(&queue, "greedy"));
    // One request of the greedy key goes first, then the next key's.
    let modest = enter(&queue, "a", entry("modest"));
    assert_eq!(modest.watch().unwrap().queue_position().unwrap().ahead, 1);
}

#[tokio::test(start_paused = true)]
async fn high_priority_is_not_refused_because_of_waiters_behind_it() {
    let queue = queue(&[("a", 1)])
        .with_max_predicted_wait(Some(secs(15)))
        .with_assumed_service_time(Some(secs(10)));
    let _held = hold(&queue, "a");
    let _waiting = enter(&queue, "a", entry("ada"));
    cause::<QueueFull>(&refusal(&queue, "bob"));
    let urgent = entry("bob").with_priority(Priority::High);
    let _urgent = enter(&queue, "a", urgent);
}

#[tokio::test(start_paused = true)]
async fn a_wait_ends_at_its_limit() {
    let queue = queue(&[("a", 1)]).with_max_wait(Some(secs(20)));
    let held = hold(&queue, "a");
    let arrival = Instant::now();
    advance(secs(15)).await;
    let started = Instant::now();
    let error = enter(&queue, "a", entry("ada").with_arrival(arrival))
        .await
        .unwrap_err();
    assert_eq!(
        started.elapsed().as_secs(),
        20,
        "the time before this attempt does not count"
    );
    let timeout: QueueTimeout = cause(&error);
    assert_eq!(timeout.waited.as_secs(), 20);
    assert_eq!(timeout.limit_name, Some(QueueLimitNames::DEFAULT.max_wait));
    let failure = Failure::find(&*error).unwrap();
    assert_eq!(failure.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(queue.waiting(), 0);
    drop(held);
    assert_eq!(queue.dispatch().all_taken(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_gives_its_slot_back_has_waited_since_it_entered_first() {
    let queue = queue(&[("a", 1)]).with_max_wait(Some(secs(20)));
    let _held = hold(&queue, "a");
    let arrival = Instant::now();
    advance(secs(5)).await;
    let entered = Instant::now();
    advance(secs(15)).await;
    let back = || {
        entry("ada")
            .with_arrival(arrival)
            .with_place_kept()
            .with_entered(entered)
    };
    let error = enter(&queue, "a", back()).await.unwrap_err();
    assert_eq!(
        entered.elapsed().as_secs(),
        20,
        "the limit counts from the first entry"
    );
    let timeout: QueueTimeout = cause(&error);
    assert_eq!(timeout.waited.as_secs(), 20);
    assert_eq!(timeout.limit_name, Some(QueueLimitNames::DEFAULT.max_wait));
    // The limit has passed meanwhile.
    advance(secs(5)).await;
    let error = enter(&queue, "a", back()).await.unwrap_err();
    assert_eq!(cause::<QueueTimeout>(&error).waited.as_secs(), 25);
}

#[tokio::test(start_paused = true)]
async fn an_entry_can_have_an_earlier_deadline() {
    let queue = queue(&[("a", 1)]);
    let _held = hold(&queue, "a");
    let started = Instant::now();
    let soon = entry("ada").with_deadline(started + secs(2));
    let error = enter(&queue, "a", soon).await.unwrap_err();
    assert_eq!(started.elapsed().as_secs(), 2);
    assert_eq!(cause::<QueueTimeout>(&error).limit_name, None);
}

#[tokio::test(start_paused = true)]
async fn idle_classes_are_forgotten() {
    let queue = queue(&[]);
    for n in 0..5000 {
        let name = &*Box::leak(format!("class-{n}").into_boxed_str());
        queue.dispatch().set(name, 1);
        drop(hold(&queue, name));
        assert!(queue.snapshot().len() <= 1024);
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_that_gives_its_slot_back_is_not_refused_by_the_limits() {
    let queue = queue(&[("a", 1)]).with_max_waiting(1);
    let held = hold(&queue, "a");
    let mut waiting = enter(&queue, "a", entry("ada"));
    advance(secs(1)).await;
    let arrival = Instant::now() - secs(2);
    let back = || entry("bob").with_arrival(arrival).with_place_kept();
    let mut returned = enter(&queue, "a", back());
    drop(held);
    let first = is_served(&mut returned);
    assert!(first.is_some() && is_served(&mut waiting).is_none());
    drop(first);
    assert!(is_served(&mut waiting).is_some());
}
