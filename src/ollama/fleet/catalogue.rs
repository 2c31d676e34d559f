//! The backends of the fleet and their models, as far as the probes have found.
//!
//! Requests read a snapshot, which is rebuilt when a backend joins or leaves or its models change.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};
use foldhash::HashMap;
use llamatower_layers::llm_request::ModelName;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use super::backend::Unreachable;
use super::cordon::Cordoned;
use super::drift::{Drift, DriftLog};
use super::inventory::Installed;
use super::member::Member;
use super::policy::ServerId;

/// A request for an unknown model makes the gateway probe all backends, but not more often than
/// this.
const SHORTEST_REFRESH: Duration = Duration::from_secs(1);

/// How long a request for an unknown model waits for the probe of a backend that is down while another
/// one is up. One that has just come up answers in this time.
const PATIENCE_WITH_DOWN: Duration = Duration::from_millis(100);

/// The backends and their models.
#[derive(Debug)]
pub(super) struct Catalogue<S> {
    members: ArcSwap<Members<S>>,
    refreshes: watch::Sender<Refreshes>,
    drift_log: DriftLog,
}

/// A snapshot of all backends.
#[derive(Debug)]
pub(super) struct Members<S> {
    by_host: Vec<Vec<Arc<Member<S>>>>,
    all: Vec<Arc<Member<S>>>,
    /// By their index in the policy.
    by_id: Vec<Option<Arc<Member<S>>>>,
    by_model: HashMap<ModelName, Row<S>>,
    /// The usual spellings of all model names, parsed once and not for each request.
    spellings: HashMap<Box<str>, ModelName>,
}

/// The backends that have a model, and its digest.
#[derive(Debug)]
struct Row<S> {
    holders: Vec<Arc<Member<S>>>,
    /// `None` if the backends have different models of this name, or do not send the digest.
    digest: Option<Arc<str>>,
}

#[derive(Clone, Debug, Default)]
struct Refreshes {
    asked: u64,
    last_asked: Option<Instant>,
}

impl<S> Members<S> {
    fn new(by_host: Vec<Vec<Arc<Member<S>>>>) -> Self {
        let all: Vec<_> = by_host.iter().flatten().cloned().collect();
        let by_model = by_model(&all);
        Self {
            spellings: spellings(by_model.keys()),
            by_model,
            by_id: by_id(&all),
            by_host,
            all,
        }
    }

    /// The backend with this index in the policy.
    pub(super) fn by_id(&self, id: ServerId) -> Option<&Arc<Member<S>>> {
        self.by_id.get(id.index())?.as_ref()
    }

    /// All backends, in the order of the configuration.
    pub(super) fn all(&self) -> &[Arc<Member<S>>] {
        &self.all
    }

    /// The backends of one host in the configuration.
    pub(super) fn of_host(&self, host: usize) -> &[Arc<Member<S>>] {
        self.by_host.get(host).map_or(&[], Vec::as_slice)
    }

    /// The model name that a client wrote; `None` if it is invalid.
    pub(super) fn name(&self, text: &str) -> Option<ModelName> {
        match self.spellings.get(text) {
            Some(name) => Some(name.clone()),
            None => ModelName::parse(text).ok(),
        }
    }

    /// The backends that have a model and may serve it, whether they are up or down. Cordoned ones are
    /// not among them.
    pub(super) fn holders(&self, model: &ModelName) -> &[Arc<Member<S>>] {
        self.by_model
            .get(model)
            .map_or(&[], |row| row.holders.as_slice())
    }

