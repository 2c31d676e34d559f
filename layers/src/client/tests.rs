#![allow(clippy::unwrap_used)]
use std::cell::Cell;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;

use super::request_body::SyncBody;

/// A body of two frames that is not `Sync`.
struct Unsync(Cell<u8>);

impl Body for Unsync {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let left = self.0.get();
        self.0.set(left.saturating_sub(1));
        Poll::Ready((left > 0).then(|| Ok(Frame::data(Bytes::from_static(b"ab")))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.get() == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(2 * u64::from(self.0.get()))
    }
}

#[tokio::test]
async fn a_body_that_is_not_sync_keeps_its_length_and_its_end() {
    fn is_sync(_: &(impl Sync + Send)) {}
    let mut body = SyncBody::new(Unsync(Cell::new(2)));
    is_sync(&body);
    for left in [4, 2] {
        assert_eq!(body.size_hint().exact(), Some(left));
        assert!(!body.is_end_stream());
        assert_eq!(
            body.frame().await.unwrap().unwrap().into_data().unwrap(),
            "ab"
        );
    }
    assert!(body.is_end_stream());
    assert_eq!(body.size_hint().exact(), Some(0));
    assert!(body.frame().await.is_none());
}
