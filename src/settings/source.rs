//! The sources of values, in order of precedence: the environment, a TOML file, defaults.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use toml::{Table, Value};

use super::aliases;
use super::declared_models::DeclaredModels;
use super::environment::Environment;
use super::error::Problem;
use super::files::{FilesRead, absolute};
use super::keys_file;
use super::nearest::nearest;
use super::parse;
use super::server_tables::ServerTables;
use super::setting::{Form, Setting};

/// The name of the source of a default.
pub(super) const DEFAULT: &str = "default";

/// The texts of all settings that have one, with their sources.
#[derive(Debug, Default)]
pub(super) struct Texts {
    texts: BTreeMap<&'static str, Text>,
    /// Settings whose values cannot be read.
    unreadable: BTreeSet<&'static str>,
    /// There is a file, but nothing of it is known.
    lacks_file: bool,
    /// Keys of the file that are not settings.
    unknown_keys: Vec<Problem>,
    /// The table `[models]` of the file.
    declared: Arc<DeclaredModels>,
    /// The files that were read.
    pub(super) files: FilesRead,
}

#[derive(Clone, Debug)]
pub(super) struct Text {
    pub(super) setting: &'static Setting,
    pub(super) value: String,
    pub(super) source: String,
}

/// The text from a source, if there is one; or an error.
type Given = Result<Option<Text>, Problem>;

impl Text {
    /// `None` if the value is empty.
    fn new(setting: &'static Setting, value: &str, source: impl Into<String>) -> Option<Self> {
        // Some editors write a byte order mark before a text.
        let value = value.trim_start_matches('\u{feff}').trim();
        (!value.is_empty()).then(|| Self {
            setting,
            value: value.to_owned(),
            source: source.into(),
        })
    }

    /// The setting as the user wrote it: its variable, or its key with the file.
    pub(super) fn subject(&self) -> String {
        let key = file_key(self.setting);
        let names_it = self.source.starts_with(self.setting.variable)
            || key.is_some_and(|key| self.source.starts_with(&format!("{key}=")));
        match names_it {
            true => self.source.clone(),
            false => format!("{} in {}", self.setting.key, self.source),
        }
    }

    /// Rejects a list without items, for example an empty list of keys that would leave the gateway
    /// open.
    fn require_items(self) -> Result<Self, Problem> {
        match self.setting.form.is_list() && parse::items(&self.value).next().is_none() {
            true => Err(Problem::new(
                self.subject(),
                "it contains only separators; add an item, or remove the setting",
            )),
            false => Ok(self),
        }
    }
}

impl Texts {
    pub(super) fn gather(
        settings: &'static [Setting],
        file: Option<&Path>,
        environment: &Environment,
        problems: &mut Vec<Problem>,
    ) -> Self {
        let mut gathered = Self::default();
        let path = file.map(|file| file.display().to_string());
        let table = file.map(|file| gathered.read(file, settings, problems));
        for setting in settings {
            let default = || Text::new(setting, setting.default, DEFAULT);
            let files = &mut gathered.files;
            let given = match (from_environment(setting, environment, files), &table, &path) {
                (Ok(None), Some(table), Some(path)) => from_file(setting, table, path, files),
                (given, ..) => given,
            };
            let given = given.and_then(|text| text.map(Text::require_items).transpose());
            let text = given.unwrap_or_else(|problem| {
                problems.push(problem);
                gathered.unreadable.insert(setting.key);
                None
            });
            let text = text.or_else(default);
            gathered.texts.extend(text.map(|text| (setting.key, text)));
        }
        let has_load = gathered.is_given("timeouts.load");
        gathered.take_ollama_timeout();
        if !has_load {
            gathered.raise_load_timeout();
        }
        if !gathered.is_given("queue.max_predicted_wait") {
            gathered.lower_predicted_wait();
        }
        gathered.take_state_directory(settings, environment);
        gathered
    }

    /// Whether the file could not be read, so that a setting that seems to be missing may be in it.
    pub(super) fn lacks_file(&self) -> bool {
        self.lacks_file
    }

