//! A method for each layer, on tower's `ServiceBuilder`.

use tower::ServiceBuilder;

/// Adds the layers of this crate to a [`ServiceBuilder`], like the trait of the same name in
/// tower-http.
///
/// Each method takes the required arguments of its layer and exists when the layer's feature is on.
/// To set more options, build the layer and add it with [`ServiceBuilder::layer`].
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
    /// Looks up the endpoint of each request in `table`.
    #[cfg(feature = "endpoint")]
    fn endpoints(
        self,
        table: crate::EndpointTable,
    ) -> ServiceBuilder<tower_layer::Stack<crate::endpoint::EndpointLayer, L>>;

    /// Reports the outcome of each request to `observer` when the request ends.
    #[cfg(feature = "outcome")]
    fn outcome(
        self,
        observer: std::sync::Arc<dyn crate::Observer>,
    ) -> ServiceBuilder<tower_layer::Stack<crate::outcome::OutcomeLayer, L>>;

    /// Turns errors into responses, and adds an error frame to broken streams.
    #[cfg(feature = "rescue")]
    fn rescue(self) -> ServiceBuilder<tower_layer::Stack<crate::rescue::RescueLayer, L>>;

    /// Limits a panic to the request that caused it.
    #[cfg(feature = "panic-guard")]
    fn panic_guard(
        self,
    ) -> ServiceBuilder<tower_layer::Stack<crate::panic_guard::PanicGuardLayer, L>>;

    /// Requires one of these API keys.
    #[cfg(feature = "api-key")]
    fn api_keys(
        self,
        keys: crate::api_key::KeySet,
    ) -> ServiceBuilder<tower_layer::Stack<crate::api_key::ApiKeyLayer, L>>;

    /// Refuses requests beyond a quota that all requests share.
    #[cfg(feature = "rate-limit")]
    fn rate_limit(
        self,
        quota: crate::rate_limit::Quota,
    ) -> ServiceBuilder<tower_layer::Stack<GlobalRateLimit, L>>;

    /// Refuses requests beyond the quota of their key. Requests without a key pass.
    #[cfg(feature = "rate-limit")]
    fn rate_limit_per_key<K, X>(
        self,
        quota: crate::rate_limit::Quota,
        key_of: X,
    ) -> ServiceBuilder<tower_layer::Stack<KeyRateLimit<K, X>, L>>
    where
        K: Clone + std::hash::Hash + Eq,
        X: Fn(&http::request::Parts) -> Option<K>;

    /// Refuses requests beyond `most` concurrent requests.
    #[cfg(feature = "admission")]
    fn admission(
        self,
        most: std::num::NonZeroUsize,
    ) -> ServiceBuilder<tower_layer::Stack<crate::admission::AdmissionLayer, L>>;

    /// Refuses requests that would delay first bytes beyond this target.
    #[cfg(feature = "adaptive")]
    fn adaptive_limit(
        self,
        target_first_byte: std::time::Duration,
    ) -> ServiceBuilder<tower_layer::Stack<crate::adaptive::AdaptiveLayer, L>>;

    /// Reads request bodies into this memory budget.
    #[cfg(feature = "body-limit")]
    fn body_limit(
        self,
        memory: crate::body::MemoryBudget,
    ) -> ServiceBuilder<tower_layer::Stack<crate::body_limit::BodyLimitLayer, L>>;

    /// Finds the model and the operation of each request.
    #[cfg(feature = "llm-request")]
    fn llm_request(
        self,
    ) -> ServiceBuilder<tower_layer::Stack<crate::llm_request::LlmRequestLayer, L>>;

    /// Caches deterministic responses in up to `max_bytes` bytes. `version_of` gives the version of
    /// the request's model; requests without a version are not cached.
    #[cfg(feature = "cache")]
    fn cache(
        self,
        max_bytes: u64,
        version_of: impl Fn(&http::request::Parts) -> Option<std::sync::Arc<str>>
        + Send
        + Sync
        + 'static,
    ) -> ServiceBuilder<tower_layer::Stack<crate::cache::CacheLayer, L>>;

    /// Refuses requests of keys that have used up their token budget. Requests without a key pass.
    #[cfg(feature = "token-limit")]
    fn token_limit<K, X>(
        self,
        budgets: impl IntoIterator<Item = crate::token_limit::Budget>,
        key_of: X,
    ) -> ServiceBuilder<tower_layer::Stack<crate::token_limit::TokenLimitLayer<K, X>, L>>
    where
        K: Clone + std::hash::Hash + Eq,
        X: Fn(&http::request::Parts) -> Option<K>;

    /// Sends a comment whenever an event stream has not begun after another `every`.
    #[cfg(feature = "heartbeat")]
    fn heartbeat(
        self,
        every: std::time::Duration,
    ) -> ServiceBuilder<tower_layer::Stack<crate::heartbeat::HeartbeatLayer, L>>;

    /// Retries failed requests before the first byte, within `budget`.
    #[cfg(feature = "retry")]
    fn retry(
        self,
        budget: crate::retry::RetryBudget,
    ) -> ServiceBuilder<tower_layer::Stack<crate::retry::RetryLayer, L>>;

    /// Queues requests until one of `slots` is free.
    #[cfg(feature = "queue")]
    fn queue(
        self,
        slots: std::num::NonZeroUsize,
    ) -> ServiceBuilder<tower_layer::Stack<crate::queue::QueueLayer, L>>;

    /// Attaches a token usage report to each response.
    #[cfg(feature = "usage")]
    fn usage(self) -> ServiceBuilder<tower_layer::Stack<crate::usage::UsageLayer, L>>;

    /// Reports results to `breaker`, and refuses requests while it is open.
    #[cfg(feature = "breaker")]
    fn breaker(
        self,
        breaker: crate::breaker::Breaker,
    ) -> ServiceBuilder<tower_layer::Stack<crate::breaker::BreakerLayer, L>>;

    /// Limits the time to the first byte, between bytes, and in total.
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
    /// Seals the trait: only tower's builder implements it.
    pub trait Sealed<L> {}
    impl<L> Sealed<L> for tower::ServiceBuilder<L> {}
}
