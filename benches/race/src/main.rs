//! Compares how well proxies route requests to the same fleet of simulated Ollama servers.
//!
//! ```text
//!  a trace, stretched ──HTTP──▶ the proxy ──HTTP──▶ simulated servers that compute, load and cache
//! ```
//!
//! Clients send the requests of a trace when they are due (an open loop), whether or not earlier
//! ones have an answer. The gaps between the requests are stretched by one factor, so that the
//! requests use 70 % of the capacity of the healthy servers (50 % in `models`, where loads take much
//! of the rest). Servers compute as long as prompt and
//! answer ask (4,000 tokens of a prompt, 2,000 in `prefix`, and 40 tokens of an answer in a second, at speed 1), serve
//! four requests at once, have room for one model, load in order of arrival, and wait for an idle
//! model before they unload it. Everything runs 20 times faster than real time; the figures are in
//! seconds of the model. The times that proxies have inside of them are real time, except the
//! time-out of the first byte where a scenario is about it, nginx's `fail_timeout`, the interval of
//! ollama-herd's reports, and the gateway's interval of probes and its ageing.
//!
//! | Figure | Meaning |
//! |---|---|
//! | p50, p99 | time from a request's arrival to its first token, over all arrivals; a request without a complete answer counts as 300 s, the patience of a client |
//! | failed | requests without a complete answer |
//! | swaps | loads by a server after its first one, also those that were given up |
//! | × nginx | the figure as a multiple of nginx's (`least_conn`) in the same round |
//! | × oracle | the same for a central queue that knows all work, computed in virtual time |
//! | × without the faulty server | the same for the contender itself in the scenario `healthy` |
//! | CPU | of all processes of the proxy, for each request; machine-dependent |
//!
//! Figures of `greedy` and `newcomers` are those of all clients but the greedy one. The answers'
//! lengths are not in the requests, so proxies must estimate them.
//!
//! `cargo run --release -p llamatower-race -- --trace conversations.csv --trace prefixes.jsonl`
//! runs everything; `--help` shows how to run a part.

mod client;
mod contenders;
mod figures;
mod fleet;
mod oracle;
mod prompt;
mod report;
mod running;
mod scenario;
mod trace;

use std::{
    path::PathBuf,
    process::{Command, ExitCode},
    time::Duration,
};

use clap::Parser;
use llamatower_proxies::{Error, build_gateway, until_terminated};
use tokio::runtime::{Builder, Handle};

use crate::{
    client::Client,
    contenders::Contender,
    figures::{Figures, Outcome},
    fleet::Fleet,
    report::{ORACLE, Report, Sample},
    scenario::{Length, Scenario},
    trace::Trace,
};

/// Compares how well proxies route requests to the same fleet of simulated Ollama servers.
#[derive(Debug, Parser)]
#[command(name = "llamatower-race", version)]
struct Args {
    /// A trace of requests: a CSV file of the Azure Public Dataset, or a .jsonl file of Mooncake.
    /// The first one is used for all scenarios but `prefix`, which needs one with prefixes.
    #[arg(long, required = true)]
    trace: Vec<PathBuf>,
    /// Number of rounds; each one uses another part of the trace.
    #[arg(long, default_value_t = 1)]
    rounds: usize,
    /// Seconds of arrivals, in time of the model.
    #[arg(long, default_value_t = 600.0)]
    seconds: f64,
    /// How many times faster than real time to run.
    #[arg(long, default_value_t = 20.0)]
    speed: f64,
    /// Comma-separated list of scenarios [default: all].
    #[arg(long, value_delimiter = ',', value_parser = scenario::NAMES)]
    scenario: Vec<String>,
    /// Comma-separated list of contenders [default: all installed ones but llamatower+slots].
    #[arg(long, value_delimiter = ',', value_parser = contenders::NAMES)]
    contender: Vec<String>,
    /// The gateway's binary; by default it is built from this workspace.
    #[arg(long)]
    gateway: Option<PathBuf>,
    /// A second gateway binary to compare with, as `llamatower-base`.
    #[arg(long)]
    gateway_base: Option<PathBuf>,
    /// A setting NAME=VALUE of the contender `llamatower+set`; can be repeated.
    #[arg(long, value_parser = setting)]
    gateway_set: Vec<(String, String)>,
    /// The program `ollamaMQ`, if it is not in PATH.
    #[arg(long)]
    ollama_mq: Option<PathBuf>,
    /// The program `herd` of ollama-herd (`herd-node` is beside it), if it is not in PATH.
    #[arg(long)]
    ollama_herd: Option<PathBuf>,
    /// A directory for the output of the proxies.
    #[arg(long)]
    logs: Option<PathBuf>,
}

