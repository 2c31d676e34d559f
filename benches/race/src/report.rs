//! The table of the report, in Markdown.

use std::fmt::Write as _;

use crate::{
    contenders::BASE,
    figures::{Figures, median},
};

/// The line of the central queue that knows all work.
pub(crate) const ORACLE: &str = "oracle";
/// The scenario of the healthy servers alone.
const HEALTHY: &str = "healthy";
/// The scenarios that compare with it.
const WITH_FAULTS: [&str; 3] = ["busy", "broken", "hang"];

/// The figures of a contender in a scenario and a round.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    pub(crate) scenario: &'static str,
    pub(crate) contender: &'static str,
    pub(crate) round: usize,
    pub(crate) figures: Figures,
}

/// The samples of all rounds.
#[derive(Debug, Default)]
pub(crate) struct Report {
    pub(crate) samples: Vec<Sample>,
    /// The names and titles of the measured scenarios.
    pub(crate) scenarios: Vec<(&'static str, &'static str)>,
    /// Sentences about what was measured, and what was not.
    pub(crate) notes: Vec<String>,
}

type Figure = fn(&Figures) -> f64;

impl Report {
    fn of<'a>(&'a self, scenario: &'a str, contender: &'a str) -> impl Iterator<Item = &'a Sample> {
        let is_it = move |one: &&Sample| one.scenario == scenario && one.contender == contender;
        self.samples.iter().filter(is_it)
    }

    /// The median of a figure, and its range if there is more than one round.
    fn cell(&self, scenario: &str, contender: &str, figure: Figure, digits: usize) -> String {
        let values = self.of(scenario, contender).map(|one| figure(&one.figures));
        text(values.collect(), digits)
    }

    /// A figure as a multiple of that of another line in the same round.
    fn ratio(&self, of: (&str, &str), to: (&str, &str), figure: Figure) -> String {
        let ratios = self.of(of.0, of.1).filter_map(|one| {
            let base = self.of(to.0, to.1).find(|base| base.round == one.round)?;
            Some(figure(&one.figures) / figure(&base.figures))
        });
        text(ratios.filter(|ratio| ratio.is_finite()).collect(), 2)
    }

    /// The report, as Markdown.
    pub(crate) fn page(&self) -> String {
        let mut page = String::new();
        for note in &self.notes {
            let _ = writeln!(page, "{note}\n");
        }
        for (name, title) in &self.scenarios {
            page.push_str(&self.table(name, title));
        }
        page
    }

    fn table(&self, scenario: &str, title: &str) -> String {
        let mut contenders: Vec<&str> = Vec::new();
        for sample in self.samples.iter().filter(|one| one.scenario == scenario) {
            if !contenders.contains(&sample.contender) {
                contenders.push(sample.contender);
            }
        }
        let has_faults = WITH_FAULTS.contains(&scenario);
        let alone = if has_faults {
            " p99 × without the faulty server |"
        } else {
            ""
        };
        let mut table = format!(
            "### {scenario}: {title}\n\n\
             | | p50 s | p99 s | failed % | swaps | p50 × nginx | p99 × nginx | p50 × oracle | p99 × oracle |{alone} CPU ms/request |\n\
             |---|---|---|---|---|---|---|---|---|{}---|\n",
            if has_faults { "---|" } else { "" },
        );
        for contender in contenders {
            let cell = |figure, digits| self.cell(scenario, contender, figure, digits);
            let ratio = |to, figure| self.ratio((scenario, contender), (scenario, to), figure);
            let p50: Figure = |figures| figures.p50;
            let p99: Figure = |figures| figures.p99;
            let _ = write!(
                table,
                "| {contender} | {} | {} | {} | {} | {} | {} | {} | {} |",
                cell(p50, 2),
                cell(p99, 1),
                cell(|figures| figures.failed, 1),
                cell(|figures| figures.swaps as f64, 0),
                ratio(BASE, p50),
                ratio(BASE, p99),
                ratio(ORACLE, p50),
                ratio(ORACLE, p99),
            );
            if has_faults {
                let alone = self.ratio((scenario, contender), (HEALTHY, contender), p99);
                let _ = write!(table, " {alone} |");
            }
            let cpu = self.of(scenario, contender);
            let cpu = cpu.filter_map(|one| one.figures.cpu).collect();
            let _ = writeln!(table, " {} |", text(cpu, 2));
        }
        table.push('\n');
        table
    }
}

/// The median of values, and their range.
fn text(values: Vec<f64>, digits: usize) -> String {
    let least = values.iter().copied().reduce(f64::min);
    let most = values.iter().copied().reduce(f64::max);
    let rounds = values.len();
    match (median(values), least, most) {
        (Some(median), Some(least), Some(most)) if rounds > 1 => {
            format!("{median:.digits$} ({least:.digits$}–{most:.digits$})")
        }
        (Some(median), ..) => format!("{median:.digits$}"),
        _ => "–".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_of_the_same_round() {
        let figures = |p99| Figures {
            p50: 1.0,
            p99,
            failed: 0.0,
            swaps: 0,
            cpu: None,
        };
        let sample = |contender, round, p99| Sample {
            scenario: "skew",
            contender,
            round,
            figures: figures(p99),
        };
        let report = Report {
            samples: vec![
                sample(BASE, 0, 10.0),
                sample("llamatower", 0, 5.0),
                sample(BASE, 1, 4.0),
                sample("llamatower", 1, 4.0),
            ],
            scenarios: vec![("skew", "servers")],
            notes: Vec::new(),
        };
        let page = report.page();
        assert!(
            page.contains("| llamatower | 1.00 (1.00–1.00) | 4.5 (4.0–5.0) |"),
            "{page}"
        );
        assert!(page.contains("| 0.75 (0.50–1.00) |"), "{page}");
    }
}
