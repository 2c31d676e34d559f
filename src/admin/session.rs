//! Sessions of operators who use the status page from another machine.
//!
//! An administrator's key is sent once, by a form. The browser then gets a random token as a cookie
//! that scripts cannot read (`HttpOnly`) and that other sites cannot use (`SameSite=Strict`). The key
//! itself is not stored. A session ends after 12 hours, when the gateway ends, when the keys are
//! changed by a reload, and when its key expires.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cookie::{Cookie, SameSite};
use http::header::{COOKIE, SET_COOKIE};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Request};
use llamatower_layers::OverTls;
use llamatower_layers::api_key::{Identity, KeySet};
use llamatower_layers::live::Live;
use tokio::time::Instant;
use uuid::Uuid;

use super::access::{is_local, to_status_page};
use super::answer::Answer;

/// The name of the cookie.
const NAME: &str = "llamatower_session";
/// How long a session lasts.
const LASTS: Duration = Duration::from_secs(12 * 60 * 60);
/// The number of sessions. The oldest one ends if there are more.
const SESSIONS: usize = 64;

/// The sessions. Clones share them.
#[derive(Clone)]
pub(super) struct Sessions {
    keys: Live<KeySet>,
    open: Arc<Mutex<VecDeque<Session>>>,
}

/// The right with which a request was admitted.
pub(super) struct Right {
    kind: RightKind,
    sessions: Sessions,
}

enum RightKind {
    /// It comes from this machine.
    Local,
    /// The token of a session.
    Session(String),
    /// It had an administrator's key, of these keys; with its name.
    Keys(KeySet, Arc<str>),
}

impl Right {
    /// Whether the request would be admitted still.
    pub(super) fn is_valid(&self) -> bool {
        match &self.kind {
            RightKind::Local => true,
            RightKind::Session(token) => self.sessions.has(token),
            RightKind::Keys(keys, name) => {
                *keys == *self.sessions.keys.get() && keys.has_valid_key(name)
            }
        }
    }
}

struct Session {
    token: String,
    begun: Instant,
    /// The accepted keys when it began.
    keys: KeySet,
    /// The name of its key, with which it expires.
    name: Arc<str>,
}

impl Sessions {
    pub(super) fn new(keys: Live<KeySet>) -> Self {
        Self {
            keys,
            open: Arc::default(),
        }
    }

    /// Whether a request belongs to a session.
    pub(super) fn knows(&self, headers: &HeaderMap) -> bool {
        token(headers).is_some_and(|token| self.has(&token))
    }

    /// The right with which a request was admitted, to be checked again while its response lasts.
    pub(super) fn right_of(&self, request: &Parts) -> Right {
        let identity = request.extensions.get::<Identity>();
        let kind = match (token(&request.headers), identity) {
            _ if is_local(request) => RightKind::Local,
            (_, Some(identity)) => RightKind::Keys(self.keys.get().clone(), identity.name.clone()),
            (token, None) => RightKind::Session(token.unwrap_or_default()),
        };
        Right {
            kind,
            sessions: self.clone(),
        }
    }

    fn has(&self, token: &str) -> bool {
        let keys = self.keys.get();
        let mut open = self.open();
        open.retain(|session| {
            session.begun.elapsed() < LASTS
                && session.keys == *keys
                && keys.has_valid_key(&session.name)
        });
        open.iter().any(|session| session.token == token)
    }

    /// The accepted keys.
    pub(super) fn keys(&self) -> KeySet {
        self.keys.get().clone()
    }

    /// Begins a session of the owner of one of these keys. `is_secure` says whether the browser uses TLS.
    pub(super) fn begin(&self, keys: KeySet, name: Arc<str>, is_secure: bool) -> Answer {
        tracing::info!(identity = &*name, "an operator has signed in");
        let token = Uuid::new_v4().simple().to_string();
        let mut open = self.open();
        if open.len() >= SESSIONS {
            open.pop_front();
        }
        open.push_back(Session {
            token: token.clone(),
            begun: Instant::now(),
            keys,
            name,
        });
        let cookie = Cookie::build((NAME, token))
            .path("/")
            .http_only(true)
            .secure(is_secure)
            .same_site(SameSite::Strict)
            .max_age(cookie::time::Duration::try_from(LASTS).unwrap_or_default());
        let mut answer = to_status_page();
        if let Ok(cookie) = HeaderValue::try_from(cookie.build().to_string()) {
            answer.headers_mut().insert(SET_COOKIE, cookie);
        }
        answer
    }

    fn open(&self) -> MutexGuard<'_, VecDeque<Session>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a request is the form of the sign-in page.
pub(super) fn is_form<B>(request: &Request<B>) -> bool {
    request.method() == Method::POST && request.uri().path() == "/sign-in"
}

/// Whether this request has arrived by TLS, here or at a proxy in front. A client that claims so without reason
/// only gets a cookie that it cannot use.
pub(super) fn is_secure<B>(request: &Request<B>) -> bool {
    let scheme = request.headers().get("x-forwarded-proto");
    OverTls::is_in(request.extensions())
        || scheme.is_some_and(|scheme| scheme.as_bytes().eq_ignore_ascii_case(b"https"))
}

fn token(headers: &HeaderMap) -> Option<String> {
    let fields = headers.get_all(COOKIE).into_iter();
    let texts = fields.filter_map(|value| value.to_str().ok());
    let mut cookies = texts.flat_map(Cookie::split_parse).filter_map(Result::ok);
    let cookie = cookies.find(|cookie| cookie.name() == NAME)?;
    Some(cookie.value().to_owned())
}
