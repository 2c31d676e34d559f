//! Parses the parameter of a route.

use std::borrow::Cow;
use std::sync::Arc;

use percent_encoding::percent_decode_str;

/// Parses the raw text of a path parameter: the name of a model, a digest or a key.
///
/// Percent-encoding is decoded once, because clients encode names in paths (`tiny%3Alatest`). The
/// result contains no character that a router could treat as a part of the path, except for the
/// slashes in a model's name if `may_have_slashes`; no segment between them is empty, `.` or `..`.
pub(super) fn parse(raw: &str, may_have_slashes: bool) -> Option<Arc<str>> {
    let value = match raw.contains('%') {
        true => percent_decode_str(raw).decode_utf8().ok()?,
        false => Cow::Borrowed(raw),
    };
    let is_sound = match may_have_slashes {
        true => value.split('/').all(is_name),
        false => is_name(&value),
    };
    is_sound.then(|| value.into())
}

fn is_name(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.:".contains(&b);
    !text.is_empty() && text != "." && text != ".." && text.bytes().all(plain)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn percent_encoding_is_decoded_once() {
        for (raw, value) in [
            ("tiny", "tiny"),
            ("tiny%3Alatest", "tiny:latest"),
            ("tiny%3alatest", "tiny:latest"),
            ("%74iny", "tiny"),
            ("a%2Eb", "a.b"),
        ] {
            assert_eq!(parse(raw, false).as_deref(), Some(value), "{raw}");
        }
        for raw in [
            "tiny%253Alatest",
            "tiny%",
            "tiny%3",
            "tiny%zz",
            "tiny%00",
            "tiny%0a",
            "tiny%20",
            "tiny%ff",
            "tiny%c3%28",
            "caf%C3%A9",
            "tiny%3Fx",
            "tiny%23x",
            "tiny%3Bx",
            "tiny%5Cx",
            "%2e",
            "%2E%2e",
            "..",
            "",
        ] {
            assert_eq!(parse(raw, false), None, "{raw}");
            assert_eq!(parse(raw, true), None, "{raw}");
        }
    }

    #[test]
    fn only_the_name_of_a_model_has_slashes() {
        for raw in [
            "aaa/llava:13b",
            "aaa%2Fllava%3A13b",
            "aaa%2fllava:13b",
            "hf.co/someone/Model-GGUF:Q4_K_M",
        ] {
            let value = raw.replace("%2F", "/").replace("%2f", "/");
            let value = value.replace("%3A", ":");
            assert_eq!(parse(raw, true).as_deref(), Some(&*value), "{raw}");
            assert_eq!(parse(raw, false), None, "{raw}");
        }
        for raw in [
            "/tiny",
            "tiny/",
            "a//b",
            "a/../b",
            "a/./b",
            "a%2F..",
            "a%2F%2e%2e%2Fb",
            "%2Ftiny",
            "tiny%2F",
            "a%252Fb",
            "..%2F..%2Fapi%2Fdelete",
        ] {
            assert_eq!(parse(raw, true), None, "{raw}");
        }
    }

    proptest! {
        /// A parameter cannot change the structure of the path, whatever the request contains.
        #[test]
        fn a_parameter_is_plain_text(raw in "[a-z%0-9/.:A-F]{0,24}", slashes: bool) {
            if let Some(value) = parse(&raw, slashes) {
                prop_assert!(!value.contains(['%', '?', '#', '\\', ' ']));
                prop_assert!(slashes || !value.contains('/'));
                let mut parts = value.split('/');
                prop_assert!(parts.all(|part| !matches!(part, "" | "." | "..")));
            }
        }
    }
}
