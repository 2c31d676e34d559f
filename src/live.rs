//! The settings that can be changed while the gateway serves: keys, the limits of requests and
//! tokens, the names of models, and the models that servers are to have.
//!
//! The layers and the fleet hold handles to these values, and read the current ones for each request.
//! [`LiveSettings::apply`] replaces them.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::request::Parts;
use jiff::Timestamp;
use llamatower_layers::api_key::{KeySet, Role};
use llamatower_layers::live::Live;
use llamatower_layers::rate_limit::{Quota, RateLimitLayer};
use llamatower_layers::store::{WhenUnavailable, WithoutKey};
use llamatower_layers::token_limit::Budget;
use llamatower_layers::{Operation, RouteMatch};

use crate::clients::Client;
use crate::clients::concurrency::{self, ClientConcurrency, ClientConcurrencyLayer};
use crate::clients::delegation::Delegation;
use crate::clients::model_rules::ModelRules;
use crate::clients::networks::Networks;
use crate::cloud::CloudClients;
use crate::edge::Hosts;
use crate::model_sync::SyncRules;
use crate::ollama::fleet::Share;
use crate::reload::{Cause, InForce, Reloaded};
use crate::settings::{KeyLimit, KeysFile, Limits, ListingRate, Secret, Settings};
use crate::shared::{Rates, Sharing, Tokens};
use crate::telemetry::{BudgetUse, Metrics};

/// The settings that [`LiveSettings::apply`] applies; all others need a restart.
pub const RELOADABLE: [&str; 23] = [
    "keys.api",
    "keys.admin",
    "keys.file",
    "keys.delegating",
    "keys.user_headers",
    "keys.networks",
    "keys.networks_replace_keys",
    "cloud.anonymous",
    "cloud.keys_opt_out",
    "limits.rate",
    "limits.key_rate",
    "limits.listing_rate",
    "limits.key_tokens",
    "limits.key_concurrency",
    "limits.user_concurrency",
    "limits.user_rate",
    "limits.user_tokens",
    "limits.key_limits",
    "limits.key_models",
    "routing.aliases",
    "routing.list_aliases",
    "backends.models_sync",
    "telemetry.log",
];

/// The default rate per client of requests that run no model, if other requests are limited. It is
/// more than editors and chat pages need, and too little to keep servers busy.
const LISTING_PER_SECOND: NonZeroU32 = NonZeroU32::MIN.saturating_add(49);

/// The names of these limits in the `RateLimit` fields.
const LISTING: &str = "listing";
const USER: &str = "user";

/// A limit on the requests of each client.
pub type ClientRate = RateLimitLayer<Client, fn(&Parts) -> Option<Client>, Rates<Client>>;

/// A limit on all requests together.
pub type GlobalRate = RateLimitLayer<(), fn(&Parts) -> Option<()>, Rates<()>>;

/// Handles to everything that can be changed while the gateway serves. Clones share their state.
#[derive(Clone, Debug)]
pub struct LiveSettings {
    /// The accepted API keys.
    pub keys: Live<KeySet>,
    /// The keys that name their users.
    pub delegation: Delegation,
    /// The names of clients' networks.
    pub networks: Networks,
    /// The names that a loopback listener accepts in `Host`.
    pub hosts: Live<Hosts>,
    /// Those names where no key protects the gateway; they need a restart.
    allowed_hosts: Hosts,
    /// Limit of the inference requests of all clients together.
    pub rate: GlobalRate,
    /// Limit of the inference requests of each client.
    pub key_rate: ClientRate,
    /// The keys that this limit does not apply to.
    unlimited: Live<BTreeSet<Arc<str>>>,
    /// Limit of the inference requests of each user that a key names.
    pub user_rate: ClientRate,
    /// Limit of the inference requests of each client that run at a time.
    pub concurrency: ClientConcurrencyLayer,
    /// Limit of each client's requests that run no model.
    pub listing_rate: ClientRate,
    /// Limit of each client's tokens.
    pub tokens: TokenBudgets,
    /// Limit of the tokens of each user that a key names.
    pub user_tokens: TokenBudgets,
    /// The shares of keys that differ from the default.
    pub shares: Live<BTreeMap<Arc<str>, Share>>,
    /// Aliases, and the models that keys may use.
    pub models: ModelRules,
    /// Whose requests may be sent to a cloud.
    pub cloud_clients: CloudClients,
    /// The keys of the keys file.
    pub keys_file: Live<KeysFile>,
    /// The models that the gateway keeps installed.
    pub sync: Live<SyncRules>,
    /// All settings in force, for comparison.
    pub in_force: Live<InForce>,
    /// The last reload.
    pub last_reload: Live<Option<LastReload>>,
}

