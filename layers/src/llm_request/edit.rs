//! Changes to single values of a body, without parsing it again.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, Request, header};
use smallvec::SmallVec;

use super::{KeepAlive, LlmRequest};
use crate::body::ReplayBody;

/// Where the values of a body stand that [`BodyEdits`] can change.
///
/// It is empty for a body that is no JSON. Only the model can be changed in other dialects than
/// Ollama's own.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EditPlaces {
    /// The value that names the model, with its quotes.
    pub(super) model: Option<Range<u64>>,
    pub(super) num_ctx: Option<OptionPlace>,
    pub(super) corrects_num_ctx: bool,
    /// The value of `keep_alive`.
    pub(super) keep_alive: Option<Range<u64>>,
    /// The `max_tokens` that Ollama needs in addition, and what it replaces.
    pub(super) max_tokens_of_ollama: Option<(Range<u64>, u64)>,
}

/// Where an option in `options` stands or can be inserted.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum OptionPlace {
    /// Its value: a number or null.
    Value(Range<u64>),
    /// Right after the opening brace of `options`.
    InOptions { at: u64, is_empty: bool },
    /// The value of `options`, which is null.
    Options(Range<u64>),
    /// Right after the opening brace of the body.
    InBody { at: u64, is_empty: bool },
}

impl EditPlaces {
    /// Whether `options.num_ctx` can be changed.
    pub fn has_num_ctx(&self) -> bool {
        self.num_ctx.is_some()
    }

    /// Whether [`LlmRequest::num_ctx`] is another size than that in the body, because Ollama would
    /// read the one in the body as its smallest context of 4 tokens. The body should get it then.
    pub fn corrects_num_ctx(&self) -> bool {
        self.corrects_num_ctx
    }

    /// Whether there is a `keep_alive`, so that it can be changed.
    pub fn has_keep_alive(&self) -> bool {
        self.keep_alive.is_some()
    }

    /// Whether the model can be changed.
    pub fn has_model(&self) -> bool {
        self.model.is_some()
    }

    /// Whether the request limits its response by `max_completion_tokens` alone, which Ollama does
    /// not read ([`BodyEdits::with_max_tokens_of_ollama`]).
    pub fn has_max_tokens_of_ollama(&self) -> bool {
        self.max_tokens_of_ollama.is_some()
    }

    /// The places that all dialects have.
    pub(super) fn of_all_dialects(self) -> Self {
        Self {
            model: self.model,
            max_tokens_of_ollama: self.max_tokens_of_ollama,
            ..Self::default()
        }
    }

    /// The places after `replaced` was replaced by a text of this length. The body is not empty
    /// then. A place that was replaced has the new text.
    pub(super) fn after_splice(self, replaced: &Range<u64>, length: u64) -> Self {
        let moved = |at| moved(at, replaced, length);
        let moved_range = |range| moved_range(range, replaced, length);
        let num_ctx = self.num_ctx.map(|place| match place {
            OptionPlace::Value(value) => OptionPlace::Value(moved_range(value)),
            OptionPlace::InOptions { at, is_empty } => OptionPlace::InOptions {
                at: moved(at),
                is_empty,
            },
            OptionPlace::Options(value) => OptionPlace::Options(moved_range(value)),
            OptionPlace::InBody { at, .. } => OptionPlace::InBody {
                at,
                is_empty: false,
            },
        });
        Self {
            model: self.model.map(moved_range),
            num_ctx,
            corrects_num_ctx: self.corrects_num_ctx,
            keep_alive: self.keep_alive.map(moved_range),
            max_tokens_of_ollama: self.max_tokens_of_ollama.map(|(place, tokens)| {
                // The beginning of the body stays where it is.
                let place = match place.is_empty() {
                    true => place,
                    false => moved_range(place),
                };
                (place, tokens)
            }),
        }
    }

    /// The place of `num_ctx` after another option was inserted at `place`.
    pub(super) fn option_was_inserted(&mut self, place: Option<OptionPlace>) {
        let begin = match place {
            Some(OptionPlace::InOptions { at, .. }) => at,
            Some(OptionPlace::Options(value)) => value.start + 1,
            Some(OptionPlace::InBody { at, .. }) => at + r#""options":{"#.len() as u64,
            // It was replaced.
            Some(OptionPlace::Value(_)) | None => return,
        };
        if !matches!(self.num_ctx, Some(OptionPlace::Value(_)) | None) {
            self.num_ctx = Some(OptionPlace::InOptions {
                at: begin,
                is_empty: false,
            });
        }
    }
}

