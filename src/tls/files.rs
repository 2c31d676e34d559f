//! The files of a certificate, its key and the authorities of clients.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use jiff::{SignedDuration, Timestamp};
use rustls::pki_types::pem::{Error as PemError, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use x509_cert::certificate::{CertificateInner, Raw};
use x509_cert::der::Decode;
use x509_cert::ext::pkix::BasicConstraints;
use x509_cert::time::Time;

use super::client_names::ClientNames;
use super::server::ClientCertificates;
use crate::settings::absolute;

/// The largest file that is read, in bytes.
const MAX_FILE: u64 = 1024 * 1024;

/// How long before the end of a certificate operators are warned; of one for a short time, only in its
/// last third, when programs that renew certificates have done so.
const EXPIRES_SOON: SignedDuration = SignedDuration::from_hours(14 * 24);

/// What TLS is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The PEM file of the server's certificate, followed by the certificates between it and its
    /// authority.
    pub cert: PathBuf,
    /// The PEM file of the certificate's key.
    pub key: PathBuf,
    /// The PEM file of the authorities of clients' certificates, if clients may have one.
    pub client_ca: Option<PathBuf>,
    /// Whether clients must have one.
    pub client_certificates: ClientCertificates,
    /// Which keys clients' certificates stand for.
    pub client_names: ClientNames,
    /// Whether HTTP/2 is offered.
    pub offers_http2: bool,
}

/// One of the files, by the setting that names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsFile {
    /// The certificate.
    Cert,
    /// Its key.
    Key,
    /// The authorities of clients' certificates.
    ClientCa,
}

impl TlsFile {
    /// The key of the setting.
    pub fn setting(self) -> &'static str {
        match self {
            Self::Cert => "tls.cert",
            Self::Key => "tls.key",
            Self::ClientCa => "tls.client_ca",
        }
    }

    /// The variable of the setting.
    pub fn variable(self) -> &'static str {
        match self {
            Self::Cert => "LLAMATOWER_TLS_CERT",
            Self::Key => "LLAMATOWER_TLS_KEY",
            Self::ClientCa => "LLAMATOWER_TLS_CLIENT_CA",
        }
    }
}

/// A file cannot be used. The reason contains nothing of a key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {reason}", file.variable())]
pub struct TlsError {
    /// The file.
    pub file: TlsFile,
    /// Why, and what to do.
    pub reason: String,
}

impl TlsError {
    pub(super) fn new(file: TlsFile, reason: impl Into<String>) -> Self {
        Self {
            file,
            reason: reason.into(),
        }
    }
}

/// The contents of the files at one time.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Contents {
    pub(super) cert: Vec<u8>,
    pub(super) key: Vec<u8>,
    pub(super) client_ca: Option<Vec<u8>>,
}

impl fmt::Debug for Contents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[contents of the files for TLS]")
    }
}

impl TlsFiles {
    /// Reads all files.
    ///
    /// # Errors
    /// One of them cannot be read.
    pub(super) fn read(&self) -> Result<Contents, TlsError> {
        Ok(Contents {
            cert: read(TlsFile::Cert, &self.cert)?,
            key: read(TlsFile::Key, &self.key)?,
            client_ca: match &self.client_ca {
                Some(path) => Some(read(TlsFile::ClientCa, path)?),
                None => None,
            },
        })
    }
}

fn read(file: TlsFile, path: &Path) -> Result<Vec<u8>, TlsError> {
    let cannot = |error: io::Error| {
        let (path, absolute) = (path.display(), absolute(path));
        let reason = format!("the file {path}{absolute} cannot be read: {error}");
        TlsError::new(file, reason)
    };
    let mut contents = Vec::new();
    let opened = File::open(path).map_err(cannot)?;
    let read = opened.take(MAX_FILE + 1).read_to_end(&mut contents);
    if read.map_err(cannot)? as u64 > MAX_FILE {
        let reason = format!("the file {} is larger than 1 MiB", path.display());
        return Err(TlsError::new(file, reason));
    }
    Ok(contents)
}

/// The certificates in a PEM file, at least one.
pub(super) fn certificates(
    file: TlsFile,
    pem: &[u8],
) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let found = found.map_err(|error| {
        let reason = format!("the file is not a valid PEM file: {}", pem_reason(&error));
        TlsError::new(file, reason)
    })?;
    if !found.is_empty() {
        return Ok(found);
    }
    let reason = match PrivateKeyDer::from_pem_slice(pem) {
        Ok(_) => "the file contains a private key and no certificate (BEGIN CERTIFICATE)",
        Err(_) => "the file contains no certificate (BEGIN CERTIFICATE)",
    };
    Err(TlsError::new(file, reason))
}

