//! Prints settings for users.

use std::fmt::Write as _;

use llamatower_layers::api_key::{KeySet, Role};
use serde_json::{Value, json};

use super::aliases;
use super::declared_models;
use super::keys_file;
use super::parse;
use super::secret::Secret;
use super::server_tables;
use super::setting::{Form, Setting};
use super::source::{DEFAULT, Texts};
use super::table::SETTINGS;

/// A setting with its value and its source.
#[derive(Clone, Debug)]
pub struct EffectiveSetting {
    /// The row of the table.
    pub setting: &'static Setting,
    /// The value as text; for secrets, only their names.
    pub value: String,
    /// For a list of secrets, the names of the keys or of the servers.
    pub names: Option<Vec<String>>,
    /// `default`, a variable, or a file.
    pub source: String,
    /// The value itself, also for a secret.
    text: Option<Secret>,
}

impl EffectiveSetting {
    /// A digest of the value, by this function; an empty text if there is none.
    pub fn digest(&self, of: impl Fn(&str) -> String) -> String {
        let text = self.text.as_ref();
        text.map(|text| of(text.expose())).unwrap_or_default()
    }

    /// Whether the other has the same value, from any source.
    pub fn is_same_value(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

/// Shown instead of a missing or a secret value.
const NONE: &str = "(none)";
const SECRET: &str = "[secret]";

impl EffectiveSetting {
    /// For scripts. The value is null if there is none or it is secret; the names are null except
    /// for lists of secrets.
    pub fn json(&self) -> Value {
        let is_set = self.value != NONE;
        let is_secret = self.setting.form.is_secret();
        json!({
            "variable": self.setting.variable,
            "key": self.setting.key,
            "value": (is_set && !is_secret).then_some(&self.value),
            "source": self.source,
            "is_set": is_set,
            "is_secret": is_secret,
            "names": self.names,
        })
    }
}

pub(super) fn effective(texts: &Texts) -> Vec<EffectiveSetting> {
    let row = |setting: &'static Setting| {
        let text = texts.get(setting.key);
        let names = names(setting.form, text.map_or("", |text| &text.value));
        let value = match (text, &names) {
            (None, _) => NONE.to_owned(),
            (Some(_), Some(names)) => format!("[secret: {}]", names.join(", ")),
            (Some(_), None) if setting.form.is_secret() => SECRET.to_owned(),
            (Some(text), None) => text.value.clone(),
        };
        EffectiveSetting {
            setting,
            value,
            names,
            source: text.map_or(DEFAULT, |text| &text.source).to_owned(),
            text: text.map(|text| Secret::new(&*text.value)),
        }
    };
    SETTINGS.iter().map(row).collect()
}

/// The names in a list of secrets: of keys, or of servers.
fn names(form: Form, value: &str) -> Option<Vec<String>> {
    match form {
        Form::SecretList => {
            let keys = KeySet::from_lines(parse::items(value), Role::User).unwrap_or_default();
            let names = keys.identities().map(|identity| identity.name.to_string());
            Some(names.collect())
        }
        Form::ServerSecrets => {
            let tokens = parse::tokens(value).unwrap_or_default();
            Some(tokens.iter().map(|(name, _)| name.to_string()).collect())
        }
        _ => None,
    }
}

/// The reference of all settings, as Markdown.
pub fn reference() -> String {
    let mut text = String::from(
        "# Configuration\n\n\
         <!-- Made by `llamatower reference`; a test compares. -->\n\n\
         Every setting has an environment variable and a key in a TOML file (`--config FILE`, or\n\
         `LLAMATOWER_CONFIG`). The environment wins over the file. `llamatower check` prints the\n\
         effective values and their sources, and reports every error; `--json` is for scripts.\n\n\
         An empty variable, or an empty text in the file, counts as not set, except for lists of\n\
         secrets (see below). A list without items (`,` or `[]`) is an error. An unknown variable that\n\
         begins with `LLAMATOWER_`, or an unknown key in the file, is an error too (see\n\
         `LLAMATOWER_ALLOW_UNKNOWN`). The gateway ignores the variables of commands\n\
         (`LLAMATOWER_ADMIN_KEY`, `LLAMATOWER_KEY`), and those that Kubernetes sets for a Service named `llamatower`.\n\n\
         A secret can be given as a file: append `_FILE` to its variable, or `_file` to its key in\n\
         the TOML file (`[keys] api_file = \"/run/secrets/keys\"`), and set it to the path. In a file of\n\
         keys or tokens, lines that begin with `#` are comments. A file without a secret is an error,\n\
         and so is an empty text for a secret in the TOML file, or a secret together with its file.\n\
         `LLAMATOWER_API_KEYS`, `LLAMATOWER_ADMIN_KEYS`, `LLAMATOWER_BACKEND_TOKENS` and the variable\n\
         with `_FILE` of any secret must not be empty: an empty one is an error, so that a missing\n\
         value in a compose file does not open the gateway. `LLAMATOWER_REQUIRE_KEYS=true` also refuses\n\
         to start if the variable is not set at all.\n\n\
         A relative path, also one in the TOML file, starts at the directory in which the program was\n\
         started, not at that of the file.\n\n\
         OpenTelemetry's own variables configure the telemetry exporter; see\n\
         [operations](operations.md).\n",
    );
    let mut section = "";
    for setting in SETTINGS {
        let (first, name) = setting.key.split_once('.').unwrap_or(("", setting.key));
        if first != section {
            text.push_str(chapter_of(section));
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
            in_table(setting.about),
            in_table(setting.form.describe())
        );
    }
    text.push_str(chapter_of(section));
    text.push_str(declared_models::REFERENCE);
    text
}

/// A text for a cell of a table in Markdown.
fn in_table(text: &str) -> String {
    text.replace('|', "\\|")
}

/// What the reference tells after the table of a section.
fn chapter_of(section: &str) -> &'static str {
    match section {
        server_tables::SECTION => server_tables::REFERENCE,
        aliases::SECTION => aliases::REFERENCE,
        "keys" => keys_file::REFERENCE,
        _ => "",
    }
}

