//! Who may see a page or do something: whoever is on this machine, an administrator's key, or a
//! session of one.

use std::net::IpAddr;

use http::header::{ACCEPT, FORWARDED, HeaderName, LOCATION, RETRY_AFTER, VIA};
use http::request::Parts;
use http::{HeaderValue, Request, StatusCode};
use llamatower_layers::api_key::{Access, ApiKeyLayer, KeySet, ManagementRefused, Role};
use llamatower_layers::{BoxError, ClientAddress, Failure};

use super::answer::{self, Answer};
use super::page;
use super::session::Sessions;

/// What proxies add to a request that they pass on.
const PASSED_ON: [HeaderName; 6] = [
    FORWARDED,
    VIA,
    HeaderName::from_static("x-forwarded-for"),
    HeaderName::from_static("x-forwarded-host"),
    HeaderName::from_static("x-forwarded-proto"),
    HeaderName::from_static("x-real-ip"),
];

const NEEDS_KEY: &str = "from other machines this page needs an administrator's key: set \
    LLAMATOWER_ADMIN_KEYS (`llamatower keygen --admin` generates a key), and send the key in \
    `Authorization: Bearer`, or sign in at /";

/// The layer that checks keys and sessions.
pub(super) fn layer(keys: ApiKeyLayer, sessions: Sessions) -> ApiKeyLayer {
    keys.with_rule(move |request| access(request, &sessions))
        .with_management_hint(
            "set LLAMATOWER_ADMIN_KEYS (`llamatower keygen --admin` generates a key)",
        )
}

/// Whoever is on this machine may do everything. From other machines, documents for programs are
/// open: metrics, which name keys, and the state. The status page, which names clients, usage and all
/// changes need an administrator.
fn access(request: &Parts, sessions: &Sessions) -> Access {
    let is_open = answer::is_read(&request.method) && is_open(request.uri.path());
    match is_open || is_local(request) || sessions.knows(&request.headers) {
        true => Access::Open,
        false => Access::Admin,
    }
}

/// Whether a request comes from this machine, and was not passed on by a proxy here for another one.
pub(super) fn is_local(request: &Parts) -> bool {
    let is_loopback = |ip: IpAddr| ip.to_canonical().is_loopback();
    let client = ClientAddress::of(&request.extensions);
    // A unix socket has no address.
    let is_near = client.is_none_or(|client| is_loopback(client.0));
    is_near
        && !PASSED_ON
            .iter()
            .any(|name| request.headers.contains_key(name))
}

/// Documents for programs, and the files of the page, which hold nothing of this gateway.
fn is_open(path: &str) -> bool {
    let is_document = matches!(
        path,
        "/metrics" | "/status" | "/status/decisions" | "/status/models"
    );
    is_document || page::asset(path).is_some()
}

/// What a request asks for, as far as a refusal differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// A browser asks for the status page.
    Page,
    /// A document.
    Document,
    /// A change.
    Change,
}

impl Asked {
    pub(super) fn of<B>(request: &Request<B>) -> Self {
        if !answer::is_read(request.method()) {
            return Self::Change;
        }
        let accept = request.headers().get(ACCEPT);
        let accept = accept.and_then(|value| value.to_str().ok());
        let is_browser = accept.is_some_and(|accept| accept.contains("text/html"));
        match request.uri().path() == "/" && is_browser {
            true => Self::Page,
            false => Self::Document,
        }
    }
}

/// The answer to a request without the key that it needs.
pub(super) fn refused(error: &BoxError, asked: Asked, keys: &KeySet) -> Answer {
    let Some(failure) = Failure::find(&**error) else {
        return answer::refusal(StatusCode::INTERNAL_SERVER_ERROR, "500 internal error");
    };
    let needs_key = failure.caused_by::<ManagementRefused>().is_some();
    match asked {
        Asked::Page if needs_key && keys.has(Role::Admin) => page::sign_in(None),
        Asked::Page | Asked::Document if needs_key => answer::refusal(failure.status(), NEEDS_KEY),
        _ => {
            let mut answer = answer::refusal(failure.status(), failure.to_string());
            failure.write_headers(answer.headers_mut());
            add_retry_after(failure, &mut answer);
            answer
        }
    }
}

/// Tells when to try again, if the refusal ends by itself.
pub(super) fn add_retry_after(failure: &Failure, answer: &mut Answer) {
    let wait = failure.retry_after_field();
    answer
        .headers_mut()
        .extend(wait.map(|wait| (RETRY_AFTER, wait)));
}

/// Sends a browser to the status page.
pub(super) fn to_status_page() -> Answer {
    let mut answer = answer::refusal(StatusCode::SEE_OTHER, "303 see /");
    let headers = answer.headers_mut();
    headers.insert(LOCATION, HeaderValue::from_static("/"));
    answer
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use http::Method;
    use llamatower_layers::live::Live;

    use super::*;

    fn access_of(method: Method, path: &str, address: Option<&str>) -> Access {
        let mut parts = Request::new(()).into_parts().0;
        parts.method = method;
        parts.uri = path.parse().unwrap();
        if let Some(address) = address {
            ClientAddress(address.parse().unwrap()).put_into(&mut parts.extensions);
        }
        access(&parts, &Sessions::new(Live::new(KeySet::default())))
    }

    #[test]
    fn changes_and_pages_about_clients_need_an_administrator_from_other_machines() {
        let remote = Some("10.0.0.7");
        let change = access_of(Method::POST, "/backends/gpu-1/cordon", remote);
        assert_eq!(change, Access::Admin);
        for path in [
            "/",
            "/status/overview",
            "/status/requests",
            "/status/events",
            "/status/settings",
            "/status/usage",
            "/status/usage?format=csv",
        ] {
            assert_eq!(
                access_of(Method::GET, path, remote),
                Access::Admin,
                "{path}"
            );
        }
        for path in ["/metrics", "/status", "/status/models", "/page.css"] {
            assert_eq!(access_of(Method::GET, path, remote), Access::Open, "{path}");
        }
    }

    #[test]
    fn a_request_that_a_proxy_on_this_machine_has_passed_on_is_not_local() {
        for name in ["forwarded", "x-forwarded-for", "x-real-ip", "via"] {
            let request = Request::get("/").header(name, "10.0.0.7").body(()).unwrap();
            let mut parts = request.into_parts().0;
            ClientAddress([127, 0, 0, 1].into()).put_into(&mut parts.extensions);
            let sessions = Sessions::new(Live::new(KeySet::default()));
            assert_eq!(access(&parts, &sessions), Access::Admin, "{name}");
        }
    }

    #[test]
    fn a_path_that_is_not_listed_needs_an_administrator() {
        let unknown = access_of(Method::GET, "/status/unknown", Some("10.0.0.7"));
        assert_eq!(unknown, Access::Admin);
    }

    #[test]
    fn whoever_is_on_this_machine_needs_no_key() {
        for local in [
            None,
            Some("127.0.0.1"),
            Some("::1"),
            Some("::ffff:127.0.0.1"),
        ] {
            for (method, path) in [(Method::POST, "/queue/1/cancel"), (Method::GET, "/")] {
                assert_eq!(access_of(method, path, local), Access::Open);
            }
        }
    }
}
