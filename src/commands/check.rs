//! `llamatower check`: prints every setting with its value, and all errors and warnings.

use std::path::Path;

use reqwest::Method;
use serde_json::{Value, json};

use crate::commands::manage::{GatewayClient, ManageError, OperatorArguments};
use crate::reload::{Difference, InForce};
use crate::settings::{EffectiveSetting, Loaded, Problem, SettingsError};
use crate::version;

/// The longest value that sets the width of its column; the source of a longer one is not aligned.
const WIDEST_VALUE: usize = 48;

/// For people: one line per setting, with its value and its source.
pub fn text(loaded: &Loaded) -> String {
    let rows = &with_ports(loaded);
    let names = rows.iter().map(|row| row.setting.variable.len());
    let names = names.max().unwrap_or(0);
    let values = rows.iter().map(|row| row.value.len());
    let values = values.filter(|width| *width <= WIDEST_VALUE);
    let values = values.max().unwrap_or(0);
    let lines = rows.iter().map(|row| {
        let (name, value) = (row.setting.variable, &row.value);
        format!("{name:names$}  {value:values$}  {}\n", row.source)
    });
    lines.collect()
}

/// The settings, with the port of each server also where it is not given.
fn with_ports(loaded: &Loaded) -> Vec<EffectiveSetting> {
    let mut rows = loaded.effective.clone();
    if let Some(urls) = rows
        .iter_mut()
        .find(|row| row.setting.key == "backends.urls")
    {
        let items = urls.value.split([',', '\n']).map(str::trim);
        let items = items.filter(|item| !item.is_empty());
        let addresses = loaded.settings.backends.urls.iter();
        let shown = items.zip(addresses).map(|(item, address)| {
            let port = format!(":{}", address.port());
            match item.contains(&port) {
                true => item.to_owned(),
                false => format!("{item} (port {})", address.port()),
            }
        });
        urls.value = shown.collect::<Vec<_>>().join(", ");
    }
    rows
}

/// For scripts. New versions may add fields, but do not remove any.
pub fn json(loaded: &Result<Loaded, SettingsError>) -> Value {
    let settings = loaded.iter().flat_map(|loaded| &loaded.effective);
    let warnings = loaded.iter().flat_map(Loaded::all_warnings);
    let errors = loaded
        .as_ref()
        .err()
        .map_or(&[][..], |error| error.problems());
    json!({
        "version": version::VERSION,
        "commit": version::COMMIT,
        "is_sound": loaded.is_ok(),
        "settings": settings.map(EffectiveSetting::json).collect::<Value>(),
        "errors": problems(errors),
        "warnings": problems(warnings),
    })
}

/// What a reload would change in a running gateway, if these settings were its own.
///
/// # Errors
/// The gateway cannot be asked.
pub(crate) async fn difference(
    loaded: &Loaded,
    gateway: &OperatorArguments,
    config: Option<&Path>,
) -> Result<Difference, ManageError> {
    let client = GatewayClient::new(None, gateway, config)?;
    let action = "the settings in force";
    let document = client.operate(Method::GET, "/status/settings", action);
    let document = document.await.map_err(|error| match error {
        ManageError::NoResponse { url, reason } if gateway.admin_url.is_none() => {
            let reason = format!(
                "{reason}; the address is that of the settings to be checked: if the gateway still has another \
                 one, give it with --admin-url"
            );
            ManageError::NoResponse { url, reason }
        }
        other => other,
    });
    let in_force: Result<InForce, _> = serde_json::from_slice(&document?);
    let in_force = in_force.map_err(|error| ManageError::Failed {
        action: action.to_owned(),
        reason: format!("the response is of another version: {error}"),
    })?;
    let new = InForce::new(&loaded.effective, &loaded.settings, in_force.salt());
    Ok(in_force.difference(&new))
}

/// Errors or warnings, for scripts.
pub fn problems<'a>(problems: impl IntoIterator<Item = &'a Problem>) -> Value {
    let rows = problems
        .into_iter()
        .map(|problem| json!({ "subject": problem.subject(), "reason": problem.reason() }));
    rows.collect()
}
