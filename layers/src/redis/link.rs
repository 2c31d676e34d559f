//! The connection: one for all calls, opened and tested in the background.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ::redis::aio::MultiplexedConnection;
use ::redis::{Cmd, RedisResult};
use data_encoding::HEXLOWER;
use jiff::Timestamp;
use sha2::{Digest, Sha256};
use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout};

use super::keep::{breaks, describe, keep, no_response};
use super::status::{RedisCall, RedisCallResult, RedisObserver, RedisStatus};
use super::{RedisAddress, RedisScript};
use crate::live::Live;
use crate::store::{StorePolicy, StoreUnavailable};

/// A connection to Redis that stores share. Clones share it too.
///
/// All calls use one connection, without waiting for each other. A call that gets no response within the
/// deadline, or whose connection breaks, closes the connection for further calls: they fail at once. A task
/// of its own tests the connection, and opens it again when Redis responds within the deadline. If the
/// connection is broken, or leads to a server that became a replica, the task connects anew: the name in the
/// address may have another server then.
#[derive(Clone)]
pub struct Redis {
    pub(super) shared: Arc<Shared>,
    _task: Arc<Task>,
}

/// Ends with the last clone of its [`Redis`].
struct Task(AbortHandle);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

pub(super) struct Shared {
    pub(super) address: RedisAddress,
    pub(super) prefix: String,
    pub(super) deadline: Duration,
    observer: Option<Arc<dyn RedisObserver>>,
    open: Live<Option<Open>>,
    pub(super) opened: AtomicU64,
    /// Set when a call has closed the connection.
    pub(super) closed: Notify,
    /// Whether it was closed because of a late response, so that it may still be used.
    pub(super) is_late: AtomicBool,
    status: Mutex<RedisStatus>,
    /// Whether the status has a problem although Redis is connected.
    has_problem: AtomicBool,
    /// The operation that has it. Others may succeed meanwhile: a Redis without memory answers reads.
    failing: Mutex<&'static str>,
    is_open: watch::Sender<bool>,
}

#[derive(Clone)]
struct Open {
    connection: MultiplexedConnection,
    number: u64,
}

/// How [`Redis`] is used.
#[derive(Clone)]
pub struct RedisConfig {
    address: RedisAddress,
    prefix: String,
    deadline: Duration,
    observer: Option<Arc<dyn RedisObserver>>,
}

impl RedisConfig {
    /// With a deadline of 50 ms, and keys that begin with `llamatower:`.
    pub fn new(address: RedisAddress) -> Self {
        Self {
            address,
            prefix: "llamatower:".to_owned(),
            deadline: StorePolicy::DEFAULT_DEADLINE,
            observer: None,
        }
    }

    /// What all keys begin with. Programs that share limits have the same prefix. In a cluster it is their
    /// hash tag, unless it contains one: with `llamatower:` keys begin with `{llamatower}:`.
    pub fn with_prefix(self, prefix: impl Into<String>) -> Self {
        let prefix = prefix.into();
        Self { prefix, ..self }
    }

    /// The longest wait for a response.
    pub fn with_deadline(self, deadline: Duration) -> Self {
        Self { deadline, ..self }
    }

    /// Tells `observer` of calls and of changes of the connection.
    pub fn with_observer(self, observer: Arc<dyn RedisObserver>) -> Self {
        let observer = Some(observer);
        Self { observer, ..self }
    }
}

impl fmt::Debug for RedisConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisConfig")
            .field("address", &self.address)
            .field("prefix", &self.prefix)
            .field("deadline", &self.deadline)
            .finish_non_exhaustive()
    }
}

impl Redis {
    /// Connects in the background, and keeps the connection. Until it is open, calls fail at once.
    ///
    /// # Panics
    /// Outside of a runtime of tokio.
    pub fn start(config: RedisConfig) -> Self {
        let shared = Arc::new(Shared {
            status: Mutex::new(RedisStatus {
                is_connected: false,
                since: Timestamp::now(),
                problem: Some(RedisStatus::NOT_YET.to_owned()),
            }),
            prefix: config.address.prefix(config.prefix),
            address: config.address,
            deadline: config.deadline,
            observer: config.observer,
            open: Live::default(),
            opened: AtomicU64::new(0),
            closed: Notify::new(),
            is_late: AtomicBool::new(false),
            has_problem: AtomicBool::new(false),
            failing: Mutex::default(),
            is_open: watch::Sender::new(false),
        });
        let task = tokio::spawn(keep(shared.clone()));
        Self {
            shared,
            _task: Arc::new(Task(task.abort_handle())),
        }
    }

    /// Whether Redis is in use, and if not, why.
    pub fn status(&self) -> RedisStatus {
        self.shared.lock_status().clone()
    }

    /// Whether calls are sent.
    pub fn is_connected(&self) -> bool {
        self.shared.open.get().is_some()
    }

    /// Waits until Redis is connected; returns at once if it is.
    pub async fn connected(&self) {
        let mut is_open = self.shared.is_open.subscribe();
        // The sender lives as long as `self`.
        let _ = is_open.wait_for(|is_open| *is_open).await;
    }

    /// The address, which is shown without a password.
    pub fn address(&self) -> &RedisAddress {
        &self.shared.address
    }

    /// A key: the prefix, `kind`, and the hash of `name`, which can be any text.
    ///
    /// In a cluster, all keys of a prefix are in one hash slot, so a script can have any of them. A cluster
    /// is therefore highly available, but not faster than a single server.
    pub fn key(&self, kind: &str, name: &str) -> String {
        let digest = Sha256::digest(name.as_bytes());
        let mut key = String::with_capacity(self.shared.prefix.len() + kind.len() + 35);
        key.push_str(&self.shared.prefix);
        key.push_str(kind);
        key.push_str(":{");
        HEXLOWER.encode_append(&digest[..16], &mut key);
        key.push('}');
        key
    }