    /// The directory that systemd has made for the service (`StateDirectory=`) is the default. If there
    /// are several, it is the first.
    fn take_state_directory(&mut self, settings: &'static [Setting], environment: &Environment) {
        const KEY: &str = "state.directory";
        const VARIABLE: &str = "STATE_DIRECTORY";
        let directories = environment.get(VARIABLE).unwrap_or_default();
        let first = directories
            .split(':')
            .next()
            .filter(|first| !first.is_empty());
        let setting = settings.iter().find(|setting| setting.key == KEY);
        let is_set = self.is_given(KEY) || self.is_unreadable(KEY);
        if let (Some(first), Some(setting), false) = (first, setting, is_set) {
            self.texts
                .extend(Text::new(setting, first, VARIABLE).map(|text| (KEY, text)));
        }
    }

    /// Without a time-out of its own a request that loads its model gets no less time than others.
    fn raise_load_timeout(&mut self) {
        let first_byte = self.get("timeouts.first_byte").cloned();
        let Some((first_byte, load)) = first_byte.zip(self.texts.get_mut("timeouts.load")) else {
            return;
        };
        // `None` is off, the longest of all.
        let time = |text: &str| parse::optional(parse::duration)(text).ok();
        let is_longer = match (time(&first_byte.value), time(&load.value)) {
            (Some(None), Some(Some(_))) => true,
            (Some(Some(first_byte)), Some(Some(load))) => first_byte > load,
            _ => false,
        };
        if is_longer {
            (load.value, load.source) = (first_byte.value, first_byte.source);
        }
    }

    /// Without a limit of its own the predicted wait is not limited to more than the wait itself.
    fn lower_predicted_wait(&mut self) {
        let max_wait = self.get("queue.max_wait").cloned();
        let predicted = self.texts.get_mut("queue.max_predicted_wait");
        let Some((max_wait, predicted)) = max_wait.zip(predicted) else {
            return;
        };
        let time = |text: &str| parse::duration(text).ok();
        if time(&max_wait.value).is_some_and(|max| time(&predicted.value) > Some(max)) {
            (predicted.value, predicted.source) = (max_wait.value, max_wait.source);
        }
    }

    /// `OLLAMA_TIMEOUT` is the default of three time-outs.
    fn take_ollama_timeout(&mut self) {
        let ollama = self.get("timeouts.ollama").cloned();
        let wait = ollama.as_ref().map(|text| parse::duration(&text.value));
        let (Some(ollama), Some(Ok(wait))) = (ollama, wait) else {
            return;
        };
        for key in ["timeouts.first_byte", "timeouts.load", "timeouts.idle"] {
            if let Some(clock) = self
                .texts
                .get_mut(key)
                .filter(|text| text.source == DEFAULT)
            {
                clock.value = humantime::format_duration(wait).to_string();
                clock.source.clone_from(&ollama.source);
            }
        }
    }

    pub(super) fn get(&self, key: &str) -> Option<&Text> {
        self.texts.get(key)
    }

    /// The models that servers are to have.
    pub(super) fn declared(&self) -> &Arc<DeclaredModels> {
        &self.declared
    }

    /// Whether a setting was given explicitly.
    pub(super) fn is_given(&self, key: &str) -> bool {
        self.get(key).is_some_and(|text| text.source != DEFAULT)
    }

    /// Whether the value of a setting cannot be read.
    pub(super) fn is_unreadable(&self, key: &str) -> bool {
        self.unreadable.contains(key)
    }

    /// Keys of the file that are not settings, each once.
    pub(super) fn take_unknown_keys(&mut self) -> Vec<Problem> {
        std::mem::take(&mut self.unknown_keys)
    }

