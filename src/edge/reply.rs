//! The head of an answer as it leaves, and how its body is framed (RFC 9112 6).

use std::cell::Cell;
use std::time::{Duration, SystemTime};

use http::header::{CONNECTION, CONTENT_LENGTH, DATE, TRANSFER_ENCODING};
use http::{HeaderValue, StatusCode, Version, response};
use http_body::Body;
use llamatower_layers::frames;

use crate::http1::encode::Encoder;
use crate::http1::fields::{ReasonPhrase, has_connection_option, settled_length, write_fields};

/// What of a request its answer depends on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    pub(super) version: Version,
    pub(super) is_head: bool,
}

/// Chooses the framing and says it in the head.
pub(super) fn frame(asked: Asked, head: &mut response::Parts, body: &impl Body) -> Encoder {
    head.headers.remove(TRANSFER_ENCODING);
    if head.status.is_informational() {
        // A client would go on waiting for the answer.
        head.status = StatusCode::INTERNAL_SERVER_ERROR;
    }
    if head.status == StatusCode::NO_CONTENT {
        // RFC 9110 8.6
        head.headers.remove(CONTENT_LENGTH);
    }
    let is_without = asked.is_head
        || matches!(
            head.status,
            StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED
        );
    let said = settled_length(&mut head.headers);
    let known = said.or_else(|| body.size_hint().exact());
    if is_without {
        if let Some(length @ 1..) = known.filter(|_| asked.is_head && said.is_none()) {
            head.headers
                .insert(CONTENT_LENGTH, HeaderValue::from(length));
        }
        return Encoder::Length(0);
    }
    if let Some(length) = known {
        if said.is_none() {
            head.headers
                .insert(CONTENT_LENGTH, HeaderValue::from(length));
        }
        return Encoder::Length(length);
    }
    if asked.version < Version::HTTP_11 {
        return Encoder::UntilClose;
    }
    let chunked = HeaderValue::from_static("chunked");
    head.headers.insert(TRANSFER_ENCODING, chunked);
    match frames::Framing::of(&head.headers) {
        Some(frames::Framing::Ndjson) => Encoder::Lines,
        _ => Encoder::Chunked,
    }
}

/// Says in the head whether the connection is used again, and returns that.
pub(super) fn settle_connection(
    asked: Asked,
    keeps_alive: bool,
    head: &mut response::Parts,
) -> bool {
    let is_closed = has_connection_option(&head.headers, b"close");
    let option = match (keeps_alive && !is_closed, asked.version) {
        (true, Version::HTTP_10) => "keep-alive",
        (false, Version::HTTP_11) if !is_closed => "close",
        (keeps_alive, _) => return keeps_alive,
    };
    head.headers
        .insert(CONNECTION, HeaderValue::from_static(option));
    keeps_alive && !is_closed
}

/// Writes the head of an answer.
pub(super) fn write_head(version: Version, head: &response::Parts, wire: &mut Vec<u8>) {
    wire.extend_from_slice(match version {
        Version::HTTP_10 => b"HTTP/1.0 ",
        _ => b"HTTP/1.1 ",
    });
    wire.extend_from_slice(head.status.as_str().as_bytes());
    wire.push(b' ');
    let reason = match head.extensions.get() {
        Some(ReasonPhrase(reason)) => reason.as_bytes(),
        None => head
            .status
            .canonical_reason()
            .unwrap_or_default()
            .as_bytes(),
    };
    wire.extend_from_slice(reason);
    wire.extend_from_slice(b"\r\n");
    write_fields(&head.headers, wire);
    if !head.headers.contains_key(DATE) {
        write_date(wire);
    }
    wire.extend_from_slice(b"\r\n");
}

