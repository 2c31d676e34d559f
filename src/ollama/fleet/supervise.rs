//! What is found out without a request: which addresses hosts have, and how backends do.
//!
//! One future a host asks for its addresses when the last answer expires, and drives the probes of
//! the backends at them. A backend whose address is gone gets no further requests and ends with
//! its last stream; a name that cannot be resolved keeps the addresses that it had.

use std::future::Future;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::{AbortHandle, Abortable};
use futures_util::stream::FuturesUnordered;
use tokio::sync::Notify;
use tokio::sync::watch::Receiver;
use tokio::time::{sleep, timeout};

use super::Fleet;
use super::member::Member;
use super::resolve::{Addresses, NotResolved, is_to_be_resolved};
use crate::ollama::upstream::Address;

/// A backend that is down is probed as often as this, so that it is missed no longer than needed.
const PAUSE_WHILE_DOWN: Duration = Duration::from_secs(1);

/// The backends of one host, and the futures that probe them.
struct Watched<'a, S, F> {
    fleet: &'a Fleet<S>,
    host: usize,
    members: Vec<(Arc<Member<S>>, AbortHandle)>,
    probes: FuturesUnordered<Abortable<F>>,
    cannot_be_resolved: bool,
}

impl<S: Send + Sync> Fleet<S> {
    /// Resolves all hosts and probes all backends until `stop` turns true.
    pub async fn keep_watch(&self, stop: Receiver<bool>) {
        let hosts = 0..self.hosts.len();
        let watches = hosts.map(|host| self.watch_host(host, stop.clone()));
        futures_util::future::join_all(watches).await;
    }

    async fn watch_host(&self, host: usize, mut stop: Receiver<bool>) {
        let address = &self.hosts[host];
        let has_refused = Notify::new();
        let probe = |member| self.watch_member(member, &has_refused);
        let mut watched = Watched {
            fleet: self,
            host,
            members: Vec::new(),
            probes: FuturesUnordered::new(),
            cannot_be_resolved: false,
        };
        let resolves = is_to_be_resolved(address) && self.resolver.can_ask();
        if !resolves {
            watched.probe_unresolved(probe);
        }
        let mut answer = pin!(self.resolve(address, Duration::ZERO, &has_refused));
        loop {
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => return,
                _ = watched.probes.next(), if !watched.probes.is_empty() => {}
                found = &mut answer, if resolves => {
                    let pause = watched.take(address, found, probe);
                    answer.set(self.resolve(address, pause, &has_refused));
                }
            }
        }
    }

    /// Asks for the addresses of a host after a pause, or when a backend there refuses.
    async fn resolve(
        &self,
        address: &Address,
        pause: Duration,
        has_refused: &Notify,
    ) -> Result<Addresses, NotResolved> {
        let floor = self.config.dns.min_ttl.min(pause);
        let refused_lately = async {
            sleep(floor).await;
            has_refused.notified().await;
        };
        tokio::select! {
            () = sleep(pause) => {}
            () = refused_lately => {}
        }
        let patience = self.config.clocks.timeout;
        let asked = self.resolver.addresses(address.host());
        let found = timeout(patience, asked).await;
        found.unwrap_or_else(|_| Err(NotResolved::late(patience)))
    }

    async fn watch_member(&self, member: Arc<Member<S>>, has_refused: &Notify) {
        let backend = &member.backend;
        loop {
            let asked = self.catalogue.refreshes_asked();
            let was_up = backend.is_up();
            let found = backend.probe(self.config.clocks.timeout).await;
            self.catalogue.note_probe(&member, found, asked);
            match (was_up, backend.is_up()) {
                (false, true) => member.breaker.half_open(),
                (_, false) => has_refused.notify_one(),
                (true, true) => {}
            }
            self.queue.slots_changed();
            let pause = match backend.is_up() {
                true => self.config.clocks.interval,
                false => self.config.clocks.interval.min(PAUSE_WHILE_DOWN),
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = backend.refused() => {}
                () = self.catalogue.refresh_asked_after(asked) => {}
            }
        }
    }
}

impl<S: Send + Sync, F: Future<Output = ()>> Watched<'_, S, F> {
    /// Takes an answer over, and says after how long to ask again.
    fn take(
        &mut self,
        address: &Address,
        found: Result<Addresses, NotResolved>,
        probe: impl Fn(Arc<Member<S>>) -> F,
    ) -> Duration {
        match found {
            Ok(Addresses { ips, ask_again_in }) => {
                self.cannot_be_resolved = false;
                self.take_over(address, &ips, probe);
                ask_again_in
            }
            Err(error) => {
                if !self.cannot_be_resolved {
                    let kept = self.members.len();
                    tracing::warn!(backend = %address, %error, kept, "the name cannot be resolved");
                }
                self.cannot_be_resolved = true;
                if self.members.is_empty() {
                    self.probe_unresolved(probe);
                }
                self.fleet.resolver.retry_in()
            }
        }
    }

    /// A name that nobody answers may still be one that the operating system knows.
    fn probe_unresolved(&mut self, probe: impl Fn(Arc<Member<S>>) -> F) {
        let members = self.fleet.catalogue.members();
        for member in members.of_host(self.host) {
            self.probe(member.clone(), &probe);
        }
    }

    /// Makes members of new addresses, and lets those go whose addresses are gone.
    fn take_over(
        &mut self,
        address: &Address,
        ips: &[IpAddr],
        probe: impl Fn(Arc<Member<S>>) -> F,
    ) {
        let is_at = |member: &Member<S>, ip: IpAddr| member.backend.address().ip() == Some(ip);
        let has_gone = |member: &Member<S>| !ips.iter().any(|ip| is_at(member, *ip));
        let known = |ip: &IpAddr| self.members.iter().any(|(member, _)| is_at(member, *ip));
        let new: Vec<_> = ips.iter().filter(|ip| !known(ip)).copied().collect();
        if new.is_empty() && !self.members.iter().any(|(member, _)| has_gone(member)) {
            return;
        }
        let is_one_of_them = |(member, _): &mut (Arc<Member<S>>, AbortHandle)| has_gone(member);
        let gone: Vec<_> = self.members.extract_if(.., is_one_of_them).collect();
        for (_, probing) in &gone {
            probing.abort();
        }
        for ip in new {
            let address = match ips.len() {
                1 => address.at(ip),
                _ => address.one_at(ip),
            };
            let member = self.fleet.unproven_member(self.host, address);
            tracing::info!(backend = %member.backend.name(), %ip, "the backend has joined");
            self.probe(member, &probe);
        }
        let members = self.members.iter().map(|(member, _)| member.clone());
        self.fleet.catalogue.set_host(self.host, members.collect());
        self.fleet.queue.slots_changed();
        // It is told when it is so: from here on they get no request.
        for (member, _) in gone {
            tracing::info!(backend = %member.backend.name(), "the backend has left");
        }
    }

    fn probe(&mut self, member: Arc<Member<S>>, probe: &impl Fn(Arc<Member<S>>) -> F) {
        let (handle, registration) = AbortHandle::new_pair();
        let probing = Abortable::new(probe(member.clone()), registration);
        self.members.push((member, handle));
        self.probes.push(probing);
    }
}
