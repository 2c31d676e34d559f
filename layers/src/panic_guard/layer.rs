//! The layer.

use std::sync::Arc;

use tower_layer::Layer;

use super::PanicGuardService;
use super::catch::PanicHook;
use crate::order;
use crate::service::Hook;

/// Limits a panic to the request that caused it. See the [module](super).
#[derive(Clone, Debug)]
pub struct PanicGuardLayer {
    hook: Option<PanicHook>,
}

impl PanicGuardLayer {
    /// Without a hook: only the client gets an error, without the panic message.
    pub fn new() -> Self {
        Self { hook: None }
    }

    /// Calls `hook` with the message of each panic, on the thread that panicked.
    ///
    /// The process's panic hook runs before it, as for any panic.
    pub fn with_hook(self, hook: impl Fn(&str) + Send + Sync + 'static) -> Self {
        Self {
            hook: Some(Hook(Arc::new(hook))),
        }
    }
}

impl Default for PanicGuardLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl<S> Layer<S> for PanicGuardLayer {
    type Service = PanicGuardService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        order::check::<S>("PanicGuard");
        PanicGuardService {
            inner,
            hook: self.hook.clone(),
        }
    }
}
