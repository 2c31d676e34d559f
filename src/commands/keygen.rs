//! `llamatower keygen`: makes a key, and prints or writes what configures it.

use std::fmt::Write as _;
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use clap::Args;
use jiff::Timestamp;
use jiff::tz::{Offset, TimeZone};
use llamatower_layers::api_key::{KeyDigest, NoKey, generate_key};
use toml_edit::{Array, Datetime, DocumentMut, Formatted, Item, TableLike, Value};

use crate::settings::expiry_or_duration;

/// Which key to make.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct KeygenArguments {
    /// The name of the key's owner, as shown in logs: letters, digits and - _ . @
    #[arg(default_value = "client")]
    pub name: String,
    /// A key that may also manage models: print the line for LLAMATOWER_ADMIN_KEYS, or write this
    /// permission.
    #[arg(long)]
    pub admin: bool,
    /// Write the entry to this keys file (LLAMATOWER_KEYS_FILE), which is created if there is none;
    /// print only the key.
    #[arg(long, value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Add the digest of the new key to the entry of this name, so that the old key is still
    /// accepted. In an entry that has expired it replaces the digests; give --expires then. On the day of an
    /// expiry without an offset, write the offset into the entry first.
    #[arg(long, requires = "file", conflicts_with = "admin")]
    pub rotate: bool,
    /// When the key expires: a date like 2027-01-31 (its midnight in LLAMATOWER_TIME_ZONE of the
    /// gateway), a time like 2027-01-31T18:00:00Z, or a duration from now like 90d.
    #[arg(long, value_name = "TIME", requires = "file")]
    pub expires: Option<String>,
}

