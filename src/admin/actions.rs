//! What operators can do: take a backend out of the choice and back into it, and end the wait of a
//! request.

use http::StatusCode;
use serde_json::json;

use super::answer::{self, Answer};
use crate::telemetry::FleetView;

/// What a path asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action<'a> {
    /// `/backends/NAME/cordon` and `/backends/NAME/uncordon`.
    Cordon {
        /// The name of the backend.
        backend: &'a str,
        is_cordoned: bool,
    },
    /// `/queue/ID/cancel`.
    Cancel(u64),
}

impl<'a> Action<'a> {
    pub(super) fn of(path: &'a str) -> Option<Self> {
        if let Some(rest) = path.strip_prefix("/queue/") {
            let id = rest.strip_suffix("/cancel")?;
            return id.parse().ok().map(Self::Cancel);
        }
        let rest = path.strip_prefix("/backends/")?;
        // The name of a backend below a path has slashes.
        let (backend, verb) = rest.rsplit_once('/')?;
        let is_cordoned = match verb {
            "cordon" => true,
            "uncordon" => false,
            _ => return None,
        };
        Some(Self::Cordon {
            backend,
            is_cordoned,
        })
    }

    /// Does it.
    pub(super) fn apply(self, fleet: &dyn FleetView) -> Answer {
        match self {
            Self::Cordon {
                backend,
                is_cordoned,
            } => {
                fleet.set_cordoned(backend, is_cordoned);
                let status = fleet.status();
                match status.iter().find(|row| *row.name == *backend) {
                    Some(row) => answer::json(&json!({
                        "name": *row.name,
                        "is_cordoned": row.is_cordoned,
                        "in_flight": row.in_flight,
                    })),
                    None => answer::refusal(StatusCode::NOT_FOUND, "404 there is no such backend"),
                }
            }
            Self::Cancel(id) => match fleet.cancel_waiting(id) {
                true => answer::json(&json!({ "id": id, "is_cancelled": true })),
                false => answer::refusal(
                    StatusCode::NOT_FOUND,
                    "404 this request does not wait any more",
                ),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_backend_is_what_stands_between() {
        let name = |path| match Action::of(path) {
            Some(Action::Cordon {
                backend,
                is_cordoned,
            }) => Some((backend, is_cordoned)),
            _ => None,
        };
        assert_eq!(
            name("/backends/gpu-1:11434/cordon"),
            Some(("gpu-1:11434", true))
        );
        assert_eq!(
            name("/backends/gpu.example:443/ollama/uncordon"),
            Some(("gpu.example:443/ollama", false))
        );
        for other in ["/backends/gpu-1", "/backends/gpu-1/delete", "/status"] {
            assert_eq!(name(other), None);
        }
    }

    #[test]
    fn a_waiting_request_is_named_by_its_number() {
        assert_eq!(Action::of("/queue/17/cancel"), Some(Action::Cancel(17)));
        for other in ["/queue/17", "/queue/x/cancel", "/queue//cancel"] {
            assert_eq!(Action::of(other), None);
        }
    }
}
