//! A client of a running gateway.

use std::error::Error;
use std::path::Path;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use reqwest::{Method, Response, StatusCode};
use serde::Deserialize;
use serde_json::Value;

use super::arguments::OperatorArguments;
use super::error::ManageError;
use crate::commands::healthcheck::Target;
use crate::ollama::everywhere::SERVERS;
use crate::settings::{ADMIN_KEY, Environment, Listening, Settings, SettingsError};
use crate::tls::OwnTrust;

/// The time to open a connection.
const CONNECT: Duration = Duration::from_secs(10);
/// The time for a whole response of the address for operators. Usage of many days and keys takes longest.
const RESPONSE: Duration = Duration::from_secs(15);

/// The beginning of each key that `llamatower keygen` makes.
const KEY_PREFIX: &str = "llt_";

/// A listener that requests go to, and the other one that was probably meant by mistake.
struct Side {
    option: &'static str,
    setting: &'static str,
    other: &'static str,
}

const CLIENTS: Side = Side {
    option: "--url",
    setting: "LLAMATOWER_LISTEN",
    other: "operators",
};
const OPERATORS: Side = Side {
    option: "--admin-url",
    setting: "LLAMATOWER_ADMIN_LISTEN",
    other: "clients",
};
/// What each listener answers to the paths of the other.
const UNKNOWN_PATH: &str = "404 page not found";

/// A client of a running gateway.
pub(crate) struct GatewayClient {
    http: reqwest::Client,
    /// The address for clients, or why it is not known.
    url: Result<String, String>,
    /// The address for operators, or why it is not known.
    admin_url: Result<String, String>,
    key: Option<HeaderValue>,
}

/// A stream of lines.
pub(crate) struct Lines {
    url: String,
    response: Response,
    held: BytesMut,
}

impl GatewayClient {
    /// # Errors
    /// An address or the key cannot be used.
    pub(crate) fn new(
        url: Option<&str>,
        arguments: &OperatorArguments,
        config: Option<&Path>,
    ) -> Result<Self, ManageError> {
        let environment = Environment::of_process();
        let public = || Settings::listeners(config, &environment);
        let operators = || Settings::admin_listeners(config, &environment);
        let cert = public().ok().and_then(|listening| listening.cert);
        let tls = OwnTrust::new(cert.as_deref()).config(arguments.client_cert.as_deref());
        let tls = tls.map_err(ManageError::Arguments)?;
        let http = reqwest::Client::builder()
            .no_proxy()
            .connect_timeout(CONNECT)
            .tls_backend_preconfigured(tls)
            .build();
        Ok(Self {
            http: http.map_err(|error| ManageError::Arguments(error.to_string()))?,
            url: address(url, "--url", public),
            admin_url: address(arguments.admin_url.as_deref(), "--admin-url", operators),
            key: key(arguments.key_file.as_deref(), &environment)?,
        })
    }

    /// Sends a request with a JSON body to the address for clients. `servers` are the targets of a
    /// management request.
    ///
    /// # Errors
    /// There is no response, or it has the status of an error. `action` names the request there.
    pub(super) async fn send(
        &self,
        method: Method,
        path: &str,
        body: &Value,
        servers: Option<&str>,
        action: &str,
    ) -> Result<Lines, ManageError> {
        let url = self.url.clone().map_err(ManageError::Arguments)?;
        let request = self.http.request(method, format!("{url}{path}"));
        let request = request.header(CONTENT_TYPE, "application/json");
        let request = match servers {
            Some(servers) => request.header(SERVERS, servers),
            None => request,
        };
        self.response(request.body(body.to_string()), url, &CLIENTS, action)
            .await
    }

