//! Hop-by-hop headers.

use http::header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderName};
use smallvec::SmallVec;

/// Whether a header belongs to one hop (RFC 9110 7.6.1), apart from those that `Connection` names.
pub fn is_hop_by_hop(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "connection"
            | "keep-alive"
            | "proxy-connection"
            | "proxy-authenticate"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "upgrade"
            | "http2-settings"
    )
}

/// Removes the hop-by-hop headers, those that `Connection` names, and those that `is_unwanted`.
///
/// `Content-Type`, `Content-Length` and `Host` stay, even if `Connection` names them. A
/// `Content-Length` beside a `Transfer-Encoding` is not the length of the body, and is removed (RFC 9112
/// 6.3).
pub fn remove_hop_by_hop(headers: &mut HeaderMap, is_unwanted: impl Fn(&HeaderName) -> bool) {
    // One pass over the headers that are present is cheaper than a lookup of each unwanted one.
    let unwanted: SmallVec<[HeaderName; 4]> = headers
        .keys()
        .filter(|name| is_hop_by_hop(name) || is_unwanted(name))
        .cloned()
        .collect();
    if unwanted.contains(&CONNECTION) {
        remove_named_by_connection(headers);
    }
    if unwanted.contains(&TRANSFER_ENCODING) {
        headers.remove(CONTENT_LENGTH);
    }
    for name in unwanted {
        headers.remove(name);
    }
}

fn remove_named_by_connection(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .filter(|name: &HeaderName| {
            !matches!(name.as_str(), "content-type" | "content-length" | "host")
        })
        .collect();
    for name in named {
        headers.remove(name);
    }
}
