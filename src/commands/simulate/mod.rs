//! `llamatower simulate`: the routing policy and the queue of the gateway on virtual time, before
//! simulated servers, beside simple policies and a central queue that knows all work.
//!
//! The same seed gives the same output, byte for byte. Nothing depends on the time of the day, and
//! nothing on the order of hash maps, whose hashes are different in each process.

mod central;
mod error;
mod figures;
mod gateway;
mod plot;
mod policy;
mod prefix;
mod report;
mod scenario;
mod server;
mod simple;
mod trace;
mod workload;
mod world;

#[cfg(test)]
mod tests;

use std::io::Write;

use indicatif::{ProgressBar, ProgressStyle};
use llamatower_sim::comparison::PATIENCE;

use crate::commands::arguments::SimulateArguments;
use figures::Figures;
use policy::PolicyKind;
use report::{Report, ScenarioReport};
use scenario::Scenario;
use trace::Row;
use world::Arrival;

pub(crate) use error::SimulateError;

/// The number of requests that are made up if no number is given.
const REQUESTS: u32 = 5000;

/// Runs the scenarios of the arguments, and writes their figures to `out`.
///
/// # Errors
/// An argument is wrong, the trace cannot be read, or the results cannot be written. All arguments
/// are checked before the first run.
pub(crate) fn run(arguments: &SimulateArguments, out: &mut dyn Write) -> Result<(), SimulateError> {
    let scenarios = select(
        scenario::all(),
        &arguments.scenario,
        |scenario| scenario.name,
        SimulateError::UnknownScenario,
    )?;
    let policies = select(
        policy::ALL.to_vec(),
        &arguments.policy,
        |policy| policy.name,
        SimulateError::UnknownPolicy,
    )?;
    if arguments.list {
        return Ok(out.write_all(report::list(&scenarios, &policies).as_bytes())?);
    }
    let rows = match &arguments.trace {
        Some(file) => trace::read(file)?,
        None => {
            let count = arguments.requests.unwrap_or(REQUESTS) as usize;
            workload::synthetic(count, &mut fastrand::Rng::with_seed(arguments.seed))
        }
    };
    let rows = match arguments.requests {
        Some(count) => workload::part(&rows, count as usize),
        None => rows,
    };
    if let Some(dir) = &arguments.svg {
        plot::create_dir(dir)?;
    }
    let mut report = Report::new(arguments, rows.len());
    if !arguments.json {
        out.write_all(report.header().as_bytes())?;
    }
    let bar = progress_bar(scenarios.len() * policies.len() * rows.len());
    for scenario in scenarios {
        let scenario = match arguments.servers {
            Some(count) => scenario.with_servers(count as usize),
            None => scenario,
        };
        let (done, plot) = simulate(&scenario, &policies, &rows, arguments.seed, &bar);
        if let Some(dir) = &arguments.svg {
            plot.write(dir)?;
        }
        if !arguments.json {
            bar.suspend(|| out.write_all(done.table().as_bytes()))?;
        }
        report.scenarios.push(done);
    }
    bar.finish_and_clear();
    if arguments.json {
        out.write_all(report.json().as_bytes())?;
    }
    Ok(out.flush()?)
}

/// Runs one scenario with each policy.
fn simulate(
    scenario: &Scenario,
    policies: &[PolicyKind],
    rows: &[Row],
    seed: u64,
    bar: &ProgressBar,
) -> (ScenarioReport, plot::Plot) {
    let trial = Trial::new(scenario, rows, seed);
    let mut report = ScenarioReport::new(scenario, trial.first_byte);
    let mut plot = plot::Plot::new(scenario.name, scenario.about);
    for policy in policies {
        bar.set_message(format!("{}, {}", scenario.name, policy.name));
        let begin = bar.position();
        let figures = trial.run(policy, |arrived| bar.set_position(begin + arrived as u64));
        plot.add(policy.name, &figures);
        report.add(policy.name, &figures);
    }
    (report, plot)
}

/// A scenario with its requests.
struct Trial<'a> {
    scenario: &'a Scenario,
    workload: Vec<Arrival>,
    /// Seconds of the first-byte clock, if there is one.
    first_byte: Option<f64>,
    seed: u64,
}

impl<'a> Trial<'a> {
    fn new(scenario: &'a Scenario, rows: &[Row], seed: u64) -> Self {
        let workload = workload::deal(scenario, rows, seed);
        let longest = workload.iter().map(|arrival| arrival.prompt_tokens).max();
        Self {
            scenario,
            first_byte: scenario.first_byte_clock(longest.unwrap_or(0)),
            workload,
            seed,
        }
    }

    fn run(&self, policy: &PolicyKind, progress: impl FnMut(usize)) -> Figures {
        let mut balancer = policy.balancer(self.scenario, self.first_byte, self.seed);
        let fleet = self.scenario.fleet();
        let run = world::run(fleet, &self.workload, PATIENCE, &mut *balancer, progress);
        Figures::of(self.scenario, &self.workload, &run)
    }
}

/// Those of `all` that are named, or all.
fn select<T>(
    all: Vec<T>,
    names: &[String],
    name_of: impl Fn(&T) -> &'static str,
    unknown: impl Fn(String, String) -> SimulateError,
) -> Result<Vec<T>, SimulateError> {
    let is_known = |name: &&String| all.iter().any(|one| name_of(one) == name.as_str());
    if let Some(wrong) = names.iter().find(|name| !is_known(name)) {
        let known: Vec<_> = all.iter().map(name_of).collect();
        return Err(unknown(wrong.clone(), known.join(", ")));
    }
    let is_wanted = |one: &T| names.is_empty() || names.iter().any(|name| name == name_of(one));
    Ok(all.into_iter().filter(is_wanted).collect())
}

/// It is shown only on a terminal.
fn progress_bar(requests: usize) -> ProgressBar {
    let bar = ProgressBar::new(requests as u64);
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {percent:>3} %, {eta} left: {msg}") {
        bar.set_style(style);
    }
    bar
}
