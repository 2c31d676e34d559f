//! The policy as a whole, on a clock of the test's own.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use super::*;

mod loads;
mod outside;
mod slots;

/// A policy, its time and its servers.
struct Stage {
    policy: Policy,
    now: Instant,
    servers: Vec<ServerId>,
}

fn model(name: &str) -> ModelName {
    ModelName::parse(name).unwrap()
}

/// A request that has just arrived.
fn ask(model: &ModelName, now: Instant) -> Ask<'_> {
    Ask {
        prompt_tokens: 1000.0,
        output_tokens: Some(100.0),
        ..Ask::arriving(model, now)
    }
}

fn healthy(_: ServerId) -> Option<View> {
    Some(View {
        availability: Availability::Healthy,
        was_tried: false,
        is_trial: false,
    })
}

impl Stage {
    /// Servers that have these models on disk, 8 GB each, and none in memory.
    fn new(servers: usize, models: &[&str]) -> Self {
        let mut stage = Self {
            policy: Policy::default(),
            now: Instant::now(),
            servers: Vec::new(),
        };
        let installed: Vec<_> = models
            .iter()
            .map(|name| (model(name), 8_000_000_000))
            .collect();
        for server in 0..servers {
            let spec = ServerSpec::new(format!("gpu-{server}").into());
            let id = stage.policy.add_server(spec);
            stage.policy.set_installed(id, &installed);
            stage.servers.push(id);
        }
        for server in 0..servers {
            stage.list(server, &[]);
        }
        stage
    }

    /// A server lists the models in its memory.
    fn list(&mut self, server: usize, models: &[&str]) {
        let rows: Vec<_> = models
            .iter()
            .map(|name| InMemory {
                model: model(name),
                bytes: 8_000_000_000,
                context: Some(4096),
                expires: Some(self.now + Duration::from_secs(300)),
            })
            .collect();
        let id = self.servers[server];
        self.policy
            .set_residents(id, Some(&rows), self.now, self.now);
    }

    /// A server has had two models together, of which one had to go.
    fn fill(&mut self, id: ServerId) {
        let both = super::memory::Load {
            models: 2,
            bytes: 16_000_000_000,
        };
        let server = server(&mut self.policy.servers, id);
        server.unwrap().memory.overflowed(both);
    }

    /// Begins a load by the gateway itself on the first server.
    fn load(&mut self, name: &str, kept: &[ModelName]) -> OwnLoad {
        let id = self.servers[0];
        self.policy.begin_own_load(id, &model(name), kept, self.now)
    }

    fn pass(&mut self, seconds: f64) {
        self.now += Duration::from_secs_f64(seconds);
    }

    /// The choice for a request that has waited so long, with so many in its line.
    fn choose(&mut self, name: &str, waited: f64, waiting: usize) -> Option<Grant> {
        self.choose_with(name, waited, waiting, true)
    }

    fn choose_with(
        &mut self,
        name: &str,
        waited: f64,
        waiting: usize,
        may_probe_slots: bool,
    ) -> Option<Grant> {
        let model = model(name);
        let ask = Ask {
            waiting,
            may_probe_slots,
            since: self.now - Duration::from_secs_f64(waited),
            ..ask(&model, self.now)
        };
        self.policy.choose(&ask, healthy)
    }

    fn send(&mut self, name: &str) -> (usize, FlightId) {
        let grant = self.choose(name, 0.0, 1).unwrap();
        let server = self.servers.iter().position(|id| *id == grant.server);
        (server.unwrap(), grant.flight)
    }

    /// The whole of a response that took 1 s for the prompt and 2 s for the output.
    fn answer(&mut self, name: &str, flight: FlightId, load: f64) {
        let model = model(name);
        self.policy.first_byte(&model, flight, self.now);
        let total = load + 3.0;
        let phases = Phases {
            load: Duration::from_secs_f64(load),
            prompt: Duration::from_secs(1),
            output: Duration::from_secs(2),
            total: Duration::from_secs_f64(total),
        };
        let report = Report {
            prompt_tokens: 1000,
            output_tokens: 100,
            phases: Some(phases),
        };
        self.pass(2.0);
        self.policy.end(&model, flight, Some(report), self.now);
    }

    /// One request from its choice to its end; returns the server.
    fn serve(&mut self, name: &str, load: f64) -> usize {
        let (server, flight) = self.send(name);
        self.pass(load + 1.0);
        self.answer(name, flight, load);
        server
    }
}

#[test]
fn a_server_with_the_model_in_memory_is_preferred_to_an_idle_one() {
    let mut stage = Stage::new(3, &["m"]);
    stage.list(1, &["m"]);
    for _ in 0..3 {
        assert_eq!(stage.serve("m", 0.0), 1);
    }
}

/// Lists of installed models and of those in memory come in any order.
#[test]
fn a_model_that_is_listed_in_memory_before_it_is_known_to_be_installed_counts() {
    let mut stage = Stage::new(2, &[]);
    stage.list(1, &["m"]);
    for id in stage.servers.clone() {
        stage.policy.set_installed(id, &[(model("m"), 0)]);
    }
    assert_eq!(stage.send("m").0, 1);
}

#[test]
fn a_slow_server_helps_only_when_the_line_is_long() {
    let mut stage = Stage::new(1, &["m"]);
    let spec = ServerSpec {
        weight: 0.1,
        slots: Some(1),
        ..ServerSpec::new("slow".into())
    };
    let slow = stage.policy.add_server(spec);
    stage.policy.set_installed(slow, &[(model("m"), 0)]);
    stage.servers = vec![stage.servers[0], slow];
    stage.list(0, &["m"]);
    stage.list(1, &["m"]);
    let server = stage.serve("m", 0.0);
    assert_eq!(server, 0);
    let mut held = Vec::new();
    for _ in 0..2 {
        held.push(stage.choose("m", 0.0, 1).unwrap());
    }
    assert!(stage.choose("m", 0.0, 1).is_none());
    let helped = stage.choose("m", 0.0, 60).unwrap();
    assert_eq!(helped.server, slow);
}

