//! The status page and the form to sign in: HTML, style sheets and scripts, all of them in the
//! program.
//!
//! The page itself is empty. Its scripts fill it from `/status/events`, with text nodes only, so a
//! model's name cannot become HTML. The content security policy allows nothing from elsewhere and no
//! inline scripts or styles.

use askama::Template;
use bytes::Bytes;
use http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use http::request::Parts;
use http::{HeaderValue, StatusCode};

use super::Admin;
use super::answer::{self, Answer};
use crate::version;

const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; \
     form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
);
const NO_CACHE: HeaderValue = HeaderValue::from_static("no-cache");
const NO_SNIFFING: HeaderValue = HeaderValue::from_static("nosniff");
// With `no-referrer`, Chromium sends the form with `Origin: null`, which is refused.
const SAME_ORIGIN: HeaderValue = HeaderValue::from_static("same-origin");

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const IMAGE: &str = "image/svg+xml";
const TEXT: &str = "text/plain; charset=utf-8";

#[derive(Template)]
#[template(path = "status.html", config = "src/admin/page/askama.toml")]
struct StatusPage {
    version: &'static str,
}

#[derive(Template)]
#[template(path = "sign-in.html", config = "src/admin/page/askama.toml")]
struct SignInPage<'a> {
    error: Option<&'a str>,
}

/// A file of the page.
macro_rules! assets {
    ($($path:literal $type:ident $file:literal)*) => {
        /// The answer to the path of a file of the page.
        pub(super) fn asset(path: &str) -> Option<fn(&Admin, &Parts) -> Answer> {
            Some(match path {
                $($path => |_, _| secured(answer::page(
                    $type,
                    Bytes::from_static(include_bytes!(concat!("assets/", $file))),
                )),)*
                _ => return None,
            })
        }
    };
}

assets! {
    "/icon.svg" IMAGE "icon.svg"
    "/page.css" CSS "page.css"
    "/plots.css" CSS "uPlot.min.css"
    "/actions.js" SCRIPT "actions.js"
    "/events.js" SCRIPT "events.js"
    "/format.js" SCRIPT "format.js"
    "/page.js" SCRIPT "page.js"
    "/plots.js" SCRIPT "plots.js"
    "/problems.js" SCRIPT "problems.js"
    "/replicas.js" SCRIPT "replicas.js"
    "/rows.js" SCRIPT "rows.js"
    "/tables.js" SCRIPT "tables.js"
    "/uplot.js" SCRIPT "uPlot.iife.min.js"
    "/uplot-licence.txt" TEXT "uPlot.LICENSE"
}

/// The status page.
pub(super) fn status() -> Answer {
    html(&StatusPage {
        version: version::VERSION,
    })
}

/// The form to sign in, with the error of the last attempt.
pub(super) fn sign_in(error: Option<&str>) -> Answer {
    let mut answer = html(&SignInPage { error });
    if error.is_some() {
        *answer.status_mut() = StatusCode::FORBIDDEN;
    }
    answer
}

fn html(page: &impl Template) -> Answer {
    match page.render() {
        Ok(text) => secured(answer::page(HTML, text)),
        Err(error) => {
            tracing::error!(%error, "a page for operators cannot be written");
            answer::refusal(StatusCode::INTERNAL_SERVER_ERROR, "500 internal error")
        }
    }
}

fn secured(mut answer: Answer) -> Answer {
    let headers = answer.headers_mut();
    headers.insert(CACHE_CONTROL, NO_CACHE);
    headers.insert(CONTENT_SECURITY_POLICY, POLICY);
    headers.insert(REFERRER_POLICY, SAME_ORIGIN);
    headers.insert(X_CONTENT_TYPE_OPTIONS, NO_SNIFFING);
    answer
}
