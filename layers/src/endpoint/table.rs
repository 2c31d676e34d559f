//! The table of endpoints.

use std::sync::Arc;

use http::Method;

use super::{Endpoint, Operation, RouteMatch, parameter};
use crate::Dialect;

/// All endpoints, by exact path.
#[derive(Clone, Debug)]
pub struct EndpointTable {
    // Sorted by path: a few comparisons are cheaper than hashing the path.
    exact: Vec<Arc<Endpoint>>,
    by_prefix: Vec<(Arc<str>, Arc<Endpoint>)>,
}

/// The path cannot be in the table.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not an exact path: it must begin with / and contain only letters, digits, '-', '_', '.' and single slashes"
)]
pub struct InvalidPath(String);

impl EndpointTable {
    /// The routes of Ollama 0.33.
    pub fn ollama() -> Self {
        use Dialect::{Anthropic, Ollama, OpenAi, Responses, Text};
        let get = &[Method::GET][..];
        let get_head = &[Method::GET, Method::HEAD][..];
        let post = &[Method::POST][..];
        let delete = &[Method::DELETE][..];
        let blob = &[Method::HEAD, Method::POST][..];
        let rows: &[(&str, &[Method], Dialect, Operation, bool)] = &[
            ("/", get_head, Text, Operation::Root, false),
            ("/api/version", get_head, Ollama, Operation::Version, false),
            ("/api/status", get, Ollama, Operation::Status, false),
            ("/api/tags", get_head, Ollama, Operation::Tags, false),
            ("/api/ps", get, Ollama, Operation::Ps, false),
            ("/api/show", post, Ollama, Operation::Show, false),
            ("/api/generate", post, Ollama, Operation::Generate, true),
            ("/api/chat", post, Ollama, Operation::Chat, true),
            ("/api/embed", post, Ollama, Operation::Embed, false),
            ("/api/embeddings", post, Ollama, Operation::Embed, false),
            ("/api/pull", post, Ollama, Operation::Pull, true),
            ("/api/push", post, Ollama, Operation::Push, true),
            ("/api/create", post, Ollama, Operation::Create, true),
            ("/api/blobs/{}", blob, Ollama, Operation::Blob, false),
            ("/api/copy", post, Ollama, Operation::Copy, false),
            ("/api/delete", delete, Ollama, Operation::Delete, false),
            ("/api/me", post, Ollama, Operation::Account, false),
            ("/api/signout", post, Ollama, Operation::Account, false),
            (
                "/api/user/keys/{}",
                delete,
                Ollama,
                Operation::Account,
                false,
            ),
            (
                "/api/experimental/web_search",
                post,
                Ollama,
                Operation::Account,
                false,
            ),
            (
                "/api/experimental/web_fetch",
                post,
                Ollama,
                Operation::Account,
                false,
            ),
            ("/v1/chat/completions", post, OpenAi, Operation::Chat, false),
            ("/v1/completions", post, OpenAi, Operation::Generate, false),
            ("/v1/embeddings", post, OpenAi, Operation::Embed, false),
            ("/v1/models", get, OpenAi, Operation::Models, false),
            ("/v1/models/{}", get, OpenAi, Operation::Model, false),
            (
                "/v1/audio/transcriptions",
                post,
                OpenAi,
                Operation::Transcribe,
                false,
            ),
            ("/v1/responses", post, Responses, Operation::Chat, false),
            ("/v1/messages", post, Anthropic, Operation::Chat, false),
        ];
        let mut table = Self {
            exact: Vec::new(),
            by_prefix: Vec::new(),
        };
        for &(route, methods, dialect, operation, streams_by_default) in rows {
            table.insert(Endpoint {
                route: route.into(),
                methods: methods.into(),
                dialect,
                operation,
                streams_by_default,
            });
        }
        table
    }

    /// Adds an exact path that Ollama has and this table does not contain yet. Its body is parsed
    /// like that of a chat, to find the model.
    ///
    /// # Errors
    /// The path cannot be compared byte for byte.
    pub fn with_path(mut self, path: &str, methods: &[Method]) -> Result<Self, InvalidPath> {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_./".contains(&b);
        let is_valid = path.len() > 1
            && path.starts_with('/')
            && path.bytes().all(plain)
            && path[1..]
                .split('/')
                .all(|part| !matches!(part, "" | "." | ".."));
        if !is_valid {
            return Err(InvalidPath(path.to_owned()));
        }
        self.insert(Endpoint {
            route: path.into(),
            methods: methods.into(),
            dialect: Dialect::of_path(path),
            operation: Operation::Extra,
            streams_by_default: path.starts_with("/api/"),
        });
        Ok(self)
    }

