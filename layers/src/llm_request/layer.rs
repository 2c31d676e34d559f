//! The layer and its options.

use std::num::NonZeroU64;
use std::sync::Arc;

use tower_layer::Layer;

use super::LlmRequestService;
use crate::body::MemoryBudget;
use crate::order;

/// Determines what a request asks of a model, and stores it in the request as an
/// [`LlmRequest`](super::LlmRequest).
///
/// Requests without a [`RouteMatch`](crate::RouteMatch), without a body or with a streamed body
/// pass unchanged. See the [module's documentation](super).
#[derive(Clone, Debug)]
pub struct LlmRequestLayer {
    config: Arc<Config>,
}

#[derive(Clone, Debug)]
pub(super) struct Config {
    pub(super) default_model: Option<Arc<str>>,
    pub(super) decoded_limit: u64,
    pub(super) budget: Option<MemoryBudget>,
    pub(super) prefix_blocks: usize,
    pub(super) max_output_tokens: Option<NonZeroU64>,
}

impl LlmRequestLayer {
    /// A layer without a default model.
    pub fn new() -> Self {
        Self {
            config: Arc::new(Config {
                default_model: None,
                decoded_limit: 128 << 20,
                budget: None,
                prefix_blocks: 0,
                max_output_tokens: None,
            }),
        }
    }

    /// The model for inference requests without one (missing, null or empty). It is written into
    /// the body. Forms and compressed bodies are not changed.
    #[must_use]
    pub fn with_default_model(mut self, model: Option<Arc<str>>) -> Self {
        let model = model.filter(|name| !name.is_empty());
        Arc::make_mut(&mut self.config).default_model = model;
        self
    }

    /// The most tokens that a request may generate: `options.num_predict`, `max_tokens`,
    /// `max_completion_tokens` and `max_output_tokens` are lowered to it, and a request without a
    /// limit (none, null, zero or a negative number) gets it. Such a request has a
    /// [`LimitedOutput`](super::LimitedOutput). By default the body is not changed.
    ///
    /// A compressed body cannot be changed; it is refused if it would have to be.
    #[must_use]
    pub fn with_max_output_tokens(mut self, max: Option<NonZeroU64>) -> Self {
        Arc::make_mut(&mut self.config).max_output_tokens = max;
        self
    }

    /// Limit of the decoded bytes of a compressed body; 128 MiB by default.
    #[must_use]
    pub fn with_decoded_limit(mut self, bytes: u64) -> Self {
        Arc::make_mut(&mut self.config).decoded_limit = bytes;
        self
    }

    /// Takes the decoder's memory (8 MiB for each compressed request, during the scan) from this
    /// budget.
    #[must_use]
    pub fn with_memory_budget(mut self, budget: MemoryBudget) -> Self {
        Arc::make_mut(&mut self.config).budget = Some(budget);
        self
    }

    /// Finds the [`prefix`](super::LlmRequest::prefix) of each prompt, of at most so many blocks of
    /// 2 KiB; 0 by default, which is off. A router uses it to choose the server that has the
    /// beginning of the prompt in its cache.
    #[must_use]
    pub fn with_prefix_blocks(mut self, max_blocks: usize) -> Self {
        Arc::make_mut(&mut self.config).prefix_blocks = max_blocks;
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
        order::check::<S>("LlmRequest");
        LlmRequestService {
            inner,
            config: self.config.clone(),
        }
    }
}
