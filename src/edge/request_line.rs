//! What hyper does not tell of a request's first line.

use http::{Method, Uri};
use memchr::memchr;

/// Twice what a target may have; a longer line is refused whatever it holds.
pub(super) const LONGEST_LINE: usize = 16 * 1024;

/// Finds in the first line of a request what `http::Uri` and hyper's parser pass over in silence: a
/// fragment, which no target has (RFC 9112 3.2), and a bare carriage return before the line, which
/// two readers could take differently (RFC 9112 2.2). Gives the line up to where that is seen.
///
/// `bytes` is what a socket has read where a line should begin. It need not: the line may have come with the
/// end of the request before it, and a body be what is read now. So what is found counts only if it
/// [is of](is_line_of) the request that hyper has read.
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

/// Whether the line has come to its end.
pub(super) fn has_whole_line(bytes: &[u8]) -> bool {
    memchr(b'\n', behind_line_ends(bytes)).is_some()
}

fn behind_line_ends(bytes: &[u8]) -> &[u8] {
    let line = bytes.iter().position(|byte| !matches!(byte, b'\r' | b'\n'));
    &bytes[line.unwrap_or(bytes.len())..]
}

/// Whether a line that begins so is that of a request with this method and target.
pub(super) fn is_line_of(line: &[u8], method: &Method, target: &Uri) -> bool {
    let line = line.strip_prefix(method.as_str().as_bytes());
    let given = line.and_then(|line| line.strip_prefix(b" "));
    let read = target.to_string();
    // `http::Uri` shows a path where the client gave none.
    let shown = [read.as_bytes(), read.trim_end_matches('/').as_bytes()];
    given.is_some_and(|given| shown.contains(&given))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_found_counts_for_the_request_that_was_read() {
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
