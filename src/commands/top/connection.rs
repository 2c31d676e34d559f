//! The connection to the gateway: its events, and what operators do.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use reqwest::Method;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use super::actions::Action;
use crate::commands::manage::{GatewayClient, Lines, ManageError, read, set_cordoned};
use crate::status::{Decisions, Overview};

/// The time in which the gateway must begin to respond.
const RESPONSE: Duration = Duration::from_secs(5);
/// The time without an event after which the connection counts as lost. The gateway sends one at
/// least every 5 s, because the totals of the last minutes change.
const SILENCE: Duration = Duration::from_secs(12);
/// The time between two attempts to connect again.
const PAUSE: Duration = Duration::from_secs(1);

const WATCH: &str = "watch the gateway";

/// What the connection tells.
#[derive(Debug)]
pub(super) enum Told {
    /// A part of the documents has changed.
    Part { name: String, data: Bytes },
    /// The connection is lost, for this reason.
    Lost(String),
    /// The last choices of servers.
    Decisions(Decisions),
    /// What an action has done.
    Done(Result<String, String>),
}

/// All documents as they are now, as the gateway writes them.
///
/// # Errors
/// There is no response, or it has the status of an error.
pub(super) async fn page(gateway: &GatewayClient) -> Result<Bytes, ManageError> {
    in_time(
        WATCH,
        gateway.operate(Method::GET, "/status/overview", WATCH),
    )
    .await
}

/// Reads all documents.
///
/// # Errors
/// The page is none of a gateway.
pub(super) fn overview(page: &[u8]) -> Result<Overview, ManageError> {
    read(page, WATCH)
}

/// Opens the stream of events.
///
/// # Errors
/// There is no response, or it has the status of an error.
pub(super) async fn open(gateway: &GatewayClient) -> Result<Lines, ManageError> {
    in_time(WATCH, gateway.watch("/status/events", WATCH)).await
}

/// Tells what the events contain, and connects again when the connection is lost. It ends when the
/// receiver does.
pub(super) async fn follow<T: From<Told>>(
    gateway: Arc<GatewayClient>,
    first: Lines,
    told: mpsc::Sender<T>,
) {
    let mut events = Some(first);
    loop {
        let lost = match events.take() {
            Some(events) => tell_events(events, &told).await,
            None => match open(&gateway).await {
                Ok(opened) => {
                    events = Some(opened);
                    continue;
                }
                Err(error) => reason_of(error),
            },
        };
        if told.send(Told::Lost(lost).into()).await.is_err() {
            return;
        }
        sleep(PAUSE).await;
    }
}

/// Why there is no connection. The address was given by the user, and is the same all the time.
fn reason_of(error: ManageError) -> String {
    match error {
        ManageError::NoResponse { reason, .. } | ManageError::Failed { reason, .. } => reason,
        error => error.to_string(),
    }
}

/// Tells what the events contain until the connection is lost. Returns the reason.
async fn tell_events<T: From<Told>>(mut events: Lines, told: &mpsc::Sender<T>) -> String {
    let mut name = String::new();
    loop {
        let line = match timeout(SILENCE, events.next()).await {
            Ok(Ok(Some(line))) => line,
            Ok(Ok(None)) => return "the gateway has ended the connection".to_owned(),
            Ok(Err(error)) => return reason_of(error),
            Err(_) => return format!("nothing came from the gateway for {SILENCE:?}"),
        };
        // The gateway writes each event as two lines, its name first.
        if let Some(text) = line.strip_prefix(b"event: ") {
            name = String::from_utf8_lossy(text).into_owned();
        } else if line.starts_with(b"data: ") {
            let (name, data) = (std::mem::take(&mut name), line.slice(b"data: ".len()..));
            if told.send(Told::Part { name, data }.into()).await.is_err() {
                return String::new();
            }
        }
    }
}

/// Asks for the last choices of servers. Without a response there is nothing to tell: the details of a
/// request do without.
pub(super) async fn decisions(gateway: &GatewayClient) -> Option<Told> {
    let page = in_time(
        WATCH,
        gateway.operate(Method::GET, "/status/decisions", WATCH),
    )
    .await;
    let decisions = page.and_then(|page| read(&page, WATCH));
    decisions.ok().map(Told::Decisions)
}

/// Does what an operator wants.
pub(super) async fn act(gateway: &GatewayClient, action: Action) -> Told {
    let done = match action {
        Action::Cordon {
            server,
            is_cordoned,
        } => {
            let what = match is_cordoned {
                true => "cordon the server (it may be done)",
                false => "uncordon the server (it may be done)",
            };
            let set = in_time(what, set_cordoned(gateway, &server, is_cordoned)).await;
            set.map(|_| match is_cordoned {
                true => format!("{server} is cordoned"),
                false => format!("{server} gets requests again"),
            })
        }
        Action::Cancel { id, .. } => {
            let path = format!("/queue/{id}/cancel");
            let cancelled = gateway.operate(Method::POST, &path, "cancel the request");
            let cancelled = in_time("cancel the request (it may be done)", cancelled).await;
            cancelled.map(|_| "the request was cancelled".to_owned())
        }
    };
    Told::Done(done.map_err(|error| error.to_string()))
}

/// Waits for a response; `action` is named in the error.
async fn in_time<T>(
    action: &str,
    response: impl Future<Output = Result<T, ManageError>>,
) -> Result<T, ManageError> {
    match timeout(RESPONSE, response).await {
        Ok(response) => response,
        Err(_) => Err(ManageError::Failed {
            action: action.to_owned(),
            reason: format!("the gateway did not respond within {RESPONSE:?}"),
        }),
    }
}
