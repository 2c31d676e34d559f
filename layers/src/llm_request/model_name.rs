//! Model names: many spellings, one model.

use std::borrow::Cow;
use std::fmt;
use std::hash::{BuildHasher, Hash, Hasher, RandomState};
use std::sync::{Arc, LazyLock};

use http::StatusCode;

use crate::{Fail, Side};

const DEFAULT_HOST: &str = "registry.ollama.ai";
const DEFAULT_NAMESPACE: &str = "library";
const DEFAULT_TAG: &str = "latest";
const CLOUD_ENDING: &str = "-cloud";

/// A model's name by Ollama's rules (its `types/model`, 0.33): host, namespace, model and tag. All
/// but the model have a default.
///
/// Two names are equal, and have the same hash, if Ollama treats them as the same model: with
/// defaults filled in, case folded and the source ignored. [`Display`](fmt::Display) shows the
/// shortest form, always with a tag, as Ollama's lists do.
///
/// ```
/// use llamatower_layers::llm_request::{ModelName, ModelSource};
///
/// let name = ModelName::parse("LLaMA3")?;
/// assert_eq!(name, ModelName::parse("registry.ollama.ai/library/llama3:latest")?);
/// assert_eq!(name.to_string(), "LLaMA3:latest");
/// assert_eq!(ModelName::parse("gpt-oss:20b-cloud")?.source(), ModelSource::Cloud);
/// # Ok::<_, llamatower_layers::llm_request::InvalidModelName>(())
/// ```
#[derive(Clone)]
pub struct ModelName {
    // The hash of the lower-case name, stored because names are looked up far more often than they
    // are parsed.
    hash: u64,
    parts: Arc<Parts>,
}

struct Parts {
    // host/namespace/model:tag with defaults filled in, in the original case.
    full: Box<str>,
    // The indices of the namespace, the model and the tag.
    namespace: usize,
    model: usize,
    tag: usize,
    source: ModelSource,
}

/// Where a model runs, by the end of its name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ModelSource {
    /// Not specified: locally.
    #[default]
    Unspecified,
    /// Locally (`:local`).
    Local,
    /// In Ollama's cloud (`:cloud`, or a tag that ends with `-cloud`): the prompt leaves the site.
    Cloud,
}

/// The text is not a model name. The error's text is Ollama's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid model name")]
pub struct InvalidModelName;

impl ModelName {
    /// Parses a name as a client writes it.
    ///
    /// A cloud model's name keeps its suffix, in the form that servers list (`x:cloud`;
    /// `x:7b-cloud` also for `x:7b:cloud`). `:local` is dropped.
    ///
    /// # Errors
    /// A part is missing, too long or contains an invalid character; or the name has a digest
    /// (`@sha256:..`), which Ollama does not accept.
    pub fn parse(name: &str) -> Result<Self, InvalidModelName> {
        let name = name.trim();
        let (base, source) = split_source(name).unwrap_or((name, ModelSource::Unspecified));
        // Ollama refuses a second suffix (`x:local:cloud`).
        if source != ModelSource::Unspecified && split_source(base).is_some() {
            return Err(InvalidModelName);
        }
        let name: Cow<'_, str> = match source {
            ModelSource::Cloud if base[last_part(base)..].contains(':') => {
                format!("{base}{CLOUD_ENDING}").into()
            }
            ModelSource::Cloud => format!("{base}:cloud").into(),
            ModelSource::Local | ModelSource::Unspecified => base.into(),
        };
        let last = last_part(&name);
        let (path, tag) = match name[last..].rfind(':') {
            Some(at) => (&name[..last + at], &name[last + at + 1..]),
            None => (&*name, DEFAULT_TAG),
        };
        let (path, model) = path.rsplit_once('/').unwrap_or((DEFAULT_NAMESPACE, path));
        let (host, namespace) = match path.rsplit_once('/') {
            // The scheme is not part of the name.
            Some((host, namespace)) => match host.split_once("://") {
                Some((_, host)) => (host, namespace),
                None => (host, namespace),
            },
            None => (DEFAULT_HOST, path),
        };
        let is_valid = is_part(host, 350, ".:")
            && is_part(namespace, 80, "")
            && is_part(model, 80, ".")
            && is_part(tag, 80, ".");
        if !is_valid {
            return Err(InvalidModelName);
        }
        let namespace_at = host.len() + 1;
        let model_at = namespace_at + namespace.len() + 1;
        let full = [host, "/", namespace, "/", model, ":", tag].concat();
        Ok(Self {
            hash: folded_hash(&full),
            parts: Arc::new(Parts {
                full: full.into(),
                namespace: namespace_at,
                model: model_at,
                tag: model_at + model.len() + 1,
                source,
            }),
        })
    }

    /// The model's registry.
    pub fn host(&self) -> &str {
        &self.full()[..self.parts.namespace - 1]
    }

    /// The model's namespace, usually its owner.
    pub fn namespace(&self) -> &str {
        &self.full()[self.parts.namespace..self.parts.model - 1]
    }

    /// The model's name without host, namespace and tag.
    pub fn model(&self) -> &str {
        &self.full()[self.parts.model..self.parts.tag - 1]
    }

    /// The variant of the model.
    pub fn tag(&self) -> &str {
        &self.full()[self.parts.tag..]
    }

    /// Where the model runs.
    pub fn source(&self) -> ModelSource {
        self.parts.source
    }

    /// Whether the name's registry is not Ollama's own.
    pub fn has_foreign_host(&self) -> bool {
        !self.host().eq_ignore_ascii_case(DEFAULT_HOST)
    }

    /// The name with all its parts.
    pub fn full(&self) -> &str {
        &self.parts.full
    }
}

