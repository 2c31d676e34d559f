//! The task that opens, tests and replaces the connection.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ::redis::aio::MultiplexedConnection;
use ::redis::{ErrorKind, RedisError, RedisResult, ServerErrorKind};
use tokio::time::{sleep, timeout};

use super::link::Shared;

/// The time between two tests of a connection that is in use.
const TEST_EVERY: Duration = Duration::from_secs(1);
/// The wait after the first failure; it doubles up to the last one.
const RETRY_FIRST: Duration = Duration::from_millis(50);
const RETRY_LAST: Duration = Duration::from_secs(1);
/// After so many failed tests the connection is replaced.
const TESTS: u32 = 3;

/// Connects, tests the connection, and replaces it.
pub(super) async fn keep(shared: Arc<Shared>) {
    let (mut kept, mut failures) = (None, 0);
    loop {
        match connect(&shared, kept.take()).await {
            Ok(connection) => {
                failures = 0;
                shared.open(connection.clone());
                until_closed(&shared, &connection).await;
                kept = Some(connection);
            }
            Err((reason, connection)) => {
                shared.change(false, Some(reason));
                let wait = RETRY_LAST.min(RETRY_FIRST.saturating_mul(1 << failures.min(10)));
                failures += 1;
                // A server that does not respond may respond later, on the same connection.
                kept = connection.filter(|_| failures < TESTS);
                sleep(wait).await;
            }
        }
    }
}

/// A connection on which Redis responds in time; with an error, a connection that may still work.
async fn connect(
    shared: &Shared,
    kept: Option<MultiplexedConnection>,
) -> Result<MultiplexedConnection, (String, Option<MultiplexedConnection>)> {
    let connection = match kept {
        Some(connection) => connection,
        None => {
            let connected = shared.address.connect().await;
            connected.map_err(|error| (describe(&error), None))?
        }
    };
    match ping(&connection, shared.deadline).await {
        Some(Ok(())) => Ok(connection),
        Some(Err(error)) => Err((describe(&error), None)),
        None => Err((no_response(shared.deadline), Some(connection))),
    }
}

/// Returns when the connection is closed by a call, or does not pass a test.
async fn until_closed(shared: &Shared, connection: &MultiplexedConnection) {
    let number = shared.opened.load(Ordering::Relaxed);
    loop {
        if timeout(TEST_EVERY, shared.closed.notified()).await.is_ok() {
            return;
        }
        // Longer than the deadline: a short pause of an idle connection harms no request.
        let limit = shared.deadline.saturating_mul(5);
        let reason = match ping(connection, limit).await {
            Some(Ok(())) => continue,
            Some(Err(error)) => describe(&error),
            None => no_response(limit),
        };
        shared.close(number, &reason);
    }
}

pub(super) fn no_response(within: Duration) -> String {
    format!("no response within {within:?}")
}

async fn ping(connection: &MultiplexedConnection, limit: Duration) -> Option<RedisResult<()>> {
    let mut connection = connection.clone();
    let ping = ::redis::cmd("PING");
    timeout(limit, ping.exec_async(&mut connection)).await.ok()
}

/// Whether another connection may help: this one is broken, or leads to a server that cannot write.
pub(super) fn breaks(error: &RedisError) -> bool {
    error.is_io_error()
        || error.is_unrecoverable_error()
        || matches!(
            error.kind(),
            ErrorKind::AuthenticationFailed
                | ErrorKind::Server(
                    ServerErrorKind::ReadOnly
                        | ServerErrorKind::BusyLoading
                        | ServerErrorKind::MasterDown
                )
        )
}

/// The error without the line of the script in which it occurred.
pub(super) fn describe(error: &RedisError) -> String {
    let detail = match (error.code(), error.detail()) {
        (Some(code), Some(detail)) => format!("{code} {detail}"),
        _ => error.to_string(),
    };
    let detail = detail.split(" script: ").next().unwrap_or_default();
    detail
        .split(", on @user_script")
        .next()
        .unwrap_or_default()
        .to_owned()
}
