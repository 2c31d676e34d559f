//! Checks what listens at the gateway's address.

use http::StatusCode;

use super::report::{Level, Report};
use crate::commands::healthcheck::Target;
use crate::settings::{Listener, Settings};

pub(super) async fn examine(settings: &Settings, report: &mut Report) {
    const SETTING: &str = "LLAMATOWER_LISTEN";
    // If the system chooses the port, it is not known.
    let Ok(target) = Target::for_listeners(&settings.listening(Listener::Public)) else {
        return;
    };
    let place = target.to_string();
    match target.ask().await {
        Ok(health) if health.is_gateway() && health.status == StatusCode::OK => report.add(
            Level::Note,
            "gateway_serves",
            place,
            "a gateway serves here",
            "",
        ),
        Ok(health) if health.is_gateway() => report.add(
            Level::Warning,
            "gateway_drains",
            place,
            format!(
                "a gateway responds with {} here: it is shutting down",
                health.status
            ),
            "",
        ),
        Ok(health) => report.add(
            Level::Error,
            "listener_taken",
            place,
            format!(
                "another program listens here; it responded with {}",
                health.status
            ),
            format!("stop it, or give the gateway another address in {SETTING}"),
        ),
        Err(error) if error.is_refused => report.add(
            Level::Note,
            "gateway_is_down",
            place,
            "no gateway runs here",
            "",
        ),
        Err(error) => report.add(
            Level::Warning,
            "listener_silent",
            place,
            error.to_string(),
            format!("find out which program listens there, or give the gateway another address in {SETTING}"),
        ),
    }
}
