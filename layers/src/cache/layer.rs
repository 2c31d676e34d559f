//! The layer, which owns the store.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::request::Parts;
use tower_layer::Layer;

use super::CacheService;
use super::store::Store;

type NameOf = dyn Fn(&Parts) -> Option<Arc<str>> + Send + Sync;

/// Keeps and shares answers. See the [module](super).
///
/// All services of one layer and of its clones share its answers.
#[derive(Clone)]
pub struct CacheLayer {
    pub(super) name: Arc<str>,
    pub(super) store: Arc<Store>,
    pub(super) version_of: Arc<NameOf>,
    pub(super) tenant_of: Option<Arc<NameOf>>,
    /// Takes up no room and asks for nothing where there is none.
    pub(super) is_on: bool,
}

impl CacheLayer {
    /// Keeps up to `max_bytes` bytes of answers; none turns it off. `version_of` names what the
    /// model of a request is at this moment, by its digest say; requests for which it finds nothing
    /// pass.
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
        }
    }

    /// Whose answers these are: tenants never see each other's. Requests without one share
    /// theirs.
    pub fn with_tenant(
        mut self,
        tenant_of: impl Fn(&Parts) -> Option<Arc<str>> + Send + Sync + 'static,
    ) -> Self {
        self.tenant_of = Some(Arc::new(tenant_of));
        self
    }

    /// How long an answer is kept; an hour unless said, `None` for as long as there is room. The
    /// answers kept so far are let go of.
    pub fn with_time_to_live(self, time: impl Into<Option<Duration>>) -> Self {
        let time = time.into();
        self.change(|store| store.time_to_live = time)
    }

    /// The largest answer that is kept, in bytes; a sixteenth of all unless said. The answers
    /// kept so far are let go of.
    pub fn with_max_answer(self, bytes: u64) -> Self {
        self.change(|store| store.max_answer = bytes)
    }

    /// What the cache calls itself in `Cache-Status`; `llamatower` unless said. A token of RFC 9651.
    pub fn with_name(mut self, name: impl Into<Arc<str>>) -> Self {
        self.name = name.into();
        self
    }

    /// How many answers are kept now.
    pub fn entries(&self) -> usize {
        self.store.entries()
    }

    /// How many bytes they take, their heads included.
    pub fn bytes(&self) -> u64 {
        self.store.bytes()
    }

    fn change(mut self, change: impl FnOnce(&mut Store)) -> Self {
        let mut store = self.store.emptied();
        change(&mut store);
        self.store = Arc::new(store);
        self
    }
}

impl<S> Layer<S> for CacheLayer {
    type Service = CacheService<S>;

    fn layer(&self, inner: S) -> CacheService<S> {
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
