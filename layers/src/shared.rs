//! The data about a request that layers share.

use http::Extensions;

/// One request extension for all layers. Each separate extension would cost about 400 instructions
/// to insert, to copy for a retry and to drop.
#[derive(Clone, Debug, Default)]
pub(crate) struct Shared {
    pub(crate) client: Option<std::net::IpAddr>,
    pub(crate) over_tls: bool,
    pub(crate) route: Option<crate::RouteMatch>,
    #[cfg(feature = "outcome")]
    pub(crate) record: Option<crate::Record>,
    #[cfg(feature = "llm-request")]
    pub(crate) llm: Option<crate::LlmRequest>,
    #[cfg(feature = "retry")]
    pub(crate) attempts: Option<crate::retry::Attempts>,
    #[cfg(feature = "redis")]
    pub(crate) admitted: Option<crate::redis::Admitted>,
    #[cfg(feature = "heartbeat")]
    pub(crate) waiting: Option<crate::heartbeat::Waiting>,
}

impl Shared {
    /// The shared data in these extensions, if there is any.
    pub(crate) fn of(extensions: &Extensions) -> Option<&Self> {
        extensions.get()
    }

    /// The shared data, inserted if it is missing.
    pub(crate) fn of_mut(extensions: &mut Extensions) -> &mut Self {
        extensions.get_or_insert_default()
    }
}

/// Adds a time of mere waiting to the record of the request with these extensions, if it has one.
#[cfg(any(feature = "body-limit", feature = "retry"))]
pub(crate) fn record_wait(_extensions: &Extensions, _time: std::time::Duration) {
    #[cfg(feature = "outcome")]
    crate::Record::update_in(_extensions, |outcome| outcome.waited += _time);
}
