//! Counters and gauges of an edge, for metrics and the drain.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};

use super::address::PeerAddr;
use super::seldom::Seldom;

/// Counters and gauges of an edge, for metrics and the drain.
#[derive(Debug, Default)]
pub struct Gauges {
    pub(super) draining: AtomicBool,
    pub(super) connections: AtomicUsize,
    pub(super) in_flight: AtomicUsize,
    pub(super) finished: AtomicU64,
    pub(super) refused_connections: AtomicU64,
    pub(super) refused_heads: AtomicU64,
    pub(super) accept_errors: AtomicU64,
    pub(super) failed_handshakes: AtomicU64,
    connections_of_cancels: AtomicU64,
    logged_cancels: Seldom,
    logged_certificates: Seldom,
}

impl Gauges {
    /// Whether the edge drains; `/health` then returns 503.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Relaxed)
    }
    /// Open connections.
    pub fn connections(&self) -> usize {
        self.connections.load(Relaxed)
    }
    /// Requests whose response has not ended.
    pub fn in_flight(&self) -> usize {
        self.in_flight.load(Relaxed)
    }
    /// Requests that have ended, for any reason.
    pub fn finished(&self) -> u64 {
        self.finished.load(Relaxed)
    }
    /// Connections that were refused because too many were open.
    pub fn refused_connections(&self) -> u64 {
        self.refused_connections.load(Relaxed)
    }
    /// Requests that were refused before their head was parsed: too large, too late, or not HTTP/1.
    pub fn refused_heads(&self) -> u64 {
        self.refused_heads.load(Relaxed)
    }
    /// Failed calls of `accept`, for example because the process had no free file descriptor.
    pub fn accept_errors(&self) -> u64 {
        self.accept_errors.load(Relaxed)
    }
    /// TLS handshakes that failed or were not completed in time.
    pub fn failed_handshakes(&self) -> u64 {
        self.failed_handshakes.load(Relaxed)
    }
    /// HTTP/2 connections that were closed because the client had cancelled too many requests.
    pub fn connections_of_cancels(&self) -> u64 {
        self.connections_of_cancels.load(Relaxed)
    }

    /// A connection of this client is closed because it has cancelled this many requests in a short
    /// time.
    pub(super) fn too_many_cancels(&self, client: Option<IpAddr>, cancels: u32) {
        self.connections_of_cancels.fetch_add(1, Relaxed);
        if self.logged_cancels.is_due() {
            let client = client.map_or_else(|| "unix".to_owned(), |ip| ip.to_string());
            tracing::warn!(
                client,
                "closing an HTTP/2 connection: more than {cancels} of its requests were cancelled before \
                 they were answered, within 10 s; if it is a proxy with many users, add its address to \
                 LLAMATOWER_TRUSTED_PROXIES"
            );
        }
    }
}

impl Gauges {
    /// A TLS handshake has failed.
    pub(super) fn failed_handshake(&self, peer: PeerAddr, error: &io::Error) {
        self.failed_handshakes.fetch_add(1, Relaxed);
        let client = peer
            .ip()
            .map_or_else(|| "unix".to_owned(), |ip| ip.to_string());
        match refused_certificate(error) {
            Some(hint) if self.logged_certificates.is_due() => tracing::info!(
                client,
                "a client's certificate was refused in the TLS handshake: {error}{hint}"
            ),
            _ => tracing::debug!(client, %error, "a TLS handshake has failed"),
        }
    }
}

/// If the handshake failed because of the client's certificate, what to do about it.
fn refused_certificate(error: &io::Error) -> Option<&'static str> {
    let error = error.get_ref()?.downcast_ref::<rustls::Error>()?;
    let rustls::Error::InvalidCertificate(reason) = error else {
        return None;
    };
    Some(
        match format!("{reason:?}").contains("UnsupportedCertVersion") {
            true => {
                "; certificates need version 3 of X.509, and OpenSSL makes version 1 without extensions \
             (-extfile or -copy_extensions)"
            }
            false => "",
        },
    )
}

/// Counts a connection as open until it is dropped.
#[derive(Debug)]
pub(super) struct Open(Arc<Gauges>);

impl Gauges {
    pub(super) fn open(self: Arc<Self>) -> Open {
        self.connections.fetch_add(1, Relaxed);
        Open(self)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Relaxed);
    }
}
