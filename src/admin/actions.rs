//! What operators can do: take a backend out of the choice and back into it, load and unload a model
//! there, and end the wait of a request.

use std::sync::Arc;

use http::{StatusCode, Uri};
use llamatower_layers::ModelName;
use serde_json::json;

use super::answer::{self, Answer};
use crate::ollama::fleet::{MemoryChange, MemoryChangeFailed};
use crate::telemetry::FleetView;

/// What a path asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// `/backends/NAME/cordon` and `/backends/NAME/uncordon`.
    Cordon {
        /// The name of the backend.
        backend: String,
        is_cordoned: bool,
    },
    /// `/backends/NAME/load?model=MODEL` and `/backends/NAME/unload?model=MODEL`.
    ChangeMemory {
        /// The name of the backend.
        backend: String,
        /// `None` if there is no model of this name.
        model: Option<ModelName>,
        change: MemoryChange,
    },
    /// `/queue/ID/cancel`.
    Cancel(u64),
}

impl Action {
    pub(super) fn of(uri: &Uri) -> Option<Self> {
        if let Some(rest) = uri.path().strip_prefix("/queue/") {
            let id = rest.strip_suffix("/cancel")?;
            return id.parse().ok().map(Self::Cancel);
        }
        let rest = uri.path().strip_prefix("/backends/")?;
        // The name of a backend below a path has slashes.
        let (backend, verb) = rest.rsplit_once('/')?;
        let backend = backend.to_owned();
        let cordon = |backend, is_cordoned| Self::Cordon {
            backend,
            is_cordoned,
        };
        let change_memory = |backend, change| Self::ChangeMemory {
            backend,
            model: model(uri),
            change,
        };
        Some(match verb {
            "cordon" => cordon(backend, true),
            "uncordon" => cordon(backend, false),
            "load" => change_memory(backend, MemoryChange::Load),
            "unload" => change_memory(backend, MemoryChange::Unload),
            _ => return None,
        })
    }

    /// Does it.
    pub(super) async fn apply(self, fleet: Arc<dyn FleetView>) -> Answer {
        match self {
            Self::Cordon {
                backend,
                is_cordoned,
            } => cordon(&*fleet, &backend, is_cordoned),
            Self::ChangeMemory {
                backend,
                model: Some(model),
                change,
            } => change_memory(fleet, backend, model, change).await,
            Self::ChangeMemory { model: None, .. } => {
                let text = "400 name the model in the query, like ?model=llama3.2";
                answer::refusal(StatusCode::BAD_REQUEST, text)
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

/// The model in the query.
fn model(uri: &Uri) -> Option<ModelName> {
    let mut fields = form_urlencoded::parse(uri.query()?.as_bytes());
    let (_, model) = fields.find(|(name, _)| name == "model")?;
    ModelName::parse(&model).ok()
}

fn cordon(fleet: &dyn FleetView, backend: &str, is_cordoned: bool) -> Answer {
    fleet.set_cordoned(backend, is_cordoned);
    let status = fleet.status();
    match status.iter().find(|row| *row.name == *backend) {
        Some(row) => answer::json(&json!({
            "name": *row.name,
            "is_cordoned": row.is_cordoned,
            "in_flight": row.in_flight,
        })),
        None => no_such_backend(fleet),
    }
}

/// The most backends that a refusal names.
const MOST_NAMED: usize = 8;

/// The refusal names backends that there are.
fn no_such_backend(fleet: &dyn FleetView) -> Answer {
    let status = fleet.status();
    let names: Vec<_> = status.iter().map(|row| &*row.name).collect();
    let named = names[..names.len().min(MOST_NAMED)].join(", ");
    let text = match names.len() {
        0 => "404 there is no such backend, and no other".to_owned(),
        1..=MOST_NAMED => format!("404 there is no such backend; the backends are: {named}"),
        all => format!(
            "404 there is no such backend; the backends are: {named}, and {} more (/status has all)",
            all - MOST_NAMED
        ),
    };
    answer::refusal(StatusCode::NOT_FOUND, text)
}

/// Loads or unloads a model. A load goes on if the operator does not wait for its end.
async fn change_memory(
    fleet: Arc<dyn FleetView>,
    backend: String,
    model: ModelName,
    change: MemoryChange,
) -> Answer {
    let (name, changed) = (
        model.to_string(),
        fleet.clone().change_memory(backend, model, change),
    );
    let changed = tokio::spawn(changed).await;
    let failed = match changed {
        Ok(Ok(time)) => {
            return answer::json(&json!({ "model": name, "seconds": time.as_secs_f64() }));
        }
        Ok(Err(MemoryChangeFailed::NoBackend)) => return no_such_backend(&*fleet),
        Ok(Err(failed)) => failed,
        // It can only be a panic, which was logged.
        Err(_) => MemoryChangeFailed::Failed("internal error; see the log".to_owned()),
    };
    let status = match failed {
        MemoryChangeFailed::NoBackend | MemoryChangeFailed::NotInstalled => StatusCode::NOT_FOUND,
        MemoryChangeFailed::NoOllama => StatusCode::NOT_IMPLEMENTED,
        MemoryChangeFailed::Busy | MemoryChangeFailed::NoRoom(_) | MemoryChangeFailed::Pinned => {
            StatusCode::CONFLICT
        }
        MemoryChangeFailed::Down | MemoryChangeFailed::Draining => StatusCode::SERVICE_UNAVAILABLE,
        MemoryChangeFailed::Failed(_) => StatusCode::BAD_GATEWAY,
    };
    answer::refusal(status, format!("{} {failed}", status.as_u16()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn action(path: &str) -> Option<Action> {
        Action::of(&path.parse().unwrap())
    }

    #[test]
    fn the_name_of_a_backend_is_what_stands_between() {
        let cordon = |backend: &str, is_cordoned| {
            let backend = backend.to_owned();
            Some(Action::Cordon {
                backend,
                is_cordoned,
            })
        };
        assert_eq!(
            action("/backends/gpu-1:11434/cordon"),
            cordon("gpu-1:11434", true)
        );
        assert_eq!(
            action("/backends/gpu.example:443/ollama/uncordon"),
            cordon("gpu.example:443/ollama", false)
        );
        for other in ["/backends/gpu-1", "/backends/gpu-1/delete", "/status"] {
            assert_eq!(action(other), None);
        }
    }

    #[test]
    fn the_query_names_the_model_that_is_loaded() {
        let load = |model| {
            Some(Action::ChangeMemory {
                backend: "gpu-1:11434".to_owned(),
                model,
                change: MemoryChange::Load,
            })
        };
        let model = ModelName::parse("hf.co/a/b:q4").unwrap();
        assert_eq!(
            action("/backends/gpu-1:11434/load?model=hf.co%2Fa%2Fb%3Aq4"),
            load(Some(model))
        );
        for query in ["", "?", "?model=", "?other=x"] {
            assert_eq!(
                action(&format!("/backends/gpu-1:11434/load{query}")),
                load(None),
                "{query}"
            );
        }
    }

    #[test]
    fn a_waiting_request_is_named_by_its_number() {
        assert_eq!(action("/queue/17/cancel"), Some(Action::Cancel(17)));
        for other in ["/queue/17", "/queue/x/cancel", "/queue//cancel"] {
            assert_eq!(action(other), None);
        }
    }
}
