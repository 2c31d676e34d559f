//! The fields of a key's table.

use std::num::NonZeroU32;
use std::time::Duration;

use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use llamatower_layers::api_key::KeyDigest;
use toml_edit::Value;

use super::{KeyEntry, Permissions};
use crate::ollama::fleet::ModelPattern;
use crate::settings::parse::{self, Parsed};
use crate::settings::values::KeyLimit;

/// Sets a field of an entry from its value.
pub(super) type Set = fn(&mut KeyEntry, &Value, &TimeZone) -> Parsed<()>;

/// A table inside of a key's table, or `None` for the table itself; the name of a field; what it
/// sets.
pub(crate) const FIELDS: [(Option<&str>, &str, Set); 11] = [
    (None, "digest", |entry, value, _| {
        entry.digests = digests(value)?;
        Ok(())
    }),
    (None, "expires", |entry, value, zone| {
        entry.expires = Some(expiry_of(value, zone)?);
        Ok(())
    }),
    (None, "models", |entry, value, _| {
        let models = texts(value)?.into_iter();
        let models = models.map(parse::plain::<ModelPattern>);
        entry.models = Some(models.collect::<Parsed<_>>()?);
        Ok(())
    }),
    (None, "priority", |entry, value, _| {
        let priority = text(value)?;
        entry.limits.share.priority = parse::priority(priority)?;
        Ok(())
    }),
    (Some("limits"), "rate", |entry, value, _| {
        entry.limits.rate = parse::key_limit(parse::rate)(text(value)?)?;
        Ok(())
    }),
    (Some("limits"), "tokens", |entry, value, _| {
        for budget in texts(value)? {
            parse::add_budget(&mut entry.limits.tokens, budget)?;
        }
        match entry.limits.tokens {
            KeyLimit::General => Err(r#"it is empty; for no limit write "off""#.to_owned()),
            _ => Ok(()),
        }
    }),
    (Some("limits"), "concurrency", |entry, value, _| {
        entry.limits.concurrency = match value.as_str() {
            Some("off") => KeyLimit::Off,
            _ => KeyLimit::Of(number(value).map_err(|error| format!("{error}, or \"off\""))?),
        };
        Ok(())
    }),
    (Some("limits"), "weight", |entry, value, _| {
        entry.limits.share.weight = number(value)?;
        Ok(())
    }),
    (Some("permissions"), "manage", |entry, value, _| {
        permit(value, |is| Permissions {
            manage: is,
            ..entry.permissions
        })
        .map(|permissions| entry.permissions = permissions)
    }),
    (Some("permissions"), "unload", |entry, value, _| {
        permit(value, |is| Permissions {
            unload: is,
            ..entry.permissions
        })
        .map(|permissions| entry.permissions = permissions)
    }),
    (Some("permissions"), "cloud", |entry, value, _| {
        permit(value, |is| Permissions {
            cloud: is,
            ..entry.permissions
        })
        .map(|permissions| entry.permissions = permissions)
    }),
];

fn number(value: &Value) -> Parsed<NonZeroU32> {
    let number = value
        .as_integer()
        .and_then(|number| u32::try_from(number).ok());
    let number = number.and_then(NonZeroU32::new);
    number.ok_or_else(|| "it is not a whole number above 0".to_owned())
}

fn permit(value: &Value, with: impl Fn(bool) -> Permissions) -> Parsed<Permissions> {
    value
        .as_bool()
        .map(with)
        .ok_or_else(|| "it must be true or false".to_owned())
}

/// A digest, or several. No text of the value is in the error, because it may be a key.
fn digests(value: &Value) -> Parsed<Vec<KeyDigest>> {
    const ADVICE: &str = "it is not like \"sha256:<64 hex digits>\" (its value is not shown). Never write \
                          the key itself into the file: `llamatower keygen NAME --file FILE` writes the digest of a new \
                          key, and `printf %s KEY | sha256sum` shows that of a known one";
    let texts = texts(value).map_err(|_| ADVICE)?;
    let digests = texts
        .into_iter()
        .map(|text| text.trim().parse::<KeyDigest>());
    let digests: Vec<_> = digests.collect::<Result<_, _>>().map_err(|_| ADVICE)?;
    match digests.is_empty() {
        true => Err("it is empty; to revoke a key, remove its table or set expires".to_owned()),
        false => Ok(digests),
    }
}

fn text(value: &Value) -> Parsed<&str> {
    value
        .as_str()
        .ok_or_else(|| format!("it has the type {}; expected a text", value.type_name()))
}

/// A text, or a list of texts.
fn texts(value: &Value) -> Parsed<Vec<&str>> {
    match value {
        Value::Array(items) => items.iter().map(text).collect(),
        one => Ok(vec![text(one)?]),
    }
}

fn expiry_of(value: &Value, zone: &TimeZone) -> Parsed<Timestamp> {
    match value {
        Value::Datetime(time) => expiry(&time.value().to_string(), zone),
        other => expiry(text(other)?, zone),
    }
}

/// A date or time of RFC 3339. A date is its midnight; without an offset the time is that of the
/// zone.
pub(crate) fn expiry(text: &str, zone: &TimeZone) -> Parsed<Timestamp> {
    let text = text.trim();
    if let Ok(time) = text.parse::<Timestamp>() {
        return Ok(time);
    }
    let date = text
        .parse::<Date>()
        .map(|date| date.to_datetime(Default::default()));
    let is_date = text.len() == "2027-01-31".len();
    let civil = match date {
        Ok(time) if is_date => Ok(time),
        _ => text.parse::<DateTime>(),
    };
    let time = civil.and_then(|civil| zone.to_timestamp(civil));
    time.map_err(|_| {
        format!("{text:?} is not a date like 2027-01-31 or a time like 2027-01-31T18:00:00Z")
    })
}

/// The same, or a duration from now, like `90d`.
pub(crate) fn expiry_or_duration(text: &str, zone: &TimeZone, now: Timestamp) -> Parsed<Timestamp> {
    let after = |lasts: Duration| {
        let lasts = SignedDuration::try_from(lasts).ok()?;
        now.checked_add(lasts).ok()
    };
    match humantime::parse_duration(text).ok().and_then(after) {
        Some(time) => Ok(time),
        None => expiry(text, zone).map_err(|error| format!("{error}, or a duration like 90d")),
    }
}