    /// Runs a script, which returns a list of texts or numbers. It has the keys of [`key`](Self::key).
    ///
    /// # Errors
    /// Redis is not connected, refuses the call, or does not respond within the deadline.
    pub async fn run(
        &self,
        operation: &'static str,
        script: &RedisScript,
        keys: &[&str],
        arguments: &[&str],
    ) -> Result<Vec<String>, StoreUnavailable> {
        let deadline = self.shared.deadline;
        self.run_within(deadline, operation, script, keys, arguments)
            .await
    }

    /// The same with another deadline. If it is longer than that of the configuration, a late response does
    /// not close the connection for other calls.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub async fn run_within(
        &self,
        deadline: Duration,
        operation: &'static str,
        script: &RedisScript,
        keys: &[&str],
        arguments: &[&str],
    ) -> Result<Vec<String>, StoreUnavailable> {
        self.call_within(deadline, operation, async move |mut connection| {
            let mut call = Cmd::new();
            call.arg("EVALSHA").arg(script.hash()).arg(keys.len());
            call.arg(keys).arg(arguments);
            script.call(&call, &mut connection).await
        })
        .await
    }

    /// Tells the observer of a call that was not made.
    pub(super) fn not_sent(&self, operation: &'static str) {
        let result = RedisCallResult::NotSent;
        self.shared.observe(operation, result, Duration::ZERO);
    }

    /// Makes a call within the deadline.
    pub(super) async fn call<T>(
        &self,
        operation: &'static str,
        call: impl AsyncFnOnce(MultiplexedConnection) -> RedisResult<T>,
    ) -> Result<T, StoreUnavailable> {
        self.call_within(self.shared.deadline, operation, call)
            .await
    }

    async fn call_within<T>(
        &self,
        deadline: Duration,
        operation: &'static str,
        call: impl AsyncFnOnce(MultiplexedConnection) -> RedisResult<T>,
    ) -> Result<T, StoreUnavailable> {
        let shared = &*self.shared;
        let Some(open) = (*shared.open.get()).clone() else {
            self.not_sent(operation);
            let problem = shared.lock_status().problem.clone();
            let problem = problem.unwrap_or_else(|| "not connected".to_owned());
            return Err(StoreUnavailable::new(format!("Redis: {problem}")));
        };
        let (began, number) = (Instant::now(), open.number);
        let answer = timeout(deadline, call(open.connection)).await;
        let (result, answer) = match answer {
            Ok(Ok(answer)) => {
                if shared.has_problem.load(Ordering::Relaxed) && *shared.failing() == operation {
                    shared.set_problem(None);
                }
                (RedisCallResult::Answered, Ok(answer))
            }
            Ok(Err(error)) => {
                let reason = describe(&error, &shared.address);
                match breaks(&error, &shared.address) {
                    true => shared.close(number, &reason, false),
                    false => {
                        *shared.failing() = operation;
                        shared.set_problem(Some(reason.clone()));
                    }
                }
                (RedisCallResult::Failed, Err(reason))
            }
            Err(_) => {
                let reason = no_response(deadline);
                if deadline <= shared.deadline {
                    shared.close(number, &reason, true);
                }
                (RedisCallResult::Late, Err(reason))
            }
        };
        shared.observe(operation, result, began.elapsed());
        answer.map_err(|reason| StoreUnavailable::new(format!("Redis: {reason}")))
    }
}

impl Shared {
    fn observe(&self, operation: &'static str, result: RedisCallResult, duration: Duration) {
        if let Some(observer) = &self.observer {
            observer.called(&RedisCall::new(operation, result, duration));
        }
    }

    pub(super) fn open(&self, connection: MultiplexedConnection) {
        let number = self.opened.fetch_add(1, Ordering::Relaxed) + 1;
        self.open.set(Some(Open { connection, number }));
        self.is_open.send_replace(true);
        self.change(true, None);
    }

    /// Closes the connection for further calls, unless it is a later one already.
    pub(super) fn close(&self, number: u64, reason: &str, is_late: bool) {
        let is_this = (*self.open.get())
            .as_ref()
            .is_some_and(|open| open.number == number);
        if is_this {
            self.open.set(None);
            self.is_open.send_replace(false);
            self.change(false, Some(reason.to_owned()));
            self.is_late.store(is_late, Ordering::Relaxed);
            self.closed.notify_one();
        }
    }

    fn failing(&self) -> MutexGuard<'_, &'static str> {
        self.failing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_problem(&self, problem: Option<String>) {
        let is_connected = self.lock_status().is_connected;
        self.change(is_connected, problem);
    }

    pub(super) fn change(&self, is_connected: bool, problem: Option<String>) {
        let has_problem = is_connected && problem.is_some();
        self.has_problem.store(has_problem, Ordering::Relaxed);
        let mut status = self.lock_status();
        if status.is_connected == is_connected && status.problem == problem {
            return;
        }
        let since = match status.is_connected == is_connected {
            true => status.since,
            false => Timestamp::now(),
        };
        let now = RedisStatus {
            is_connected,
            since,
            problem,
        };
        let before = std::mem::replace(&mut *status, now.clone());
        drop(status);
        if let Some(observer) = &self.observer {
            observer.changed(&before, &now);
        }
    }

    fn lock_status(&self) -> MutexGuard<'_, RedisStatus> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Redis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redis")
            .field("address", &self.shared.address)
            .field("status", &self.status())
            .finish_non_exhaustive()
    }
}
