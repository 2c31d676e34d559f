//! Text and durations, parsed as in Go.

use std::borrow::Cow;
use std::time::Duration;

use crate::llm_request::KeepAlive;

/// The text of a JSON string, from its raw contents. Half a surrogate pair becomes U+FFFD, as in
/// Go.
pub(super) fn unescape(raw: &[u8]) -> Cow<'_, str> {
    // The kept bytes were validated as UTF-8; if they were cut within a character, its end is lost.
    let text = String::from_utf8_lossy(raw);
    if !raw.contains(&b'\\') {
        return text;
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = &*text;
    while let Some((plain, escape)) = rest.split_once('\\') {
        out.push_str(plain);
        let mut chars = escape.chars();
        match chars.next() {
            Some('u') => {
                let (unescaped, left) = unicode_escape(chars.as_str());
                out.push(unescaped);
                rest = left;
                continue;
            }
            Some('b') => out.push('\u{8}'),
            Some('f') => out.push('\u{c}'),
            Some('n') => out.push('\n'),
            Some('r') => out.push('\r'),
            Some('t') => out.push('\t'),
            Some(other) => out.push(other),
            None => {}
        }
        rest = chars.as_str();
    }
    out.push_str(rest);
    Cow::Owned(out)
}

/// The character of a `\u` escape, including a second half of a pair, and the rest.
fn unicode_escape(text: &str) -> (char, &str) {
    let unit = |text: &str| u16::from_str_radix(text.get(..4)?, 16).ok();
    let Some(first) = unit(text) else {
        return (char::REPLACEMENT_CHARACTER, "");
    };
    let rest = &text[4..];
    let second = rest.strip_prefix("\\u").and_then(unit);
    let mut units = char::decode_utf16([first].into_iter().chain(second));
    let unescaped = units.next().and_then(Result::ok);
    match unescaped {
        Some(character) if character.len_utf16() == 2 => (character, &rest[6..]),
        Some(character) => (character, rest),
        None => (char::REPLACEMENT_CHARACTER, rest),
    }
}

/// Whether Go matches `text` with the struct field `key` (lower-case ASCII): case is folded,
/// including two characters beyond ASCII (U+017F and U+212A).
pub(super) fn folds_to(text: &str, key: &str) -> bool {
    text.chars()
        .map(|character| match character {
            '\u{17f}' => 's',
            '\u{212a}' => 'k',
            _ => character.to_ascii_lowercase(),
        })
        .eq(key.chars())
}

/// `keep_alive` as a number of seconds.
pub(super) fn keep_alive_seconds(number: f64) -> KeepAlive {
    let nanoseconds = number * 1e9;
    if number < 0.0 {
        KeepAlive::Forever
    } else if nanoseconds < i64::MAX as f64 {
        KeepAlive::For(Duration::from_nanos(nanoseconds as u64))
    } else {
        KeepAlive::Unclear
    }
}

/// `keep_alive` as text, by the rules of Go's `time.ParseDuration`.
pub(super) fn keep_alive_text(text: &str) -> KeepAlive {
    let (is_negative, unsigned) = match text.strip_prefix(['-', '+']) {
        Some(unsigned) => (text.starts_with('-'), unsigned),
        None => (false, text),
    };
    match go_duration(unsigned) {
        None => KeepAlive::Unclear,
        Some(nanoseconds) if is_negative && nanoseconds > 0 => KeepAlive::Forever,
        Some(nanoseconds) if nanoseconds > i64::MAX as u64 => KeepAlive::Unclear,
        Some(nanoseconds) => KeepAlive::For(Duration::from_nanos(nanoseconds)),
    }
}

/// A duration without its sign, in nanoseconds: at most 2^63, which is only allowed if negative.
fn go_duration(text: &str) -> Option<u64> {
    if text == "0" {
        return Some(0);
    }
    let digits_of = |text: &str| text.bytes().take_while(u8::is_ascii_digit).count();
    let mut rest = text;
    let mut total: u64 = 0;
    loop {
        let (whole, after) = rest.split_at(digits_of(rest));
        let (fraction, after) = match after.strip_prefix('.') {
            Some(after) => after.split_at(digits_of(after)),
            None => ("", after),
        };
        if whole.is_empty() && fraction.is_empty() {
            return None;
        }
        let unit_end = after
            .find(|c: char| c == '.' || c.is_ascii_digit())
            .unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_end);
        let unit: u64 = match unit {
            "ns" => 1,
            "us" | "\u{b5}s" | "\u{3bc}s" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return None,
        };
        let whole: u64 = if whole.is_empty() {
            0
        } else {
            whole.parse().ok()?
        };
        let part = format!("0.{fraction}0").parse::<f64>().ok()? * unit as f64;
        total = whole
            .checked_mul(unit)?
            .checked_add(part as u64)?
            .checked_add(total)
            .filter(|sum| *sum <= 1 << 63)?;
        rest = after;
        if rest.is_empty() {
            return Some(total);
        }
    }
}
