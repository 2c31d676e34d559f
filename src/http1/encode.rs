//! How a reader is told where a body ends (RFC 9112 6), and the body told so.

use bytes::Bytes;

use super::outbox::Outbox;

/// Puts the framing on a body as its pieces come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Encoder {
    /// So many bytes are still owed.
    Length(u64),
    Chunked,
    /// In chunks, each of them a line.
    Lines,
    /// With the connection, as in HTTP/1.0.
    UntilClose,
}

/// A body whose length is not what its head says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the body is not as long as its head says")]
pub(crate) struct WrongLength;

impl Encoder {
    /// Puts a piece of the body into the outbox. An empty one is nothing: as a chunk it would be the
    /// last.
    ///
    /// # Errors
    /// It is more than the head has said.
    pub(crate) fn put(&mut self, data: Bytes, outbox: &mut Outbox) -> Result<(), WrongLength> {
        if data.is_empty() {
            return Ok(());
        }
        match self {
            Self::Length(owed) => {
                *owed = owed.checked_sub(data.len() as u64).ok_or(WrongLength)?;
                outbox.put(data);
            }
            Self::Chunked => outbox.put_chunk(data),
            Self::Lines => outbox.put_lines(&data),
            Self::UntilClose => outbox.put(data),
        }
        Ok(())
    }

    /// Puts in what tells that the body is at its end.
    ///
    /// # Errors
    /// The head has said more.
    pub(crate) fn end(self, outbox: &mut Outbox) -> Result<(), WrongLength> {
        match self {
            Self::Length(0) | Self::UntilClose => Ok(()),
            Self::Length(_) => Err(WrongLength),
            Self::Chunked | Self::Lines => {
                outbox.put_last_chunk();
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_of_another_length_than_was_said_is_an_error() {
        let mut outbox = Outbox::default();
        let mut encoder = Encoder::Length(2);
        assert_eq!(encoder.put(Bytes::from_static(b"x"), &mut outbox), Ok(()));
        assert_eq!(encoder.end(&mut outbox), Err(WrongLength));
        let more = Bytes::from_static(b"yz");
        assert_eq!(encoder.put(more, &mut outbox), Err(WrongLength));
    }

    #[test]
    fn an_empty_piece_is_nothing_and_above_all_not_the_last_chunk() {
        for mut encoder in [
            Encoder::Length(0),
            Encoder::Chunked,
            Encoder::Lines,
            Encoder::UntilClose,
        ] {
            let mut outbox = Outbox::default();
            assert_eq!(encoder.put(Bytes::new(), &mut outbox), Ok(()));
            assert!(outbox.is_empty(), "{encoder:?}");
        }
    }
}
