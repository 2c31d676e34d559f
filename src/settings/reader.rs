//! Parses the settings' texts.

use std::collections::BTreeSet;

use super::error::{Problem, Severity};
use super::parse::Parsed;
use super::setting::Setting;
use super::source::{Text, Texts};
use crate::ollama::upstream::has_user;

/// Parses one value after the other, and collects errors and warnings.
pub(super) struct Reader {
    settings: &'static [Setting],
    pub(super) texts: Texts,
    pub(super) problems: Vec<Problem>,
    pub(super) warnings: Vec<Problem>,
    failed: BTreeSet<&'static str>,
}

impl Reader {
    pub(super) fn new(settings: &'static [Setting], texts: Texts, problems: Vec<Problem>) -> Self {
        Self {
            settings,
            texts,
            problems,
            warnings: Vec::new(),
            failed: BTreeSet::new(),
        }
    }

    /// The value of a setting; without a value and a default, the value of an empty text. If the
    /// value is wrong, the default replaces it, so that the other settings are still checked and
    /// all errors are reported together.
    pub(super) fn parsed<T>(
        &mut self,
        key: &'static str,
        parse: impl Fn(&str) -> Parsed<T>,
    ) -> Option<T> {
        let text = self.texts.get(key).map_or("", |text| &text.value);
        match parse(text) {
            Ok(value) => Some(value),
            Err(reason) => {
                self.wrong(key, &reason);
                parse(self.setting(key)?.default).ok()
            }
        }
    }

    /// Whether a setting has the value that the user gave. A default that replaces a wrong value is
    /// not compared with other settings.
    pub(super) fn is_valid(&self, key: &str) -> bool {
        !self.failed.contains(key) && !self.texts.is_unreadable(key)
    }

    /// Reports that the value of a setting is wrong.
    pub(super) fn wrong(&mut self, key: &'static str, reason: &str) {
        let problem = match self.texts.get(key) {
            Some(text) => problem(text, reason),
            None => Problem::new(self.name(key), reason),
        };
        self.problems.push(problem);
        self.failed.insert(key);
    }

    /// Reports that what a setting names is wrong.
    pub(super) fn report_wrong(&mut self, key: &'static str, reason: &str) {
        self.report(Severity::Error, key, reason);
        self.failed.insert(key);
    }

    /// What these settings give is not known, for a reason that is reported elsewhere, so that they are
    /// not compared with others.
    pub(super) fn lacks(&mut self, keys: &[&'static str]) {
        self.failed.extend(keys);
    }

    /// Reports a contradiction between settings that are each valid.
    pub(super) fn report(&mut self, severity: Severity, key: &'static str, reason: &str) {
        let problem = Problem::new(self.subject(key), reason);
        match severity {
            Severity::Error => self.problems.push(problem),
            Severity::Warning => self.warnings.push(problem),
        }
    }

    /// The setting as the user wrote it, or its variable if it was not given.
    pub(super) fn subject(&self, key: &'static str) -> String {
        match self.texts.get(key).filter(|_| self.texts.is_given(key)) {
            Some(text) => text.subject(),
            None => self.name(key).to_owned(),
        }
    }

    /// A setting with its value, for messages: `LLAMATOWER_MAX_IN_FLIGHT (10)`.
    pub(super) fn named(&self, key: &'static str) -> String {
        let text = self.texts.get(key);
        let is_secret = self
            .setting(key)
            .is_some_and(|setting| setting.form.is_secret());
        let value = match text {
            None => "not set".to_owned(),
            Some(_) if is_secret => return self.subject(key),
            Some(text) if self.texts.is_given(key) => shown(text),
            Some(text) => format!("{}, the default", shown(text)),
        };
        format!("{} ({value})", self.subject(key))
    }

    fn setting(&self, key: &str) -> Option<&'static Setting> {
        self.settings.iter().find(|setting| setting.key == key)
    }

    /// The variable of a setting.
    fn name(&self, key: &'static str) -> &'static str {
        self.setting(key).map_or(key, |setting| setting.variable)
    }
}

/// The value of a setting that is not secret. An address with an @ may contain a password.
fn shown(text: &Text) -> String {
    match has_user(&text.value) {
        true => "its value is not shown".to_owned(),
        false => text.value.clone(),
    }
}

fn problem(text: &Text, reason: &str) -> Problem {
    let setting = text.setting;
    let value = match setting.form.is_secret() || has_user(&text.value) {
        true => "its value is not shown".to_owned(),
        false => format!("it is {:?}", text.value),
    };
    let expected = setting.form.hint();
    let expected = expected.map(|form| format!("; expected {form}"));
    let expected = expected.unwrap_or_default();
    Problem::new(text.subject(), format!("{reason} ({value}{expected})"))
}
