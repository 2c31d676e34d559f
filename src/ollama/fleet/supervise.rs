//! Resolves host names and probes the backends.
//!
//! One task per host resolves the name again when its addresses expire, and one task per backend
//! probes it. A backend whose address is gone gets no new requests and is removed after its last
//! stream. If a name cannot be resolved, its known addresses are kept.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use super::Fleet;
use super::inventory::Listing;
use super::member::Member;
use super::resolve::{Addresses, NotResolved, needs_resolution};
use crate::ollama::upstream::Address;

/// Probe interval of a backend that is down, so that it is used again soon.
const PAUSE_WHILE_DOWN: Duration = Duration::from_secs(1);

/// The pause before the models in memory are read again because one that was unloaded is still listed.
const PAUSE_WHILE_LEAVING: Duration = Duration::from_millis(100);

/// How often the models in memory are read while requests wait for a load.
const PAUSE_WHILE_LOADING: Duration = Duration::from_millis(250);

/// The backends of one host, each with a guard that stops its probes when it is dropped.
struct Watch<S> {
    fleet: Arc<Fleet<S>>,
    host: usize,
    members: Vec<(Arc<Member<S>>, DropGuard)>,
    /// Notified when a backend has refused a connection or failed a probe.
    has_refused: Arc<Notify>,
    cannot_be_resolved: bool,
    tasks: TaskTracker,
    stopped: CancellationToken,
}

