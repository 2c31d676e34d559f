//! The version and build of the program.

/// The program's version.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The commit of the build; `unknown` if the build did not know it.
pub const COMMIT: &str = env!("LLAMATOWER_COMMIT");

/// The profile and the target of the build.
pub const BUILD: &str = env!("LLAMATOWER_BUILD");

/// All of them, as `llamatower --version` prints them.
pub const ALL: &str = concat!(
    env!("CARGO_PKG_VERSION"),
    " (commit ",
    env!("LLAMATOWER_COMMIT"),
    ", ",
    env!("LLAMATOWER_BUILD"),
    ")"
);
