//! The settings in force, in a form that another process can compare with its own, and the comparison:
//! `llamatower check --diff`.
//!
//! A secret is compared by 16 bits of a digest that begins with a random text of this process: enough
//! to see that it differs, and too little to find it by trying.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::Arc;

use data_encoding::HEXLOWER;
use llamatower_layers::api_key::{KeySet, Role};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::live::RELOADABLE;
use crate::settings::{DeclaredModels, EffectiveSetting, SETTINGS, Secret, Settings};

/// The document `/status/settings`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InForce {
    /// What digests begin with.
    salt: String,
    /// The settings, in the order of their table.
    settings: Vec<SettingInForce>,
    /// The keys, by name.
    keys: BTreeMap<String, KeyInForce>,
    /// A digest of the declared models.
    models: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct SettingInForce {
    variable: String,
    /// As `llamatower check` shows it: a secret only has names.
    value: String,
    source: String,
    digest: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct KeyInForce {
    is_admin: bool,
    digest: String,
}

/// What a reload would change.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// Why a reload would be refused, although the settings are valid.
    pub refused: Option<String>,
    /// What is in force after a reload.
    pub changed: Vec<ChangedSetting>,
    /// What needs a restart.
    pub need_restart: Vec<ChangedSetting>,
    /// Different settings that the gateway has from a variable, which a reload cannot change.
    pub fixed: Vec<ChangedSetting>,
    /// The names of new keys.
    pub keys_added: Vec<String>,
    /// The names of keys that would be refused.
    pub keys_removed: Vec<String>,
    /// The names of keys with other digests, limits, permissions or expiry.
    pub keys_changed: Vec<String>,
    /// The number of settings that are the same.
    pub unchanged: usize,
    /// The number of keys that are the same.
    pub keys_unchanged: usize,
}

/// A setting with another value.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ChangedSetting {
    /// Its variable.
    pub variable: String,
    /// The value in force; of a secret only the names.
    pub old: String,
    /// The value after the change.
    pub new: String,
}

impl InForce {
    /// The settings of these rows, with the keys of `settings`; digests begin with `salt`.
    pub fn new(effective: &[EffectiveSetting], settings: &Settings, salt: &str) -> Self {
        let rows = effective.iter().map(|row| SettingInForce {
            variable: row.setting.variable.to_owned(),
            value: row.value.clone(),
            source: row.source.clone(),
            digest: row.digest(|text| digest(salt, text, row.setting.form.is_secret())),
        });
        Self {
            salt: salt.to_owned(),
            settings: rows.collect(),
            keys: keys(settings, salt),
            models: models(&settings.declared, salt),
        }
    }

    /// What the others begin their digests with, so that they can be compared.
    pub fn salt(&self) -> &str {
        &self.salt
    }

    /// What changes if these settings are in force and `new` are read.
    pub fn difference(&self, new: &Self) -> Difference {
        let mut found = Difference::default();
        let old: BTreeMap<_, _> = (self.settings.iter())
            .map(|row| (&*row.variable, row))
            .collect();
        for (setting, new) in SETTINGS.iter().zip(&new.settings) {
            let nothing = SettingInForce::default();
            let old = old.get(&*new.variable).copied().unwrap_or(&nothing);
            if old.digest == new.digest {
                found.unchanged += 1;
                continue;
            }
            let changed = ChangedSetting {
                variable: new.variable.clone(),
                old: old.value.clone(),
                new: new.value.clone(),
            };
            let is_fixed = old.source == old.variable;
            match RELOADABLE.contains(&setting.key) {
                _ if is_fixed => found.fixed.push(changed),
                true => found.changed.push(changed),
                false => found.need_restart.push(changed),
            }
        }
        if self.models != new.models {
            found.changed.push(ChangedSetting {
                variable: "[models]".to_owned(),
                ..ChangedSetting::default()
            });
        }
        found.compare_keys(&self.keys, &new.keys);
        found
    }
}