    /// Reads the TOML file. If that fails, the other sources are still checked, so that all errors
    /// are reported together.
    fn read(
        &mut self,
        file: &Path,
        settings: &'static [Setting],
        problems: &mut Vec<Problem>,
    ) -> Table {
        let path = file.display();
        let table = read_table(file, &mut self.files).unwrap_or_else(|reason| {
            problems.push(Problem::new(&path, reason));
            self.lacks_file = true;
            Table::new()
        });
        let mut table = table;
        let servers = ServerTables::fold(&mut table, &path.to_string());
        if !servers.problems.is_empty() {
            // A server of a wrong table is missing in the list.
            self.unreadable.insert("backends.urls");
        }
        problems.extend(servers.problems);
        let wrong_aliases = aliases::fold(&mut table, &path.to_string());
        if !wrong_aliases.is_empty() {
            // An alias of a wrong table is missing in the list.
            self.unreadable.insert("routing.aliases");
        }
        problems.extend(wrong_aliases);
        let (declared, wrong_models) = DeclaredModels::take(&mut table, &path.to_string());
        self.declared = Arc::new(declared);
        problems.extend(wrong_models);
        self.unknown_keys.extend(servers.unknown);
        let keys = leaves(&table).into_iter();
        let is_known = |key: &str| {
            let is_it =
                |setting: &Setting| setting.key == key || file_key(setting).as_deref() == Some(key);
            settings.iter().any(is_it)
        };
        let unknown = keys.filter(|key| !is_known(key));
        self.unknown_keys.extend(unknown.map(|key| {
            let reason = format!("there is no such setting; {}", hint_for_key(&key, settings));
            Problem::new(format!("{key} in {path}"), reason)
        }));
        table
    }
}

/// The content of a TOML file, or why there is none.
pub(super) fn read_table(file: &Path, files: &mut FilesRead) -> Result<Table, String> {
    let text = files.read(file);
    let text = text.map_err(|error| format!("it{} cannot be read: {error}", absolute(file)))?;
    let table: Result<Table, _> = text.parse();
    table.map_err(|error| {
        let error = without_quotations(&error.to_string());
        format!("it is not valid TOML: {error}")
    })
}

/// The key that a wrong key probably means.
fn hint_for_key(key: &str, settings: &'static [Setting]) -> String {
    let (stem, is_file) = match key.strip_suffix("_file") {
        Some(stem) => (stem, true),
        None => (key, false),
    };
    match nearest(stem, settings) {
        Some(meant) => match file_key(meant).filter(|_| is_file) {
            Some(meant) => format!("did you mean {meant}?"),
            None if is_file => format!(
                "did you mean {}? It is not a secret, so it has no key with _file",
                meant.key
            ),
            None => format!("did you mean {}?", meant.key),
        },
        None => "`llamatower reference` lists all settings".to_owned(),
    }
}

/// The error without the quoted lines of the file, which may contain secrets.
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

/// The dotted keys of all values. A section without values has none.
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

