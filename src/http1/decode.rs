//! Where a body ends, and what of the bytes on the wire belongs to it (RFC 9112 6 and 7).

use http::header::TRANSFER_ENCODING;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version};
use smallvec::SmallVec;

use super::fields::content_length;

/// Bounds what may follow the last chunk.
const MAX_TRAILER_BYTES: usize = 16 * 1024;

/// A chunk's size has no more digits than fit into 64 bits.
const MAX_SIZE_DIGITS: u8 = 16;

/// Takes the framing off a body as its bytes come.
#[derive(Debug)]
pub(crate) enum Decoder {
    /// So many bytes are still to come.
    Length(u64),
    Chunked(Chunked),
    /// Whatever comes before the connection closes.
    UntilClose,
}

/// The data of a body among the bytes that came, without its framing.
pub(crate) type Data<'a> = SmallVec<[&'a [u8]; 8]>;

/// What became of some bytes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Decoded {
    /// How many of them belong to the body and its framing.
    pub(crate) consumed: usize,
    pub(crate) is_finished: bool,
}

/// Bytes that are no body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Malformed(pub(crate) &'static str);

impl From<Malformed> for std::io::Error {
    fn from(Malformed(reason): Malformed) -> Self {
        Self::new(std::io::ErrorKind::InvalidData, reason)
    }
}

impl Decoder {
    /// The framing of an answer.
    ///
    /// # Errors
    /// Two readers could take it differently.
    pub(crate) fn of_answer(
        asked: &Method,
        status: StatusCode,
        headers: &HeaderMap,
    ) -> Result<Self, Malformed> {
        let length = content_length(headers)?;
        let codings = headers.get_all(TRANSFER_ENCODING);
        if let Some(last) = codings.iter().next_back() {
            if length.is_some() {
                return Err(Malformed(
                    "it has both Transfer-Encoding and Content-Length",
                ));
            }
            if has_no_body(asked, status) {
                return Ok(Self::Length(0));
            }
            return match is_chunked(last) {
                true => Ok(Self::Chunked(Chunked::default())),
                false => Ok(Self::UntilClose),
            };
        }
        Ok(match length {
            _ if has_no_body(asked, status) => Self::Length(0),
            Some(length) => Self::Length(length),
            None => Self::UntilClose,
        })
    }

    /// The framing of a request: one that does not say how long its body is has none.
    ///
    /// # Errors
    /// Two readers could take it differently.
    pub(crate) fn of_request(version: Version, headers: &HeaderMap) -> Result<Self, Malformed> {
        let length = content_length(headers)?;
        let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
        let coding = codings.next();
        if codings.next().is_some() {
            return Err(Malformed("it has two Transfer-Encodings"));
        }
        match coding {
            None => Ok(Self::Length(length.unwrap_or_default())),
            Some(_) if length.is_some() => Err(Malformed(
                "it has both Transfer-Encoding and Content-Length",
            )),
            Some(_) if version < Version::HTTP_11 => {
                Err(Malformed("HTTP/1.0 has no Transfer-Encoding"))
            }
            Some(last) if is_chunked(last) => Ok(Self::Chunked(Chunked::default())),
            Some(_) => Err(Malformed("its last transfer coding is not chunked")),
        }
    }

    /// Whether nothing is to come any more.
    pub(crate) fn is_finished(&self) -> bool {
        match self {
            Self::Length(left) => *left == 0,
            Self::Chunked(chunked) => chunked.state == State::End,
            Self::UntilClose => false,
        }
    }

