//! `/status/usage`: what keys have used, as JSON or CSV.

use std::sync::Arc;

use foldhash::HashMap;
use http::header::CONTENT_DISPOSITION;
use http::{HeaderValue, StatusCode};

use super::answer::{self, Answer};
use crate::shared::SharedUsage;
use crate::state::{Counts, State, UsageKey, add};
use crate::status::UsageReport;
use crate::usage::{Format, Query, QueryError, to_csv};

/// The usage in Redis, and whether it has all of this gateway's; or why it is not known.
type SharedRows = Result<(HashMap<UsageKey, Counts>, bool), String>;

/// Why usage in Redis is not that of all gateways.
const LOST: &str = "Redis has less usage of these days than this gateway has counted: its data were lost, or \
                    gateways share it only since then; what other gateways have counted before is missing";

/// The response to a query. It reads the file on a thread that may block.
pub(super) async fn answer(
    state: Arc<State>,
    shared: Option<SharedUsage>,
    query: String,
) -> Answer {
    let query = match Query::parse(&query, state.today()) {
        Ok(query) => query,
        Err(error) => return refused(&error),
    };
    let shared = match shared {
        Some(shared) => Some(of_all(&shared, &state, &query).await),
        None => None,
    };
    let answering = tokio::task::spawn_blocking(move || {
        let answer = of(&query, &state, shared);
        answer.unwrap_or_else(|error| refused(&error))
    });
    let internal = |_| answer::refusal(StatusCode::INTERNAL_SERVER_ERROR, "500 internal error");
    answering.await.unwrap_or_else(internal)
}

/// The usage in Redis, and whether it has all of this gateway's; or why it is not known.
async fn of_all(shared: &SharedUsage, state: &Arc<State>, query: &Query) -> SharedRows {
    let (state, from, to) = (state.clone(), query.from, query.to);
    // Read before Redis is: all of it is on its way to Redis then.
    let reading = move || {
        let mut own: HashMap<UsageKey, Counts> = HashMap::default();
        // What cannot be read is told later.
        let _ = state.usage(from, to, |day, key, model, counts| {
            let (key, model) = (key.into(), model.into());
            add(own.entry(UsageKey { day, key, model }).or_default(), counts);
        });
        own
    };
    let own = tokio::task::spawn_blocking(reading).await;
    let own = own.map_err(|error| error.to_string())?;
    let rows = shared.of_days(from, to).await;
    let rows = rows.map_err(|error| error.to_string())?;
    let is_there = |(row, own): (&UsageKey, &Counts)| {
        let of_all = rows.get(row).copied().unwrap_or_default();
        own.iter().zip(of_all).all(|(own, of_all)| *own <= of_all)
    };
    let has_all = own.iter().all(is_there);
    Ok((rows, has_all))
}

fn of(query: &Query, state: &State, shared: Option<SharedRows>) -> Result<Answer, QueryError> {
    let (rows, problem) = match shared {
        Some(Ok((rows, true))) => (Some(rows), None),
        Some(Ok((rows, false))) => (Some(rows), Some(LOST.to_owned())),
        Some(Err(problem)) => (None, Some(problem)),
        None => (None, None),
    };
    let is_of_all = rows.is_some() && problem.is_none();
    let (sums, is_complete) = query.sums(state, rows)?;
    match query.format {
        Format::Json => {
            let mut report = UsageReport::new(query, &sums, is_complete, state);
            (report.is_of_all_gateways, report.redis_problem) = (is_of_all, problem);
            Ok(answer::json(&report))
        }
        // It has no place for a note.
        Format::Csv if !is_complete => {
            let reason = state.health().problem.unwrap_or_default();
            Err(QueryError::Unreadable(reason))
        }
        Format::Csv if problem.is_some() => {
            Err(QueryError::OfOneGateway(problem.unwrap_or_default()))
        }
        Format::Csv => {
            let text = to_csv(query, &sums).map_err(QueryError::Unreadable)?;
            let mut answer = answer::page("text/csv; charset=utf-8; header=present", text);
            let name = format!(
                "attachment; filename=\"llamatower-usage-{}-{}.csv\"",
                query.from, query.to
            );
            if let Ok(name) = HeaderValue::try_from(name) {
                answer.headers_mut().insert(CONTENT_DISPOSITION, name);
            }
            Ok(answer)
        }
    }
}

fn refused(error: &QueryError) -> Answer {
    let status = match error {
        QueryError::Parameter { .. } | QueryError::TooManyRows => StatusCode::BAD_REQUEST,
        QueryError::Unreadable(_) | QueryError::OfOneGateway(_) => StatusCode::SERVICE_UNAVAILABLE,
    };
    answer::refusal(status, format!("{} {error}", status.as_u16()))
}
