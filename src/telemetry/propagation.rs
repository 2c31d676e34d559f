//! W3C trace context: what is believed of a request that comes in, what a backend is told.

use std::str::FromStr;

use http::header::{HeaderMap, HeaderName, HeaderValue};
use opentelemetry::Context;
use opentelemetry::trace::{SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState};

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// The rule for `traceparent` and `tracestate`.
///
/// While spans are made, a trusted trace is continued and each attempt tells its backend a
/// parent id of its own. While none are, the gateway takes no part in a trace, so it hands a
/// sound `traceparent` on as it came, as the specification asks of a middleman. A malformed one
/// and one that is not trusted go no further in either case, nor does their `tracestate`.
#[derive(Clone, Copy, Debug)]
pub struct Propagation {
    pub(super) is_on: bool,
    pub(super) trusts_inbound: bool,
}

impl Propagation {
    /// The remote parent of a request, if it names one that is sound and trusted.
    pub(super) fn parent(self, headers: &HeaderMap) -> Option<Context> {
        if !self.is_on || !self.trusts_inbound {
            return None;
        }
        let parent = parse(headers)?;
        Some(Context::new().with_remote_span_context(parent))
    }

    /// Tells a backend of `span`, in the place of whatever the client had said.
    pub(super) fn write(self, span: Option<&SpanContext>, headers: &mut HeaderMap) {
        if !self.is_on {
            return;
        }
        match span.filter(|span| span.is_valid()) {
            Some(span) => {
                headers.remove(TRACESTATE);
                insert(headers, TRACEPARENT, &to_traceparent(span));
                let state = span.trace_state().header();
                if !state.is_empty() {
                    insert(headers, TRACESTATE, &state);
                }
            }
            None if !headers.keys().any(is_of_a_trace) => {}
            None if self.trusts_inbound && parse(headers).is_some() => {}
            None => {
                headers.remove(TRACEPARENT);
                headers.remove(TRACESTATE);
            }
        }
    }
}

/// A look at a few names is less than a look-up, and most requests belong to no trace.
fn is_of_a_trace(name: &HeaderName) -> bool {
    let name = name.as_str();
    name == TRACEPARENT.as_str() || name == TRACESTATE.as_str()
}

fn insert(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

fn to_traceparent(span: &SpanContext) -> String {
    let sampled = u8::from(span.is_sampled());
    format!("00-{}-{}-{sampled:02x}", span.trace_id(), span.span_id())
}

/// The one `traceparent` of a request, if it is sound to the letter.
fn parse(headers: &HeaderMap) -> Option<SpanContext> {
    let mut values = headers.get_all(TRACEPARENT).iter();
    let (Some(value), None) = (values.next(), values.next()) else {
        return None;
    };
    let value = value.to_str().ok()?;
    let mut parts = value.split('-');
    let version = parts
        .next()
        .filter(|part| is_hex(part, 2) && *part != "ff")?;
    let trace = parts.next().filter(|part| is_hex(part, 32))?;
    let parent = parts.next().filter(|part| is_hex(part, 16))?;
    let flags = parts.next().filter(|part| is_hex(part, 2))?;
    // Later versions may have more parts.
    if version == "00" && parts.next().is_some() {
        return None;
    }
    let flags = TraceFlags::new(u8::from_str_radix(flags, 16).ok()?) & TraceFlags::SAMPLED;
    let span = SpanContext::new(
        TraceId::from_hex(trace).ok()?,
        SpanId::from_hex(parent).ok()?,
        flags,
        true,
        trace_state(headers).unwrap_or_default(),
    );
    span.is_valid().then_some(span)
}

fn is_hex(part: &str, length: usize) -> bool {
    let is_digit = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    part.len() == length && part.bytes().all(is_digit)
}

/// All `tracestate` lines are one list, by RFC 9110 5.3.
fn trace_state(headers: &HeaderMap) -> Option<TraceState> {
    let lines: Result<Vec<_>, _> = headers
        .get_all(TRACESTATE)
        .iter()
        .map(|v| v.to_str())
        .collect();
    let list = lines.ok().filter(|lines| !lines.is_empty())?.join(",");
    TraceState::from_str(&list).ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const SOUND: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    const ON: Propagation = Propagation {
        is_on: true,
        trusts_inbound: true,
    };

    fn headers(traceparents: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in traceparents {
            headers.append(TRACEPARENT, value.parse().unwrap());
        }
        headers.append(TRACESTATE, "a=1".parse().unwrap());
        headers.append(TRACESTATE, "b=2".parse().unwrap());
        headers
    }

    #[test]
    fn a_sound_parent_is_continued_with_all_of_its_state() {
        let context = ON.parent(&headers(&[SOUND])).unwrap();
        let span = context.span().span_context().clone();
        assert_eq!(to_traceparent(&span), SOUND);
        assert_eq!(span.trace_state().header(), "a=1,b=2");
        assert!(span.is_remote());
    }

    #[test]
    fn a_malformed_parent_restarts_the_trace() {
        for value in [
            "",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-00",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "0-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        ] {
            let mut headers = headers(&[value]);
            assert!(ON.parent(&headers).is_none(), "{value}");
            ON.write(None, &mut headers);
            assert!(headers.is_empty(), "{value}");
        }
        assert!(ON.parent(&headers(&[SOUND, SOUND])).is_none());
    }

    #[test]
    fn a_later_version_is_read_like_the_first() {
        let later = "01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more";
        assert!(ON.parent(&headers(&[later])).is_some());
    }

    #[test]
    fn without_spans_a_sound_parent_is_passed_on_if_it_is_trusted() {
        let mut passed = headers(&[SOUND]);
        ON.write(None, &mut passed);
        assert_eq!(passed, headers(&[SOUND]));
        let wary = Propagation {
            trusts_inbound: false,
            ..ON
        };
        assert!(wary.parent(&passed).is_none());
        wary.write(None, &mut passed);
        assert!(passed.is_empty());
    }
}
