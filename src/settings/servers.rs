//! Settings that refer to servers by name.

use super::error::Problem;
use super::reader::Reader;
use super::table::Backends;
use crate::ollama::fleet::SlotRule;
use crate::ollama::upstream::{Access, Address};

impl Backends {
    /// The index of the server that manages models.
    pub fn management_host(&self) -> usize {
        let meant = self.management.iter().flat_map(|name| self.called(name));
        let mut places = meant.filter_map(|meant| self.urls.iter().position(|url| url == meant));
        places.next().unwrap_or(0)
    }

    /// The slots of each server, in the configured order.
    pub fn slots_of_each(&self) -> Vec<SlotRule> {
        let of = |server: &Address| {
            let mut named = self.slots.named.iter();
            let own = named.find(|(name, _)| self.called(name).contains(&server));
            own.map_or(self.slots.others, |(_, slots)| *slots)
        };
        self.urls.iter().map(of).collect()
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

    /// Checks that named servers are configured, that none has two tokens, and that certificates
    /// can be verified if necessary.
    pub(super) fn check(&self, reader: &mut Reader) {
        let management = self.management.iter();
        let management = management.map(|name| ("backends.management", name));
        let slots = self.slots.named.iter();
        let slots = slots.map(|(name, _)| ("backends.slots", name));
        let tokens = self.tokens.iter();
        let tokens = tokens.map(|(name, _)| ("backends.tokens", name));
        // Names are not compared with the default servers that replace a wrong OLLAMA_URL.
        let are_known = reader.is_valid("backends.urls");
        for (key, name) in management.chain(slots).chain(tokens) {
            if are_known && self.called(name).is_empty() {
                let reason = format!("{name} is not a server in OLLAMA_URL");
                reader.wrong(key, &reason);
            }
        }
        for server in &self.urls {
            let names = self.tokens.iter().map(|(name, _)| name);
            let its_own = names.filter(|name| self.called(name).contains(&server));
            if its_own.count() > 1 {
                let reason = format!("there are two tokens for {server}");
                reader.wrong("backends.tokens", &reason);
            }
        }
        if let Err(reason) = self.access() {
            let problem = Problem::new("LLAMATOWER_BACKEND_CA_FILE", reason);
            reader.problems.push(problem);
        }
    }
}
