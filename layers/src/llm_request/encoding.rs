//! Compressed bodies: decoded only for the scan, not stored.

use std::io::{self, Read};

use bytes::{Buf, Bytes};
use http::header::CONTENT_ENCODING;
use ruzstd::decoding::StreamingDecoder;

use super::layer::Config;
use super::plan::scanner;
use super::scan::{ScanError, Scanned};
use super::{MalformedBody, UnsupportedEncoding};
use crate::body_limit::{BodyMemoryExhausted, BodyTooLarge};
use crate::{Dialect, Endpoint, Failure};

/// The largest window of a zstd frame, in bytes: RFC 8878 requires decoders to support it, and
/// Ollama's decoder accepts no more.
const WINDOW: u64 = 8 << 20;
/// Bytes decoded at a time.
const STEP: usize = 64 << 10;

/// The encoding of the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encoding {
    Plain,
    Zstd,
}

impl Encoding {
    /// The encoding in the headers. Ollama accepts only zstd, and only on its `/v1` routes; Codex
    /// uses it.
    pub(super) fn of(
        headers: &http::HeaderMap,
        dialect: Dialect,
    ) -> Result<Self, UnsupportedEncoding> {
        let reads_zstd = matches!(
            dialect,
            Dialect::OpenAi | Dialect::Responses | Dialect::Anthropic
        );
        // Few bodies have one, and comparing a few names is cheaper than a lookup.
        if !headers.keys().any(|name| *name == CONTENT_ENCODING) {
            return Ok(Self::Plain);
        }
        let mut values = headers.get_all(CONTENT_ENCODING).iter();
        match (values.next().map(|value| value.as_bytes()), values.next()) {
            (None | Some(b"" | b"identity"), None) => Ok(Self::Plain),
            (Some(b"zstd"), None) if reads_zstd => Ok(Self::Zstd),
            _ => Err(UnsupportedEncoding { reads_zstd }),
        }
    }
}

/// Scans a body of zstd frames, up to the limit of decoded bytes.
pub(super) async fn scan_zstd(
    segments: Vec<Bytes>,
    endpoint: &Endpoint,
    config: &Config,
) -> Result<Scanned, Failure> {
    // The decoder holds a window and the decoded data beyond it.
    let _memory = match &config.budget {
        Some(budget) => {
            let memory = budget.try_reserve(WINDOW + 2 * STEP as u64);
            Some(memory.ok_or(BodyMemoryExhausted)?)
        }
        None => None,
    };
    let malformed = |reason| Failure::from(MalformedBody::at(endpoint, reason));
    let limit = config.decoded_limit;
    let mut scanner = scanner(endpoint, config);
    let mut source = Segments(segments.into_iter().collect());
    let mut decoded = 0;
    let mut buffer = vec![0; STEP];
    while !source.0.is_empty() && !scanner.is_done() {
        let mut frame = StreamingDecoder::new_with_max_window_size(source, WINDOW)
            .map_err(|_| malformed(ScanError::InvalidZstd))?;
        loop {
            let read = frame
                .read(&mut buffer)
                .map_err(|_| malformed(ScanError::InvalidZstd))?;
            if read == 0 {
                break;
            }
            decoded += read as u64;
            if decoded > limit {
                return Err(BodyTooLarge { limit }.into());
            }
            scanner.feed(&buffer[..read]).map_err(malformed)?;
            if scanner.is_done() {
                break;
            }
            tokio::task::yield_now().await;
        }
        source = frame.into_inner();
    }
    scanner.finish().map_err(malformed)
}

/// A reader over segments.
struct Segments(std::collections::VecDeque<Bytes>);

impl Read for Segments {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let Some(first) = self.0.front_mut() else {
            return Ok(0);
        };
        let read = first.len().min(out.len());
        first.copy_to_slice(&mut out[..read]);
        if first.is_empty() {
            self.0.pop_front();
        }
        Ok(read)
    }
}
