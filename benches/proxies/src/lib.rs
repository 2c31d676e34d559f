//! What the comparisons with other proxies share: how to find, configure, start and end them.
//!
//! `benches/versus` compares CPU time, and `benches/race` waiting time. Both have nginx and HAProxy in front of
//! the same servers; what is the same in their configurations is here, so that both measure the same proxies.

mod configuration;
mod gateway;
mod installed;
mod process;

pub use configuration::{Haproxy, Nginx, numbered};
pub use gateway::{build_gateway, workspace};
pub use installed::{on_path, version_of};
pub use process::{ProcessGroup, free_address, last_lines, until_terminated};

/// Why a comparison cannot go on.
pub type Error = Box<dyn std::error::Error + Send + Sync>;