    /// Takes what has come and puts what belongs to the body into `data`.
    ///
    /// # Errors
    /// The bytes are no body of this kind.
    pub(crate) fn decode<'a>(
        &mut self,
        bytes: &'a [u8],
        data: &mut Data<'a>,
    ) -> Result<Decoded, Malformed> {
        let consumed = match self {
            Self::Length(left) => {
                let taken = bytes
                    .len()
                    .min(usize::try_from(*left).unwrap_or(usize::MAX));
                data.push(&bytes[..taken]);
                *left -= taken as u64;
                taken
            }
            Self::Chunked(chunked) => chunked.decode(bytes, data)?,
            Self::UntilClose => {
                data.push(bytes);
                bytes.len()
            }
        };
        Ok(Decoded {
            consumed,
            is_finished: self.is_finished(),
        })
    }

    /// Whether something followed the last chunk.
    pub(crate) fn has_trailers(&self) -> bool {
        matches!(self, Self::Chunked(chunked) if !chunked.trailers.is_empty())
    }

    /// What followed the last chunk.
    pub(crate) fn take_trailers(&mut self) -> Option<HeaderMap> {
        match self {
            Self::Chunked(chunked) if !chunked.trailers.is_empty() => {
                parse_trailers(&std::mem::take(&mut chunked.trailers))
            }
            _ => None,
        }
    }
}

fn has_no_body(asked: &Method, status: StatusCode) -> bool {
    *asked == Method::HEAD || status == StatusCode::NO_CONTENT || status == StatusCode::NOT_MODIFIED
}

fn is_chunked(codings: &HeaderValue) -> bool {
    let last = codings.as_bytes().rsplit(|byte| *byte == b',').next();
    last.is_some_and(|coding| coding.trim_ascii().eq_ignore_ascii_case(b"chunked"))
}

/// Bounds what stands behind the sizes of all chunks of a body. Nobody uses it, and it is counted
/// by no limit of bodies.
const MAX_EXTENSION_BYTES: u32 = 16 * 1024;

/// Some old servers pad the sizes of chunks.
const MAX_BLANKS: u8 = 16;

/// The state of a body in chunks.
#[derive(Debug, Default)]
pub(crate) struct Chunked {
    state: State,
    extension_bytes: u32,
    trailers: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Size { size: u64, digits: u8 },
    SizeSpace { size: u64, blanks: u8 },
    Extension { size: u64 },
    SizeLineFeed { size: u64 },
    Data { left: u64 },
    DataReturn,
    DataLineFeed,
    Trailers,
    End,
}

const FIRST: State = State::Size { size: 0, digits: 0 };

impl Default for State {
    fn default() -> Self {
        FIRST
    }
}

impl Chunked {
    fn decode<'a>(&mut self, bytes: &'a [u8], data: &mut Data<'a>) -> Result<usize, Malformed> {
        let mut at = 0;
        while at < bytes.len() && self.state != State::End {
            let rest = &bytes[at..];
            at += match (self.state, plain_framing(self.state, rest)) {
                (_, Some((state, length))) => {
                    self.state = state;
                    length
                }
                (State::Data { left }, None) => {
                    let taken = rest.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                    data.push(&rest[..taken]);
                    let left = left - taken as u64;
                    self.state = match left {
                        0 => State::DataReturn,
                        left => State::Data { left },
                    };
                    taken
                }
                (_, None) => {
                    self.state = self.after(rest[0])?;
                    1
                }
            };
        }
        Ok(at)
    }

    /// The state after one byte of framing.
    fn after(&mut self, byte: u8) -> Result<State, Malformed> {
        Ok(match (self.state, byte) {
            (State::Size { size, digits }, byte) => after_size_byte(size, digits, byte)?,
            (State::Extension { size }, b'\r') => State::SizeLineFeed { size },
            (State::SizeSpace { size, .. }, b';') => State::Extension { size },
            (State::SizeSpace { size, .. }, b'\r') => State::SizeLineFeed { size },
            (
                State::SizeSpace {
                    size,
                    blanks: blanks @ ..MAX_BLANKS,
                },
                b' ' | b'\t',
            ) => State::SizeSpace {
                size,
                blanks: blanks + 1,
            },
            (State::Extension { .. }, 0..=8 | 10..=31 | 127) => {
                return Err(Malformed("a control character in a chunk's extension"));
            }
            (extension @ State::Extension { .. }, _) => self.after_extension_byte(extension)?,
            (State::SizeLineFeed { size: 0 }, b'\n') => State::Trailers,
            (State::SizeLineFeed { size }, b'\n') => State::Data { left: size },
            (State::DataReturn, b'\r') => State::DataLineFeed,
            (State::DataLineFeed, b'\n') => FIRST,
            (State::Trailers, byte) => self.after_trailer_byte(byte)?,
            _ => return Err(Malformed("a chunk does not end where its size says")),
        })
    }

    fn after_extension_byte(&mut self, state: State) -> Result<State, Malformed> {
        self.extension_bytes += 1;
        match self.extension_bytes > MAX_EXTENSION_BYTES {
            true => Err(Malformed("the extensions of its chunks are too long")),
            false => Ok(state),
        }
    }

    /// Trailers end with an empty line, which is all there is of them as a rule.
    fn after_trailer_byte(&mut self, byte: u8) -> Result<State, Malformed> {
        if self.trailers.len() >= MAX_TRAILER_BYTES {
            return Err(Malformed("its trailers are too long"));
        }
        if (byte == b'\n') != (self.trailers.last() == Some(&b'\r')) {
            return Err(Malformed(
                "a line of its trailers ends in a single character",
            ));
        }
        self.trailers.push(byte);
        if self.trailers == b"\r\n" {
            self.trailers = Vec::new();
            return Ok(State::End);
        }
        Ok(match self.trailers.ends_with(b"\r\n\r\n") {
            true => State::End,
            false => State::Trailers,
        })
    }
}

