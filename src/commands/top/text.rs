//! How values are written. The status page in a browser writes them the same way.

use indicatif::HumanCount;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// What is shown for a value that is not known.
pub(super) const UNKNOWN: &str = "-";

/// Ten years, in seconds. Ollama writes a time far beyond for a model that is never unloaded.
const NEVER: f64 = 10.0 * 365.0 * 86400.0;

/// The text with escapes for control characters, for invisible ones and for those that change the
/// direction of the text around them. A name can so neither control the terminal nor hide or imitate
/// another one.
pub(super) fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for character in text.chars() {
        match is_shown(character) {
            true => safe.push(character),
            false => safe.push_str(&format!("\\u{:04x}", u32::from(character))),
        }
    }
    safe
}

/// Whether a character has a shape of its own, with the width that terminals expect.
fn is_shown(character: char) -> bool {
    !matches!(
        character,
        '\0'..='\u{1f}'
            | '\u{7f}'..='\u{9f}'
            | '\u{ad}'
            | '\u{61c}'
            | '\u{115f}'..='\u{1160}'
            | '\u{180b}'..='\u{180f}'
            | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{3164}'
            // Variation selectors: terminals differ in the width of a character with one.
            | '\u{fe00}'..='\u{fe0f}'
            | '\u{feff}'
            | '\u{ffa0}'
            | '\u{fff0}'..='\u{fffb}'
            | '\u{e0000}'..='\u{e0fff}'
    )
}

/// The number of columns of a text.
pub(super) fn width(text: &str) -> usize {
    text.width()
}

/// The beginning of a text that has at most `width` columns, with an ellipsis if something is left
/// out.
pub(super) fn fit(text: &str, width: usize) -> String {
    if text.width() <= width {
        return text.to_owned();
    }
    let mut fitting = String::new();
    let mut left = width.saturating_sub(1);
    for character in text.chars() {
        let columns = character.width().unwrap_or(0);
        if columns > left {
            break;
        }
        left -= columns;
        fitting.push(character);
    }
    if width > 0 {
        fitting.push('…');
    }
    fitting
}

/// A number with commas between the thousands.
pub(super) fn count(value: u64) -> String {
    HumanCount(value).to_string()
}

/// A duration in seconds, with two or three digits.
pub(super) fn seconds(value: f64) -> String {
    match value {
        value if value < 0.0005 => "0 s".to_owned(),
        value if value < 0.9995 => format!("{:.0} ms", value * 1000.0),
        value if value < 9.95 => format!("{value:.1} s"),
        value if value < 120.0 => format!("{value:.0} s"),
        value if value < 7200.0 => format!("{:.0} min", value / 60.0),
        value if value < 172_800.0 => format!("{:.0} h", value / 3600.0),
        value => format!("{:.0} days", value / 86400.0),
    }
}

/// A size in bytes; 0 means that it is not known.
pub(super) fn bytes(value: u64) -> String {
    const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];
    if value == 0 {
        return UNKNOWN.to_owned();
    }
    let (mut size, mut unit) = (value as f64, 0);
    while size >= 999.5 && unit < UNITS.len() - 1 {
        size /= 1000.0;
        unit += 1;
    }
    match size < 9.95 && unit > 0 {
        true => format!("{size:.1} {}", UNITS[unit]),
        false => format!("{size:.0} {}", UNITS[unit]),
    }
}

/// A number of something in a second.
pub(super) fn rate(value: f64) -> String {
    match value < 9.95 {
        true => format!("{value:.1}"),
        false => count(value.round() as u64),
    }
}

/// What `of` says of a value, if there is one.
pub(super) fn known<T>(value: Option<T>, of: impl FnOnce(T) -> String) -> String {
    value.map_or_else(|| UNKNOWN.to_owned(), of)
}

/// The time of day.
pub(super) fn clock(time: &str, zone: &TimeZone) -> String {
    known(time.parse::<Timestamp>().ok(), |time| {
        let time = time.to_zoned_datetime(zone.clone()).time();
        format!(
            "{:02}:{:02}:{:02}",
            time.hour(),
            time.minute(),
            time.second()
        )
    })
}

