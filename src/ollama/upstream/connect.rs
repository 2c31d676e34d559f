//! TCP connections to a backend.

use std::io;
use std::time::Duration;

use llamatower_layers::{BoxError, Failure};
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;

use super::Address;
use super::error::{ConnectFailed, ConnectTimeout};

/// Idle time before the kernel sends TCP keep-alive probes.
pub(super) const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// How long sent bytes may stay unacknowledged before the connection is closed.
pub(super) const USER_TIMEOUT: Duration = Duration::from_secs(30);

/// Opens connections to one address.
#[derive(Clone, Debug)]
pub struct Connector {
    address: Address,
    timeout: Duration,
}

impl Connector {
    /// Connects to `address`. `timeout` covers name resolution and all of the host's addresses
    /// together.
    pub fn new(address: Address, timeout: Duration) -> Self {
        Self { address, timeout }
    }

    /// Opens a connection.
    ///
    /// # Errors
    /// A [`Failure`] caused by [`ConnectFailed`] or [`ConnectTimeout`]. Both may be retried,
    /// because nothing was sent.
    pub async fn connect(&self) -> Result<TcpStream, BoxError> {
        match tokio::time::timeout(self.timeout, self.open()).await {
            Ok(Ok(stream)) => {
                tune(&stream).map_err(|error| self.failed(error))?;
                Ok(stream)
            }
            Ok(Err(error)) => Err(self.failed(error)),
            Err(_) => Err(Failure::from(ConnectTimeout::new(&self.address, self.timeout)).into()),
        }
    }

    async fn open(&self) -> io::Result<TcpStream> {
        let port = self.address.port();
        match self.address.ip() {
            Some(ip) => TcpStream::connect((ip, port)).await,
            None => TcpStream::connect((self.address.host(), port)).await,
        }
    }

    fn failed(&self, error: io::Error) -> BoxError {
        Failure::from(ConnectFailed::new(&self.address, error)).into()
    }
}

/// Without this, a lost node would occupy a slot for about 15 minutes, TCP's own time-out.
fn tune(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    let keep_alive = TcpKeepalive::new()
        .with_time(KEEP_ALIVE)
        .with_interval(KEEP_ALIVE);
    socket.set_tcp_keepalive(&keep_alive)?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(USER_TIMEOUT))?;
    Ok(())
}
