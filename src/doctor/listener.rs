//! What listens where the gateway is to listen.

use http::StatusCode;

use super::report::{Level, Report};
use crate::healthcheck::Target;
use crate::settings::Settings;

pub(super) async fn examine(settings: &Settings, report: &mut Report) {
    const SETTING: &str = "LLAMATOWER_LISTEN";
    // A port that the system chooses is not known.
    let Ok(target) = Target::of_listeners(&settings.listen.public) else {
        return;
    };
    let place = target.to_string();
    match target.ask().await {
        Ok(health) if health.is_of_a_gateway() && health.status == StatusCode::OK => report.add(
            Level::Note,
            "gateway_serves",
            place,
            "a gateway serves here",
            "",
        ),
        Ok(health) if health.is_of_a_gateway() => report.add(
            Level::Warning,
            "gateway_drains",
            place,
            format!(
                "a gateway answers {} here: it is about to end",
                health.status
            ),
            "",
        ),
        Ok(health) => report.add(
            Level::Error,
            "listener_taken",
            place,
            format!(
                "another program listens here; it answered {}",
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
            format!("see what listens there, or give the gateway another address in {SETTING}"),
        ),
    }
}
