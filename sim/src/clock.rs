//! Timers for simulations that run faster than real time.
//!
//! The runtime's own timer has a resolution of one millisecond, which is 20 ms of simulated time at
//! 20 times the speed. The timers here are some ten microseconds late.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::time::Instant;

/// The timer of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Clock {
    /// The runtime's timer, which tests can pause.
    Runtime,
    /// The precise timer.
    Precise,
}

impl Clock {
    pub(crate) fn sleep_until(self, at: Instant) -> Timer {
        match self {
            Self::Runtime => Timer::Runtime(Box::pin(tokio::time::sleep_until(at))),
            Self::Precise => Timer::Precise(sleep_until_precisely(at.into_std())),
        }
    }
}

/// A future that is ready at a given time.
pub(crate) enum Timer {
    Runtime(Pin<Box<tokio::time::Sleep>>),
    Precise(PreciseSleep),
}

impl Future for Timer {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        match self.get_mut() {
            Self::Runtime(sleep) => sleep.as_mut().poll(cx),
            Self::Precise(sleep) => Pin::new(sleep).poll(cx),
        }
    }
}

/// Waits until a time, with a precision of some ten microseconds. One thread of the process serves
/// all these timers; it is started by the first one.
pub fn sleep_until_precisely(at: std::time::Instant) -> PreciseSleep {
    PreciseSleep { at, waker: None }
}

/// The future of [`sleep_until_precisely`].
#[derive(Debug)]
pub struct PreciseSleep {
    at: std::time::Instant,
    waker: Option<Arc<Mutex<Waker>>>,
}

impl Future for PreciseSleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if std::time::Instant::now() >= self.at {
            return Poll::Ready(());
        }
        if let Some(waker) = &self.waker {
            lock(waker).clone_from(cx.waker());
            return Poll::Pending;
        }
        let waker = Arc::new(Mutex::new(cx.waker().clone()));
        Timers::of_process().add(self.at, waker.clone());
        self.waker = Some(waker);
        Poll::Pending
    }
}

/// The pending timers of the process.
#[derive(Default)]
struct Timers {
    pending: Mutex<BinaryHeap<Reverse<Pending>>>,
    added: Condvar,
}

struct Pending {
    at: std::time::Instant,
    waker: Arc<Mutex<Waker>>,
}

impl Timers {
    fn of_process() -> &'static Self {
        static TIMERS: OnceLock<&'static Timers> = OnceLock::new();
        TIMERS.get_or_init(|| {
            let timers: &'static Self = Box::leak(Box::default());
            std::thread::spawn(|| timers.run());
            timers
        })
    }

    fn add(&self, at: std::time::Instant, waker: Arc<Mutex<Waker>>) {
        let mut pending = lock(&self.pending);
        let is_first = pending.peek().is_none_or(|Reverse(first)| at < first.at);
        pending.push(Reverse(Pending { at, waker }));
        if is_first {
            self.added.notify_one();
        }
    }

    fn run(&self) {
        let mut pending = lock(&self.pending);
        loop {
            let wait = match pending.peek() {
                None => Duration::MAX,
                Some(Reverse(first)) => first
                    .at
                    .saturating_duration_since(std::time::Instant::now()),
            };
            if !wait.is_zero() {
                pending = match wait {
                    Duration::MAX => self
                        .added
                        .wait(pending)
                        .unwrap_or_else(PoisonError::into_inner),
                    wait => {
                        let woken = self.added.wait_timeout(pending, wait);
                        woken.unwrap_or_else(PoisonError::into_inner).0
                    }
                };
                continue;
            }
            if let Some(Reverse(due)) = pending.pop() {
                drop(pending);
                lock(&due.waker).wake_by_ref();
                pending = lock(&self.pending);
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl PartialEq for Pending {
    fn eq(&self, other: &Self) -> bool {
        self.at == other.at
    }
}

impl Eq for Pending {}

impl PartialOrd for Pending {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Pending {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.at.cmp(&other.at)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::task::Wake;

    use super::*;

    /// Tells which timer fired, and when.
    struct Teller {
        at: std::time::Instant,
        fired: mpsc::Sender<(std::time::Instant, std::time::Instant)>,
    }

    impl Wake for Teller {
        fn wake(self: Arc<Self>) {
            let told = self.fired.send((self.at, std::time::Instant::now()));
            told.expect("the test waits for it");
        }
    }

    #[test]
    fn timers_fire_in_order_and_never_early() {
        let timers: &'static Timers = Box::leak(Box::default());
        let begin = std::time::Instant::now();
        let (fired, told) = mpsc::channel();
        let [past, early, late] = [0, 1_500, 3_000].map(|us| begin + Duration::from_micros(us));
        for at in [late, past, early] {
            let teller = Teller {
                at,
                fired: fired.clone(),
            };
            let waker = Waker::from(Arc::new(teller));
            timers.add(at, Arc::new(Mutex::new(waker)));
        }
        // All are pending before the first can fire.
        std::thread::spawn(|| timers.run());
        for expected in [past, early, late] {
            let (at, now) = told.recv().expect("it fires");
            assert_eq!(at, expected);
            assert!(now >= at);
        }
    }

    #[tokio::test]
    async fn a_sleep_is_never_too_short() {
        let at = std::time::Instant::now() + Duration::from_micros(1_500);
        sleep_until_precisely(at).await;
        assert!(std::time::Instant::now() >= at);
    }
}
