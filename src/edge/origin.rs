//! Which web pages may call: Ollama's rules for `Origin`.
//!
//! Ollama refuses a foreign `Origin` on every method, not only on preflights. A page's plain `GET`
//! or form `POST` needs no preflight and would take effect, although the page cannot read the
//! response.

use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ORIGIN, VARY,
};
use http::{HeaderMap, HeaderValue};

use super::request::has;

/// Hosts whose pages may always call, by http and https, from any port.
const LOCAL_HOSTS: [&str; 3] = ["localhost", "127.0.0.1", "0.0.0.0"];
/// Applications whose web views may always call.
const APPLICATIONS: [&str; 5] = [
    "app://",
    "file://",
    "tauri://",
    "vscode-webview://",
    "vscode-file://",
];
/// Allowed beginnings of an entry without `*`, as in Ollama.
const SCHEMES: [&str; 6] = [
    "http://",
    "https://",
    "chrome-extension://",
    "safari-extension://",
    "moz-extension://",
    "ms-browser-extension://",
];

const ALLOW_METHODS: HeaderValue =
    HeaderValue::from_static("GET,POST,PUT,PATCH,DELETE,HEAD,OPTIONS");
/// The headers that Ollama allows, followed by others that the browser builds of OpenAI's and
/// Anthropic's libraries send.
const ALLOW_HEADERS: HeaderValue = HeaderValue::from_static(
    "Authorization,Content-Type,User-Agent,Accept,X-Requested-With,Openai-Beta,\
     X-Stainless-Arch,X-Stainless-Async,X-Stainless-Custom-Poll-Interval,\
     X-Stainless-Helper-Method,X-Stainless-Lang,X-Stainless-Os,X-Stainless-Package-Version,\
     X-Stainless-Poll-Helper,X-Stainless-Retry-Count,X-Stainless-Runtime,\
     X-Stainless-Runtime-Version,X-Stainless-Timeout,\
     X-Api-Key,Anthropic-Version,Anthropic-Beta,Anthropic-Dangerous-Direct-Browser-Access,\
     X-Stainless-Helper,OpenAI-Organization,OpenAI-Project,Idempotency-Key,X-Request-Id,\
     Traceparent,Tracestate",
);
/// Response headers that a page may read, in addition to type and length.
const EXPOSE_HEADERS: HeaderValue = HeaderValue::from_static(
    "Retry-After,RateLimit,RateLimit-Policy,X-Request-Id,X-Llamatower-Backend,X-Llamatower-Model,\
     Cache-Status,WWW-Authenticate",
);
/// Twelve hours, in seconds.
const MAX_AGE: HeaderValue = HeaderValue::from_static("43200");
const ANY: HeaderValue = HeaderValue::from_static("*");

/// The origins that may call: Ollama's own, and those of `OLLAMA_ORIGINS`.
#[derive(Clone, Debug)]
pub struct Origins {
    any: bool,
    exact: Vec<String>,
    /// The texts before and after the asterisk.
    patterns: Vec<(String, String)>,
}

/// The entry of `OLLAMA_ORIGINS` is not an origin.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not an origin: write scheme://host[:port], with at most one * in it (https://*.example.com, http://10.0.0.1:*), or * for all"
)]
pub struct InvalidOrigin(String);

impl Default for Origins {
    fn default() -> Self {
        let mut exact = Vec::new();
        let mut patterns = Vec::new();
        for scheme in ["http", "https"] {
            for host in LOCAL_HOSTS {
                exact.push(format!("{scheme}://{host}"));
                patterns.push((format!("{scheme}://{host}:"), String::new()));
            }
        }
        patterns.extend(APPLICATIONS.map(|scheme| (scheme.to_owned(), String::new())));
        Self {
            any: false,
            exact,
            patterns,
        }
    }
}

impl Origins {
    /// No origin beside that of the server's own pages, which may always call.
    pub fn none() -> Self {
        Self {
            any: false,
            exact: Vec::new(),
            patterns: Vec::new(),
        }
    }

    /// Ollama's own origins and further ones.
    ///
    /// # Errors
    /// An entry is neither an origin nor a pattern.
    pub fn with<I>(entries: I) -> Result<Self, InvalidOrigin>
    where
        I: IntoIterator,
        I::Item: AsRef<str>,
    {
        let mut origins = Self::default();
        for entry in entries {
            let entry = entry.as_ref().trim().to_ascii_lowercase();
            match entry.split_once('*') {
                _ if entry.is_empty() => {}
                Some(("", "")) => origins.any = true,
                Some((before, after)) if !after.contains('*') => {
                    origins.patterns.push((before.into(), after.into()));
                }
                None if SCHEMES.iter().any(|scheme| entry.starts_with(scheme)) => {
                    origins.exact.push(entry);
                }
                _ => return Err(InvalidOrigin(entry)),
            }
        }
        Ok(origins)
    }

    /// Whether pages of this origin may call.
    pub fn allows(&self, origin: &str) -> bool {
        let origin = origin.to_ascii_lowercase();
        self.any
            || self.exact.contains(&origin)
            || self.patterns.iter().any(|(before, after)| {
                origin.len() >= before.len() + after.len()
                    && origin.starts_with(&**before)
                    && origin.ends_with(&**after)
            })
    }

    /// Checks the `Origin` of a request.
    pub(super) fn check(&self, headers: &HeaderMap, host: Option<&str>) -> OriginCheck {
        if !has(headers, &ORIGIN) {
            return OriginCheck::NoOrigin;
        }
        let mut given = headers.get_all(ORIGIN).iter();
        let (origin, more) = (given.next(), given.next());
        let Some(origin) = origin.filter(|origin| !origin.is_empty()) else {
            return OriginCheck::NoOrigin;
        };
        let Ok(text) = origin.to_str() else {
            return OriginCheck::Foreign;
        };
        if more.is_some() {
            return OriginCheck::Foreign;
        }
        let of_server = ["http://", "https://"]
            .iter()
            .find_map(|scheme| text.strip_prefix(scheme));
        if host.is_some() && of_server == host {
            return OriginCheck::NoOrigin;
        }
        if !self.allows(text) {
            return OriginCheck::Foreign;
        }
        OriginCheck::Allowed(if self.any { ANY } else { origin.clone() })
    }
}

/// Result of the check of an `Origin`.
#[derive(Debug, PartialEq)]
pub(super) enum OriginCheck {
    /// No web page sent it, or a page of this server itself.
    NoOrigin,
    /// The page may call; the value of `Access-Control-Allow-Origin`.
    Allowed(HeaderValue),
    /// The page may not call.
    Foreign,
}

/// Adds the headers that let the page read this response.
pub(super) fn allow_read(headers: &mut HeaderMap, origin: HeaderValue) {
    if origin != ANY {
        headers.append(VARY, HeaderValue::from_static("Origin"));
    }
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSE_HEADERS);
}

/// Adds the headers that let the page send the announced request.
pub(super) fn allow_preflight(headers: &mut HeaderMap, origin: HeaderValue) {
    headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, ALLOW_HEADERS);
    headers.insert(ACCESS_CONTROL_ALLOW_METHODS, ALLOW_METHODS);
    headers.insert(ACCESS_CONTROL_MAX_AGE, MAX_AGE);
    let varies = origin != ANY;
    allow_read(headers, origin);
    // A preflight response is not read by the page.
    headers.remove(ACCESS_CONTROL_EXPOSE_HEADERS);
    if varies {
        for name in [
            "Access-Control-Request-Method",
            "Access-Control-Request-Headers",
        ] {
            headers.append(VARY, HeaderValue::from_static(name));
        }
    }
}
