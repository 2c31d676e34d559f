//! TCP connections to a backend.

use std::io;
use std::time::Duration;

use llamatower_layers::{BoxError, Failure};
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;

use super::Address;
use super::error::{ConnectFailed, ConnectTimeout};

/// How long a silent peer is believed to be there before the kernel probes it.
pub(super) const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// How long sent bytes may stay unacknowledged before the connection is given up.
pub(super) const USER_TIMEOUT: Duration = Duration::from_secs(30);

/// Opens connections to one address.
#[derive(Clone, Debug)]
pub struct Connector {
    address: Address,
    timeout: Duration,
}

impl Connector {
    /// Connects to `address`; the resolver and all of the host's addresses together get
    /// `timeout`.
    pub fn new(address: Address, timeout: Duration) -> Self {
        Self { address, timeout }
    }

    /// Opens a connection.
    ///
    /// # Errors
    /// A [`Failure`] caused by [`ConnectFailed`] or [`ConnectTimeout`]; both may be retried,
    /// since nothing was sent.
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

/// A lost node must not hold a slot for the quarter of an hour that TCP would wait by itself.
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
