//! The simulated servers of a scenario.

use std::net::SocketAddr;
use std::time::Duration;

use llamatower_sim::{Fault, ModelSpec, Sim, SimHandle};
use tokio::runtime::Handle;

use crate::{
    Error,
    client::Client,
    prompt::model_name,
    scenario::{LOAD_TIME, PACE, Scenario, Server},
};

/// The tokens of a line of an answer. With a line for each token, the cost of proxies in Python
/// would be measured, and not their choices.
const LINE_TOKENS: u64 = 16;

/// The routes that run a model.
const RUNS_A_MODEL: [&str; 4] = [
    "/api/chat",
    "/api/generate",
    "/api/embed",
    "/v1/chat/completions",
];

/// Running servers. Dropping it ends them.
#[derive(Debug)]
pub(crate) struct Fleet(Vec<SimHandle>);

impl Fleet {
    /// Starts the servers on another runtime, with their model in memory if there is only one.
    pub(crate) async fn start(
        scenario: &Scenario,
        speed: f64,
        runtime: &Handle,
    ) -> Result<Self, Error> {
        let mut sims = Vec::new();
        for server in &scenario.servers {
            let sim = sim(scenario, server, speed);
            let sim = runtime.spawn(sim.start()).await??;
            if scenario.models == 1 {
                Client::new(sim.addr()).load(&model_name(0)).await?;
            }
            if let Some(fault) = &server.fault {
                for path in RUNS_A_MODEL {
                    sim.arm(Fault::new(fault.clone()).for_path(path));
                }
            }
            sims.push(sim);
        }
        Ok(Self(sims))
    }

    pub(crate) fn addresses(&self) -> Vec<SocketAddr> {
        self.0.iter().map(SimHandle::addr).collect()
    }

    /// The loads that replaced another model: all but the first one of each server.
    pub(crate) fn swaps(&self) -> u64 {
        let loads = self.0.iter().map(|sim| sim.state().loads);
        loads.map(|loads| loads.saturating_sub(1)).sum()
    }

    /// The loads that were given up because their client had gone.
    pub(crate) fn aborted_loads(&self) -> u64 {
        self.0.iter().map(|sim| sim.state().loads_aborted).sum()
    }
}

fn sim(scenario: &Scenario, server: &Server, speed: f64) -> llamatower_sim::SimBuilder {
    let load_time = if scenario.models == 1 { 0.0 } else { LOAD_TIME };
    let mut sim = Sim::builder()
        .speed(speed * server.speed)
        .max_loaded(1)
        .log_capacity(0);
    if let Some(tokens) = scenario.prefix_cache {
        sim = sim.prefix_cache(tokens);
    }
    (0..scenario.models).fold(sim, |sim, model| {
        let spec = ModelSpec::new(model_name(model))
            .with_load_time(Duration::from_secs_f64(load_time))
            .with_prompt_rate(server.prompt_rate)
            .with_pace(Duration::from_secs_f64(PACE))
            .with_slots(server.slots)
            .with_line_tokens(LINE_TOKENS)
            .with_context_length(131_072)
            .with_reply_from_prompt();
        sim.model(spec)
    })
}
