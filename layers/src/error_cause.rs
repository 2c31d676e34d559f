//! What caused an error response, if it was not the server.

use http::Extensions;

/// What caused an error response, if it was not the server: another server would respond the same.
///
/// A status of 500 and above usually means that the server has failed. Some servers also send one for
/// a mistake in the request, as Ollama does for an option of a wrong type. The service that knows the
/// server's texts puts this value into the extensions of such a response. The status stays as it is.
///
/// | Layer | [`Request`](Self::Request) | [`Model`](Self::Model) |
/// |---|---|---|
/// | `RetryLayer` | no retry | no retry |
/// | `BreakerLayer` | no failure of the server | no failure of the server |
/// | `ModelAliasLayer` | no other model is asked | the next model is asked |
///
/// ```
/// use http::Response;
/// use llamatower_layers::ErrorCause;
///
/// let mut answer = Response::builder().status(500).body("option \"stop\" must be of type array")?;
/// assert_eq!(ErrorCause::of(answer.extensions()), None);
/// answer.extensions_mut().insert(ErrorCause::Request);
/// assert_eq!(ErrorCause::of(answer.extensions()), Some(ErrorCause::Request));
/// # Ok::<_, http::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorCause {
    /// The request: each server and each model would refuse it.
    Request,
    /// The model, or the request with this model: each server would respond the same with this
    /// model.
    Model,
}

impl ErrorCause {
    /// The cause in the extensions of a response.
    pub fn of(extensions: &Extensions) -> Option<Self> {
        extensions.get().copied()
    }
}