/// The framing of nearly all chunks, if it has come whole: a size of few digits and the end of its
/// line, or the end of the line of data. All else is read byte by byte.
fn plain_framing(state: State, bytes: &[u8]) -> Option<(State, usize)> {
    match state {
        FIRST => {
            let mut size = 0;
            for (digits, byte) in bytes.iter().enumerate().take(9) {
                if let Some(digit) = char::from(*byte).to_digit(16) {
                    size = size << 4 | u64::from(digit);
                } else {
                    let is_plain = digits > 0 && size > 0 && bytes[digits..].starts_with(b"\r\n");
                    return is_plain.then_some((State::Data { left: size }, digits + 2));
                }
            }
            None
        }
        State::DataReturn => bytes.starts_with(b"\r\n").then_some((FIRST, 2)),
        _ => None,
    }
}

fn after_size_byte(size: u64, digits: u8, byte: u8) -> Result<State, Malformed> {
    let has_digits = digits > 0;
    match byte {
        b'\r' if has_digits => Ok(State::SizeLineFeed { size }),
        b';' if has_digits => Ok(State::Extension { size }),
        b' ' | b'\t' if has_digits => Ok(State::SizeSpace { size, blanks: 1 }),
        _ => {
            let digit = char::from(byte).to_digit(16);
            let digit = digit.ok_or(Malformed("a chunk's size is no number"))?;
            if digits >= MAX_SIZE_DIGITS {
                return Err(Malformed("a chunk's size is too large"));
            }
            Ok(State::Size {
                size: size << 4 | u64::from(digit),
                digits: digits + 1,
            })
        }
    }
}

