//! The version and build of the program.

/// The program's version.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The commit of the build; `unknown` if the build did not know it.
pub const COMMIT: &str = env!("BUILD_COMMIT");

/// The profile and the target of the build.
pub const BUILD: &str = env!("BUILD_TARGET");

/// All of them, as `llamatower --version` prints them.
pub const ALL: &str = concat!(
    env!("CARGO_PKG_VERSION"),
    " (commit ",
    env!("BUILD_COMMIT"),
    ", ",
    env!("BUILD_TARGET"),
    ")"
);

#[cfg(test)]
mod tests {
    /// `cargo run` and `cargo test` pass on what the build script sets for the compiler. The program
    /// refuses unknown variables that begin like its settings, so it would not start by `cargo run`.
    #[test]
    fn the_build_script_sets_no_variable_that_looks_like_a_setting() {
        let values = [super::COMMIT, super::BUILD];
        let of_build = std::env::vars().filter(|(_, value)| values.contains(&value.as_str()));
        let names: Vec<_> = of_build.map(|(name, _)| name).collect();
        assert!(names.contains(&"BUILD_TARGET".to_owned()), "{names:?}");
        assert!(names.iter().all(|name| !name.starts_with("LLAMATOWER_")));
    }
}
