//! Checks of the request line that hyper does not make.

use http::{Method, Uri};
use memchr::memchr;

/// Longest request line, in bytes: twice the longest target. A longer line is refused.
pub(super) const LONGEST_LINE: usize = 16 * 1024;

/// Finds what `http::Uri` and hyper's parser silently ignore in a request line: a fragment, which a
/// target must not have (RFC 9112 3.2), and a bare carriage return before the line, which two
/// parsers could treat differently (RFC 9112 2.2). Returns the line up to that point.
///
/// `bytes` is the result of a read where a request line should begin. This is not certain: the line
/// may have arrived with the end of the previous request, and the bytes may belong to a body. So a
/// finding counts only if it [belongs to](is_line_of) the request that hyper has parsed.
pub(super) fn malformed_line(bytes: &[u8]) -> Option<&[u8]> {
    let is_bare = matches!(bytes, [b'\r', next, ..] if *next != b'\n');
    let rest = behind_line_ends(bytes);
    let line = &rest[..memchr(b'\n', rest).unwrap_or(rest.len())];
    match memchr(b'#', line) {
        Some(fragment) => Some(&line[..fragment]),
        None if is_bare => line.rsplitn(2, |byte| *byte == b' ').last(),
        None => None,
    }
}

/// Whether the line is complete.
pub(super) fn has_whole_line(bytes: &[u8]) -> bool {
    memchr(b'\n', behind_line_ends(bytes)).is_some()
}

fn behind_line_ends(bytes: &[u8]) -> &[u8] {
    let line = bytes.iter().position(|byte| !matches!(byte, b'\r' | b'\n'));
    &bytes[line.unwrap_or(bytes.len())..]
}

/// Whether a line with this beginning belongs to a request with this method and target.
pub(super) fn is_line_of(line: &[u8], method: &Method, target: &Uri) -> bool {
    let line = line.strip_prefix(method.as_str().as_bytes());
    let given = line.and_then(|line| line.strip_prefix(b" "));
    let read = target.to_string();
    // `http::Uri` shows a path where the client sent none.
    let shown = [read.as_bytes(), read.trim_end_matches('/').as_bytes()];
    given.is_some_and(|given| shown.contains(&given))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_counts_only_for_the_request_that_hyper_parsed() {
        let target = Uri::from_static("/x");
        for (bytes, expected) in [
            ("GET /x#y HTTP/1.1\n", true),
            ("\n\nGET /x# HTTP/1.1\n", true),
            ("\rGET /x HTTP/1.1\n", true),
            ("GET /x HTTP/1.1\na: #\n", false),
            ("POST /x#y HTTP/1.1\n", false),
            ("GET /#x HTTP/1.1\n", false),
            ("# a title", false),
            // The end of a head, a body of line ends, and another request.
            ("\n\n\n\r\r\n\nGET /x HTTP/1.1\n", false),
        ] {
            let line = malformed_line(bytes.as_bytes());
            let counts = line.is_some_and(|line| is_line_of(line, &Method::GET, &target));
            assert_eq!(counts, expected, "{bytes:?}");
        }
    }
}
