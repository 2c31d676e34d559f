//! Sends a request as the recorder sent it.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::answer::Answer;
use super::file::RecordedRequest;

/// The time limit for an answer.
const LIMIT: Duration = Duration::from_secs(60);

impl RecordedRequest {
    /// Sends the request over a new connection and reads the whole answer.
    ///
    /// # Errors
    /// There is no connection, no HTTP/1.1 answer, or no end of the answer within a minute.
    pub async fn send(&self, to: SocketAddr, more: &[(&str, &str)]) -> io::Result<Answer> {
        let exchange = async {
            let mut stream = TcpStream::connect(to).await?;
            // A server may answer and close before it has read the whole request.
            let sent = stream.write_all(&self.bytes(to, more)).await;
            let mut raw = Vec::new();
            let read = stream.read_to_end(&mut raw).await;
            if raw.is_empty() {
                sent.and(read)?;
            }
            Answer::parse(&Bytes::from(raw), self.method == "HEAD")
        };
        let answer = tokio::time::timeout(LIMIT, exchange).await;
        answer.map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "no end of the answer"))?
    }

    fn bytes(&self, to: SocketAddr, more: &[(&str, &str)]) -> Vec<u8> {
        let Self { method, path, .. } = self;
        let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {to}\r\nConnection: close\r\n");
        let own = self.headers.iter().map(|(name, value)| (&**name, &**value));
        for (name, value) in own.chain(more.iter().copied()) {
            head += &format!("{name}: {value}\r\n");
        }
        let body = self.body.as_deref();
        let is_chunked = self
            .headers
            .iter()
            .any(|(name, _)| name.eq_ignore_ascii_case("transfer-encoding"));
        if let (Some(body), false) = (body, is_chunked) {
            head += &format!("Content-Length: {}\r\n", body.len());
        }
        let mut bytes = (head + "\r\n").into_bytes();
        let body = body.unwrap_or_default();
        if is_chunked {
            let (first, second) = body.split_at(body.len() / 2);
            for half in [first, second].into_iter().filter(|half| !half.is_empty()) {
                bytes.extend_from_slice(format!("{:x}\r\n", half.len()).as_bytes());
                bytes.extend_from_slice(half);
                bytes.extend_from_slice(b"\r\n");
            }
            bytes.extend_from_slice(b"0\r\n\r\n");
        } else {
            bytes.extend_from_slice(body);
        }
        bytes
    }
}
