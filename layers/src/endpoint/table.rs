//! The table of endpoints.

use std::sync::Arc;

use http::Method;

use super::{Endpoint, Operation, RouteMatch, parameter};
use crate::Dialect;

/// The endpoints of an API, by exact path.
///
/// [`ollama`](Self::ollama), [`openai`](Self::openai) and [`anthropic`](Self::anthropic) are the tables of
/// these APIs. They can be combined, and rows can be added:
///
/// ```
/// use http::Method;
/// use llamatower_layers::{Dialect, EndpointTable, Operation};
///
/// # fn main() -> Result<(), llamatower_layers::endpoint::InvalidPath> {
/// let table = EndpointTable::openai()
///     .merge(EndpointTable::anthropic())
///     .route("/v1/rerank", &[Method::POST], Dialect::OpenAi, Operation::Extra)?
///     .route("/health", &[Method::GET], Dialect::Text, Operation::Status)?;
///
/// let found = table.look_up(&Method::POST, "/v1/rerank");
/// assert_eq!(found.operation(), Some(Operation::Extra));
/// // An unknown path is refused in the dialect of the rows that it resembles.
/// let unknown = table.look_up(&Method::POST, "/v1/chat/completion");
/// assert_eq!(unknown.dialect(), Dialect::OpenAi);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default)]
pub struct EndpointTable {
    // Sorted by path: a few comparisons are cheaper than hashing the path.
    exact: Vec<Arc<Endpoint>>,
    // The longest prefix first.
    by_prefix: Vec<(Arc<str>, Arc<Endpoint>)>,
    /// The dialects of the rows, in the order in which they were added.
    dialects: Vec<Dialect>,
    refusal_dialect: Option<Dialect>,
}

/// The path cannot be in the table.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not an exact path: it must begin with / and contain only letters, digits, '-', '_', '.' and single slashes"
)]
pub struct InvalidPath(String);

impl EndpointTable {
    /// A table without rows.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a row, or replaces the row of the same path. The response streams by default if Ollama's
    /// does: chats, completions and management of models in its dialect, and extra paths.
    ///
    /// The path is compared byte for byte. It contains letters, digits, `-`, `_`, `.` and single
    /// slashes; its last segment can be `{}`, a parameter. Exact paths come before parameters, and
    /// long prefixes before short ones. A parameter has no slash, except for a model's name
    /// ([`Operation::Model`]).
    ///
    /// # Errors
    /// The path cannot be compared byte for byte.
    pub fn route(
        self,
        path: &str,
        methods: &[Method],
        dialect: Dialect,
        operation: Operation,
    ) -> Result<Self, InvalidPath> {
        self.with_endpoint(Endpoint::new(path, methods, dialect, operation))
    }

    /// Like [`route`](Self::route), with a row that says itself whether its response streams by default.
    ///
    /// # Errors
    /// The path cannot be compared byte for byte.
    pub fn with_endpoint(mut self, endpoint: Endpoint) -> Result<Self, InvalidPath> {
        let path = &*endpoint.route;
        if !matches!(path, "/" | "/{}") {
            let segments = path.strip_suffix("/{}").unwrap_or(path);
            check_exact(segments).map_err(|_| InvalidPath(path.to_owned()))?;
        }
        self.insert(Arc::new(endpoint));
        Ok(self)
    }

    /// Adds an exact path that an operator has allowed, in the dialect that its beginning suggests.
    /// Its body is parsed like that of a chat, to find the model.
    ///
    /// # Errors
    /// The path cannot be compared byte for byte.
    pub fn with_path(self, path: &str, methods: &[Method]) -> Result<Self, InvalidPath> {
        check_exact(path)?;
        self.route(path, methods, Dialect::of_path(path), Operation::Extra)
    }

    /// Adds the rows of `other`, which replace rows of the same paths. The
    /// [dialect of refusals](Self::with_refusal_dialect) stays that of `self`.
    pub fn merge(mut self, other: Self) -> Self {
        for dialect in &other.dialects {
            self.note_dialect(*dialect);
        }
        for endpoint in other.endpoints() {
            self.insert(endpoint.clone());
        }
        self
    }

    /// The dialect of refusals of unknown paths and methods. `None`, the default, is the dialect of
    /// the rows that the path resembles: of those that share the most leading segments with it, and of
    /// several dialects the one that was added first.
    pub fn with_refusal_dialect(mut self, dialect: impl Into<Option<Dialect>>) -> Self {
        self.refusal_dialect = dialect.into();
        self
    }

    /// All rows, beginning with those without a parameter.
    pub fn endpoints(&self) -> impl Iterator<Item = &Arc<Endpoint>> {
        let by_prefix = self.by_prefix.iter().map(|(_, endpoint)| endpoint);
        self.exact.iter().chain(by_prefix)
    }

    pub(super) fn insert(&mut self, endpoint: Arc<Endpoint>) {
        self.note_dialect(endpoint.dialect);
        let Some(prefix) = endpoint.route.strip_suffix("{}") else {
            match self.exact_index(&endpoint.route) {
                Ok(known) => self.exact[known] = endpoint,
                Err(place) => self.exact.insert(place, endpoint),
            }
            return;
        };
        self.by_prefix.retain(|(known, _)| **known != *prefix);
        self.by_prefix.push((prefix.into(), endpoint));
        let longest_first = |(prefix, _): &(Arc<str>, _)| std::cmp::Reverse(prefix.len());
        self.by_prefix.sort_by_key(longest_first);
    }

