//! Running what may panic.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::Panicked;

/// Who is told the text of a panic.
pub(super) type Hook = fn(&str);

/// Runs `code`; a panic is told to `hook`.
///
/// What is large, `code` is better given by reference and writes to its place itself:
/// `catch_unwind` moves it several times.
///
/// What `code` leaves in disorder must not be used afterwards other than to drop it, by
/// [`quietly`].
pub(super) fn shield<T>(hook: Hook, code: impl FnOnce() -> T) -> Result<T, Panicked> {
    catch_unwind(AssertUnwindSafe(code)).map_err(|payload| {
        quietly(|| hook(text_of(&*payload)));
        discard(payload);
        Panicked
    })
}

/// Runs `code` and takes no notice of a panic.
pub(super) fn quietly(code: impl FnOnce()) {
    if let Err(payload) = catch_unwind(AssertUnwindSafe(code)) {
        discard(payload);
    }
}

fn text_of(payload: &(dyn Any + Send)) -> &str {
    match payload.downcast_ref::<&'static str>() {
        Some(text) => text,
        None => payload
            .downcast_ref::<String>()
            .map_or("a panic without a text", String::as_str),
    }
}

/// The payload is a value of any type, so its drop may panic in turn.
fn discard(payload: Box<dyn Any + Send>) {
    if let Err(next) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
        std::mem::forget(next);
    }
}
