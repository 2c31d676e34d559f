//! One stream of lines from those of several servers.

use std::convert::Infallible;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::stream::{self, BoxStream, SelectAll, StreamExt};
use http::Response;
use http_body::{Body, Frame};
use http_body_util::{BodyExt, StreamBody};
use llamatower_layers::BoxError;
use serde_json::json;

use super::failed::{FailedServer, ServersFailed};
use super::lines::Event;
use super::log::Log;
use super::ndjson;

/// Ollama's last line of a pull that succeeded.
pub(super) const SUCCESS: &str = r#"{"status":"success"}"#;

struct Merged {
    servers: SelectAll<BoxStream<'static, (Arc<str>, Event)>>,
    count: usize,
    failed: Vec<FailedServer>,
    log: Log,
    is_over: bool,
}

/// The response with the lines of all servers, as they arrive. Each line has a field `server`. The
/// last line has not: it is Ollama's `success` if all servers succeeded, else an error that names
/// those that failed.
///
/// The failure of one server has no field `error`, at which clients of Ollama stop to read.
pub(super) fn answer(
    sources: Vec<(Arc<str>, BoxStream<'static, Event>)>,
    log: Log,
) -> Response<impl Body<Data = Bytes, Error = BoxError> + Send + 'static> {
    let count = sources.len();
    let named = sources.into_iter().map(|(server, events)| {
        let named = events.map(move |event| (server.clone(), event));
        named.boxed()
    });
    let merged = Merged {
        servers: stream::select_all(named),
        count,
        failed: Vec::new(),
        log,
        is_over: false,
    };
    let lines = stream::unfold(merged, |mut merged| async move {
        let line = merged.next().await?;
        Some((Ok::<_, Infallible>(Frame::data(line)), merged))
    });
    ndjson(StreamBody::new(lines).map_err(|never| match never {}))
}

impl Merged {
    /// The next line of the response.
    async fn next(&mut self) -> Option<Bytes> {
        if self.is_over {
            return None;
        }
        Some(match self.servers.next().await {
            Some((server, Event::Line(line))) => tagged(&line, &server),
            Some((server, Event::Failed(reason))) => {
                let line = json!({"status": "failed", "reason": reason, "server": *server});
                self.log.failed([&server].into_iter());
                self.failed.push(FailedServer {
                    server,
                    status: None,
                    reason,
                });
                format!("{line}\n").into()
            }
            None => {
                self.is_over = true;
                self.last_line()
            }
        })
    }

    fn last_line(&mut self) -> Bytes {
        let failed = std::mem::take(&mut self.failed);
        match failed.is_empty() {
            true => format!("{SUCCESS}\n").into(),
            false => {
                let error = ServersFailed::new(self.count, failed).to_string();
                format!("{}\n", json!({ "error": error })).into()
            }
        }
    }
}

/// A line with a JSON object, and the server as its last field. The other bytes are not changed.
fn tagged(line: &Bytes, server: &str) -> Bytes {
    let fields = line.strip_suffix(b"}").unwrap_or(line).trim_ascii_end();
    let name = serde_json::Value::from(server).to_string();
    let mut tagged = BytesMut::with_capacity(line.len() + name.len() + 16);
    tagged.put(fields);
    if fields != b"{" {
        tagged.put_u8(b',');
    }
    tagged.put(&b"\"server\":"[..]);
    tagged.put(name.as_bytes());
    tagged.put(&b"}\n"[..]);
    tagged.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_keeps_its_bytes_and_gets_the_server_as_last_field() {
        let tagged = |line: &'static str| tagged(&Bytes::from(line), "gpu-1:11434");
        assert_eq!(
            tagged(r#"{"status":"pulling \u003c","total":12 }"#),
            "{\"status\":\"pulling \\u003c\",\"total\":12,\"server\":\"gpu-1:11434\"}\n"
        );
        assert_eq!(tagged("{}"), "{\"server\":\"gpu-1:11434\"}\n");
    }
}
