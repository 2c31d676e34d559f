//! Binds listening sockets, and explains why binding failed.

use std::io;
use std::path::Path;
use std::time::Duration;

use socket2::{Domain, SockAddr, Socket, Type};

use super::address::ListenAddr;
use super::listener::{Listener, set_client_options};

/// Length of the kernel's queue of connections that are not accepted yet. `net.core.somaxconn` may
/// limit it further.
const BACKLOG: i32 = 4096;

/// Binding failed. The message names the address, the reason and what to do.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {what}")]
pub struct BindError {
    address: ListenAddr,
    what: String,
    #[source]
    source: Option<io::Error>,
}

impl BindError {
    /// The address in question.
    pub fn address(&self) -> &ListenAddr {
        &self.address
    }

    /// The error of the system call, if there was one.
    pub fn io_error(&self) -> Option<&io::Error> {
        self.source.as_ref()
    }

    fn new(address: &ListenAddr, what: impl Into<String>) -> Self {
        Self {
            address: address.clone(),
            what: what.into(),
            source: None,
        }
    }

    fn from_io(address: &ListenAddr, error: io::Error) -> Self {
        use io::ErrorKind::{AddrInUse, AddrNotAvailable, NotFound, PermissionDenied};
        let unix = matches!(address, ListenAddr::Unix(_));
        let what = match error.kind() {
            AddrInUse => "another process listens there; stop it or choose another address".into(),
            AddrNotAvailable => {
                "this machine does not have this address; use one of its own, or 0.0.0.0 or [::] for all"
                    .into()
            }
            PermissionDenied if unix => {
                "the process may not write to the socket's directory; choose another or change its permissions"
                    .into()
            }
            PermissionDenied => {
                "the process may not use this port; choose one above 1023".into()
            }
            NotFound if unix => "the socket's directory does not exist; create it first".into(),
            _ => error.to_string(),
        };
        Self {
            address: address.clone(),
            what,
            source: Some(error),
        }
    }
}

/// Listens on one address. `write_stall` is how long a client may read nothing.
pub(super) fn bind(
    address: &ListenAddr,
    write_stall: Option<Duration>,
) -> Result<Listener, BindError> {
    let bound = match address {
        ListenAddr::Tcp(tcp) => listen_tcp(*tcp, write_stall),
        ListenAddr::Unix(path) => {
            remove_stale_socket(address, path)?;
            listen_unix(path)
        }
    };
    bound.map_err(|error| BindError::from_io(address, error))
}

fn listen_tcp(
    address: std::net::SocketAddr,
    write_stall: Option<Duration>,
) -> io::Result<Listener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    // A restart must not wait for connections of the last run to time out.
    socket.set_reuse_address(true)?;
    // Set before `listen`: accepted sockets inherit the options.
    set_client_options(&socket, write_stall);
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Listener::tcp(socket.into())
}

fn listen_unix(path: &Path) -> io::Result<Listener> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.bind(&SockAddr::unix(path)?)?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Listener::unix(socket.into(), path)
}

/// Removes a socket file that no process listens on. Other files are left alone.
fn remove_stale_socket(address: &ListenAddr, path: &Path) -> Result<(), BindError> {
    use std::os::unix::fs::FileTypeExt;
    let Ok(metadata) = std::fs::symlink_metadata(path) else {
        return Ok(());
    };
    if !metadata.file_type().is_socket() {
        return Err(BindError::new(
            address,
            "the file at this path is not a socket; remove it or choose another path",
        ));
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path).map_err(|error| BindError::from_io(address, error))
        }
        _ => Ok(()),
    }
}

#[cfg(all(test, target_os = "linux"))]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::future::poll_fn;

    use socket2::SockRef;

    use tokio::net::TcpStream;
    use tokio_util::either::Either;

    use super::*;
    use crate::edge::listener::{GONE_AFTER, UNSENT_LOW_WATER};

    #[tokio::test]
    async fn keepalive_and_user_timeout_detect_a_client_that_vanished() {
        for (stall, user_timeout) in [(None, 0), (Some(1), 60), (Some(90), 90)] {
            let anywhere = "127.0.0.1:0".parse().unwrap();
            let listener = bind(&anywhere, stall.map(Duration::from_secs)).unwrap();
            let ListenAddr::Tcp(addr) = listener.local_addr() else {
                unreachable!()
            };
            let _client = TcpStream::connect(addr).await.unwrap();
            let accepted = poll_fn(|cx| listener.poll_accept(cx)).await.unwrap();
            let Either::Left(stream) = &accepted.stream else {
                unreachable!()
            };
            let socket = SockRef::from(stream);
            assert!(socket.tcp_nodelay().unwrap() && socket.keepalive().unwrap());
            let silent = socket.tcp_keepalive_time().unwrap()
                + socket.tcp_keepalive_interval().unwrap()
                    * socket.tcp_keepalive_retries().unwrap();
            assert_eq!(silent, GONE_AFTER);
            assert_eq!(
                socket.tcp_user_timeout().unwrap().unwrap_or_default(),
                Duration::from_secs(user_timeout)
            );
            assert_eq!(socket.tcp_notsent_lowat().unwrap(), UNSENT_LOW_WATER);
        }
    }
}
