//! The layer.

use std::fmt;
use std::sync::Arc;

use http::HeaderName;
use http::request::Parts;
use tower_layer::Layer;

use super::{Aliases, Candidate, KnownModels, ModelAliasService};
use crate::ModelName;
use crate::live::Live;
use crate::order;

/// The next model of an alias is tried, because one could not answer.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Fallback<'a> {
    /// The alias, as it was given to [`Alias::new`](super::Alias::new).
    pub alias: &'a Arc<str>,
    /// The model that could not answer.
    pub model: &'a Candidate,
    /// Why: `missing` if no server has it, `unavailable` if its servers are too busy or fail.
    pub reason: &'static str,
}

pub(super) type Observer = dyn Fn(&Fallback<'_>) + Send + Sync;
type Allowed = dyn Fn(&Parts, &ModelName) -> bool + Send + Sync;

type ClientOf = dyn Fn(&Parts) -> Option<Arc<str>> + Send + Sync;

/// Replaces aliases of models in requests and responses, and tries the next model if one cannot
/// answer. See the [module](super).
#[derive(Clone)]
pub struct ModelAliasLayer {
    pub(super) aliases: Live<Aliases>,
    pub(super) known: Arc<dyn KnownModels>,
    pub(super) client_of: Option<Arc<ClientOf>>,
    pub(super) allowed: Option<Arc<Allowed>>,
    pub(super) header: Option<HeaderName>,
    pub(super) observer: Option<Arc<Observer>>,
}

impl ModelAliasLayer {
    /// With these aliases, which can be replaced at any time if they are a [`Live`].
    pub fn new(aliases: impl Into<Live<Aliases>>) -> Self {
        Self {
            aliases: aliases.into(),
            known: Arc::new(()),
            client_of: None,
            allowed: None,
            header: None,
            observer: None,
        }
    }

    /// What is known of models: their capabilities, which are in memory, and how soon they could
    /// answer. By default nothing is.
    #[must_use]
    pub fn with_known_models(mut self, known: impl KnownModels + 'static) -> Self {
        self.known = Arc::new(known);
        self
    }

    /// The client of a request; weighted aliases choose by it. By default there is none, so that
    /// each request gets a random model.
    #[must_use]
    pub fn with_client(
        mut self,
        client_of: impl Fn(&Parts) -> Option<Arc<str>> + Send + Sync + 'static,
    ) -> Self {
        self.client_of = Some(Arc::new(client_of));
        self
    }

    /// Whether a request may run a model. Models that it may not run are left out while the alias has
    /// another one; by default it may run all.
    #[must_use]
    pub fn with_allowed(
        mut self,
        allowed: impl Fn(&Parts, &ModelName) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.allowed = Some(Arc::new(allowed));
        self
    }

    /// Names the model that has answered in this header of responses to requests for an alias. By
    /// default there is no such header.
    #[must_use]
    pub fn with_header(mut self, header: HeaderName) -> Self {
        self.header = Some(header);
        self
    }

    /// Calls `observer` each time that the next model of an alias is tried.
    #[must_use]
    pub fn with_observer(
        mut self,
        observer: impl Fn(&Fallback<'_>) + Send + Sync + 'static,
    ) -> Self {
        self.observer = Some(Arc::new(observer));
        self
    }
}

impl<S> Layer<S> for ModelAliasLayer {
    type Service = ModelAliasService<S>;

    fn layer(&self, inner: S) -> ModelAliasService<S> {
        order::check::<S>("ModelAlias");
        ModelAliasService {
            inner,
            layer: Arc::new(self.clone()),
        }
    }
}

impl fmt::Debug for ModelAliasLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ModelAliasLayer")
            .field("aliases", &self.aliases)
            .field("header", &self.header)
            .finish_non_exhaustive()
    }
}
