//! The layer and what it can be told.

use std::sync::Arc;

use tower_layer::Layer;

use super::LlmRequestService;
use crate::body::MemoryBudget;

/// Finds out what a request asks of a model, and notes it as an
/// [`LlmRequest`](super::LlmRequest) of the request.
///
/// Requests without a [`RouteMatch`](crate::RouteMatch), without a body or with a body that
/// streams pass as they are. See the [module's documentation](super).
#[derive(Clone, Debug)]
pub struct LlmRequestLayer {
    config: Arc<Config>,
}

#[derive(Clone, Debug)]
pub(super) struct Config {
    pub(super) default_model: Option<Arc<str>>,
    pub(super) decoded_limit: u64,
    pub(super) budget: Option<MemoryBudget>,
}

impl LlmRequestLayer {
    /// A layer that changes no request.
    pub fn new() -> Self {
        Self {
            config: Arc::new(Config {
                default_model: None,
                decoded_limit: 128 << 20,
                budget: None,
            }),
        }
    }

    /// The model for requests that run one and name none (missing, null or empty). It is
    /// written into the body; a form or a compressed body stays without.
    #[must_use]
    pub fn with_default_model(mut self, model: Option<Arc<str>>) -> Self {
        let model = model.filter(|name| !name.is_empty());
        Arc::make_mut(&mut self.config).default_model = model;
        self
    }

    /// The most that is decoded of a compressed body, in bytes; 128 MiB by default.
    #[must_use]
    pub fn with_decoded_limit(mut self, bytes: u64) -> Self {
        Arc::make_mut(&mut self.config).decoded_limit = bytes;
        self
    }

    /// Takes the memory of the decoder (8 MiB for each compressed request, while it is
    /// scanned) out of this budget.
    #[must_use]
    pub fn with_memory_budget(mut self, budget: MemoryBudget) -> Self {
        Arc::make_mut(&mut self.config).budget = Some(budget);
        self
    }
}

impl Default for LlmRequestLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl<S> Layer<S> for LlmRequestLayer {
    type Service = LlmRequestService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        LlmRequestService::new(inner, self.config.clone())
    }
}