fn setting(text: &str) -> Result<(String, String), String> {
    let parts = text.split_once('=').ok_or("expected NAME=VALUE")?;
    Ok((parts.0.to_owned(), parts.1.to_owned()))
}

fn main() -> ExitCode {
    match start(Args::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("llamatower-race: {error}");
            ExitCode::FAILURE
        }
    }
}

fn start(mut args: Args) -> Result<ExitCode, Error> {
    if !(args.speed > 0.0 && args.seconds > 0.0) {
        return Err("--speed and --seconds must be above 0".into());
    }
    let traces = args.trace.iter().map(|file| Trace::read(file));
    let traces = traces.collect::<Result<Vec<_>, _>>()?;
    let needs_gateway = args.contender.is_empty()
        || args
            .contender
            .iter()
            .any(|name| name.starts_with("llamatower"));
    if args.gateway.is_none() && needs_gateway {
        args.gateway = Some(build_gateway()?);
    }
    let runs_first = run_first();
    // The servers have a thread of their own, so that clients are not late because of them.
    let servers = Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?;
    let clients = Builder::new_current_thread().enable_all().build()?;
    let comparison = compare(&args, &traces, servers.handle(), runs_first);
    clients.block_on(until_terminated(comparison))
}

/// Lets this process, and the proxies that it starts, run before other processes of the machine,
/// which would delay clients and servers. All of them together need little CPU time.
fn run_first() -> bool {
    let id = std::process::id().to_string();
    let command = Command::new("chrt")
        .args(["--rr", "--all-tasks", "--pid", "1", &id])
        .output();
    command.is_ok_and(|output| output.status.success())
}

async fn compare(
    args: &Args,
    traces: &[Trace],
    servers: &Handle,
    runs_first: bool,
) -> Result<(), Error> {
    let (contenders, mut notes) = contenders::find(args);
    let mut report = Report::default();
    let versions: Vec<_> = contenders
        .iter()
        .map(|one| format!("{} {}", one.name, one.version))
        .collect();
    let names: Vec<_> = traces.iter().map(|trace| trace.name.as_str()).collect();
    report.notes.push(format!(
        "{} round(s) of {} s, at {} times the speed of time. Traces: {}. Contenders: {}.",
        args.rounds,
        args.seconds,
        args.speed,
        names.join(", "),
        versions.join(", "),
    ));
    if !runs_first {
        notes.push(
            "Other processes may have delayed the proxies (`chrt --rr` is not allowed).".into(),
        );
    }
    for round in 0..args.rounds {
        for name in scenario::NAMES {
            if !args.scenario.is_empty() && !args.scenario.iter().any(|wanted| wanted == name) {
                continue;
            }
            let length = Length {
                seconds: args.seconds,
                round,
            };
            let Some(scenario) = Scenario::named(name, traces, length) else {
                notes.push(format!(
                    "{name} needs a trace with prefixes and was left out."
                ));
                continue;
            };
            if round == 0 {
                report.scenarios.push((name, scenario.title));
            }
            measure(
                args,
                &scenario,
                round,
                &contenders,
                servers,
                &mut report,
                &mut notes,
            )
            .await;
        }
    }
    notes.sort();
    notes.dedup();
    report.notes.extend(notes);
    println!("{}", report.page());
    Ok(())
}

