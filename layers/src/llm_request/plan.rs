//! How a request is to be scanned, and what is done with what was found.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, header};

use super::encoding::{Encoding, scan_zstd};
use super::form::{boundary, scan_form};
use super::layer::Config;
use super::scan::{Keys, ScanError, Scanned, Scanner};
use super::{LlmRequest, MalformedBody};
use crate::body::ReplayBody;
use crate::{Dialect, Endpoint, Failure, Operation, RouteMatch};

/// Up to so many bytes are scanned without a pause: a fraction of a millisecond.
const SLICE: usize = 512 << 10;

/// What a request's head says of the way to its model.
pub(super) enum Plan {
    /// There is nothing to scan.
    Pass,
    Json,
    Zstd,
    Form {
        boundary: String,
    },
}

impl Plan {
    pub(super) fn of<B>(
        request: &Request<ReplayBody<B>>,
        endpoint: &Endpoint,
    ) -> Result<Self, Failure> {
        let Some(len) = request.body().len() else {
            return Ok(Self::Pass);
        };
        match endpoint.operation {
            operation if !has_body(operation) => return Ok(Self::Pass),
            // Whether a path that only the operator knows takes a body is not known either.
            Operation::Extra if len == 0 || request.method() == Method::GET => {
                return Ok(Self::Pass);
            }
            _ => {}
        }
        Ok(match Encoding::of(request.headers(), endpoint.dialect)? {
            Encoding::Zstd => Self::Zstd,
            Encoding::Plain => match endpoint.operation {
                Operation::Transcribe | Operation::Extra => match boundary(request.headers()) {
                    Some(boundary) => Self::Form { boundary },
                    None => Self::Json,
                },
                _ => Self::Json,
            },
        })
    }
}

fn has_body(operation: Operation) -> bool {
    use Operation::{
        Chat, Copy, Create, Delete, Embed, Extra, Generate, Pull, Push, Show, Transcribe,
    };
    matches!(
        operation,
        Show | Generate | Chat | Embed | Transcribe | Pull | Push | Create | Copy | Delete | Extra
    )
}

/// The endpoint of a request, if it is one of the table.
pub(super) fn endpoint_of<B>(request: &Request<B>) -> Option<Arc<Endpoint>> {
    match RouteMatch::of(request.extensions()) {
        Some(RouteMatch::Found { endpoint, .. }) => Some(endpoint.clone()),
        _ => None,
    }
}

/// Scans a short JSON body at once; `None` if it is long.
pub(super) fn scan_at_once(
    segments: &[Bytes],
    len: u64,
    endpoint: &Endpoint,
) -> Option<Result<Scanned, Failure>> {
    (len <= SLICE as u64).then(|| {
        let mut scanner = Scanner::new(Keys::of(endpoint.dialect, endpoint.operation));
        segments
            .iter()
            .try_for_each(|segment| scanner.feed(segment))
            .and_then(|()| scanner.finish())
            .map_err(|reason| MalformedBody::at(endpoint, reason).into())
    })
}

/// Scans a body of any length and kind, with pauses.
pub(super) async fn scan_in_slices(
    plan: Plan,
    segments: Vec<Bytes>,
    endpoint: Arc<Endpoint>,
    config: Arc<Config>,
) -> Result<Scanned, Failure> {
    match plan {
        Plan::Zstd => {
            let Config {
                decoded_limit,
                budget,
                ..
            } = &*config;
            scan_zstd(segments, &endpoint, *decoded_limit, budget.clone()).await
        }
        Plan::Form { boundary } => scan_form(segments, boundary, &endpoint).await,
        Plan::Json | Plan::Pass => {
            let fail = |reason: ScanError| Failure::from(MalformedBody::at(&endpoint, reason));
            let mut scanner = Scanner::new(Keys::of(endpoint.dialect, endpoint.operation));
            for slice in segments.iter().flat_map(|segment| segment.chunks(SLICE)) {
                scanner.feed(slice).map_err(fail)?;
                tokio::task::yield_now().await;
            }
            scanner.finish().map_err(fail)
        }
    }
}

/// Fills in a missing model, and tells the rest of the stack what was found.
pub(super) fn settle<B>(
    request: &mut Request<ReplayBody<B>>,
    endpoint: &Endpoint,
    mut scanned: Scanned,
    is_json: bool,
    default_model: Option<&Arc<str>>,
) {
    let operation = endpoint.operation;
    let mut model = scanned.model.take();
    if let (None, true, true, Some(default)) =
        (&model, is_json, operation.is_inference(), default_model)
        && let Some(body) = with_model(request.body(), &scanned, default)
    {
        let len = body.len().unwrap_or(0);
        *request.body_mut() = body;
        model = Some(default.clone());
        if let Some(length) = request.headers_mut().get_mut(header::CONTENT_LENGTH) {
            *length = HeaderValue::from(len);
        }
    }
    let works_on_content = matches!(
        operation,
        Operation::Generate | Operation::Chat | Operation::Embed
    );
    let has_no_prompt = works_on_content && scanned.has_no_prompt;
    // Ollama answers a request to load or unload with one object, whatever `stream` says.
    let is_load = has_no_prompt && endpoint.dialect == Dialect::Ollama;
    let stream = !is_load && scanned.stream.unwrap_or(endpoint.streams_by_default);
    #[cfg(feature = "outcome")]
    crate::Record::update_in(request.extensions(), |outcome| {
        outcome.model.clone_from(&model);
        outcome.stream = stream;
    });
    let body_bytes = request.body().len().unwrap_or(0);
    request.extensions_mut().insert(LlmRequest {
        dialect: endpoint.dialect,
        operation,
        model,
        stream,
        keep_alive: scanned.keep_alive,
        num_ctx: scanned.num_ctx,
        has_no_prompt,
        body_bytes,
    });
}

/// The same body with the model in it: in the place of a null or an empty name, or before all
/// other members.
fn with_model<B>(
    body: &ReplayBody<B>,
    scanned: &Scanned,
    model: &Arc<str>,
) -> Option<ReplayBody<B>> {
    let name = serde_json::Value::from(&**model);
    let begin = scanned.members_begin;
    let (range, text) = match &scanned.model_value {
        Some(value) => (value.clone(), format!("{name}")),
        None if scanned.is_empty_object => (begin..begin, format!(r#""model":{name}"#)),
        None => (begin..begin, format!(r#""model":{name},"#)),
    };
    body.splice(range, text.into())
}
