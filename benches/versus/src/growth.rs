//! The cost of a request with growing numbers of models, backends and connections that it does not
//! use.

use std::{
    fmt::Write as _,
    time::{Duration, Instant},
};

use tokio::net::TcpStream;

use crate::{
    Args, Error, backend,
    contenders::Contender,
    cpu::Processes,
    load::{self, Target},
    shapes::{Dialect, Load, SHAPES},
};

struct Scenario {
    title: &'static str,
    backends: usize,
    /// The models of each backend, besides the requested one.
    models: usize,
    /// The number of connected clients without a request.
    idle: usize,
}

const SCENARIOS: [Scenario; 3] = [
    Scenario {
        title: "2 backends, 1 model, no idle connections",
        backends: 2,
        models: 0,
        idle: 0,
    },
    Scenario {
        title: "100 backends, 1,001 models",
        backends: 100,
        models: 10,
        idle: 0,
    },
    Scenario {
        title: "10,000 idle connections",
        backends: 2,
        models: 0,
        idle: 10_000,
    },
];

/// A table of the cost of a small request in each scenario, in alternating rounds.
pub(crate) async fn measure(
    args: &Args,
    epoch: Instant,
    gateway: &Contender,
) -> Result<String, Error> {
    let mut costs: [Vec<f64>; SCENARIOS.len()] = Default::default();
    for round in 0..args.rounds() {
        for turn in 0..SCENARIOS.len() {
            let nth = (turn + round) % SCENARIOS.len();
            let cost = SCENARIOS[nth].cost(args, epoch, gateway).await?;
            eprintln!("round {} {}: {cost:.2} us", round + 1, SCENARIOS[nth].title);
            costs[nth].push(cost);
        }
    }
    let mut table = "| | CPU for a request, µs | of the first |\n|---|---:|---:|\n".to_owned();
    let firsts = costs[0].clone();
    for (scenario, costs) in SCENARIOS.iter().zip(&mut costs) {
        let mut ratios: Vec<_> = costs
            .iter()
            .zip(&firsts)
            .map(|(one, first)| one / first)
            .collect();
        let (cost, ratio) = (median(costs), median(&mut ratios));
        // Writing to a `String` cannot fail.
        writeln!(table, "| {} | {cost:.1} | {ratio:.2} |", scenario.title).ok();
    }
    Ok(table)
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

impl Scenario {
    async fn cost(&self, args: &Args, epoch: Instant, gateway: &Contender) -> Result<f64, Error> {
        let mut backends = Vec::new();
        for nth in 0..self.backends {
            let names: Vec<_> = (0..self.models)
                .map(|model| format!("model-{nth}-{model}"))
                .collect();
            backends.push(backend::start_with(epoch, &names).await?);
        }
        let shape = &SHAPES[0];
        let request = shape.request(Dialect::Ollama, "", 0);
        let running = gateway.start(&backends, &request).await?;
        let mut idle = Vec::new();
        for _ in 0..self.idle {
            idle.push(TcpStream::connect(running.addresses[0]).await?);
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
        let target = Target {
            addresses: running.addresses.clone(),
            tls: running.tls.clone(),
            request: request.into(),
            lines: 0,
            bytes: 200,
        };
        let Load::Closed {
            connections,
            requests,
            ..
        } = shape.load
        else {
            return Err("the first shape is not a closed loop".into());
        };
        let total = (requests as f64 * args.seconds()) as usize;
        load::closed(&target, connections, total / 10, false).await?;
        let processes = Processes::of_group(running.group().ok_or("it has no processes")?)?;
        let before = processes.cpu()?;
        load::closed(&target, connections, total, false).await?;
        let used = processes.cpu()?.since(&before);
        Ok(used.as_secs_f64() * 1e6 / total as f64)
    }
}
