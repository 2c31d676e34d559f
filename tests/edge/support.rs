//! An edge on loopback, and a client that sees every byte.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use llamatower::edge::{
    Drained, Edge, EdgeConfig, Gauges, HttpStack, ListenAddr, RequestBody, Shutdown,
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// The time limit for every wait; a passing test never reaches it.
pub const TIME_LIMIT: Duration = Duration::from_secs(10);

/// Fails the test after a time limit.
pub async fn within_limit<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(TIME_LIMIT, future)
        .await
        .expect("what the test waits for did not happen")
}

pub fn loopback() -> EdgeConfig {
    EdgeConfig {
        listen: vec![ListenAddr::Tcp(([127, 0, 0, 1], 0).into())],
        ..EdgeConfig::default()
    }
}

pub struct Running {
    pub addr: SocketAddr,
    pub shutdown: Shutdown,
    pub cutoff: CancellationToken,
    pub gauges: Arc<Gauges>,
    pub task: JoinHandle<Drained>,
}

impl Running {
    pub async fn start(config: EdgeConfig, stack: impl HttpStack) -> Self {
        let edge = Edge::bind(config).await.unwrap();
        let addr = match &edge.local_addrs()[0] {
            ListenAddr::Tcp(addr) => *addr,
            ListenAddr::Unix(_) => ([0, 0, 0, 0], 0).into(),
        };
        let shutdown = Shutdown::new();
        Self {
            addr,
            cutoff: edge.cutoff(),
            gauges: edge.gauges(),
            task: tokio::spawn(edge.serve(stack, shutdown.clone())),
            shutdown,
        }
    }

    pub async fn connect(&self) -> Client<TcpStream> {
        Client::new(TcpStream::connect(self.addr).await.unwrap())
    }

    /// Sends one request on a new connection.
    pub async fn ask(&self, request: &str) -> Answer {
        let mut client = self.connect().await;
        client.send(request).await;
        client.answer().await
    }

    pub async fn drained(self) -> Drained {
        within_limit(self.task).await.unwrap()
    }
}

/// Responds to every request with its method and target.
pub async fn echo(request: Request<RequestBody>) -> Result<Response<Full<Bytes>>, Infallible> {
    let text = format!("{} {}", request.method(), request.uri());
    Ok(Response::new(Full::from(text)))
}

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
    /// Whether the body is complete by its head.
    pub complete: bool,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<String> {
        let all = self.headers(name);
        (!all.is_empty()).then(|| all.join(", "))
    }

    pub fn headers(&self, name: &str) -> Vec<&str> {
        let lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines
            .filter(|(given, _)| given.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
            .collect()
    }
}

pub struct Client<IO> {
    pub io: IO,
    seen: Vec<u8>,
}

impl<IO: AsyncRead + AsyncWrite + Unpin> Client<IO> {
    pub fn new(io: IO) -> Self {
        let seen = Vec::new();
        Self { io, seen }
    }

    pub async fn send(&mut self, text: impl AsRef<[u8]>) {
        self.io.write_all(text.as_ref()).await.unwrap();
    }

    /// Reads more bytes; false at the end.
    async fn more(&mut self) -> bool {
        matches!(within_limit(self.io.read_buf(&mut self.seen)).await, Ok(n) if n > 0)
    }

    /// Reads until this text arrives, and returns everything up to its end.
    pub async fn until(&mut self, text: &str) -> String {
        loop {
            let at = self
                .seen
                .windows(text.len())
                .position(|w| w == text.as_bytes());
            if let Some(at) = at {
                let taken = self.seen.drain(..at + text.len()).collect();
                return String::from_utf8(taken).unwrap();
            }
            let so_far = String::from_utf8_lossy(&self.seen).into_owned();
            assert!(self.more().await, "{text:?} never came, but {so_far:?}");
        }
    }

    /// Reads to the end of the connection.
    pub async fn rest(&mut self) -> String {
        while self.more().await {}
        String::from_utf8(std::mem::take(&mut self.seen)).unwrap()
    }

    /// Reads to the end of the connection, whatever bytes come.
    pub async fn rest_bytes(&mut self) -> Vec<u8> {
        while self.more().await {}
        std::mem::take(&mut self.seen)
    }

    /// Whether the server has closed the connection without further bytes.
    pub async fn is_closed(&mut self) -> bool {
        self.seen.is_empty() && !self.more().await
    }

    /// Reads the response to a request other than HEAD.
    pub async fn answer(&mut self) -> Answer {
        let head = self.until("\r\n\r\n").await;
        let status = head[9..12].parse().unwrap();
        let mut answer = Answer {
            status,
            head,
            body: String::new(),
            complete: true,
        };
        if answer.header("transfer-encoding").is_some() {
            loop {
                if !self.seen.windows(2).any(|w| w == b"\r\n") && !self.more().await {
                    answer.complete = false;
                    break;
                }
                if !self.seen.windows(2).any(|w| w == b"\r\n") {
                    continue;
                }
                let size = self.until("\r\n").await;
                let size = usize::from_str_radix(size.trim(), 16).unwrap();
                while self.seen.len() < size + 2 && self.more().await {}
                if self.seen.len() < size + 2 {
                    answer.complete = false;
                    break;
                }
                let chunk: Vec<u8> = self.seen.drain(..size + 2).collect();
                answer.body += std::str::from_utf8(&chunk[..size]).unwrap();
                if size == 0 {
                    break;
                }
            }
        } else if let Some(length) = answer.header("content-length") {
            let length: usize = length.parse().unwrap();
            while self.seen.len() < length && self.more().await {}
            answer.complete = self.seen.len() >= length;
            let body = self.seen.drain(..length.min(self.seen.len())).collect();
            answer.body = String::from_utf8(body).unwrap();
        }
        answer
    }
}

/// A body that the test feeds, and whose drop it can observe.
pub fn fed() -> (Feed, FedBody) {
    let (frames, queue) = tokio::sync::mpsc::unbounded_channel();
    let (alive, gone) = tokio::sync::oneshot::channel();
    (
        Feed { frames, gone },
        FedBody {
            queue,
            _alive: alive,
        },
    )
}

pub struct Feed {
    pub frames: tokio::sync::mpsc::UnboundedSender<Bytes>,
    /// Resolves when the body is dropped.
    pub gone: tokio::sync::oneshot::Receiver<()>,
}

/// The size of a large frame, in bytes.
pub const LARGE: usize = 64 * 1024;

impl Feed {
    /// Sends large frames, without waiting for the client. A thousand are more than the buffers of the kernel
    /// hold.
    pub fn send_large(&self, count: usize) {
        let frame = Bytes::from(vec![b'x'; LARGE]);
        for _ in 0..count {
            self.frames.send(frame.clone()).unwrap();
        }
    }
}

pub struct FedBody {
    queue: tokio::sync::mpsc::UnboundedReceiver<Bytes>,
    _alive: tokio::sync::oneshot::Sender<()>,
}

impl http_body::Body for FedBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<http_body::Frame<Bytes>, Infallible>>> {
        self.queue
            .poll_recv(cx)
            .map(|frame| frame.map(|frame| Ok(http_body::Frame::data(frame))))
    }
}
