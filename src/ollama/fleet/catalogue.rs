//! Who has which model, as far as the probes have found.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use llamatower_layers::llm_request::ModelName;
use tokio::sync::watch;
use tokio::time::Instant;

use super::backend::{Installed, Unreachable};

/// A model that nobody has makes the gateway ask everybody; not more often than this.
const SHORTEST_REFRESH: Duration = Duration::from_secs(1);

/// The models of all backends.
#[derive(Debug)]
pub(super) struct Catalogue {
    rows: ArcSwap<HashMap<ModelName, Row>>,
    found: Mutex<Vec<Vec<Installed>>>,
    refreshes: watch::Sender<Refreshes>,
}

/// Who has a model, and which.
#[derive(Clone, Debug)]
struct Row {
    holders: Arc<[usize]>,
    /// `None` if they have different ones of the same name, or do not say.
    digest: Option<Arc<str>>,
}

#[derive(Clone, Debug)]
struct Refreshes {
    asked: u64,
    last_asked: Option<Instant>,
    /// For each backend, up to which refresh it has been probed; `None` before its first probe.
    done: Vec<Option<u64>>,
}

impl Catalogue {
    pub(super) fn new(backends: usize) -> Self {
        Self {
            rows: ArcSwap::default(),
            found: Mutex::new(vec![Vec::new(); backends]),
            refreshes: watch::Sender::new(Refreshes {
                asked: 0,
                last_asked: None,
                done: vec![None; backends],
            }),
        }
    }

    /// The backends that have a model, whether they are up or not.
    pub(super) fn holders(&self, model: &ModelName) -> Arc<[usize]> {
        let rows = self.rows.load();
        rows.get(model)
            .map(|row| row.holders.clone())
            .unwrap_or_default()
    }

    /// What a model is, if all who have it agree.
    pub(super) fn digest(&self, model: &ModelName) -> Option<Arc<str>> {
        self.rows.load().get(model)?.digest.clone()
    }

    /// Notes what a probe found. A backend that did not answer keeps what it had: it is the one
    /// to name when somebody asks for a model that only it has.
    pub(super) fn note_probe(
        &self,
        backend: usize,
        found: Result<Vec<Installed>, Unreachable>,
        asked: u64,
    ) {
        if let Ok(models) = found {
            let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
            if found[backend] != models {
                found[backend] = models;
                self.rows.store(Arc::new(by_model(&found)));
            }
        }
        self.refreshes.send_modify(|refreshes| {
            refreshes.done[backend] = Some(asked);
        });
    }

    pub(super) fn refreshes_asked(&self) -> u64 {
        self.refreshes.borrow().asked
    }

    pub(super) fn ask_for_refresh(&self) {
        self.refreshes.send_modify(|refreshes| {
            refreshes.asked += 1;
            refreshes.last_asked = Some(Instant::now());
        });
    }

    /// Waits until a refresh is asked for that is later than `seen`.
    pub(super) async fn refresh_asked_after(&self, seen: u64) {
        let mut refreshes = self.refreshes.subscribe();
        let _ = refreshes.wait_for(|refreshes| refreshes.asked > seen).await;
    }

    /// Waits until every backend has been probed once.
    pub(super) async fn probed_once(&self) {
        let mut refreshes = self.refreshes.subscribe();
        let _ = refreshes
            .wait_for(|r| r.done.iter().all(Option::is_some))
            .await;
    }

    /// Has all backends probed again, and waits for it; who asks while a refresh is under way
    /// waits for that one, and soon after one nobody is asked.
    pub(super) async fn refreshed(&self) {
        let mut awaited = 0;
        self.refreshes.send_if_modified(|refreshes| {
            let now = Instant::now();
            let asks = refreshes
                .last_asked
                .is_none_or(|last| now - last >= SHORTEST_REFRESH);
            if asks {
                refreshes.asked += 1;
                refreshes.last_asked = Some(now);
            }
            awaited = refreshes.asked;
            asks
        });
        let mut refreshes = self.refreshes.subscribe();
        let is_done = |done: &Option<u64>| done.is_some_and(|done| done >= awaited);
        let _ = refreshes.wait_for(|r| r.done.iter().all(is_done)).await;
    }
}

fn by_model(found: &[Vec<Installed>]) -> HashMap<ModelName, Row> {
    let mut holders: HashMap<&ModelName, Vec<(usize, &Arc<str>)>> = HashMap::new();
    for (backend, models) in found.iter().enumerate() {
        for model in models {
            let of_model = holders.entry(&model.name).or_default();
            of_model.push((backend, &model.digest));
        }
    }
    let rows = holders.into_iter().map(|(model, of_model)| {
        let first = of_model.first().map(|(_, digest)| *digest);
        let is_one = |digest: &&Arc<str>| {
            !digest.is_empty() && of_model.iter().all(|(_, other)| other == digest)
        };
        let row = Row {
            digest: first.filter(is_one).cloned(),
            holders: of_model.iter().map(|(backend, _)| *backend).collect(),
        };
        (model.clone(), row)
    });
    rows.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> ModelName {
        ModelName::parse(text).expect("a sound name")
    }

    fn installed(text: &str, digest: &str) -> Installed {
        Installed {
            name: name(text),
            digest: digest.into(),
        }
    }

    #[test]
    fn a_name_that_stands_for_two_models_has_no_digest() {
        let catalogue = Catalogue::new(2);
        catalogue.note_probe(0, Ok(vec![installed("a", "1"), installed("b", "2")]), 0);
        assert_eq!(catalogue.digest(&name("a")).as_deref(), Some("1"));
        catalogue.note_probe(1, Ok(vec![installed("a", "9"), installed("b", "2")]), 0);
        assert_eq!(catalogue.digest(&name("a")), None);
        assert_eq!(catalogue.digest(&name("b")).as_deref(), Some("2"));
        assert_eq!(catalogue.digest(&name("c")), None);
    }

    #[test]
    fn a_backend_that_does_not_answer_keeps_its_models() {
        let catalogue = Catalogue::new(2);
        catalogue.note_probe(0, Ok(vec![installed("a", "1")]), 0);
        catalogue.note_probe(1, Ok(vec![installed("a", "1"), installed("b", "2")]), 0);
        assert_eq!(&*catalogue.holders(&name("A:latest")), [0, 1]);
        catalogue.note_probe(0, Err(Unreachable::new("gpu-1:11434", "it is gone")), 0);
        assert_eq!(&*catalogue.holders(&name("a")), [0, 1]);
        catalogue.note_probe(1, Ok(vec![]), 0);
        assert!(catalogue.holders(&name("b")).is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn one_refresh_serves_all_who_wait_for_it() {
        let catalogue = Arc::new(Catalogue::new(1));
        let waiting: Vec<_> = (0..3)
            .map(|_| {
                let catalogue = catalogue.clone();
                tokio::spawn(async move { catalogue.refreshed().await })
            })
            .collect();
        catalogue.refresh_asked_after(0).await;
        tokio::task::yield_now().await;
        let asked = catalogue.refreshes_asked();
        catalogue.note_probe(0, Ok(vec![]), asked);
        for task in waiting {
            task.await.expect("no panic");
        }
        assert_eq!(asked, 1);
    }
}
