//! Durations in Go's notation, with Go's error messages.

use std::time::Duration;

/// Parses `300ms`, `1.5h`, `1m30s`. A negative duration gives zero.
pub(crate) fn parse(text: &str) -> Result<Duration, String> {
    parse_signed(text).map(|(length, negative)| if negative { Duration::ZERO } else { length })
}

/// Like [`parse`], and also returns whether the duration is negative.
pub(crate) fn parse_signed(text: &str) -> Result<(Duration, bool), String> {
    let invalid = || format!("time: invalid duration {text:?}");
    let (negative, mut rest) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    if rest == "0" {
        return Ok((Duration::ZERO, false));
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut total = 0.0;
    while !rest.is_empty() {
        let digits = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(rest.len());
        let number: f64 = rest[..digits].parse().map_err(|_| invalid())?;
        rest = &rest[digits..];
        let letters = rest
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(rest.len());
        let (unit, after) = rest.split_at(letters);
        total += number
            * match unit {
                "ns" => 1e-9,
                "us" | "µs" | "μs" => 1e-6,
                "ms" => 1e-3,
                "s" => 1.0,
                "m" => 60.0,
                "h" => 3600.0,
                "" => return Err(format!("time: missing unit in duration {text:?}")),
                _ => return Err(format!("time: unknown unit {unit:?} in duration {text:?}")),
            };
        rest = after;
    }
    let length = Duration::try_from_secs_f64(total).map_err(|_| invalid())?;
    Ok((length, negative))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_parsed_like_in_go() {
        assert_eq!(parse("1m30s"), Ok(Duration::from_secs(90)));
        assert_eq!(parse("0.5ms"), Ok(Duration::from_micros(500)));
        assert_eq!(parse_signed("-1s"), Ok((Duration::from_secs(1), true)));
        assert_eq!(
            parse("soon"),
            Err("time: invalid duration \"soon\"".to_owned())
        );
        assert_eq!(
            parse("5"),
            Err("time: missing unit in duration \"5\"".to_owned())
        );
    }
}