pub(super) fn text_of(value: &Value) -> Option<String> {
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

/// A value from the TOML file, or from the file that it names.
fn from_file(setting: &'static Setting, table: &Table, path: &str, files: &mut FilesRead) -> Given {
    let file_key = file_key(setting);
    let named_file = file_key.and_then(|key| Some((find(table, &key)?, key)));
    match (find(table, setting.key), named_file) {
        (Some(_), Some((_, other))) => {
            let reason = format!("{other} is set too; set only one of the two");
            Err(Problem::new(format!("{} in {path}", setting.key), reason))
        }
        (Some(value), None) => in_table(setting, value, path),
        (None, Some((value, key))) => {
            let subject = format!("{key} in {path}");
            let named = match value.as_str() {
                Some(named) if !named.trim().is_empty() => named.trim(),
                _ => {
                    let reason = "it must be the path of a file; set one, or remove the line";
                    return Err(Problem::new(subject, reason));
                }
            };
            let source = format!("{key}={named} in {path}");
            secret_file(setting, named, &subject, source, files).map(Some)
        }
        (None, None) => Ok(None),
    }
}

/// A value in the TOML file itself. An empty text counts as not set, like an empty variable. For a
/// secret it is an error, because the line shows that a secret was intended.
fn in_table(setting: &'static Setting, value: &Value, path: &str) -> Given {
    let wrong = |reason: String| Problem::new(format!("{} in {path}", setting.key), reason);
    let Some(text) = text_of(value) else {
        let form = setting.form.describe();
        let kind = value.type_str();
        return Err(wrong(format!("it has the type {kind}; expected {form}")));
    };
    let text = Text::new(setting, &text, path);
    let is_of_keys = setting.form.is_secret() || setting.key == keys_file::SETTING;
    let must_hold_something = value.is_array() || is_of_keys;
    match text.is_none() && must_hold_something {
        true => Err(wrong(
            "it is empty; set a value, or remove the line".to_owned(),
        )),
        false => Ok(text),
    }
}

fn from_environment(
    setting: &'static Setting,
    environment: &Environment,
    files: &mut FilesRead,
) -> Given {
    let variable = setting.variable;
    let file_variable = file_variable(setting);
    for name in file_variable.iter().map(String::as_str).chain([variable]) {
        if environment.is_unreadable(name) {
            return Err(Problem::new(name, "its value is not UTF-8"));
        }
    }
    reject_blank(setting, environment)?;
    let named_file = file_variable.and_then(|name| Some((environment.get(&name)?, name)));
    match (environment.get(variable), named_file) {
        (Some(_), Some((_, name))) => {
            let reason = format!("{name} is set too; set only one of the two");
            Err(Problem::new(variable, reason))
        }
        (Some(value), None) => Ok(Text::new(setting, value, variable)),
        (None, Some((path, name))) => {
            let source = format!("{name}={path}");
            secret_file(setting, path, &name, source, files).map(Some)
        }
        (None, None) => Ok(None),
    }
}

/// Rejects a blank list of secrets and a blank path of a secret's file: without a key, the gateway
/// would be open to all clients. Another blank variable counts as not set.
fn reject_blank(setting: &Setting, environment: &Environment) -> Result<(), Problem> {
    let wanted = match setting.form {
        Form::SecretList => Some("a key"),
        Form::ServerSecrets => Some("a token"),
        _ => None,
    };
    let variable = setting.variable.to_owned();
    let path = file_variable(setting).map(|name| (name, "the path of a file"));
    let wanted = wanted.or((setting.key == keys_file::SETTING).then_some("the path of a file"));
    let must_hold_something = wanted.map(|wanted| (variable, wanted));
    for (name, wanted) in must_hold_something.into_iter().chain(path) {
        if environment.is_blank(&name) {
            let reason = format!("it is empty; give it {wanted} or do not set it");
            return Err(Problem::new(name, reason));
        }
    }
    Ok(())
}

/// The secret in the file that `name`, a variable or a key, points to. In a list, lines that begin
/// with `#` are comments. An empty file is an error: without a key, the gateway would be open to all
/// clients.
fn secret_file(
    setting: &'static Setting,
    path: &str,
    name: &str,
    source: String,
    files: &mut FilesRead,
) -> Result<Text, Problem> {
    let value = files.read(Path::new(path));
    let value = value.map_err(|error| {
        let absolute = absolute(Path::new(path));
        let reason = format!("the file {path}{absolute} cannot be read: {error}");
        Problem::new(name, reason)
    })?;
    let value = match setting.form.is_list() {
        true => without_comments(&value),
        false => value,
    };
    let empty = || {
        let reason = format!(
            "the file {path} contains no secret; write the secret into it, or remove this setting"
        );
        Problem::new(name, reason)
    };
    Text::new(setting, &value, source).ok_or_else(empty)
}

fn without_comments(text: &str) -> String {
    let text = text.trim_start_matches('\u{feff}');
    let lines = text.lines();
    let lines: Vec<_> = lines
        .filter(|line| !line.trim_start().starts_with('#'))
        .collect();
    lines.join("\n")
}

/// The key that points to a file with the secret.
fn file_key(setting: &Setting) -> Option<String> {
    let is_secret = setting.form.is_secret();
    is_secret.then(|| format!("{}_file", setting.key))
}

/// The variable that points to a file with the secret.
pub(super) fn file_variable(setting: &Setting) -> Option<String> {
    let is_secret = setting.form.is_secret();
    is_secret.then(|| format!("{}_FILE", setting.variable))
}
