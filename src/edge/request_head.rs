//! The head of a request, as it comes.

use std::mem::MaybeUninit;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, EXPECT};
use http::{Method, StatusCode, Uri, Version, request};
use httparse::Status;

use crate::http1::decode::{Data, Decoder, Malformed};
use crate::http1::fields::{MAX_FIELDS, field, has_connection_option, part, take_map};

/// Bounds what the head of a request may take, in bytes.
const MAX_HEAD_BYTES: usize = 64 * 1024;

/// A request whose head has come. It travels in a box: it is large, and handed on often.
#[derive(Debug)]
pub(super) struct Arrival {
    pub(super) head: request::Parts,
    /// What of its body has come with it.
    pub(super) data: Bytes,
    /// The framing of what is still to come of the body.
    pub(super) decoder: Decoder,
    /// What came with the head is no body.
    pub(super) malformed: Option<Malformed>,
    /// Whether the client lets the connection be used again.
    pub(super) keeps_alive: bool,
    /// Whether the client sends the body only once it is told to (RFC 9110 10.1.1).
    pub(super) awaits_continue: bool,
}

/// A head that is answered with this status, since what follows it cannot be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Refused(pub(super) StatusCode);

/// Reads heads, in however many pieces they come.
#[derive(Debug, Default)]
pub(super) struct HeadReader {
    /// What has come and belongs to no request yet.
    unread: Vec<u8>,
    /// Whether that was not looked at yet.
    is_new: bool,
    /// Bytes of empty lines that were left out before it.
    skipped: usize,
}

impl HeadReader {
    /// Whether a part of a head has come.
    pub(super) fn has_begun(&self) -> bool {
        !self.unread.is_empty()
    }

    /// How much more is kept before its time, in bytes.
    pub(super) fn room(&self) -> usize {
        MAX_HEAD_BYTES.saturating_sub(self.unread.len() + self.skipped)
    }

    /// Keeps what came before its time.
    pub(super) fn keep(&mut self, bytes: &[u8]) {
        let bytes = self.without_empty_lines(bytes);
        self.unread.extend_from_slice(bytes);
        self.is_new = true;
    }

    /// Empty lines before a request are none of it (RFC 9112 2.2): old clients send one after a
    /// body.
    fn without_empty_lines<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        if self.has_begun() {
            return bytes;
        }
        let is_of_line_end = |byte: &&u8| matches!(byte, b'\r' | b'\n');
        let skipped = bytes.iter().take_while(is_of_line_end).count();
        self.skipped += skipped;
        &bytes[skipped..]
    }

    /// The request that came together with the one before.
    ///
    /// # Errors
    /// It is none.
    pub(super) fn next(&mut self) -> Result<Option<Box<Arrival>>, Refused> {
        match std::mem::take(&mut self.is_new) && self.has_begun() {
            true => self.parse_unread(),
            false => Ok(None),
        }
    }

    /// Takes what was read; `None` if the head is not complete.
    ///
    /// # Errors
    /// It is no request.
    pub(super) fn read(&mut self, bytes: &[u8]) -> Result<Option<Box<Arrival>>, Refused> {
        let bytes = self.without_empty_lines(bytes);
        if self.has_begun() {
            // Looked at anew only when its end may have come: each byte may come by itself.
            let from = self.unread.len().saturating_sub(2);
            self.unread.extend_from_slice(bytes);
            return match has_empty_line(&self.unread[from..]) {
                true => self.parse_unread(),
                false => self.wait(),
            };
        }
        match parse(bytes)? {
            Some((arrival, rest)) => {
                self.skipped = 0;
                self.keep(rest);
                Ok(Some(arrival))
            }
            None => {
                self.unread.extend_from_slice(bytes);
                self.wait()
            }
        }
    }

    fn parse_unread(&mut self) -> Result<Option<Box<Arrival>>, Refused> {
        let unread = std::mem::take(&mut self.unread);
        match parse(&unread)? {
            Some((arrival, rest)) => {
                self.skipped = 0;
                self.keep(rest);
                Ok(Some(arrival))
            }
            None => {
                self.unread = unread;
                self.wait()
            }
        }
    }

    fn wait(&self) -> Result<Option<Box<Arrival>>, Refused> {
        match self.unread.len() > MAX_HEAD_BYTES {
            true => Err(Refused(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE)),
            false => Ok(None),
        }
    }
}

fn has_empty_line(bytes: &[u8]) -> bool {
    let mut line_feeds = memchr::memchr_iter(b'\n', bytes);
    line_feeds.any(|at| matches!(&bytes[at + 1..], [b'\n', ..] | [b'\r', b'\n', ..]))
}

