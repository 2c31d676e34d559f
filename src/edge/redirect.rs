//! Redirects from a non-canonical path to the canonical one, as in Ollama.
//!
//! Ollama redirects in two steps: its HTTP library cleans the path (`//`, `.` and `..`), and its
//! router removes a slash at the end. Here both are one step, and only paths in the endpoint table
//! are targets. The client sends a new request with the clean path, so all rules apply to that
//! path.

use http::{Method, StatusCode, Uri};
use llamatower_layers::{EndpointTable, RouteMatch};

use super::base_path::{BasePath, inside};

/// A redirect's status and target.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Redirect {
    /// 301 where a browser may cache it; otherwise 307, which keeps method and body.
    pub(super) status: StatusCode,
    /// Path and query. It begins with exactly one slash, because two would name another host.
    pub(super) location: String,
}

/// The redirect for a request with a non-canonical path; `None` if the path is canonical or there
/// is no such endpoint.
pub(super) fn redirect(
    endpoints: &EndpointTable,
    base: Option<&BasePath>,
    method: &Method,
    target: &Uri,
) -> Option<Redirect> {
    let path = target.path();
    if !may_be_unclean(path) {
        return None;
    }
    let clean = cleaned(path);
    let is_clean = clean == path;
    let look_up = |path| Some(endpoints.look_up(method, inside(base, path)?));
    let (status, path) = match look_up(&clean)? {
        RouteMatch::Found { .. } | RouteMatch::WrongMethod { .. } if is_clean => return None,
        RouteMatch::Found { .. } | RouteMatch::WrongMethod { .. } => {
            (StatusCode::TEMPORARY_REDIRECT, &*clean)
        }
        RouteMatch::Unknown { .. } => {
            let shorter = clean.strip_suffix('/')?;
            let Some(RouteMatch::Found { .. }) = look_up(shorter) else {
                return None;
            };
            match is_clean && *method == Method::GET {
                true => (StatusCode::MOVED_PERMANENTLY, shorter),
                false => (StatusCode::TEMPORARY_REDIRECT, shorter),
            }
        }
    };
    let query = target.query();
    Some(Redirect {
        status,
        location: query.map_or_else(|| path.to_owned(), |query| format!("{path}?{query}")),
    })
}

/// Whether [`cleaned`] could change the path, or it ends with a slash.
fn may_be_unclean(path: &str) -> bool {
    let pairs = path.as_bytes().windows(2);
    (path.len() > 1 && path.ends_with('/'))
        || pairs.into_iter().any(|pair| matches!(pair, b"//" | b"/."))
}

/// The path without empty segments, `.` and `..`, by the rules of Go's library: a slash at the end
/// is kept.
fn cleaned(path: &str) -> String {
    let mut segments = Vec::new();
    for segment in path.split('/') {
        match segment {
            "" | "." => {}
            ".." => drop(segments.pop()),
            segment => segments.push(segment),
        }
    }
    let mut clean = String::with_capacity(path.len() + 1);
    for segment in &segments {
        clean.push('/');
        clean.push_str(segment);
    }
    if clean.is_empty() || path.ends_with('/') {
        clean.push('/');
    }
    clean
}

/// The body that Go's library writes into a redirect: a link, for `GET` only.
pub(super) fn page(redirect: &Redirect) -> String {
    let words = redirect.status.canonical_reason().unwrap_or_default();
    let mut link = String::with_capacity(redirect.location.len());
    for c in redirect.location.chars() {
        match c {
            '&' => link.push_str("&amp;"),
            '<' => link.push_str("&lt;"),
            '>' => link.push_str("&gt;"),
            '"' => link.push_str("&#34;"),
            '\'' => link.push_str("&#39;"),
            c => link.push(c),
        }
    }
    format!("<a href=\"{link}\">{words}</a>.\n\n")
}

#[cfg(test)]
mod tests {
    use http::uri::PathAndQuery;
    use proptest::prelude::*;

    use super::*;

    fn to(method: &Method, base: Option<&str>, target: &str) -> Option<(u16, String)> {
        let base = base.map(|base| base.parse().expect("a base path"));
        // Parsed as hyper does: a text that begins with two slashes is a path.
        let target = PathAndQuery::try_from(target).expect("a target");
        let table = EndpointTable::ollama();
        let found = redirect(&table, base.as_ref(), method, &Uri::from(target))?;
        Some((found.status.as_u16(), found.location))
    }

