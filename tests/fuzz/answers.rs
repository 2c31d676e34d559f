//! A strict parser for HTTP/1.1 answers.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

/// An answer on the wire.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    fields: HeaderMap,
    pub(crate) body: Bytes,
    /// Whether the body's end is marked by framing, not only by the end of the connection, and has
    /// arrived.
    pub(crate) is_whole: bool,
}

impl Answer {
    pub(crate) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        self.fields.get_all(name).iter().map(HeaderValue::as_bytes)
    }

    pub(crate) fn has(&self, name: &str, value: &str) -> bool {
        self.all(name).any(|given| given == value.as_bytes())
    }
}

/// The final answers on a connection. More may follow unless `end` is set.
pub(crate) fn read(mut bytes: &[u8], end: bool) -> Result<Vec<Answer>, String> {
    let mut answers = Vec::new();
    while !bytes.is_empty() {
        let Some(length) = find(bytes, b"\r\n\r\n") else {
            return match end {
                true => Err(format!("no answer: {}", bytes.escape_ascii())),
                false => Ok(answers),
            };
        };
        let (status, fields) = read_head(&bytes[..length])
            .ok_or_else(|| format!("no head: {}", bytes[..length].escape_ascii()))?;
        bytes = &bytes[length + 4..];
        let mut answer = Answer {
            status,
            fields,
            body: Bytes::new(),
            is_whole: true,
        };
        if status == StatusCode::CONTINUE && answer.fields.is_empty() {
            continue;
        }
        let rest = answer.read_body(bytes)?;
        if rest.is_none() && !end {
            return Ok(answers);
        }
        bytes = rest.unwrap_or_default();
        answer.is_whole = rest.is_some();
        answers.push(answer);
    }
    Ok(answers)
}

impl Answer {
    /// Reads the body. Returns the bytes after it, if its end has arrived.
    fn read_body<'a>(&mut self, bytes: &'a [u8]) -> Result<Option<&'a [u8]>, String> {
        let lengths: Vec<_> = self.all("content-length").collect();
        let codings: Vec<_> = self.all("transfer-encoding").collect();
        let is_bodiless = self.status == StatusCode::NO_CONTENT
            || self.has("x-method", "HEAD")
            // The edge's own answers do not have `x-method`.
            || self.all("x-method").next().is_none() && bytes.starts_with(b"HTTP/1.");
        let (part, rest) = match (&lengths[..], &codings[..]) {
            _ if is_bodiless => (vec![], Some(bytes)),
            ([], []) => (bytes.to_vec(), None),
            ([length], []) => {
                let length = number(length, 10).ok_or("an invalid Content-Length")?;
                let end = length.min(bytes.len());
                (bytes[..end].to_vec(), bytes.get(length..))
            }
            ([], [b"chunked"]) => read_chunks(bytes)?,
            _ => return Err(format!("ambiguous framing: {:?}", self.fields)),
        };
        self.body = part.into();
        Ok(rest)
    }
}

/// Reads to the end of the last chunk. Returns the bytes after it.
fn read_chunks(mut bytes: &[u8]) -> Result<(Vec<u8>, Option<&[u8]>), String> {
    let mut body = Vec::new();
    while let Some(end) = find(bytes, b"\r\n") {
        let size = number(&bytes[..end], 16).ok_or("an invalid chunk")?;
        bytes = &bytes[end + 2..];
        body.extend(&bytes[..size.min(bytes.len())]);
        let Some((end, behind)) = bytes
            .get(size..)
            .and_then(|behind| behind.split_at_checked(2))
        else {
            break;
        };
        match (end, size) {
            (b"\r\n", 0) => return Ok((body, Some(behind))),
            (b"\r\n", _) => bytes = behind,
            _ => return Err("a chunk without an end".to_owned()),
        }
    }
    Ok((body, None))
}

fn read_head(head: &[u8]) -> Option<(StatusCode, HeaderMap)> {
    let head = head.strip_prefix(b"HTTP/1.")?;
    let head = head.strip_prefix(b"1 ").or(head.strip_prefix(b"0 "))?;
    let mut lines = head
        .split(|byte| *byte == b'\n')
        .map(<[u8]>::trim_ascii_end);
    let status = StatusCode::from_bytes(lines.next()?.get(..3)?).ok()?;
    let mut fields = HeaderMap::new();
    for line in lines {
        let (name, value) = line.split_at(line.iter().position(|byte| *byte == b':')?);
        let value = HeaderValue::from_bytes(value[1..].trim_ascii()).ok()?;
        fields.append(HeaderName::from_bytes(name).ok()?, value);
    }
    Some((status, fields))
}

fn number(digits: &[u8], radix: u32) -> Option<usize> {
    let are_digits = digits
        .iter()
        .all(|digit| char::from(*digit).is_digit(radix));
    let digits = std::str::from_utf8(digits).ok().filter(|_| are_digits)?;
    usize::from_str_radix(digits, radix).ok()
}

pub(crate) fn find(bytes: &[u8], part: &[u8]) -> Option<usize> {
    match part.is_empty() {
        true => Some(0),
        false => bytes.windows(part.len()).position(|window| window == part),
    }
}

#[test]
fn answers_on_one_connection_are_separated() {
    let wire = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nx-method: GET\r\nContent-Length: 2\r\n\r\nab\
        HTTP/1.1 200 OK\r\nx-method: HEAD\r\ncontent-length: 9\r\n\r\n\
        HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\nHTTP/1.0 400 No\r\n\r\nrest";
    let answers = read(wire, true).unwrap();
    let seen = answers.iter();
    let seen = seen.map(|answer| (answer.status.as_u16(), &*answer.body, answer.is_whole));
    let expected: [(u16, &[u8], bool); 4] = [
        (200, b"ab", true),
        (200, b"", true),
        (200, b"abc", true),
        (400, b"rest", false),
    ];
    assert_eq!(seen.collect::<Vec<_>>(), expected);
}

#[test]
fn invalid_answers_are_refused() {
    for wire in [
        "hello\r\n\r\n",
        "HTTP/1.1 200 OK",
        "HTTP/1.1 2000\r\nx y\r\n\r\n",
        "HTTP/1.1 200 OK\r\na: b\rc\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 1\r\n\r\na",
        "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\na",
        "HTTP/1.1 200 OK\r\ncontent-length: +1\r\n\r\na",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nab\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nab",
    ] {
        assert!(read(wire.as_bytes(), true).is_err(), "{wire:?}");
    }
}
