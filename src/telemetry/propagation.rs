//! W3C trace context: what is accepted from clients, and what is sent to backends.

use std::collections::HashMap;

use http::header::{HeaderMap, HeaderName, HeaderValue};
use opentelemetry::Context;
use opentelemetry::propagation::{Injector, TextMapPropagator};
use opentelemetry::trace::TraceContextExt;
use opentelemetry_sdk::propagation::TraceContextPropagator;

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// The rules for `traceparent` and `tracestate`.
///
/// If spans are created, a trusted trace is continued, and each attempt sends its backend its own
/// parent id. Without spans, the gateway is not part of a trace and passes a valid `traceparent` on
/// unchanged, as the specification requires. In both cases a malformed or untrusted `traceparent`
/// and its `tracestate` are removed. If `OTEL_PROPAGATORS` leaves `tracecontext` out, nothing is read, written
/// or removed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Propagation {
    pub(super) is_on: bool,
    pub(super) trusts_inbound: bool,
}

impl Propagation {
    /// The remote parent of a request, if it is valid and trusted.
    pub(super) fn parent(self, headers: &HeaderMap) -> Option<Context> {
        if !self.is_on || !self.trusts_inbound {
            return None;
        }
        extract(headers)
    }

    /// Sends a backend the span in `context`, and replaces the client's headers.
    pub(super) fn write(self, context: Option<&Context>, headers: &mut HeaderMap) {
        if !self.is_on {
            return;
        }
        match context.filter(|context| context.span().span_context().is_valid()) {
            Some(context) => inject(context, headers),
            None if !headers.keys().any(is_of_a_trace) => {}
            None if self.trusts_inbound && extract(headers).is_some() => {}
            None => {
                headers.remove(TRACEPARENT);
                headers.remove(TRACESTATE);
            }
        }
    }
}

/// Comparing a few names is cheaper than a lookup, and most requests have no trace.
fn is_of_a_trace(name: &HeaderName) -> bool {
    let name = name.as_str();
    name == TRACEPARENT.as_str() || name == TRACESTATE.as_str()
}

fn inject(context: &Context, headers: &mut HeaderMap) {
    headers.remove(TRACEPARENT);
    headers.remove(TRACESTATE);
    TraceContextPropagator::new().inject_context(context, &mut Fields(headers));
}

/// Header fields that the propagator writes. It writes an empty `tracestate` too, which is left out.
struct Fields<'a>(&'a mut HeaderMap);

impl Injector for Fields<'_> {
    fn set(&mut self, name: &str, value: String) {
        let names = [TRACEPARENT, TRACESTATE];
        let name = names.into_iter().find(|known| known.as_str() == name);
        let value = HeaderValue::try_from(value);
        if let Some((name, value)) = name.zip(value.ok())
            && !value.is_empty()
        {
            self.0.insert(name, value);
        }
    }
}

/// The context of a request with exactly one valid `traceparent`.
fn extract(headers: &HeaderMap) -> Option<Context> {
    let mut parents = headers.get_all(TRACEPARENT).iter();
    let (Some(parent), None) = (parents.next(), parents.next()) else {
        return None;
    };
    let parent = parent.to_str().ok().filter(|parent| is_valid(parent))?;
    // All `tracestate` lines form one list, by RFC 9110 5.3.
    let states = headers.get_all(TRACESTATE).iter();
    let states: Result<Vec<_>, _> = states.map(HeaderValue::to_str).collect();
    let fields = HashMap::from([
        (TRACEPARENT.to_string(), parent.to_owned()),
        (TRACESTATE.to_string(), states.unwrap_or_default().join(",")),
    ]);
    let context = TraceContextPropagator::new().extract_with_context(&Context::new(), &fields);
    context.has_active_span().then_some(context)
}

/// The propagator accepts more than the specification: ids that are too short, signs before
/// numbers, surrounding blanks.
fn is_valid(parent: &str) -> bool {
    let is_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    let (fields, rest) = parent.as_bytes().split_at_checked(55).unwrap_or_default();
    let mut bytes = fields.iter().enumerate();
    // Later versions may have more parts.
    (rest.is_empty() || (rest[0] == b'-' && !parent.starts_with("00")))
        && !fields.is_empty()
        && bytes.all(|(at, byte)| match at {
            2 | 35 | 52 => *byte == b'-',
            _ => is_hex(*byte),
        })
}