#[test]
fn a_prompt_goes_where_its_beginning_was_processed() {
    let mut stage = Stage::new(2, &["m"]);
    stage.list(0, &["m"]);
    stage.list(1, &["m"]);
    for server in [0, 1, 0, 1] {
        let _ = stage.serve("m", 0.0);
        let _ = server;
    }
    let prefix: Vec<u64> = (0..8).collect();
    let name = model("m");
    let ask = |stage: &mut Stage| {
        let ask = Ask {
            prompt_tokens: 4000.0,
            output_tokens: Some(10.0),
            prefix: &prefix,
            prefix_part: 1.0,
            ..Ask::arriving(&name, stage.now)
        };
        let healthy = |_| {
            Some(View {
                availability: Availability::Healthy,
                was_tried: false,
                is_trial: false,
            })
        };
        let grant = stage.policy.choose(&ask, healthy).unwrap();
        stage.policy.end(&name, grant.flight, None, stage.now);
        grant.server
    };
    let first = ask(&mut stage);
    for _ in 0..4 {
        assert_eq!(ask(&mut stage), first);
    }
}

#[test]
fn a_server_that_was_down_has_nothing_in_memory() {
    let mut stage = Stage::new(2, &["m"]);
    stage.list(0, &["m"]);
    stage.policy.restarted(stage.servers[0], stage.now);
    assert!(stage.choose("m", 0.0, 1).unwrap().loads);
}

#[test]
fn a_removed_server_is_forgotten_and_its_place_used_again() {
    let mut stage = Stage::new(2, &["m"]);
    stage.policy.remove_server(stage.servers[0]);
    assert_eq!(stage.send("m").0, 1);
    let id = stage.policy.add_server(ServerSpec::new("new".into()));
    assert_eq!(id, stage.servers[0]);
    stage.policy.set_installed(id, &[]);
    assert!(stage.policy.models[&model("m")].lane(id).is_none());
}

#[test]
fn a_model_that_no_server_lists_is_forgotten_when_its_last_request_has_ended() {
    let mut stage = Stage::new(2, &["m"]);
    stage.list(0, &["m"]);
    stage.list(1, &["m"]);
    let flights = [stage.send("m").1, stage.send("m").1];
    for id in stage.servers.clone() {
        stage.policy.set_installed(id, &[]);
    }
    let end = |stage: &mut Stage, flight| stage.policy.end(&model("m"), flight, None, stage.now);
    end(&mut stage, flights[0]);
    assert!(stage.policy.models.contains_key(&model("m")));
    end(&mut stage, flights[1]);
    assert!(stage.policy.models.is_empty());
}

#[test]
fn a_model_that_is_waited_for_is_not_forgotten_when_its_last_request_has_ended() {
    let mut stage = Stage::new(1, &["m"]);
    let flight = stage.send("m").1;
    stage.policy.set_waiting(&model("m"), 1);
    stage.policy.set_installed(stage.servers[0], &[]);
    stage.policy.end(&model("m"), flight, None, stage.now);
    assert_eq!(stage.policy.waiting(&model("m")), 1);
}

#[test]
fn a_choice_is_explained_by_the_costs_of_all_servers() {
    let mut stage = Stage::new(2, &["m"]);
    stage.list(1, &["m"]);
    stage.send("m");
    let decisions = stage.policy.decisions();
    let decision = &decisions[0];
    assert_eq!(decision.server.as_deref(), Some("gpu-1"));
    assert_eq!(decision.candidates.len(), 2);
    for candidate in &decision.candidates {
        assert_eq!(candidate.loads, &*candidate.server == "gpu-0");
        assert_eq!(candidate.loads, candidate.terms.unwrap().load > 0.0);
    }
}

#[test]
fn of_many_servers_those_with_the_model_in_memory_are_compared() {
    let mut stage = Stage::new(200, &["m"]);
    stage.list(150, &["m"]);
    for _ in 0..20 {
        assert_eq!(stage.serve("m", 0.0), 150);
    }
}

#[test]
fn a_slot_that_becomes_free_on_one_of_many_busy_servers_is_found() {
    let mut stage = Stage::new(100, &["m"]);
    for server in 0..100 {
        stage.list(server, &["m"]);
    }
    let mut sent = Vec::new();
    while let Some(grant) = stage.choose("m", 0.0, 1) {
        sent.push(grant);
    }
    assert_eq!(
        sent.len(),
        200,
        "two on each, as long as nothing is learned"
    );
    stage.pass(1.0);
    for grant in sent.iter().step_by(7) {
        stage.policy.end(&model("m"), grant.flight, None, stage.now);
        let next = stage.choose("m", 1.0, 5).map(|next| next.server);
        assert_eq!(next, Some(grant.server));
    }
}

#[test]
fn the_only_healthy_one_of_many_servers_is_found() {
    let mut stage = Stage::new(200, &["m"]);
    let (model, now) = (model("m"), stage.now);
    let ask = Ask {
        prompt_tokens: 1000.0,
        output_tokens: Some(100.0),
        ..Ask::arriving(&model, now)
    };
    let healthy = stage.servers[137];
    let view = |id| {
        let availability = match id == healthy {
            true => Availability::Healthy,
            false => Availability::Avoided,
        };
        Some(View {
            availability,
            was_tried: false,
            is_trial: false,
        })
    };
    let grant = stage.policy.choose(&ask, view).unwrap();
    assert_eq!(grant.server, healthy);
}
