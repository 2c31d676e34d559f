//! `llamatower check`: prints every setting with its value, and all errors and warnings.

use serde_json::{Value, json};

use crate::settings::{EffectiveSetting, Loaded, Problem, SettingsError};
use crate::version;

/// The longest value that sets the width of its column; the source of a longer one is not aligned.
const WIDEST_VALUE: usize = 48;

/// For people: one line per setting, with its value and its source.
pub fn text(loaded: &Loaded) -> String {
    let rows = &loaded.effective;
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

/// Errors or warnings, for scripts.
pub fn problems<'a>(problems: impl IntoIterator<Item = &'a Problem>) -> Value {
    let rows = problems
        .into_iter()
        .map(|problem| json!({ "subject": problem.subject(), "reason": problem.reason() }));
    rows.collect()
}
