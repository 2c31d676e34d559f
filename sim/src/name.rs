//! Names of models, read as Ollama reads them.

/// A name with all its parts. Equal under [`Name::key`], which folds case.
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
    /// `None` when a part is not one that a name may have.
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
        let sound = is_part(host, ".:", 350)
            && is_part(namespace, "", 80)
            && is_part(model, ".", 80)
            && is_part(tag, ".", 80);
        sound.then(|| Self {
            host: host.to_owned(),
            namespace: namespace.to_owned(),
            model: model.to_owned(),
            tag: tag.to_owned(),
        })
    }

    /// What look-ups compare.
    pub(crate) fn key(&self) -> String {
        self.full().to_ascii_lowercase()
    }

    /// All parts.
    pub(crate) fn full(&self) -> String {
        let Self {
            host,
            namespace,
            model,
            tag,
        } = self;
        format!("{host}/{namespace}/{model}:{tag}")
    }

    /// What lists show: no part that is the default, but always the tag.
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

    /// Where a registry keeps it.
    pub(crate) fn manifest(&self) -> String {
        let Self {
            host,
            namespace,
            model,
            tag,
        } = self;
        format!("https://{host}/v2/{namespace}/{model}/manifests/{tag}")
    }

    /// Where the store keeps it.
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
    fn what_is_no_name_is_refused() {
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
