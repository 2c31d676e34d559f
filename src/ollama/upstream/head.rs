//! The heads of requests and answers on the wire (RFC 9112 2 to 5).

use std::mem::MaybeUninit;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, Version, request, response};

use crate::http1::decode::Malformed;
use crate::http1::fields::{
    MAX_FIELDS, ReasonPhrase, field, has_connection_option, take_map, write_fields,
};

/// Bounds what one answer's head may take; Ollama's heads are a few hundred bytes.
const MAX_HEAD_BYTES: usize = 32 * 1024;

/// Writes the head of a request.
pub(super) fn write_head(head: &request::Parts, wire: &mut Vec<u8>) {
    let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
    wire.extend_from_slice(head.method.as_str().as_bytes());
    wire.push(b' ');
    wire.extend_from_slice(path.as_bytes());
    wire.extend_from_slice(b" HTTP/1.1\r\n");
    write_fields(&head.headers, wire);
    wire.extend_from_slice(b"\r\n");
}

/// Reads the head of an answer, in however many pieces it comes.
#[derive(Debug, Default)]
pub(super) struct HeadReader {
    /// What has come of a head that is not complete.
    partial: Vec<u8>,
}

/// A head, and how many of the last bytes belong to it.
pub(super) struct Head {
    pub(super) parts: response::Parts,
    pub(super) consumed: usize,
}

impl HeadReader {
    /// Takes what has come; `None` if there is more to come.
    ///
    /// # Errors
    /// It is no head of HTTP/1, or too long.
    pub(super) fn read(&mut self, bytes: &[u8]) -> Result<Option<Head>, Malformed> {
        if self.partial.is_empty() {
            let head = parse(bytes)?;
            if head.is_none() {
                self.keep(bytes)?;
            }
            return Ok(head);
        }
        let known = self.partial.len();
        self.keep(bytes)?;
        let head = parse(&self.partial)?;
        Ok(head.map(|head| {
            self.partial = Vec::new();
            let consumed = head.consumed - known;
            Head { consumed, ..head }
        }))
    }

    fn keep(&mut self, bytes: &[u8]) -> Result<(), Malformed> {
        self.partial.extend_from_slice(bytes);
        match self.partial.len() > MAX_HEAD_BYTES {
            true => Err(Malformed("its head is too long")),
            false => Ok(()),
        }
    }

    /// Whether nothing has come of it.
    pub(super) fn is_empty(&self) -> bool {
        self.partial.is_empty()
    }
}

fn parse(bytes: &[u8]) -> Result<Option<Head>, Malformed> {
    let mut rows = [const { MaybeUninit::uninit() }; MAX_FIELDS];
    let mut parsed = httparse::Response::new(&mut []);
    let parser = httparse::ParserConfig::default();
    let consumed = match parser.parse_response_with_uninit_headers(&mut parsed, bytes, &mut rows) {
        Ok(httparse::Status::Complete(consumed)) => consumed,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => return Err(Malformed("it has too many fields")),
        Err(_) => return Err(Malformed("not an HTTP answer")),
    };
    if consumed > MAX_HEAD_BYTES {
        return Err(Malformed("its head is too long"));
    }
    let not_http = Malformed("not an HTTP answer");
    let status = parsed.code.and_then(|code| StatusCode::from_u16(code).ok());
    let (mut parts, ()) = http::Response::new(()).into_parts();
    parts.status = status.ok_or(not_http)?;
    parts.version = match parsed.version {
        Some(0) => Version::HTTP_10,
        _ => Version::HTTP_11,
    };
    // The values share one copy of the head.
    let shared = Bytes::copy_from_slice(&bytes[..consumed]);
    parts.headers = fields(bytes, &shared, parsed.headers).ok_or(not_http)?;
    keep_reason(&mut parts, parsed.reason.unwrap_or_default());
    Ok(Some(Head { parts, consumed }))
}

fn fields(bytes: &[u8], shared: &Bytes, rows: &[httparse::Header<'_>]) -> Option<HeaderMap> {
    let mut headers = take_map(rows.len() + 2);
    for row in rows {
        let (name, value) = field(row, bytes, shared)?;
        headers.append(name, value);
    }
    Some(headers)
}

fn keep_reason(parts: &mut response::Parts, reason: &str) {
    if Some(reason) != parts.status.canonical_reason()
        && let Ok(reason) = HeaderValue::try_from(reason)
    {
        parts.extensions.insert(ReasonPhrase(reason));
    }
}

/// Whether a server lets the connection be used again.
pub(super) fn keeps_alive(head: &response::Parts) -> bool {
    head.version == Version::HTTP_11 && !has_connection_option(&head.headers, b"close")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const HEAD: &[u8] =
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nX-A: 1\r\nX-A: 2\r\n\r\nrest";

    #[test]
    fn a_head_is_the_same_in_however_many_pieces_it_comes() {
        let whole = HeadReader::default().read(HEAD).unwrap().unwrap();
        assert_eq!(&HEAD[whole.consumed..], b"rest");
        assert_eq!(whole.parts.headers.get_all("x-a").iter().count(), 2);
        for size in 1..HEAD.len() {
            let mut reader = HeadReader::default();
            let mut consumed = 0;
            let head = HEAD.chunks(size).find_map(|piece| {
                let head = reader.read(piece).unwrap();
                consumed += head.as_ref().map_or(piece.len(), |head| head.consumed);
                head
            });
            assert_eq!(head.unwrap().parts.headers, whole.parts.headers);
            assert_eq!(consumed, whole.consumed, "in pieces of {size}");
        }
    }

    #[test]
    fn a_connection_is_used_again_unless_the_server_says_otherwise() {
        let keeps = |head: &str| {
            let head = HeadReader::default().read(head.as_bytes());
            keeps_alive(&head.unwrap().unwrap().parts)
        };
        assert!(keeps("HTTP/1.1 200 OK\r\n\r\n"));
        assert!(keeps("HTTP/1.1 200 OK\r\nconnection: keep-alive\r\n\r\n"));
        assert!(!keeps("HTTP/1.1 200 OK\r\nconnection: x, Close\r\n\r\n"));
        assert!(!keeps("HTTP/1.0 200 OK\r\nconnection: keep-alive\r\n\r\n"));
    }

    #[test]
    fn a_request_has_its_line_its_fields_and_an_empty_line() {
        let request = http::Request::post("/api/chat?x=1")
            .header("a", "b")
            .body(());
        let (head, ()) = request.unwrap().into_parts();
        let mut wire = Vec::new();
        write_head(&head, &mut wire);
        assert_eq!(wire, b"POST /api/chat?x=1 HTTP/1.1\r\na: b\r\n\r\n");
    }
}
