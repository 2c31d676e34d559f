//! Turns requests into answers: rules, faults, routes.

mod control;
mod inference;
mod routes;
mod rules;
mod store;

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::Value;

use crate::fault::{Ending, FaultKind};
use crate::log::ExchangeGuard;
use crate::server::{Connection, Cut, FinalBytes};
use crate::sim::Server;
use crate::wire::body::{BodyAction, BodyFault};
use crate::wire::{Dialect, Problem, SimBody, answer, read};

/// A request with its whole body.
pub(crate) struct Call {
    pub(crate) server: Arc<Server>,
    pub(crate) path: String,
    pub(crate) body: Bytes,
    /// The body as JSON; null if it is not JSON.
    pub(crate) json: Value,
    /// The parse error, if the body is not JSON.
    pub(crate) unreadable: Option<String>,
    pub(crate) first_token_bytes: Option<usize>,
}

impl Call {
    pub(crate) fn dialect(&self) -> Dialect {
        Dialect::of(&self.path)
    }
}

/// Answers one request.
pub(crate) async fn answer(
    server: Arc<Server>,
    connection: Arc<Connection>,
    request: Request<Incoming>,
) -> Result<Response<SimBody>, Cut> {
    if request.uri().path().starts_with("/sim") {
        return Ok(control::answer(&server, request).await);
    }
    let (head, body) = request.into_parts();
    let guard = server
        .log
        .arrive(connection.id, &head.method, &head.uri, &head.headers);
    let origin = match rules::check_origin_and_host(&head) {
        Ok(origin) => origin,
        Err(refusal) => return Ok(watch(*refusal, guard)),
    };
    let path = match routes::clean(&head.method, head.uri.path()) {
        Ok(path) => path,
        Err(redirect) => return Ok(watch(*redirect, guard)),
    };
    let before = server.faults.before_body(&path);
    if let Some(FaultKind::EarlyAnswer { status }) = before {
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::OK);
        return Ok(watch(answer::bytes(status, answer::JSON, "{}"), guard));
    }
    if let Some(digest) = store::existing_blob(&server, &head.method, &path) {
        let _ = digest;
        return Ok(watch(answer::empty(StatusCode::OK), guard));
    }
    let pause = match before {
        Some(FaultKind::SlowRead { ms }) => Some(Duration::from_millis(ms)),
        _ => None,
    };
    let body = read(body, pause, &guard).await?;
    let (json, unreadable) = match read::read(&body) {
        Ok(json) => (json, None),
        Err(parse_error) => (Value::Null, Some(parse_error)),
    };
    let mut call = Call {
        json,
        unreadable,
        server: server.clone(),
        path,
        body,
        first_token_bytes: None,
    };
    let model = call
        .json
        .get("model")
        .or(call.json.get("name"))
        .and_then(Value::as_str);
    if let Some(model) = model {
        guard.request().set_model(model);
    }
    let fault = server.faults.after_body(&call.path, model);
    let mut answer = match before_answer(fault.as_ref(), &mut call, &connection).await? {
        Some(answer) => answer,
        None => routes::dispatch(&head.method, call).await,
    };
    if let Some(origin) = origin {
        rules::allow(answer.headers_mut(), origin);
    }
    if let Some(fault) = fault {
        within_answer(fault, &mut answer, connection, &head.uri);
    }
    Ok(watch(answer, guard))
}

fn watch(mut answer: Response<SimBody>, guard: ExchangeGuard) -> Response<SimBody> {
    guard.request().set_status(answer.status().as_u16());
    answer.body_mut().set_guard(guard);
    answer
}

async fn read(
    mut body: Incoming,
    pause: Option<Duration>,
    guard: &ExchangeGuard,
) -> Result<Bytes, Cut> {
    let mut whole = BytesMut::new();
    let mut first = Bytes::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|_| Cut)?.into_data() else {
            continue;
        };
        if let Some(pause) = pause {
            tokio::time::sleep(pause).await;
        }
        guard.request().add_body_len(data.len());
        if first.is_empty() && whole.is_empty() {
            first = data;
            continue;
        }
        whole.extend_from_slice(&std::mem::take(&mut first));
        whole.extend_from_slice(&data);
    }
    let body = if whole.is_empty() {
        first
    } else {
        whole.freeze()
    };
    guard.request().set_body(body.clone());
    Ok(body)
}