/// Runs a scenario with all contenders.
async fn measure(
    args: &Args,
    scenario: &Scenario,
    round: usize,
    contenders: &[Contender],
    servers: &Handle,
    report: &mut Report,
    notes: &mut Vec<String>,
) {
    for contender in contenders {
        match run(args, scenario, Some(contender), servers).await {
            Ok(figures) => report.samples.push(Sample {
                scenario: scenario.name,
                contender: contender.name,
                round,
                figures,
            }),
            Err(why) => {
                eprintln!("{}: {}: {why}", scenario.name, contender.name);
                notes.push(format!(
                    "{}: {} failed: {why}",
                    scenario.name, contender.name
                ));
            }
        }
    }
    let oracle = oracle::best(scenario);
    let outcomes = oracle.first.iter().map(|first| Outcome {
        first: Some(*first),
        failure: None,
    });
    let outcomes: Vec<_> = outcomes.collect();
    let figures = Figures::of(scenario, &outcomes, oracle.swaps, None);
    log(scenario, ORACLE, &figures, "");
    report.samples.push(Sample {
        scenario: scenario.name,
        contender: ORACLE,
        round,
        figures,
    });
}

/// Runs a scenario with a contender, or without a proxy on its first server.
async fn run(
    args: &Args,
    scenario: &Scenario,
    contender: Option<&Contender>,
    servers: &Handle,
) -> Result<Figures, Error> {
    let fleet = Fleet::start(scenario, args.speed, servers).await?;
    let addresses = fleet.addresses();
    let running = match contender {
        Some(contender) => Some(contender.start(scenario, &addresses, args.speed).await?),
        None => None,
    };
    // Probes of the servers have ended, and start-up costs no CPU time any more.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let cpu = || running.as_ref().map(running::Running::cpu).transpose();
    let before = cpu()?;
    let target = running.as_ref().map_or(addresses[0], |one| one.address);
    let driven = client::drive(scenario, &Client::new(target), args.speed).await?;
    let used = cpu()?
        .zip(before)
        .map(|(now, before)| now.saturating_sub(before));
    let figures = Figures::of(scenario, &driven.outcomes, fleet.swaps(), used);
    let name = contender.map_or("direct", |contender| contender.name);
    let why = failures(&driven.outcomes);
    let aborted = match fleet.aborted_loads() {
        0 => String::new(),
        loads => format!(", {loads} loads were given up"),
    };
    let late = format!(
        ", requests were up to {:.3} s late{aborted}{why}",
        driven.late
    );
    log(scenario, name, &figures, &late);
    if let (Some(to), Some(running)) = (&args.logs, &running) {
        running.keep_output(&to.join(scenario.name).join(name))?;
    }
    Ok(figures)
}

/// Why requests failed, the most frequent reasons first.
fn failures(outcomes: &[Outcome]) -> String {
    let mut reasons: Vec<(usize, &str)> = Vec::new();
    for failure in outcomes
        .iter()
        .filter_map(|outcome| outcome.failure.as_deref())
    {
        match reasons.iter_mut().find(|(_, reason)| *reason == failure) {
            Some((count, _)) => *count += 1,
            None => reasons.push((1, failure)),
        }
    }
    reasons.sort_unstable_by(|a, b| b.cmp(a));
    let reasons = reasons.iter().take(3);
    reasons
        .map(|(count, reason)| format!(", {count} x {reason}"))
        .collect()
}

/// Reports progress.
fn log(scenario: &Scenario, contender: &str, figures: &Figures, more: &str) {
    eprintln!(
        "{:>9} {contender:<16} p50 {:7.2} s, p99 {:7.2} s, {:5.1} % failed, {} swaps, {} requests{more}",
        scenario.name,
        figures.p50,
        figures.p99,
        figures.failed,
        figures.swaps,
        scenario.jobs.len(),
    );
}

#[cfg(test)]
mod tests;
