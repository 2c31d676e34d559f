//! The errors that the crate knows.

use std::error::Error;
use std::io;

use super::Class;
use crate::failure::sources;
use crate::{BoxError, Failure};

/// Turns an error of a known kind into a [`Failure`] whose source is the error. A [`Failure`], and an
/// error of an unknown kind, stays as it is.
pub fn classify(error: impl Into<BoxError>) -> BoxError {
    let error = error.into();
    if Failure::find(&*error).is_some() {
        return error;
    }
    match Class::of(&*error) {
        Some(class) => class.failure(error).into(),
        None => error,
    }
}

impl Class {
    /// The class of an error that is no [`Failure`], if its kind is known; see the
    /// [module](super).
    pub fn of(error: &(dyn Error + 'static)) -> Option<Self> {
        sources(error).find_map(of_one)
    }
}

/// The class of an error by its own type. Its sources are looked at if they can tell more.
fn of_one(error: &(dyn Error + 'static)) -> Option<Class> {
    #[cfg(feature = "reqwest")]
    if let Some(error) = error.downcast_ref() {
        return Some(of_reqwest(error));
    }
    #[cfg(feature = "hyper-util")]
    if let Some(error) = error.downcast_ref() {
        return Some(of_hyper_util(error));
    }
    #[cfg(any(feature = "hyper-util", feature = "reqwest"))]
    if let Some(error) = error.downcast_ref() {
        return Some(of_hyper(error));
    }
    #[cfg(feature = "deadline")]
    if error.is::<tokio::time::error::Elapsed>() {
        return Some(Class::TIMEOUT);
    }
    of_io(error.downcast_ref()?)
}

#[cfg(feature = "reqwest")]
fn of_reqwest(error: &reqwest::Error) -> Class {
    if error.is_builder() {
        return Class::INVALID_REQUEST;
    }
    if error.is_connect() {
        return connect(error.is_timeout());
    }
    if error.is_decode() || error.is_redirect() || error.is_status() {
        return Class::INVALID_ANSWER;
    }
    match error.source().and_then(Class::of) {
        Some(class) => class,
        None if error.is_timeout() => Class::TIMEOUT,
        None => Class::CONNECTION_LOST,
    }
}

#[cfg(feature = "hyper-util")]
fn of_hyper_util(error: &hyper_util::client::legacy::Error) -> Class {
    let class = error.source().and_then(Class::of);
    match (error.is_connect(), class) {
        (true, class) => connect(class == Some(Class::TIMEOUT)),
        (false, Some(class)) => class,
        (false, None) if error.source().is_some() => Class::CONNECTION_LOST,
        // The client refuses a request by an error without a cause, for example if the URI has no
        // host.
        (false, None) => Class::INVALID_REQUEST,
    }
}

#[cfg(any(feature = "hyper-util", feature = "reqwest"))]
fn connect(is_timeout: bool) -> Class {
    match is_timeout {
        true => Class::CONNECT_TIMEOUT,
        false => Class::CONNECT_FAILED,
    }
}

#[cfg(any(feature = "hyper-util", feature = "reqwest"))]
fn of_hyper(error: &hyper::Error) -> Class {
    if error.is_user() {
        // Only the error of a request's body has a cause.
        return match error.source() {
            Some(_) => Class::CLIENT_BODY_FAILED,
            None => Class::CONNECTION_LOST,
        };
    }
    if error.is_parse() {
        return Class::INVALID_ANSWER;
    }
    let cause = error.source().and_then(Class::of);
    match error.is_timeout() || cause == Some(Class::TIMEOUT) {
        true => Class::TIMEOUT,
        false => Class::CONNECTION_LOST,
    }
}

fn of_io(error: &io::Error) -> Option<Class> {
    use io::ErrorKind::*;
    match error.kind() {
        ConnectionRefused | HostUnreachable | NetworkUnreachable => Some(Class::CONNECT_FAILED),
        TimedOut => Some(Class::TIMEOUT),
        BrokenPipe | ConnectionAborted | ConnectionReset | NotConnected | UnexpectedEof => {
            Some(Class::CONNECTION_LOST)
        }
        _ => None,
    }
}