/// A request, and the bytes that followed it.
type Parsed<'a> = (Box<Arrival>, &'a [u8]);

/// The request at the beginning of these bytes.
fn parse(bytes: &[u8]) -> Result<Option<Parsed<'_>>, Refused> {
    let mut rows = [const { MaybeUninit::uninit() }; MAX_FIELDS];
    let mut parsed = httparse::Request::new(&mut []);
    let parser = httparse::ParserConfig::default();
    let length = match parser.parse_request_with_uninit_headers(&mut parsed, bytes, &mut rows) {
        Ok(Status::Complete(length)) if length <= MAX_HEAD_BYTES => length,
        Ok(Status::Partial) => return Ok(None),
        Ok(_) | Err(httparse::Error::TooManyHeaders) => {
            return Err(Refused(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE));
        }
        Err(_) => return Err(Refused(StatusCode::BAD_REQUEST)),
    };
    let head = head(&parsed, &bytes[..length]).ok_or(Refused(StatusCode::BAD_REQUEST))?;
    arrival(head, &bytes[length..])
        .map(Some)
        .map_err(|Malformed(reason)| {
            tracing::debug!(reason, "a request was refused");
            Refused(StatusCode::BAD_REQUEST)
        })
}

/// The parts of a head, which share one copy of it.
fn head(parsed: &httparse::Request<'_, '_>, bytes: &[u8]) -> Option<request::Parts> {
    let shared = Bytes::copy_from_slice(bytes);
    let (mut head, ()) = http::Request::new(()).into_parts();
    head.method = Method::from_bytes(parsed.method?.as_bytes()).ok()?;
    let target = part(parsed.path?.as_bytes(), bytes, &shared);
    head.uri = Uri::from_maybe_shared(target).ok()?;
    head.version = match parsed.version? {
        0 => Version::HTTP_10,
        _ => Version::HTTP_11,
    };
    head.headers = take_map(parsed.headers.len() + 4);
    for row in parsed.headers.iter() {
        let (name, value) = field(row, bytes, &shared)?;
        // Two lengths that are equal are one (RFC 9110 8.6).
        let is_repeated = name == CONTENT_LENGTH && head.headers.get(&name) == Some(&value);
        if !is_repeated {
            head.headers.append(name, value);
        }
    }
    Some(head)
}

