//! Sockets: connections that can end in any requested way.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use crate::api;
use crate::fault::Ending;
use crate::log::Log;
use crate::sim::Server;
use crate::wire::SimBody;

/// The last bytes of a connection whose answer was cut short, and the way it ends.
#[derive(Clone, Debug)]
pub(crate) struct FinalBytes {
    bytes: Bytes,
    ending: Ending,
}

impl FinalBytes {
    pub(crate) fn new(bytes: Bytes, ending: Ending) -> Self {
        Self { bytes, ending }
    }
}

/// The state of a connection that its requests use.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) id: u64,
    final_bytes: Mutex<Option<FinalBytes>>,
}

impl Connection {
    /// Ends the connection in this way, after hyper has released it.
    pub(crate) fn leave(&self, words: FinalBytes) {
        *self
            .final_bytes
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(words);
    }

    fn take_final_bytes(&self) -> Option<FinalBytes> {
        self.final_bytes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }
}

/// The state of the listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Gate {
    Open,
    /// The listener is closed until then.
    Refusing(Instant),
    /// Accepted connections are reset until then.
    Resetting(Instant),
    /// The server has ended, with its connections.
    Closed,
}

pub(crate) fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = socket2::Socket::new(
        socket2::Domain::for_address(address),
        socket2::Type::STREAM,
        Some(socket2::Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(4096)?;
    TcpListener::from_std(socket.into())
}

/// Accepts connections until the gate closes.
pub(crate) async fn accept(
    listener: TcpListener,
    address: SocketAddr,
    server: Arc<Server>,
    mut gate: watch::Receiver<Gate>,
) {
    let next_id = AtomicU64::new(1);
    let mut listener = Some(listener);
    loop {
        let now = *gate.borrow_and_update();
        match now {
            Gate::Closed => return,
            Gate::Refusing(until) => {
                listener = None;
                tokio::select! {
                    () = sleep_until(until) => server.reopen(now),
                    _ = gate.changed() => {}
                }
                continue;
            }
            Gate::Open | Gate::Resetting(_) => {}
        }
        let bound = match listener.take() {
            Some(bound) => bound,
            None => match bind(address) {
                Ok(bound) => bound,
                Err(_) => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    continue;
                }
            },
        };
        let resets_end = async {
            match now {
                Gate::Resetting(until) => sleep_until(until).await,
                _ => std::future::pending().await,
            }
        };
        tokio::select! {
            accepted = bound.accept() => if let Ok((stream, _)) = accepted {
                match now {
                    Gate::Resetting(_) => reset(stream),
                    _ => {
                        let id = next_id.fetch_add(1, Ordering::Relaxed);
                        tokio::spawn(serve(stream, id, server.clone(), gate.clone()));
                    }
                }
            },
            () = resets_end => server.reopen(now),
            _ = gate.changed() => {}
        }
        listener = Some(bound);
    }
}

struct OpenConnection(Arc<Log>);

impl OpenConnection {
    fn new(log: &Arc<Log>) -> Self {
        log.connections_accepted.fetch_add(1, Ordering::Relaxed);
        log.connections_open.fetch_add(1, Ordering::Relaxed);
        log.events.notify_waiters();
        Self(log.clone())
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.connections_open.fetch_sub(1, Ordering::Relaxed);
        self.0.events.notify_waiters();
    }
}

async fn serve(stream: TcpStream, id: u64, server: Arc<Server>, mut gate: watch::Receiver<Gate>) {
    let _open = OpenConnection::new(&server.log);
    let _ = stream.set_nodelay(true);
    let connection = Arc::new(Connection {
        id,
        final_bytes: Mutex::default(),
    });
    let for_requests = connection.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        let answer: Pin<Box<dyn Future<Output = Result<Response<SimBody>, Cut>> + Send>> =
            Box::pin(api::answer(server.clone(), for_requests.clone(), request));
        answer
    });
    let mut http = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    let over = async {
        let closed = gate.wait_for(|gate| *gate == Gate::Closed).await.is_ok();
        if !closed {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        _ = poll_fn(|cx| http.poll_without_shutdown(cx)) => {}
        () = over => return reset(http.into_parts().io.into_inner()),
    }
    let stream = http.into_parts().io.into_inner();
    write_final_bytes(stream, connection.take_final_bytes()).await;
}

/// A request without an HTTP answer.
#[derive(Debug)]
pub(crate) struct Cut;

impl std::fmt::Display for Cut {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the connection is ended by a fault")
    }
}

impl std::error::Error for Cut {}

async fn write_final_bytes(mut stream: TcpStream, words: Option<FinalBytes>) {
    let Some(FinalBytes { bytes, ending }) = words else {
        let _ = stream.shutdown().await;
        return;
    };
    let _ = stream.write_all(&bytes).await;
    match ending {
        Ending::Fin => {
            let _ = stream.shutdown().await;
        }
        Ending::Reset => reset(stream),
        Ending::Hold => {
            let mut scratch = [0; 1024];
            while stream.read(&mut scratch).await.is_ok_and(|read| read > 0) {}
        }
    }
}

/// Closes with RST.
fn reset(stream: TcpStream) {
    let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
}