    /// All rows, beginning with those without a parameter.
    pub fn endpoints(&self) -> impl Iterator<Item = &Arc<Endpoint>> {
        let by_prefix = self.by_prefix.iter().map(|(_, endpoint)| endpoint);
        self.exact.iter().chain(by_prefix)
    }

    fn insert(&mut self, endpoint: Endpoint) {
        let endpoint = Arc::new(endpoint);
        match endpoint.route.strip_suffix("{}") {
            Some(prefix) => self.by_prefix.push((prefix.into(), endpoint)),
            None => match self.exact_index(&endpoint.route) {
                Ok(known) => self.exact[known] = endpoint,
                Err(place) => self.exact.insert(place, endpoint),
            },
        }
    }

    fn exact_index(&self, path: &str) -> Result<usize, usize> {
        self.exact
            .binary_search_by(|endpoint| (*endpoint.route).cmp(path))
    }

    /// The endpoint of a method and a raw path.
    pub fn look_up(&self, method: &Method, path: &str) -> RouteMatch {
        let found = match self.exact_index(path) {
            Ok(index) => Some((&self.exact[index], None)),
            Err(_) => self.by_prefix.iter().find_map(|(prefix, endpoint)| {
                let value = path.strip_prefix(&**prefix)?;
                let parameter = parameter::parse(value, endpoint.operation == Operation::Model)?;
                Some((endpoint, Some(parameter)))
            }),
        };
        match found {
            Some((endpoint, parameter)) if endpoint.methods.contains(method) => RouteMatch::Found {
                endpoint: endpoint.clone(),
                parameter,
            },
            Some((endpoint, _)) => RouteMatch::WrongMethod {
                endpoint: endpoint.clone(),
            },
            None => RouteMatch::Unknown {
                dialect: Dialect::Text,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(method: Method, path: &str) -> RouteMatch {
        EndpointTable::ollama().look_up(&method, path)
    }

    #[test]
    fn a_path_that_ollama_would_clean_is_unknown() {
        for path in [
            "//api/tags",
            "/api/tags/",
            "/api/x/../tags",
            "/api/%74ags",
            "/api/tags;x",
            "/API/tags",
            "/api/blobs/",
            "/api/blobs/..",
            "/api/blobs/a/b",
            "/api/blobs/a%2fb",
            "/v1%2fmodels/a",
            "/v1/%6dodels/a",
            "/v1/models/../models/a",
            "/v1/models/a%2f..%2f..%2fapi%2ftags",
            "",
        ] {
            assert!(
                matches!(route(Method::GET, path), RouteMatch::Unknown { .. }),
                "{path}"
            );
        }
    }

    #[test]
    fn the_upstream_path_is_built_from_the_table() {
        let found = route(Method::HEAD, "/api/blobs/sha256:00ff");
        assert_eq!(
            found.upstream_path().as_deref(),
            Some("/api/blobs/sha256:00ff")
        );
        let encoded = route(Method::HEAD, "/api/blobs/sha256%3A00ff");
        assert_eq!(encoded.upstream_path(), found.upstream_path());
        let model = route(Method::GET, "/v1/models/aaa%2Fllava%3A13b");
        assert_eq!(
            model.upstream_path().as_deref(),
            Some("/v1/models/aaa/llava:13b")
        );
        assert_eq!(found.operation(), Some(Operation::Blob));
        assert_eq!(found.endpoint().map(|e| &*e.route), Some("/api/blobs/{}"));
    }

    #[test]
    fn a_known_path_with_a_wrong_method_lists_the_allowed_ones() {
        let found = route(Method::HEAD, "/api/ps");
        assert!(matches!(found, RouteMatch::WrongMethod { .. }));
        assert_eq!(
            found.endpoint().map(|e| e.methods.to_vec()),
            Some(vec![Method::GET])
        );
        assert_eq!(found.dialect(), Dialect::Text);
    }

    #[test]
    fn an_extra_path_must_be_exact() {
        let table = EndpointTable::ollama();
        for path in [
            "",
            "/",
            "api/x",
            "/api//x",
            "/api/%78",
            "/api/../x",
            "/api/x?y",
        ] {
            assert!(
                table.clone().with_path(path, &[Method::POST]).is_err(),
                "{path}"
            );
        }
        let table = table
            .with_path("/api/rerank", &[Method::POST])
            .expect("an exact path");
        assert_eq!(
            table.look_up(&Method::POST, "/api/rerank").operation(),
            Some(Operation::Extra)
        );
    }
}