/// Applies faults that replace or delay the answer.
async fn before_answer(
    fault: Option<&FaultKind>,
    call: &mut Call,
    connection: &Connection,
) -> Result<Option<Response<SimBody>>, Cut> {
    let leave = |bytes: Bytes, ending: Ending| {
        connection.leave(FinalBytes::new(bytes, ending));
        Err(Cut)
    };
    let dialect = call.dialect();
    Ok(Some(match fault {
        Some(FaultKind::Busy) => Problem::busy().answer(dialect, new_id),
        Some(FaultKind::LoadFailure) => {
            Problem::internal("llama-server process has terminated: signal: killed")
                .answer(dialect, new_id)
        }
        Some(FaultKind::Status { status, body }) => {
            let status = StatusCode::from_u16(*status).unwrap_or(StatusCode::OK);
            answer::bytes(status, "text/plain", body.clone())
        }
        Some(FaultKind::Hang) => std::future::pending().await,
        Some(FaultKind::Silence { ms }) => {
            tokio::time::sleep(Duration::from_millis(*ms)).await;
            return Ok(None);
        }
        Some(FaultKind::Drop { ending }) => return leave(Bytes::new(), *ending),
        Some(FaultKind::Garbage { after_lines: None }) => {
            return leave(
                Bytes::from_static(b"\x00\xff\x16\x03garbage\r\n\r\n"),
                Ending::Fin,
            );
        }
        Some(FaultKind::Raw { bytes, ending }) => return leave(bytes.clone().into(), *ending),
        Some(FaultKind::TwoLengths) => {
            let raw = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}\n";
            return leave(raw.into(), Ending::Hold);
        }
        Some(FaultKind::LengthAndChunked) => {
            let raw = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n";
            return leave(raw.into(), Ending::Hold);
        }
        Some(FaultKind::SwitchingProtocols) => {
            let raw = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
            return leave(raw.into(), Ending::Hold);
        }
        Some(FaultKind::HugeLine { bytes }) => {
            call.first_token_bytes = Some(*bytes as usize);
            return Ok(None);
        }
        _ => return Ok(None),
    }))
}

/// Applies faults after the head of an answer.
fn within_answer(
    fault: FaultKind,
    answer: &mut Response<SimBody>,
    connection: Arc<Connection>,
    uri: &http::Uri,
) {
    let (lines, act) = match fault {
        FaultKind::Die {
            after_lines,
            ending,
            cut,
        } => (after_lines, BodyAction::Die(ending, cut)),
        FaultKind::Truncate { after_lines } => (after_lines, BodyAction::Truncate),
        FaultKind::Garbage {
            after_lines: Some(lines),
        } => (lines, BodyAction::Garbage),
        FaultKind::Stall { after_lines, ms } => (
            after_lines,
            BodyAction::Stall(ms.map(Duration::from_millis)),
        ),
        FaultKind::EngineDies { after_lines } => {
            let dialect = Dialect::of(uri.path());
            if !answer.body().is_stream() {
                *answer = Problem::internal(ENGINE_DIED).answer(dialect, new_id);
                return;
            }
            (
                after_lines,
                BodyAction::EndWith(last_line_of_dead_engine(dialect, uri.path())),
            )
        }
        FaultKind::BigHeader { bytes } => {
            if let Ok(value) = HeaderValue::try_from("x".repeat(bytes as usize)) {
                answer.headers_mut().insert("x-big", value);
            }
            return;
        }
        _ => return,
    };
    answer
        .body_mut()
        .set_fault(BodyFault::new(lines, connection, act));
}

const ENGINE_DIED: &str = "an error was encountered while running the model: unexpected EOF";

/// The last line of a real server whose engine was killed: an error on native routes, an empty
/// chunk on OpenAI's routes, nothing on other routes.
fn last_line_of_dead_engine(dialect: Dialect, path: &str) -> Option<Bytes> {
    let seconds = crate::engine::seconds();
    match dialect {
        Dialect::Native => {
            let mut line = answer::error_line(ENGINE_DIED);
            line.push(b'\n');
            Some(line.into())
        }
        Dialect::OpenAi if path.ends_with("/chat/completions") => Some(Bytes::from(format!(
            "data: {{\"id\":\"chatcmpl-1\",\"object\":\"chat.completion.chunk\",\"created\":{seconds},\"model\":\"\",\"system_fingerprint\":\"fp_ollama\",\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"\"}},\"finish_reason\":null}}]}}\n\n"
        ))),
        Dialect::OpenAi => Some(Bytes::from(format!(
            "data: {{\"id\":\"cmpl-1\",\"object\":\"text_completion\",\"created\":{seconds},\"choices\":[{{\"text\":\"\",\"index\":0,\"finish_reason\":null}}],\"model\":\"\",\"system_fingerprint\":\"fp_ollama\"}}\n\n"
        ))),
        Dialect::Responses | Dialect::Anthropic => None,
    }
}

fn new_id() -> String {
    format!("req_{:024x}", crate::engine::seconds())
}

/// Whether a request with this method has no body.
pub(crate) fn is_get(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD)
}
