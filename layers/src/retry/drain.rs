//! Discards responses that are replaced by a retry.

use std::future::poll_fn;
use std::pin::pin;
use std::task::{Poll, ready};
use std::time::Duration;

use bytes::Buf;
use http_body::Body;
use tokio::time::timeout;

/// Longest body that is read to keep its connection, in bytes.
const MAX_BYTES: usize = 64 << 10;

/// Time limit for reading it. Usually it has arrived together with its head.
const DRAIN_TIMEOUT: Duration = Duration::from_millis(20);

/// Reads a small body to its end, so that its connection can be reused. Any other body is dropped,
/// which closes its connection.
pub(super) async fn drain<B: Body>(body: B) {
    if body.is_end_stream() || body.size_hint().lower() > MAX_BYTES as u64 {
        return;
    }
    let mut body = pin!(body);
    let mut left = MAX_BYTES;
    let end = poll_fn(|cx| {
        while let Some(Ok(frame)) = ready!(body.as_mut().poll_frame(cx)) {
            let len = frame.data_ref().map_or(0, Buf::remaining);
            match left.checked_sub(len) {
                Some(rest) if !body.is_end_stream() => left = rest,
                _ => break,
            }
        }
        Poll::Ready(())
    });
    // The request does not depend on the result.
    let _ = timeout(DRAIN_TIMEOUT, end).await;
}
