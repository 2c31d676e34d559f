//! Reads the file. Errors name the file, the line, the key and the field, and no value of a digest.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use jiff::tz::TimeZone;
use llamatower_layers::api_key::{Key, KeyDigest, Role};
use toml_edit::{Document, Item, Key as TomlKey, TableLike};

use super::fields::FIELDS;
use super::{KeyEntry, KeysFile};
use crate::settings::error::Problem;

/// The table that holds the tables of keys.
const KEYS: &str = "keys";

/// Below this similarity, a name is not suggested.
const LEAST: f64 = 0.6;

/// Words for a plain key, which does not belong into the file.
const PLAIN_KEY: [&str; 5] = ["key", "secret", "token", "password", "value"];

/// What was found, also if there are problems.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) file: KeysFile,
    pub(super) problems: Vec<Problem>,
}

struct Reading<'a> {
    path: &'a Path,
    text: &'a str,
    zone: &'a TimeZone,
    found: Found,
}

pub(super) fn read(text: &str, path: &Path, zone: &TimeZone) -> Found {
    let mut reading = Reading {
        path,
        text,
        zone,
        found: Found::default(),
    };
    match Document::parse(text) {
        Ok(document) => reading.document(document.as_table()),
        Err(error) => {
            let line = error.span().map(|span| line_at(text, &span));
            let subject = place(path, line);
            // The message of the parser has no line of the file, which may contain a key.
            let reason = format!(
                "it is not valid TOML: {}",
                error.message().replace('\n', "; ")
            );
            reading.found.problems.push(Problem::new(subject, reason));
        }
    }
    reading.found
}

impl Reading<'_> {
    fn document(&mut self, document: &dyn TableLike) {
        for (name, _) in document.iter().filter(|(name, _)| *name != KEYS) {
            let line = self.line(document.key(name), None);
            let reason = "the file has no such table; write [keys.NAME] for each key";
            let subject = format!("{name} in {}", place(self.path, line));
            self.found.problems.push(Problem::new(subject, reason));
        }
        let keys = document.get(KEYS);
        if let Some(not_a_table) = keys.filter(|keys| keys.as_table_like().is_none()) {
            let line = self.line(None, Some(not_a_table));
            let subject = format!("{KEYS} in {}", place(self.path, line));
            let reason = "write a table [keys.NAME] for each key";
            self.found.problems.push(Problem::new(subject, reason));
            return;
        }
        let keys = keys.and_then(Item::as_table_like);
        for (name, item) in keys.into_iter().flat_map(TableLike::iter) {
            let key = keys.and_then(|keys| keys.key(name));
            self.entry(name, key, item);
        }
        if self.found.file.keys.is_empty() && self.found.problems.is_empty() {
            let reason = "it contains no key; `llamatower keygen NAME --file FILE` writes one. To revoke the last key, \
                          set its `expires` to a time in the past";
            let problem = Problem::new(place(self.path, None), reason);
            self.found.problems.push(problem);
        }
        self.repeated_digests();
    }

    fn entry(&mut self, name: &str, key: Option<&TomlKey>, item: &Item) {
        let before = self.found.problems.len();
        let line = self.line(key, Some(item));
        let Some(table) = item.as_table_like() else {
            return self.wrong(
                line,
                name,
                None,
                "write a table [keys.NAME] with its digest",
            );
        };
        if let Err(error) = Key::new(name, KeyDigest::of(""), Role::User) {
            return self.wrong(line, name, None, &error.to_string());
        }
        let mut entry = KeyEntry::default();
        self.fields(&mut entry, name, None, table);
        if table.get("digest").is_none() && self.found.problems.len() == before {
            let reason = "it has no digest; `llamatower keygen NAME --file FILE` makes a key and writes its digest";
            self.wrong(line, name, None, reason);
        }
        self.found.file.keys.insert(Arc::from(name), entry);
    }

    /// Reads the fields of a key's table, or of a table in it.
    fn fields(
        &mut self,
        entry: &mut KeyEntry,
        name: &str,
        inner: Option<&str>,
        table: &dyn TableLike,
    ) {
        for (field, item) in table.iter() {
            let line = self.line(table.key(field), Some(item));
            let full = match inner {
                Some(inner) => format!("{inner}.{field}"),
                None => field.to_owned(),
            };
            let is_table = FIELDS.iter().any(|(of, ..)| *of == Some(field));
            if inner.is_none() && is_table {
                match item.as_table_like() {
                    Some(table) => self.fields(entry, name, Some(field), table),
                    None => self.wrong(line, name, Some(&full), "it must be a table"),
                }
                continue;
            }
            let mut known = FIELDS.iter();
            let known = known.find(|(of, known, _)| *of == inner && *known == field);
            let set = match (known, item.as_value()) {
                (Some((.., set)), Some(value)) => set(entry, value, self.zone),
                (Some(_), None) => Err("it must be a value, not a table".to_owned()),
                (None, _) => Err(unknown(field, inner)),
            };
            if let Err(reason) = set {
                self.wrong(line, name, Some(&full), &reason);
            }
        }
    }

    /// A digest of two names, of which it would be unclear whose requests it makes.
    fn repeated_digests(&mut self) {
        let mut owners: BTreeMap<KeyDigest, Arc<str>> = BTreeMap::new();
        let mut repeated = Vec::new();
        for (name, entry) in &self.found.file.keys {
            for digest in &entry.digests {
                if let Some(owner) = owners.insert(*digest, name.clone()) {
                    repeated.push((name.clone(), owner));
                }
            }
        }
        for (name, owner) in repeated {
            let line = line_of(self.text, &name, Some("digest"));
            let reason = format!("a digest is that of {owner}, too; each key needs its own");
            self.wrong(line, &name, Some("digest"), &reason);
        }
    }

    fn wrong(&mut self, line: Option<usize>, name: &str, field: Option<&str>, reason: &str) {
        let problem = problem(self.path, line, name, field, reason);
        self.found.problems.push(problem);
    }

    fn line(&self, key: Option<&TomlKey>, item: Option<&Item>) -> Option<usize> {
        let span = key.and_then(TomlKey::span);
        let span = span.or_else(|| item.and_then(Item::span));
        span.map(|span| line_at(self.text, &span))
    }
}