/// A server with a clock says what it shows (RFC 9110 6.6.1).
fn write_date(wire: &mut Vec<u8>) {
    thread_local! {
        static LAST: Cell<(u64, [u8; 29])> = const { Cell::new((0, [0; 29])) };
    }
    let now = SystemTime::now();
    let since = now.duration_since(SystemTime::UNIX_EPOCH);
    let second = since.as_ref().map_or(0, Duration::as_secs);
    let (last, mut text) = LAST.get();
    if last != second || second == 0 {
        // What has another length than all dates of HTTP is none.
        let Ok(now) = httpdate::fmt_http_date(now).as_bytes().try_into() else {
            return;
        };
        text = now;
        LAST.set((second, text));
    }
    wire.extend_from_slice(b"date: ");
    wire.extend_from_slice(&text);
    wire.extend_from_slice(b"\r\n");
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use bytes::Bytes;
    use http::Response;
    use http_body_util::{BodyExt, Empty, Full};

    use super::*;

    const ASKED: Asked = Asked {
        version: Version::HTTP_11,
        is_head: false,
    };

    fn head(status: u16, fields: &[(&'static str, &'static str)]) -> response::Parts {
        let mut answer = Response::builder().status(status);
        for (name, value) in fields {
            answer = answer.header(*name, *value);
        }
        answer.body(()).unwrap().into_parts().0
    }

    /// The framing, and what the head says of it.
    fn framed(asked: Asked, mut head: response::Parts, body: &impl Body) -> (Encoder, String) {
        let encoder = frame(asked, &mut head, body);
        let shown = |(name, value): (&http::HeaderName, &HeaderValue)| {
            format!("{name}: {}", value.to_str().unwrap())
        };
        (
            encoder,
            head.headers
                .iter()
                .map(shown)
                .collect::<Vec<_>>()
                .join(", "),
        )
    }

    #[test]
    fn a_body_of_known_length_says_it_and_all_others_come_in_chunks() {
        let text = Full::new(Bytes::from_static(b"text"));
        let stream = text.clone().map_frame(|frame| frame);
        let stream = http_body_util::StreamBody::new(http_body_util::BodyStream::new(stream));
        assert_eq!(
            framed(ASKED, head(200, &[]), &text),
            (Encoder::Length(4), "content-length: 4".into())
        );
        assert_eq!(
            framed(ASKED, head(200, &[("content-length", "9")]), &stream),
            (Encoder::Length(9), "content-length: 9".into())
        );
        assert_eq!(
            framed(ASKED, head(200, &[]), &stream),
            (Encoder::Chunked, "transfer-encoding: chunked".into())
        );
        let lines = [("content-type", "application/x-ndjson")];
        assert_eq!(framed(ASKED, head(200, &lines), &stream).0, Encoder::Lines);
        let old = Asked {
            version: Version::HTTP_10,
            ..ASKED
        };
        assert_eq!(
            framed(old, head(200, &[("transfer-encoding", "chunked")]), &stream),
            (Encoder::UntilClose, String::new())
        );
    }

    #[test]
    fn a_length_on_which_no_client_could_rely_is_not_said() {
        let text = Full::new(Bytes::from_static(b"text"));
        let stream = http_body_util::BodyStream::new(text.clone());
        let stream = http_body_util::StreamBody::new(stream);
        let wrong: [&[_]; 3] = [
            &[("content-length", "four")],
            &[("content-length", "+4")],
            &[("content-length", "4"), ("content-length", "5")],
        ];
        let twice = [("content-length", "4"), ("content-length", "4")];
        assert_eq!(
            framed(ASKED, head(200, &twice), &stream),
            (Encoder::Length(4), "content-length: 4".into())
        );
        for fields in wrong {
            assert_eq!(
                framed(ASKED, head(200, fields), &stream),
                (Encoder::Chunked, "transfer-encoding: chunked".into())
            );
            assert_eq!(
                framed(ASKED, head(200, fields), &text),
                (Encoder::Length(4), "content-length: 4".into())
            );
        }
    }

    #[test]
    fn an_answer_that_has_no_body_owes_none() {
        let text = Full::new(Bytes::from_static(b"text"));
        for status in [204, 304] {
            assert_eq!(
                framed(ASKED, head(status, &[]), &text),
                (Encoder::Length(0), String::new())
            );
        }
        let length = [("content-length", "4")];
        assert_eq!(framed(ASKED, head(204, &length), &text).1, "");
        let asked = Asked {
            is_head: true,
            ..ASKED
        };
        assert_eq!(
            framed(asked, head(200, &[]), &text),
            (Encoder::Length(0), "content-length: 4".into())
        );
        assert_eq!(
            framed(asked, head(200, &[]), &Empty::<Bytes>::new()),
            (Encoder::Length(0), String::new())
        );
    }

    #[test]
    fn the_head_says_whether_the_connection_is_used_again() {
        let settle = |version, keeps_alive, fields: &[_]| {
            let asked = Asked { version, ..ASKED };
            let mut head = head(200, fields);
            let kept = settle_connection(asked, keeps_alive, &mut head);
            let said = head.headers.get(CONNECTION).cloned();
            (kept, said.map(|said| said.to_str().unwrap().to_owned()))
        };
        let said = |option: &str| Some(option.to_owned());
        assert_eq!(settle(Version::HTTP_11, true, &[]), (true, None));
        assert_eq!(settle(Version::HTTP_11, false, &[]), (false, said("close")));
        assert_eq!(
            settle(Version::HTTP_10, true, &[]),
            (true, said("keep-alive"))
        );
        assert_eq!(settle(Version::HTTP_10, false, &[]), (false, None));
        let close = [("connection", "close")];
        assert_eq!(
            settle(Version::HTTP_11, true, &close),
            (false, said("close"))
        );
    }

    #[test]
    fn a_head_has_its_status_its_fields_and_a_date() {
        let mut wire = Vec::new();
        write_head(Version::HTTP_11, &head(404, &[("a", "b")]), &mut wire);
        let text = String::from_utf8(wire).unwrap();
        let (start, date) = text.split_once("date: ").unwrap();
        assert_eq!(start, "HTTP/1.1 404 Not Found\r\na: b\r\n");
        assert!(httpdate::parse_http_date(date.trim_end()).is_ok(), "{date}");
        let mut wire = Vec::new();
        let mut odd = head(299, &[("date", "then")]);
        odd.extensions
            .insert(ReasonPhrase(HeaderValue::from_static("Well")));
        write_head(Version::HTTP_10, &odd, &mut wire);
        assert_eq!(wire, b"HTTP/1.0 299 Well\r\ndate: then\r\n\r\n");
    }
}