    #[test]
    fn an_unclean_path_leads_to_the_clean_one() {
        for (target, location) in [
            ("//api/tags", "/api/tags"),
            ("///api//tags", "/api/tags"),
            ("/api/./tags", "/api/tags"),
            ("/api/x/../tags", "/api/tags"),
            ("/../api/tags", "/api/tags"),
            ("/api/tags/.", "/api/tags"),
            ("//api/tags?a=%2F&b=//c", "/api/tags?a=%2F&b=//c"),
            ("//", "/"),
            ("/./", "/"),
            ("//v1/models/tiny%3Alatest", "/v1/models/tiny%3Alatest"),
            ("//openai/v1/models", "/openai/v1/models"),
            ("//evil.example/../api/tags", "/api/tags"),
        ] {
            let expected = Some((307, location.to_owned()));
            for method in [Method::GET, Method::POST, Method::DELETE, Method::HEAD] {
                assert_eq!(to(&method, None, target), expected, "{method} {target}");
            }
        }
    }

    #[test]
    fn a_slash_at_the_end_is_taken_off_where_the_method_fits() {
        let found = |status, path: &str| Some((status, path.to_owned()));
        assert_eq!(
            to(&Method::GET, None, "/api/tags/"),
            found(301, "/api/tags")
        );
        assert_eq!(
            to(&Method::HEAD, None, "/api/tags/"),
            found(307, "/api/tags")
        );
        assert_eq!(
            to(&Method::POST, None, "/api/chat/?x"),
            found(307, "/api/chat?x")
        );
        assert_eq!(
            to(&Method::DELETE, None, "/api/delete/"),
            found(307, "/api/delete")
        );
        assert_eq!(
            to(&Method::GET, None, "/v1/models/"),
            found(301, "/v1/models")
        );
        assert_eq!(
            to(&Method::GET, None, "//api/tags/"),
            found(307, "/api/tags")
        );
        assert_eq!(
            to(&Method::GET, None, "/api/tags//"),
            found(307, "/api/tags")
        );
        assert_eq!(to(&Method::GET, None, "/api/chat/"), None);
        assert_eq!(to(&Method::POST, None, "/api/tags/"), None);
    }

    #[test]
    fn a_path_outside_the_table_is_not_redirected() {
        for target in [
            "/api/tags",
            "/",
            "/nope/",
            "//nope",
            "//evil.example/api/tags",
            "/api/%74ags/",
            "//api/%74ags",
            "/%2e%2e/api/tags",
            "/API/tags/",
            "/api/tags/..",
            "/.",
            "/api/...",
            "/\\evil.example/",
            "//evil.example",
            "/health/",
            "/v1/models/a%2F..",
            "/v1/models//%2e%2e",
        ] {
            let expected = (target == "/.").then(|| (307, "/".to_owned()));
            assert_eq!(to(&Method::GET, None, target), expected, "{target}");
        }
    }

    #[test]
    fn the_base_path_stays() {
        let found = |path: &str| Some((307, path.to_owned()));
        let base = Some("/llm/v2");
        assert_eq!(
            to(&Method::POST, base, "/llm/v2//api/chat"),
            found("/llm/v2/api/chat")
        );
        assert_eq!(
            to(&Method::POST, base, "//llm/v2/api/chat"),
            found("/llm/v2/api/chat")
        );
        assert_eq!(
            to(&Method::POST, base, "/llm/v2/api/chat/"),
            found("/llm/v2/api/chat")
        );
        assert_eq!(to(&Method::GET, base, "/x/../llm/v2/"), found("/llm/v2/"));
        for target in ["/llm/v2/", "/llm/v2", "//api/chat", "/llm/v2/../api/chat"] {
            assert_eq!(to(&Method::GET, base, target), None, "{target}");
        }
    }

    #[test]
    fn the_link_is_escaped() {
        let page = page(&Redirect {
            status: StatusCode::TEMPORARY_REDIRECT,
            location: "/?a=1&b=<\"'>".to_owned(),
        });
        let link = "<a href=\"/?a=1&amp;b=&lt;&#34;&#39;&gt;\">Temporary Redirect</a>.\n\n";
        assert_eq!(page, link);
    }

    proptest! {
        #[test]
        fn a_location_is_a_known_path_on_this_host(target in "/[a-z/.%2\\\\:A-F]{0,24}(/api/tags|/v1/models/x|/)?[/.]{0,3}") {
            if let Some((_, location)) = to(&Method::GET, None, &target) {
                prop_assert!(location.starts_with('/') && !location.starts_with("//"));
                prop_assert!(!location.starts_with("/\\"));
                let known = EndpointTable::ollama().look_up(&Method::GET, &location);
                let is_known = matches!(known, RouteMatch::Found { .. } | RouteMatch::WrongMethod { .. });
                prop_assert!(is_known, "{}", location);
            }
        }
    }
}
