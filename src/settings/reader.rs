//! Texts into settings.

use super::error::Problem;
use super::parse::Parsed;
use super::source::{Text, Texts};
use crate::ollama::upstream::has_user;

/// Reads one value after the other and collects what is wrong.
pub(super) struct Reader {
    pub(super) texts: Texts,
    pub(super) problems: Vec<Problem>,
}

impl Reader {
    /// The value of a setting; that of an empty text if there is neither a value nor a default.
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
                None
            }
        }
    }

    /// The value of a setting is wrong.
    pub(super) fn wrong(&mut self, key: &'static str, reason: &str) {
        let problem = match self.texts.get(key) {
            Some(text) => problem(text, reason),
            None => Problem::new(key, reason),
        };
        self.problems.push(problem);
    }
}

fn problem(text: &Text, reason: &str) -> Problem {
    let setting = text.setting;
    let subject = match text.source.starts_with(setting.variable) {
        true => text.source.clone(),
        false => format!("{} in {}", setting.key, text.source),
    };
    // An address with an @ may hold a password.
    let shown = match setting.form.is_secret() || has_user(&text.value) {
        true => "its value is not shown".to_owned(),
        false => format!("it is {:?}", text.value),
    };
    let form = setting.form.describe();
    Problem::new(subject, format!("{reason} ({shown}; expected {form})"))
}