/// The last reload of the settings, and its result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastReload {
    /// The time.
    pub at: Timestamp,
    /// `signal` or `file`.
    pub cause: &'static str,
    /// Why the settings were not applied, as `llamatower check` says it.
    pub error: Option<String>,
    /// The changed settings that are in force now.
    pub changed: Vec<&'static str>,
    /// The changed settings that need a restart.
    pub need_restart: Vec<&'static str>,
}

impl LastReload {
    /// Whether the settings were applied. If not, the old ones stay in force.
    pub fn is_applied(&self) -> bool {
        self.error.is_none()
    }

    /// A reload with this result.
    pub fn new(at: Timestamp, cause: Cause, reloaded: &Result<Reloaded, String>) -> Self {
        let done = reloaded.as_ref().ok();
        Self {
            at,
            cause: cause.name(),
            error: reloaded.as_ref().err().cloned(),
            changed: done.map(|done| done.applied.clone()).unwrap_or_default(),
            need_restart: done
                .map(|done| done.need_restart.clone())
                .unwrap_or_default(),
        }
    }
}

/// The token budgets of clients. Clones share their state.
#[derive(Clone, Debug)]
pub struct TokenBudgets {
    /// Whether any client has a budget.
    pub is_on: Arc<AtomicBool>,
    /// What clients have used.
    pub used: Tokens<Client>,
    /// The deadline for the store of the counts.
    pub deadline: Duration,
    /// What happens if it does not answer.
    pub when_unavailable: WhenUnavailable,
    budgets: Live<BudgetsByClient>,
}

#[derive(Debug)]
struct BudgetsByClient {
    own: BTreeMap<Arc<str>, Arc<[Budget]>>,
    others: Arc<[Budget]>,
}

impl LiveSettings {
    /// Handles to the values of `settings`.
    ///
    /// # Errors
    /// The line of a key is malformed; the error names its setting.
    pub fn new(settings: &Settings) -> Result<Self, String> {
        Self::with_sharing(settings, &Sharing::default())
    }

    /// The same, with limits that other gateways share.
    ///
    /// # Errors
    /// As for [`new`](Self::new).
    pub fn with_sharing(settings: &Settings, sharing: &Sharing) -> Result<Self, String> {
        let limits = &settings.limits;
        let unlimited = Live::new(unlimited_keys(limits));
        Ok(Self {
            keys: Live::new(keys(settings)?),
            delegation: Delegation::new(settings),
            networks: Networks::new(settings),
            hosts: Live::new(hosts(settings, &settings.listen.allowed_hosts)),
            allowed_hosts: settings.listen.allowed_hosts.clone(),
            rate: global_rate(limits.rate, sharing).with_requests(runs_a_model),
            key_rate: client_rate(
                "key",
                rates_of_keys(limits),
                limits.key_rate,
                Client::account_of,
                sharing,
            )
            .with_requests(counts_for_key(unlimited.clone())),
            unlimited,
            user_rate: client_rate(USER, [], limits.user_rate, Client::user_of, sharing)
                .with_requests(runs_a_model)
                .named(USER),
            listing_rate: client_rate(
                LISTING,
                [],
                listing_rate(limits),
                Client::account_of,
                sharing,
            )
            .with_requests(is_listing)
            .named(LISTING),
            concurrency: ClientConcurrency::layer(settings),
            tokens: TokenBudgets::new("key", BudgetsByClient::new(limits), limits, sharing),
            user_tokens: TokenBudgets::new(
                USER,
                BudgetsByClient::of_users(limits),
                limits,
                sharing,
            ),
            shares: Live::new(shares(limits)),
            models: ModelRules::new(settings),
            cloud_clients: CloudClients::new(settings),
            keys_file: Live::new(KeysFile::clone(&settings.keys_file)),
            sync: Live::new(SyncRules::new(settings)),
            in_force: Live::default(),
            last_reload: Live::default(),
        })
    }

