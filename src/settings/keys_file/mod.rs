//! The keys file: a table for each key, with its digests, limits and permissions.
//!
//! Its entries are added to the settings that have the same values for the keys of
//! `LLAMATOWER_API_KEYS` and `LLAMATOWER_ADMIN_KEYS`, so that everything else has one source.

mod fields;
mod read;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use jiff::{SignedDuration, Timestamp};
use llamatower_layers::api_key::{Key, KeyDigest, KeySet, Role};

use super::error::Problem;
use super::files::absolute;
use super::parse::items;
use super::reader::Reader;
use super::secret::Secret;
use super::table::Settings;
use super::values::KeyLimits;
use crate::ollama::fleet::ModelPattern;

pub(crate) use fields::expiry_or_duration;

/// The setting with the path.
pub(super) const SETTING: &str = "keys.file";

/// How long before its expiry a key is reported.
pub const EXPIRES_SOON: SignedDuration = SignedDuration::from_hours(7 * 24);

/// The chapter in the reference, in Markdown.
pub(super) const REFERENCE: &str = r#"
### The keys file

`LLAMATOWER_KEYS_FILE` names a TOML file with a table for each key. Only `digest` is required:

```toml
[keys.ada]
digest = "sha256:0f5c…"          # or a list, while a client changes from one key to the next
expires = 2027-01-31             # from this day (or time) on the key is refused
models = ["qwen*", "llama3.2"]   # as in LLAMATOWER_KEY_MODELS
priority = "high"                # high, normal or low, as in LLAMATOWER_KEY_LIMITS

[keys.ada.limits]                # as in LLAMATOWER_KEY_LIMITS
rate = "60/m"                    # "off": no limit; without it the general one
tokens = ["20000/minute", "5000000/month"]
concurrency = 4                  # "off": no limit; without it the general one
weight = 2

[keys.ada.permissions]
manage = false                   # may manage models, like a key of LLAMATOWER_ADMIN_KEYS
unload = false                   # may send any keep_alive, also one that unloads a model
cloud = true                     # its requests may go to a cloud, see LLAMATOWER_CLOUD_KEYS_OPT_OUT
```

`llamatower keygen ada --file keys.toml` makes a key and writes its entry. A name is either in this file or in the
variables, not in both ([Operations](operations.md#the-keys-file)).
"#;

/// The keys of the file, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeysFile {
    /// The keys.
    pub keys: BTreeMap<Arc<str>, KeyEntry>,
}

/// What the file says of one key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyEntry {
    /// The accepted keys of this name.
    pub digests: Vec<KeyDigest>,
    /// From this time on the keys are refused.
    pub expires: Option<Timestamp>,
    /// Its limits and its share.
    pub limits: KeyLimits,
    /// The models that it may use; `None` for all.
    pub models: Option<Vec<ModelPattern>>,
    /// What it may do.
    pub permissions: Permissions,
}

/// What a key may do. What is not listed here follows from its other settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Permissions {
    /// Manage models.
    pub manage: bool,
    /// Send any `keep_alive`. A key that may manage models may do that, too.
    pub unload: bool,
    /// Have its requests sent to a cloud.
    pub cloud: bool,
}

impl Default for Permissions {
    fn default() -> Self {
        Self {
            manage: false,
            unload: false,
            cloud: true,
        }
    }
}

impl KeyEntry {
    /// Its role for the layers.
    pub fn role(&self) -> Role {
        match self.permissions.manage {
            true => Role::Admin,
            false => Role::User,
        }
    }
}

impl KeysFile {
    /// All keys, for the layer that checks them.
    pub fn key_set(&self) -> KeySet {
        let keys = self.keys.iter().flat_map(|(name, entry)| {
            let digests = entry.digests.iter();
            digests.filter_map(|digest| {
                let key = Key::new(name.clone(), *digest, entry.role()).ok()?;
                Some(key.with_expiry(entry.expires.map(system_time)))
            })
        });
        keys.collect()
    }

    /// The keys that have expired or expire within [`EXPIRES_SOON`].
    pub fn expiring(&self, now: Timestamp) -> Vec<(Arc<str>, Timestamp)> {
        let keys = self.keys.iter();
        let keys = keys.filter_map(|(name, entry)| Some((name.clone(), entry.expires?)));
        keys.filter(|(_, at)| at.duration_since(now) <= EXPIRES_SOON)
            .collect()
    }

    /// Whether there is a key with this role, expired or not.
    pub fn has(&self, role: Role) -> bool {
        self.keys.values().any(|entry| entry.role() == role)
    }
}

impl Settings {
    /// Whether clients need a key.
    pub fn has_user_keys(&self) -> bool {
        !self.keys.api.is_empty() || self.keys_file.has(Role::User)
    }

