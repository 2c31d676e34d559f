//! `/status/usage`: what keys have used, as JSON or CSV.

use std::sync::Arc;

use http::header::CONTENT_DISPOSITION;
use http::{HeaderValue, StatusCode};

use super::answer::{self, Answer};
use crate::state::State;
use crate::status::UsageReport;
use crate::usage::{Format, Query, QueryError, to_csv};

/// The response to a query. It reads the file on a thread that may block.
pub(super) async fn answer(state: Arc<State>, query: String) -> Answer {
    let answering = tokio::task::spawn_blocking(move || {
        let answer = Query::parse(&query, state.today()).and_then(|query| of(&query, &state));
        answer.unwrap_or_else(|error| refused(&error))
    });
    let internal = |_| answer::refusal(StatusCode::INTERNAL_SERVER_ERROR, "500 internal error");
    answering.await.unwrap_or_else(internal)
}

fn of(query: &Query, state: &State) -> Result<Answer, QueryError> {
    let (sums, is_complete) = query.sums(state)?;
    match query.format {
        Format::Json => {
            let report = UsageReport::new(query, &sums, is_complete, state);
            Ok(answer::json(&report))
        }
        // It has no place for a note.
        Format::Csv if !is_complete => {
            let reason = state.health().problem.unwrap_or_default();
            Err(QueryError::Unreadable(reason))
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
        QueryError::Unreadable(_) => StatusCode::SERVICE_UNAVAILABLE,
    };
    answer::refusal(status, format!("{} {error}", status.as_u16()))
}
