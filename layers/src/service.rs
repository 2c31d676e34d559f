//! What the services of this crate have in common.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

/// Gives the service of a layer its constructor, and access to the inner service, as tower's own
/// services have it.
macro_rules! accessors {
    ([$($generics:tt)*] $service:ty, $layer:ty) => {
        impl<$($generics)*> $service {
            /// Puts the layer around `inner`, like [`Layer::layer`](tower_layer::Layer::layer).
            pub fn new(inner: S, layer: &$layer) -> Self {
                tower_layer::Layer::layer(layer, inner)
            }

            /// The inner service.
            pub fn get_ref(&self) -> &S {
                &self.inner
            }

            /// The inner service, mutable.
            pub fn get_mut(&mut self) -> &mut S {
                &mut self.inner
            }

            /// The inner service, without the layer.
            pub fn into_inner(self) -> S {
                self.inner
            }
        }
    };
}
pub(crate) use accessors;

/// A closure of the crate's user, which all clones of a layer share.
pub(crate) struct Hook<F: ?Sized>(pub(crate) Arc<F>);

/// Selects requests by their head.
pub(crate) type Selector = Hook<dyn Fn(&http::request::Parts) -> bool + Send + Sync>;

impl<F: ?Sized> Clone for Hook<F> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<F: ?Sized> Deref for Hook<F> {
    type Target = F;

    fn deref(&self) -> &F {
        &self.0
    }
}

impl<F: ?Sized> fmt::Debug for Hook<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hook")
    }
}
