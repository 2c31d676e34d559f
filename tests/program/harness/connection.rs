//! A raw HTTP connection: chunks and ends as they were received.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::within_limit;

trait Io: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin {}
impl<T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin> Io for T {}

/// The head of a response.
#[derive(Debug)]
pub(crate) struct Head {
    pub(crate) status: u16,
    fields: Vec<(String, String)>,
}

impl Head {
    /// The value of a field, or an empty text.
    pub(crate) fn get(&self, name: &str) -> &str {
        let mut found = self
            .fields
            .iter()
            .filter(|(key, _)| key.eq_ignore_ascii_case(name));
        found.next().map_or("", |(_, value)| value)
    }
}

/// How a body ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// With the last chunk, or with all declared bytes.
    Clean,
    /// Without them.
    Unclean,
}

/// The next item of a chunked body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Piece {
    /// One chunk, as it was framed.
    Chunk(String),
    /// The end.
    End(End),
}

/// A connection.
pub(crate) struct Connection {
    io: Box<dyn Io>,
    unread: Vec<u8>,
    is_chunked: bool,
    length: usize,
}

impl Connection {
    pub(crate) async fn tcp(address: SocketAddr) -> Self {
        let stream = within_limit("a connection", TcpStream::connect(address))
            .await
            .unwrap();
        stream.set_nodelay(true).unwrap();
        Self::over(stream)
    }

    /// Connects with a small window, so that the gateway soon notices a client that does not read.
    pub(crate) async fn with_small_window(address: SocketAddr) -> Self {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        Self::over(
            within_limit("a connection", socket.connect(address))
                .await
                .unwrap(),
        )
    }

    /// A connection that is reset when it is dropped.
    pub(crate) async fn with_reset_on_drop(address: SocketAddr) -> Self {
        let stream = within_limit("a connection", TcpStream::connect(address))
            .await
            .unwrap();
        SockRef::from(&stream)
            .set_linger(Some(Duration::ZERO))
            .unwrap();
        Self::over(stream)
    }

    fn over(io: impl Io + 'static) -> Self {
        Self {
            io: Box::new(io),
            unread: Vec::new(),
            is_chunked: false,
            length: 0,
        }
    }

    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        within_limit("room to write", self.io.write_all(bytes.as_ref()))
            .await
            .unwrap();
    }

    pub(crate) async fn get(&mut self, path: &str) {
        self.send(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n"))
            .await;
    }

    pub(crate) async fn post(&mut self, path: &str, body: &Value) {
        let body = body.to_string();
        let length = body.len();
        self.send(format!(
            "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n{body}"
        ))
        .await;
    }

    /// Reads the head of a response.
    pub(crate) async fn head(&mut self) -> Head {
        let head = loop {
            if let Some(at) = find(&self.unread, b"\r\n\r\n") {
                let rest = self.unread.split_off(at + 4);
                break String::from_utf8(std::mem::replace(&mut self.unread, rest)).unwrap();
            }
            assert!(
                self.more().await,
                "the connection ended before an answer: {:?}",
                String::from_utf8_lossy(&self.unread)
            );
        };
        let mut lines = head.split_terminator("\r\n");
        let status = lines
            .next()
            .unwrap()
            .split(' ')
            .nth(1)
            .unwrap()
            .parse()
            .unwrap();
        let fields = lines.filter_map(|line| line.split_once(": "));
        let head = Head {
            status,
            fields: fields
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .collect(),
        };
        self.is_chunked = head.get("transfer-encoding") == "chunked";
        self.length = head.get("content-length").parse().unwrap_or(0);
        head
    }

    /// Reads one chunk, with the boundaries that the gateway sent.
    pub(crate) async fn piece(&mut self) -> Piece {
        assert!(self.is_chunked, "the body is not chunked");
        let Some(size) = self.line().await else {
            return Piece::End(End::Unclean);
        };
        let size = usize::from_str_radix(&size, 16).unwrap();
        while self.unread.len() < size + 2 {
            if !self.more().await {
                return Piece::End(End::Unclean);
            }
        }
        let rest = self.unread.split_off(size + 2);
        let mut chunk = std::mem::replace(&mut self.unread, rest);
        assert_eq!(chunk.split_off(size), b"\r\n");
        match size {
            0 => Piece::End(End::Clean),
            _ => Piece::Chunk(String::from_utf8(chunk).unwrap()),
        }
    }

    /// Reads one chunk, which must exist.
    pub(crate) async fn chunk(&mut self) -> String {
        match self.piece().await {
            Piece::Chunk(chunk) => chunk,
            Piece::End(end) => panic!("the body has ended: {end:?}"),
        }
    }

    /// Reads the rest of a body.
    pub(crate) async fn rest(&mut self) -> (String, End) {
        let mut text = String::new();
        if self.is_chunked {
            loop {
                match self.piece().await {
                    Piece::Chunk(chunk) => text.push_str(&chunk),
                    Piece::End(end) => return (text, end),
                }
            }
        }
        while self.unread.len() < self.length {
            if !self.more().await {
                return (
                    String::from_utf8_lossy(&self.unread).into_owned(),
                    End::Unclean,
                );
            }
        }
        let rest = self.unread.split_off(self.length);
        let body = std::mem::replace(&mut self.unread, rest);
        (String::from_utf8(body).unwrap(), End::Clean)
    }

    async fn line(&mut self) -> Option<String> {
        loop {
            if let Some(at) = find(&self.unread, b"\r\n") {
                let rest = self.unread.split_off(at + 2);
                let mut line = std::mem::replace(&mut self.unread, rest);
                line.truncate(at);
                return Some(String::from_utf8(line).unwrap());
            }
            if !self.more().await {
                return None;
            }
        }
    }

    async fn more(&mut self) -> bool {
        let read = within_limit("bytes, or an end", self.io.read_buf(&mut self.unread)).await;
        read.is_ok_and(|read| read > 0)
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack
        .windows(needle.len())
        .position(|window| window == needle)
}
