//! A connection in HTTP/2.
//!
//! hyper's connection and the streams on it are polled in one task, like a connection in HTTP/1.1: no
//! task stands between a client and a backend, and the end of the connection ends all of them.
//!
//! ```text
//! connection ── first request ─── streams ──────────────── none ── next ── ...
//!               │ header timeout  │ per stream: total      │ keep-alive
//!               │                 │ timeout, and the stall │ timeout, then
//!               │                 │ of a closed window     │ GOAWAY
//! ```
//!
//! The limits are those of the protocol's known attacks: streams, windows, the size of a head, and resets
//! (see the constants). Resets by trusted proxies are those of many clients: their number is not limited,
//! only that of streams that are reset before hyper has accepted them. A client that no longer answers
//! pings is gone.

mod body;
mod service;
mod streams;

use std::future::poll_fn;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::server::conn::http2;
use hyper_util::rt::{TokioIo, TokioTimer};
use llamatower_layers::Deadline;
use tokio_util::sync::WaitForCancellationFutureOwned;

use self::service::StreamService;
use self::streams::{MAX_RESETS, Streams, StreamsHandle};
use super::connection::{Closing, Limits, stalled};
use super::listener::GONE_AFTER;
use super::refusal::DISCARD_TIME;
use super::service::EdgeService;
use super::stack::HttpStack;
use super::state::{ConnectionState, Phase};
use super::transport::Transport;

/// The beginning of every connection in HTTP/2 (RFC 9113 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Concurrent streams of a connection, as in most servers.
const MAX_STREAMS: u32 = 100;
/// Bytes of a request's body that are received before the stack reads it.
const STREAM_WINDOW: u32 = 64 * 1024;
/// The same for all streams of a connection.
const CONNECTION_WINDOW: u32 = 256 * 1024;
/// Bytes of a response that hyper takes before they are sent, for each stream.
const SEND_BUFFER: usize = 64 * 1024;
/// Streams that a client may have reset before the edge has accepted them (CVE-2023-44487).
const MAX_PENDING_RESETS: usize = 20;
/// Streams that hyper may have reset for a client's errors (CVE-2025-8671).
const MAX_LOCAL_RESETS: usize = 100;

/// The limits of resets that the protocol's library counts; `None` means no limit.
struct ResetLimits {
    pending: Option<usize>,
    local: Option<usize>,
}

impl ResetLimits {
    fn new(is_trusted_proxy: bool) -> Self {
        match is_trusted_proxy {
            true => Self {
                pending: Some(MAX_STREAMS as usize),
                local: None,
            },
            false => Self {
                pending: Some(MAX_PENDING_RESETS),
                local: Some(MAX_LOCAL_RESETS),
            },
        }
    }
}

/// How often hyper and the streams are polled before the connection's task yields.
const MAX_ROUNDS: u32 = 8;

/// Whether these may be the first bytes of a connection in HTTP/2.
pub(super) fn begins_preface(bytes: &[u8]) -> bool {
    !bytes.is_empty() && (bytes.starts_with(PREFACE) || PREFACE.starts_with(bytes))
}

/// Serves a connection in HTTP/2 until it ends.
pub(super) async fn serve<S: HttpStack>(
    transport: Transport,
    service: EdgeService<S>,
    limits: Limits,
    closing: Closing,
) {
    let state = service.state.clone();
    let peer = service.peer.ip();
    let is_trusted_proxy = service.rules.is_trusted_proxy(service.peer);
    let resets = ResetLimits::new(is_trusted_proxy);
    let (streams, handle) = Streams::new(&limits, !is_trusted_proxy);
    let http = http2::Builder::new(handle.clone())
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(SEND_BUFFER)
        .max_pending_accept_reset_streams(resets.pending)
        .max_local_error_reset_streams(resets.local)
        .max_header_list_size(u32::try_from(limits.head_bytes).unwrap_or(u32::MAX))
        .keep_alive_interval(GONE_AFTER / 2)
        .keep_alive_timeout(GONE_AFTER / 2)
        .serve_connection(TokioIo::new(transport), StreamService::new(service, handle));
    let mut connection = Connection {
        http,
        streams,
        state,
        limits,
        closing: Some(Box::pin(closing.graceful.cancelled_owned())),
        ended: Box::pin(closing.now.cancelled_owned()),
        is_leaving: false,
        peer,
        has_too_many_resets: false,
        clock: Deadline::default(),
        timed: None,
    };
    match poll_fn(|cx| connection.poll(cx)).await {
        End::Closed(Ok(())) => tracing::trace!("connection closed"),
        End::Closed(Err(error)) => match stalled(&error) {
            Some(stalled) => {
                tracing::debug!("{stalled} (limit: LLAMATOWER_WRITE_STALL_TIMEOUT)");
            }
            None => tracing::debug!(%error, "connection failed"),
        },
        End::Clock(phase) => tracing::debug!(?phase, "connection timed out"),
        End::Resets => {
            tracing::debug!("connection closed: the client goes on to reset its streams")
        }
        End::Now => {}
    }
}