    /// The backends that a request may be sent to: those that have its model. If no backend has it,
    /// those that may serve it, because the response of any Ollama is right then. A request without
    /// a model may be sent to all.
    ///
    /// An OpenAI-compatible server whose models are known is no candidate then: llama.cpp's servers
    /// answer with another model.
    pub(super) fn candidates(&self, model: Option<&ModelName>) -> Cow<'_, [Arc<Member<S>>]> {
        let is_open = |member: &&Arc<Member<S>>| !member.backend.is_cordoned();
        let Some(model) = model else {
            return match self.all.iter().all(|member| is_open(&member)) {
                true => Cow::Borrowed(&self.all),
                false => self.all.iter().filter(is_open).cloned().collect(),
            };
        };
        let holders = self.holders(model);
        if !holders.is_empty() {
            return Cow::Borrowed(holders);
        }
        let answers_rightly =
            |member: &Member<S>| member.backend.openai().is_none() || member.models().is_empty();
        let may_serve = |member: &&Arc<Member<S>>| {
            is_open(member) && member.backend.allows(model) && answers_rightly(member)
        };
        match self.all.iter().all(|member| may_serve(&member)) {
            true => Cow::Borrowed(&self.all),
            false => self.all.iter().filter(may_serve).cloned().collect(),
        }
    }

    /// The error for a request that only cordoned backends could serve. Without it, another backend
    /// would be asked for a model that it does not have.
    pub(super) fn only_cordoned(&self, model: Option<&ModelName>) -> Option<Cordoned> {
        let has = |member: &Member<S>, model: &ModelName| {
            let models = member.models();
            let is_there = models.iter().any(|installed| installed.name == *model);
            is_there && member.backend.allows(model)
        };
        if model.is_some_and(|model| !self.holders(model).is_empty()) {
            return None;
        }
        let nobody_else = self.candidates(model).is_empty();
        let could_serve = |member: &&Arc<Member<S>>| {
            member.backend.is_cordoned()
                && (nobody_else || model.is_some_and(|model| has(member, model)))
        };
        let names = self.all.iter().filter(could_serve);
        let names: Vec<_> = names.map(|member| member.backend.name().clone()).collect();
        (!names.is_empty()).then(|| Cordoned::new(&names))
    }

    /// Whether no backend that a request for a model may be sent to is up, by the probes, or only
    /// cordoned ones could serve it. A backend that was not probed yet may be up.
    pub(super) fn is_down(&self, model: &ModelName) -> bool {
        if self.only_cordoned(Some(model)).is_some() {
            return true;
        }
        let candidates = self.candidates(Some(model));
        !candidates.is_empty() && candidates.iter().all(|member| member.is_known_down())
    }

    /// Whether a model that no backend [has](Self::holders) must be refused: no backend may serve
    /// it, or it is on the disk of one that must not.
    pub(super) fn is_withheld(&self, model: &ModelName) -> bool {
        let is_on_disk = |member: &&Arc<Member<S>>| {
            let models = member.models();
            models.iter().any(|installed| installed.name == *model)
        };
        let mut must_not = self
            .all
            .iter()
            .filter(|member| !member.backend.allows(model));
        must_not.any(|member| is_on_disk(&member)) || self.candidates(Some(model)).is_empty()
    }

    /// The models that differ between backends although they have the same name, by name.
    pub(super) fn drifts(&self) -> Vec<Drift> {
        let unclear = self.by_model.iter();
        let unclear = unclear.filter(|(_, row)| row.digest.is_none() && row.holders.len() > 1);
        let drifts = unclear.filter_map(|(model, row)| Drift::of(model, &row.holders));
        let mut drifts: Vec<_> = drifts.collect();
        drifts.sort_by(|one, other| one.model.full().cmp(other.model.full()));
        drifts
    }

    /// The digest of a model, if it is the same on all backends that have it.
    pub(super) fn digest(&self, model: &ModelName) -> Option<Arc<str>> {
        self.by_model.get(model)?.digest.clone()
    }
}

impl<S> Catalogue<S> {
    /// A catalogue of backends whose models are not known yet.
    pub(super) fn new(by_host: Vec<Vec<Arc<Member<S>>>>) -> Self {
        Self {
            members: ArcSwap::from_pointee(Members::new(by_host)),
            refreshes: watch::Sender::default(),
            drift_log: DriftLog::default(),
        }
    }

    /// The current backends.
    pub(super) fn members(&self) -> Guard<Arc<Members<S>>> {
        self.members.load()
    }

    /// Sets the backends of one host in the configuration.
    pub(super) fn set_host(&self, host: usize, members: Vec<Arc<Member<S>>>) {
        self.members.rcu(|known| {
            let mut by_host = known.by_host.clone();
            by_host[host].clone_from(&members);
            Members::new(by_host)
        });
        self.drift_log.log(&self.members().drifts());
        self.refreshes.send_modify(|_| ());
    }

    /// Stores the result of a probe. A backend that did not answer keeps its models, so that a
    /// request for a model that only this backend has gets an error that names it.
    pub(super) fn note_probe(
        &self,
        member: &Member<S>,
        found: Result<Vec<Installed>, Unreachable>,
        asked: u64,
    ) {
        if found.is_ok_and(|models| member.set_models(models)) {
            // The policy knows them first, so that a request never meets a model without a server.
            member.tell_installed();
            self.members
                .rcu(|known| Members::new(known.by_host.clone()));
            self.drift_log.log(&self.members().drifts());
        }
        member.note_probed(asked);
        self.refreshes.send_modify(|_| ());
    }

