//! Where values come from: defaults, a TOML file, the environment, in this order; the last wins.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use figment::providers::{Format, Toml};
use figment::value::{Dict, Map, Value};
use figment::{Figment, Metadata, Profile, Provider};

use super::error::Problem;
use super::table::{SETTINGS, Setting};

/// The texts of all settings that have one, and where each came from.
#[derive(Debug, Default)]
pub(super) struct Texts {
    by_key: BTreeMap<&'static str, Text>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Text {
    pub(super) value: String,
    pub(super) source: String,
}

/// One value under one key, with a name for where it came from.
struct One {
    key: &'static str,
    value: String,
    source: String,
}

impl Provider for One {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.source.clone())
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        let value = Value::from(self.value.clone());
        let nested = self.key.rsplit('.').fold(value, |value, part| {
            Value::from(Dict::from([(part.to_owned(), value)]))
        });
        let dict = nested.into_dict().unwrap_or_default();
        Ok(Map::from([(Profile::Default, dict)]))
    }
}

impl Texts {
    pub(super) fn gather(
        file: Option<&Path>,
        environment: &dyn Fn(&str) -> Option<String>,
        problems: &mut Vec<Problem>,
    ) -> Self {
        let mut figment = Figment::new();
        for setting in SETTINGS
            .iter()
            .filter(|setting| !setting.default.is_empty())
        {
            figment = figment.merge(One {
                key: setting.key,
                value: setting.default.to_owned(),
                source: "default".to_owned(),
            });
        }
        if let Some(file) = file {
            figment = merge_file(figment, file, problems);
        }
        for setting in SETTINGS {
            match from_environment(setting, environment) {
                Ok(Some(one)) => figment = figment.merge(one),
                Ok(None) => {}
                Err(problem) => problems.push(problem),
            }
        }
        let found = SETTINGS.iter().filter_map(|setting| {
            let value = text_of(&figment.find_value(setting.key).ok()?)?;
            let source = source_of(&figment, setting.key);
            Some((setting.key, Text { value, source }))
        });
        Self {
            by_key: found.filter(|(_, text)| !text.value.is_empty()).collect(),
        }
    }

    pub(super) fn get(&self, key: &str) -> Option<&Text> {
        self.by_key.get(key)
    }
}

/// A file that cannot be read, or that has a key nobody knows, is a problem; the rest of it
/// counts all the same, so that everything wrong is told at once.
fn merge_file(figment: Figment, file: &Path, problems: &mut Vec<Problem>) -> Figment {
    let text = match std::fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) => {
            problems.push(Problem::new(
                file.display(),
                format!("it cannot be read: {error}"),
            ));
            return figment;
        }
    };
    let data = match Toml::string(&text).data() {
        Ok(mut data) => data.remove(&Profile::Default).unwrap_or_default(),
        Err(error) => {
            problems.push(Problem::new(
                file.display(),
                format!("it is no TOML: {}", without_quotations(&error.to_string())),
            ));
            return figment;
        }
    };
    for key in leaves(&data) {
        if !SETTINGS.iter().any(|setting| setting.key == key) {
            let like = closest(&key, SETTINGS.iter().map(|setting| setting.key));
            let reason = format!("there is no such setting; did you mean {like}?");
            problems.push(Problem::new(format!("{key} in {}", file.display()), reason));
        }
    }
    figment.merge(File {
        path: file.to_owned(),
        data,
    })
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

struct File {
    path: PathBuf,
    data: Dict,
}

impl Provider for File {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.path.display().to_string())
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        Ok(Map::from([(Profile::Default, self.data.clone())]))
    }
}

fn leaves(dict: &Dict) -> Vec<String> {
    let mut found = Vec::new();
    for (name, value) in dict {
        match value {
            Value::Dict(_, inner) => {
                found.extend(
                    leaves(inner)
                        .into_iter()
                        .map(|rest| format!("{name}.{rest}")),
                );
            }
            _ => found.push(name.clone()),
        }
    }
    found
}

fn from_environment(
    setting: &Setting,
    environment: &dyn Fn(&str) -> Option<String>,
) -> Result<Option<One>, Problem> {
    let variable = setting.variable;
    let given = environment(variable).filter(|value| !value.trim().is_empty());
    let named_file = file_variable(setting).and_then(|name| {
        let path = environment(&name).filter(|path| !path.trim().is_empty())?;
        Some((name, path))
    });
    let one = |value: String, source: String| One {
        key: setting.key,
        value: value.trim().to_owned(),
        source,
    };
    match (given, named_file) {
        (Some(_), Some((name, _))) => {
            let reason = format!("{name} is set too; set one of the two");
            Err(Problem::new(variable, reason))
        }
        (Some(value), None) => Ok(Some(one(value, variable.to_owned()))),
        (None, Some((name, path))) => match std::fs::read_to_string(&path) {
            Ok(value) => Ok(Some(one(value, format!("{name}={path}")))),
            Err(error) => Err(Problem::new(
                name,
                format!("{path} cannot be read: {error}"),
            )),
        },
        (None, None) => Ok(None),
    }
}

/// The variable that names a file with the secret in it.
pub(super) fn file_variable(setting: &Setting) -> Option<String> {
    setting
        .form
        .is_secret()
        .then(|| format!("{}_FILE", setting.variable))
}

fn text_of(value: &Value) -> Option<String> {
    match value {
        Value::String(_, text) => Some(text.trim().to_owned()),
        Value::Bool(_, yes) => Some(yes.to_string()),
        Value::Num(_, number) => match number.to_i128() {
            Some(number) => Some(number.to_string()),
            None => number.to_f64().map(|number| number.to_string()),
        },
        Value::Array(_, items) => {
            let items: Option<Vec<_>> = items.iter().map(text_of).collect();
            Some(items?.join(","))
        }
        Value::Char(..) | Value::Empty(..) | Value::Dict(..) => None,
    }
}

fn source_of(figment: &Figment, key: &str) -> String {
    let metadata = figment.find_metadata(key);
    metadata
        .map(|metadata| metadata.name.to_string())
        .unwrap_or_default()
}

/// The known name that a misspelt one is closest to.
pub(super) fn closest<'a>(given: &str, known: impl Iterator<Item = &'a str>) -> &'a str {
    known
        .min_by_key(|name| strsim::damerau_levenshtein(given, name))
        .unwrap_or_default()
}
