//! Settings that refer to servers by name.

use super::error::Problem;
use super::reader::Reader;
use super::table::Backends;
use super::values::{PlacedModel, ServerName};
use crate::ollama::fleet::{AllowedModels, Preload, ServerRules, SlotRule};
use crate::ollama::upstream::{Access, Address};

impl Backends {
    /// The index of the server that manages models: the named one, or the first Ollama.
    pub fn management_host(&self) -> usize {
        let meant = self.management.iter().flat_map(|name| self.called(name));
        let mut places = meant.filter_map(|meant| self.urls.iter().position(|url| url == meant));
        let first = || self.urls.iter().position(|server| !server.is_openai());
        places.next().or_else(first).unwrap_or(0)
    }

    /// The slots of each server, in the configured order.
    pub fn slots_of_each(&self) -> Vec<SlotRule> {
        let of = |server| self.all_of(server, &self.slots.named).next().copied();
        let servers = self.urls.iter();
        servers
            .map(|server| of(server).unwrap_or(self.slots.others))
            .collect()
    }

    /// The rules for each server, in the configured order.
    pub fn rules_of_each(&self) -> Vec<ServerRules> {
        let of = |server| {
            let default = ServerRules::default();
            let own_limit = self.all_of(server, &self.max_in_flight.named).next();
            let own_weight = self.all_of(server, &self.weights).next();
            let models = self.all_of(server, &self.models).cloned();
            let models = AllowedModels::new(models.collect());
            ServerRules {
                weight: own_weight.copied().unwrap_or(default.weight),
                max_in_flight: own_limit.copied().unwrap_or(self.max_in_flight.others),
                labels: self.all_of(server, &self.labels).cloned().collect(),
                preloads: self.preloads_of(server, &models),
                models,
            }
        };
        self.urls.iter().map(of).collect()
    }

    /// The models to load on a server, each once: one that is pinned is not preloaded too.
    fn preloads_of(&self, server: &Address, allowed: &AllowedModels) -> Vec<Preload> {
        let pinned = self.pinned.iter().map(|placed| (placed, true));
        let once = self.preload.iter().map(|placed| (placed, false));
        let mut preloads: Vec<Preload> = Vec::new();
        for (placed, is_pinned) in pinned.chain(once) {
            let named = placed.server.as_ref();
            let is_meant = match named {
                Some(name) => self.called(name).contains(&server),
                None => allowed.allow(&placed.model),
            };
            if !is_meant {
                continue;
            }
            let mut known = preloads.iter_mut();
            match known.find(|known| known.model == placed.model) {
                Some(known) => known.is_named |= named.is_some(),
                None => preloads.push(Preload {
                    model: placed.model.clone(),
                    is_pinned,
                    is_named: named.is_some(),
                }),
            }
        }
        preloads
    }

