//! Which clock ran out.

use std::time::Duration;

use http::StatusCode;

use crate::{Fail, Retryable, Side};

macro_rules! timeout {
    ($(#[$doc:meta])* $name:ident, $kind:literal, retryable: $retryable:ident, $text:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
        #[error($text)]
        pub struct $name {
            /// How long was waited.
            pub after: Duration,
        }

        impl Fail for $name {
            fn side(&self) -> Side {
                Side::Upstream
            }
            fn status(&self) -> StatusCode {
                StatusCode::GATEWAY_TIMEOUT
            }
            fn kind(&self) -> &'static str {
                $kind
            }
            fn retryable(&self) -> Retryable {
                Retryable::$retryable
            }
        }
    };
}

timeout! {
    /// The backend said nothing after the request had been sent.
    FirstByteTimeout, "first_byte_timeout", retryable: Once,
    "the backend sent no byte within {after:?}: it may be loading the model or be busy; \
     the first-byte time-out says how long is waited"
}

timeout! {
    /// The backend paused in the middle of its answer.
    IdleTimeout, "idle_timeout", retryable: No,
    "the backend paused for {after:?} in the middle of its answer; \
     the idle time-out says how long is waited"
}

timeout! {
    /// The whole exchange took too long.
    TotalTimeout, "total_timeout", retryable: No,
    "the answer took longer than {after:?}; the total time-out says how long it may take"
}
