//! The layer that asks Redis once for all limits of a request.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use http::request::Parts;
use http::{HeaderMap, Request, header};
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use super::admit::Admitted;
use super::ask::Ask;
use super::{Redis, RedisBuckets, RedisTokens};
use crate::rate_limit::{RateLimitLayer, RateStore};
use crate::service::accessors;
use crate::shared::Shared;
use crate::store::NoLimitKey;
use crate::token_limit::{TokenLimitLayer, TokenStore};
use crate::usage::expected_prompt_tokens;

/// Adds what a limit takes for a request.
type Limit = dyn Fn(&Parts, &mut Ask) -> Result<(), NoLimitKey> + Send + Sync;

/// Asks Redis once for several limits of a request, in place of one call for each of their layers.
///
/// It belongs outside of the layers of these limits, and refuses nothing itself: it leaves Redis' answers in
/// the request's extensions, where the stores of the layers find them. A layer that finds no answer asks
/// itself, so this layer can be left out, and a limit that is not named to it works as before.
///
/// One script takes it all:
/// - All rates give a request, or none does: what one rate refuses does not count for the others. Without
///   this layer, it counts for the rates of the layers outside of the refusing one.
/// - Tokens are reserved only if no rate refuses. A refusal of tokens leaves the rates taken, because other
///   layers still work on the request, and may answer it.
/// - Tokens are reserved before the body is read: those of
///   [`expected_tokens_by_length`](Self::expected_tokens_by_length), for example. If the layer then asks for
///   more, or nothing was reserved, it makes a call of its own. A reservation that is not taken, as that of a
///   request that a cache answers, is given back.
/// - A request that waits in a `KeyConcurrencyLayer` keeps its reservation. A refusal of its tokens is forgotten, and
///   so is a reservation whose window has ended meanwhile: then the layers of the tokens ask themselves.
///
/// A request with a single limit is left to the layer of that limit, which knows the request better.
///
/// ```
/// use std::num::{NonZeroU32, NonZeroU64};
///
/// use http::request::Parts;
/// use jiff::tz::TimeZone;
/// use llamatower_layers::rate_limit::{Quota, RateLimitLayer};
/// use llamatower_layers::redis::{Redis, RedisBuckets, RedisConfig, RedisLimitsLayer, RedisTokens};
/// use llamatower_layers::token_limit::{Budget, MemoryStore, TokenLimitLayer, Window};
/// use tower::ServiceBuilder;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let redis = Redis::start(RedisConfig::new("redis://127.0.0.1:6379".parse()?));
/// let tenant = |request: &Parts| {
///     let tenant = request.headers.get("x-tenant")?.to_str().ok()?;
///     Some(tenant.to_owned())
/// };
/// let name_of = |tenant: &String| tenant.clone();
/// let quota = Quota::per_minute(NonZeroU32::new(600).expect("not zero"));
/// let rate = RateLimitLayer::with_store(
///     RedisBuckets::new(redis.clone(), "tenants", name_of),
///     [],
///     Some(quota),
///     tenant,
/// );
/// let budget = Budget::new(NonZeroU64::new(100_000).expect("not zero"), Window::Day);
/// let memory = MemoryStore::new(TimeZone::UTC);
/// let tokens = TokenLimitLayer::with_store(
///     RedisTokens::new(redis.clone(), "tenants", TimeZone::UTC, memory, name_of),
///     [budget],
///     tenant,
/// );
/// let layers = ServiceBuilder::new()
///     .layer(
///         RedisLimitsLayer::new(redis)
///             .with_rate(&rate, |store| Some(store))
///             .with_tokens(
///                 &tokens,
///                 |store| Some(store),
///                 RedisLimitsLayer::expected_tokens_by_length,
///             ),
///     )
///     .layer(rate)
///     .layer(tokens);
/// # let _ = layers;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct RedisLimitsLayer {
    redis: Option<Redis>,
    limits: Arc<Vec<Arc<Limit>>>,
}

impl RedisLimitsLayer {
    /// Asks `redis`, which is that of the stores.
    pub fn new(redis: Redis) -> Self {
        Self {
            redis: Some(redis),
            limits: Arc::default(),
        }
    }

    /// Does nothing: each layer asks for itself.
    pub fn off() -> Self {
        Self {
            redis: None,
            limits: Arc::default(),
        }
    }

    /// Asks for what this layer takes, too. Limits are named from the outermost to the innermost. `in_redis`
    /// returns the store if it is in Redis.
    pub fn with_rate<K, X, T>(
        self,
        layer: &RateLimitLayer<K, X, T>,
        in_redis: impl Fn(&T) -> Option<&RedisBuckets<K>> + Send + Sync + 'static,
    ) -> Self
    where
        K: Clone + std::hash::Hash + Eq + Send + Sync + 'static,
        X: Fn(&Parts) -> Option<K> + Send + Sync + 'static,
        T: RateStore<K> + Send + Sync + 'static,
    {
        let layer = layer.clone();
        self.with(move |request, ask| {
            if let Some(store) = in_redis(layer.store())
                && let Some((key, quota)) = layer.takes(request)?
            {
                ask.bucket(store.bucket(key.as_ref(), &quota));
            }
            Ok(())
        })
    }