    /// The values of a list that are for a server.
    fn all_of<'a, T>(
        &self,
        server: &Address,
        list: &'a [(ServerName, T)],
    ) -> impl Iterator<Item = &'a T> {
        let its_own = list
            .iter()
            .filter(move |(name, _)| self.called(name).contains(&server));
        its_own.map(|(_, value)| value)
    }

    /// The credentials of the servers, and the trust in their certificates. This reads the
    /// authorities.
    ///
    /// # Errors
    /// Certificates are needed but cannot be verified.
    pub fn access(&self) -> Result<Access, String> {
        let tokens = self.tokens.iter().flat_map(|(name, token)| {
            let servers = self.called(name).into_iter();
            servers.map(|server| (server.clone(), token.clone()))
        });
        let access = Access::new(tokens.collect());
        if self.ca_file.is_none() && !self.urls.iter().any(Address::is_https) {
            return Ok(access);
        }
        let trust = self.ca_file.clone().unwrap_or_default().trust()?;
        Ok(access.with_trust(trust))
    }

    fn called(&self, name: &str) -> Vec<&Address> {
        Address::called(&self.urls, name)
    }

    /// Each list that names servers: its key, and the names. The text says what a server may have
    /// only one of; `None` if it may have several.
    fn named_servers(&self) -> [(&'static str, Option<&'static str>, Vec<&ServerName>); 9] {
        fn names<T>(list: &[(ServerName, T)]) -> Vec<&ServerName> {
            list.iter().map(|(name, _)| name).collect()
        }
        fn placed(list: &[PlacedModel]) -> Vec<&ServerName> {
            list.iter().filter_map(|row| row.server.as_ref()).collect()
        }
        let management = self.management.iter().collect();
        let (slots, limits) = (&self.slots.named, &self.max_in_flight.named);
        [
            ("backends.management", None, management),
            ("backends.slots", Some("numbers of slots"), names(slots)),
            ("backends.tokens", Some("tokens"), names(&self.tokens)),
            ("backends.max_in_flight", Some("limits"), names(limits)),
            ("backends.weights", Some("weights"), names(&self.weights)),
            ("backends.labels", None, names(&self.labels)),
            ("backends.models", None, names(&self.models)),
            ("backends.preload", None, placed(&self.preload)),
            ("backends.pinned", None, placed(&self.pinned)),
        ]
    }

    /// Checks that each model to load may run on the server that is named for it, or on any, and that
    /// a named server is one that loads models when it is asked to.
    fn check_preloads(&self, reader: &mut Reader) {
        let rules = self.rules_of_each();
        let servers = || self.urls.iter().zip(&rules);
        let lists = [
            ("backends.preload", &self.preload),
            ("backends.pinned", &self.pinned),
        ];
        for (key, list) in lists {
            for PlacedModel { server, model } in list {
                let may_run = |rules: &ServerRules| rules.models.allow(model);
                let named = server.iter().flat_map(|name| self.called(name));
                if let Some(server) = named.into_iter().find(|server| server.is_openai()) {
                    let reason = format!(
                        "{model} cannot be loaded on {server}: it is an OpenAI-compatible server, which \
                         loads its models itself; remove it here"
                    );
                    reader.wrong(key, &reason);
                    continue;
                }
                let place = match server {
                    Some(name) => {
                        let named = self.called(name);
                        let mut named = servers().filter(|(url, _)| named.contains(url));
                        let refusing = named.find(|(_, rules)| !may_run(rules));
                        refusing.map(|(url, _)| url.to_string())
                    }
                    None => {
                        let may_run = servers().any(|(_, rules)| may_run(rules));
                        (!may_run).then(|| "any server".to_owned())
                    }
                };
                if let Some(place) = place {
                    let models = reader.subject("backends.models");
                    let reason = format!(
                        "{model} is to be loaded, but {models} does not allow it on {place}; add it \
                         there, or remove it here"
                    );
                    reader.wrong(key, &reason);
                }
            }
        }
    }

    /// Checks that named servers are configured, that none has two values where there can be only
    /// one, and that certificates can be verified if necessary.
    pub(super) fn check(&self, reader: &mut Reader) {
        // Names are not compared with the default servers that replace a wrong OLLAMA_URL.
        let are_known = reader.is_valid("backends.urls");
        for (key, single, names) in self.named_servers() {
            for name in names.iter().filter(|_| are_known) {
                if self.called(name).is_empty() {
                    let reason = format!("{name} is not a server in OLLAMA_URL");
                    reader.wrong(key, &reason);
                }
            }
            for (server, single) in self.urls.iter().zip(single.into_iter().cycle()) {
                let is_it = |name: &&&ServerName| self.called(name).contains(&server);
                if names.iter().filter(is_it).count() > 1 {
                    reader.wrong(key, &format!("there are two {single} for {server}"));
                }
            }
        }
        if are_known && reader.is_valid("backends.models") {
            self.check_preloads(reader);
        }
        let management = self.management.iter().flat_map(|name| self.called(name));
        if let Some(server) = management.into_iter().find(|server| server.is_openai()) {
            let reason =
                format!("{server} is an OpenAI-compatible server, which manages no models");
            reader.wrong("backends.management", &reason);
        }
        if let Err(reason) = self.access() {
            let problem = Problem::new("LLAMATOWER_BACKEND_CA_FILE", reason);
            reader.problems.push(problem);
        }
    }
}
