//! The errors of the time-outs.

use std::time::Duration;

use http::StatusCode;

use crate::{Fail, Retryable, Side};

macro_rules! timeout {
    ($(#[$doc:meta])* $name:ident, $kind:literal, retryable: $retryable:ident, $text:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
        #[error($text)]
        pub struct $name {
            /// The limit that was reached.
            pub after: Duration,
            /// The name of the limit; see [`LimitNames`](super::LimitNames).
            pub limit: &'static str,
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
    /// The backend sent nothing after the request was sent.
    FirstByteTimeout, "first_byte_timeout", retryable: Once,
    "the backend sent no byte within {after:?} (limit: {limit}); \
     it may be loading the model or be busy"
}

timeout! {
    /// The backend paused in the middle of its response.
    IdleTimeout, "idle_timeout", retryable: No,
    "the backend paused for {after:?} in the middle of its response (limit: {limit})"
}

timeout! {
    /// The whole exchange took too long.
    TotalTimeout, "total_timeout", retryable: No,
    "the response took longer than {after:?} (limit: {limit})"
}
