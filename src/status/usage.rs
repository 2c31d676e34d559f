//! Usage by key, model and day.

use serde::{Deserialize, Serialize};

use crate::state::{Health, State};
use crate::usage::{Query, Sums, UsageCounts};

/// The document `/status/usage`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct UsageReport {
    /// The first day.
    pub from: String,
    /// The last day.
    pub to: String,
    /// The time zone of the days.
    pub time_zone: String,
    /// What each row stands for: of `day`, `month`, `key` and `model`.
    pub by: Vec<String>,
    /// Whether usage is kept over a restart of this gateway.
    pub is_kept: bool,
    /// Why it is not kept although a directory is set; null if all is well.
    pub problem: Option<String>,
    /// Whether all that was counted is in the rows. It is not while the file cannot be opened after a
    /// failed write: then they have only what is not written yet.
    #[serde(default = "yes")]
    pub is_complete: bool,
    /// Whether the rows are of all gateways that share usage through Redis. They are not while Redis does not
    /// answer, or if it has lost usage of these days.
    #[serde(default)]
    pub is_of_all_gateways: bool,
    /// Why they are not of all gateways although Redis is used; null if all is well.
    #[serde(default)]
    pub redis_problem: Option<String>,
    /// The rows with any requests, in the order of day, key and model.
    pub rows: Vec<UsageRow>,
    /// The sum of the rows.
    pub total: UsageCounts,
}

/// The usage of one key, model and day, or of several together.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct UsageRow {
    /// The day, like `2026-11-30`; null if the row stands for several.
    pub day: Option<String>,
    /// The month, like `2026-11`; null if rows are not by month.
    pub month: Option<String>,
    /// The name of the key; `anonymous` for all requests without one; null if the row stands for
    /// several.
    pub key: Option<String>,
    /// The model that answered; `other` for names that no server has; null if the row stands for
    /// several.
    pub model: Option<String>,
    /// The counts.
    #[serde(flatten)]
    pub counts: UsageCounts,
}

/// Whether usage, token windows and cordons are kept over a restart.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(!default))]
pub struct StateFile {
    /// Whether there is a file, and changes can be written to it.
    pub is_kept: bool,
    /// The file; null if everything is in memory only.
    pub file: Option<String>,
    /// Why there is no file although a directory is set, or why changes cannot be written to it.
    pub problem: Option<String>,
    /// The time of the last write.
    pub written_at: Option<String>,
}

impl UsageReport {
    /// The document for a query.
    pub fn new(query: &Query, sums: &Sums, is_complete: bool, state: &State) -> Self {
        let mut total = [0; crate::state::COUNTS];
        let rows = sums.iter().map(|(row, counts)| {
            crate::state::add(&mut total, counts);
            let (day, month) = query.by.split_period(row.period.clone());
            UsageRow {
                day,
                month,
                key: row.key.clone(),
                model: row.model.clone(),
                counts: UsageCounts::of_array(counts),
            }
        });
        let rows = rows.collect();
        let health = state.health();
        let zone = state.zone().iana_name().unwrap_or("UTC");
        Self {
            from: query.from.to_string(),
            to: query.to.to_string(),
            time_zone: zone.to_owned(),
            by: query.by.names().into_iter().map(str::to_owned).collect(),
            is_kept: health.is_kept(),
            problem: health.problem,
            is_complete,
            is_of_all_gateways: false,
            redis_problem: None,
            rows,
            total: UsageCounts::of_array(&total),
        }
    }
}

/// A gateway of an earlier version answers only with all of it.
fn yes() -> bool {
    true
}

impl From<&Health> for StateFile {
    fn from(health: &Health) -> Self {
        Self {
            is_kept: health.is_kept(),
            file: health.file.as_ref().map(|file| file.display().to_string()),
            problem: health.problem.clone(),
            written_at: health.written_at.map(|time| time.to_string()),
        }
    }
}
