//! TLS of the gateway's own listeners: its certificate, and those of clients.
//!
//! ```text
//! files ── read twice a second ── changed? ── checked ── in force for new connections
//!                                               └ wrong, or expired: the old ones stay in force
//! ```
//!
//! - **Files.** The certificate with its chain, its key, and the authorities of clients' certificates
//!   ([`TlsFiles`]). They are read as contents, so that a replaced file, a changed file and a swapped
//!   symbolic link (as in a mounted Secret of Kubernetes) are all noticed ([`Certificates::watch`]).
//! - **Connections** keep the certificate with which they were opened. Sessions of an older certificate
//!   are not resumed, so that removed authorities do not stay in force.
//! - **Clients' certificates** are verified by rustls. The name in one may be that of a key
//!   ([`ClientNames`]).
//! - **The program's own commands** trust the system's authorities and the configured certificate
//!   itself ([`OwnTrust`]).

mod client_names;
mod files;
mod own_trust;
mod server;
mod status;
mod watch;

pub use client_names::ClientNames;
pub(crate) use files::pem_reason;
pub use files::{TlsError, TlsFile, TlsFiles};
pub use own_trust::OwnTrust;
pub(crate) use server::HTTP_2;
pub use server::{ClientCertificates, TlsServer};
pub use status::{LastLoad, TlsStatus};
pub use watch::Certificates;