/// What cannot be read is left out: no client waits for trailers.
fn parse_trailers(bytes: &[u8]) -> Option<HeaderMap> {
    let mut rows = [httparse::EMPTY_HEADER; 16];
    let parsed = httparse::parse_headers(bytes, &mut rows).ok()?;
    let httparse::Status::Complete((_, rows)) = parsed else {
        return None;
    };
    let fields = rows.iter().filter_map(|row| {
        let name = HeaderName::from_bytes(row.name.as_bytes()).ok()?;
        Some((name, HeaderValue::from_bytes(row.value).ok()?))
    });
    let trailers: HeaderMap = fields.collect();
    (!trailers.is_empty()).then_some(trailers)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    fn chunked() -> Decoder {
        Decoder::Chunked(Chunked::default())
    }

    /// The data, how much was consumed, and whether that was all.
    fn decode(mut decoder: Decoder, pieces: &[&[u8]]) -> Result<(Vec<u8>, usize, bool), Malformed> {
        let (mut data, mut consumed) = (Data::default(), 0);
        for piece in pieces {
            consumed += decoder.decode(piece, &mut data)?.consumed;
        }
        Ok((data.concat(), consumed, decoder.is_finished()))
    }

    #[test]
    fn chunks_lose_their_framing_and_what_follows_is_left_alone() {
        let wire = b"5\r\nhello\r\n6;a=b\r\n world\r\n0\r\n\r\nHTTP/1.1";
        let (data, consumed, is_finished) = decode(chunked(), &[wire]).unwrap();
        assert_eq!((&*data, is_finished), (&b"hello world"[..], true));
        assert_eq!(&wire[consumed..], b"HTTP/1.1");
    }

    #[test]
    fn trailers_are_read() {
        let mut decoder = chunked();
        let mut data = Data::default();
        let wire = b"0\r\nx-a: 1\r\nx-b: 2\r\n\r\n";
        assert!(decoder.decode(wire, &mut data).unwrap().is_finished);
        let trailers = decoder.take_trailers().unwrap();
        assert_eq!(
            (&trailers["x-a"], trailers.len()),
            (&HeaderValue::from_static("1"), 2)
        );
    }

    #[test]
    fn what_is_no_body_in_chunks_is_refused() {
        for wire in [
            "\r\n",
            "x\r\n",
            "-1\r\n",
            "1\nx",
            "1;a\nx\r\n",
            "1\r\nxy\r\n",
            "1\r\nx\n0\r\n\r\n",
            "11111111111111111\r\n",
            "1 1\r\nx\r\n",
            "1;\0\r\nx\r\n",
            "1                 \r\nx\r\n",
            "0\r\nx: y\n\r\n",
            "0\r\nx: y\r\r\n",
        ] {
            assert!(decode(chunked(), &[wire.as_bytes()]).is_err(), "{wire:?}");
        }
        let endless = format!("0\r\n{}", "x: y\r\n".repeat(4096));
        assert!(decode(chunked(), &[endless.as_bytes()]).is_err());
        let chatty = format!("1;{}\r\nx\r\n", "y".repeat(1000)).repeat(17);
        assert!(decode(chunked(), &[chatty.as_bytes()]).is_err());
    }

    #[test]
    fn framing_that_two_readers_could_take_differently_is_refused() {
        let of = |fields: &[(&'static str, &'static str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in fields {
                headers.append(*name, HeaderValue::from_static(value));
            }
            Decoder::of_answer(&Method::POST, StatusCode::OK, &headers)
        };
        for odd in [
            &[("content-length", "5"), ("transfer-encoding", "chunked")][..],
            &[("content-length", "5"), ("content-length", "6")],
            &[("content-length", "+5")],
            &[("content-length", "5, 5")],
            &[("content-length", "99999999999999999999")],
        ] {
            assert!(of(odd).is_err(), "{odd:?}");
        }
        let same = of(&[("content-length", "5"), ("content-length", "5")]).unwrap();
        assert!(matches!(same, Decoder::Length(5)));
        assert!(matches!(
            of(&[("transfer-encoding", "gzip, Chunked")]).unwrap(),
            Decoder::Chunked(_)
        ));
        assert!(matches!(of(&[]).unwrap(), Decoder::UntilClose));
    }

    proptest! {
        #[test]
        fn whatever_the_splits_the_data_is_the_same(
            chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..300), 0..8),
            cuts in proptest::collection::vec(0usize..3000, 0..12),
        ) {
            let mut wire = Vec::new();
            for chunk in &chunks {
                wire.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                wire.extend_from_slice(chunk);
                wire.extend_from_slice(b"\r\n");
            }
            wire.extend_from_slice(b"0\r\n\r\n");
            let mut cuts: Vec<_> = cuts.into_iter().map(|cut| cut.min(wire.len())).collect();
            cuts.sort_unstable();
            let mut pieces = Vec::new();
            let mut begin = 0;
            for cut in cuts {
                pieces.push(&wire[begin..cut]);
                begin = cut;
            }
            pieces.push(&wire[begin..]);
            let (data, consumed, is_finished) = decode(chunked(), &pieces).unwrap();
            prop_assert_eq!(data, chunks.concat());
            prop_assert_eq!((consumed, is_finished), (wire.len(), true));
        }

        #[test]
        fn nothing_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(chunked(), &[&bytes]);
        }
    }
}
