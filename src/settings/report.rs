//! Settings as people read them.

use std::fmt::Write as _;

use super::secret::Secret;
use super::setting::Setting;
use super::source::{DEFAULT, Texts};
use super::table::SETTINGS;

/// A setting, its value and where that came from.
#[derive(Clone, Debug)]
pub struct EffectiveSetting {
    /// The row of the table.
    pub setting: &'static Setting,
    /// The value as text; secrets are only counted.
    pub value: String,
    /// `default`, a variable, or a file.
    pub source: String,
    /// The value itself, also of a secret.
    text: Option<Secret>,
}

impl EffectiveSetting {
    /// Whether the other has the same value, wherever it came from.
    pub fn is_same_value(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

pub(super) fn effective(texts: &Texts) -> Vec<EffectiveSetting> {
    let row = |setting: &'static Setting| {
        let (value, source) = match texts.get(setting.key) {
            Some(text) if setting.form.is_secret() => ("[secret]", &*text.source),
            Some(text) => (&*text.value, &*text.source),
            None => ("(none)", DEFAULT),
        };
        EffectiveSetting {
            setting,
            value: value.to_owned(),
            source: source.to_owned(),
            text: texts.get(setting.key).map(|text| Secret::new(&*text.value)),
        }
    };
    SETTINGS.iter().map(row).collect()
}

/// The reference of all settings, as Markdown.
pub fn reference() -> String {
    let mut text = String::from(
        "# Configuration\n\n\
         <!-- Made by `llamatower reference`; a test compares. -->\n\n\
         Every setting has an environment variable and a place in a TOML file (`--config FILE`, or\n\
         `LLAMATOWER_CONFIG`). The environment wins over the file. An empty variable counts as not\n\
         set. `llamatower check` prints what is in force and where each value came from, and fails\n\
         with the name of what is wrong.\n\n\
         A secret can be given as a file: append `_FILE` to its variable and give the path.\n\n\
         The telemetry exporter is configured by OpenTelemetry's own variables; see\n\
         [operations](operations.md).\n",
    );
    let mut section = "";
    for setting in SETTINGS {
        let (first, name) = setting.key.split_once('.').unwrap_or(("", setting.key));
        if first != section {
            section = first;
            let _ = write!(text, "\n## `[{section}]`\n\n");
            text.push_str("| Variable | TOML | Default | What it does |\n|---|---|---|---|\n");
        }
        let default = match setting.default {
            "" => "none".to_owned(),
            default => format!("`{default}`"),
        };
        let _ = writeln!(
            text,
            "| `{}` | `{name}` | {default} | {} Form: {}. |",
            setting.variable,
            setting.about,
            setting.form.describe()
        );
    }
    text
}

/// A TOML file with every setting at its default, commented out.
pub fn example_file() -> String {
    let mut text =
        String::from("# All settings at their defaults. The environment wins over this file.\n");
    let mut section = "";
    for setting in SETTINGS {
        let (first, name) = setting.key.split_once('.').unwrap_or(("", setting.key));
        if first != section {
            section = first;
            let _ = write!(text, "\n[{section}]\n");
        }
        let _ = writeln!(text, "# {} ({})", setting.about, setting.variable);
        let _ = writeln!(text, "#{name} = {:?}", setting.default);
    }
    text
}

/// A file of environment variables with every setting at its default, commented out; secrets are
/// left out, as such a file is no place for them.
pub fn example_environment() -> String {
    let mut text = String::from(
        "# All settings at their defaults, but for secrets. Take the # away to set one.\n",
    );
    for setting in SETTINGS.iter().filter(|setting| !setting.form.is_secret()) {
        let _ = write!(text, "\n# {}\n", setting.about);
        let _ = writeln!(text, "# Form: {}.", setting.form.describe());
        let _ = writeln!(text, "#{}={}", setting.variable, setting.default);
    }
    text
}
