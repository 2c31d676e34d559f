//! The form to sign in. Its key is checked as that of any other request, so that wrong ones are counted
//! and slowed down.

use std::convert::Infallible;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::AUTHORIZATION;
use http::{Extensions, HeaderValue, Request};
use http_body::Body;
use http_body_util::{BodyExt, Limited};
use llamatower_layers::api_key::{
    Access, ApiKeyLayer, AuthenticatedAs, ExpiredKey, Identity, KeySet, Role, TooManyFailedKeys,
};
use llamatower_layers::{BoxError, ClientAddress, Failure};
use tower::{Layer, ServiceExt, service_fn};

use super::access::add_retry_after;
use super::answer::Answer;
use super::page;
use super::session::{self, Sessions};

/// The largest form, in bytes. A key is much shorter.
const FORM_BYTES: usize = 4096;

/// Answers the form.
#[derive(Clone)]
pub(super) struct SignIn {
    keys: ApiKeyLayer,
    sessions: Sessions,
}

impl SignIn {
    pub(super) fn new(keys: &ApiKeyLayer, sessions: Sessions) -> Self {
        let keys = keys.clone().with_rule(|_| Access::Admin);
        Self { keys, sessions }
    }

    /// Begins a session if the form has an administrator's key.
    pub(super) async fn answer<B>(self, request: Request<B>) -> Answer
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let is_secure = session::is_secure(&request);
        let (head, body) = request.into_parts();
        let Ok(form) = Limited::new(body, FORM_BYTES).collect().await else {
            return page::sign_in(Some("The form could not be read."));
        };
        let key = key_in(&form.to_bytes());
        let client = ClientAddress::of(&head.extensions);
        let keys = self.sessions.keys();
        match self.owner(head.extensions, &key).await {
            Ok(Some(owner)) => self.sessions.begin(keys, owner.name, is_secure),
            Ok(None) => page::sign_in(Some(NOT_KNOWN)),
            Err(error) => refused(&error, &key, &keys, client),
        }
    }

    /// The owner of an administrator's key.
    async fn owner(&self, client: Extensions, key: &str) -> Result<Option<Identity>, BoxError> {
        let owner = service_fn(|request: Request<()>| {
            let owner = request.extensions().get::<Identity>().cloned();
            std::future::ready(Ok::<_, Infallible>(owner))
        });
        self.keys.layer(owner).oneshot(with_key(client, key)).await
    }
}

const NOT_KNOWN: &str = "This key is not known.";

fn key_in(form: &[u8]) -> String {
    let mut fields = form_urlencoded::parse(form);
    let key = fields.find(|(name, _)| name == "key");
    key.map(|(_, key)| key.trim().to_owned())
        .unwrap_or_default()
}

/// A request of this client with this key and no other right, so that the form tells of this key alone.
fn with_key(mut client: Extensions, key: &str) -> Request<()> {
    client.remove::<AuthenticatedAs>();
    let mut request = Request::new(());
    *request.extensions_mut() = client;
    // The password of Basic may have any character.
    let key = STANDARD.encode(format!(":{key}"));
    if let Ok(mut key) = HeaderValue::try_from(format!("Basic {key}")) {
        key.set_sensitive(true);
        request.headers_mut().insert(AUTHORIZATION, key);
    }
    request
}

/// The form again, with the reason.
fn refused(error: &BoxError, key: &str, keys: &KeySet, client: Option<ClientAddress>) -> Answer {
    let Some(failure) = Failure::find(&**error) else {
        return page::sign_in(Some(NOT_KNOWN));
    };
    let client = client.map(|client| tracing::field::display(client.0));
    tracing::info!(client, reason = failure.kind(), "a sign-in was refused");
    if failure.caused_by::<TooManyFailedKeys>().is_some() {
        let mut answer = page::sign_in(Some(&failure.to_string()));
        *answer.status_mut() = failure.status();
        add_retry_after(failure, &mut answer);
        return answer;
    }
    page::sign_in(Some(if failure.caused_by::<ExpiredKey>().is_some() {
        "This key has expired."
    } else if !keys.has(Role::Admin) {
        "There is no administrator's key (LLAMATOWER_ADMIN_KEYS)."
    } else if keys.find(key).is_some() {
        "This key is valid, but it is not an administrator's key."
    } else {
        NOT_KNOWN
    }))
}
