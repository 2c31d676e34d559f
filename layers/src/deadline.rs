//! A deadline that moves often and is reached rarely.

use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use pin_project_lite::pin_project;
use tokio::task::unconstrained;
use tokio::time::{Instant, Sleep, sleep_until};

/// A moment to wait for, which can be moved and taken back at the cost of an assignment.
///
/// The runtime's timer is touched when the deadline is polled for the first time, when it was moved
/// to an earlier moment than the timer was set for, and when the timer fires early because the
/// deadline was moved to a later one: not at each move. A poll by the task that polled before, while
/// the moment has not come, costs a few comparisons. The timer is allocated at the first poll of an
/// armed deadline, so that one that is never waited for costs no memory, and needs no runtime
/// before then.
///
/// ```
/// use std::future::poll_fn;
/// use std::time::Duration;
///
/// use llamatower_layers::Deadline;
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() {
/// let mut idle = Deadline::default();
/// let start = tokio::time::Instant::now();
/// for _ in 0..1000 {
///     idle.arm_after(Duration::from_secs(30));
/// }
/// assert!(idle.is_armed());
/// poll_fn(|cx| idle.poll(cx)).await;
/// assert_eq!(start.elapsed(), Duration::from_secs(30));
///
/// idle.disarm();
/// assert!(!idle.is_armed());
/// # }
/// ```
#[derive(Debug, Default)]
pub struct Deadline {
    at: Option<Instant>,
    // All else lies in the box, as who holds a deadline is moved often.
    timer: Option<Pin<Box<Timer>>>,
}

pin_project! {
    #[derive(Debug)]
    #[project = TimerProjection]
    struct Timer {
        #[pin]
        sleep: Sleep,
        // Whom it wakes; `None` when it was not polled since it was set.
        waiting: Option<Task>,
    }
}

impl Timer {
    // What happens once is kept out of what happens often.
    #[cold]
    fn boxed(at: Instant) -> Pin<Box<Self>> {
        let (sleep, waiting) = (sleep_until(at), None);
        Box::pin(Self { sleep, waiting })
    }
}

/// What two wakers of one task have in common. The timer keeps the waker, and with it the task, until
/// it fires, so that no other task can have the same address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Task(usize, usize);

impl Task {
    fn of(waker: &Waker) -> Self {
        let vtable: *const _ = waker.vtable();
        Self(waker.data().addr(), vtable.addr())
    }
}

impl Deadline {
    /// One that has come when it is `at`.
    pub fn new(at: Instant) -> Self {
        Self {
            at: Some(at),
            ..Self::default()
        }
    }

    /// Moves the deadline. `None` disarms it.
    pub fn arm(&mut self, at: impl Into<Option<Instant>>) {
        self.at = at.into();
    }

    /// Moves the deadline to a moment that far from now. `None`, and what is further away than an
    /// `Instant` can tell, disarms it.
    pub fn arm_after(&mut self, limit: impl Into<Option<Duration>>) {
        let limit = limit.into();
        self.at = limit.and_then(|limit| Instant::now().checked_add(limit));
    }

    /// Lets the deadline never come.
    pub fn disarm(&mut self) {
        self.at = None;
    }

    /// Whether there is a moment to wait for; so it is, too, when that has come.
    pub fn is_armed(&self) -> bool {
        self.at.is_some()
    }

    /// Ready when the deadline has come, at each poll until it is moved or disarmed; pending while
    /// it is disarmed.
    ///
    /// # Panics
    /// Armed, it needs a tokio runtime with a timer.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(at) = self.at else {
            return Poll::Pending;
        };
        let timer = self.timer.get_or_insert_with(|| Timer::boxed(at));
        let TimerProjection { mut sleep, waiting } = timer.as_mut().project();
        if sleep.deadline() > at {
            sleep.as_mut().reset(at);
            *waiting = None;
        }
        let task = Task::of(cx.waker());
        loop {
            if *waiting == Some(task) && !sleep.is_elapsed() {
                return Poll::Pending;
            }
            // A poll that were put off for the sake of other tasks would leave no waker behind.
            if pin!(unconstrained(sleep.as_mut())).poll(cx).is_pending() {
                *waiting = Some(task);
                return Poll::Pending;
            }
            *waiting = None;
            if sleep.deadline() >= at {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::time::{advance, timeout};

    use super::*;

    const fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    /// How long it takes until the deadline has come.
    async fn wait_for(deadline: &mut Deadline) -> Duration {
        let start = Instant::now();
        poll_fn(|cx| deadline.poll(cx)).await;
        start.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn it_comes_when_it_was_last_armed_for() {
        let mut deadline = Deadline::default();
        for limit in [30, 120, 10, 60] {
            deadline.arm_after(seconds(limit));
            assert_eq!(wait_for(&mut deadline).await, seconds(limit));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_moved_on_while_it_is_waited_for() {
        let mut deadline = Deadline::default();
        for _ in 0..5 {
            deadline.arm_after(seconds(30));
            assert!(timeout(seconds(29), wait_for(&mut deadline)).await.is_err());
        }
        assert_eq!(wait_for(&mut deadline).await, seconds(1));
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_moved_forward_while_it_is_waited_for() {
        let mut deadline = Deadline::default();
        deadline.arm_after(seconds(3600));
        assert!(timeout(seconds(1), wait_for(&mut deadline)).await.is_err());
        deadline.arm_after(seconds(2));
        assert_eq!(wait_for(&mut deadline).await, seconds(2));
    }

    #[tokio::test(start_paused = true)]
    async fn it_does_not_come_while_it_is_disarmed() {
        let mut deadline = Deadline::new(Instant::now() + seconds(1));
        deadline.disarm();
        assert!(!deadline.is_armed());
        let never = timeout(seconds(60), wait_for(&mut deadline));
        assert!(never.await.is_err());
        deadline.arm_after(None);
        assert!(!deadline.is_armed());
        deadline.arm_after(Duration::MAX);
        assert!(!deadline.is_armed(), "no Instant can hold it");
    }

    #[tokio::test(start_paused = true)]
    async fn once_come_it_stays_so_until_it_is_moved() {
        let mut deadline = Deadline::new(Instant::now() + seconds(1));
        for expected in [seconds(1), seconds(0), seconds(0)] {
            assert_eq!(wait_for(&mut deadline).await, expected);
        }
        deadline.arm_after(seconds(5));
        assert_eq!(wait_for(&mut deadline).await, seconds(5));
    }

    #[tokio::test(start_paused = true)]
    async fn it_wakes_the_task_that_polled_last() {
        let mut deadline = Deadline::new(Instant::now() + seconds(1));
        let mut first = tokio_test::task::spawn(());
        let mut second = tokio_test::task::spawn(());
        for task in [&mut first, &mut second] {
            // The second poll of each is the one that need not register.
            for _ in 0..2 {
                assert!(task.enter(|cx, _| deadline.poll(cx)).is_pending());
            }
        }
        advance(seconds(2)).await;
        assert!(second.is_woken());
        assert!(!first.is_woken());
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_moved_wakes_the_task_again() {
        let mut deadline = Deadline::new(Instant::now() + seconds(10));
        let mut task = tokio_test::task::spawn(());
        let mut poll = |deadline: &mut Deadline| task.enter(|cx, _| deadline.poll(cx));
        assert!(poll(&mut deadline).is_pending());
        // Later: the timer fires at its old time, and is set anew then.
        deadline.arm_after(seconds(20));
        assert!(poll(&mut deadline).is_pending());
        advance(seconds(11)).await;
        assert!(poll(&mut deadline).is_pending());
        // Earlier: it is set anew at once.
        deadline.arm_after(seconds(2));
        assert!(poll(&mut deadline).is_pending());
        advance(seconds(3)).await;
        assert!(task.is_woken());
        assert!(task.enter(|cx, _| deadline.poll(cx)).is_ready());
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_without_budget_is_woken_all_the_same() {
        let mut deadline = Deadline::new(Instant::now() + seconds(1));
        let spend = async {
            // Each poll of a ready channel costs one unit of tokio's budget of a task.
            let (sender, mut receiver) = tokio::sync::mpsc::unbounded_channel();
            for _ in 0..1000 {
                sender.send(()).expect("it is open");
            }
            poll_fn(|cx| {
                while receiver.poll_recv(cx).is_ready() {}
                Poll::Ready(deadline.poll(cx))
            })
            .await
        };
        assert!(spend.await.is_pending());
        assert_eq!(wait_for(&mut deadline).await, seconds(1));
    }
}
