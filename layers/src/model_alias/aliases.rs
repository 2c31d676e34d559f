//! The table of aliases, and the models that a request may use.

use std::fmt;
use std::num::NonZeroU32;
use std::sync::Arc;

use foldhash::{HashMap, HashSet};
use sha2::{Digest, Sha256};

use super::{AliasError, Asked, ExpectedTime, KnownModels};
use crate::ModelName;

/// A name that clients may use in place of the names of models.
#[derive(Clone, Debug, PartialEq)]
pub struct Alias {
    name: ModelName,
    /// As it was given.
    text: Arc<str>,
    targets: Vec<AliasTarget>,
    choice: AliasChoice,
}

/// A model that an alias stands for; it may be another alias.
#[derive(Clone, Debug, PartialEq)]
pub struct AliasTarget {
    model: Candidate,
    weight: NonZeroU32,
}

/// How an alias with several models chooses among them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum AliasChoice {
    /// In the order in which they were given.
    #[default]
    InOrder,
    /// By weight. The choice is the same for each request of a client, as long as the list is.
    Weighted,
    /// The model that could answer soonest now ([`KnownModels::expected`]).
    Cheapest,
    /// Those in memory ([`KnownModels::is_resident`]) in the order in which they were given; if none
    /// is, all of them.
    Resident,
}

/// A model that a request may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The name to look it up.
    pub name: ModelName,
    /// The name to send, as it was given.
    pub text: Arc<str>,
}

impl Candidate {
    /// A model by its name.
    ///
    /// # Errors
    /// The text is not a model's name.
    pub fn parse(text: &str) -> Result<Self, AliasError> {
        let text = text.trim();
        let name =
            ModelName::parse(text).map_err(|_| AliasError::InvalidName { name: text.into() })?;
        Ok(Self {
            name,
            text: text.into(),
        })
    }
}

impl AliasTarget {
    /// A model by its name, with a weight of 1.
    ///
    /// # Errors
    /// The text is not a model's name.
    pub fn new(model: &str) -> Result<Self, AliasError> {
        Ok(Self {
            model: Candidate::parse(model)?,
            weight: NonZeroU32::MIN,
        })
    }

    /// Sets the share of the clients that use it, beside the weights of the other models.
    #[must_use]
    pub fn with_weight(mut self, weight: NonZeroU32) -> Self {
        self.weight = weight;
        self
    }
}

impl Alias {
    /// The alias `name` of these models.
    ///
    /// # Errors
    /// The name is not a valid one, there is no model, or the only one is the alias itself.
    pub fn new(
        name: &str,
        targets: impl IntoIterator<Item = AliasTarget>,
        choice: AliasChoice,
    ) -> Result<Self, AliasError> {
        let Candidate { name, text } = Candidate::parse(name)?;
        let targets: Vec<_> = targets.into_iter().collect();
        match &targets[..] {
            [] => Err(AliasError::NoModel { alias: text }),
            [only] if only.model.name == name => Err(AliasError::OfItself { alias: text }),
            _ => Ok(Self {
                name,
                text,
                targets,
                choice,
            }),
        }
    }

    /// The alias `name` of these models, in order: each is tried if those before it cannot answer.
    ///
    /// # Errors
    /// As for [`new`](Self::new), or a text is not a model's name.
    pub fn chain<T: AsRef<str>>(
        name: &str,
        models: impl IntoIterator<Item = T>,
    ) -> Result<Self, AliasError> {
        let targets = models
            .into_iter()
            .map(|model| AliasTarget::new(model.as_ref()));
        let targets: Result<Vec<_>, _> = targets.collect();
        Self::new(name, targets?, AliasChoice::InOrder)
    }

    /// The alias `name` of one model on another server, which may have the same name there: requests
    /// are sent with `model` as it is written, and responses name what the client asked for.
    ///
    /// # Errors
    /// A text is not a model's name.
    pub fn renaming(name: &str, model: &str) -> Result<Self, AliasError> {
        let Candidate { name, text } = Candidate::parse(name)?;
        Ok(Self {
            name,
            text,
            targets: vec![AliasTarget::new(model)?],
            choice: AliasChoice::InOrder,
        })
    }

    /// Its name.
    pub fn name(&self) -> &ModelName {
        &self.name
    }

    /// Its name as it was given.
    pub fn text(&self) -> &Arc<str> {
        &self.text
    }

    /// Whether it is a model of its own name, with others for when that one cannot answer.
    fn lists_itself(&self) -> bool {
        self.others().count() < self.targets.len()
    }

    /// The other models than itself that it stands for.
    fn others(&self) -> impl Iterator<Item = &AliasTarget> {
        let targets = self.targets.iter();
        targets.filter(|target| target.model.name != self.name)
    }
}

