//! A deadline that is moved often and rarely reached.

use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use pin_project_lite::pin_project;
use tokio::task::unconstrained;
use tokio::time::{Instant, Sleep, sleep_until};

/// A deadline. To move it or to disarm it costs one assignment.
///
/// A move does not touch the runtime's timer. The timer is touched only by the first poll, by a
/// poll after a move to an earlier time than the timer was set for, and when the timer fires too
/// early because the deadline was moved to a later time. If the same task polls again before the
/// deadline, the poll costs a few comparisons. The timer is allocated at the first poll of an armed
/// deadline: a deadline that is never polled allocates no memory and needs no runtime.
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
    // The rest is in the box, because the owner of a deadline is moved often.
    timer: Option<Pin<Box<Timer>>>,
}

pin_project! {
    #[derive(Debug)]
    #[project = TimerProjection]
    struct Timer {
        #[pin]
        sleep: Sleep,
        // The task that the timer wakes; `None` if the timer was set and not yet polled.
        waker_task: Option<Task>,
    }
}

impl Timer {
    // Not inlined: this runs once, the caller runs often.
    #[cold]
    fn boxed(at: Instant) -> Pin<Box<Self>> {
        let (sleep, waker_task) = (sleep_until(at), None);
        Box::pin(Self { sleep, waker_task })
    }
}

/// The identity of a task: equal for all wakers of one task. The timer keeps the waker, and with it
/// the task, until it fires, so no other task can have the same address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Task(usize, usize);

impl Task {
    fn of(waker: &Waker) -> Self {
        let vtable: *const _ = waker.vtable();
        Self(waker.data().addr(), vtable.addr())
    }
}

impl Deadline {
    /// A deadline at `at`.
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

    /// Sets the deadline to `limit` from now. `None`, or a time that an `Instant` cannot hold,
    /// disarms it.
    pub fn arm_after(&mut self, limit: impl Into<Option<Duration>>) {
        let limit = limit.into();
        self.at = limit.and_then(|limit| Instant::now().checked_add(limit));
    }

    /// Disarms the deadline: it is never reached.
    pub fn disarm(&mut self) {
        self.at = None;
    }

    /// Whether a deadline is set. Also true when it has passed.
    pub fn is_armed(&self) -> bool {
        self.at.is_some()
    }

    /// Ready when the deadline has passed, at each poll until it is moved or disarmed. Pending
    /// while it is disarmed.
    ///
    /// # Panics
    /// If the deadline is armed, this needs a tokio runtime with a timer.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(at) = self.at else {
            return Poll::Pending;
        };
        let timer = self.timer.get_or_insert_with(|| Timer::boxed(at));
        let TimerProjection {
            mut sleep,
            waker_task,
        } = timer.as_mut().project();
        if sleep.deadline() > at {
            sleep.as_mut().reset(at);
            *waker_task = None;
        }
        let task = Task::of(cx.waker());
        loop {
            if *waker_task == Some(task) && !sleep.is_elapsed() {
                return Poll::Pending;
            }
            // `unconstrained`: a poll that tokio's cooperative budget delays would register no
            // waker.
            if pin!(unconstrained(sleep.as_mut())).poll(cx).is_pending() {
                *waker_task = Some(task);
                return Poll::Pending;
            }
            *waker_task = None;
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

    /// The time until the deadline is reached.
    async fn wait_for(deadline: &mut Deadline) -> Duration {
        let start = Instant::now();
        poll_fn(|cx| deadline.poll(cx)).await;
        start.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_armed_time_counts() {
        let mut deadline = Deadline::default();
        for limit in [30, 120, 10, 60] {
            deadline.arm_after(seconds(limit));
            assert_eq!(wait_for(&mut deadline).await, seconds(limit));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn it_can_be_moved_to_a_later_time_during_a_wait() {
        let mut deadline = Deadline::default();
        for _ in 0..5 {
            deadline.arm_after(seconds(30));
            assert!(timeout(seconds(29), wait_for(&mut deadline)).await.is_err());
        }
        assert_eq!(wait_for(&mut deadline).await, seconds(1));
    }

    #[tokio::test(start_paused = true)]
    async fn it_can_be_moved_to_an_earlier_time_during_a_wait() {
        let mut deadline = Deadline::default();
        deadline.arm_after(seconds(3600));
        assert!(timeout(seconds(1), wait_for(&mut deadline)).await.is_err());
        deadline.arm_after(seconds(2));
        assert_eq!(wait_for(&mut deadline).await, seconds(2));
    }

    #[tokio::test(start_paused = true)]
    async fn a_disarmed_deadline_is_never_reached() {
        let mut deadline = Deadline::new(Instant::now() + seconds(1));
        deadline.disarm();
        assert!(!deadline.is_armed());
        let never = timeout(seconds(60), wait_for(&mut deadline));
        assert!(never.await.is_err());
        deadline.arm_after(None);
        assert!(!deadline.is_armed());
        deadline.arm_after(Duration::MAX);
        assert!(!deadline.is_armed(), "an Instant cannot hold it");
    }

    #[tokio::test(start_paused = true)]
    async fn a_reached_deadline_stays_ready_until_it_is_moved() {
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
            // The second poll of each task does not need to register a waker.
            for _ in 0..2 {
                assert!(task.enter(|cx, _| deadline.poll(cx)).is_pending());
            }
        }
        advance(seconds(2)).await;
        assert!(second.is_woken());
        assert!(!first.is_woken());
    }

    #[tokio::test(start_paused = true)]
    async fn a_moved_deadline_wakes_the_task_again() {
        let mut deadline = Deadline::new(Instant::now() + seconds(10));
        let mut task = tokio_test::task::spawn(());
        let mut poll = |deadline: &mut Deadline| task.enter(|cx, _| deadline.poll(cx));
        assert!(poll(&mut deadline).is_pending());
        // A later time: the timer fires at its old time and is then set again.
        deadline.arm_after(seconds(20));
        assert!(poll(&mut deadline).is_pending());
        advance(seconds(11)).await;
        assert!(poll(&mut deadline).is_pending());
        // An earlier time: the timer is set again at once.
        deadline.arm_after(seconds(2));
        assert!(poll(&mut deadline).is_pending());
        advance(seconds(3)).await;
        assert!(task.is_woken());
        assert!(task.enter(|cx, _| deadline.poll(cx)).is_ready());
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_without_cooperative_budget_is_woken() {
        let mut deadline = Deadline::new(Instant::now() + seconds(1));
        let spend = async {
            // Each poll of a ready channel costs one unit of tokio's cooperative budget.
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