    /// Whether there is a key that may manage models.
    pub fn has_admin_keys(&self) -> bool {
        !self.keys.admin.is_empty() || self.keys_file.has(Role::Admin)
    }
}

/// A time before 1970 is that of 1970: both have passed.
fn system_time(time: Timestamp) -> SystemTime {
    let since = Duration::try_from(time.as_duration()).unwrap_or_default();
    SystemTime::UNIX_EPOCH + since
}

/// Reads the file of the setting, if there is one, and adds its entries to the settings. What is wrong
/// is reported.
pub(super) fn merge(settings: &mut Settings, reader: &mut Reader) {
    let Some(path) = settings.keys.file.clone() else {
        return;
    };
    let text = match reader.texts.files.read(&path) {
        Ok(text) => text,
        Err(error) => {
            let (path, absolute) = (path.display(), absolute(&path));
            let reason = format!("the file {path}{absolute} cannot be read: {error}");
            return reader.report_wrong(SETTING, &reason);
        }
    };
    let found = read::read(&text, &path, &settings.limits.time_zone);
    let place = Place { path, text: &text };
    let mut problems = found.problems;
    if !problems.is_empty() {
        // A key that seems to be missing may be in the file.
        reader.lacks(&["keys.api", "keys.admin", SETTING]);
    }
    problems.extend(conflicts(settings, &found.file, &place, reader));
    if problems.is_empty() {
        warn_of_expiry(&found.file, &place, reader);
    }
    reader.problems.extend(problems);
    for (name, entry) in &found.file.keys {
        if entry.limits != KeyLimits::default() {
            let limits = &mut settings.limits.key_limits;
            limits.insert(name.clone(), entry.limits.clone());
        }
        if let Some(models) = &entry.models {
            let of = &mut settings.limits.key_models;
            of.insert(name.clone(), models.clone());
        }
        if !entry.permissions.cloud {
            settings.cloud.keys_opt_out.push(name.clone());
        }
    }
    settings.keys_file = Arc::new(found.file);
}

/// Names and digests that other settings have, too.
fn conflicts(
    settings: &Settings,
    file: &KeysFile,
    place: &Place<'_>,
    reader: &Reader,
) -> Vec<Problem> {
    let lists = [
        ("keys.api", &settings.keys.api, Role::User),
        ("keys.admin", &settings.keys.admin, Role::Admin),
    ];
    let mut problems = Vec::new();
    for (setting, lines, role) in lists {
        let named = KeySet::from_lines(lines.iter().map(Secret::expose), role).unwrap_or_default();
        let names: BTreeSet<_> = named.identities().map(|key| key.name.clone()).collect();
        let digests = lines.iter().flat_map(|line| items(line.expose()));
        let digests: BTreeSet<KeyDigest> = digests
            .filter_map(|line| line.get(line.find("sha256:")?..)?.parse().ok())
            .collect();
        for (name, entry) in &file.keys {
            let other = reader.subject(setting);
            if names.contains(name) {
                let reason =
                    format!("{other} has a key with this name, too; remove one of the two");
                problems.push(place.problem(name, None, &reason));
            } else if entry.digests.iter().any(|digest| digests.contains(digest)) {
                let reason = format!("{other} has this digest, too; remove one of the two");
                problems.push(place.problem(name, Some("digest"), &reason));
            }
        }
    }
    let limits = settings.limits.key_limits.keys();
    let limits = limits.map(|name| ("limits.key_limits", name));
    let models = settings.limits.key_models.keys();
    let models = models.map(|name| ("limits.key_models", name));
    for (setting, name) in limits.chain(models) {
        if file.keys.contains_key(name) {
            let other = reader.subject(setting);
            let reason = format!("{other} has an entry for this key, too; move it to this file");
            problems.push(place.problem(name, None, &reason));
        }
    }
    problems
}

fn warn_of_expiry(file: &KeysFile, place: &Place<'_>, reader: &mut Reader) {
    let now = Timestamp::now();
    for (name, at) in file.expiring(now) {
        let reason = match at <= now {
            true => format!("the key has expired at {at}, and is refused"),
            false => format!(
                "the key expires soon, at {at}; `llamatower keygen {name} --file {} --rotate --expires 1y` \
                 writes a new one beside it",
                place.path.display()
            ),
        };
        let problem = place.problem(&name, Some("expires"), &reason);
        reader.warnings.push(problem);
    }
}

/// Where in the file something is.
struct Place<'a> {
    path: PathBuf,
    text: &'a str,
}

impl Place<'_> {
    /// A problem with a key or one of its fields.
    fn problem(&self, name: &str, field: Option<&str>, reason: &str) -> Problem {
        let line = read::line_of(self.text, name, field);
        read::problem(&self.path, line, name, field, reason)
    }
}
