//! Whether the collector of traces answers.
//!
//! Spans for a collector that hangs or fails would be made and then thrown away, and spans of a tenth of
//! the requests, the default, cost a quarter more instructions (docs/performance.md). So while the
//! collector does not answer, requests have no spans; they are counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{SpanData, SpanExporter};

/// The time that a batch may take before the collector counts as one that does not answer. A collector
/// answers as soon as it has stored a batch, usually within a few milliseconds.
const PATIENCE: Duration = Duration::from_secs(2);

/// The time without spans after a failure; doubled with each further failure.
const SHORTEST_PAUSE: Duration = Duration::from_secs(5);

/// The longest time without spans.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// The time between two requests that may have spans after the pause, until a batch has been taken. The sampler leaves out
/// most of them.
const BETWEEN_TRIALS: Duration = Duration::from_millis(100);

/// Whether the collector answers.
#[derive(Debug)]
pub(super) struct Collector {
    endpoint: String,
    began: Instant,
    /// The time, in milliseconds since `began`, after which the batch that is being sent is late; 0 if
    /// none is being sent.
    late_at: AtomicU64,
    /// The end of the pause after a failure, in the same unit; 0 after a success. After a failure the end of the
    /// pause lets one request have spans, and then one each `BETWEEN_TRIALS`, until a batch has been taken.
    resumes_at: AtomicU64,
    /// Failures since the last success.
    failures: AtomicU32,
    left_out: AtomicU64,
}

impl Collector {
    pub(super) fn new(endpoint: &str) -> Self {
        Self {
            endpoint: endpoint.to_owned(),
            began: Instant::now(),
            late_at: AtomicU64::new(0),
            resumes_at: AtomicU64::new(0),
            failures: AtomicU32::new(0),
            left_out: AtomicU64::new(0),
        }
    }

    /// Whether spans that are made now will probably be exported.
    pub(super) fn answers(&self) -> bool {
        let (late_at, resumes_at) = (self.late_at.load(Relaxed), self.resumes_at.load(Relaxed));
        if late_at == 0 && resumes_at == 0 {
            return true;
        }
        let now = self.millis(Duration::ZERO);
        if late_at != 0 && now >= late_at {
            return false;
        }
        resumes_at == 0 || (now >= resumes_at && self.is_trial(resumes_at))
    }

    /// Whether this request is the one that has spans to try the collector again.
    fn is_trial(&self, resumes_at: u64) -> bool {
        let next = self.millis(BETWEEN_TRIALS);
        self.resumes_at
            .compare_exchange(resumes_at, next, Relaxed, Relaxed)
            .is_ok()
    }

    /// Counts a request that begins while the collector does not answer, sampled or not.
    pub(super) fn left_out(&self) {
        self.left_out.fetch_add(1, Relaxed);
    }

    /// The number of these requests.
    pub(super) fn requests_left_out(&self) -> u64 {
        self.left_out.load(Relaxed)
    }

    fn batch_begins(&self) {
        self.late_at.store(self.millis(PATIENCE), Relaxed);
    }

    fn batch_ends(&self, result: &OTelSdkResult) {
        match result {
            Ok(()) => {
                self.resumes_at.store(0, Relaxed);
                if self.failures.swap(0, Relaxed) != 0 {
                    tracing::info!(
                        endpoint = self.endpoint,
                        "the OTLP endpoint for traces answers again"
                    );
                }
            }
            Err(error) => {
                let failures = self.failures.fetch_add(1, Relaxed);
                let pause = pause(failures);
                self.resumes_at.store(self.millis(pause), Relaxed);
                if failures == 0 {
                    tracing::warn!(
                        endpoint = self.endpoint,
                        %error,
                        "the OTLP endpoint for traces does not take them; requests have no trace until it does"
                    );
                }
            }
        }
        self.late_at.store(0, Relaxed);
    }

    /// Milliseconds from `began` to the end of `time` from now, at least 1.
    fn millis(&self, time: Duration) -> u64 {
        let millis = (self.began.elapsed() + time).as_millis();
        u64::try_from(millis).unwrap_or(u64::MAX).max(1)
    }
}

/// The pause after one more failure, when there were `failures` before.
fn pause(failures: u32) -> Duration {
    let factor = 2_u32.saturating_pow(failures);
    SHORTEST_PAUSE.saturating_mul(factor).min(LONGEST_PAUSE)
}

/// An exporter that tells a [`Collector`] how its batches end.
#[derive(Debug)]
pub(super) struct WatchedExporter<E> {
    pub(super) inner: E,
    pub(super) collector: Arc<Collector>,
}

impl<E: SpanExporter> SpanExporter for WatchedExporter<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        self.collector.batch_begins();
        let result = self.inner.export(batch).await;
        self.collector.batch_ends(&result);
        result
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.inner.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry_sdk::error::OTelSdkError;

    use super::*;

    fn collector() -> Collector {
        Collector::new("http://collector.example:4318")
    }

    #[test]
    fn a_collector_that_fails_gets_no_spans_until_the_pause_is_over() {
        let mut collector = collector();
        assert!(collector.answers());
        collector.batch_begins();
        assert!(collector.answers(), "a batch may take a moment");
        collector.batch_ends(&Err(OTelSdkError::InternalFailure("refused".to_owned())));
        assert!(!collector.answers());
        collector.began -= SHORTEST_PAUSE;
        assert!(collector.answers(), "the pause is over");
        assert!(!collector.answers(), "one request tries the collector");
        collector.began -= BETWEEN_TRIALS;
        assert!(collector.answers(), "the next one tries it");
        assert!(!collector.answers());
        collector.batch_begins();
        collector.batch_ends(&Ok(()));
        assert!(collector.answers());
        assert_eq!(collector.failures.load(Relaxed), 0);
    }

    #[test]
    fn a_collector_that_hangs_gets_no_spans_until_its_batch_ends() {
        let mut collector = collector();
        collector.batch_begins();
        assert!(collector.answers());
        collector.began -= PATIENCE;
        assert!(!collector.answers());
        collector.batch_ends(&Ok(()));
        assert!(collector.answers());
    }

    #[test]
    fn the_pause_doubles_up_to_its_limit() {
        let pauses: Vec<_> = [0, 1, 3, 4, 400].map(|n| pause(n).as_secs()).into();
        assert_eq!(pauses, [5, 10, 40, 60, 60]);
    }
}