    /// Applies the values of `settings`, all or none. If a limit is unchanged, what clients have
    /// already used of it still counts.
    ///
    /// # Errors
    /// As for [`new`](Self::new); in that case nothing has changed.
    pub fn apply(&self, settings: &Settings) -> Result<(), String> {
        let limits = &settings.limits;
        let keys = keys(settings)?;
        if self.keys.get().has(Role::User) && !keys.has(Role::User) {
            return Err(
                "a reload cannot remove the last key of a client, because the gateway would then be open to all \
                 clients; to revoke it, replace it or set its `expires` in a keys file; to serve without keys, \
                 restart the gateway"
                    .to_owned(),
            );
        }
        self.hosts.set(hosts(settings, &self.allowed_hosts));
        self.networks.set(settings);
        self.keys.set(keys);
        self.delegation.set(settings);
        self.rate.set_quotas([], limits.rate);
        self.unlimited.set(unlimited_keys(limits));
        self.key_rate
            .set_quotas(rates_of_keys(limits), limits.key_rate);
        self.user_rate.set_quotas([], limits.user_rate);
        self.listing_rate.set_quotas([], listing_rate(limits));
        concurrency::set(&self.concurrency, limits);
        self.tokens.set(BudgetsByClient::new(limits));
        self.user_tokens.set(BudgetsByClient::of_users(limits));
        self.shares.set(shares(limits));
        self.models.set(settings);
        self.cloud_clients.set(settings);
        self.keys_file.set(KeysFile::clone(&settings.keys_file));
        self.sync.set(SyncRules::new(settings));
        Ok(())
    }
}

impl LiveSettings {
    /// Begins the counters of the keys and aliases with 0.
    pub fn begin_counters(&self, metrics: &Metrics) {
        let keys = self.keys.get();
        let networks = self.networks.names();
        let keys = keys.identities().map(|key| key.name.clone());
        metrics.begin_keys(keys.chain(networks));
        let aliases = self.models.aliases.get();
        metrics.begin_aliases(aliases.iter().map(|alias| alias.text()));
    }
}

impl TokenBudgets {
    fn new(limit: &str, budgets: BudgetsByClient, limits: &Limits, sharing: &Sharing) -> Self {
        Self {
            used: sharing.tokens(limit, &limits.time_zone, Client::to_string),
            deadline: sharing.deadline(),
            when_unavailable: sharing.rules().1,
            is_on: Arc::new(AtomicBool::new(budgets.any_budget())),
            budgets: Live::new(budgets),
        }
    }

    fn set(&self, budgets: BudgetsByClient) {
        let is_on = budgets.any_budget();
        self.budgets.set(budgets);
        self.is_on.store(is_on, Ordering::Relaxed);
    }

    /// What these keys have used of their budgets.
    pub fn uses(&self, keys: impl Iterator<Item = Arc<str>>) -> Vec<BudgetUse> {
        let mut uses = Vec::new();
        for key in keys {
            let client = Client::Key(key.clone());
            let budgets = self.of(&client);
            uses.extend(budgets.iter().map(|budget| BudgetUse {
                budget: "key",
                key: Some(key.clone()),
                window: budget.window(),
                used: self.used.used(Some(&client), budget.window()),
                limit: budget.tokens(),
            }));
        }
        uses
    }

    /// The budgets of a client.
    pub fn of(&self, client: &Client) -> Arc<[Budget]> {
        let budgets = self.budgets.get();
        let own = match client {
            Client::Key(name) => budgets.own.get(name),
            Client::User(_) | Client::Address(_) => None,
        };
        own.unwrap_or(&budgets.others).clone()
    }
}

impl BudgetsByClient {
    fn new(limits: &Limits) -> Self {
        let own = limits.key_limits.iter();
        let own = own.filter_map(|(name, limits)| {
            let budgets = match &limits.tokens {
                KeyLimit::General => return None,
                KeyLimit::Off => [].into(),
                KeyLimit::Of(budgets) => budgets.as_slice().into(),
            };
            Some((name.clone(), budgets))
        });
        Self {
            own: own.collect(),
            others: limits.key_tokens.as_slice().into(),
        }
    }

    /// Those of the users that keys name: the same for each.
    fn of_users(limits: &Limits) -> Self {
        Self {
            own: BTreeMap::new(),
            others: limits.user_tokens.as_slice().into(),
        }
    }

    fn any_budget(&self) -> bool {
        let mut lists = self.own.values().chain([&self.others]);
        lists.any(|budgets| !budgets.is_empty())
    }
}

/// Whether a request runs a model, and so counts against the limits of requests and tokens.
pub fn runs_a_model(request: &Parts) -> bool {
    operation(request).is_some_and(Operation::is_inference)
}

