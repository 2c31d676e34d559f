//! The remaining bytes of a body.

use bytes::Buf;
use http::HeaderMap;
use http::header::CONTENT_LENGTH;
use http_body::{Body, Frame};

/// The remaining bytes of a body whose length is declared by the head or known by the body. hyper
/// does not poll a body again after that many bytes, whatever its `is_end_stream` returns.
#[derive(Debug, Default)]
pub(crate) struct RemainingLength(Option<u64>);

impl RemainingLength {
    pub(crate) fn of<B: Body>(headers: &HeaderMap, body: &B) -> Self {
        Self(
            body.size_hint()
                .exact()
                .or_else(|| declared_length(headers)),
        )
    }

    pub(crate) fn count<D: Buf>(&mut self, frame: &Frame<D>) {
        if let (Some(rest), Some(data)) = (self.0.as_mut(), frame.data_ref()) {
            *rest = rest.saturating_sub(data.remaining() as u64);
        }
    }

    /// All declared bytes have arrived.
    pub(crate) fn is_over(&self) -> bool {
        self.0 == Some(0)
    }

    /// Declared bytes are missing.
    #[cfg(feature = "outcome")]
    pub(crate) fn is_incomplete(&self) -> bool {
        self.0.is_some_and(|rest| rest > 0)
    }
}

fn declared_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}
