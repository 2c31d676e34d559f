//! Plans the scan of a request, and applies its result.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request};

use super::edit::{EditPlaces, replace};
use super::encoding::{Encoding, scan_zstd};
use super::error::UnlimitedOutput;
use super::form::{boundary, scan_form};
use super::layer::Config;
use super::output::{LimitedOutput, generates, limit_output};
use super::scan::{Keys, ScanError, Scanned, Scanner};
use super::{LlmRequest, MalformedBody};
use crate::body::ReplayBody;
use crate::{Dialect, Endpoint, Failure, Operation, RouteMatch};

/// Up to this many bytes are scanned without a pause: a fraction of a millisecond.
const SLICE: usize = 512 << 10;

/// How to find the model, by the request's head.
pub(super) enum Plan {
    /// Nothing has to be scanned.
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
            // It is not known whether an extra path expects a body.
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
        Chat, Copy, CountTokens, Create, Delete, Embed, Extra, Generate, Pull, Push, Show,
        Transcribe,
    };
    matches!(
        operation,
        Show | Generate
            | Chat
            | Embed
            | Transcribe
            | CountTokens
            | Pull
            | Push
            | Create
            | Copy
            | Delete
            | Extra
    )
}

/// The endpoint of a request, if it is in the table.
pub(super) fn endpoint_of<B>(request: &Request<B>) -> Option<Arc<Endpoint>> {
    match RouteMatch::of(request.extensions()) {
        Some(RouteMatch::Found { endpoint, .. }) => Some(endpoint.clone()),
        _ => None,
    }
}

/// The scanner of a body for this endpoint.
pub(super) fn scanner(endpoint: &Endpoint, config: &Config) -> Scanner {
    let acts = config.max_output_tokens.is_some() && generates(endpoint.operation);
    let scanner = Scanner::new(Keys::of(endpoint.dialect, endpoint.operation));
    let scanner = scanner.with_output_limits(acts);
    match endpoint.operation {
        Operation::Generate | Operation::Chat => scanner.with_prefix_blocks(config.prefix_blocks),
        // Only these have a prompt that servers cache.
        _ => scanner,
    }
}

/// A JSON body that is being scanned.
pub(super) struct JsonScan {
    scanner: Scanner,
    /// The next segment, and how much of it was read.
    segment: usize,
    read: usize,
}

impl JsonScan {
    pub(super) fn new(endpoint: &Endpoint, config: &Config) -> Self {
        Self {
            scanner: scanner(endpoint, config),
            segment: 0,
            read: 0,
        }
    }

    /// Scans the next slice of the body; returns whether there is more.
    pub(super) fn step(&mut self, segments: &[Bytes]) -> Result<bool, ScanError> {
        let mut left = SLICE;
        while let Some(segment) = segments.get(self.segment) {
            if left == 0 {
                return Ok(true);
            }
            let rest = &segment[self.read..];
            let slice = &rest[..rest.len().min(left)];
            self.scanner.feed(slice)?;
            left -= slice.len();
            self.read += slice.len();
            if self.read == segment.len() {
                (self.segment, self.read) = (self.segment + 1, 0);
            }
        }
        Ok(false)
    }

    /// The result, at the end.
    pub(super) fn finish(self) -> Result<Scanned, ScanError> {
        self.scanner.finish()
    }
}

/// The rest of a scan that is too long for one poll.
pub(super) enum RemainingScan {
    Json(Box<JsonScan>),
    Zstd,
    Form { boundary: String },
}

impl RemainingScan {
    /// Continues the scan, with pauses in which other requests can run.
    pub(super) async fn scan(
        self,
        segments: Vec<Bytes>,
        endpoint: Arc<Endpoint>,
        config: Arc<Config>,
    ) -> Result<Scanned, Failure> {
        match self {
            Self::Zstd => scan_zstd(segments, &endpoint, &config).await,
            Self::Form { boundary } => scan_form(segments, boundary, &endpoint).await,
            Self::Json(mut scan) => {
                let fail = |reason| Failure::from(MalformedBody::at(&endpoint, reason));
                loop {
                    tokio::task::yield_now().await;
                    if !scan.step(&segments).map_err(fail)? {
                        return scan.finish().map_err(fail);
                    }
                }
            }
        }
    }
}