/// A TOML file with every setting at its default, commented out. A secret has no default, so there
/// is no line for it.
pub fn example_file() -> String {
    let mut text = String::from(
        "# All settings at their defaults. Remove the # before a name to set one. Environment\n\
         # variables override this file.\n",
    );
    let mut section = "";
    for setting in SETTINGS {
        let (first, name) = setting.key.split_once('.').unwrap_or(("", setting.key));
        if first != section {
            text.push_str(match section {
                server_tables::SECTION => server_tables::EXAMPLE,
                aliases::SECTION => aliases::EXAMPLE,
                _ => "",
            });
            section = first;
            let _ = write!(text, "\n[{section}]\n");
        }
        let _ = writeln!(text, "# {} ({})", setting.about, setting.variable);
        let _ = match setting.form.is_secret() {
            true => writeln!(
                text,
                "# Give the secret as `{name} = \"..\"`, or the path of a file as `{name}_file = \"..\"`."
            ),
            false => writeln!(text, "#{name} = {}", toml_value(setting)),
        };
    }
    text.push_str(declared_models::EXAMPLE);
    text
}

/// The default of a setting in TOML.
fn toml_value(setting: &Setting) -> Value {
    let default = setting.default;
    let is_array = setting.form.is_list() && !matches!(default, "" | "off");
    let is_bare = matches!(
        setting.form,
        Form::Switch | Form::Count | Form::CountOrAuto | Form::OptionalCount | Form::Number
    );
    // These values are written in the same way in JSON and in TOML.
    match is_array {
        true => parse::items(default).collect(),
        false => {
            let bare = is_bare.then(|| default.parse().ok()).flatten();
            bare.unwrap_or_else(|| default.into())
        }
    }
}

/// A file of environment variables with every setting at its default, commented out. Secrets are
/// omitted, because they should not be in such a file; the header names them.
pub fn example_environment() -> String {
    let mut text = String::from(
        "# All settings at their defaults, without secrets. Remove the # to set one.\n\
         #\n\
         # Secrets should not be in such a file. Give each one in its variable from elsewhere, or write it\n\
         # to a file and give the file's path in the variable with _FILE:\n",
    );
    for setting in SETTINGS.iter().filter(|setting| setting.form.is_secret()) {
        let (variable, form) = (setting.variable, setting.form.describe());
        let _ = writeln!(text, "#   {variable} or {variable}_FILE: {form}");
    }
    for setting in SETTINGS.iter().filter(|setting| !setting.form.is_secret()) {
        let _ = write!(text, "\n# {}\n", setting.about);
        let _ = writeln!(text, "# Form: {}.", setting.form.describe());
        let _ = writeln!(text, "#{}={}", setting.variable, setting.default);
    }
    text
}