fn moved(at: u64, replaced: &Range<u64>, length: u64) -> u64 {
    match at >= replaced.end {
        true => at - (replaced.end - replaced.start) + length,
        false => at,
    }
}

/// A range of the body after `replaced` was replaced by a text of this length.
pub(super) fn moved_range(range: Range<u64>, replaced: &Range<u64>, length: u64) -> Range<u64> {
    match range == *replaced && !range.is_empty() {
        true => range.start..range.start + length,
        false => moved(range.start, replaced, length)..moved(range.end, replaced, length),
    }
}

impl OptionPlace {
    /// What to replace by what, for this value; `None` if there is nothing to do.
    pub(super) fn splice(&self, key: &str, tokens: Option<u64>) -> Option<(Range<u64>, Bytes)> {
        let Some(tokens) = tokens else {
            // Ollama reads null like a missing key.
            return match self {
                Self::Value(value) => Some((value.clone(), "null".into())),
                _ => None,
            };
        };
        let comma = |is_empty| if is_empty { "" } else { "," };
        let (range, text) = match self {
            Self::Value(value) => (value.clone(), tokens.to_string()),
            Self::InOptions { at, is_empty } => {
                (*at..*at, format!(r#""{key}":{tokens}{}"#, comma(*is_empty)))
            }
            Self::Options(value) => (value.clone(), format!(r#"{{"{key}":{tokens}}}"#)),
            Self::InBody { at, is_empty } => (
                *at..*at,
                format!(r#""options":{{"{key}":{tokens}}}{}"#, comma(*is_empty)),
            ),
        };
        Some((range, text.into()))
    }
}

/// Changes to a body that [`LlmRequestLayer`](super::LlmRequestLayer) has scanned.
///
/// They replace bytes at the places that the scan has found; the other bytes are shared with the
/// body from before.
///
/// ```
/// use bytes::Bytes;
/// use http::{Request, Response};
/// use http_body_util::Full;
/// use llamatower_layers::BoxError;
/// use llamatower_layers::body::{MemoryBudget, ReplayBody};
/// use llamatower_layers::body_limit::BodyLimitLayer;
/// use llamatower_layers::endpoint::{EndpointLayer, EndpointTable};
/// use llamatower_layers::llm_request::{BodyEdits, LlmRequestLayer};
/// use tower::{ServiceBuilder, ServiceExt, service_fn};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), BoxError> {
/// let service = ServiceBuilder::new()
///     .layer(EndpointLayer::new(EndpointTable::ollama()))
///     .layer(BodyLimitLayer::new(MemoryBudget::new(1 << 30)))
///     .layer(LlmRequestLayer::new())
///     .map_request(|mut request: Request<ReplayBody<Full<Bytes>>>| {
///         BodyEdits::new().with_num_ctx(Some(8192)).apply(&mut request);
///         request
///     })
///     .service(service_fn(|request: Request<ReplayBody<Full<Bytes>>>| async move {
///         Ok::<_, BoxError>(Response::new(request.body().segments().unwrap().concat()))
///     }));
/// let request = Request::post("/api/chat").body(Full::from(r#"{"model":"a"}"#))?;
/// let body = service.oneshot(request).await?.into_body();
/// assert_eq!(body, br#"{"options":{"num_ctx":8192},"model":"a"}"#);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BodyEdits {
    model: Option<Arc<str>>,
    num_ctx: Option<Option<u64>>,
    keep_alive: Option<KeepAlive>,
    sets_max_tokens: bool,
}

impl BodyEdits {
    /// No changes.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the model, if the body names one.
    #[must_use]
    pub fn with_model(mut self, model: Arc<str>) -> Self {
        self.model = Some(model);
        self
    }

    /// Sets `options.num_ctx` in tokens; `None` removes it, so that the server's default applies.
    #[must_use]
    pub fn with_num_ctx(mut self, num_ctx: Option<u64>) -> Self {
        self.num_ctx = Some(num_ctx);
        self
    }

    /// Sets `keep_alive`, in whole seconds, if the body has it: a time, or
    /// [`KeepAlive::Forever`]. [`KeepAlive::Unclear`] changes nothing.
    #[must_use]
    pub fn with_keep_alive(mut self, keep_alive: impl Into<KeepAlive>) -> Self {
        self.keep_alive = Some(keep_alive.into());
        self
    }

    /// Adds the `max_tokens` that Ollama reads, if the request limits its response by
    /// `max_completion_tokens` alone, and the layer has a
    /// [maximum](super::LlmRequestLayer::with_max_output_tokens). Other servers read both keys, and
    /// some refuse a request with both.
    #[must_use]
    pub fn with_max_tokens_of_ollama(mut self) -> Self {
        self.sets_max_tokens = true;
        self
    }

    /// Whether nothing is to be changed.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Changes the body and its `Content-Length`. What the body has no place for stays as it is.
    ///
    /// The [`LlmRequest`] of the request gets the new model, and the places in the new body, so
    /// that another layer can change other values. Each of its other values goes on to describe
    /// the body from before.
    pub fn apply<B>(&self, request: &mut Request<ReplayBody<B>>) {
        let Some(places) = LlmRequest::of(request.extensions()).map(|llm| &llm.places) else {
            return;
        };
        let model = self.model.as_ref().zip(places.model.clone());
        let has_model = model.is_some();
        let model = model.map(|(name, place)| (place, quoted(name)));
        let num_ctx = self.num_ctx.zip(places.num_ctx.as_ref());
        let num_ctx = num_ctx.and_then(|(num_ctx, place)| place.splice("num_ctx", num_ctx));
        let has_num_ctx = num_ctx.is_some();
        let keep_alive = self.keep_alive.zip(places.keep_alive.clone());
        let keep_alive = keep_alive.and_then(|(time, place)| {
            let seconds = match time {
                KeepAlive::For(time) => Bytes::from(time.as_secs().to_string()),
                KeepAlive::Forever => Bytes::from_static(b"-1"),
                KeepAlive::Unclear => return None,
            };
            Some((place, seconds))
        });
        let max_tokens = places.max_tokens_of_ollama.clone();
        let max_tokens = max_tokens.filter(|_| self.sets_max_tokens);
        let has_max_tokens = max_tokens.is_some();
        let max_tokens = max_tokens.map(|(place, tokens)| {
            let text = match place.is_empty() {
                true => format!(r#""max_tokens":{tokens},"#),
                false => tokens.to_string(),
            };
            (place, Bytes::from(text))
        });
        let splices = model.into_iter().chain(num_ctx).chain(keep_alive);
        let mut splices: SmallVec<[_; 3]> = splices.chain(max_tokens).collect();
        // From the end, so that the other places do not move.
        splices.sort_unstable_by_key(|(range, _)| std::cmp::Reverse(range.start));
        for (range, text) in splices {
            let length = text.len() as u64;
            if replace(request, range.clone(), text)
                && let Some(llm) = LlmRequest::of_mut(request.extensions_mut())
            {
                llm.places = std::mem::take(&mut llm.places).after_splice(&range, length);
            }
        }
        let body_bytes = request.body().len();
        if let Some(llm) = LlmRequest::of_mut(request.extensions_mut()) {
            llm.body_bytes = body_bytes.unwrap_or(llm.body_bytes);
            if has_model {
                llm.model.clone_from(&self.model);
            }
            if has_max_tokens {
                llm.places.max_tokens_of_ollama = None;
            }
            llm.places.corrects_num_ctx &= !has_num_ctx;
            if has_num_ctx && !matches!(llm.places.num_ctx, Some(OptionPlace::Value(_))) {
                // The value that was inserted has no place.
                llm.places.num_ctx = None;
            }
        }
    }
}

/// A name as a JSON string.
fn quoted(name: &str) -> Bytes {
    serde_json::Value::from(name).to_string().into()
}

/// Replaces a part of the body, and sets the new `Content-Length`.
pub(super) fn replace<B>(
    request: &mut Request<ReplayBody<B>>,
    range: Range<u64>,
    text: Bytes,
) -> bool {
    let Some(body) = request.body().splice(range, text) else {
        return false;
    };
    let len = body.len().unwrap_or(0);
    *request.body_mut() = body;
    if let Some(length) = request.headers_mut().get_mut(header::CONTENT_LENGTH) {
        *length = HeaderValue::from(len);
    }
    true
}

#[cfg(test)]
mod tests;