    /// Asks for what this layer reserves, too, as [`with_rate`](Self::with_rate). `estimate` gives the
    /// expected tokens by the head of the request, as the layer will know them by its body; `None` if it
    /// cannot, and then the layer asks.
    pub fn with_tokens<K, X, T>(
        self,
        layer: &TokenLimitLayer<K, X, T>,
        in_redis: impl Fn(&T) -> Option<&RedisTokens<K>> + Send + Sync + 'static,
        estimate: impl Fn(&Parts) -> Option<u64> + Send + Sync + 'static,
    ) -> Self
    where
        K: Clone + std::hash::Hash + Eq + Send + Sync + 'static,
        X: Fn(&Parts) -> Option<K> + Send + Sync + 'static,
        T: TokenStore<K> + Send + Sync + 'static,
    {
        let layer = layer.clone();
        self.with(move |request, ask| {
            if let Some(store) = in_redis(layer.store())
                && let Some((key, budgets)) = layer.reserves(request)?
                && let Some(tokens) = estimate(request)
            {
                ask.account(store.ask(key.as_ref(), &budgets, tokens));
            }
            Ok(())
        })
    }

    /// The expected tokens of a request by the length of its body, as
    /// [`TokenLimitLayer`] expects them; `None` if the head does not have the length, the body is
    /// compressed, or has more than 16 KiB, of which images may be a part.
    pub fn expected_tokens_by_length(request: &Parts) -> Option<u64> {
        const MOST_IN_ANY_CASE: u64 = 16 << 10;
        let length = length(&request.headers).filter(|length| *length <= MOST_IN_ANY_CASE);
        length.map(expected_prompt_tokens)
    }

    fn with(
        mut self,
        limit: impl Fn(&Parts, &mut Ask) -> Result<(), NoLimitKey> + Send + Sync + 'static,
    ) -> Self {
        Arc::make_mut(&mut self.limits).push(Arc::new(limit));
        self
    }

    /// What is asked for a request, if it has several limits.
    fn ask(&self, request: &Parts) -> Option<Ask> {
        let mut ask = Ask::default();
        for limit in &*self.limits {
            // Further in, nothing is asked for a request that has been refused.
            if limit(request, &mut ask).is_err() {
                break;
            }
        }
        (ask.limits() > 1).then_some(ask)
    }
}

fn length(headers: &HeaderMap) -> Option<u64> {
    if headers.contains_key(header::CONTENT_ENCODING) {
        return None;
    }
    let length = headers.get(header::CONTENT_LENGTH)?.to_str().ok()?;
    length.parse().ok()
}

/// Asks Redis.
async fn admit(redis: Redis, asking: Admitted) -> Admitted {
    asking.ask(&redis).await
}

/// The service of [`RedisLimitsLayer`].
#[derive(Clone)]
pub struct RedisLimitsService<S> {
    inner: S,
    layer: RedisLimitsLayer,
}

accessors!([S] RedisLimitsService<S>, RedisLimitsLayer);

impl<S> Layer<S> for RedisLimitsLayer {
    type Service = RedisLimitsService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        RedisLimitsService {
            inner,
            layer: self.clone(),
        }
    }
}

impl<S, B> Service<Request<B>> for RedisLimitsService<S>
where
    S: Service<Request<B>> + Clone,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = RedisLimitsFuture<S, B>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let redis = self.layer.redis.as_ref();
        let Some(redis) = redis.filter(|redis| redis.is_connected()) else {
            return RedisLimitsFuture::calling(self.inner.call(request));
        };
        let (parts, body) = request.into_parts();
        let ask = self.layer.ask(&parts);
        let request = Request::from_parts(parts, body);
        let Some(ask) = ask else {
            return RedisLimitsFuture::calling(self.inner.call(request));
        };
        let admitting = admit(redis.clone(), Admitted::new(ask));
        let next = self.inner.clone();
        let readied = std::mem::replace(&mut self.inner, next);
        RedisLimitsFuture {
            state: State::Asking {
                asking: Box::pin(Asking {
                    next: Some((readied, request)),
                    admitting,
                }),
            },
        }
    }
}

pin_project! {
    /// The future of [`RedisLimitsService`].
    pub struct RedisLimitsFuture<S, B>
    where
        S: Service<Request<B>>,
    {
        #[pin]
        state: State<S, B, S::Future>,
    }
}

pin_project! {
    #[project = StateProjection]
    enum State<S, B, F> {
        // Boxed: otherwise each outer future would be as large as a request.
        Asking { asking: Pin<Box<Asking<S, B, dyn Future<Output = Admitted> + Send>>> },
        Calling {
            #[pin]
            inner: F,
        },
    }
}

pin_project! {
    struct Asking<S, B, A: ?Sized> {
        next: Option<(S, Request<B>)>,
        // The last field, so that both are in one box.
        #[pin]
        admitting: A,
    }
}

impl<S: Service<Request<B>>, B> RedisLimitsFuture<S, B> {
    fn calling(inner: S::Future) -> Self {
        Self {
            state: State::Calling { inner },
        }
    }
}

impl<S: Service<Request<B>>, B> Future for RedisLimitsFuture<S, B> {
    type Output = Result<S::Response, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.project().state;
        loop {
            match state.as_mut().project() {
                StateProjection::Asking { asking } => {
                    let asking = asking.as_mut().project();
                    let admitted = ready!(asking.admitting.poll(cx));
                    let (mut service, mut request) = asking
                        .next
                        .take()
                        .expect("taken here alone, as the state changes next");
                    Shared::of_mut(request.extensions_mut()).admitted = Some(admitted);
                    let inner = service.call(request);
                    state.set(State::Calling { inner });
                }
                StateProjection::Calling { inner } => return inner.poll(cx),
            }
        }
    }
}

impl fmt::Debug for RedisLimitsLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisLimitsLayer")
            .field("redis", &self.redis)
            .field("limits", &self.limits.len())
            .finish()
    }
}

impl<S: fmt::Debug> fmt::Debug for RedisLimitsService<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisLimitsService")
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}

impl<S: Service<Request<B>>, B> fmt::Debug for RedisLimitsFuture<S, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisLimitsFuture").finish_non_exhaustive()
    }
}
