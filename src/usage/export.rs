//! Usage as CSV.

use super::{Query, Sums, SumsKey, UsageCounts};

/// The names of the columns after those of the groups.
const COUNTS: [&str; 10] = [
    "requests",
    "refused",
    "failed",
    "input_tokens",
    "output_tokens",
    "estimated",
    "seconds",
    "cloud_requests",
    "cloud_input_tokens",
    "cloud_output_tokens",
];

/// A line with the names of the columns, and a line for each row (RFC 4180).
///
/// Spreadsheets run a cell that begins with one of these characters as a formula: `=`, `+`, `-`, `@`, tab,
/// carriage return. Such a name gets an apostrophe before it.
///
/// # Errors
/// The text cannot be written, which does not happen in memory.
pub fn to_csv(query: &Query, sums: &Sums) -> Result<Vec<u8>, String> {
    let mut writer = csv::WriterBuilder::new()
        .terminator(csv::Terminator::CRLF)
        .from_writer(Vec::new());
    let head = query.by.names().into_iter().chain(COUNTS);
    let write = |writer: &mut csv::Writer<Vec<u8>>, line: Vec<String>| {
        writer
            .write_record(&line)
            .map_err(|error| error.to_string())
    };
    write(&mut writer, head.map(str::to_owned).collect())?;
    for (row, counts) in sums {
        write(&mut writer, cells(row, &UsageCounts::of_array(counts)))?;
    }
    writer.into_inner().map_err(|error| error.to_string())
}

fn cells(row: &SumsKey, counts: &UsageCounts) -> Vec<String> {
    let names = [&row.period, &row.key, &row.model];
    let names = names.into_iter().flatten().map(|name| harmless(name));
    let numbers = [
        counts.requests.to_string(),
        counts.refused.to_string(),
        counts.failed.to_string(),
        counts.input_tokens.to_string(),
        counts.output_tokens.to_string(),
        counts.estimated.to_string(),
        counts.seconds.to_string(),
        counts.cloud_requests.to_string(),
        counts.cloud_input_tokens.to_string(),
        counts.cloud_output_tokens.to_string(),
    ];
    names.chain(numbers).collect()
}

/// The name, so that no spreadsheet takes it for a formula.
fn harmless(name: &str) -> String {
    match name.starts_with(['=', '+', '-', '@', '\t', '\r']) {
        true => format!("'{name}"),
        false => name.to_owned(),
    }
}
