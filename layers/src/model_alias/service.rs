//! The service.

use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use tower_service::Service;

use super::attempts::{Plan, try_in_turn};
use super::error::NoCapableModel;
use super::{Asked, Candidate, ModelAliasBody, ModelAliasFuture, ModelAliasLayer};
use crate::body::ReplayBody;
use crate::service::accessors;
use crate::{BoxError, Failure, LlmRequest, Operation};

/// The service of [`ModelAliasLayer`].
#[derive(Clone, Debug)]
pub struct ModelAliasService<S> {
    pub(super) inner: S,
    pub(super) layer: ModelAliasLayer,
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
        if self.layer.aliases.get().is_empty() {
            return ModelAliasFuture::passing(self.inner.call(request));
        }
        let (parts, body) = request.into_parts();
        let plan = self.layer.plan(&parts);
        let request = Request::from_parts(parts, body);
        match plan {
            Ok(None) => ModelAliasFuture::passing(self.inner.call(request)),
            Err(failure) => ModelAliasFuture::refused(failure),
            Ok(Some(plan)) => {
                // Calls the instance whose readiness was polled.
                let fresh = self.inner.clone();
                let inner = std::mem::replace(&mut self.inner, fresh);
                ModelAliasFuture::trying(try_in_turn(inner, request, plan))
            }
        }
    }
}

impl ModelAliasLayer {
    /// What to do with a request; `None` if its model is no alias.
    fn plan(&self, request: &http::request::Parts) -> Result<Option<Plan>, Failure> {
        let Some(llm) = LlmRequest::of(&request.extensions) else {
            return Ok(None);
        };
        // A body that cannot be changed is the server's matter: it does not know the alias.
        if llm.operation.is_management() || !llm.places.has_model() {
            return Ok(None);
        }
        let aliases = self.aliases.get();
        let Some((asked_for, alias)) = llm
            .model
            .as_ref()
            .and_then(|model| Some((model, aliases.find(model)?)))
        else {
            return Ok(None);
        };
        let candidates = match llm.operation {
            // It describes one model, whatever else is in memory.
            Operation::Show => aliases.in_listed_order(alias),
            _ => {
                let client = self.client_of.as_ref().and_then(|of| of(request));
                let asked = Asked::new()
                    .with_client(client.as_deref())
                    .with_needs(llm.needs)
                    .with_request(request);
                aliases.candidates(alias, &asked, &*self.known)
            }
        };
        if candidates.is_empty() {
            let needed: Vec<_> = llm.needs.capabilities().collect();
            return Err(Failure::from(NoCapableModel {
                alias: asked_for.clone(),
                models: names(&aliases.in_listed_order(alias)),
                needed: needed.join(", "),
            }));
        }
        Ok(Some(Plan {
            alias: asked_for.clone(),
            candidates,
            dialect: llm.dialect,
            operation: llm.operation,
            header: self.header.clone(),
        }))
    }
}

/// The names of models, for a text.
pub(super) fn names(models: &[Candidate]) -> String {
    let names: Vec<_> = models.iter().map(|model| &*model.text).collect();
    names.join(", ")
}

/// The model that an alias stands for in this request, in its record.
pub(super) fn record(_extensions: &http::Extensions, _model: &Arc<str>) {
    #[cfg(feature = "outcome")]
    crate::Record::update_in(_extensions, |outcome| {
        outcome.served_model = Some(_model.clone());
    });
}