    /// Applies that a backend was cordoned, or is no longer.
    pub(super) fn note_cordon(&self) {
        self.members
            .rcu(|known| Members::new(known.by_host.clone()));
        self.refreshes.send_modify(|_| ());
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

    /// Waits for a refresh request later than `seen`.
    pub(super) async fn refresh_asked_after(&self, seen: u64) {
        let mut refreshes = self.refreshes.subscribe();
        let _ = refreshes.wait_for(|refreshes| refreshes.asked > seen).await;
    }

    /// Waits until every backend was probed once.
    pub(super) async fn probed_once(&self) {
        self.until_all(Member::was_probed).await;
    }

    /// Probes all backends again and waits for the results; those of backends that are down hold up
    /// nothing while another one is up. A caller during a refresh waits for that refresh; soon after a
    /// refresh, no backend is probed.
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
        let all = self.until_all(|member| member.was_refreshed(awaited));
        let is_any_up = !self.members().all().iter().all(|one| one.is_known_down());
        if is_any_up {
            let of_those_up =
                self.until_all(|member| member.is_known_down() || member.was_refreshed(awaited));
            let _ = tokio::join!(of_those_up, timeout(PATIENCE_WITH_DOWN, all));
        } else {
            all.await;
        }
    }

    async fn until_all(&self, holds: impl Fn(&Member<S>) -> bool) {
        let mut refreshes = self.refreshes.subscribe();
        let all = |_: &Refreshes| self.members().all().iter().all(|member| holds(member));
        let _ = refreshes.wait_for(all).await;
    }
}

fn by_id<S>(members: &[Arc<Member<S>>]) -> Vec<Option<Arc<Member<S>>>> {
    let most = members.iter().map(|member| member.id.index()).max();
    let mut by_id = vec![None; most.map_or(0, |most| most + 1)];
    for member in members {
        by_id[member.id.index()] = Some(member.clone());
    }
    by_id
}

fn by_model<S>(members: &[Arc<Member<S>>]) -> HashMap<ModelName, Row<S>> {
    let mut rows: HashMap<ModelName, Row<S>> = HashMap::default();
    let open = members
        .iter()
        .filter(|member| !member.backend.is_cordoned());
    for member in open {
        let models = member.models();
        let allowed = models.iter();
        for model in allowed.filter(|model| member.backend.allows(&model.name)) {
            let digest = (!model.digest.is_empty()).then(|| model.digest.clone());
            match rows.get_mut(&model.name) {
                Some(row) => {
                    row.holders.push(member.clone());
                    row.digest = row
                        .digest
                        .take()
                        .filter(|known| Some(known) == digest.as_ref());
                }
                None => {
                    let holders = vec![member.clone()];
                    rows.insert(model.name.clone(), Row { holders, digest });
                }
            }
        }
    }
    rows
}

/// Each name as servers list it, and without the tag `:latest`, which may be omitted.
fn spellings<'a>(names: impl Iterator<Item = &'a ModelName>) -> HashMap<Box<str>, ModelName> {
    let mut spellings = HashMap::default();
    for name in names {
        let listed = name.to_string();
        let short = listed.strip_suffix(":latest");
        for text in short.into_iter().chain([&*listed]) {
            spellings.extend(ModelName::parse(text).ok().map(|read| {
                let is_same = read.full() == name.full() && read.source() == name.source();
                (text.into(), if is_same { name.clone() } else { read })
            }));
        }
    }
    spellings
}

#[cfg(test)]
mod tests {
    use super::super::member::tests::member;
    use super::super::router::Router;
    use super::*;

    fn name(text: &str) -> ModelName {
        ModelName::parse(text).expect("a valid name")
    }

    fn installed(text: &str, digest: &str) -> Installed {
        Installed {
            name: name(text),
            digest: digest.into(),
            size: 0,
            family: "".into(),
            capabilities: Arc::from([]),
        }
    }

    fn two() -> (Catalogue<()>, [Arc<Member<()>>; 2]) {
        let members = [
            member("gpu-1", None, &Router::default()),
            member("gpu-2", None, &Router::default()),
        ];
        let by_host = members.iter().map(|member| vec![member.clone()]);
        (Catalogue::new(by_host.collect()), members)
    }

    fn holders(catalogue: &Catalogue<()>, model: &str) -> Vec<String> {
        let members = catalogue.members();
        let holders = members.holders(&name(model)).iter();
        holders
            .map(|member| member.backend.name().to_string())
            .collect()
    }

