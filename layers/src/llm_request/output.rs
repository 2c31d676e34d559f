//! The limit of the tokens that a request may generate: what its body asks for, and the changes
//! that keep it within the maximum.

use std::num::NonZeroU64;
use std::ops::Range;

use bytes::Bytes;
use http::Request;
use smallvec::SmallVec;

use super::edit::{OptionPlace, replace};
use super::scan::Scanned;
use crate::body::ReplayBody;
use crate::{Dialect, Endpoint, Operation};

/// The maximum of generated tokens that a request got in place of its own limit, or because it had
/// none; stored in the request's extensions by an
/// [`LlmRequestLayer`](super::LlmRequestLayer::with_max_output_tokens).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LimitedOutput(pub u64);

/// A limit in a body, and where its value stands.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Limit {
    pub(super) at: Range<u64>,
    pub(super) asked: Asked,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    Tokens(NonZeroU64),
    Null,
    /// Zero or a negative number. Ollama generates without a limit, as with null.
    NoLimit,
    /// A value of another type, which the server refuses.
    Invalid,
}

impl Limit {
    fn tokens(&self) -> Option<u64> {
        match self.asked {
            Asked::Tokens(tokens) => Some(tokens.get()),
            Asked::Null | Asked::NoLimit | Asked::Invalid => None,
        }
    }
}

/// The limits in a body.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct OutputLimits {
    /// The one that Ollama reads: `options.num_predict`, `max_tokens` or `max_output_tokens`.
    pub(super) own: Option<Limit>,
    /// `max_completion_tokens`, which Ollama does not read.
    pub(super) completion: Option<Limit>,
    /// Where `options.num_predict` stands or can be inserted.
    pub(super) option: Option<OptionPlace>,
}

/// What to replace by what.
type Splices = SmallVec<[(Range<u64>, Bytes); 2]>;

/// The changes to a body.
#[derive(Debug, Default)]
struct Changes {
    splices: Splices,
    /// The `max_tokens` that Ollama needs in addition, and its place.
    for_ollama: Option<(Range<u64>, u64)>,
}

/// Whether responses of this operation are generated.
pub(super) fn generates(operation: Operation) -> bool {
    matches!(operation, Operation::Generate | Operation::Chat)
}

/// The changes for this maximum.
fn changes(scanned: &Scanned, endpoint: &Endpoint, max: u64) -> Changes {
    let (limits, begin) = (&scanned.output, scanned.members_begin);
    let number = || Bytes::from(max.to_string());
    let is_larger = |limit: &Limit| limit.tokens().is_some_and(|tokens| tokens > max);
    let mut changes = Changes::default();
    let mut to_lower = |limit: &Option<Limit>| {
        let larger = limit.as_ref().filter(|limit| is_larger(limit));
        changes
            .splices
            .extend(larger.map(|limit| (limit.at.clone(), number())));
    };
    to_lower(&limits.own);
    to_lower(&limits.completion);
    let has_no_limit = |limit: &Limit| matches!(limit.asked, Asked::Null | Asked::NoLimit);
    let own = limits.own.as_ref();
    let completion = limits.completion.as_ref();
    if own.is_some_and(|own| !has_no_limit(own)) {
        let unlimited = completion.filter(|limit| limit.asked == Asked::NoLimit);
        changes
            .splices
            .extend(unlimited.map(|limit| (limit.at.clone(), number())));
        return changes;
    }
    let key = match endpoint.dialect {
        Dialect::Ollama => {
            let place = limits.option.as_ref();
            let splice = place.and_then(|place| place.splice("num_predict", Some(max)));
            changes.splices.extend(splice);
            return changes;
        }
        Dialect::Responses => "max_output_tokens",
        _ => "max_tokens",
    };
    let splice = match (own, completion) {
        (None, None) => {
            let comma = if scanned.is_empty_object { "" } else { "," };
            (begin..begin, format!(r#""{key}":{max}{comma}"#).into())
        }
        (Some(own), None) => (own.at.clone(), number()),
        (own, Some(completion)) => {
            let sent = completion.tokens().map_or(max, |tokens| tokens.min(max));
            if has_no_limit(completion) {
                changes.splices.push((completion.at.clone(), number()));
            }
            match own {
                Some(own) if own.asked == Asked::NoLimit => {
                    (own.at.clone(), sent.to_string().into())
                }
                // Some servers refuse both.
                own => {
                    let place = own.map_or(begin..begin, |own| own.at.clone());
                    changes.for_ollama = Some((place, sent));
                    return changes;
                }
            }
        }
    };
    changes.splices.push(splice);
    changes
}

/// Keeps the limit of the request within `max`; returns whether the request has another one than
/// its client has written, or `None` if it should have, and the body cannot be changed.
pub(super) fn limit_output<B>(
    request: &mut Request<ReplayBody<B>>,
    endpoint: &Endpoint,
    scanned: &mut Scanned,
    is_json: bool,
    max: NonZeroU64,
) -> Option<bool> {
    let max = max.get();
    let Changes {
        mut splices,
        for_ollama,
    } = changes(scanned, endpoint, max);
    // No limit and zero are the same here.
    scanned.max_tokens = scanned.max_tokens.filter(|asked| *asked > 0);
    scanned.max_tokens = scanned.max_tokens.map(|asked| asked.min(max));
    if splices.is_empty() && for_ollama.is_none() {
        return Some(false);
    }
    if !is_json {
        return None;
    }
    scanned.places.max_tokens_of_ollama = for_ollama;
    let is_limited = !splices.is_empty();
    // From the end, so that the other places do not move.
    splices.sort_unstable_by_key(|(range, _)| std::cmp::Reverse(range.start));
    for (range, text) in splices {
        let length = text.len() as u64;
        if !replace(request, range.clone(), text) {
            return None;
        }
        scanned.move_places(&range, length);
    }
    if is_limited && endpoint.dialect == Dialect::Ollama {
        let place = scanned.output.option.take();
        scanned.places.option_was_inserted(place);
    }
    Some(is_limited)
}

#[cfg(test)]
mod tests;
