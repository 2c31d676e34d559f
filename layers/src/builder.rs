//! A method for each layer, on tower's builder.

use tower::ServiceBuilder;

/// Adds the layers of this crate to a [`ServiceBuilder`], as tower-http's trait of this name does
/// with its own.
///
/// Layers with more to set, and those that need a closure ([`rate_limit`](crate::rate_limit),
/// [`token_limit`](crate::token_limit)), are added by [`ServiceBuilder::layer`].
pub trait ServiceBuilderExt<L>: sealed::Sealed<L> + Sized {
    /// Looks each request up in `table`.
    #[cfg(feature = "endpoint")]
    fn endpoints(
        self,
        table: crate::EndpointTable,
    ) -> ServiceBuilder<tower_layer::Stack<crate::endpoint::EndpointLayer, L>>;

    /// Tells `observer` what came of each request, at its end.
    #[cfg(feature = "outcome")]
    fn outcome(
        self,
        observer: std::sync::Arc<dyn crate::Observer>,
    ) -> ServiceBuilder<tower_layer::Stack<crate::outcome::OutcomeLayer, L>>;

    /// Makes errors answers, and gives broken streams their error frame.
    #[cfg(feature = "rescue")]
    fn rescue(self) -> ServiceBuilder<tower_layer::Stack<crate::rescue::RescueLayer, L>>;

    /// Lets a panic fail one request.
    #[cfg(feature = "panic-guard")]
    fn panic_guard(
        self,
    ) -> ServiceBuilder<tower_layer::Stack<crate::panic_guard::PanicGuardLayer, L>>;

    /// Asks for one of these keys.
    #[cfg(feature = "api-key")]
    fn api_keys(
        self,
        keys: crate::api_key::KeySet,
    ) -> ServiceBuilder<tower_layer::Stack<crate::api_key::ApiKeyLayer, L>>;

    /// Refuses what exceeds `most` requests under way.
    #[cfg(feature = "admission")]
    fn admission(
        self,
        most: std::num::NonZeroUsize,
    ) -> ServiceBuilder<tower_layer::Stack<crate::admission::AdmissionLayer, L>>;

    /// Refuses what would make first bytes come later than this.
    #[cfg(feature = "adaptive")]
    fn adaptive_limit(
        self,
        target_first_byte: std::time::Duration,
    ) -> ServiceBuilder<tower_layer::Stack<crate::adaptive::AdaptiveLayer, L>>;

    /// Reads bodies out of this memory.
    #[cfg(feature = "body-limit")]
    fn body_limit(
        self,
        memory: crate::body::MemoryBudget,
    ) -> ServiceBuilder<tower_layer::Stack<crate::body_limit::BodyLimitLayer, L>>;

    /// Finds out what is asked of which model.
    #[cfg(feature = "llm-request")]
    fn llm_request(
        self,
    ) -> ServiceBuilder<tower_layer::Stack<crate::llm_request::LlmRequestLayer, L>>;

    /// Asks again before the first byte, within `budget`.
    #[cfg(feature = "retry")]
    fn retry(
        self,
        budget: crate::retry::RetryBudget,
    ) -> ServiceBuilder<tower_layer::Stack<crate::retry::RetryLayer, L>>;

    /// Lets requests wait for one of `slots`.
    #[cfg(feature = "queue")]
    fn queue(
        self,
        slots: std::num::NonZeroUsize,
    ) -> ServiceBuilder<tower_layer::Stack<crate::queue::QueueLayer, L>>;

    /// Gives each answer a report of its tokens.
    #[cfg(feature = "usage")]
    fn usage(self) -> ServiceBuilder<tower_layer::Stack<crate::usage::UsageLayer, L>>;

    /// Judges requests for `breaker`, and refuses while it is open.
    #[cfg(feature = "breaker")]
    fn breaker(
        self,
        breaker: crate::breaker::Breaker,
    ) -> ServiceBuilder<tower_layer::Stack<crate::breaker::BreakerLayer, L>>;

    /// Bounds the waits within an answer.
    #[cfg(feature = "clocks")]
    fn stream_clocks(
        self,
        clocks: crate::clocks::StreamClocksLayer,
    ) -> ServiceBuilder<tower_layer::Stack<crate::clocks::StreamClocksLayer, L>>;
}