    /// Sends a request to the address for operators, and reads the whole response.
    ///
    /// # Errors
    /// There is no response, or it has the status of an error.
    pub(crate) async fn operate(
        &self,
        method: Method,
        path: &str,
        action: &str,
    ) -> Result<Bytes, ManageError> {
        let url = self.admin_url.clone().map_err(ManageError::Arguments)?;
        let request = self.http.request(method, format!("{url}{path}"));
        let request = request.timeout(RESPONSE);
        let lines = self.response(request, url, &OPERATORS, action).await?;
        lines.whole().await
    }

    /// Sends a request to the address for operators whose response is a stream of lines.
    ///
    /// # Errors
    /// There is no response, or it has the status of an error.
    pub(crate) async fn watch(&self, path: &str, action: &str) -> Result<Lines, ManageError> {
        let url = self.admin_url.clone().map_err(ManageError::Arguments)?;
        let request = self.http.get(format!("{url}{path}"));
        self.response(request, url, &OPERATORS, action).await
    }

    async fn response(
        &self,
        request: reqwest::RequestBuilder,
        url: String,
        side: &Side,
        action: &str,
    ) -> Result<Lines, ManageError> {
        let request = match &self.key {
            Some(key) => request.header(AUTHORIZATION, key),
            None => request,
        };
        let response = request.send().await;
        let response = response.map_err(|error| no_response(&url, error))?;
        let status = response.status();
        let lines = Lines {
            url: url.clone(),
            response,
            held: BytesMut::new(),
        };
        if status.is_success() {
            return Ok(lines);
        }
        let text = lines.whole().await?;
        let mut reason = match error_text(&text).or_else(|| plain_text(&text)) {
            Some(text) if text == UNKNOWN_PATH => format!(
                "{url} has no such page, so it is probably the gateway's address for {}, or lacks \
                 LLAMATOWER_BASE_PATH; give that of {} with {}",
                side.other, side.setting, side.option
            ),
            Some(text) => text,
            None => format!("the gateway responded with {status}"),
        };
        if self.key.is_none() && matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN)
        {
            reason +=
                "; give this command an administrator's key by LLAMATOWER_ADMIN_KEY or --key-file";
        }
        let action = action.to_owned();
        Err(ManageError::Failed { action, reason })
    }
}

impl Lines {
    /// The server that has answered, if it was one.
    pub(super) fn server(&self) -> Option<String> {
        let name = self.response.headers().get(crate::stack::BACKEND_HEADER)?;
        name.to_str().ok().map(str::to_owned)
    }

    /// The servers that have unloaded a model, if the response tells them.
    pub(super) fn servers(&self) -> Option<Vec<String>> {
        let names = self.response.headers().get(SERVERS)?.to_str().ok()?;
        let names = names.split(',').filter(|name| !name.is_empty());
        Some(names.map(str::to_owned).collect())
    }

    /// The next line, without its line feed; `None` at the end.
    ///
    /// # Errors
    /// The response broke off.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, ManageError> {
        loop {
            if let Some(end) = memchr::memchr(b'\n', &self.held) {
                let line = self.held.split_to(end + 1).freeze();
                return Ok(Some(line.slice(..end)));
            }
            let chunk = self.response.chunk().await;
            match chunk.map_err(|error| no_response(&self.url, error))? {
                Some(chunk) => self.held.extend_from_slice(&chunk),
                None if self.held.is_empty() => return Ok(None),
                None => return Ok(Some(self.held.split().freeze())),
            }
        }
    }

    /// The whole response.
    ///
    /// # Errors
    /// The response broke off.
    pub(super) async fn whole(self) -> Result<Bytes, ManageError> {
        let whole = self.response.bytes().await;
        whole.map_err(|error| no_response(&self.url, error))
    }
}

/// The address in an argument, or the first one in the settings.
fn address(
    given: Option<&str>,
    option: &str,
    listeners: impl FnOnce() -> Result<Listening, SettingsError>,
) -> Result<String, String> {
    if let Some(url) = given {
        let url = url.trim_end_matches('/');
        return Ok(match url.contains("://") {
            true => url.to_owned(),
            false => format!("http://{url}"),
        });
    }
    let unknown = |reason: String| format!("{reason}; give the gateway's address with {option}");
    let listeners = listeners().map_err(|error| unknown(error.to_string()))?;
    let target = Target::for_listeners(&listeners).ok();
    target
        .and_then(|target| target.base_url())
        .ok_or_else(|| unknown("the settings have no address with a port".to_owned()))
}

