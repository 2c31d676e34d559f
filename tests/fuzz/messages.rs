//! The framing of request and answer bodies.

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    /// No framing: a request has no body, an answer ends with its connection.
    Unframed,
    Length,
    Chunked,
    ChunkedWithTrailers,
}

/// A body in pieces; each piece is one chunk.
#[derive(Clone, Debug)]
pub(crate) struct Body {
    pub(crate) framing: Framing,
    pieces: Vec<Bytes>,
}

impl Body {
    /// The header line with the framing.
    pub(crate) fn field(&self) -> String {
        match self.framing {
            Framing::Unframed => String::new(),
            Framing::Length => format!("content-length: {}\r\n", self.content().len()),
            _ => "transfer-encoding: chunked\r\n".to_owned(),
        }
    }

    pub(crate) fn content(&self) -> Vec<u8> {
        self.pieces.concat()
    }

    pub(crate) fn framed(&self) -> Vec<u8> {
        let end = match self.framing {
            Framing::Unframed | Framing::Length => return self.content(),
            Framing::Chunked => "0\r\n\r\n",
            Framing::ChunkedWithTrailers => "0\r\nx-sum: 7\r\n\r\n",
        };
        let mut framed = Vec::new();
        for piece in self.pieces.iter().filter(|piece| !piece.is_empty()) {
            framed.extend(format!("{:X}\r\n", piece.len()).into_bytes());
            framed.extend(piece);
            framed.extend(b"\r\n");
        }
        framed.extend(end.as_bytes());
        framed
    }

    /// The same body with a piece before it.
    pub(crate) fn behind(&self, first: &str) -> Self {
        let pieces = [&[first.to_owned().into()], &*self.pieces].concat();
        Self { pieces, ..*self }
    }

    /// An empty body.
    pub(crate) fn none() -> Self {
        let (framing, pieces) = (Framing::Unframed, vec![]);
        Self { framing, pieces }
    }
}

/// Bodies; some contain text that looks like a message.
pub(crate) fn bodies(decoy: &'static str) -> impl Strategy<Value = Body> {
    let framings = [
        Framing::Unframed,
        Framing::Length,
        Framing::Chunked,
        Framing::ChunkedWithTrailers,
    ];
    let piece = prop_oneof![
        4 => "[a-z\r\n0]{0,12}".prop_map(Bytes::from),
        1 => vec(any::<u8>(), 0..80).prop_map(Bytes::from),
        1 => Just(Bytes::from(decoy)),
        1 => Just(Bytes::from("# {\"done\":true}\n")),
    ];
    let parts = (select(framings.to_vec()), vec(piece, 0..4));
    parts.prop_map(|(framing, pieces)| Body { framing, pieces })
}