/// Why no key was made. Nothing was written.
#[derive(Debug, thiserror::Error)]
pub enum KeygenError {
    /// The name cannot be used, or there are no random bytes.
    #[error(transparent)]
    NoKey(#[from] NoKey),
    /// The time of the expiry cannot be read or has passed.
    #[error("--expires: {0}")]
    Expiry(String),
    /// The file does not allow the change.
    #[error("{}: {reason}", .file.display())]
    File {
        /// The file.
        file: PathBuf,
        /// Why not, and what to do.
        reason: String,
    },
}

/// Makes a key, and writes the entry if a file is given. Returns the text for standard output.
///
/// # Errors
/// See [`KeygenError`].
pub fn run(arguments: &KeygenArguments) -> Result<String, KeygenError> {
    let (key, line) = generate_key(&arguments.name)?;
    let Some(file) = &arguments.file else {
        return Ok(text(arguments, &key, &line));
    };
    let expires = expires(arguments.expires.as_deref())?;
    let failed = |reason: String| KeygenError::File {
        file: file.clone(),
        reason,
    };
    let old = match fs::read_to_string(file) {
        Ok(old) => old,
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(failed(format!("it cannot be read: {error}"))),
    };
    let new = with_key(&old, arguments, &KeyDigest::of(&key), expires).map_err(failed)?;
    if new.parse::<DocumentMut>().is_err() {
        let reason = "its keys are one inline table; write [keys.NAME] for each key";
        return Err(failed(reason.to_owned()));
    }
    let written = replace(file, &new);
    written.map_err(|error| failed(format!("it cannot be written: {error}")))?;
    Ok(format!("{key}\n"))
}

/// Each value is on a line of its own, so that it can be copied as a whole.
fn text(arguments: &KeygenArguments, key: &str, line: &str) -> String {
    let variable = match arguments.admin {
        true => "LLAMATOWER_ADMIN_KEYS",
        false => "LLAMATOWER_API_KEYS",
    };
    format!("key for the client:\n  {key}\nline for {variable} or its file:\n  {line}\n")
}

/// The expiry as it is written into the file.
fn expires(text: Option<&str>) -> Result<Option<Datetime>, KeygenError> {
    let Some(text) = text.map(str::trim) else {
        return Ok(None);
    };
    let now = Timestamp::now();
    let time = expiry_or_duration(text, &TimeZone::UTC, now).map_err(KeygenError::Expiry)?;
    if time <= now {
        return Err(KeygenError::Expiry(format!("{text} has passed")));
    }
    // A date or a time without an offset stays what it is: the gateway knows its time zone.
    let written = match text.parse::<Datetime>() {
        Ok(written) if written.date.is_some() => Ok(written),
        // A fraction of a second would only be noise in the file.
        _ => Timestamp::from_second(time.as_second())
            .unwrap_or(time)
            .to_string()
            .parse(),
    };
    let written = written.map_err(|error| KeygenError::Expiry(error.to_string()))?;
    Ok(Some(written))
}

/// The content of a keys file with one more key. Comments and the order of entries stay.
fn with_key(
    old: &str,
    arguments: &KeygenArguments,
    digest: &KeyDigest,
    expires: Option<Datetime>,
) -> Result<String, String> {
    let document = old.parse::<DocumentMut>();
    let mut document = document.map_err(|error| {
        let line = error.span().and_then(|span| old.get(..span.start));
        let line = line.map_or(1, |before| before.matches('\n').count() + 1);
        format!("line {line} is not valid TOML; correct it first")
    })?;
    let name = &arguments.name;
    let keys = document.as_table().get("keys");
    let keys = keys.and_then(Item::as_table_like);
    let is_known = keys.is_some_and(|keys| keys.contains_key(name));
    match (is_known, arguments.rotate) {
        (true, false) => Err(format!(
            "there is a key {name} already; --rotate adds a second digest to it"
        )),
        (false, true) => Err(format!("there is no key {name} that could be rotated")),
        (false, false) => Ok(appended(old, arguments, digest, expires)),
        (true, true) => {
            let entry = document.get_mut("keys").and_then(|keys| keys.get_mut(name));
            let entry = entry.and_then(Item::as_table_like_mut);
            let entry = entry.ok_or("its entry is not a table")?;
            let has_expired = match Expiry::of(entry, Timestamp::now())? {
                Expiry::Ahead => false,
                Expiry::Unclear(text) => {
                    return Err(format!(
                        "whether the key {name} has expired depends on LLAMATOWER_TIME_ZONE of the gateway: its \
                         expires, {text}, has no offset; write it with one first, like 2027-01-31T00:00:00+01:00"
                    ));
                }
                Expiry::Passed if expires.is_none() => {
                    return Err(format!(
                        "the key {name} has expired, and so would the new one; give it a time with --expires"
                    ));
                }
                Expiry::Passed => true,
            };
            rotate(entry, digest, expires, has_expired)?;
            Ok(document.to_string())
        }
    }
}

/// A new table at the end of the file: what is in it stays as it is.
fn appended(
    old: &str,
    arguments: &KeygenArguments,
    digest: &KeyDigest,
    expires: Option<Datetime>,
) -> String {
    let mut text = old.to_owned();
    if !text.is_empty() {
        text.push_str(if text.ends_with('\n') { "\n" } else { "\n\n" });
    }
    // A name with a dot or an @ is quoted.
    let name = toml_edit::Key::new(&*arguments.name);
    let name = name.display_repr();
    let _ = writeln!(text, "[keys.{name}]\ndigest = \"{digest}\"");
    if let Some(expires) = expires {
        let _ = writeln!(text, "expires = {expires}");
    }
    if arguments.admin {
        text.push_str("permissions = { manage = true }\n");
    }
    text
}

/// Whether the keys of an entry have expired, for gateways in all time zones.
enum Expiry {
    /// Not in any zone.
    Ahead,
    /// In some zones, because this text has no offset.
    Unclear(String),
    /// In every zone.
    Passed,
}

impl Expiry {
    /// The time zone of the gateway is not known here, so a time without an offset is compared in the zones in
    /// which it comes first and last: a revoked key must not become valid, and a valid one must not be lost.
    fn of(entry: &dyn TableLike, now: Timestamp) -> Result<Self, String> {
        let expires = match entry.get("expires").and_then(Item::as_value) {
            None => return Ok(Self::Ahead),
            Some(Value::Datetime(time)) => time.value().to_string(),
            Some(other) => other.as_str().unwrap_or_default().to_owned(),
        };
        let has_passed = |offset| -> Result<bool, String> {
            let zone = TimeZone::fixed(Offset::constant(offset));
            let time = expiry_or_duration(&expires, &zone, now);
            Ok(time.map_err(|error| format!("expires of its entry: {error}"))? <= now)
        };
        Ok(match (has_passed(14)?, has_passed(-12)?) {
            (_, true) => Self::Passed,
            (true, false) => Self::Unclear(expires),
            (false, false) => Self::Ahead,
        })
    }
}

/// Adds a digest to an entry, or lets it replace those of keys that have expired.
fn rotate(
    entry: &mut dyn TableLike,
    digest: &KeyDigest,
    expires: Option<Datetime>,
    replaces: bool,
) -> Result<(), String> {
    let digests = entry.get_mut("digest").and_then(Item::as_value_mut);
    match digests.ok_or("its entry has no digest")? {
        one if replaces => {
            let decor = one.decor().clone();
            *one = Value::from(digest.to_string());
            *one.decor_mut() = decor;
        }
        Value::Array(digests) => digests.push(digest.to_string()),
        one => {
            let decor = one.decor().clone();
            let mut both = Array::from_iter([one.as_str().unwrap_or_default().to_owned()]);
            both.push(digest.to_string());
            *one = Value::Array(both);
            *one.decor_mut() = decor;
        }
    }
    if let Some(expires) = expires {
        entry.insert(
            "expires",
            Item::Value(Value::Datetime(Formatted::new(expires))),
        );
    }
    Ok(())
}

/// Replaces a file as a whole, so that the gateway never reads a part of it. A new file can be read by
/// its owner only; an existing one keeps its owner and permissions.
fn replace(file: &Path, text: &str) -> io::Result<()> {
    // A link stays a link.
    let known = match fs::canonicalize(file) {
        Ok(target) => Some((fs::metadata(&target)?, target)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    let target = known.as_ref().map_or(file, |(_, target)| target);
    let mut draft = target.as_os_str().to_owned();
    draft.push(format!(".{}.draft", std::process::id()));
    let draft = PathBuf::from(draft);
    let write = || {
        let mut options = fs::OpenOptions::new();
        let mut open = options
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&draft)?;
        open.write_all(text.as_bytes())?;
        if let Some((metadata, _)) = &known {
            let own = open.metadata()?;
            if (own.uid(), own.gid()) != (metadata.uid(), metadata.gid()) {
                chown(&draft, Some(metadata.uid()), Some(metadata.gid()))?;
            }
            let mode = metadata.permissions().mode();
            open.set_permissions(fs::Permissions::from_mode(mode & 0o777))?;
        }
        open.sync_all()?;
        fs::rename(&draft, target)
    };
    write().inspect_err(|_| {
        let _ = fs::remove_file(&draft);
    })
}
