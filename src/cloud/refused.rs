//! Logs what the service says about its own failures, at the level `debug`: some services repeat parts of
//! the request there.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{Response, StatusCode};
use http_body_util::{BodyExt, Full};
use llamatower_layers::{BoxError, Record};
use tokio::time::timeout;

use super::overflow::is_unavailable;
use crate::ollama::AnswerBody;
use crate::openai::error::text_of;

/// The part of an error that is read, in bytes.
const MAX_READ: usize = 16 * 1024;

/// How long the service may take to send it.
const READ_TIMEOUT: Duration = Duration::from_secs(2);

/// The part of its text that is logged, in characters.
const MAX_LOGGED: usize = 500;

/// Logs the text of an answer that clients do not get. The text of a refused key is left out, because
/// services repeat the key there.
pub(super) async fn log(
    answer: Response<AnswerBody>,
    record: Option<Record>,
) -> Result<Response<AnswerBody>, BoxError> {
    let status = answer.status();
    let is_about_the_key = matches!(status.as_u16(), 401 | 403);
    if !is_unavailable(status) || is_about_the_key {
        return Ok(answer);
    }
    let (head, body) = answer.into_parts();
    let read = Record::reading(record.as_ref(), beginning(body)).await;
    tracing::debug!(
        status = status.as_u16(),
        reason = shown(status, &read),
        "the cloud service responded with an error"
    );
    let body = Full::new(read).map_err(|never| match never {});
    Ok(Response::from_parts(head, AnswerBody::new(body)))
}

/// As much of a body as comes in time.
async fn beginning(mut body: AnswerBody) -> Bytes {
    let mut read = BytesMut::new();
    let reading = async {
        while read.len() < MAX_READ
            && let Some(Ok(frame)) = body.frame().await
        {
            read.extend_from_slice(frame.data_ref().map_or(&[], |data| data));
        }
    };
    // What has come until then is enough.
    let _ = timeout(READ_TIMEOUT, reading).await;
    read.truncate(MAX_READ);
    read.freeze()
}

/// The text of an error, bounded and without control characters.
fn shown(status: StatusCode, body: &[u8]) -> String {
    let text = text_of(body);
    if text.is_empty() {
        return status.to_string();
    }
    let mut shown = String::new();
    for character in text.chars().take(MAX_LOGGED) {
        match character.is_control() {
            true => shown.extend(character.escape_default()),
            false => shown.push(character),
        }
    }
    if text.chars().nth(MAX_LOGGED).is_some() {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_bounded_and_control_characters_are_escaped() {
        let shown = |body: &str| shown(StatusCode::BAD_GATEWAY, body.as_bytes());
        let body = r#"{"error":{"message":"over\u001b[31m capacity\nlevel=error"}}"#;
        assert_eq!(shown(body), r"over\u{1b}[31m capacity\nlevel=error");
        assert_eq!(shown(&"ä".repeat(900)).chars().count(), MAX_LOGGED + 1);
        assert_eq!(shown(""), "502 Bad Gateway");
    }
}
