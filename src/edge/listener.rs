//! Sockets that listen, and what the sockets they accept have from them.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::task::{Context, Poll};
use std::time::Duration;

use socket2::{Socket, TcpKeepalive};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio_util::either::Either;

use super::config::ListenAddr;

/// A client's socket.
pub(super) type Stream = Either<TcpStream, UnixStream>;

/// Whom a connection is with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PeerAddr {
    /// The other end of a TCP connection.
    Ip(SocketAddr),
    /// A process on this machine.
    Unix,
}

impl PeerAddr {
    /// The peer's address; an IPv4 address as such, also where one socket takes both.
    pub(super) fn ip(self) -> Option<IpAddr> {
        match self {
            Self::Ip(address) => Some(address.ip().to_canonical()),
            Self::Unix => None,
        }
    }
}

/// A connection as it was accepted.
pub(super) struct Accepted {
    pub(super) stream: Stream,
    pub(super) peer: PeerAddr,
    /// Whether the listener can be reached from this machine alone, over TCP: then a foreign
    /// `Host` means that a web page has its name point here.
    pub(super) on_loopback: bool,
}

pub(super) enum Listener {
    Tcp {
        socket: TcpListener,
        on_loopback: bool,
    },
    Unix {
        socket: UnixListener,
        file: SocketFile,
    },
}

/// Removes the file of a socket that no longer listens.
pub(super) struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Whoever removed it before us did what we wanted.
        let _ = std::fs::remove_file(&self.0);
    }
}

impl Listener {
    pub(super) fn tcp(socket: std::net::TcpListener) -> io::Result<Self> {
        let on_loopback = socket.local_addr()?.ip().to_canonical().is_loopback();
        Ok(Self::Tcp {
            socket: TcpListener::from_std(socket)?,
            on_loopback,
        })
    }

    pub(super) fn unix(socket: std::os::unix::net::UnixListener, path: &Path) -> io::Result<Self> {
        let file = SocketFile(path.to_owned());
        Ok(Self::Unix {
            socket: UnixListener::from_std(socket)?,
            file,
        })
    }

    /// Where it listens, with the port that the system chose.
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
            } => socket.poll_accept(cx).map_ok(|(stream, peer)| Accepted {
                stream: Either::Left(stream),
                peer: PeerAddr::Ip(peer),
                on_loopback: *on_loopback,
            }),
            Self::Unix { socket, .. } => socket.poll_accept(cx).map_ok(|(stream, _)| Accepted {
                stream: Either::Right(stream),
                peer: PeerAddr::Unix,
                on_loopback: false,
            }),
        }
    }
}

/// Unsent bytes that the kernel takes before it calls a socket full. What a client in flight
/// needs is bounded by its window, not by this; what a client that stopped reading holds is.
pub(super) const UNSENT_LOW_WATER: u32 = 128 * 1024;

/// How long a client may be silent to the kernel's probes before it is taken for gone.
pub(super) const GONE_AFTER: Duration = Duration::from_secs(60);

/// Sets what every client's socket has from the one that accepted it: once, and not with some system
/// calls for each. A setting that the system refuses is no reason not to listen.
///
/// A laptop that vanished sends no FIN. Probes find out while the gateway has nothing to send,
/// the user timeout while it has bytes on the way. Linux also ends a connection whose window
/// stays shut for the user timeout, though its client be alive: so it is never shorter than the
/// stall clock, and off with it.
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