/// All aliases.
///
/// ```
/// use llamatower_layers::model_alias::{Alias, Aliases, Asked};
///
/// let aliases = Aliases::new([
///     Alias::chain("gpt-4o-mini", ["qwen2.5-coder:7b"])?,
///     Alias::chain("fast", ["llama3.2:3b", "gpt-4o-mini"])?,
/// ])?;
/// let alias = aliases.find("FAST:latest").expect("it is one");
/// let models = aliases.candidates(alias, &Asked::default(), &());
/// let models: Vec<_> = models.iter().map(|model| &*model.text).collect();
/// assert_eq!(models, ["llama3.2:3b", "qwen2.5-coder:7b"]);
/// assert!(aliases.find("llama3.2:3b").is_none());
/// # Ok::<_, llamatower_layers::model_alias::AliasError>(())
/// ```
#[derive(Clone, Default)]
pub struct Aliases {
    by_name: HashMap<ModelName, Arc<Alias>>,
    /// The names without namespace and tag, in lower case: a cheap test that nearly every other
    /// model's name fails.
    stems: HashSet<Box<str>>,
    in_order: Vec<Arc<Alias>>,
}

impl Aliases {
    /// A table of these aliases.
    ///
    /// # Errors
    /// Two have the same name, or aliases stand for each other. A model may have an alias of its own
    /// name, with itself in the list, and so may its alternatives: there each name is the model.
    pub fn new(aliases: impl IntoIterator<Item = Alias>) -> Result<Self, AliasError> {
        let mut table = Self::default();
        for alias in aliases.into_iter().map(Arc::new) {
            let stem = alias.name.model().to_ascii_lowercase();
            table.stems.insert(stem.into());
            let name = alias.name.clone();
            if table.by_name.insert(name, alias.clone()).is_some() {
                let alias = alias.text.clone();
                return Err(AliasError::Twice { alias });
            }
            table.in_order.push(alias);
        }
        let mut aliases = table.in_order.iter();
        match aliases.find_map(|alias| table.find_loop(alias, &mut Vec::new())) {
            Some(error) => Err(error),
            None => Ok(table),
        }
    }

    fn find_loop<'a>(
        &'a self,
        alias: &'a Arc<Alias>,
        path: &mut Vec<&'a Arc<Alias>>,
    ) -> Option<AliasError> {
        if let Some(at) = path.iter().position(|before| Arc::ptr_eq(before, alias)) {
            if alias.lists_itself() {
                return None;
            }
            let names = path[at..].iter().chain([&alias]);
            let names: Vec<_> = names.map(|alias| &*alias.text).collect();
            let names = names.join(", ");
            return Some(AliasError::Loop { names });
        }
        path.push(alias);
        let mut nested = alias
            .others()
            .filter_map(|target| self.by_name.get(&target.model.name));
        let found = nested.find_map(|nested| self.find_loop(nested, path));
        path.pop();
        found
    }

    /// Whether there is no alias.
    pub fn is_empty(&self) -> bool {
        self.in_order.is_empty()
    }

    /// All aliases in the order in which they were given.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Alias>> {
        self.in_order.iter()
    }

    /// The alias with the name that a client wrote. Other names are told apart without being parsed,
    /// with few exceptions.
    pub fn find(&self, model: &str) -> Option<&Arc<Alias>> {
        if self.is_empty() {
            return None;
        }
        let last = model.rsplit('/').next().unwrap_or(model).trim();
        let stem = last.split(':').next().unwrap_or(last);
        let is_known = match stem.bytes().any(|byte| byte.is_ascii_uppercase()) {
            true => self.stems.contains(&*stem.to_ascii_lowercase()),
            false => self.stems.contains(stem),
        };
        let name = is_known.then(|| ModelName::parse(model).ok())??;
        self.by_name.get(&name)
    }

    /// The alias of this name.
    pub fn get(&self, name: &ModelName) -> Option<&Arc<Alias>> {
        self.by_name.get(name)
    }

    /// The models that may answer a request for an alias, the best first, each once. A model that
    /// lacks what the request needs is left out, so that the list may be empty; an alias of a single
    /// model keeps it, whose server tells what is missing. Models that are on no server come after
    /// the others, and those whose servers are down last.
    pub fn candidates(
        &self,
        alias: &Alias,
        asked: &Asked<'_>,
        known: &dyn KnownModels,
    ) -> Vec<Candidate> {
        let mut all = Vec::new();
        self.collect(&mut vec![alias], asked, known, &mut all);
        sort_by_presence(&mut all, known);
        if let ([], [only]) = (&all[..], &self.in_listed_order(alias)[..]) {
            all.push(only.clone());
        }
        all
    }

    /// The models that an alias stands for, in the order in which they were given.
    pub fn in_listed_order(&self, alias: &Alias) -> Vec<Candidate> {
        let mut all = Vec::new();
        self.collect_listed(&mut vec![alias], &mut all);
        all
    }

    fn collect_listed<'a>(&'a self, path: &mut Vec<&'a Alias>, all: &mut Vec<Candidate>) {
        for target in targets_of(path) {
            match self.nested(path, target) {
                Some(nested) => {
                    path.push(nested);
                    self.collect_listed(path, all);
                    path.pop();
                }
                None => push(all, &target.model),
            }
        }
    }

    /// The alias that a target is. Within an alias, its name is the model of this name.
    fn nested(&self, path: &[&Alias], target: &AliasTarget) -> Option<&Alias> {
        let is_within = path.iter().any(|alias| alias.name == target.model.name);
        match is_within {
            true => None,
            false => self.by_name.get(&target.model.name).map(|alias| &**alias),
        }
    }

    /// Adds the models of the last alias of `path`, which is the way to it.
    fn collect<'a>(
        &'a self,
        path: &mut Vec<&'a Alias>,
        asked: &Asked<'_>,
        known: &dyn KnownModels,
        all: &mut Vec<Candidate>,
    ) {
        let mut own = Vec::new();
        let choice = path.last().map(|alias| alias.choice);
        for target in in_turn(path, asked) {
            match self.nested(path, target) {
                Some(nested) => {
                    path.push(nested);
                    self.collect(path, asked, known, &mut own);
                    path.pop();
                }
                None if known.lacks(&target.model.name, asked.needs) => {}
                None => push(&mut own, &target.model),
            }
        }
        match choice.unwrap_or_default() {
            AliasChoice::InOrder | AliasChoice::Weighted => {}
            AliasChoice::Resident => {
                let is_resident = |model: &Candidate| known.is_resident(&model.name);
                if own.iter().any(is_resident) {
                    own.retain(is_resident);
                }
            }
            AliasChoice::Cheapest => sort_by_time(&mut own, asked, known),
        }
        for model in &own {
            push(all, model);
        }
    }
}

