//! The tasks of the gateway, which end with it.

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// The tasks that run while the gateway serves.
#[derive(Debug, Default)]
pub(super) struct Tasks {
    tracker: TaskTracker,
    stopped: CancellationToken,
}

impl Tasks {
    /// Cancelled when the tasks have to end.
    pub(super) fn stopped(&self) -> CancellationToken {
        self.stopped.clone()
    }

    /// Runs a task that ends by itself, at the latest soon after [`stopped`](Self::stopped).
    pub(super) fn spawn<F>(&self, task: F)
    where
        F: Future<Output: Send> + Send + 'static,
    {
        self.tracker.spawn(task);
    }

    /// Runs a task that is dropped when the gateway stops.
    pub(super) fn spawn_until_stopped<F>(&self, task: F)
    where
        F: Future<Output: Send> + Send + 'static,
    {
        self.spawn_until(self.stopped(), task);
    }

    /// Runs a task that is dropped when `end` is cancelled.
    pub(super) fn spawn_until<F>(&self, end: CancellationToken, task: F)
    where
        F: Future<Output: Send> + Send + 'static,
    {
        self.tracker.spawn(end.run_until_cancelled_owned(task));
    }

    /// Stops the tasks.
    pub(super) fn stop(&self) {
        self.stopped.cancel();
        self.tracker.close();
    }

    /// Waits for the end of all tasks.
    pub(super) async fn ended(self) {
        self.tracker.wait().await;
    }
}
