//! Which build of the program this is.

/// The version of the program.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The commit that it is built from; `unknown` where that was not told.
pub const COMMIT: &str = env!("LLAMATOWER_COMMIT");

/// How it is built: the profile and the target.
pub const BUILD: &str = env!("LLAMATOWER_BUILD");

/// All of them, as `llamatower --version` says them.
pub const ALL: &str = concat!(
    env!("CARGO_PKG_VERSION"),
    " (commit ",
    env!("LLAMATOWER_COMMIT"),
    ", ",
    env!("LLAMATOWER_BUILD"),
    ")"
);
