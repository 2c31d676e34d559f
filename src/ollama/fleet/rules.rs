//! What the configuration says about a server, beyond its address.

use std::fmt;
use std::num::NonZeroUsize;
use std::str::FromStr;
use std::sync::Arc;

use llamatower_layers::ModelName;

/// The configured properties of a server.
#[derive(Clone, Debug, PartialEq)]
pub struct ServerRules {
    /// How fast it is, as a factor: finite and above 0.
    pub weight: f64,
    /// Limit of its concurrent requests that run a model, over all models.
    pub max_in_flight: Option<NonZeroUsize>,
    /// Words that describe it.
    pub labels: Vec<Arc<str>>,
    /// The models that may run there.
    pub models: AllowedModels,
    /// The models that the gateway loads there by itself, each once.
    pub preloads: Vec<Preload>,
}

/// A model that the gateway loads by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Preload {
    /// The model.
    pub model: ModelName,
    /// Whether it is kept in memory. Otherwise it is loaded once after the server has come up.
    pub is_pinned: bool,
    /// Whether the settings name the server. Otherwise the model is for each server that has it.
    pub is_named: bool,
}

impl Preload {
    /// The setting that it comes from.
    pub(super) fn setting(&self) -> &'static str {
        match self.is_pinned {
            true => "LLAMATOWER_PINNED_MODELS",
            false => "LLAMATOWER_PRELOAD_MODELS",
        }
    }
}

impl ServerRules {
    /// Whether a model is to stay in memory.
    pub(super) fn is_pinned(&self, model: &ModelName) -> bool {
        let mut pinned = self.preloads.iter().filter(|preload| preload.is_pinned);
        pinned.any(|pinned| pinned.model == *model)
    }

    /// The models that are kept in memory.
    pub(super) fn pinned(&self) -> Vec<ModelName> {
        let pinned = self.preloads.iter().filter(|row| row.is_pinned);
        pinned.map(|row| row.model.clone()).collect()
    }

    /// The models that must not be unloaded for a preload: the pinned ones and, for one that is not
    /// pinned, also the others.
    pub(super) fn kept_beside(&self, preload: &Preload) -> Vec<ModelName> {
        let stay = self.preloads.iter().filter(|other| {
            other.model != preload.model && (other.is_pinned || !preload.is_pinned)
        });
        stay.map(|other| other.model.clone()).collect()
    }
}

impl Default for ServerRules {
    fn default() -> Self {
        Self {
            weight: 1.0,
            max_in_flight: None,
            labels: Vec::new(),
            models: AllowedModels::default(),
            preloads: Vec::new(),
        }
    }
}

/// The models that may run on a server: all, or those that match a pattern.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AllowedModels(Vec<ModelPattern>);

impl AllowedModels {
    /// All models if there is no pattern.
    pub fn new(patterns: Vec<ModelPattern>) -> Self {
        Self(patterns)
    }

    /// Whether a model may run there.
    pub fn allow(&self, model: &ModelName) -> bool {
        self.0.is_empty() || self.0.iter().any(|pattern| pattern.matches(model))
    }
}

/// A model's name, or a pattern for several names, in which `*` stands for any text.
///
/// A name has the tag `latest` if it has none, as everywhere in Ollama. A pattern is compared with
/// the name as lists show it, with its tag: `llama3*` also matches `llama3.2:1b`, and `*:70b` any
/// model with this tag. Upper and lower case are the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelPattern(Form);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Form {
    Name(ModelName),
    /// In lower case.
    Pattern(Box<str>),
}

impl ModelPattern {
    /// Whether a name matches.
    pub fn matches(&self, model: &ModelName) -> bool {
        match &self.0 {
            Form::Name(name) => name == model,
            Form::Pattern(pattern) => is_match(pattern, &model.to_string().to_ascii_lowercase()),
        }
    }
}