fn arrival(head: request::Parts, rest: &[u8]) -> Result<Parsed<'_>, Malformed> {
    let mut decoder = Decoder::of_request(head.version, &head.headers)?;
    let mut data = Data::new();
    let decoded = match decoder.is_finished() {
        true => Ok(0),
        false => decoder
            .decode(rest, &mut data)
            .map(|decoded| decoded.consumed),
    };
    let data = Bytes::from(data.concat());
    let keeps_alive = match head.version {
        Version::HTTP_10 => has_connection_option(&head.headers, b"keep-alive"),
        _ => !has_connection_option(&head.headers, b"close"),
    };
    let awaits_continue = head.version == Version::HTTP_11
        && data.is_empty()
        && !decoder.is_finished()
        && head.headers.contains_key(EXPECT);
    let arrival = Box::new(Arrival {
        data,
        malformed: decoded.err(),
        keeps_alive,
        awaits_continue,
        decoder,
        head,
    });
    Ok((arrival, &rest[decoded.unwrap_or(rest.len())..]))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TWO: &[u8] = b"POST /api/chat?x HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\ntextGET / HTTP/1.1\r\n\r\n";

    /// What was read, as target and body, until the first refusal.
    fn read_all<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> (Vec<(String, Vec<u8>)>, bool) {
        let mut reader = HeadReader::default();
        let mut seen: Vec<(String, Vec<u8>)> = Vec::new();
        let mut open: Option<Decoder> = None;
        for mut piece in pieces {
            if let (Some(decoder), Some((_, body))) = (&mut open, seen.last_mut()) {
                let mut data = Data::new();
                let Ok(decoded) = decoder.decode(piece, &mut data) else {
                    return (seen, true);
                };
                body.extend(data.concat());
                piece = &piece[decoded.consumed..];
                if !decoded.is_finished {
                    continue;
                }
                open = None;
            }
            let mut next = reader.read(piece);
            loop {
                let arrival = match next {
                    Ok(Some(arrival)) => arrival,
                    Ok(None) => break,
                    Err(_) => return (seen, true),
                };
                seen.push((arrival.head.uri.to_string(), arrival.data.to_vec()));
                if arrival.malformed.is_some() {
                    return (seen, true);
                }
                if !arrival.decoder.is_finished() {
                    open = Some(arrival.decoder);
                    break;
                }
                next = reader.next();
            }
        }
        (seen, false)
    }

    #[test]
    fn requests_are_the_same_in_however_many_pieces_they_come() {
        let expected = vec![
            ("/api/chat?x".to_owned(), b"text".to_vec()),
            ("/".to_owned(), Vec::new()),
        ];
        for size in 1..=TWO.len() {
            let (seen, is_refused) = read_all(TWO.chunks(size));
            assert_eq!(
                (&seen, is_refused),
                (&expected, false),
                "in pieces of {size}"
            );
        }
    }

    const SNIPPETS: &[&str] = &[
        "GET / HTTP/1.1\r\n",
        "POST /a HTTP/1.1\r\n",
        "Host: a\r\n",
        "Content-Length: 3\r\n",
        "Content-Length: 03\r\n",
        "Transfer-Encoding: chunked\r\n",
        "Transfer-Encoding: gzip\r\n",
        "\r\n",
        "\r\n\r\n",
        "\n",
        "abc",
        "3\r\nabc\r\n",
        "0\r\n\r\n",
        "0;x\r\n",
        " ",
        "\0",
        "\r",
    ];

    proptest! {
        /// Where the pieces end, nobody is to choose: a request must not hide in another's body.
        #[test]
        fn what_is_read_does_not_depend_on_the_pieces(
            snippets in proptest::collection::vec(proptest::sample::select(SNIPPETS), 1..24),
            size in 1usize..40,
        ) {
            let wire = snippets.concat().into_bytes();
            let (at_once, is_refused) = read_all(std::iter::once(&wire[..]));
            let (in_pieces, _) = read_all(wire.chunks(size));
            // What is wrong may be seen later in pieces, but never makes a request.
            prop_assert!(in_pieces.len() <= at_once.len());
            let last = in_pieces.len().saturating_sub(usize::from(is_refused));
            prop_assert_eq!(&in_pieces[..last], &at_once[..last]);
        }

        #[test]
        fn nothing_panics(wire in proptest::collection::vec(any::<u8>(), 0..300), size in 1usize..40) {
            let _ = read_all(wire.chunks(size));
        }
    }

    #[test]
    fn a_head_without_an_end_is_refused_when_it_is_too_long() {
        let mut reader = HeadReader::default();
        assert!(reader.read(b"GET / HTTP/1.1\r\n").unwrap().is_none());
        let refused = (0..100).find_map(|_| reader.read(&[b'x'; 1024]).err());
        let too_large = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
        assert_eq!(refused, Some(Refused(too_large)));
    }

    #[test]
    fn what_is_no_request_is_refused_at_once() {
        for garbage in ["\x16\x03\x01", "get me\r\n\r\n", "GET / HTTP/2.0\r\n\r\n"] {
            let refused = HeadReader::default().read(garbage.as_bytes()).err();
            assert_eq!(
                refused,
                Some(Refused(StatusCode::BAD_REQUEST)),
                "{garbage:?}"
            );
        }
    }

    #[test]
    fn an_empty_line_after_a_body_begins_no_request() {
        let mut reader = HeadReader::default();
        let wire = b"POST / HTTP/1.1\r\nContent-Length: 1\r\n\r\nx\r\n";
        assert!(reader.read(wire).unwrap().is_some());
        assert!(!reader.has_begun());
        assert!(reader.read(b"\r\n").unwrap().is_none());
        assert!(!reader.has_begun());
        assert!(reader.read(b"\nGET / HTTP/1.1\r\n\r\n").unwrap().is_some());
    }

    #[test]
    fn equal_lengths_are_one() {
        let twice = b"POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n";
        let arrival = HeadReader::default().read(twice).unwrap().unwrap();
        assert_eq!(
            arrival.head.headers.get_all(CONTENT_LENGTH).iter().count(),
            1
        );
    }

    #[test]
    fn a_connection_is_used_again_unless_the_client_says_otherwise() {
        let keeps = |head: &str| {
            let arrival = HeadReader::default().read(head.as_bytes());
            arrival.unwrap().unwrap().keeps_alive
        };
        assert!(keeps("GET / HTTP/1.1\r\n\r\n"));
        assert!(!keeps("GET / HTTP/1.1\r\nConnection: x, Close\r\n\r\n"));
        assert!(!keeps("GET / HTTP/1.0\r\n\r\n"));
        assert!(keeps("GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n"));
    }
}