/// Clients choose the names, so the hash contains a random secret of this process.
fn folded_hash(full: &str) -> u64 {
    static KEYS: LazyLock<RandomState> = LazyLock::new(RandomState::new);
    match full.bytes().any(|byte| byte.is_ascii_uppercase()) {
        true => KEYS.hash_one(full.to_ascii_lowercase()),
        false => KEYS.hash_one(full),
    }
}

/// Removes the suffix that tells where the model runs.
fn split_source(name: &str) -> Option<(&str, ModelSource)> {
    let (base, tag) = name.rsplit_once(':')?;
    if tag.eq_ignore_ascii_case("local") {
        return Some((base, ModelSource::Local));
    }
    if tag.eq_ignore_ascii_case("cloud") {
        return Some((base, ModelSource::Cloud));
    }
    let ending = name.len().checked_sub(CLOUD_ENDING.len())?;
    let is_cloud = name.get(ending..)?.eq_ignore_ascii_case(CLOUD_ENDING);
    (is_cloud && !tag.contains('/')).then(|| (&name[..ending], ModelSource::Cloud))
}

/// The index of the part after a name's last slash.
fn last_part(name: &str) -> usize {
    name.rfind('/').map_or(0, |slash| slash + 1)
}

/// Whether a part begins with a letter, a digit or `_` and continues with those, `-` and `also`.
fn is_part(part: &str, longest: usize, also: &str) -> bool {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let bytes = part.as_bytes();
    part.len() <= longest
        && bytes.first().is_some_and(|byte| is_word(*byte))
        && bytes
            .iter()
            .all(|&byte| is_word(byte) || byte == b'-' || also.as_bytes().contains(&byte))
}

impl PartialEq for ModelName {
    fn eq(&self, other: &Self) -> bool {
        let is_equal = || self.full().eq_ignore_ascii_case(other.full());
        Arc::ptr_eq(&self.parts, &other.parts) || self.hash == other.hash && is_equal()
    }
}

impl Eq for ModelName {}

impl Hash for ModelName {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

impl fmt::Display for ModelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let begin = if self.has_foreign_host() {
            0
        } else if !self.namespace().eq_ignore_ascii_case(DEFAULT_NAMESPACE) {
            self.parts.namespace
        } else {
            self.parts.model
        };
        f.write_str(&self.full()[begin..])
    }
}

impl fmt::Debug for ModelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ModelName({})", self.full())
    }
}

impl std::str::FromStr for ModelName {
    type Err = InvalidModelName;

    fn from_str(name: &str) -> Result<Self, InvalidModelName> {
        Self::parse(name)
    }
}

