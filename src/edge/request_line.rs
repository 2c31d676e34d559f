//! What hyper does not tell of a request's first line.

use http::Method;
use memchr::memchr;

/// Finds in the first line of a request what `http::Uri` and hyper's parser pass over in silence: a
/// fragment, which no target has (RFC 9112 3.2), and a bare carriage return before the line, which
/// two readers could take differently (RFC 9112 2.2).
///
/// Bytes are looked at as they come from the socket. A head that arrives in one read with the end of the
/// request before it is not seen: its fragment is dropped, as `http::Uri` drops it. If only its beginning
/// came so, its rest is looked at as if it were a line, which it is not: so what is found counts only in
/// a line that begins as the request does that hyper has read.
#[derive(Debug, Default)]
pub(super) struct RequestLine {
    place: Place,
    start: LineStart,
    known: usize,
    is_malformed: bool,
}

#[derive(Clone, Copy, Debug, Default)]
enum Place {
    /// It has not begun; the last byte was a carriage return or not.
    #[default]
    Ahead,
    Return,
    /// Its end has not come.
    Begun,
    Ended,
}

/// The first bytes of a line, zeros behind them if it is shorter.
pub(super) type LineStart = [u8; 8];

/// Whether a line that begins so can be that of a request with this method.
pub(super) fn is_line_of(start: LineStart, method: &Method) -> bool {
    let line = method.as_str().bytes().chain([b' ']);
    start
        .into_iter()
        .zip(line)
        .all(|(byte, other)| byte == other)
}

impl RequestLine {
    /// Looks at the next bytes of a head, and returns how the line begins if it is malformed.
    pub(super) fn look_at(&mut self, bytes: &[u8]) -> Option<LineStart> {
        let mut rest = bytes;
        while let (Place::Ahead | Place::Return, Some((first, behind))) =
            (self.place, rest.split_first())
        {
            self.is_malformed |= matches!(self.place, Place::Return) && *first != b'\n';
            self.place = match first {
                b'\r' => Place::Return,
                b'\n' => Place::Ahead,
                _ => Place::Begun,
            };
            if !matches!(self.place, Place::Begun) {
                rest = behind;
            }
        }
        if let Place::Begun = self.place {
            self.look_into(rest);
        }
        self.is_malformed.then_some(self.start)
    }

    /// Looks at bytes of the line, and perhaps behind it.
    fn look_into(&mut self, mut line: &[u8]) {
        if let Some(end) = memchr(b'\n', line) {
            self.place = Place::Ended;
            line = &line[..end];
        }
        let new = line.len().min(self.start.len() - self.known);
        self.start[self.known..][..new].copy_from_slice(&line[..new]);
        self.known += new;
        self.is_malformed |= memchr(b'#', line).is_some();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_malformed(pieces: &[&str]) -> bool {
        let mut line = RequestLine::default();
        let found = pieces.iter().map(|piece| line.look_at(piece.as_bytes()));
        let start = found.last().flatten();
        start.is_some_and(|start| is_line_of(start, &Method::GET))
    }

    #[test]
    fn what_is_found_in_another_line_does_not_count() {
        assert!(!is_malformed(&["1\r\n\r\n# a title"]));
        assert!(!is_malformed(&["\r\n\r\n\rtext"]));
        assert!(!is_malformed(&["x: GET #\r\n"]));
        assert!(is_malformed(&["\r", "\n\r", "\nG", "ET /#"]));
    }
}
