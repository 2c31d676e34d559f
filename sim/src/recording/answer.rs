//! An answer as it was on the wire.

use std::io;

use bytes::Bytes;
use http::StatusCode;

/// How the end of a body is marked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// `Transfer-Encoding: chunked`.
    Chunked,
    /// `Content-Length`.
    Length,
    /// The connection closes.
    Close,
    /// There is no body: an answer to HEAD, 204 or 304.
    None,
}

/// Whether the body is complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The body is complete.
    Clean,
    /// The connection closed before the end.
    Cut,
}

/// An answer as it was on the wire.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// Names and values as they were sent, in order.
    pub headers: Vec<(String, String)>,
    /// How the end of the body is marked.
    pub framing: Framing,
    /// The HTTP chunks of a chunked body. Another body is one chunk; an empty body has none.
    pub chunks: Vec<Bytes>,
    /// Whether the body is complete.
    pub end: End,
}

impl Answer {
    /// Parses all bytes that arrived until the connection closed.
    ///
    /// # Errors
    /// The bytes are not an HTTP/1.1 answer.
    pub(super) fn parse(raw: &Bytes, is_head: bool) -> io::Result<Self> {
        let end = find(raw, b"\r\n\r\n").ok_or_else(|| invalid("no complete head", raw))?;
        let head = std::str::from_utf8(&raw[..end])
            .map_err(|_| invalid("a head that is not UTF-8", raw))?;
        let mut lines = head.split("\r\n");
        let status = lines
            .next()
            .and_then(|line| line.split(' ').nth(1)?.parse().ok())
            .ok_or_else(|| invalid("no status", raw))?;
        let headers: Vec<_> = lines
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        let mut answer = Self {
            status,
            headers,
            framing: Framing::None,
            chunks: Vec::new(),
            end: End::Clean,
        };
        answer.read_body(raw.slice(end + 4..), is_head)?;
        Ok(answer)
    }

    /// The value of a field; the name may be in any case.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut fields = self.headers.iter();
        let (_, value) = fields.find(|(known, _)| known.eq_ignore_ascii_case(name))?;
        Some(value)
    }

    /// The whole body.
    pub fn body(&self) -> Vec<u8> {
        self.chunks.concat()
    }

    fn read_body(&mut self, mut rest: Bytes, is_head: bool) -> io::Result<()> {
        let bodiless = [StatusCode::NO_CONTENT, StatusCode::NOT_MODIFIED];
        if is_head || bodiless.iter().any(|status| *status == self.status) {
            return Ok(());
        }
        if self.header("transfer-encoding") == Some("chunked") {
            self.framing = Framing::Chunked;
            return self.read_chunks(rest);
        }
        self.framing = Framing::Close;
        if let Some(length) = self.header("content-length") {
            let length = length
                .parse()
                .map_err(|_| invalid("an invalid length", &rest))?;
            self.framing = Framing::Length;
            if rest.len() < length {
                self.end = End::Cut;
            }
            rest.truncate(length);
        }
        self.chunks.extend((!rest.is_empty()).then_some(rest));
        Ok(())
    }

    fn read_chunks(&mut self, mut rest: Bytes) -> io::Result<()> {
        loop {
            let Some(line) = find(&rest, b"\r\n") else {
                self.end = End::Cut;
                return Ok(());
            };
            let size = std::str::from_utf8(&rest[..line])
                .ok()
                .and_then(|size| usize::from_str_radix(size, 16).ok())
                .ok_or_else(|| invalid("an invalid chunk", &rest))?;
            let data = rest.slice(line + 2..);
            if size == 0 {
                return Ok(());
            }
            if data.len() < size + 2 {
                self.end = End::Cut;
                return Ok(());
            }
            self.chunks.push(data.slice(..size));
            rest = data.slice(size + 2..);
        }
    }
}

fn find(within: &[u8], what: &[u8]) -> Option<usize> {
    within.windows(what.len()).position(|piece| piece == what)
}

fn invalid(what: &str, raw: &[u8]) -> io::Error {
    let start = String::from_utf8_lossy(&raw[..raw.len().min(200)]);
    io::Error::new(io::ErrorKind::InvalidData, format!("{what}: {start:?}"))
}
