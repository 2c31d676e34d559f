//! What is known of models.

use http::request::Parts;

use crate::ModelName;
use crate::llm_request::Needs;

/// A request, as far as the choice of its model depends on it.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct Asked<'a> {
    /// Its client; a weighted alias gives a client the same model each time. Requests without one
    /// get a random model.
    pub client: Option<&'a str>,
    /// What it needs.
    pub needs: Needs,
    /// Its head.
    pub request: Option<&'a Parts>,
}

impl<'a> Asked<'a> {
    /// A request without a client that needs only text.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the client.
    #[must_use]
    pub fn with_client(mut self, client: Option<&'a str>) -> Self {
        self.client = client;
        self
    }

    /// Sets what it needs.
    #[must_use]
    pub fn with_needs(mut self, needs: Needs) -> Self {
        self.needs = needs;
        self
    }

    /// Sets its head.
    #[must_use]
    pub fn with_request(mut self, request: &'a Parts) -> Self {
        self.request = Some(request);
        self
    }
}

/// How soon a model would answer a request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ExpectedTime {
    /// Seconds until it begins: to load the model, and to wait for others.
    pub delay: f64,
    /// Seconds of its work; `None` if its speed is not known yet.
    pub work: Option<f64>,
}

/// What is known of models when one is chosen. By default nothing: `()` implements it.
pub trait KnownModels: Send + Sync {
    /// Whether a model certainly lacks something that a request needs. A model that is not known
    /// lacks nothing.
    fn lacks(&self, _model: &ModelName, _needs: Needs) -> bool {
        false
    }

    /// Whether a model is certainly on no server. It is tried after those that are on one that may be up.
    fn is_missing(&self, _model: &ModelName) -> bool {
        false
    }

    /// Whether all servers of a model are known to be down. It is tried after all others, because
    /// that knowledge may be out of date.
    fn is_down(&self, _model: &ModelName) -> bool {
        false
    }

    /// Whether a model is in memory somewhere.
    fn is_resident(&self, _model: &ModelName) -> bool {
        false
    }

    /// How soon a model would answer the request; `None` if it cannot, or if that is not known.
    fn expected(&self, _model: &ModelName, _asked: &Asked<'_>) -> Option<ExpectedTime> {
        None
    }
}

impl KnownModels for () {}
