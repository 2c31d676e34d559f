//! How much of a body is still to come.

use bytes::Buf;
use http::HeaderMap;
use http::header::CONTENT_LENGTH;
use http_body::{Body, Frame};

/// The bytes that are still to come of a body whose length the head or the body has told. hyper
/// does not poll a body again that has given as much, whether or not it says that it is at its
/// end.
#[derive(Debug)]
pub(crate) struct Rest(Option<u64>);

impl Rest {
    pub(crate) fn of<B: Body>(headers: &HeaderMap, body: &B) -> Self {
        Self(
            body.size_hint()
                .exact()
                .or_else(|| declared_length(headers)),
        )
    }

    pub(crate) fn note<D: Buf>(&mut self, frame: &Frame<D>) {
        if let (Some(rest), Some(data)) = (self.0.as_mut(), frame.data_ref()) {
            *rest = rest.saturating_sub(data.remaining() as u64);
        }
    }

    /// All that was promised has come.
    pub(crate) fn is_over(&self) -> bool {
        self.0 == Some(0)
    }

    /// Less has come than was promised.
    #[cfg(feature = "outcome")]
    pub(crate) fn is_owed(&self) -> bool {
        self.0.is_some_and(|rest| rest > 0)
    }
}

fn declared_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}