/// The seconds since a time; `None` if the text is no time.
pub(super) fn since(time: &str, now: Timestamp) -> Option<f64> {
    let time: Timestamp = time.parse().ok()?;
    Some(now.duration_since(time).as_secs_f64().max(0.0))
}

/// The time until a model is unloaded.
pub(super) fn left(expires_at: Option<&str>, now: Timestamp) -> String {
    let expires_at: Option<Timestamp> = expires_at.and_then(|time| time.parse().ok());
    known(expires_at, |time| {
        match time.duration_since(now).as_secs_f64() {
            left if left > NEVER => "stays".to_owned(),
            left if left > 0.0 => seconds(left),
            _ => "now".to_owned(),
        }
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_could_control_a_terminal_or_hide_is_escaped() {
        for (text, written) in [
            ("qwen2.5-coder:7b", "qwen2.5-coder:7b"),
            ("a\u{1b}[31mb", "a\\u001b[31mb"),
            ("a\u{9b}31mb", "a\\u009b31mb"),
            ("a\u{202e}b\u{2066}", "a\\u202eb\\u2066"),
            ("a\r\n\tb\u{7f}", "a\\u000d\\u000a\\u0009b\\u007f"),
            ("a\u{200b}\u{feff}\u{e0041}", "a\\u200b\\ufeff\\ue0041"),
            ("模型 é", "模型 é"),
        ] {
            assert_eq!(escaped(text), written);
        }
    }

    #[test]
    fn every_control_or_format_character_of_the_first_planes_is_escaped() {
        let shown = ('\0'..='\u{ffff}').filter(|&character| is_shown(character));
        let without_width: Vec<char> = shown
            .filter(|character| character.is_control() || character.width().is_none())
            .collect();
        assert!(without_width.is_empty(), "{without_width:?}");
    }

    #[test]
    fn a_text_is_cut_at_its_width_in_columns() {
        for (text, width, cut) in [
            ("abc", 3, "abc"),
            ("abcd", 3, "ab…"),
            ("模型模型", 8, "模型模型"),
            ("模型模型", 7, "模型模…"),
            ("模型模型", 6, "模型…"),
            ("ab", 1, "…"),
            ("ab", 0, ""),
        ] {
            assert_eq!(fit(text, width), cut);
        }
    }

    #[test]
    fn numbers_have_the_digits_that_are_information() {
        assert_eq!(
            [0, 999, 1000, 1_234_567].map(count),
            ["0", "999", "1,000", "1,234,567"]
        );
        let durations = [0.0, 0.0123, 0.9996, 9.96, 119.0, 120.0, 7200.0, 200_000.0];
        assert_eq!(
            durations.map(seconds),
            [
                "0 s", "12 ms", "1.0 s", "10 s", "119 s", "2 min", "2 h", "2 days"
            ]
        );
        assert_eq!(
            [0, 999, 1000, 4_700_000_000, 42_500_000_000].map(bytes),
            ["-", "999 B", "1.0 kB", "4.7 GB", "42 GB"]
        );
        assert_eq!([0.04, 9.96, 1234.5].map(rate), ["0.0", "10", "1,235"]);
    }

    #[test]
    fn times_are_those_of_the_zone() {
        let zone = TimeZone::get("Europe/Berlin").unwrap();
        assert_eq!(clock("2026-07-01T10:00:00Z", &zone), "12:00:00");
        assert_eq!(clock("never", &zone), "-");
        let now = "2026-07-01T10:00:00Z".parse().unwrap();
        assert_eq!(since("2026-07-01T09:59:00Z", now), Some(60.0));
        assert_eq!(left(Some("2026-07-01T10:04:00Z"), now), "4 min");
        assert_eq!(left(Some("2318-01-01T00:00:00Z"), now), "stays");
        assert_eq!(left(Some("2026-07-01T09:00:00Z"), now), "now");
        assert_eq!(left(None, now), "-");
    }
}
