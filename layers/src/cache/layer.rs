//! The layer. It owns the store.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use http::request::Parts;
use tower_layer::Layer;

use super::CacheService;
use super::store::Store;
use crate::order;

type NameOf = dyn Fn(&Parts) -> Option<Arc<str>> + Send + Sync;

/// Caches and shares answers. See the [module](super).
///
/// All services of one layer and its clones share the cached responses.
#[derive(Clone)]
pub struct CacheLayer {
    pub(super) name: Arc<str>,
    pub(super) store: Arc<Store>,
    pub(super) version_of: Arc<NameOf>,
    pub(super) tenant_of: Option<Arc<NameOf>>,
    /// `false`: the layer only passes requests through and calls no function.
    pub(super) is_on: bool,
    pub(super) counts: Arc<Counts>,
}

/// How often the cache had which result.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) hits: AtomicU64,
    pub(super) misses: AtomicU64,
    pub(super) collapsed: AtomicU64,
}

/// The results of a cache so far. Requests whose responses cannot be cached are not counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CacheCounts {
    /// Requests that got a cached response.
    pub hits: u64,
    /// Requests that were sent on.
    pub misses: u64,
    /// Requests that shared the response of an equal one in progress.
    pub collapsed: u64,
}

impl CacheLayer {
    /// Caches up to `max_bytes` bytes of responses; 0 turns the cache off. `version_of` gives the
    /// current version of the request's model, for example its digest. Requests without a version
    /// are not cached.
    pub fn new(
        max_bytes: u64,
        version_of: impl Fn(&Parts) -> Option<Arc<str>> + Send + Sync + 'static,
    ) -> Self {
        Self {
            name: "llamatower".into(),
            store: Arc::new(Store::new(max_bytes)),
            version_of: Arc::new(version_of),
            tenant_of: None,
            is_on: max_bytes > 0,
            counts: Arc::default(),
        }
    }

    /// The tenant of a request. Tenants never get each other's answers. Requests without a tenant
    /// share their responses.
    pub fn with_tenant(
        mut self,
        tenant_of: impl Fn(&Parts) -> Option<Arc<str>> + Send + Sync + 'static,
    ) -> Self {
        self.tenant_of = Some(Arc::new(tenant_of));
        self
    }

    /// The lifetime of a cached response; default one hour, `None` for no limit. This drops the
    /// responses that are cached so far.
    pub fn with_time_to_live(self, time: impl Into<Option<Duration>>) -> Self {
        let time = time.into();
        self.change(|store| store.time_to_live = time)
    }

    /// The size limit of a cached response, in bytes; default a sixteenth of the whole cache. This
    /// drops the responses that are cached so far.
    pub fn with_max_answer(self, bytes: u64) -> Self {
        self.change(|store| store.max_answer = bytes)
    }

    /// The name of this cache in `Cache-Status`, a token of RFC 9651; default `llamatower`.
    pub fn with_name(mut self, name: impl Into<Arc<str>>) -> Self {
        self.name = name.into();
        self
    }

    /// The number of cached responses.
    pub fn entries(&self) -> usize {
        self.store.entries()
    }

    /// The size of the cached responses in bytes, their heads included.
    pub fn bytes(&self) -> u64 {
        self.store.bytes()
    }

    /// The results so far, of all services of this layer and its clones.
    pub fn counts(&self) -> CacheCounts {
        CacheCounts {
            hits: self.counts.hits.load(Relaxed),
            misses: self.counts.misses.load(Relaxed),
            collapsed: self.counts.collapsed.load(Relaxed),
        }
    }

    fn change(mut self, change: impl FnOnce(&mut Store)) -> Self {
        let mut store = self.store.without_entries();
        change(&mut store);
        self.store = Arc::new(store);
        self
    }
}

impl<S> Layer<S> for CacheLayer {
    type Service = CacheService<S>;

    fn layer(&self, inner: S) -> CacheService<S> {
        order::check::<S>("Cache");
        CacheService {
            inner,
            layer: self.clone(),
        }
    }
}

impl fmt::Debug for CacheLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CacheLayer")
            .field("name", &self.name)
            .field("entries", &self.entries())
            .field("bytes", &self.bytes())
            .finish_non_exhaustive()
    }
}