/// Whether a text matches a pattern in which `*` stands for any text. The parts between the stars
/// are found from left to right, each at its first place, which leaves the most for the others.
fn is_match(pattern: &str, text: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else {
        return pattern == text;
    };
    let Some(mut text) = text.strip_prefix(first) else {
        return false;
    };
    let (middle, last) = rest.rsplit_once('*').unwrap_or(("", rest));
    for part in middle.split('*') {
        match text.find(part) {
            Some(at) => text = &text[at + part.len()..],
            None => return false,
        }
    }
    text.ends_with(last)
}

impl FromStr for ModelPattern {
    type Err = InvalidPattern;

    fn from_str(text: &str) -> Result<Self, InvalidPattern> {
        let text = text.trim();
        if !text.contains('*') {
            let name = ModelName::parse(text).map_err(|_| InvalidPattern)?;
            return Ok(Self(Form::Name(name)));
        }
        // A star may stand for a part of a name, or for several parts with slashes.
        let could_be = |stars| ModelName::parse(&text.replace('*', stars)).is_ok();
        match could_be("x") || could_be("x/x") {
            true => Ok(Self(Form::Pattern(text.to_ascii_lowercase().into()))),
            false => Err(InvalidPattern),
        }
    }
}

impl fmt::Display for ModelPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Form::Name(name) => name.fmt(f),
            Form::Pattern(pattern) => f.write_str(pattern),
        }
    }
}

/// The text is neither the name of a model nor a pattern for names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it is neither a model's name nor a pattern like llama3* or *:70b")]
pub struct InvalidPattern;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn matches(pattern: &str, model: &str) -> bool {
        let pattern: ModelPattern = pattern.parse().unwrap();
        pattern.matches(&ModelName::parse(model).unwrap())
    }

    #[test]
    fn a_name_matches_its_spellings_and_no_other_model() {
        assert!(matches("llama3", "LLaMA3:latest"));
        assert!(matches("registry.ollama.ai/library/llama3", "llama3"));
        assert!(!matches("llama3", "llama3:8b"));
        assert!(!matches("llama3", "llama3.2"));
    }

    #[test]
    fn a_star_stands_for_any_text() {
        for (pattern, model) in [
            ("*", "anything/at:all"),
            ("llama3*", "llama3.2:1b"),
            ("LLAMA3*", "llama3"),
            ("*:70b", "llama3:70b"),
            ("qwen3:*", "qwen3"),
            ("*coder*:*b", "qwen2.5-coder:7b"),
            ("hf.co/*", "hf.co/user/model:q4"),
            ("*-cloud", "gpt-oss:20b-cloud"),
            ("a*a", "aba:a"),
        ] {
            assert!(matches(pattern, model), "{pattern} {model}");
        }
        for (pattern, model) in [
            ("llama3*", "my-llama3"),
            ("*:70b", "llama3:70b-q4"),
            ("qwen3:*", "qwen3.5:4b"),
            ("a*b*b:latest", "ab"),
            ("*:latest:*", "a"),
        ] {
            let pattern: Result<ModelPattern, _> = pattern.parse();
            let model = ModelName::parse(model).unwrap();
            assert!(!pattern.is_ok_and(|pattern| pattern.matches(&model)));
        }
    }

    #[test]
    fn a_pattern_that_no_name_can_match_is_refused() {
        for text in [
            "",
            "a b",
            "a@*",
            "*@sha256:1",
            "a:*:b:*",
            "/*",
            "a//*",
            "-*",
        ] {
            assert_eq!(text.parse::<ModelPattern>(), Err(InvalidPattern), "{text}");
        }
    }

    #[test]
    fn without_a_pattern_all_models_are_allowed() {
        let model = ModelName::parse("a").unwrap();
        assert!(AllowedModels::default().allow(&model));
        let others = AllowedModels::new(vec!["b".parse().unwrap(), "c*".parse().unwrap()]);
        assert!(!others.allow(&model));
        assert!(others.allow(&ModelName::parse("c:7b").unwrap()));
    }
}