/// Whether the listing limit applies to a request: it runs no model, and is not a check whether the
/// server is alive.
fn is_listing(request: &Parts) -> bool {
    operation(request).is_some_and(|operation| {
        !operation.is_inference() && !matches!(operation, Operation::Root | Operation::Version)
    })
}

fn operation(request: &Parts) -> Option<Operation> {
    RouteMatch::of(&request.extensions)?.operation()
}

fn keys(settings: &Settings) -> Result<KeySet, String> {
    let of = |variable: &'static str, lines: &[Secret], role| {
        let lines = lines.iter().map(Secret::expose);
        let keys = KeySet::from_lines(lines, role);
        keys.map_err(|error| format!("{variable}: {error}"))
    };
    let api = of("LLAMATOWER_API_KEYS", &settings.keys.api, Role::User)?;
    let admin = of("LLAMATOWER_ADMIN_KEYS", &settings.keys.admin, Role::Admin)?;
    Ok(api.merge(admin).merge(settings.keys_file.key_set()))
}

/// The names that a loopback listener accepts.
fn hosts(settings: &Settings, allowed: &Hosts) -> Hosts {
    let keys = &settings.keys;
    let replaced = keys.networks_replace_keys && !keys.networks.is_empty();
    match !settings.has_user_keys() || replaced {
        true => allowed.clone(),
        // A web page has no key, so every name is accepted.
        false => Hosts::any(),
    }
}

/// A limit for each client. A request without one is not limited: `account_of` has none for a request
/// over a Unix socket without a key, whose sender is on this machine.
fn client_rate(
    limit: &str,
    own: impl IntoIterator<Item = (Client, Quota)>,
    others: Option<Quota>,
    client_of: fn(&Parts) -> Option<Client>,
    sharing: &Sharing,
) -> ClientRate {
    let own: Vec<_> = own.into_iter().collect();
    let quotas = own.iter().map(|(_, quota)| *quota).chain(others);
    let store = sharing.rates(limit, quotas, Client::to_string);
    RateLimitLayer::with_store(store, own, others, client_of)
        .without_key(WithoutKey::Admit)
        .with_deadline(sharing.deadline())
        .when_unavailable(sharing.rules().0)
}

/// The limit of all clients together.
fn global_rate(quota: Option<Quota>, sharing: &Sharing) -> GlobalRate {
    let all: fn(&Parts) -> Option<()> = |_| Some(());
    let store = sharing.rates("global", quota, |()| "all".to_owned());
    RateLimitLayer::global_with_store(store, quota, all)
        .with_deadline(sharing.deadline())
        .when_unavailable(sharing.rules().0)
}

fn rates_of_keys(limits: &Limits) -> impl Iterator<Item = (Client, Quota)> + use<'_> {
    let own = limits.key_limits.iter();
    own.filter_map(|(name, limits)| match limits.rate {
        KeyLimit::Of(quota) => Some((Client::Key(name.clone()), quota)),
        KeyLimit::General | KeyLimit::Off => None,
    })
}

fn unlimited_keys(limits: &Limits) -> BTreeSet<Arc<str>> {
    let own = limits.key_limits.iter();
    let own = own.filter(|(_, limits)| limits.rate == KeyLimit::Off);
    own.map(|(name, _)| name.clone()).collect()
}

/// Selects the requests that the limit of keys counts: not those of keys without a limit.
fn counts_for_key(unlimited: Live<BTreeSet<Arc<str>>>) -> impl Fn(&Parts) -> bool {
    move |request| {
        let unlimited = unlimited.get();
        let is_unlimited = || match Client::account_of(request) {
            Some(Client::Key(name)) => unlimited.contains(&name),
            _ => false,
        };
        runs_a_model(request) && (unlimited.is_empty() || !is_unlimited())
    }
}

fn listing_rate(limits: &Limits) -> Option<Quota> {
    match limits.listing_rate {
        ListingRate::Off => None,
        ListingRate::Of(quota) => Some(quota),
        ListingRate::Auto => {
            let is_limited = limits.rate.is_some()
                || limits.key_rate.is_some()
                || limits.user_rate.is_some()
                || rates_of_keys(limits).next().is_some();
            let quota = Quota::new(LISTING_PER_SECOND, Duration::from_secs(1));
            quota.ok().filter(|_| is_limited)
        }
    }
}

fn shares(limits: &Limits) -> BTreeMap<Arc<str>, Share> {
    let own = limits.key_limits.iter();
    own.map(|(name, limits)| (name.clone(), limits.share))
        .collect()
}