/// How a connection ended.
enum End {
    Closed(hyper::Result<()>),
    Clock(Phase),
    /// The client has cancelled too many requests in a short time, and goes on.
    Resets,
    Now,
}

struct Connection<S: HttpStack> {
    http: http2::Connection<TokioIo<Transport>, StreamService<S>, StreamsHandle>,
    streams: Streams,
    state: Arc<ConnectionState>,
    limits: Limits,
    /// `None` once it has fired.
    closing: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
    ended: Pin<Box<WaitForCancellationFutureOwned>>,
    /// GOAWAY was sent because the connection is not used.
    is_leaving: bool,
    peer: Option<IpAddr>,
    /// GOAWAY was sent because the client has cancelled too many requests.
    has_too_many_resets: bool,
    clock: Deadline,
    /// The phase, and the number of requests so far, for which the clock was started.
    timed: Option<(Phase, u64)>,
}

impl<S: HttpStack> Connection<S> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        if self.poll_closing(cx).is_ready() {
            return Poll::Ready(End::Now);
        }
        let mut rounds = 0;
        loop {
            if let Poll::Ready(result) = Pin::new(&mut self.http).poll(cx) {
                return Poll::Ready(End::Closed(result));
            }
            // What the streams have produced is written by the next poll of hyper.
            if !self.streams.poll(cx) {
                break;
            }
            rounds += 1;
            if rounds == MAX_ROUNDS {
                // Other connections have their turn.
                cx.waker().wake_by_ref();
                break;
            }
        }
        if self.streams.are_reset_too_fast() && self.poll_resets(cx).is_ready() {
            return Poll::Ready(End::Resets);
        }
        if self.state.gauges.is_draining() && self.streams.begun() > 0 {
            // The client's next request must use another connection, to another process.
            Pin::new(&mut self.http).graceful_shutdown();
        }
        self.poll_clock(cx).map(End::Clock)
    }

    /// Ready when the connection must end at once.
    fn poll_closing(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(closing) = &mut self.closing {
            ready!(closing.as_mut().poll(cx));
            self.closing = None;
            Pin::new(&mut self.http).graceful_shutdown();
        }
        self.ended.as_mut().poll(cx)
    }

    /// Asks the client to leave: responses that have begun are completed, and new requests need another
    /// connection. Ready if the client goes on to cancel requests.
    fn poll_resets(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.streams.are_reset_after_goaway() {
            return Poll::Ready(());
        }
        if !self.has_too_many_resets {
            self.has_too_many_resets = true;
            self.state.gauges.too_many_cancels(self.peer, MAX_RESETS);
            // hyper can send no other code than NO_ERROR.
            Pin::new(&mut self.http).graceful_shutdown();
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }

    fn poll_clock(&mut self, cx: &mut Context<'_>) -> Poll<Phase> {
        let (phase, limit) = match (self.streams.is_empty(), self.streams.begun()) {
            // Each stream has its own clocks.
            (false, _) => (Phase::Exchange, None),
            (true, 0) => (Phase::Head, Some(self.limits.header)),
            (true, _) => (Phase::Idle, Some(self.limits.keep_alive)),
        };
        let now = Some((phase, self.streams.begun()));
        if self.timed != now {
            self.timed = now;
            self.is_leaving = false;
            self.clock.arm_after(limit);
        }
        ready!(self.clock.poll(cx));
        if self.is_leaving {
            return Poll::Ready(phase);
        }
        // The client is told first. Some answer a GOAWAY only when they use the connection again.
        self.is_leaving = true;
        Pin::new(&mut self.http).graceful_shutdown();
        self.clock.arm_after(Some(LEAVE_TIME));
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

/// The time for a client to close a connection that it was asked to close.
const LEAVE_TIME: Duration = DISCARD_TIME;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_preface_is_recognised_also_in_pieces() {
        for (bytes, expected) in [
            (&PREFACE[..1], true),
            (&PREFACE[..16], true),
            (PREFACE, true),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04", true),
            (b"POST / HTTP/1.1\r\n", false),
            (b"PRI /x HTTP/1.1\r\n", false),
            (b"", false),
        ] {
            assert_eq!(begins_preface(bytes), expected, "{bytes:?}");
        }
    }
}
