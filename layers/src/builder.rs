//! A method for each layer, on tower's builder.

use tower::ServiceBuilder;

/// Adds the layers of this crate to a [`ServiceBuilder`], as tower-http's trait of this name does
/// with its own.
///
/// Each method adds its layer with what it cannot do without, and is on when the layer's feature is.
/// One that has more set is added by [`ServiceBuilder::layer`].
///
/// ```
/// use std::num::NonZeroU32;
///
/// use http::request::Parts;
/// use llamatower_layers::ServiceBuilderExt;
/// use llamatower_layers::rate_limit::{Quota, RateLimitLayer};
/// use tower::ServiceBuilder;
///
/// let quota = Quota::per_minute(NonZeroU32::new(60).expect("not zero"));
/// let tenant = |request: &Parts| request.headers.get("x-tenant").cloned();
/// let short = ServiceBuilder::new().rescue().rate_limit_per_key(quota, tenant);
/// let bounded = RateLimitLayer::per_key(quota, tenant).with_max_keys(1000.try_into()?);
/// let long = ServiceBuilder::new().rescue().layer(bounded);
/// # let _ = (short, long);
/// # Ok::<_, std::num::TryFromIntError>(())
/// ```
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

    /// Refuses what exceeds a quota of all requests together.
    #[cfg(feature = "rate-limit")]
    fn rate_limit(
        self,
        quota: crate::rate_limit::Quota,
    ) -> ServiceBuilder<tower_layer::Stack<GlobalRateLimit, L>>;

    /// Refuses what exceeds a quota of each key; requests without one pass.
    #[cfg(feature = "rate-limit")]
    fn rate_limit_per_key<K, X>(
        self,
        quota: crate::rate_limit::Quota,
        key_of: X,
    ) -> ServiceBuilder<tower_layer::Stack<KeyRateLimit<K, X>, L>>
    where
        K: Clone + std::hash::Hash + Eq,
        X: Fn(&http::request::Parts) -> Option<K>;

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

    /// Keeps up to `max_bytes` of deterministic answers, by the version of the model that
    /// `version_of` names; requests without one pass.
    #[cfg(feature = "cache")]
    fn cache(
        self,
        max_bytes: u64,
        version_of: impl Fn(&http::request::Parts) -> Option<std::sync::Arc<str>>
        + Send
        + Sync
        + 'static,
    ) -> ServiceBuilder<tower_layer::Stack<crate::cache::CacheLayer, L>>;

    /// Refuses the requests of keys that have used up their tokens; requests without a key pass.
    #[cfg(feature = "token-limit")]
    fn token_limit<K, X>(
        self,
        budgets: impl IntoIterator<Item = crate::token_limit::Budget>,
        key_of: X,
    ) -> ServiceBuilder<tower_layer::Stack<crate::token_limit::TokenLimitLayer<K, X>, L>>
    where
        K: Clone + std::hash::Hash + Eq,
        X: Fn(&http::request::Parts) -> Option<K>;

    /// Gives a sign of life each time that an event stream has been waited for so long.
    #[cfg(feature = "heartbeat")]
    fn heartbeat(
        self,
        every: std::time::Duration,
    ) -> ServiceBuilder<tower_layer::Stack<crate::heartbeat::HeartbeatLayer, L>>;

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

#[cfg(feature = "rate-limit")]
type GlobalRateLimit = KeyRateLimit<(), fn(&http::request::Parts) -> Option<()>>;

#[cfg(feature = "rate-limit")]
type KeyRateLimit<K, X> =
    crate::rate_limit::RateLimitLayer<K, X, crate::rate_limit::MemoryBuckets<K>>;

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

    #[cfg(feature = "rate-limit")]
    fn rate_limit(
        self,
        quota: crate::rate_limit::Quota,
    ) -> ServiceBuilder<tower_layer::Stack<GlobalRateLimit, L>> {
        self.layer(crate::rate_limit::RateLimitLayer::global(quota))
    }

    #[cfg(feature = "rate-limit")]
    fn rate_limit_per_key<K, X>(
        self,
        quota: crate::rate_limit::Quota,
        key_of: X,
    ) -> ServiceBuilder<tower_layer::Stack<KeyRateLimit<K, X>, L>>
    where
        K: Clone + std::hash::Hash + Eq,
        X: Fn(&http::request::Parts) -> Option<K>,
    {
        self.layer(crate::rate_limit::RateLimitLayer::per_key(quota, key_of))
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

    #[cfg(feature = "cache")]
    fn cache(
        self,
        max_bytes: u64,
        version_of: impl Fn(&http::request::Parts) -> Option<std::sync::Arc<str>>
        + Send
        + Sync
        + 'static,
    ) -> ServiceBuilder<tower_layer::Stack<crate::cache::CacheLayer, L>> {
        self.layer(crate::cache::CacheLayer::new(max_bytes, version_of))
    }

    #[cfg(feature = "token-limit")]
    fn token_limit<K, X>(
        self,
        budgets: impl IntoIterator<Item = crate::token_limit::Budget>,
        key_of: X,
    ) -> ServiceBuilder<tower_layer::Stack<crate::token_limit::TokenLimitLayer<K, X>, L>>
    where
        K: Clone + std::hash::Hash + Eq,
        X: Fn(&http::request::Parts) -> Option<K>,
    {
        self.layer(crate::token_limit::TokenLimitLayer::new(budgets, key_of))
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

    #[cfg(feature = "heartbeat")]
    fn heartbeat(
        self,
        every: std::time::Duration,
    ) -> ServiceBuilder<tower_layer::Stack<crate::heartbeat::HeartbeatLayer, L>> {
        self.layer(crate::heartbeat::HeartbeatLayer::new(every))
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
