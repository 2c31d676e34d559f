//! What a request waits for.

use std::sync::{Arc, Mutex, PoisonError};

use http::Extensions;

use crate::shared::Shared;

type Describe = Box<dyn Fn() -> Option<String> + Send>;

/// Where who lets a request wait can say how that goes on; travels with the request
/// ([`Waiting::of`]).
///
/// ```
/// use http::Request;
/// use llamatower_layers::heartbeat::Waiting;
///
/// let mut request = Request::new(());
/// Waiting::default().put_into(request.extensions_mut());
/// let waiting = Waiting::of(request.extensions()).expect("it was put there");
/// waiting.tell(|| Some("3 requests are before this one".to_owned()));
/// assert_eq!(waiting.text().as_deref(), Some("3 requests are before this one"));
/// ```
#[derive(Clone, Default)]
pub struct Waiting(Arc<Mutex<Option<Describe>>>);

impl Waiting {
    /// The handle of the request with these extensions, if there are signs of life for it.
    pub fn of(extensions: &Extensions) -> Option<&Self> {
        Shared::of(extensions)?.waiting.as_ref()
    }

    /// Lets the request with these extensions have this handle, as the layer does.
    pub fn put_into(self, extensions: &mut Extensions) {
        Shared::of_mut(extensions).waiting = Some(self);
    }

    /// From now on `describe` is asked for each sign: a line for people, `None` if the wait is over.
    pub fn tell(&self, describe: impl Fn() -> Option<String> + Send + 'static) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(describe));
    }

    /// What is told of the wait now.
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