impl Fail for InvalidModelName {
    fn side(&self) -> Side {
        Side::Client
    }
    fn status(&self) -> StatusCode {
        StatusCode::BAD_REQUEST
    }
    fn kind(&self) -> &'static str {
        "invalid_model_name"
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn names_have_one_canonical_and_one_shortest_form() {
        for (written, full, shortest) in [
            (
                "llama3",
                "registry.ollama.ai/library/llama3:latest",
                "llama3:latest",
            ),
            (
                "llama3:8b",
                "registry.ollama.ai/library/llama3:8b",
                "llama3:8b",
            ),
            (
                " tiny\n",
                "registry.ollama.ai/library/tiny:latest",
                "tiny:latest",
            ),
            (
                "LIBRARY/Tiny",
                "registry.ollama.ai/LIBRARY/Tiny:latest",
                "Tiny:latest",
            ),
            ("me/tiny:X", "registry.ollama.ai/me/tiny:X", "me/tiny:X"),
            ("hf.co/a/b.c:q4", "hf.co/a/b.c:q4", "hf.co/a/b.c:q4"),
            (
                "hf.co/library/b",
                "hf.co/library/b:latest",
                "hf.co/library/b:latest",
            ),
            (
                "localhost:5000/a/b",
                "localhost:5000/a/b:latest",
                "localhost:5000/a/b:latest",
            ),
            ("http://h:1/a/b:c", "h:1/a/b:c", "h:1/a/b:c"),
            (
                "Registry.Ollama.AI/library/a",
                "Registry.Ollama.AI/library/a:latest",
                "a:latest",
            ),
            (
                "_a-b.c:_d",
                "registry.ollama.ai/library/_a-b.c:_d",
                "_a-b.c:_d",
            ),
        ] {
            let name = ModelName::parse(written).unwrap();
            assert_eq!((name.full(), &*name.to_string()), (full, shortest));
            assert_eq!(ModelName::parse(shortest).unwrap(), name, "{written}");
        }
    }

    #[test]
    fn all_spellings_of_a_model_are_equal() {
        let mut models = HashMap::new();
        for name in ["llama3", "LLAMA3:Latest", "library/llama3", "llama3:local"] {
            *models.entry(ModelName::parse(name).unwrap()).or_insert(0) += 1;
        }
        for name in [
            "llama3:8b",
            "me/llama3",
            "hf.co/library/llama3",
            "llama3:cloud",
        ] {
            models.insert(ModelName::parse(name).unwrap(), 1);
        }
        assert_eq!(models.len(), 5);
        assert_eq!(models[&ModelName::parse("Llama3").unwrap()], 4);
    }

    #[test]
    fn names_that_ollama_refuses_are_invalid() {
        let long = |bytes: usize| "a".repeat(bytes);
        for name in [
            "",
            " ",
            ":",
            "a:",
            ":b",
            "/",
            "a/",
            "/a",
            "a//b",
            "n.s/a",
            "a b",
            "a\nb",
            "../../etc",
            "..",
            "-a",
            ".a",
            "a:-b",
            "a@sha256:00",
            "@sha256:00",
            "a:b@sha256:00",
            "ä",
            "a+b",
            "a:b:c",
            "h/n/a/b:c:d",
            "a:local:cloud",
            "a:7b-cloud:local",
            "a:cloud-cloud",
            "a:-cloud",
            ":cloud",
            "://n/a",
            "a\0",
            "a\\b",
            &long(81),
            &format!("{}/a", long(81)),
            &format!("a:{}", long(81)),
            &format!("{}/n/a", long(351)),
        ] {
            assert!(ModelName::parse(name).is_err(), "{name:?}");
        }
        let longest = format!("{}/{}/{}:{}", long(350), long(80), long(80), long(80));
        assert!(ModelName::parse(&longest).is_ok());
    }

    #[test]
    fn the_end_of_a_name_determines_the_source() {
        use ModelSource::{Cloud, Local, Unspecified};
        for (written, shortest, source) in [
            ("a:cloud", "a:cloud", Cloud),
            ("a:7b-Cloud", "a:7b-cloud", Cloud),
            ("a:7b:cloud", "a:7b-cloud", Cloud),
            ("h:1/n/a:cloud", "h:1/n/a:cloud", Cloud),
            ("a:CLOUD", "a:cloud", Cloud),
            ("a:local", "a:latest", Local),
            ("a:7b:local", "a:7b", Local),
            ("a-cloud", "a-cloud:latest", Unspecified),
            ("a:cloudy", "a:cloudy", Unspecified),
            ("cloud/a", "cloud/a:latest", Unspecified),
        ] {
            let name = ModelName::parse(written).unwrap();
            assert_eq!((&*name.to_string(), name.source()), (shortest, source));
        }
    }

    #[test]
    fn a_foreign_registry_is_detected() {
        assert!(ModelName::parse("hf.co/a/b").unwrap().has_foreign_host());
        assert!(!ModelName::parse("a/b").unwrap().has_foreign_host());
    }
}
