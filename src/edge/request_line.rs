//! What hyper does not tell of a request's first line.

use memchr::memchr;

/// Finds in the first line of a request what `http::Uri` and hyper's parser pass over in silence: a
/// fragment, which no target has (RFC 9112 3.2), and a bare carriage return before the line, which
/// two readers could take differently (RFC 9112 2.2).
///
/// Bytes are looked at as they come from the socket. A line that arrives in one read with the end of the
/// request before it is not seen: its fragment is dropped, as `http::Uri` drops it.
#[derive(Debug, Default)]
pub(super) enum RequestLine {
    /// It has not begun; the last byte was a carriage return or not.
    #[default]
    Ahead,
    Return,
    /// Its end has not come.
    Begun,
    Ended,
}

impl RequestLine {
    /// Looks at the next bytes of a head.
    pub(super) fn is_malformed(&mut self, bytes: &[u8]) -> bool {
        let mut rest = bytes;
        while let (Self::Ahead | Self::Return, Some((first, behind))) = (&*self, rest.split_first())
        {
            *self = match (&*self, first) {
                (_, b'\n') => Self::Ahead,
                (Self::Ahead, b'\r') => Self::Return,
                (Self::Ahead, _) => Self::Begun,
                _ => return true,
            };
            if !matches!(self, Self::Begun) {
                rest = behind;
            }
        }
        let Self::Begun = self else { return false };
        let line = match memchr(b'\n', rest) {
            Some(end) => {
                *self = Self::Ended;
                &rest[..end]
            }
            None => rest,
        };
        memchr(b'#', line).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_malformed(pieces: &[&str]) -> bool {
        let mut line = RequestLine::default();
        let mut is_malformed = false;
        for piece in pieces {
            is_malformed |= line.is_malformed(piece.as_bytes());
        }
        is_malformed
    }

    #[test]
    fn a_fragment_is_found_wherever_the_line_is_cut() {
        let line = "GET /#x HTTP/1.1";
        for cut in 0..line.len() {
            let (first, second) = line.split_at(cut);
            assert!(is_malformed(&[first, second]), "{cut}");
        }
        assert!(!is_malformed(&["GET /%23 HTTP/1.1\n", "x: #\n\n"]));
        assert!(!is_malformed(&["GET /%23 HTTP/1.1\nx: #", "#\n\n"]));
    }

    #[test]
    fn an_empty_line_before_a_request_has_a_line_feed() {
        assert!(is_malformed(&["\rGET / HTTP/1.1"]));
        assert!(is_malformed(&["\r", "\r"]));
        assert!(!is_malformed(&["\r", "\n\n", "GET / HTTP/1.1"]));
    }
}
