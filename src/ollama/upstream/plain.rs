//! The client for plain HTTP, with its own connection pool.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Response, Version};
use http_body::Body;
use hyper::body::Incoming;
use llamatower_layers::{BoxError, Failure};

use super::body::Source;
use super::connection::{Connection, SendFailed};
use super::hop::{NO_ANSWER, Target, may_share_a_connection};
use super::pool::{Pool, PoolLimits};
use super::timer::AttemptTimer;
use super::{ConnectionLost, Connector, Leaf, Outgoing, UpstreamBody};

/// Sends requests to a backend over TCP.
#[derive(Debug)]
pub(super) struct Plain<B: Body + 'static> {
    target: Target,
    connector: Connector,
    pool: Arc<Pool<B>>,
}

impl<B: Body + 'static> Plain<B> {
    pub(super) fn new(target: Target, connect_timeout: Duration, limits: PoolLimits) -> Self {
        Self {
            pool: Arc::new(Pool::new(target.address.clone(), limits)),
            connector: Connector::new(target.address.clone(), connect_timeout),
            target,
        }
    }
}

impl<B> Leaf<B> for Plain<B>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    fn target(&self) -> &Target {
        &self.target
    }

    /// Sends a request over an idle or a new connection, and waits for the head of its response.
    async fn ask(
        self: Arc<Self>,
        mut request: Outgoing<B>,
    ) -> Result<Response<UpstreamBody<B>>, BoxError> {
        let mut timer = AttemptTimer::start(request.extensions());
        let may_share = may_share_a_connection(&request);
        loop {
            let pooled = may_share.then(|| self.pool.check_out()).flatten();
            let (mut connection, is_reused) = match pooled {
                Some(connection) => (connection, true),
                // Boxed, because it is rare and would enlarge the future of each request.
                None => (Box::pin(self.dial()).await?, false),
            };
            timer.sent();
            let sent = connection.send(request, is_reused).await;
            timer.settle();
            match sent {
                Ok(answer) => return self.accept(answer, connection),
                // The backend had closed the connection before the request was started.
                Err(SendFailed {
                    unsent: Some(unsent),
                    ..
                }) if is_reused => request = *unsent,
                Err(failed) => {
                    // A restarted backend has closed all of its connections. After the first dead
                    // one, the next attempt uses a new connection.
                    if is_reused {
                        self.pool.clear();
                    }
                    return Err(match connection.take_dial_error() {
                        Some(error) => error,
                        None => self.lost(failed.error, is_reused),
                    });
                }
            }
        }
    }

    fn idle_connections(&self) -> Option<usize> {
        Some(self.pool.len())
    }

    fn closed_by_backend(&self) -> Option<u64> {
        Some(self.pool.closed_by_backend())
    }

    fn prune(&self) {
        self.pool.prune();
    }
}

impl<B> Plain<B>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    async fn dial(&self) -> Result<Connection<B>, BoxError> {
        let stream = self.connector.connect().await?;
        let opened = Connection::open(stream, self.connector.clone()).await;
        opened.map_err(|error| self.lost(error, false))
    }

    fn accept(
        &self,
        answer: Response<Incoming>,
        mut connection: Connection<B>,
    ) -> Result<Response<UpstreamBody<B>>, BoxError> {
        self.target.check(answer.status(), answer.headers())?;
        if answer.version() < Version::HTTP_11 {
            connection.retire();
        }
        let (head, incoming) = answer.into_parts();
        let source = Source::plain(incoming, connection, self.pool.clone());
        let body = UpstreamBody::new(source, &head.headers);
        Ok(Response::from_parts(head, body))
    }

    fn lost(&self, error: hyper::Error, is_reused: bool) -> BoxError {
        if error.is_parse() {
            return self.target.invalid(NO_ANSWER);
        }
        if error.is_user() {
            // The request's own body failed. Its creator can interpret the error, which is the
            // source of hyper's error.
            return Box::new(error);
        }
        Failure::from(ConnectionLost::new(&self.target.address, is_reused, error)).into()
    }
}