    #[test]
    fn a_name_of_two_different_models_has_no_digest() {
        let (catalogue, [one, other]) = two();
        let digest = |model: &str| catalogue.members().digest(&name(model));
        catalogue.note_probe(&one, Ok(vec![installed("a", "1"), installed("b", "2")]), 0);
        assert_eq!(digest("a").as_deref(), Some("1"));
        catalogue.note_probe(
            &other,
            Ok(vec![installed("a", "9"), installed("b", "2")]),
            0,
        );
        assert_eq!(digest("a"), None);
        assert_eq!(digest("b").as_deref(), Some("2"));
        let drifts = catalogue.members().drifts();
        let drifts: Vec<_> = drifts.iter().map(Drift::to_string).collect();
        assert_eq!(drifts, ["1 (gpu-1:11434), 9 (gpu-2:11434)"]);
        assert_eq!(digest("c"), None);
    }

    #[test]
    fn a_backend_that_does_not_answer_keeps_its_models() {
        let (catalogue, [one, other]) = two();
        catalogue.note_probe(&one, Ok(vec![installed("a", "1")]), 0);
        catalogue.note_probe(
            &other,
            Ok(vec![installed("a", "1"), installed("b", "2")]),
            0,
        );
        assert_eq!(
            holders(&catalogue, "A:latest"),
            ["gpu-1:11434", "gpu-2:11434"]
        );
        catalogue.note_probe(&one, Err(Unreachable::new("gpu-1:11434", "it is gone")), 0);
        assert_eq!(holders(&catalogue, "a"), ["gpu-1:11434", "gpu-2:11434"]);
        catalogue.note_probe(&other, Ok(vec![]), 0);
        assert!(holders(&catalogue, "b").is_empty());
    }

    #[test]
    fn a_removed_backend_has_no_models() {
        let (catalogue, [one, other]) = two();
        catalogue.note_probe(&one, Ok(vec![installed("a", "1")]), 0);
        catalogue.note_probe(&other, Ok(vec![installed("a", "1")]), 0);
        catalogue.set_host(0, vec![member("gpu-3", None, &Router::default())]);
        assert_eq!(holders(&catalogue, "a"), ["gpu-2:11434"]);
        catalogue.note_probe(&one, Ok(vec![installed("a", "1"), installed("b", "2")]), 0);
        assert_eq!(holders(&catalogue, "a"), ["gpu-2:11434"]);
        assert!(holders(&catalogue, "b").is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_backend_that_is_down_does_not_hold_up_a_refresh_while_another_is_up() {
        let (catalogue, [up, down]) = two();
        let gone = || Err(Unreachable::new("gpu-2:11434", "it is gone"));
        catalogue.note_probe(&up, Ok(vec![installed("a", "1")]), 0);
        catalogue.note_probe(&down, gone(), 0);
        down.backend.set_up(false);
        let begun = Instant::now();
        let probes = async {
            catalogue.refresh_asked_after(0).await;
            catalogue.note_probe(&up, Ok(vec![]), 1);
        };
        tokio::join!(catalogue.refreshed(), probes);
        assert_eq!(begun.elapsed(), PATIENCE_WITH_DOWN);
        // Without another one, its probe is awaited.
        up.backend.set_up(false);
        tokio::time::advance(SHORTEST_REFRESH).await;
        let begun = Instant::now();
        let late = Duration::from_secs(2);
        let probes = async {
            catalogue.refresh_asked_after(1).await;
            catalogue.note_probe(&up, gone(), 2);
            tokio::time::sleep(late).await;
            catalogue.note_probe(&down, gone(), 2);
        };
        tokio::join!(catalogue.refreshed(), probes);
        assert_eq!(begun.elapsed(), late);
    }

    #[tokio::test(start_paused = true)]
    async fn one_refresh_serves_all_waiters() {
        let member = member("gpu-1", None, &Router::default());
        let catalogue = Arc::new(Catalogue::new(vec![vec![member.clone()]]));
        let waiting: Vec<_> = (0..3)
            .map(|_| {
                let catalogue = catalogue.clone();
                tokio::spawn(async move { catalogue.refreshed().await })
            })
            .collect();
        catalogue.refresh_asked_after(0).await;
        tokio::task::yield_now().await;
        let asked = catalogue.refreshes_asked();
        catalogue.note_probe(&member, Ok(vec![]), asked);
        for task in waiting {
            task.await.expect("no panic");
        }
        assert_eq!(asked, 1);
    }
}
