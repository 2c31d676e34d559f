//! How the body of a message is framed, for requests and answers.

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    /// A request has no body then, an answer ends with its connection.
    Unsaid,
    Length,
    Chunked,
    ChunkedWithTrailers,
}

/// A body, in the pieces that are a chunk each.
#[derive(Clone, Debug)]
pub(crate) struct Body {
    pub(crate) framing: Framing,
    pieces: Vec<Bytes>,
}

impl Body {
    /// The line of the head that tells of it.
    pub(crate) fn field(&self) -> String {
        match self.framing {
            Framing::Unsaid => String::new(),
            Framing::Length => format!("content-length: {}\r\n", self.content().len()),
            _ => "transfer-encoding: chunked\r\n".to_owned(),
        }
    }

    pub(crate) fn content(&self) -> Vec<u8> {
        self.pieces.concat()
    }

    pub(crate) fn framed(&self) -> Vec<u8> {
        let end = match self.framing {
            Framing::Unsaid | Framing::Length => return self.content(),
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

    /// The same with a piece before it.
    pub(crate) fn behind(&self, first: &str) -> Self {
        let pieces = [&[first.to_owned().into()], &*self.pieces].concat();
        Self { pieces, ..*self }
    }

    /// A body with nothing in it.
    pub(crate) fn none() -> Self {
        let (framing, pieces) = (Framing::Unsaid, vec![]);
        Self { framing, pieces }
    }
}

/// Bodies; some contain what looks like a message itself.
pub(crate) fn bodies(decoy: &'static str) -> impl Strategy<Value = Body> {
    let framings = [
        Framing::Unsaid,
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
