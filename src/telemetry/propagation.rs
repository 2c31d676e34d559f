//! W3C trace context: what is believed of a request that comes in, what a backend is told.

use std::collections::HashMap;

use http::header::{HeaderMap, HeaderName, HeaderValue};
use opentelemetry::Context;
use opentelemetry::propagation::TextMapPropagator;
use opentelemetry::trace::TraceContextExt;
use opentelemetry_sdk::propagation::TraceContextPropagator;

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
        extract(headers)
    }

    /// Tells a backend of the span in `context`, in the place of whatever the client had said.
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

/// A look at a few names is less than a look-up, and most requests belong to no trace.
fn is_of_a_trace(name: &HeaderName) -> bool {
    let name = name.as_str();
    name == TRACEPARENT.as_str() || name == TRACESTATE.as_str()
}

fn inject(context: &Context, headers: &mut HeaderMap) {
    let mut fields = HashMap::new();
    TraceContextPropagator::new().inject_context(context, &mut fields);
    for name in [TRACEPARENT, TRACESTATE] {
        let value = fields.get(name.as_str()).filter(|value| !value.is_empty());
        match value.and_then(|value| HeaderValue::from_str(value).ok()) {
            Some(value) => drop(headers.insert(name, value)),
            None => drop(headers.remove(name)),
        }
    }
}

/// The context of the one `traceparent` of a request, if it is sound to the letter.
fn extract(headers: &HeaderMap) -> Option<Context> {
    let mut parents = headers.get_all(TRACEPARENT).iter();
    let (Some(parent), None) = (parents.next(), parents.next()) else {
        return None;
    };
    let parent = parent.to_str().ok().filter(|parent| is_sound(parent))?;
    // All `tracestate` lines are one list, by RFC 9110 5.3.
    let states = headers.get_all(TRACESTATE).iter();
    let states: Result<Vec<_>, _> = states.map(HeaderValue::to_str).collect();
    let fields = HashMap::from([
        (TRACEPARENT.to_string(), parent.to_owned()),
        (TRACESTATE.to_string(), states.unwrap_or_default().join(",")),
    ]);
    let context = TraceContextPropagator::new().extract_with_context(&Context::new(), &fields);
    context.has_active_span().then_some(context)
}

/// The propagator reads more than the specification allows: ids that are too short, signs before
/// numbers, blanks round the whole.
fn is_sound(parent: &str) -> bool {
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
        assert!(context.span().span_context().is_remote());
        let mut told = HeaderMap::new();
        ON.write(Some(&context), &mut told);
        assert_eq!(told[TRACEPARENT], SOUND);
        assert_eq!(told[TRACESTATE], "a=1,b=2");
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
            "00-+af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-",
            "01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01more",
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
