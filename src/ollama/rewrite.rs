//! Changes values in the body of a request before a backend gets it: `options.num_ctx`, as the
//! fleet has decided for the chosen backend, and `keep_alive`, within the limits for clients with a
//! key. Adds `max_tokens` for an Ollama, which does not read `max_completion_tokens`, if the
//! generated tokens have a maximum.

use std::task::{Context, Poll};
use std::time::Duration;

use http::{Extensions, HeaderName, HeaderValue, Request, Response};
use llamatower_layers::api_key::{Identity, Role};
use llamatower_layers::body::ReplayBody;
use llamatower_layers::llm_request::BodyEdits;
use llamatower_layers::{KeepAlive, LlmRequest};
use tower::{Layer, Service};

use super::fleet::{KeepInMemory, SentNumCtx};
use super::with_header::WithHeader;
use crate::clients::model_rules::MayUnload;

/// The response header with the `num_ctx` that the backend got, if it is not that of the request.
pub static NUM_CTX_HEADER: HeaderName = HeaderName::from_static("x-llamatower-num-ctx");

/// How long clients may keep a model in memory after their request, if they have a key that is not
/// an administrator's. Without keys there are no limits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeepAliveLimits {
    /// A shorter time is raised to this one.
    pub min: Option<Duration>,
    /// A longer time is lowered to this one.
    pub max: Option<Duration>,
}

impl KeepAliveLimits {
    /// The time within the limits, if that of the request is not. A model that is pinned on the chosen
    /// backend stays in memory whatever the client asks for.
    fn correct(self, extensions: &Extensions) -> Option<KeepAlive> {
        let asked = LlmRequest::of(extensions)?.keep_alive?;
        if extensions.get::<KeepInMemory>().is_some() {
            return (asked != KeepAlive::Forever).then_some(KeepAlive::Forever);
        }
        let may_manage = extensions.get::<Identity>()?.role != Role::User;
        if may_manage || extensions.get::<MayUnload>().is_some() {
            return None;
        }
        let asked = match asked {
            KeepAlive::Forever => return self.max.map(KeepAlive::For),
            KeepAlive::For(time) => time,
            KeepAlive::Unclear => return None,
        };
        let raised = self.min.map_or(asked, |min| asked.max(min));
        let within = self.max.map_or(raised, |max| raised.min(max));
        (within != asked).then_some(KeepAlive::For(within))
    }
}

/// The layer of [`Rewrite`].
#[derive(Clone, Copy, Debug, Default)]
pub struct RewriteLayer {
    keep_alive: KeepAliveLimits,
    is_openai: bool,
}

impl RewriteLayer {
    /// A layer with these limits.
    pub fn new(keep_alive: KeepAliveLimits) -> Self {
        Self {
            keep_alive,
            is_openai: false,
        }
    }

    /// Whether the server is OpenAI-compatible, so that it reads `max_completion_tokens`.
    #[must_use]
    pub fn for_openai(self, is_openai: bool) -> Self {
        Self { is_openai, ..self }
    }
}

impl<S> Layer<S> for RewriteLayer {
    type Service = Rewrite<S>;

    fn layer(&self, inner: S) -> Rewrite<S> {
        let rules = *self;
        Rewrite { inner, rules }
    }
}

/// Changes the body of a request, and names the changed `num_ctx` in the response.
#[derive(Clone, Debug)]
pub struct Rewrite<S> {
    inner: S,
    rules: RewriteLayer,
}

impl<S, B, R> Service<Request<ReplayBody<B>>> for Rewrite<S>
where
    S: Service<Request<ReplayBody<B>>, Response = Response<R>>,
{
    type Response = Response<R>;
    type Error = S::Error;
    type Future = WithHeader<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<ReplayBody<B>>) -> Self::Future {
        let (mut edits, mut header) = (BodyEdits::new(), None);
        if let Some(SentNumCtx(num_ctx)) = request.extensions().get() {
            edits = edits.with_num_ctx(*num_ctx);
            header = Some(header_of(*num_ctx));
            log_num_ctx(request.extensions(), *num_ctx);
        }
        if let Some(keep_alive) = self.rules.keep_alive.correct(request.extensions()) {
            edits = edits.with_keep_alive(keep_alive);
            tracing::debug!(
                ?keep_alive,
                "keep_alive was changed to the limit, or because the model is pinned"
            );
        }
        let llm = LlmRequest::of(request.extensions());
        if !self.rules.is_openai && llm.is_some_and(|llm| llm.places.has_max_tokens_of_ollama()) {
            edits = edits.with_max_tokens_of_ollama();
        }
        if !edits.is_empty() {
            edits.apply(&mut request);
        }
        WithHeader::new(self.inner.call(request), &NUM_CTX_HEADER, header)
    }
}

fn header_of(num_ctx: Option<u64>) -> HeaderValue {
    match num_ctx {
        Some(tokens) => HeaderValue::from(tokens),
        None => HeaderValue::from_static("default"),
    }
}

/// A client that gets less than it has asked for may wonder why.
fn log_num_ctx(extensions: &Extensions, sent: Option<u64>) {
    let request = LlmRequest::of(extensions);
    let asked = request.and_then(|request| request.num_ctx);
    match (asked, sent) {
        (Some(asked), Some(sent)) if sent < asked => {
            tracing::info!(
                asked,
                sent,
                "num_ctx was lowered to the limit (LLAMATOWER_MAX_NUM_CTX)"
            );
        }
        _ if asked == sent && request.is_some_and(|request| request.places.corrects_num_ctx()) => {
            tracing::debug!(
                ?sent,
                "num_ctx was corrected: it was not between 4 and 2^31 - 1"
            );
        }
        _ => tracing::debug!(
            ?asked,
            ?sent,
            "num_ctx was changed to that of the model in memory"
        ),
    }
}
