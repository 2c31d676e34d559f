//! `llamatower simulate`: the fleet's own policy and queue on virtual time, before simulated
//! servers, beside simple policies.

mod gateway;
mod prefix;
mod scenario;
mod server;
mod simple;
mod trace;
mod world;

use std::path::Path;

use gateway::{Gateway, GatewaySettings};
use scenario::Scenario;
use simple::{Rule, Simple};
use world::{Arrival, Balancer, Run};

pub(crate) use trace::TraceError;

/// A client gives up after so many seconds without a first token.
const PATIENCE: f64 = 300.0;

const POLICIES: [(&str, Option<Rule>); 6] = [
    ("gateway", None),
    ("random", Some(Rule::Random)),
    ("round robin", Some(Rule::RoundRobin)),
    ("least outstanding", Some(Rule::LeastOutstanding)),
    ("warm first", Some(Rule::WarmFirst)),
    ("two choices", Some(Rule::TwoChoices)),
];

pub(crate) fn main(
    trace: Option<&Path>,
    requests: usize,
    only: Option<&str>,
    seed: u64,
) -> Result<(), TraceError> {
    let mut random = fastrand::Rng::with_seed(seed);
    let rows = match trace {
        Some(path) => {
            let mut rows = trace::read(path)?;
            rows.truncate(requests);
            rows
        }
        None => scenario::synthetic(requests, &mut random),
    };
    for scenario in scenario::all() {
        if only.is_some_and(|only| only != scenario.name) {
            continue;
        }
        let workload = scenario::deal(&scenario, &rows, &mut random);
        println!("{}: {}", scenario.name, scenario.about);
        for (name, rule) in POLICIES {
            let mut balancer: Box<dyn Balancer> = match rule {
                Some(rule) => Box::new(Simple::new(rule, scenario.servers.len(), seed)),
                None => Box::new(Gateway::new(
                    scenario.servers.len(),
                    scenario.models.len(),
                    GatewaySettings {
                        slots: None,
                        first_byte: scenario.first_byte,
                    },
                )),
            };
            let began = std::time::Instant::now();
            let run = world::run(
                &scenario.servers,
                &workload,
                PATIENCE,
                &mut *balancer,
                |_| (),
            );
            report(
                name,
                &scenario,
                &workload,
                &run,
                began.elapsed().as_secs_f64(),
            );
        }
    }
    Ok(())
}

fn report(name: &str, scenario: &Scenario, workload: &[Arrival], run: &Run, took: f64) {
    let of = |client: Option<bool>| {
        let mut times: Vec<f64> = run
            .seen
            .iter()
            .zip(workload)
            .skip(workload.len() / 20)
            .filter(|(_, arrival)| client.is_none_or(|greedy| (arrival.client == 0) == greedy))
            .map(|(seen, _)| seen.first_token.unwrap_or(PATIENCE))
            .collect();
        times.sort_by(f64::total_cmp);
        let at = |part: f64| {
            times
                .get(((times.len() as f64 * part) as usize).min(times.len().saturating_sub(1)))
                .copied()
                .unwrap_or(0.0)
        };
        (at(0.5), at(0.99))
    };
    let failed = run
        .seen
        .iter()
        .filter(|seen| seen.first_token.is_none())
        .count();
    let (p50, p99) = of(if scenario.clients.len() > 1 {
        Some(false)
    } else {
        None
    });
    println!(
        "  {name:18} p50 {p50:7.2} p99 {p99:7.2} failed {:5.1} % loads {:5}  ({took:.2} s)",
        100.0 * failed as f64 / workload.len() as f64,
        run.loads
    );
}