/// Fills in a missing model, and stores the result in the request.
pub(super) fn settle<B>(
    request: &mut Request<ReplayBody<B>>,
    endpoint: &Endpoint,
    mut scanned: Scanned,
    is_json: bool,
    config: &Config,
) -> Result<(), Failure> {
    let operation = endpoint.operation;
    // That of the client's body: what is inserted below is no prompt, and a limit of tokens that has
    // reserved by `Content-Length` has reserved enough.
    let prompt_bytes = prompt_bytes(request.body().len().unwrap_or(0), &scanned);
    let max_output = config.max_output_tokens.filter(|_| generates(operation));
    if let Some(max) = max_output {
        let is_limited = limit_output(request, endpoint, &mut scanned, is_json, max);
        let max = max.get();
        if is_limited.ok_or(UnlimitedOutput { max })? {
            request.extensions_mut().insert(LimitedOutput(max));
        }
    }
    let default_model = config.default_model.as_ref();
    let mut model = scanned.model.take();
    if let (None, true, true, Some(default)) =
        (&model, is_json, operation.is_inference(), default_model)
    {
        let (range, text) = with_model(&scanned, default);
        let length = text.len() as u64;
        if replace(request, range.clone(), text) {
            model = Some(default.clone());
            let quotes = with_model_place(&range, length, &scanned);
            scanned.places = scanned.places.after_splice(&range, length);
            scanned.places.model = Some(quotes);
        }
    }
    let works_on_content = matches!(
        operation,
        Operation::Generate | Operation::Chat | Operation::Embed
    );
    let has_no_prompt = works_on_content && scanned.has_no_prompt;
    // Ollama answers a request to load or unload with one object, whatever `stream` is.
    let is_load = has_no_prompt && endpoint.dialect == Dialect::Ollama;
    let stream = !is_load && scanned.stream.unwrap_or(endpoint.streams_by_default);
    let body_bytes = request.body().len().unwrap_or(0);
    #[cfg(feature = "outcome")]
    crate::Record::update_in(request.extensions(), |outcome| {
        outcome.model.clone_from(&model);
        outcome.stream = stream;
        outcome.body_bytes = Some(body_bytes);
        outcome.prompt_bytes = Some(prompt_bytes);
        outcome.has_no_prompt = has_no_prompt;
        outcome.max_tokens = scanned.max_tokens;
    });
    let found = LlmRequest {
        dialect: endpoint.dialect,
        operation,
        model,
        stream,
        keep_alive: scanned.keep_alive,
        num_ctx: scanned.num_ctx,
        has_no_prompt,
        needs: scanned.needs,
        body_bytes,
        prompt_bytes,
        prefix: scanned.prefix,
        places: match (
            is_json,
            works_on_content && endpoint.dialect == Dialect::Ollama,
        ) {
            (true, true) => scanned.places,
            (true, false) => scanned.places.of_all_dialects(),
            (false, _) => EditPlaces::default(),
        },
    };
    found.put_into(request.extensions_mut());
    Ok(())
}

/// See [`LlmRequest::prompt_bytes`].
fn prompt_bytes(body_bytes: u64, scanned: &Scanned) -> u64 {
    const MOST_OF_IMAGES: u64 = 16 << 10;
    // Longer than the body if that is compressed.
    let all = body_bytes.max(scanned.json_bytes);
    let images = match scanned.json_bytes {
        // A form with a file.
        0 => all,
        _ => scanned.image_bytes.min(all),
    };
    all - images + images.min(MOST_OF_IMAGES)
}

/// Where to insert the model, and the text: instead of a null or an empty name, or before all other
/// members.
fn with_model(scanned: &Scanned, model: &Arc<str>) -> (Range<u64>, Bytes) {
    let name = serde_json::Value::from(&**model);
    let begin = scanned.members_begin;
    let (range, text) = match &scanned.model_value {
        Some(value) => (value.clone(), format!("{name}")),
        None if scanned.is_empty_object => (begin..begin, format!(r#""model":{name}"#)),
        None => (begin..begin, format!(r#""model":{name},"#)),
    };
    (range, text.into())
}

/// Where the quoted name stands in the body after [`with_model`]'s text of this length was put
/// there.
fn with_model_place(range: &Range<u64>, length: u64, scanned: &Scanned) -> Range<u64> {
    const KEY: u64 = r#""model":"#.len() as u64;
    let end = range.start + length;
    match &scanned.model_value {
        Some(_) => range.start..end,
        None if scanned.is_empty_object => range.start + KEY..end,
        None => range.start + KEY..end - 1,
    }
}
