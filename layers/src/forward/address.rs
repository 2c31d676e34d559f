//! The address of the server.

use http::uri::{Authority, Parts, PathAndQuery, Scheme};
use http::{HeaderValue, Uri};

use super::{InvalidServerAddress, UriTooLong};

/// The parts of a server's address, ready to be put into requests.
#[derive(Debug)]
pub(super) struct Address {
    scheme: Scheme,
    authority: Authority,
    pub(super) host: HeaderValue,
    /// The path without a slash at its end; usually empty.
    prefix: String,
}

impl Address {
    pub(super) fn of(server: Uri) -> Result<Self, InvalidServerAddress> {
        let Parts {
            scheme: Some(scheme),
            authority: Some(authority),
            path_and_query,
            ..
        } = server.into_parts()
        else {
            return Err(InvalidServerAddress);
        };
        if scheme != Scheme::HTTP && scheme != Scheme::HTTPS {
            return Err(InvalidServerAddress);
        }
        // A user name would become a part of `Host`.
        if authority.as_str().contains('@') {
            return Err(InvalidServerAddress);
        }
        let prefix = match &path_and_query {
            Some(path) if path.query().is_some() => return Err(InvalidServerAddress),
            Some(path) => path.path().trim_end_matches('/').to_owned(),
            None => String::new(),
        };
        let host = HeaderValue::try_from(authority.as_str());
        Ok(Self {
            host: host.map_err(|_| InvalidServerAddress)?,
            scheme,
            authority,
            prefix,
        })
    }

    /// Whether clients and servers would resolve this path to another one (RFC 3986 6.2.2.3; the URL
    /// Standard also takes a backslash for a slash).
    pub(super) fn is_ambiguous(path: &str) -> bool {
        let is_dots = |segment: &str| {
            let mut rest = segment;
            let mut dots = 0;
            while let Some(next) = rest
                .strip_prefix('.')
                .or_else(|| rest.strip_prefix("%2e"))
                .or_else(|| rest.strip_prefix("%2E"))
            {
                dots += 1;
                rest = next;
            }
            rest.is_empty() && (1..=2).contains(&dots)
        };
        path.contains('\\') || path.split('/').any(is_dots)
    }

    /// This path at the server.
    pub(super) fn uri(&self, asked: &Uri) -> Result<Uri, UriTooLong> {
        let asked = asked.path_and_query();
        // `OPTIONS *` has no path.
        let asked = asked.filter(|asked| asked.as_str().starts_with('/'));
        let path = match asked {
            Some(asked) if self.prefix.is_empty() => asked.clone(),
            Some(asked) => {
                PathAndQuery::try_from(format!("{}{asked}", self.prefix)).map_err(|_| UriTooLong)?
            }
            None if self.prefix.is_empty() => PathAndQuery::from_static("/"),
            None => PathAndQuery::try_from(&*self.prefix).map_err(|_| UriTooLong)?,
        };
        let mut parts = Parts::default();
        parts.scheme = Some(self.scheme.clone());
        parts.authority = Some(self.authority.clone());
        parts.path_and_query = Some(path);
        Uri::from_parts(parts).map_err(|_| UriTooLong)
    }
}
