//! The first head of a connection, if it arrives in pieces.

use std::io;
use std::sync::atomic::Ordering::Relaxed;

use bytes::BytesMut;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use super::begin::{FIRST_BYTES, first_bytes};
use super::listener::{Accepted, Stream};
use super::refusal::Refusal;
use super::service::MakeEdgeService;

/// How many fields are looked at. hyper reads a head with more of them.
const MOST_FIELDS: usize = 100;

/// Whether these bytes are the beginning of a head whose rest has not arrived, and are fewer than
/// the first read would take. With a partial head, hyper would hold 24 KiB of buffers: it doubles
/// its read buffer before the second read.
pub(super) fn is_partial(bytes: &[u8]) -> bool {
    let mut fields = [httparse::EMPTY_HEADER; MOST_FIELDS];
    bytes.len() < FIRST_BYTES
        && matches!(httparse::Request::new(&mut fields).parse(bytes), Ok(status) if status.is_partial())
}

/// Reads on until hyper can judge the head, or has to read the rest of a long one. Refuses the head
/// if that takes longer than until `deadline`.
///
/// `None` if the connection has ended: the head was refused, the client has gone, or `now` is
/// cancelled.
pub(super) async fn complete<S>(
    accepted: &mut Accepted,
    begun: &mut BytesMut,
    services: &MakeEdgeService<S>,
    deadline: Instant,
    now: &CancellationToken,
) -> Option<()> {
    let rest = rest_of(&accepted.stream, begun);
    let rest = now.run_until_cancelled(timeout_at(deadline, rest)).await?;
    if let Ok(rest) = rest {
        return rest.ok();
    }
    let refusal = Refusal::HeadTimeout;
    services.gauges().refused_heads.fetch_add(1, Relaxed);
    let dialect = services.rules().refuse_head(refusal, begun, accepted.peer);
    refusal.send(&mut accepted.stream, dialect).await;
    None
}

async fn rest_of(stream: &Stream, begun: &mut BytesMut) -> io::Result<()> {
    while is_partial(begun) {
        let more = first_bytes(stream).await?;
        if more.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        begun.extend_from_slice(&more);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_partial_until_it_is_complete_malformed_or_long() {
        let long = format!("GET / HTTP/1.1\r\nx: {}", "x".repeat(FIRST_BYTES));
        for (bytes, expected) in [
            (&b"G"[..], true),
            (b"\r\nGET / HTTP/1.1\r\nHost: a\r\n", true),
            (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", false),
            (b"POST / HTTP/1.1\nHost: a\n\nbody", false),
            (b"GET / HTTP/1.1\r\nno field\r\n", false),
            (b"\x16\x03\x01", false),
            (b"PRI * HTTP/2.0\r\n", false),
            (long.as_bytes(), false),
        ] {
            assert_eq!(is_partial(bytes), expected, "{bytes:?}");
        }
    }
}
