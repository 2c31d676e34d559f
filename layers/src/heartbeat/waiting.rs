//! A description of a request's wait.

use std::sync::{Arc, Mutex, PoisonError};

use http::Extensions;

use crate::shared::Shared;

type Describe = Box<dyn Fn() -> Option<String> + Send>;

/// A handle through which a queue describes a request's wait. It is stored in the request's
/// extensions ([`Waiting::of`]).
///
/// ```
/// use http::Request;
/// use llamatower_layers::heartbeat::Waiting;
///
/// let mut request = Request::new(());
/// Waiting::default().put_into(request.extensions_mut());
/// let waiting = Waiting::of(request.extensions()).expect("it was put there");
/// waiting.set_description(|| Some("3 requests are before this one".to_owned()));
/// assert_eq!(waiting.text().as_deref(), Some("3 requests are before this one"));
/// ```
#[derive(Clone, Default)]
pub struct Waiting(Arc<Mutex<Option<Describe>>>);

impl Waiting {
    /// The handle in these extensions, if the request gets heartbeats.
    pub fn of(extensions: &Extensions) -> Option<&Self> {
        Shared::of(extensions)?.waiting.as_ref()
    }

    /// Stores this handle in the extensions, as the layer does.
    pub fn put_into(self, extensions: &mut Extensions) {
        Shared::of_mut(extensions).waiting = Some(self);
    }

    /// Sets the function that is called for each heartbeat. It returns one line of text, or `None`
    /// when the wait is over.
    pub fn set_description(&self, describe: impl Fn() -> Option<String> + Send + 'static) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(describe));
    }

    /// The current description of the wait.
    pub fn text(&self) -> Option<String> {
        let describe = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        describe.as_ref().and_then(|describe| describe())
    }
}

impl std::fmt::Debug for Waiting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Waiting").field(&self.text()).finish()
    }
}
