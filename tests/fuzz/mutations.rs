//! Mutations of a message's bytes, and their split into writes.

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};

/// Tokens that HTTP/1.1 parsers can mishandle.
#[rustfmt::skip]
const TOKENS: &[&str] = &[
    "\r", "\n", "\r\n", "\r\n\r\n", "\n\n", "\0", " ", "\t", "\x0b", "\x7f", ":", ",", ";", "#", "\"",
    "%00", "*", "/../", "é", "0", "00", "-1", "+5", "0x5", "5;a=b", "7fffffffffffffff",
    "ffffffffffffffff", "10000000000000000", "18446744073709551615", "18446744073709551616",
    "0\r\n\r\n", "5\r\nhello\r\n", "HTTP/1.0", "HTTP/1.1", "HTTP/2.0", "HTTP/1.1 100 Continue\r\n\r\n",
    "HTTP/1.1 101 Switching Protocols\r\nupgrade: h2c\r\nconnection: upgrade\r\n\r\n",
    "HTTP/1.1 204 No Content\r\n\r\n", "HTTP/1.1 304 Not Modified\r\n\r\n",
    "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n", "HEAD ", "OPTIONS ", "CONNECT localhost:1 ",
    "http://localhost/", "chunked", "gzip, chunked", "100-continue", "close", "keep-alive",
    "content-length", "transfer-encoding",
];

/// Header lines, valid and invalid.
#[rustfmt::skip]
const FIELDS: &[&str] = &[
    "content-length: 0\r\n", "content-length: 5\r\n", "content-length: 5, 5\r\n",
    "content-length: 5, 6\r\n", "content-length: +5\r\n", "content-length: -1\r\n",
    "content-length:\r\n", "content-length: 18446744073709551616\r\n", "content-length : 5\r\n",
    "transfer-encoding: chunked\r\n", "transfer-encoding: identity\r\n",
    "transfer-encoding: gzip, chunked\r\n", "transfer-encoding: chunked, chunked\r\n",
    "transfer-encoding: \x0bchunked\r\n", "transfer-encoding : chunked\r\n",
    "transfer-encoding:\r\n chunked\r\n", "connection: close\r\n", "connection: keep-alive\r\n",
    "connection: upgrade\r\nupgrade: h2c\r\n", "expect: 100-continue\r\n", "expect: nothing\r\n",
    "host: localhost\r\n", "host: a@b\r\n", "host:\r\n", "origin: http://other.example\r\n",
    "origin: http://localhost\r\n", "trailer: x-sum\r\n", " folded\r\n", "no colon\r\n", ": no name\r\n",
    "x-id: another\r\n", "x: \0\r\n", "x: a\rb\r\n", "x: a\nb\r\n",
];

#[derive(Clone, Debug)]
pub(crate) enum Mutation {
    Flip(Index, u8),
    /// Removes up to this many bytes and inserts others.
    Replace(Index, usize, Bytes),
    /// Inserts a line after another one.
    Line(Index, &'static str),
    /// Repeats up to this many bytes.
    Repeat(Index, usize),
    /// Swaps two slices of up to this length.
    Swap(Index, Index, usize),
    /// Appends this at the end.
    Append(&'static str),
}

impl Mutation {
    fn apply(&self, bytes: &mut Vec<u8>) {
        let length = bytes.len();
        match self {
            Self::Flip(at, mask) => {
                if length > 0 {
                    bytes[at.index(length)] ^= mask;
                }
            }
            Self::Replace(at, most, new) => {
                let start = at.index(length + 1);
                bytes.splice(start..length.min(start + most), new.iter().copied());
            }
            Self::Line(at, line) => {
                let ends = (2..=length).filter(|end| bytes[..*end].ends_with(b"\r\n"));
                let places: Vec<_> = ends.chain([length]).collect();
                let place = places[at.index(places.len())];
                bytes.splice(place..place, line.bytes());
            }
            Self::Repeat(at, most) => {
                let start = at.index(length + 1);
                let end = length.min(start + most);
                let copy = bytes[start..end].to_vec();
                bytes.splice(end..end, copy);
            }
            Self::Swap(one, other, most) => {
                let (one, other) = (one.index(length + 1), other.index(length + 1));
                let (first, second) = (one.min(other), one.max(other));
                let most = (*most).min(second - first).min(length - second);
                let (head, tail) = bytes.split_at_mut(second);
                head[first..first + most].swap_with_slice(&mut tail[..most]);
            }
            Self::Append(new) => bytes.extend(new.bytes()),
        }
    }
}

pub(crate) fn mutate(mut bytes: Vec<u8>, mutations: &[Mutation]) -> Vec<u8> {
    for mutation in mutations {
        mutation.apply(&mut bytes);
    }
    bytes
}

/// One mutation, or several.
pub(crate) fn mutations() -> impl Strategy<Value = Vec<Mutation>> {
    let at = any::<Index>;
    let token = select(TOKENS).prop_map(Bytes::from);
    let random = vec(any::<u8>(), 0..4).prop_map(Bytes::from);
    // Heads exceed their size limit.
    let many = (1000..6000_usize).prop_map(|count| vec![b'x'; count].into());
    let one = prop_oneof![
        2 => (at(), 0..8_u8).prop_map(|(at, bit)| Mutation::Flip(at, 1 << bit)),
        4 => (at(), 0..6_usize, token).prop_map(|(at, most, new)| Mutation::Replace(at, most, new)),
        3 => (at(), 0..12_usize, random).prop_map(|(at, most, new)| Mutation::Replace(at, most, new)),
        1 => (at(), 0..2_usize, many).prop_map(|(at, most, new)| Mutation::Replace(at, most, new)),
        1 => (at(), 1..400_usize).prop_map(|(at, most)| Mutation::Replace(at, most, Bytes::new())),
        4 => (at(), select(FIELDS)).prop_map(|(at, line)| Mutation::Line(at, line)),
        2 => (at(), 1..400_usize).prop_map(|(at, most)| Mutation::Repeat(at, most)),
        1 => (at(), at(), 1..60_usize).prop_map(|(one, other, most)| Mutation::Swap(one, other, most)),
    ];
    vec(one, 1..4)
}

/// The positions of the write boundaries. Most often there are few, as on a network.
pub(crate) fn cuts() -> impl Strategy<Value = Vec<Index>> {
    prop_oneof![vec(any::<Index>(), 0..3), vec(any::<Index>(), 0..16)]
}

pub(crate) fn pieces<'a>(bytes: &'a [u8], cuts: &[Index]) -> Vec<&'a [u8]> {
    let mut ends: Vec<_> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
    ends.extend([0, bytes.len()]);
    ends.sort_unstable();
    let pieces = ends.windows(2).map(|ends| &bytes[ends[0]..ends[1]]);
    pieces.filter(|piece| !piece.is_empty()).collect()
}
