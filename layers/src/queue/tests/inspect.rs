//! What operators see of the waiters, and the end of a wait by an operator.

use http::StatusCode;
use tokio::time::advance;

use super::*;
use crate::Side;

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an operator ended the wait")]
struct Ended;

impl Fail for Ended {
    fn side(&self) -> Side {
        Side::Gateway
    }
    fn status(&self) -> StatusCode {
        StatusCode::SERVICE_UNAVAILABLE
    }
    fn kind(&self) -> &'static str {
        "ended"
    }
}

#[tokio::test(start_paused = true)]
async fn waiters_are_listed_in_the_order_of_their_arrival_with_what_is_before_them() {
    let queue = queue(&[("a", 1), ("b", 0)]);
    let held = hold(&queue, "a");
    let _first = enter(&queue, "a", entry("ada"));
    advance(secs(2)).await;
    let _other = enter(&queue, "b", entry("bob"));
    advance(secs(1)).await;
    let urgent = entry("cy").with_priority(Priority::High);
    let _urgent = enter(&queue, "a", urgent);
    let waiters = queue.waiters(10);
    let rows: Vec<_> = waiters
        .iter()
        .map(|row| {
            (
                row.class,
                row.key,
                row.priority,
                row.waited,
                row.position.ahead,
            )
        })
        .collect();
    let expected = [
        ("a", "ada", Priority::Normal, secs(3), 1),
        ("b", "bob", Priority::Normal, secs(1), 0),
        ("a", "cy", Priority::High, secs(0), 0),
    ];
    assert_eq!(rows, expected);
    assert_eq!(queue.waiters(1), waiters[..1]);
    drop(held);
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_wait_ends_with_the_error_and_the_others_stay() {
    let queue = queue(&[("a", 1)]);
    let held = hold(&queue, "a");
    let first = enter(&queue, "a", entry("ada"));
    let mut second = enter(&queue, "a", entry("bob"));
    let waiting = tokio::spawn(first);
    tokio::task::yield_now().await;
    let id = queue.waiters(10)[0].id;
    assert!(queue.cancel(id, Failure::from(Ended)));
    let error = waiting.await.unwrap().unwrap_err();
    assert_eq!(cause::<Ended>(&error), Ended);
    assert!(
        !queue.cancel(id, Failure::from(Ended)),
        "it waits no longer"
    );
    assert_eq!((queue.waiting(), queue.dispatch().waiting("a")), (1, 1));
    drop(held);
    assert!(is_served(&mut second).is_some());
    assert_eq!(queue.tickets_in_memory(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_wait_that_is_cancelled_before_it_is_awaited_ends_too() {
    let queue = queue(&[("a", 0)]);
    let ticket = enter(&queue, "a", entry("ada"));
    assert!(queue.cancel(queue.waiters(1)[0].id, Failure::from(Ended)));
    assert_eq!(cause::<Ended>(&ticket.await.unwrap_err()), Ended);
}