/// Moves models that no server can answer with now behind the others. Those that are there keep their
/// order. A request for one that is on no server may have to wait until the servers were asked once
/// more; one for a model whose servers are down may have to wait for its time-outs.
pub(super) fn sort_by_presence(models: &mut [Candidate], known: &dyn KnownModels) {
    models.sort_by_cached_key(|model| (known.is_down(&model.name), known.is_missing(&model.name)));
}

/// Sorts models by their expected time, those without one last. A model whose speed is not known is
/// compared without its work, and so are all others then: otherwise it would seem to be the fastest.
fn sort_by_time(models: &mut Vec<Candidate>, asked: &Asked<'_>, known: &dyn KnownModels) {
    let expected = models
        .iter()
        .map(|model| known.expected(&model.name, asked));
    let expected: Vec<_> = expected.collect();
    let all_known = expected.iter().flatten().all(|time| time.work.is_some());
    let rank = |time: &Option<ExpectedTime>| {
        let seconds = time.map(|time| match time.work {
            Some(work) if all_known => time.delay + work,
            _ => time.delay,
        });
        Rank(seconds.unwrap_or(f64::INFINITY))
    };
    let mut ranked: Vec<_> = expected.iter().map(rank).zip(models.drain(..)).collect();
    ranked.sort_by_key(|(rank, _)| *rank);
    models.extend(ranked.into_iter().map(|(_, model)| model));
}

fn push(all: &mut Vec<Candidate>, model: &Candidate) {
    if all.iter().all(|other| other.name != model.name) {
        all.push(model.clone());
    }
}

fn targets_of<'a>(path: &[&'a Alias]) -> &'a [AliasTarget] {
    path.last().map_or(&[], |alias| &alias.targets)
}

/// The targets of the last alias, those of a weighted one in the order for the client.
fn in_turn<'a>(path: &[&'a Alias], asked: &Asked<'_>) -> Vec<&'a AliasTarget> {
    let mut targets: Vec<_> = targets_of(path).iter().collect();
    let weighted = path
        .last()
        .filter(|alias| alias.choice == AliasChoice::Weighted);
    if let Some(alias) = weighted {
        let random = || fastrand::u64(..).to_string();
        let client = asked.client.map_or_else(random, str::to_owned);
        targets.sort_by_cached_key(|target| rendezvous(alias, &client, target));
    }
    targets
}

/// The place of a target among the others, lowest first: weighted rendezvous hashing (Schindelhauer
/// and Schomaker, 2005). Each gateway gets the same order without state, and a change of one weight
/// moves as few clients as possible.
fn rendezvous(alias: &Alias, client: &str, target: &AliasTarget) -> Rank {
    let mut hash = Sha256::new();
    for part in [alias.name.full(), client, target.model.name.full()] {
        hash.update(part.to_ascii_lowercase());
        hash.update([0]);
    }
    let hash = hash.finalize();
    let bytes = hash.first_chunk().copied().unwrap_or_default();
    // Above 0 and below 1.
    let uniform = ((u64::from_be_bytes(bytes) >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
    Rank(-uniform.ln() / f64::from(target.weight.get()))
}

/// A number that can be sorted.
#[derive(Clone, Copy, Debug)]
struct Rank(f64);

impl PartialEq for Rank {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Rank {}

impl PartialOrd for Rank {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Rank {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.total_cmp(&other.0)
    }
}

impl PartialEq for Aliases {
    fn eq(&self, other: &Self) -> bool {
        self.in_order == other.in_order
    }
}

impl fmt::Debug for Aliases {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.in_order).finish()
    }
}
