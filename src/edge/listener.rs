//! Listening sockets, and the options that accepted sockets inherit.

use std::io;
use std::path::{Path, PathBuf};
use std::task::{Context, Poll};
use std::time::Duration;

use socket2::{Socket, TcpKeepalive};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio_util::either::Either;

use super::address::{ListenAddr, PeerAddr};

/// A client's socket.
pub(super) type Stream = Either<TcpStream, UnixStream>;

/// An accepted connection.
pub(super) struct Accepted {
    pub(super) stream: Stream,
    pub(super) peer: PeerAddr,
    /// Whether the listener is a TCP socket on loopback, which only this machine can reach. A
    /// foreign `Host` then means that a web page's name resolves to this machine.
    pub(super) on_loopback: bool,
    /// Whether the listener speaks TLS.
    pub(super) is_tls: bool,
}

pub(super) enum Listener {
    Tcp {
        socket: TcpListener,
        on_loopback: bool,
        is_tls: bool,
    },
    Unix {
        socket: UnixListener,
        file: SocketFile,
    },
}

/// Removes the socket file when the listener is dropped.
pub(super) struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Another process may have removed it already.
        let _ = std::fs::remove_file(&self.0);
    }
}

impl Listener {
    pub(super) fn tcp(socket: std::net::TcpListener) -> io::Result<Self> {
        let on_loopback = socket.local_addr()?.ip().to_canonical().is_loopback();
        Ok(Self::Tcp {
            socket: TcpListener::from_std(socket)?,
            on_loopback,
            is_tls: false,
        })
    }

    /// Makes a TCP listener speak TLS.
    pub(super) fn with_tls(mut self) -> Self {
        if let Self::Tcp { is_tls, .. } = &mut self {
            *is_tls = true;
        }
        self
    }

    pub(super) fn unix(socket: std::os::unix::net::UnixListener, path: &Path) -> io::Result<Self> {
        let file = SocketFile(path.to_owned());
        Ok(Self::Unix {
            socket: UnixListener::from_std(socket)?,
            file,
        })
    }

    /// Whether it speaks TLS.
    pub(super) fn is_tls(&self) -> bool {
        matches!(self, Self::Tcp { is_tls: true, .. })
    }

    /// The address it listens on, with the port that the system chose.
    pub(super) fn local_addr(&self) -> ListenAddr {
        match self {
            Self::Tcp { socket, .. } => match socket.local_addr() {
                Ok(addr) => ListenAddr::Tcp(addr),
                Err(_) => ListenAddr::Tcp(([0, 0, 0, 0], 0).into()),
            },
            Self::Unix { file, .. } => ListenAddr::Unix(file.0.clone()),
        }
    }

    pub(super) fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<Accepted>> {
        match self {
            Self::Tcp {
                socket,
                on_loopback,
                is_tls,
            } => socket.poll_accept(cx).map_ok(|(stream, peer)| Accepted {
                stream: Either::Left(stream),
                peer: PeerAddr::Ip(peer),
                on_loopback: *on_loopback,
                is_tls: *is_tls,
            }),
            Self::Unix { socket, .. } => socket.poll_accept(cx).map_ok(|(stream, _)| Accepted {
                stream: Either::Right(stream),
                peer: PeerAddr::Unix,
                on_loopback: false,
                is_tls: false,
            }),
        }
    }
}

/// Unsent bytes that the kernel accepts before it reports a socket as full. Throughput to a client
/// that reads is bounded by its window, not by this. It bounds the memory that a client which
/// stopped reading occupies.
pub(super) const UNSENT_LOW_WATER: u32 = 128 * 1024;

/// How long a client may not answer the kernel's keep-alive probes before its connection is closed.
pub(super) const GONE_AFTER: Duration = Duration::from_secs(60);

/// Sets options on the listening socket that all accepted sockets inherit. This saves several
/// system calls for each connection. An option that the system refuses is ignored.
///
/// A machine that vanished sends no FIN. TCP keep-alive detects this while the gateway has nothing
/// to send, and the TCP user timeout while it has unacknowledged bytes. Linux also applies the user
/// timeout to a live client whose receive window stays closed. It is therefore never shorter than
/// the stalled-write time-out, and off if that is off.
pub(super) fn set_client_options(socket: &Socket, write_stall: Option<Duration>) {
    let _ = socket.set_tcp_nodelay(true);
    let keepalive = TcpKeepalive::new()
        .with_time(GONE_AFTER / 2)
        .with_interval(GONE_AFTER / 6)
        .with_retries(3);
    let _ = socket.set_tcp_keepalive(&keepalive);
    #[cfg(any(target_os = "android", target_os = "linux"))]
    {
        let _ = socket.set_tcp_user_timeout(write_stall.map(|stall| stall.max(GONE_AFTER)));
        let _ = socket.set_tcp_notsent_lowat(UNSENT_LOW_WATER);
    }
}