fn unknown(field: &str, inner: Option<&str>) -> String {
    if PLAIN_KEY.contains(&field.to_ascii_lowercase().as_str()) {
        return "a key itself never belongs into this file; write its digest: \
                `llamatower keygen NAME --file FILE` makes a key and writes its digest"
            .to_owned();
    }
    let names = |of: Option<&str>| {
        let fields = FIELDS.iter().filter(move |(table, ..)| *table == of);
        fields.map(|(_, name, _)| *name).collect::<Vec<_>>()
    };
    let mut own = names(inner);
    if inner.is_none() {
        own.extend(["limits", "permissions"]);
    }
    let scored = FIELDS.iter().map(|(table, name, _)| {
        let full = match table {
            Some(table) if *table != inner.unwrap_or_default() => format!("{table}.{name}"),
            _ => (*name).to_owned(),
        };
        (strsim::normalized_damerau_levenshtein(field, name), full)
    });
    let nearest = scored.max_by(|(one, _), (other, _)| one.total_cmp(other));
    match nearest.filter(|(score, _)| *score >= LEAST) {
        Some((_, name)) => format!("there is no such field; did you mean {name}?"),
        None => format!("there is no such field; there are {}", own.join(", ")),
    }
}

/// A problem with a key of the file, or with one of its fields.
pub(super) fn problem(
    path: &Path,
    line: Option<usize>,
    name: &str,
    field: Option<&str>,
    reason: &str,
) -> Problem {
    let field = field.map(|field| format!(".{field}")).unwrap_or_default();
    let subject = format!("{KEYS}.{name}{field} in {}", place(path, line));
    Problem::new(subject, reason)
}

fn place(path: &Path, line: Option<usize>) -> String {
    match line {
        Some(line) => format!("{}, line {line}", path.display()),
        None => path.display().to_string(),
    }
}

/// The line of a key's table, or of a field directly in it.
pub(super) fn line_of(text: &str, name: &str, field: Option<&str>) -> Option<usize> {
    let document = Document::parse(text).ok()?;
    let keys = document.get(KEYS)?.as_table_like()?;
    let entry = keys.get(name)?;
    let span = match field {
        Some(field) => {
            let table = entry.as_table_like()?;
            table.key(field).and_then(TomlKey::span)
        }
        None => keys
            .key(name)
            .and_then(TomlKey::span)
            .or_else(|| entry.span()),
    };
    span.map(|span| line_at(text, &span))
}

fn line_at(text: &str, span: &Range<usize>) -> usize {
    let before = text.get(..span.start).unwrap_or(text);
    before.matches('\n').count() + 1
}