    fn note_dialect(&mut self, dialect: Dialect) {
        if !self.dialects.contains(&dialect) {
            self.dialects.push(dialect);
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
                dialect: self.refusal_dialect.unwrap_or(endpoint.dialect),
            },
            None => RouteMatch::Unknown {
                dialect: match self.refusal_dialect {
                    Some(dialect) => dialect,
                    None => self.resembled(path),
                },
            },
        }
    }

    /// The dialect of the rows that share the most leading segments with an unknown path.
    fn resembled(&self, path: &str) -> Dialect {
        let likeness = |dialect: &Dialect| {
            let rows = self.endpoints().filter(|row| row.dialect == *dialect);
            rows.map(|row| shared_segments(&row.route, path)).max()
        };
        // Of equal elements, `max_by_key` returns the last one.
        let dialects = self.dialects.iter().rev();
        let most = dialects.max_by_key(|dialect| likeness(dialect));
        most.copied().unwrap_or(Dialect::Text)
    }
}

/// An error unless the path can be compared byte for byte.
fn check_exact(path: &str) -> Result<(), InvalidPath> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_./".contains(&b);
    let is_exact = path.strip_prefix('/').is_some_and(|rest| {
        rest.bytes().all(plain) && !rest.split('/').any(|part| matches!(part, "" | "." | ".."))
    });
    match is_exact {
        true => Ok(()),
        false => Err(InvalidPath(path.to_owned())),
    }
}

/// The number of equal segments at the beginning of two paths.
fn shared_segments(one: &str, other: &str) -> usize {
    let pairs = one.split('/').skip(1).zip(other.split('/').skip(1));
    pairs.take_while(|(one, other)| one == other).count()
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

    #[test]
    fn a_row_must_be_comparable_byte_for_byte() {
        let route = |path: &str| {
            EndpointTable::new().route(path, &[Method::GET], Dialect::Text, Operation::Status)
        };
        for path in ["/", "/health", "/v1/files/{}", "/{}"] {
            assert!(route(path).is_ok(), "{path}");
        }
        for path in [
            "",
            "health",
            "{}",
            "/v1/{}/content",
            "/v1/files-{}",
            "/v1//{}",
            "/v1/../{}",
            "/v1/%66iles",
            "/health/",
            "//",
            "//{}",
        ] {
            let error = route(path).expect_err(path).to_string();
            assert!(error.starts_with(&format!("{path:?} is not")), "{error}");
        }
    }

    #[test]
    fn a_later_row_of_the_same_path_replaces_the_earlier_one() {
        let table = EndpointTable::openai().merge(EndpointTable::anthropic());
        let dialect = |path| table.look_up(&Method::GET, path).dialect();
        assert_eq!(dialect("/v1/models"), Dialect::Anthropic);
        assert_eq!(dialect("/v1/models/claude"), Dialect::Anthropic);
        let rows = table
            .endpoints()
            .filter(|row| &*row.route == "/v1/models/{}");
        assert_eq!(rows.count(), 1);
    }

    #[test]
    fn the_longest_prefix_comes_first() {
        let add = |table: EndpointTable, path, operation| {
            let table = table.route(path, &[Method::GET], Dialect::OpenAi, operation);
            table.expect("an exact path")
        };
        for paths in [["/v1/{}", "/v1/files/{}"], ["/v1/files/{}", "/v1/{}"]] {
            let of = |path: &str| match path.len() {
                6 => Operation::Model,
                _ => Operation::Extra,
            };
            let table = paths.iter().fold(EndpointTable::new(), |table, path| {
                add(table, path, of(path))
            });
            let found = table.look_up(&Method::GET, "/v1/files/a");
            assert_eq!(found.operation(), Some(Operation::Extra), "{paths:?}");
        }
    }

    #[test]
    fn a_table_of_one_dialect_refuses_in_it() {
        for (table, dialect) in [
            (EndpointTable::openai(), Dialect::OpenAi),
            (EndpointTable::anthropic(), Dialect::Anthropic),
        ] {
            for path in ["/v1", "/v1/assistants", "/chat/completions", "/", ""] {
                let found = table.look_up(&Method::POST, path);
                assert_eq!(found, RouteMatch::Unknown { dialect }, "{path}");
            }
            let found = table.look_up(&Method::DELETE, "/v1/models");
            assert_eq!(found.dialect(), dialect, "a wrong method");
        }
    }

    #[test]
    fn an_unknown_path_is_refused_in_the_dialect_of_similar_rows() {
        let table = EndpointTable::openai()
            .merge(EndpointTable::anthropic())
            .route(
                "/api/chat",
                &[Method::POST],
                Dialect::Ollama,
                Operation::Chat,
            )
            .expect("an exact path");
        for (path, dialect) in [
            ("/v1/chat/completion", Dialect::OpenAi),
            ("/v1/messages/batches", Dialect::Anthropic),
            ("/v1/responses/resp_1/cancel", Dialect::Responses),
            ("/v1/unheard", Dialect::OpenAi),
            ("/api/tags", Dialect::Ollama),
            ("/elsewhere", Dialect::OpenAi),
        ] {
            let found = table.look_up(&Method::POST, path);
            assert_eq!(found, RouteMatch::Unknown { dialect }, "{path}");
        }
        let none = EndpointTable::new().look_up(&Method::GET, "/v1/models");
        assert_eq!(none.dialect(), Dialect::Text);
    }

    #[test]
    fn ollama_refuses_in_plain_text_also_when_it_is_extended() {
        let table = EndpointTable::ollama().merge(EndpointTable::anthropic());
        for path in ["/v1/assistants", "/api/nothing", "/v1/messages/batches"] {
            assert_eq!(table.look_up(&Method::POST, path).dialect(), Dialect::Text);
        }
        let json = table.with_refusal_dialect(Dialect::Ollama);
        let wrong_method = json.look_up(&Method::GET, "/v1/chat/completions");
        assert_eq!(wrong_method.dialect(), Dialect::Ollama);
    }
}
