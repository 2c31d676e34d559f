//! `llamatower usage`: what keys have used.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::path::Path;

use clap::Args;
use jiff::Timestamp;
use jiff::tz::Offset;
use reqwest::Method;
use serde_json::Value;

use super::arguments::OperatorArguments;
use super::error::ManageError;
use super::gateway::GatewayClient;
use super::read;
use crate::status::{UsageReport, UsageRow};
use crate::usage::{Query, UsageCounts};

/// What to show of the usage.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct UsageArguments {
    /// The first day; by default 30 days with the last one.
    #[arg(long, value_name = "YYYY-MM-DD")]
    pub from: Option<String>,
    /// The last day; by default today.
    #[arg(long, value_name = "YYYY-MM-DD")]
    pub to: Option<String>,
    /// What each row stands for: `day` or `month`, `key` and `model`, with commas between; `total` for
    /// one row; by default day,key,model.
    #[arg(long, value_name = "day,key,model")]
    pub by: Option<String>,
    /// Print CSV, for spreadsheets.
    #[arg(long, conflicts_with = "json")]
    pub csv: bool,
    /// How to reach the gateway.
    #[command(flatten)]
    pub gateway: OperatorArguments,
}

const ACTION: &str = "show the usage";

/// Prints usage.
///
/// # Errors
/// The gateway cannot be asked, or a parameter is wrong.
pub(crate) async fn usage(
    arguments: &UsageArguments,
    config: Option<&Path>,
) -> Result<(), ManageError> {
    let query = arguments.query();
    // Only the days that are not given depend on the date.
    let today = Offset::UTC.to_datetime(Timestamp::now()).date();
    Query::parse(&query, today).map_err(|error| ManageError::Arguments(error.to_string()))?;
    let gateway = GatewayClient::new(None, &arguments.gateway, config)?;
    let path = format!("/status/usage?{query}");
    let page = gateway.operate(Method::GET, &path, ACTION).await?;
    let text = match (arguments.csv, arguments.gateway.json) {
        (true, _) => page.to_vec(),
        (false, true) => format!("{:#}\n", read::<Value>(&page, ACTION)?).into_bytes(),
        (false, false) => table(&read(&page, ACTION)?).into_bytes(),
    };
    Ok(io::stdout().write_all(&text)?)
}

impl UsageArguments {
    fn query(&self) -> String {
        let mut query = form_urlencoded::Serializer::new(String::new());
        for (name, value) in [("from", &self.from), ("to", &self.to), ("by", &self.by)] {
            if let Some(value) = value {
                query.append_pair(name, value);
            }
        }
        if self.csv {
            query.append_pair("format", "csv");
        }
        query.finish()
    }
}

/// The heads of the columns with numbers.
const NUMBERS: [&str; 7] = [
    "REQUESTS", "REFUSED", "FAILED", "INPUT", "OUTPUT", "SECONDS", "CLOUD",
];

/// A line for each row, one for the total, and what the reader must know.
fn table(report: &UsageReport) -> String {
    let groups = report.by.len();
    let mut rows = vec![head(report)];
    rows.extend(report.rows.iter().map(line));
    let mut total = vec![String::new(); groups];
    if let Some(first) = total.first_mut() {
        "total".clone_into(first);
    }
    total.extend(numbers(&report.total));
    if groups > 0 {
        rows.push(total);
    }
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.max().unwrap_or(0)
    };
    let widths: Vec<_> = (0..groups + NUMBERS.len()).map(width).collect();
    let mut text = String::new();
    for row in &rows {
        for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
            let gap = if column == 0 { "" } else { "  " };
            let _ = match column < groups {
                true => write!(text, "{gap}{cell:width$}"),
                false => write!(text, "{gap}{cell:>width$}"),
            };
        }
        text.truncate(text.trim_end().len());
        text.push('\n');
    }
    let _ = writeln!(
        text,
        "\n{} to {} ({}); tokens: INPUT, OUTPUT and CLOUD, which is a part of them{}{}",
        report.from,
        report.to,
        report.time_zone,
        match report.total.estimated {
            0 => String::new(),
            number => format!(
                "; the server sent no counts for {number} request{}, so {} tokens are estimated",
                if number == 1 { "" } else { "s" },
                if number == 1 { "its" } else { "their" },
            ),
        },
        match (report.is_kept, &report.problem) {
            (true, _) => String::new(),
            (false, None) => "; not kept over a restart (LLAMATOWER_STATE_DIR)".to_owned(),
            (false, Some(problem)) => format!("; not kept over a restart: {problem}"),
        }
    );
    if !report.is_complete {
        text.push_str("These are only the requests since the file could be written last.\n");
    }
    if let Some(problem) = &report.redis_problem {
        let _ = writeln!(text, "These are not the sums of all gateways: {problem}.");
    }
    text
}

fn head(report: &UsageReport) -> Vec<String> {
    let groups = report.by.iter().map(|name| name.to_uppercase());
    groups.chain(NUMBERS.map(str::to_owned)).collect()
}

fn line(row: &UsageRow) -> Vec<String> {
    let groups = [&row.day, &row.month, &row.key, &row.model];
    let groups = groups.into_iter().flatten().cloned();
    groups.chain(numbers(&row.counts)).collect()
}

fn numbers(counts: &UsageCounts) -> [String; NUMBERS.len()] {
    let cloud = counts.cloud_input_tokens + counts.cloud_output_tokens;
    [
        counts.requests.to_string(),
        counts.refused.to_string(),
        counts.failed.to_string(),
        counts.input_tokens.to_string(),
        counts.output_tokens.to_string(),
        format!("{:.1}", counts.seconds),
        cloud.to_string(),
    ]
}
