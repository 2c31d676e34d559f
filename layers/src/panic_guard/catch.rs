//! Runs code that may panic.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::Panicked;
use crate::service::Hook;

/// Receives the message of a panic.
pub(super) type PanicHook = Hook<dyn Fn(&str) + Send + Sync>;

/// Runs `code`. If it panics, calls `hook` with the message.
///
/// `catch_unwind` moves its result several times: `code` should write a large result to its place
/// by reference.
///
/// After a panic, state that `code` changed may be inconsistent. Only drop it, with [`ignore_panics`].
pub(super) fn catch<T>(hook: Option<&PanicHook>, code: impl FnOnce() -> T) -> Result<T, Panicked> {
    catch_unwind(AssertUnwindSafe(code)).map_err(|payload| {
        if let Some(hook) = hook {
            ignore_panics(|| hook(text_of(&*payload)));
        }
        discard(payload);
        Panicked
    })
}

/// Runs `code` and ignores a panic.
pub(super) fn ignore_panics(code: impl FnOnce()) {
    if let Err(payload) = catch_unwind(AssertUnwindSafe(code)) {
        discard(payload);
    }
}

fn text_of(payload: &(dyn Any + Send)) -> &str {
    match payload.downcast_ref::<&'static str>() {
        Some(text) => text,
        None => payload
            .downcast_ref::<String>()
            .map_or("a panic without a message", String::as_str),
    }
}

/// The payload can be of any type, so its drop may panic too.
fn discard(payload: Box<dyn Any + Send>) {
    if let Err(next) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
        std::mem::forget(next);
    }
}
