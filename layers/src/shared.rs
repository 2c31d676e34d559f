//! What the layers tell each other of a request.

use http::Extensions;

/// One extension of a request for all layers: each extension of its own costs some 400
/// instructions, to be put in, copied for a retry and dropped.
#[derive(Clone, Debug, Default)]
pub(crate) struct Shared {
    pub(crate) client: Option<std::net::IpAddr>,
    pub(crate) route: Option<crate::RouteMatch>,
    #[cfg(feature = "outcome")]
    pub(crate) record: Option<crate::Record>,
    #[cfg(feature = "llm-request")]
    pub(crate) llm: Option<crate::LlmRequest>,
    #[cfg(feature = "retry")]
    pub(crate) attempts: Option<crate::retry::Attempts>,
}

impl Shared {
    /// What is known of the request with these extensions.
    pub(crate) fn of(extensions: &Extensions) -> Option<&Self> {
        extensions.get()
    }

    /// The place where something is noted.
    pub(crate) fn of_mut(extensions: &mut Extensions) -> &mut Self {
        extensions.get_or_insert_default()
    }
}
