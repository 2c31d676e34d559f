//! Why a request goes to the cloud.

use http::{Response, StatusCode};
use llamatower_layers::queue::{QueueFull, QueueTimeout};
use llamatower_layers::{BoxError, ErrorCause, Failure, Side};

use crate::ollama::fleet::Cordoned;

/// Why a request goes to the cloud.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The servers that could answer are down, cordoned or fail.
    Down,
    /// No server has the model.
    Missing,
    /// The wait for a slot is too long.
    Busy,
}

impl Reason {
    /// Its name in logs and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Down => "down",
            Self::Missing => "missing",
            Self::Busy => "busy",
        }
    }

    /// Why the cloud may be asked after this result of the fleet.
    pub(super) fn of<R>(answer: &Result<Response<R>, BoxError>) -> Option<Self> {
        let by_status = |status: StatusCode| match status {
            StatusCode::NOT_FOUND => Some(Reason::Missing),
            StatusCode::NOT_IMPLEMENTED => None,
            status if status.is_server_error() => Some(Reason::Down),
            _ => None,
        };
        match answer {
            // The request or the model is at fault: no server has failed.
            Ok(answer) if ErrorCause::of(answer.extensions()).is_some() => None,
            // Ollama's queue is full.
            Ok(answer) if answer.status() == StatusCode::SERVICE_UNAVAILABLE => Some(Reason::Busy),
            Ok(answer) => by_status(answer.status()),
            Err(error) => {
                let failure = Failure::find(&**error).filter(|failure| !failure.is_final())?;
                let is_busy = failure.caused_by::<QueueFull>().is_some()
                    || failure.caused_by::<QueueTimeout>().is_some();
                match failure.side() {
                    _ if is_busy => Some(Reason::Busy),
                    _ if failure.caused_by::<Cordoned>().is_some() => Some(Reason::Down),
                    // The gateway itself refuses the request.
                    Side::Gateway if failure.status().is_server_error() => None,
                    _ => by_status(failure.status()),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use llamatower_layers::Fail;

    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("test")]
    struct Failed(Side, u16);

    impl Fail for Failed {
        fn side(&self) -> Side {
            self.0
        }
        fn status(&self) -> StatusCode {
            StatusCode::from_u16(self.1).unwrap()
        }
        fn kind(&self) -> &'static str {
            "cloud_error"
        }
    }

    #[test]
    fn each_result_of_the_fleet_has_its_reason_or_none() {
        let answered = |status: u16| {
            let answer = Response::builder().status(status).body(());
            Reason::of(&Ok(answer.unwrap()))
        };
        let failed =
            |side, status| Reason::of::<()>(&Err(Failure::from(Failed(side, status)).into()));
        for status in [200, 400, 403, 413, 429, 501] {
            assert_eq!(answered(status), None, "{status}");
        }
        assert_eq!(answered(404), Some(Reason::Missing));
        assert_eq!(answered(500), Some(Reason::Down));
        assert_eq!(answered(503), Some(Reason::Busy), "Ollama's queue is full");
        assert_eq!(failed(Side::Upstream, 502), Some(Reason::Down));
        assert_eq!(failed(Side::Upstream, 504), Some(Reason::Down));
        assert_eq!(failed(Side::Client, 404), Some(Reason::Missing));
        assert_eq!(failed(Side::Gateway, 404), Some(Reason::Missing));
        assert_eq!(failed(Side::Gateway, 503), None, "the gateway shuts down");
        assert_eq!(failed(Side::Client, 429), None, "the client's own limit");
        assert_eq!(Reason::of::<()>(&Err("a bug".into())), None);
        for cause in [ErrorCause::Request, ErrorCause::Model] {
            let answer = Response::builder().status(500).extension(cause).body(());
            assert_eq!(Reason::of(&Ok(answer.unwrap())), None, "{cause:?}");
        }
    }
}