impl<L> ServiceBuilderExt<L> for ServiceBuilder<L> {
    #[cfg(feature = "endpoint")]
    fn endpoints(
        self,
        table: crate::EndpointTable,
    ) -> ServiceBuilder<tower_layer::Stack<crate::endpoint::EndpointLayer, L>> {
        self.layer(crate::endpoint::EndpointLayer::new(table))
    }

    #[cfg(feature = "outcome")]
    fn outcome(
        self,
        observer: std::sync::Arc<dyn crate::Observer>,
    ) -> ServiceBuilder<tower_layer::Stack<crate::outcome::OutcomeLayer, L>> {
        self.layer(crate::outcome::OutcomeLayer::new(observer))
    }

    #[cfg(feature = "rescue")]
    fn rescue(self) -> ServiceBuilder<tower_layer::Stack<crate::rescue::RescueLayer, L>> {
        self.layer(crate::rescue::RescueLayer::new())
    }

    #[cfg(feature = "panic-guard")]
    fn panic_guard(
        self,
    ) -> ServiceBuilder<tower_layer::Stack<crate::panic_guard::PanicGuardLayer, L>> {
        self.layer(crate::panic_guard::PanicGuardLayer::new())
    }

    #[cfg(feature = "api-key")]
    fn api_keys(
        self,
        keys: crate::api_key::KeySet,
    ) -> ServiceBuilder<tower_layer::Stack<crate::api_key::ApiKeyLayer, L>> {
        self.layer(crate::api_key::ApiKeyLayer::new(keys))
    }

    #[cfg(feature = "admission")]
    fn admission(
        self,
        most: std::num::NonZeroUsize,
    ) -> ServiceBuilder<tower_layer::Stack<crate::admission::AdmissionLayer, L>> {
        self.layer(crate::admission::AdmissionLayer::new(most))
    }

    #[cfg(feature = "adaptive")]
    fn adaptive_limit(
        self,
        target_first_byte: std::time::Duration,
    ) -> ServiceBuilder<tower_layer::Stack<crate::adaptive::AdaptiveLayer, L>> {
        self.layer(crate::adaptive::AdaptiveLayer::new(target_first_byte))
    }

    #[cfg(feature = "body-limit")]
    fn body_limit(
        self,
        memory: crate::body::MemoryBudget,
    ) -> ServiceBuilder<tower_layer::Stack<crate::body_limit::BodyLimitLayer, L>> {
        self.layer(crate::body_limit::BodyLimitLayer::new(memory))
    }

    #[cfg(feature = "llm-request")]
    fn llm_request(
        self,
    ) -> ServiceBuilder<tower_layer::Stack<crate::llm_request::LlmRequestLayer, L>> {
        self.layer(crate::llm_request::LlmRequestLayer::new())
    }

    #[cfg(feature = "retry")]
    fn retry(
        self,
        budget: crate::retry::RetryBudget,
    ) -> ServiceBuilder<tower_layer::Stack<crate::retry::RetryLayer, L>> {
        self.layer(crate::retry::RetryLayer::new(budget))
    }

    #[cfg(feature = "queue")]
    fn queue(
        self,
        slots: std::num::NonZeroUsize,
    ) -> ServiceBuilder<tower_layer::Stack<crate::queue::QueueLayer, L>> {
        self.layer(crate::queue::QueueLayer::new(slots))
    }

    #[cfg(feature = "usage")]
    fn usage(self) -> ServiceBuilder<tower_layer::Stack<crate::usage::UsageLayer, L>> {
        self.layer(crate::usage::UsageLayer::new())
    }

    #[cfg(feature = "breaker")]
    fn breaker(
        self,
        breaker: crate::breaker::Breaker,
    ) -> ServiceBuilder<tower_layer::Stack<crate::breaker::BreakerLayer, L>> {
        self.layer(crate::breaker::BreakerLayer::new(breaker))
    }

    #[cfg(feature = "clocks")]
    fn stream_clocks(
        self,
        clocks: crate::clocks::StreamClocksLayer,
    ) -> ServiceBuilder<tower_layer::Stack<crate::clocks::StreamClocksLayer, L>> {
        self.layer(clocks)
    }
}

mod sealed {
    /// Only tower's builder is one.
    pub trait Sealed<L> {}
    impl<L> Sealed<L> for tower::ServiceBuilder<L> {}
}
