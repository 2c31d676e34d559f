//! Where values come from: the environment, a TOML file, defaults; the first that has one wins.

use std::collections::BTreeMap;
use std::path::Path;

use toml::{Table, Value};

use super::error::Problem;
use super::parse;
use super::setting::Setting;

/// What a default says of its source.
pub(super) const DEFAULT: &str = "default";

/// The texts of all settings that have one, and where each came from.
#[derive(Debug)]
pub(super) struct Texts(BTreeMap<&'static str, Text>);

#[derive(Clone, Debug)]
pub(super) struct Text {
    pub(super) setting: &'static Setting,
    pub(super) value: String,
    pub(super) source: String,
}

impl Text {
    /// `None` if there is nothing in it.
    fn new(setting: &'static Setting, value: &str, source: impl Into<String>) -> Option<Self> {
        let value = value.trim();
        (!value.is_empty()).then(|| Self {
            setting,
            value: value.to_owned(),
            source: source.into(),
        })
    }
}

impl Texts {
    pub(super) fn gather(
        settings: &'static [Setting],
        file: Option<&Path>,
        environment: &dyn Fn(&str) -> Option<String>,
        problems: &mut Vec<Problem>,
    ) -> Self {
        let path = file.map(|file| file.display().to_string());
        let file = file.map(|file| read(file, settings, problems));
        let mut texts = BTreeMap::new();
        for setting in settings {
            let given = from_environment(setting, environment).unwrap_or_else(|problem| {
                problems.push(problem);
                None
            });
            let in_file = || {
                let value = text_of(find(file.as_ref()?, setting.key)?)?;
                Text::new(setting, &value, path.as_deref()?)
            };
            let default = || Text::new(setting, setting.default, DEFAULT);
            let text = given.or_else(in_file).or_else(default);
            texts.extend(text.map(|text| (setting.key, text)));
        }
        let mut texts = Self(texts);
        texts.take_ollama_timeout();
        texts
    }

    /// `OLLAMA_TIMEOUT` is the default of two clocks.
    fn take_ollama_timeout(&mut self) {
        let ollama = self.get("timeouts.ollama").cloned();
        let wait = ollama.as_ref().map(|text| parse::duration(&text.value));
        let (Some(ollama), Some(Ok(wait))) = (ollama, wait) else {
            return;
        };
        for key in ["timeouts.first_byte", "timeouts.idle"] {
            if let Some(clock) = self.0.get_mut(key).filter(|text| text.source == DEFAULT) {
                clock.value = humantime::format_duration(wait).to_string();
                clock.source.clone_from(&ollama.source);
            }
        }
    }

    pub(super) fn get(&self, key: &str) -> Option<&Text> {
        self.0.get(key)
    }
}

/// A file that cannot be read, or that has a key that is no setting, is a problem; the rest of it
/// counts all the same, so that everything wrong is told at once.
fn read(file: &Path, settings: &[Setting], problems: &mut Vec<Problem>) -> Table {
    let path = file.display();
    let text = std::fs::read_to_string(file).map_err(|error| format!("it cannot be read: {error}"));
    let table = text.and_then(|text| {
        let table: Result<Table, _> = text.parse();
        table.map_err(|error| format!("it is no TOML: {}", without_quotations(&error.to_string())))
    });
    let table = table.unwrap_or_else(|reason| {
        problems.push(Problem::new(&path, reason));
        Table::new()
    });
    for key in leaves(&table) {
        if !settings.iter().any(|setting| setting.key == key) {
            let like = closest(&key, settings.iter().map(|setting| setting.key));
            let reason = format!("there is no such setting; did you mean {like}?");
            problems.push(Problem::new(format!("{key} in {path}"), reason));
        }
    }
    table
}

/// An error without the lines of the file that it quotes: they may hold secrets.
fn without_quotations(error: &str) -> String {
    let is_quotation = |line: &&str| {
        let line = line.trim_start_matches(|c: char| c.is_ascii_digit() || c == ' ');
        line.starts_with('|')
    };
    let lines = error.lines().map(str::trim);
    let told: Vec<_> = lines
        .filter(|line| !line.is_empty() && !is_quotation(line))
        .collect();
    told.join("; ")
}

fn leaves(table: &Table) -> Vec<String> {
    let leaves = table.iter().flat_map(|(name, value)| match value {
        Value::Table(inner) => {
            let inner = leaves(inner).into_iter();
            inner.map(|rest| format!("{name}.{rest}")).collect()
        }
        _ => vec![name.clone()],
    });
    leaves.collect()
}

fn find<'a>(table: &'a Table, key: &str) -> Option<&'a Value> {
    let (section, name) = key.split_once('.')?;
    table.get(section)?.get(name)
}

fn text_of(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Boolean(yes) => Some(yes.to_string()),
        Value::Integer(number) => Some(number.to_string()),
        Value::Float(number) => Some(number.to_string()),
        Value::Array(items) => {
            let items: Option<Vec<_>> = items.iter().map(text_of).collect();
            Some(items?.join(","))
        }
        Value::Datetime(_) | Value::Table(_) => None,
    }
}

fn from_environment(
    setting: &'static Setting,
    environment: &dyn Fn(&str) -> Option<String>,
) -> Result<Option<Text>, Problem> {
    let variable = setting.variable;
    let get = |name: &str| environment(name).filter(|value| !value.trim().is_empty());
    let named_file = file_variable(setting).and_then(|name| Some((get(&name)?, name)));
    match (get(variable), named_file) {
        (Some(_), Some((_, name))) => {
            let reason = format!("{name} is set too; set one of the two");
            Err(Problem::new(variable, reason))
        }
        (Some(value), None) => Ok(Text::new(setting, &value, variable)),
        (None, Some((path, name))) => match std::fs::read_to_string(&path) {
            Ok(value) => Ok(Text::new(setting, &value, format!("{name}={path}"))),
            Err(error) => {
                let reason = format!("{path} cannot be read: {error}");
                Err(Problem::new(name, reason))
            }
        },
        (None, None) => Ok(None),
    }
}

/// The variable that names a file with the secret in it.
pub(super) fn file_variable(setting: &Setting) -> Option<String> {
    let is_secret = setting.form.is_secret();
    is_secret.then(|| format!("{}_FILE", setting.variable))
}

/// The known name that a misspelt one is closest to.
pub(super) fn closest<'a>(given: &str, known: impl Iterator<Item = &'a str>) -> &'a str {
    known
        .min_by_key(|name| strsim::damerau_levenshtein(given, name))
        .unwrap_or_default()
}
