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
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::time::Duration;

    use http_body_util::Full;
    use proptest::prelude::*;
    use serde_json::{Value, json};
    use tower::{Layer, ServiceExt, service_fn};

    use super::super::LlmRequestLayer;
    use super::*;
    use crate::endpoint::EndpointLayer;
    use crate::{BoxError, EndpointTable};

    type Body = ReplayBody<Full<Bytes>>;

    /// The body and its declared length after these edits.
    fn edited(path: &str, layer: &LlmRequestLayer, body: &str, edits: BodyEdits) -> (String, u64) {
        let inner = service_fn(move |mut request: Request<Body>| {
            edits.apply(&mut request);
            async { Ok::<_, BoxError>(request) }
        });
        let service = EndpointLayer::new(EndpointTable::ollama()).layer(layer.layer(inner));
        let request = Request::post(path)
            .header(header::CONTENT_LENGTH, body.len())
            .body(ReplayBody::from(Bytes::from(body.to_owned())))
            .unwrap();
        let request = futures_util::FutureExt::now_or_never(service.oneshot(request));
        let request = request.unwrap().unwrap();
        let length = &request.headers()[header::CONTENT_LENGTH];
        let length = length.to_str().unwrap().parse().unwrap();
        let body = request.body().segments().unwrap().concat();
        (String::from_utf8(body).unwrap(), length)
    }

    fn with_num_ctx(body: &str, num_ctx: Option<u64>) -> String {
        let edits = BodyEdits::new().with_num_ctx(num_ctx);
        let (edited, length) = edited("/api/chat", &LlmRequestLayer::new(), body, edits);
        assert_eq!(length, edited.len() as u64);
        edited
    }

    #[test]
    fn num_ctx_is_replaced_inserted_or_removed() {
        for (body, set, removed) in [
            (
                r#"{"options": {"seed":1,"num_ctx": 99 },"model":"a"}"#,
                r#"{"options": {"seed":1,"num_ctx": 8192 },"model":"a"}"#,
                r#"{"options": {"seed":1,"num_ctx": null },"model":"a"}"#,
            ),
            (
                r#"{"model":"a","options":{"num_ctx":null}}"#,
                r#"{"model":"a","options":{"num_ctx":8192}}"#,
                r#"{"model":"a","options":{"num_ctx":null}}"#,
            ),
            (
                r#"{"model":"a","options":{ }}"#,
                r#"{"model":"a","options":{"num_ctx":8192 }}"#,
                r#"{"model":"a","options":{ }}"#,
            ),
            (
                r#"{"model":"a","options":{"seed":1}}"#,
                r#"{"model":"a","options":{"num_ctx":8192,"seed":1}}"#,
                r#"{"model":"a","options":{"seed":1}}"#,
            ),
            (
                r#"{"model":"a","options": null}"#,
                r#"{"model":"a","options": {"num_ctx":8192}}"#,
                r#"{"model":"a","options": null}"#,
            ),
            (
                r#" { "model":"a"}"#,
                r#" {"options":{"num_ctx":8192}, "model":"a"}"#,
                r#" { "model":"a"}"#,
            ),
            ("{}", r#"{"options":{"num_ctx":8192}}"#, "{}"),
        ] {
            assert_eq!(with_num_ctx(body, Some(8192)), set);
            assert_eq!(with_num_ctx(body, None), removed);
        }
    }

    #[test]
    fn a_value_that_the_server_refuses_stays() {
        for body in [
            r#"{"options":{"num_ctx":"8192"}}"#,
            r#"{"options":{"num_ctx":[1]}}"#,
            r#"{"options":[{"num_ctx":1}]}"#,
            r#"{"options":"none"}"#,
        ] {
            assert_eq!(with_num_ctx(body, Some(1)), body);
        }
    }

    #[test]
    fn only_bodies_of_ollamas_dialect_are_changed() {
        let edits = BodyEdits::new()
            .with_num_ctx(Some(1))
            .with_keep_alive(Duration::from_secs(60));
        let body = r#"{"model":"a","keep_alive":-1,"options":{"num_ctx":2}}"#;
        let layer = LlmRequestLayer::new();
        for (path, is_changed) in [
            ("/api/generate", true),
            ("/api/embed", true),
            ("/v1/chat/completions", false),
            ("/v1/messages", false),
            ("/api/show", false),
        ] {
            let (edited, _) = edited(path, &layer, body, edits.clone());
            assert_eq!(edited != body, is_changed, "{path}: {edited}");
        }
    }

    #[test]
    fn a_model_can_be_kept_for_ever() {
        let layer = LlmRequestLayer::new();
        let body = r#"{"model":"a","keep_alive":"5m"}"#;
        for (keep_alive, expected) in [
            (KeepAlive::Forever, r#"{"model":"a","keep_alive":-1}"#),
            (KeepAlive::Unclear, body),
        ] {
            let edits = BodyEdits::new().with_keep_alive(keep_alive);
            let (edited, length) = edited("/api/generate", &layer, body, edits);
            assert_eq!((&*edited, length), (expected, expected.len() as u64));
        }
    }

    #[test]
    fn the_model_is_replaced_in_every_dialect_where_it_is_named() {
        let layer = LlmRequestLayer::new().with_default_model(Some("d".into()));
        for (path, body, expected) in [
            (
                "/api/chat",
                r#"{"model" : "a\u0062","n":1}"#,
                r#"{"model" : "x\"y","n":1}"#,
            ),
            ("/api/show", r#"{"name":"a"}"#, r#"{"name":"x\"y"}"#),
            (
                "/api/show",
                r#"{"name":"a","model":"b"}"#,
                r#"{"name":"a","model":"x\"y"}"#,
            ),
            (
                "/v1/chat/completions",
                r#"{"n":[{"model":"c"}],"model":"a"}"#,
                r#"{"n":[{"model":"c"}],"model":"x\"y"}"#,
            ),
            ("/v1/messages", r#"{"model":"a"}"#, r#"{"model":"x\"y"}"#),
            ("/v1/responses", r#"{"model":"a"}"#, r#"{"model":"x\"y"}"#),
            ("/api/chat", r#"{"n":1}"#, r#"{"model":"x\"y","n":1}"#),
            ("/api/chat", "{}", r#"{"model":"x\"y"}"#),
            ("/api/chat", r#"{"model":""}"#, r#"{"model":"x\"y"}"#),
            ("/api/show", r#"{"verbose":true}"#, r#"{"verbose":true}"#),
        ] {
            let edits = BodyEdits::new().with_model("x\"y".into());
            let (edited, length) = edited(path, &layer, body, edits);
            assert_eq!(edited, expected, "{path}");
            assert_eq!(length, expected.len() as u64);
        }
    }

    #[test]
    fn edits_can_be_applied_one_after_the_other() {
        let both = [
            r#"{"options":{"num_ctx":1},"model":"a","keep_alive":5}"#,
            r#"{"keep_alive":5,"model":"a"}"#,
            r#"{"model":"a","keep_alive":5,"options":{}}"#,
        ];
        for body in both {
            let route = EndpointTable::ollama().look_up(&http::Method::POST, "/api/chat");
            let mut request = Request::new(Body::from(Bytes::from(body)));
            route.put_into(request.extensions_mut());
            let inner = service_fn(|request: Request<Body>| async { Ok::<_, BoxError>(request) });
            let scanned = LlmRequestLayer::new().layer(inner).oneshot(request);
            let request = futures_util::FutureExt::now_or_never(scanned)
                .unwrap()
                .unwrap();
            let first = BodyEdits::new().with_model("longer".into());
            let second = BodyEdits::new().with_model("b".into());
            let third = BodyEdits::new()
                .with_num_ctx(Some(42))
                .with_keep_alive(Duration::from_secs(700));
            let mut all = request;
            for edits in [&first, &third, &second, &first] {
                edits.apply(&mut all);
            }
            let llm = LlmRequest::of(all.extensions()).unwrap();
            assert_eq!(llm.model.as_deref(), Some("longer"));
            assert_eq!(Some(llm.body_bytes), all.body().len());
            let edited: Value =
                serde_json::from_slice(&all.body().segments().unwrap().concat()).unwrap();
            let expected =
                json!({"model": "longer", "keep_alive": 700, "options": {"num_ctx": 42}});
            assert_eq!(edited, expected, "{body}");
        }
    }

    proptest! {
        #[test]
        fn the_edited_body_is_the_same_json_with_other_values(
            // In any order: keys of a `Value` are sorted.
            members in Just(vec![
                r#""model":"a""#, r#""model":null"#, r#""prompt":"}{\"num_ctx\":1""#, r#""keep_alive":"1h""#,
                r#""options":{"a":[{"num_ctx":7}],"num_ctx":12,"b":1}"#, r#""options":{}"#,
                r#""options":{"stop":["x"]}"#, r#""options" : null"#,
            ]).prop_shuffle(),
            count in 0..8usize,
            num_ctx in prop::option::of(1..100_000u64),
            seconds in 0..100_000u64,
            has_default in any::<bool>(),
        ) {
            let mut chosen: Vec<&str> = Vec::new();
            for member in members.into_iter().take(count) {
                let key = &member[..5];
                if !chosen.iter().any(|other| other.starts_with(key)) {
                    chosen.push(member);
                }
            }
            let body = format!("{{{}}}", chosen.join(", "));
            let default = has_default.then(|| "by default".into());
            let layer = LlmRequestLayer::new().with_default_model(default);
            let edits = BodyEdits::new()
                .with_num_ctx(num_ctx)
                .with_keep_alive(Duration::from_secs(seconds));
            let (edited, length) = edited("/api/generate", &layer, &body, edits);
            prop_assert_eq!(length, edited.len() as u64);

            let mut expected: Value = serde_json::from_str(&body).unwrap();
            if has_default && expected.get("model").is_none_or(Value::is_null) {
                expected["model"] = json!("by default");
            }
            if expected.get("keep_alive").is_some() {
                expected["keep_alive"] = json!(seconds);
            }
            if let Some(num_ctx) = num_ctx {
                if expected.get("options").is_none_or(Value::is_null) {
                    expected["options"] = json!({});
                }
                expected["options"]["num_ctx"] = json!(num_ctx);
            } else if let Some(value) = expected.pointer_mut("/options/num_ctx") {
                *value = Value::Null;
            }
            let edited: Value = serde_json::from_str(&edited).unwrap();
            prop_assert_eq!(edited, expected, "{}", body);
        }
    }
}