impl Difference {
    /// Whether a reload changes something, but not all.
    pub fn needs_restart(&self) -> bool {
        !self.need_restart.is_empty()
    }

    fn compare_keys(
        &mut self,
        old: &BTreeMap<String, KeyInForce>,
        new: &BTreeMap<String, KeyInForce>,
    ) {
        for (name, key) in new {
            match old.get(name) {
                None => self.keys_added.push(name.clone()),
                Some(known) if known != key => self.keys_changed.push(name.clone()),
                Some(_) => self.keys_unchanged += 1,
            }
        }
        let removed = old.keys().filter(|name| !new.contains_key(*name));
        self.keys_removed.extend(removed.cloned());
        let has_user = |keys: &BTreeMap<String, KeyInForce>| keys.values().any(|key| !key.is_admin);
        if has_user(old) && !has_user(new) {
            self.refused = Some(
                "a reload does not remove the last key of a client, because the gateway would then be open \
                 to all clients"
                    .to_owned(),
            );
        }
    }

    /// For people.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for (title, settings) in [
            ("changed by a reload", &self.changed),
            ("needs a restart", &self.need_restart),
            (
                "not changed, because the gateway has it from its environment",
                &self.fixed,
            ),
        ] {
            if settings.is_empty() {
                continue;
            }
            let _ = writeln!(text, "{title}:");
            for row in settings {
                let _ = match (&*row.old, &*row.new) {
                    (old, new) if old == new => writeln!(text, "  {}", row.variable),
                    (old, new) => writeln!(text, "  {}: {old} -> {new}", row.variable),
                };
            }
        }
        for (title, names) in [
            ("keys added", &self.keys_added),
            ("keys removed", &self.keys_removed),
            ("keys changed", &self.keys_changed),
        ] {
            if !names.is_empty() {
                let _ = writeln!(text, "{title}: {}", names.join(", "));
            }
        }
        let (settings, keys) = (self.unchanged, self.keys_unchanged);
        let _ = writeln!(text, "unchanged: {settings} settings, {keys} keys");
        if let Some(refused) = &self.refused {
            let _ = writeln!(text, "refused: {refused}");
        }
        text
    }
}

/// The keys of the variables and of the keys file.
fn keys(settings: &Settings, salt: &str) -> BTreeMap<String, KeyInForce> {
    let mut texts: BTreeMap<Arc<str>, (bool, BTreeSet<String>)> = BTreeMap::new();
    let lists = [
        (&settings.keys.api, Role::User),
        (&settings.keys.admin, Role::Admin),
    ];
    for (lines, role) in lists {
        let lines = lines.iter().map(Secret::expose);
        let known = KeySet::from_lines(lines.clone(), role).unwrap_or_default();
        for (key, line) in known.identities().zip(lines) {
            let (is_admin, parts) = texts.entry(key.name.clone()).or_default();
            *is_admin |= role == Role::Admin;
            parts.insert(format!("{role:?} {line}"));
        }
    }
    for (name, entry) in &settings.keys_file.keys {
        let (is_admin, parts) = texts.entry(name.clone()).or_default();
        *is_admin |= entry.role() == Role::Admin;
        parts.insert(format!("{entry:?}"));
        parts.extend(entry.digests.iter().map(ToString::to_string));
    }
    let rows = texts.into_iter().map(|(name, (is_admin, parts))| {
        let parts: Vec<_> = parts.into_iter().collect();
        let digest = digest(salt, &parts.join("\n"), true);
        (name.to_string(), KeyInForce { is_admin, digest })
    });
    rows.collect()
}

fn models(declared: &DeclaredModels, salt: &str) -> String {
    digest(salt, &format!("{declared:?}"), false)
}

fn digest(salt: &str, text: &str, is_secret: bool) -> String {
    let digest = Sha256::new_with_prefix(salt).chain_update(text).finalize();
    let bytes = if is_secret { 2 } else { 16 };
    HEXLOWER.encode(&digest[..bytes])
}
