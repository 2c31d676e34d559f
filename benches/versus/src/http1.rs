//! The part of HTTP/1.1 that the load generator and the backends need, at low cost.

use crate::Error;

/// How the end of a message body is marked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    Length(u64),
    Chunked,
    /// The end of the connection.
    Close,
}

/// The head of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    /// The length of the head in bytes, with the empty line.
    pub(crate) len: usize,
    pub(crate) framing: Framing,
    /// The status of a response.
    pub(crate) status: u16,
    /// Whether a request is a `POST`, and its path.
    pub(crate) post: bool,
    pub(crate) path: String,
    pub(crate) close: bool,
}

/// The response head at the start of `bytes`, if it is complete.
pub(crate) fn response_head(bytes: &[u8]) -> Result<Option<Head>, Error> {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut response = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(len) = response.parse(bytes)? else {
        return Ok(None);
    };
    let (framing, close) = framing(response.headers, Framing::Close)?;
    Ok(Some(Head {
        len,
        framing,
        status: response.code.unwrap_or_default(),
        post: false,
        path: String::new(),
        close: close || framing == Framing::Close,
    }))
}

/// The request head at the start of `bytes`, if it is complete.
pub(crate) fn request_head(bytes: &[u8]) -> Result<Option<Head>, Error> {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut request = httparse::Request::new(&mut headers);
    let httparse::Status::Complete(len) = request.parse(bytes)? else {
        return Ok(None);
    };
    let (framing, close) = framing(request.headers, Framing::Length(0))?;
    Ok(Some(Head {
        len,
        framing,
        status: 0,
        post: request.method == Some("POST"),
        path: request.path.unwrap_or_default().to_owned(),
        close: close || request.version == Some(0),
    }))
}

fn framing(headers: &[httparse::Header<'_>], otherwise: Framing) -> Result<(Framing, bool), Error> {
    let (mut framing, mut close) = (otherwise, false);
    for header in headers {
        if header.name.eq_ignore_ascii_case("content-length") {
            framing = Framing::Length(std::str::from_utf8(header.value)?.trim().parse()?);
        } else if header.name.eq_ignore_ascii_case("transfer-encoding") {
            framing = Framing::Chunked;
        } else if header.name.eq_ignore_ascii_case("connection") {
            close = header.value.eq_ignore_ascii_case(b"close");
        }
    }
    Ok((framing, close))
}

/// Decodes a body as its bytes arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decoder {
    Length(u64),
    UntilClose,
    /// In the line with a chunk's size: the size so far, and whether the size has ended.
    Size(u64, bool),
    Data(u64),
    /// After a chunk, before the end of its line.
    AfterData,
    /// In the trailer: the number of bytes of the current line.
    Trailer(usize),
    Done,
}

impl Decoder {
    pub(crate) fn new(framing: Framing) -> Self {
        match framing {
            Framing::Length(0) => Self::Done,
            Framing::Length(length) => Self::Length(length),
            Framing::Chunked => Self::Size(0, false),
            Framing::Close => Self::UntilClose,
        }
    }

    pub(crate) fn is_done(self) -> bool {
        self == Self::Done
    }

    /// Passes the data in `bytes` to `sink`. Returns the number of input bytes that belong to this
    /// body.
    pub(crate) fn feed(
        &mut self,
        bytes: &[u8],
        mut sink: impl FnMut(&[u8]),
    ) -> Result<usize, Error> {
        let mut at = 0;
        while at < bytes.len() {
            let rest = &bytes[at..];
            match *self {
                Self::Done => break,
                Self::UntilClose => {
                    sink(rest);
                    at = bytes.len();
                }
                Self::Length(left) => {
                    let n = rest.len().min(usize::try_from(left)?);
                    sink(&rest[..n]);
                    at += n;
                    *self = if n as u64 == left {
                        Self::Done
                    } else {
                        Self::Length(left - n as u64)
                    };
                }
                Self::Size(size, named) => {
                    at += 1;
                    *self = match rest[0] {
                        b'\n' if size == 0 => Self::Trailer(0),
                        b'\n' => Self::Data(size),
                        b'\r' | b';' => Self::Size(size, true),
                        _ if named => Self::Size(size, true),
                        digit => {
                            let digit = char::from(digit)
                                .to_digit(16)
                                .ok_or("an invalid chunk size")?;
                            Self::Size(size * 16 + u64::from(digit), false)
                        }
                    };
                }
                Self::Data(left) => {
                    let n = rest.len().min(usize::try_from(left)?);
                    sink(&rest[..n]);
                    at += n;
                    *self = if n as u64 == left {
                        Self::AfterData
                    } else {
                        Self::Data(left - n as u64)
                    };
                }
                Self::AfterData => {
                    at += 1;
                    if rest[0] == b'\n' {
                        *self = Self::Size(0, false);
                    }
                }
                Self::Trailer(line) => {
                    at += 1;
                    *self = match rest[0] {
                        b'\n' if line == 0 => Self::Done,
                        b'\n' => Self::Trailer(0),
                        b'\r' => Self::Trailer(line),
                        _ => Self::Trailer(line + 1),
                    };
                }
            }
        }
        Ok(at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(framing: Framing, input: &[u8], step: usize) -> (Vec<u8>, Decoder) {
        let (mut data, mut decoder) = (Vec::new(), Decoder::new(framing));
        for part in input.chunks(step) {
            let used = decoder
                .feed(part, |bytes| data.extend_from_slice(bytes))
                .expect("well formed");
            if used < part.len() {
                break;
            }
        }
        (data, decoder)
    }

    #[test]
    fn a_chunked_body_is_decoded_with_any_split() {
        let body = b"5\r\nhello\r\nA;x=1\r\n 0123456\n8\r\n0\r\n\r\nnext";
        for step in 1..body.len() {
            let (data, decoder) = decode(Framing::Chunked, body, step);
            assert_eq!(data, b"hello 0123456\n8");
            assert!(decoder.is_done());
        }
    }

    #[test]
    fn a_body_of_known_length_ends_there() {
        let (data, decoder) = decode(Framing::Length(5), b"hello more", 3);
        assert_eq!(data, b"hello");
        assert!(decoder.is_done());
    }

    #[test]
    fn heads_give_the_framing_of_the_body() {
        let head = response_head(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5");
        let head = head.expect("well formed").expect("whole");
        assert_eq!(
            (head.status, head.framing, head.close),
            (200, Framing::Chunked, false)
        );
        let head = request_head(b"GET /x HTTP/1.1\r\nConnection: close\r\n\r\n");
        let head = head.expect("well formed").expect("whole");
        assert_eq!(
            (head.framing, head.close, head.post),
            (Framing::Length(0), true, false)
        );
        assert_eq!(
            response_head(b"HTTP/1.1 200 OK\r\n").expect("well formed"),
            None
        );
    }
}