impl<S: Send + Sync + 'static> Fleet<S> {
    /// Resolves all hosts and probes all backends until `stopped`; returns after the last probe has
    /// ended. Dropping the future stops both as well.
    pub async fn supervise(self: Arc<Self>, stopped: CancellationToken) {
        let stopped = stopped.child_token();
        let _guard = stopped.clone().drop_guard();
        let tasks = TaskTracker::new();
        for host in 0..self.hosts.len() {
            let watch = Watch {
                fleet: self.clone(),
                host,
                members: Vec::new(),
                has_refused: Arc::default(),
                cannot_be_resolved: false,
                tasks: tasks.clone(),
                stopped: stopped.clone(),
            };
            let stopped = stopped.clone();
            tasks.spawn(stopped.run_until_cancelled_owned(watch.run()));
        }
        tasks.close();
        tasks.wait().await;
    }

    async fn watch_member(self: Arc<Self>, member: Arc<Member<S>>, has_refused: Arc<Notify>) {
        let backend = &member.backend;
        let mut silence = Silence::default();
        loop {
            let asked = self.catalogue.refreshes_asked();
            let was_up = backend.is_up();
            let found = match was_up && silence.is_short(&member, self.config.clocks.interval) {
                true => Ok(member.models().to_vec()),
                false => {
                    if was_up {
                        member.refresh_resident();
                    }
                    let probe = backend.probe(self.config.clocks.timeout);
                    tokio::join!(probe, self.read_reported_load(&member)).0
                }
            };
            self.catalogue.note_probe(&member, found, asked);
            match (was_up, backend.is_up()) {
                (false, true) => {
                    member.residency.forget();
                    member.refresh_resident();
                    member.breaker.half_open();
                }
                (_, false) => {
                    // It may have been restarted when it comes up.
                    member.residency.forget();
                    member.note_down();
                    has_refused.notify_one();
                }
                (true, true) => {}
            }
            self.queue.slots_changed();
            let models = member.models();
            backend
                .log_when_up(&models, self.config.clocks.timeout)
                .await;
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

impl<S> Fleet<S> {
    /// Reads the models in a backend's memory whenever that is asked for: by each probe of a backend
    /// that is up, at the same time as the list of installed models, and after a request has loaded
    /// a model.
    ///
    /// The probe does not wait for this list, because a server without it, or one that is late with
    /// it, can still run models. If the list is late or fails, the backend stays up, the list from
    /// before is kept, and the next probe asks again. One task for each backend reads it, so that
    /// no more than one read is in progress.
    async fn watch_resident(&self, member: &Member<S>) {
        loop {
            member.residency.asked().await;
            let (asked, starts) = (Instant::now(), member.backend.starts());
            match member.backend.resident(self.config.clocks.timeout).await {
                Ok(resident) => {
                    let is_awaited = || {
                        self.router
                            .change(|policy| policy.is_load_awaited(member.id))
                    };
                    let was_awaited = is_awaited();
                    member.tell_residents(resident.as_deref(), asked);
                    let is_early = resident
                        .as_deref()
                        .is_some_and(|listed| member.residency.has_leaving(listed));
                    let list: Option<Arc<[_]>> = resident.map(Arc::from);
                    let has_changed = member.resident() != list;
                    member.residency.set(Listing { list, starts });
                    // Each probe offers the slots again in any case.
                    if has_changed || was_awaited != is_awaited() {
                        self.queue.slots_changed();
                    }
                    if is_early {
                        sleep(PAUSE_WHILE_LEAVING).await;
                        member.refresh_resident();
                    }
                }
                Err(error) => tracing::debug!(%error, "the models in memory are not known"),
            }
        }
    }

    /// Asks for the models in a backend's memory while requests wait for a load there. Once the usual time
    /// of a load has passed, a model that is listed counts as loaded: the request that has begun the load
    /// may have its first byte much later, after its prompt or, without streaming, its whole response.
    async fn watch_loads(&self, member: &Member<S>) {
        loop {
            let begins_to_wait = self.router.begins_to_wait();
            if !self.router.change(|policy| policy.has_waiting(member.id)) {
                begins_to_wait.await;
            }
            sleep(PAUSE_WHILE_LOADING).await;
            if self
                .router
                .change(|policy| policy.is_load_awaited(member.id))
            {
                member.refresh_resident();
            }
        }
    }
}

impl<S> Fleet<S> {
    /// Tells the policy how many requests a server has by its own count.
    async fn read_reported_load(&self, member: &Member<S>) {
        if member.backend.openai().is_none() {
            return;
        }
        let own = || self.router.change(|policy| policy.in_flight(member.id));
        let before = own();
        let limit = self.config.clocks.timeout;
        let reported = member.backend.reported_load(limit).await;
        // Requests that began or ended meanwhile may be in the count or not: in doubt it is not others
        // that have sent them.
        let own = before.max(own());
        self.router
            .change(|policy| policy.set_reported(member.id, reported, own));
    }
}

impl<S: Send + Sync + 'static> Watch<S> {
    async fn run(mut self) {
        let fleet = self.fleet.clone();
        let address = &fleet.hosts[self.host];
        if !needs_resolution(address) || !fleet.resolver.can_ask() {
            self.probe_unresolved();
            // Keep the probes' guards alive.
            return std::future::pending().await;
        }
        let mut pause = Duration::ZERO;
        loop {
            let found = self.resolve(address, pause).await;
            pause = self.take(address, found);
        }
    }

    /// Resolves a host after a pause, or earlier if one of its backends refuses a connection.
    async fn resolve(&self, address: &Address, pause: Duration) -> Result<Addresses, NotResolved> {
        let config = &self.fleet.config;
        let refused_lately = async {
            sleep(config.dns.min_ttl.min(pause)).await;
            self.has_refused.notified().await;
        };
        tokio::select! {
            () = sleep(pause) => {}
            () = refused_lately => {}
        }
        let patience = config.clocks.timeout;
        let asked = self.fleet.resolver.addresses(address.host());
        let found = timeout(patience, asked).await;
        found.unwrap_or_else(|_| Err(NotResolved::late(patience)))
    }

    /// Applies the result of a resolution, and returns the pause before the next one.
    fn take(&mut self, address: &Address, found: Result<Addresses, NotResolved>) -> Duration {
        match found {
            Ok(Addresses {
                ips,
                resolve_again_in,
            }) => {
                self.cannot_be_resolved = false;
                self.take_over(address, &ips);
                resolve_again_in
            }
            Err(error) => {
                if !self.cannot_be_resolved {
                    let kept = self.members.len();
                    tracing::warn!(backend = %address, %error, kept, "the name cannot be resolved");
                }
                self.cannot_be_resolved = true;
                if self.members.is_empty() {
                    self.probe_unresolved();
                }
                self.fleet.resolver.retry_in()
            }
        }
    }

    /// A name that no DNS server knows may still be known to the operating system.
    fn probe_unresolved(&mut self) {
        let members = self.fleet.catalogue.members().of_host(self.host).to_vec();
        for member in members {
            self.probe(member);
        }
    }

    /// Adds members for new addresses, and removes those whose addresses are gone.
    ///
    /// The name of a member depends on the current addresses alone: the host's if there is one, otherwise
    /// its own. So all gateways call it the same, whatever they have seen before. A member with another
    /// name is replaced.
    fn take_over(&mut self, address: &Address, ips: &[IpAddr]) {
        let named = |ip: IpAddr| match ips.len() {
            1 => address.at(ip),
            _ => address.one_at(ip),
        };
        let is_at = |member: &Member<S>, ip: IpAddr| *member.backend.address() == named(ip);
        let has_gone = |member: &Member<S>| !ips.iter().any(|ip| is_at(member, *ip));
        let known = |ip: &IpAddr| self.members.iter().any(|(member, _)| is_at(member, *ip));
        let new: Vec<_> = ips.iter().filter(|ip| !known(ip)).copied().collect();
        let gone = self.members.extract_if(.., |(member, _)| has_gone(member));
        // Dropping the guards ends the probes.
        let gone: Vec<_> = gone.map(|(member, _)| member).collect();
        if new.is_empty() && gone.is_empty() {
            return;
        }
        for ip in new {
            let mut before = gone.iter();
            let before = before.find(|member| member.backend.address().ip() == Some(ip));
            let member = match before {
                Some(before) => self.fleet.renamed_member(self.host, named(ip), before),
                None => self.fleet.new_member_down(self.host, named(ip)),
            };
            let name = member.backend.name();
            match before.map(|before| before.backend.name()) {
                Some(before) => tracing::info!(
                    backend = %name, %before, addresses = ips.len(),
                    "the backend has another name, because its host has one address or several now"
                ),
                None => tracing::info!(backend = %name, %ip, "the backend has joined"),
            }
            self.probe(member);
        }
        let members = self.members.iter().map(|(member, _)| member.clone());
        self.fleet.catalogue.set_host(self.host, members.collect());
        self.fleet.queue.slots_changed();
        // Logged after the update: from now on they get no requests.
        for member in gone {
            let name = member.backend.name();
            let ip = member.backend.address().ip();
            if ip.is_some_and(|ip| ips.contains(&ip)) {
                // It has another name now, which has its cordon.
                self.fleet.config.cordons.set(name, false);
                continue;
            }
            let has_name = |(member, _): &(Arc<Member<S>>, _)| *member.backend.name() == *name;
            if !self.members.iter().any(has_name) {
                // A new server with this address is another one.
                self.fleet.config.cordons.set(name, false);
            }
            tracing::info!(backend = %name, "the backend has left");
        }
    }

    fn probe(&mut self, member: Arc<Member<S>>) {
        let (fleet, has_refused) = (self.fleet.clone(), self.has_refused.clone());
        let ended = self.stopped.child_token();
        let watched = member.clone();
        let probing = async move {
            tokio::join!(
                fleet.clone().watch_member(watched.clone(), has_refused),
                fleet.watch_resident(&watched),
                fleet.watch_loads(&watched),
                fleet.try_silent_models(&watched),
                fleet.keep_preloads(&watched),
            )
        };
        self.members.push((member, ended.clone().drop_guard()));
        let probing = ended.run_until_cancelled_owned(probing);
        self.tasks.spawn(probing);
    }
}

/// How long an OpenAI-compatible server is spared probes while it works on requests and sends
/// nothing, in intervals of probes.
const SPARED: u32 = 6;

/// Since when an OpenAI-compatible server with requests has sent nothing.
///
/// A probe could harm its responses: the server of `llama-cpp-python` 0.3.36 breaks off the response in
/// progress when it gets another request, even for its list of models, or lets that request wait.
/// Parts of a response show that the server is up. One that hangs is probed again after a while. A
/// server that reports its load is probed always: it answers beside its work, and its load is needed
/// most while it has requests.
#[derive(Debug, Default)]
struct Silence(Option<Instant>);

impl Silence {
    /// Whether the server works on requests and was not silent for long.
    fn is_short<S>(&mut self, member: &Member<S>, interval: Duration) -> bool {
        let server = member.backend.openai();
        let Some(server) = server.filter(|_| !member.backend.reports_load()) else {
            return false;
        };
        if server.take_sent() || member.in_flight() == 0 {
            self.0 = None;
            return member.in_flight() > 0;
        }
        let since = self.0.get_or_insert_with(Instant::now);
        since.elapsed() <= interval * SPARED
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use llamatower_sim::{ModelSpec, Sim};

    use super::super::FleetConfig;
    use super::*;

    /// Waits until a condition holds.
    async fn until(is_it: impl Fn() -> bool) {
        let holds = async {
            while !is_it() {
                tokio::task::yield_now().await;
            }
        };
        timeout(Duration::from_secs(30), holds).await.unwrap();
    }

    #[tokio::test]
    async fn the_models_in_memory_are_read_again_between_two_probes_if_that_is_asked_for() {
        let sim = Sim::builder().model(ModelSpec::new("tiny")).start();
        let sim = sim.await.unwrap();
        let mut config = FleetConfig::default();
        config.clocks.interval = Duration::from_secs(3600);
        let hosts = vec![sim.addr().to_string().parse().unwrap()];
        let fleet = Arc::new(Fleet::new(hosts, config, |_, _| ()));
        let stopped = CancellationToken::new();
        let watch = tokio::spawn(fleet.clone().supervise(stopped.clone()));
        let member = fleet.catalogue.members().all()[0].clone();
        let count = || member.resident().map(|rows| rows.len());
        until(|| count() == Some(0)).await;
        let limit = Duration::from_secs(30);
        let load = member
            .backend
            .post("/api/generate", r#"{"model":"tiny"}"#.into(), limit);
        load.await.unwrap();
        assert_eq!(count(), Some(0), "the next probe is far away");
        member.refresh_resident();
        until(|| count() == Some(1)).await;
        stopped.cancel();
        watch.await.unwrap();
    }
}