fn key(file: Option<&Path>, environment: &Environment) -> Result<Option<HeaderValue>, ManageError> {
    let read = read_key(file, ADMIN_KEY, environment);
    let (source, text) = read.map_err(ManageError::Arguments)?;
    let Some(text) = text else {
        return Ok(None);
    };
    let value = one_key(&text).and_then(|key| HeaderValue::from_str(&format!("Bearer {key}")).ok());
    let mut value = value.ok_or_else(|| {
        ManageError::Arguments(format!(
            "{source} must contain one key: the key alone, or the output of `llamatower keygen`"
        ))
    })?;
    value.set_sensitive(true);
    Ok(Some(value))
}

/// The text with a key in the file, or else in the variable; `None` if there is none. Returns also where
/// it came from.
///
/// # Errors
/// The file cannot be read.
pub(crate) fn read_key(
    file: Option<&Path>,
    variable: &str,
    environment: &Environment,
) -> Result<(String, Option<String>), String> {
    let (source, text) = match file {
        Some(file) => {
            let path = file.display().to_string();
            let text = std::fs::read_to_string(file);
            let text = text.map_err(|error| format!("{path} cannot be read: {error}"))?;
            (path, Some(text))
        }
        None => (
            variable.to_owned(),
            environment.get(variable).map(str::to_owned),
        ),
    };
    let text = text.map(|text| text.trim().to_owned());
    Ok((source, text.filter(|text| !text.is_empty())))
}

/// The key in a text that is a key, or in which one line is a key that `llamatower keygen` has made;
/// `None` if there are several.
pub(crate) fn one_key(text: &str) -> Option<&str> {
    let mut lines = text.lines();
    if let (Some(only), None) = (lines.next(), lines.next()) {
        return Some(only);
    }
    let keys = text.lines().map(str::trim);
    let mut keys = keys.filter(|line| line.starts_with(KEY_PREFIX));
    keys.next().filter(|_| keys.next().is_none())
}

/// The innermost cause tells the reason; the outer ones repeat the address.
fn no_response(url: &str, error: reqwest::Error) -> ManageError {
    let reason = match (error.is_timeout(), error.is_connect()) {
        (true, true) => format!("it cannot be reached within {CONNECT:?}"),
        (true, false) => format!("it did not answer within {RESPONSE:?}"),
        _ => {
            let error: &(dyn Error + 'static) = &error;
            let innermost = std::iter::successors(Some(error), |&error| error.source()).last();
            innermost.map(ToString::to_string).unwrap_or_default()
        }
    };
    let url = url.to_owned();
    ManageError::NoResponse { url, reason }
}

/// A short response that is a text, as the admin listener sends it for an error.
fn plain_text(page: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(page).ok()?.trim();
    let is_short = !text.is_empty() && text.len() <= 500 && !text.starts_with(['<', '{']);
    is_short.then(|| text.to_owned())
}

/// The error in a response, if it has one.
pub(crate) fn error_text(page: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Page {
        error: String,
    }
    let page: Option<Page> = serde_json::from_slice(page).ok();
    page.map(|page| page.error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_a_text_of_one_line_or_the_only_generated_key_in_it() {
        let output = "key for the client:\n  llt_a\nline for LLAMATOWER_ADMIN_KEYS or its file:\n  \
                      ops=sha256:00";
        for (text, key) in [
            ("any word", Some("any word")),
            ("llt_a", Some("llt_a")),
            (output, Some("llt_a")),
            ("llt_a\nllt_b", None),
            ("one\ntwo", None),
        ] {
            assert_eq!(one_key(text), key, "{text}");
        }
    }
}
