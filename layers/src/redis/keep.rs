//! The task that opens, tests and replaces the connection.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ::redis::aio::MultiplexedConnection;
use ::redis::{ErrorKind, RedisError, RedisResult, ServerErrorKind};
use tokio::time::{sleep, timeout};

use super::RedisAddress;
use super::cluster::{self, Node};
use super::link::Shared;

/// The time between two tests of a connection that is in use.
const TEST_EVERY: Duration = Duration::from_secs(1);
/// The wait after the first failure; it doubles up to the last one.
const RETRY_FIRST: Duration = Duration::from_millis(50);
const RETRY_LAST: Duration = Duration::from_secs(1);
/// After so many failed tests the connection is replaced.
const TESTS: u32 = 3;

/// Connects and tests the connection. After a late response the same connection may be opened again; after an
/// error there is a new one, for which the name of the server is resolved again.
pub(super) async fn keep(shared: Arc<Shared>) {
    let (mut kept, mut failures, mut known) = (None, 0, Vec::new());
    loop {
        match connect(&shared, kept.take(), &mut known).await {
            Ok(connection) => {
                failures = 0;
                shared.open(connection.clone());
                until_closed(&shared, &connection).await;
                match shared.is_late.load(Ordering::Relaxed) {
                    true => kept = Some(connection),
                    false => sleep(RETRY_FIRST).await,
                }
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
    known: &mut Vec<Node>,
) -> Result<MultiplexedConnection, (String, Option<MultiplexedConnection>)> {
    let connection = match kept {
        Some(connection) => connection,
        None => {
            let connected = shared.address.connect(&shared.prefix, known).await;
            connected.map_err(|reason| (reason, None))?
        }
    };
    match test(shared, &connection, shared.deadline).await {
        Some(Ok(())) => Ok(connection),
        Some(Err(error)) => Err((describe(&error, &shared.address), None)),
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
        match test(shared, connection, limit).await {
            Some(Ok(())) => {}
            Some(Err(error)) => shared.close(number, &describe(&error, &shared.address), false),
            None => shared.close(number, &no_response(limit), true),
        }
    }
}

pub(super) fn no_response(within: Duration) -> String {
    format!("no response within {within:?}")
}

/// Whether the server responds; in a cluster, also whether it still has the keys.
async fn test(
    shared: &Shared,
    connection: &MultiplexedConnection,
    limit: Duration,
) -> Option<RedisResult<()>> {
    let mut connection = connection.clone();
    let is_cluster = shared.address.is_cluster();
    let test = match is_cluster {
        true => cluster::trial(&[&shared.prefix]),
        false => ::redis::cmd("PING"),
    };
    let answer = timeout(limit, test.exec_async(&mut connection))
        .await
        .ok()?;
    Some(match is_cluster {
        true => cluster::tried(answer),
        false => answer,
    })
}

/// Whether a new connection is needed: this one is broken, or leads to a server that cannot be used.
pub(super) fn breaks(error: &RedisError, address: &RedisAddress) -> bool {
    if error.is_io_error() || error.is_unrecoverable_error() || is_of_a_replica(error) {
        return true;
    }
    match error.kind() {
        ErrorKind::AuthenticationFailed => true,
        ErrorKind::Server(kind) => match kind {
            ServerErrorKind::BusyLoading | ServerErrorKind::MasterDown => true,
            // Another server may have the keys.
            ServerErrorKind::Moved | ServerErrorKind::ClusterDown => address.is_cluster(),
            _ => false,
        },
        _ => false,
    }
}

/// Whether the server is a replica, which refuses writes.
pub(super) fn is_of_a_replica(error: &RedisError) -> bool {
    // Redis 6 says of a script only that it has failed, with the reason in the text.
    let in_text = |detail: &str| detail.contains("-READONLY ");
    error.kind() == ErrorKind::Server(ServerErrorKind::ReadOnly)
        || error.detail().is_some_and(in_text)
}

/// Whether the server is one of a cluster, and does not have all keys.
pub(super) fn is_of_a_cluster(error: &RedisError) -> bool {
    matches!(
        error.kind(),
        ErrorKind::Server(
            ServerErrorKind::Moved
                | ServerErrorKind::Ask
                | ServerErrorKind::CrossSlot
                | ServerErrorKind::ClusterDown
        )
    )
}

/// The error of a call, and what to do if the server is of the wrong kind.
pub(super) fn describe(error: &RedisError, address: &RedisAddress) -> String {
    let error_text = describe_error(error);
    if is_of_a_replica(error) {
        return format!(
            "the server is a replica, and the address must lead to its master: {error_text}"
        );
    }
    match is_of_a_cluster(error) && !address.is_cluster() {
        true => format!(
            "{error_text}: the server is one of a Redis Cluster; begin the address with redis+cluster:// \
             (with TLS rediss+cluster://)"
        ),
        false => error_text,
    }
}

/// The error without the line of the script in which it occurred.
pub(super) fn describe_error(error: &RedisError) -> String {
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
