//! Model names, parsed like in Ollama.

/// A name with all its parts. Compare names by [`Name::key`], which ignores case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Name {
    host: String,
    namespace: String,
    model: String,
    tag: String,
}

const HOST: &str = "registry.ollama.ai";
const NAMESPACE: &str = "library";

impl Name {
    /// `None` if a part is not valid.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let rest = text
            .strip_prefix("http://")
            .or(text.strip_prefix("https://"));
        let rest = rest.unwrap_or(text);
        let (path, tag) = match rest.rsplit_once(':') {
            Some((path, tag)) if !tag.contains('/') => (path, tag),
            _ => (rest, "latest"),
        };
        let mut parts = path.rsplitn(3, '/');
        let model = parts.next().unwrap_or_default();
        let namespace = parts.next().unwrap_or(NAMESPACE);
        let host = parts.next().unwrap_or(HOST);
        let valid = is_part(host, ".:", 350)
            && is_part(namespace, "", 80)
            && is_part(model, ".", 80)
            && is_part(tag, ".", 80);
        valid.then(|| Self {
            host: host.to_owned(),
            namespace: namespace.to_owned(),
            model: model.to_owned(),
            tag: tag.to_owned(),
        })
    }

    /// The key for look-ups.
    pub(crate) fn key(&self) -> String {
        self.full().to_ascii_lowercase()
    }

    /// The name with all parts.
    pub(crate) fn full(&self) -> String {
        let Self {
            host,
            namespace,
            model,
            tag,
        } = self;
        format!("{host}/{namespace}/{model}:{tag}")
    }

    /// The name in lists: without default parts, but always with the tag.
    pub(crate) fn short(&self) -> String {
        let (model, tag, space) = (&self.model, &self.tag, &self.namespace);
        if !self.host.eq_ignore_ascii_case(HOST) {
            self.full()
        } else if !space.eq_ignore_ascii_case(NAMESPACE) {
            format!("{space}/{model}:{tag}")
        } else {
            format!("{model}:{tag}")
        }
    }

    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    /// The URL of the manifest in the registry.
    pub(crate) fn manifest(&self) -> String {
        let Self {
            host,
            namespace,
            model,
            tag,
        } = self;
        format!("https://{host}/v2/{namespace}/{model}/manifests/{tag}")
    }

    /// The file of the manifest in the store.
    pub(crate) fn file(&self) -> String {
        self.full().replacen(':', "/", 1)
    }
}

fn is_part(part: &str, also: &str, longest: usize) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
    part.len() <= longest
        && part.starts_with(plain)
        && part
            .chars()
            .all(|c| plain(c) || c == '-' || also.contains(c))
}

#[cfg(test)]
mod tests {
    use super::Name;

    #[test]
    fn all_spellings_of_a_name_have_one_key() {
        let keys = [
            "tiny",
            "TINY:latest",
            "library/tiny",
            "registry.ollama.ai/library/tiny:Latest",
        ]
        .map(|text| Name::parse(text).map(|name| name.key()));
        assert!(keys.iter().all(|key| key == &keys[0] && key.is_some()));
    }

    #[test]
    fn invalid_names_are_refused() {
        for text in [
            "",
            "../../etc",
            "a\nb",
            "tiny@sha256:00",
            "a/b.c/d",
            "a b",
            "x:",
        ] {
            assert!(Name::parse(text).is_none(), "{text:?}");
        }
    }
}