/// The private key in a PEM file.
pub(super) fn private_key(pem: &[u8]) -> Result<PrivateKeyDer<'static>, TlsError> {
    let key = PrivateKeyDer::from_pem_slice(pem);
    key.map_err(|error| {
        let text = String::from_utf8_lossy(pem);
        let reason = match error {
            PemError::NoItemsFound if text.contains("ENCRYPTED PRIVATE KEY") => {
                "the key in the file is encrypted with a password; write it without one \
                 (openssl pkey -in KEY -out KEY_WITHOUT_PASSWORD)"
                    .to_owned()
            }
            PemError::NoItemsFound => {
                "the file contains no private key (BEGIN PRIVATE KEY)".to_owned()
            }
            error => format!("the file is not a valid PEM file: {}", pem_reason(&error)),
        };
        TlsError::new(TlsFile::Key, reason)
    })
}

/// What is read in the server's own certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Validity {
    /// In seconds of Unix time.
    pub(super) not_before: i64,
    /// In seconds of Unix time.
    pub(super) not_after: i64,
    /// Whether it is that of an authority, which is no server's.
    pub(super) is_authority: bool,
}

impl Validity {
    pub(super) fn of(certificate: &CertificateDer<'_>) -> Result<Self, TlsError> {
        let parsed = CertificateInner::<Raw>::from_der(certificate);
        let parsed = parsed.map_err(|error| {
            let reason = format!("the first certificate in the file cannot be read: {error}");
            TlsError::new(TlsFile::Cert, reason)
        })?;
        let parsed = parsed.tbs_certificate;
        let seconds = |time: Time| {
            let seconds = time.to_unix_duration().as_secs();
            i64::try_from(seconds).unwrap_or(i64::MAX)
        };
        let constraints = parsed.get::<BasicConstraints>();
        Ok(Self {
            not_before: seconds(parsed.validity.not_before),
            not_after: seconds(parsed.validity.not_after),
            is_authority: matches!(
                constraints,
                Ok(Some((_, BasicConstraints { ca: true, .. })))
            ),
        })
    }

    /// What is wrong with it at this time, although it can be used.
    pub(super) fn warning(&self, now: Timestamp) -> Option<String> {
        if let Some(end) = self.end(now) {
            return Some(end);
        }
        if now.as_second() < self.not_before {
            Some(format!(
                "the certificate is not valid yet (before {}); compare the clock of this machine",
                shown(self.not_before)
            ))
        } else if self.is_authority {
            Some(
                "the certificate is that of an authority, as `openssl req -x509` makes it, and some \
                 clients refuse it; make one with -addext basicConstraints=critical,CA:FALSE"
                    .to_owned(),
            )
        } else {
            None
        }
    }

    /// That it has expired, or expires soon.
    pub(super) fn end(&self, now: Timestamp) -> Option<String> {
        if self.has_expired(now) {
            let at = shown(self.not_after);
            return Some(format!("the certificate has expired ({at}); renew it"));
        }
        let left = SignedDuration::from_secs(self.not_after.saturating_sub(now.as_second()));
        let third = SignedDuration::from_secs((self.not_after - self.not_before) / 3);
        (left <= EXPIRES_SOON.min(third)).then(|| {
            let at = shown(self.not_after);
            let left = match left.as_hours() {
                hours if hours >= 48 => format!("{} days", hours / 24),
                1 => "1 hour".to_owned(),
                hours => format!("{hours} hours"),
            };
            format!("the certificate expires in {left} ({at}); renew it")
        })
    }

    pub(super) fn has_expired(&self, now: Timestamp) -> bool {
        now.as_second() > self.not_after
    }
}

fn shown(seconds: i64) -> String {
    match Timestamp::from_second(seconds) {
        Ok(time) => time.to_string(),
        Err(_) => seconds.to_string(),
    }
}

/// Why a text is no PEM, for people. It contains nothing of the text.
pub(crate) fn pem_reason(error: &PemError) -> String {
    let reason = match error {
        PemError::MissingSectionEnd { .. } => {
            "a section has no end (-----END ..-----); is the file complete?"
        }
        PemError::IllegalSectionStart { .. } => {
            "a line with -----BEGIN is not like -----BEGIN CERTIFICATE-----"
        }
        PemError::Base64Decode(_) => "what is between BEGIN and END is not base64",
        PemError::NoItemsFound => "it has no section of the right kind (-----BEGIN ..-----)",
        error => return error.to_string(),
    };
    reason.to_owned()
}
