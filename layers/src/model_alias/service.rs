//! The service.

use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::request::Parts;
use http::{Extensions, Request, Response};
use http_body::Body;
use tower_service::Service;

use super::aliases::sort_by_presence;
use super::attempts::{Plan, try_in_turn};
use super::error::NoCapableModel;
use super::{Alias, Asked, Candidate, ModelAliasBody, ModelAliasFuture, ModelAliasLayer};
use crate::body::ReplayBody;
use crate::service::accessors;
use crate::{BoxError, Dialect, LlmRequest, Operation};

/// The service of [`ModelAliasLayer`].
#[derive(Clone, Debug)]
pub struct ModelAliasService<S> {
    pub(super) inner: S,
    // Shared, because a service is cloned for each request.
    pub(super) layer: Arc<ModelAliasLayer>,
}

accessors!([S] ModelAliasService<S>, ModelAliasLayer);

impl<S, B, R> Service<Request<ReplayBody<B>>> for ModelAliasService<S>
where
    S: Service<Request<ReplayBody<B>>, Response = Response<R>> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send,
    B: Send + 'static,
    R: Body<Data = Bytes> + Send + 'static,
    R::Error: Into<BoxError>,
{
    type Response = Response<ModelAliasBody<R>>;
    type Error = BoxError;
    type Future = ModelAliasFuture<S::Future, R>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Request<ReplayBody<B>>) -> Self::Future {
        let Some((asked_for, alias)) = self.layer.alias_of(request.extensions()) else {
            return ModelAliasFuture::passing(self.inner.call(request));
        };
        let (parts, body) = request.into_parts();
        let plan = self.layer.plan(&parts, asked_for, &alias);
        let request = Request::from_parts(parts, body);
        match plan {
            Err(refused) => ModelAliasFuture::refused(refused.into()),
            Ok(plan) => {
                // Calls the instance whose readiness was polled.
                let fresh = self.inner.clone();
                let inner = std::mem::replace(&mut self.inner, fresh);
                ModelAliasFuture::trying(try_in_turn(inner, request, plan))
            }
        }
    }
}

impl ModelAliasLayer {
    /// The alias that a request asks for, as the client wrote it. Most requests ask for none.
    fn alias_of(&self, request: &Extensions) -> Option<(Arc<str>, Arc<Alias>)> {
        let llm = LlmRequest::of(request)?;
        // A body that cannot be changed is the server's matter: it does not know the alias.
        let model = llm.model.as_ref().filter(|_| llm.places.has_model())?;
        let aliases = self.aliases.get();
        let alias = aliases.find(model)?;
        (!llm.operation.is_management()).then(|| (model.clone(), alias.clone()))
    }

    /// What to do with a request for an alias.
    ///
    /// # Errors
    /// No model of the alias has what the request needs.
    fn plan(
        &self,
        request: &Parts,
        asked_for: Arc<str>,
        alias: &Alias,
    ) -> Result<Plan, NoCapableModel> {
        let aliases = self.aliases.get();
        let llm = LlmRequest::of(&request.extensions);
        let needs = llm.map(|llm| llm.needs).unwrap_or_default();
        let operation = llm.map_or(Operation::Extra, |llm| llm.operation);
        let mut candidates = match operation {
            // It describes one model, whatever else is in memory.
            Operation::Show => {
                let mut models = aliases.in_listed_order(alias);
                sort_by_presence(&mut models, &*self.known);
                models
            }
            _ => {
                let client = self.client_of.as_ref().and_then(|of| of(request));
                let asked = Asked::new()
                    .with_client(client.as_deref())
                    .with_needs(needs)
                    .with_request(request);
                aliases.candidates(alias, &asked, &*self.known)
            }
        };
        if let Some(allowed) = &self.allowed {
            let may_run = |model: &Candidate| allowed(request, &model.name);
            // Without any other, the refusal of the first one tells the reason.
            if candidates.iter().any(may_run) {
                candidates.retain(may_run);
            }
        }
        if candidates.is_empty() {
            let needed: Vec<_> = needs.capabilities().collect();
            return Err(NoCapableModel {
                alias: asked_for,
                models: names(&aliases.in_listed_order(alias)),
                needed: needed.join(", "),
            });
        }
        Ok(Plan {
            alias: asked_for,
            configured: alias.text().clone(),
            observer: self.observer.clone(),
            candidates,
            dialect: llm.map_or(Dialect::Ollama, |llm| llm.dialect),
            operation,
            header: self.header.clone(),
        })
    }
}

/// The names of models, for a text.
pub(super) fn names(models: &[Candidate]) -> String {
    let names: Vec<_> = models.iter().map(|model| &*model.text).collect();
    names.join(", ")
}

/// The model that an alias stands for in this request, in its record.
pub(super) fn record(_extensions: &Extensions, _model: &Arc<str>) {
    #[cfg(feature = "outcome")]
    crate::Record::update_in(_extensions, |outcome| {
        outcome.served_model = Some(_model.clone());
    });
}
