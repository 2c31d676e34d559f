//! The figures as a table for people and as JSON for scripts.

use std::fmt::Write as _;

use serde::Serialize;

use super::figures::{Figures, GOOD, WARM_UP};
use super::policy::PolicyKind;
use super::scenario::Scenario;
use super::{PATIENCE, trace};
use crate::commands::arguments::SimulateArguments;

/// The figures of all scenarios.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    seed: u64,
    /// The file name of the trace; `None` for made-up requests.
    trace: Option<String>,
    requests: usize,
    /// The part of the arrivals that is not counted.
    warm_up: f64,
    patience_seconds: f64,
    good_seconds: f64,
    pub(super) scenarios: Vec<ScenarioReport>,
}

/// The figures of one scenario.
#[derive(Debug, Serialize)]
pub(super) struct ScenarioReport {
    name: &'static str,
    about: &'static str,
    servers: usize,
    models: usize,
    first_byte_seconds: Option<f64>,
    policies: Vec<PolicyReport>,
}

/// The figures of one policy.
#[derive(Debug, Serialize)]
struct PolicyReport {
    policy: &'static str,
    first_token_p50_seconds: f64,
    first_token_p99_seconds: f64,
    failed_percent: f64,
    goodput_percent: f64,
    loads: usize,
    swaps: usize,
    worst_client_p99_seconds: f64,
}

impl Report {
    /// A report without scenarios.
    pub(super) fn new(arguments: &SimulateArguments, requests: usize) -> Self {
        Self {
            seed: arguments.seed,
            trace: arguments.trace.as_deref().map(trace::file_name),
            requests,
            warm_up: WARM_UP,
            patience_seconds: PATIENCE,
            good_seconds: GOOD,
            scenarios: Vec::new(),
        }
    }

    /// What all scenarios have in common.
    pub(super) fn header(&self) -> String {
        let source = match &self.trace {
            Some(file) => format!("requests of {file}"),
            None => "made-up requests".to_owned(),
        };
        format!(
            "{} {source}, seed {}. The first {} % of them are not counted. p50 and p99 are those of the time\n\
             to the first token in seconds; a request that fails or whose client gives up counts as {} s.\n\
             good: the part of all requests with a first token within {} s.\n",
            self.requests,
            self.seed,
            100.0 * self.warm_up,
            self.patience_seconds,
            self.good_seconds,
        )
    }

    /// All of it as JSON.
    pub(super) fn json(&self) -> String {
        // It has no map with keys that are no strings, so it cannot fail.
        let json = serde_json::to_string_pretty(self).unwrap_or_default();
        json + "\n"
    }
}

impl ScenarioReport {
    /// A report without policies.
    pub(super) fn new(scenario: &Scenario, first_byte: Option<f64>) -> Self {
        Self {
            name: scenario.name,
            about: scenario.about,
            servers: scenario.servers.len(),
            models: scenario.models,
            first_byte_seconds: first_byte,
            policies: Vec::new(),
        }
    }

    /// Adds the figures of a policy.
    pub(super) fn add(&mut self, policy: &'static str, figures: &Figures) {
        self.policies.push(PolicyReport {
            policy,
            first_token_p50_seconds: rounded(figures.percentile(0.5)),
            first_token_p99_seconds: rounded(figures.percentile(0.99)),
            failed_percent: rounded(figures.failed),
            goodput_percent: rounded(figures.goodput),
            loads: figures.loads,
            swaps: figures.swaps,
            worst_client_p99_seconds: rounded(figures.worst_client_p99),
        });
    }

    /// The figures as a table.
    pub(super) fn table(&self) -> String {
        let mut text = format!("\n{}: {}", self.name, self.about);
        if let Some(seconds) = self.first_byte_seconds {
            write!(text, " of {seconds} s").ok();
        }
        write!(
            text,
            "\n  {:18}{:>8}{:>9}{:>10}{:>9}{:>8}{:>7}{:>18}\n",
            "policy", "p50", "p99", "failed", "good", "loads", "swaps", "worst client p99"
        )
        .ok();
        for row in &self.policies {
            writeln!(
                text,
                "  {:18}{:8.2}{:9.2}{:8.1} %{:7.1} %{:8}{:7}{:18.2}",
                row.policy,
                row.first_token_p50_seconds,
                row.first_token_p99_seconds,
                row.failed_percent,
                row.goodput_percent,
                row.loads,
                row.swaps,
                row.worst_client_p99_seconds,
            )
            .ok();
        }
        text
    }
}

/// To thousandths.
fn rounded(value: f64) -> f64 {
    (1000.0 * value).round() / 1000.0
}

/// The names of scenarios and policies.
pub(super) fn list(scenarios: &[Scenario], policies: &[PolicyKind]) -> String {
    let scenarios = scenarios.iter().map(|one| (one.name, one.about));
    let policies = policies.iter().map(|one| (one.name, one.about));
    let mut text = String::new();
    for (title, rows) in [
        ("scenarios", scenarios.collect::<Vec<_>>()),
        ("policies", policies.collect()),
    ] {
        writeln!(text, "{title}:").ok();
        for (name, about) in rows {
            writeln!(text, "  {name:18}{about}").ok();
        }
    }
    text
}
