//! What operators are told of the certificate.

use jiff::Timestamp;

/// The state of TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsStatus {
    /// When the certificate in force expires, in seconds of Unix time.
    pub expires_at: i64,
    /// The last change of the files; `None` if they are those of the start.
    pub last_load: Option<LastLoad>,
}

/// A change of the files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastLoad {
    /// When it was noticed.
    pub at: Timestamp,
    /// Why the old certificate stays in force; `None` if the new one does.
    pub error: Option<String>,
}
