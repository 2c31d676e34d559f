//! Checks the log filter.
//!
//! The library that applies a filter takes a word that is not a level for a target, so `inof` would
//! suppress every line. Here this is an error.

use std::str::FromStr;

use tracing_subscriber::filter::{EnvFilter, LevelFilter};

const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// The beginning of the targets of the gateway's own lines.
const OWN: &str = "llamatower";

/// The beginnings of all log targets in this program.
const TARGETS: [&str; 12] = [
    OWN,
    "h2",
    "hickory",
    "hyper",
    "log",
    "mio",
    "opentelemetry",
    "reqwest",
    "rustls",
    "tokio",
    "tower",
    "tracing",
];

/// One part of a filter: `info`, `hyper`, `hyper=debug`, `llamatower[request{status=503}]=debug`.
struct Directive<'a> {
    text: &'a str,
    /// Empty if it has none.
    target: &'a str,
    has_span: bool,
    level: Option<&'a str>,
}

impl<'a> Directive<'a> {
    fn read(text: &'a str) -> Self {
        let level_may_begin = text.rfind(']').unwrap_or(0);
        let (head, level) = match text.get(level_may_begin..).and_then(|rest| rest.find('=')) {
            Some(at) => (
                &text[..level_may_begin + at],
                Some(text[level_may_begin + at + 1..].trim()),
            ),
            None if is_level(text) => ("", Some(text)),
            None => (text, None),
        };
        let (target, span) = head.split_at(head.find('[').unwrap_or(head.len()));
        Self {
            text,
            target: target.trim(),
            has_span: !span.is_empty(),
            level,
        }
    }

    /// Whether it sets the level of all of the gateway's own lines: `warn`, `llamatower=off`.
    fn is_of_whole_gateway(&self) -> bool {
        !self.has_span && OWN.starts_with(self.target)
    }

    /// Whether it applies to the gateway's own lines.
    fn is_of_gateway(&self) -> bool {
        self.target.is_empty() || self.target.starts_with(OWN)
    }

    fn has_known_target(&self) -> bool {
        self.target.is_empty() || TARGETS.iter().any(|known| self.target.starts_with(known))
    }

    fn check(&self) -> Result<(), String> {
        match self.level {
            Some(level) if !is_level(level) => {
                let hint = like(level, &LEVELS);
                Err(format!("{:?} does not end with a level{hint}", self.text))
            }
            None if !self.has_span && !self.has_known_target() => {
                let hint = like(self.target, &LEVELS);
                Err(format!(
                    "{:?} is neither a level nor a part of the program{hint}",
                    self.text
                ))
            }
            _ => Ok(()),
        }
    }
}

/// Checks a filter. Returns warnings: of targets without log lines, and of a filter that
/// suppresses the gateway's warnings without saying so.
///
/// # Errors
/// The filter cannot be parsed, or has neither a level nor a part of the program.
pub fn check_log_filter(filter: &str) -> Result<Vec<String>, String> {
    let directives: Vec<_> = split(filter).into_iter().map(Directive::read).collect();
    if directives.is_empty() {
        return Err("it contains neither a level nor a target".to_owned());
    }
    directives.iter().try_for_each(Directive::check)?;
    let parsed = EnvFilter::builder().parse(without_blanks(filter));
    parsed.map_err(|error| error.to_string())?;
    let unknown = directives
        .iter()
        .filter(|directive| !directive.has_known_target());
    let unknown: Vec<_> = unknown.map(|directive| directive.target).collect();
    let says_something = directives
        .iter()
        .any(|directive| directive.is_of_gateway() || directive.has_known_target());
    match unknown.first() {
        Some(target) if !says_something => {
            let hint = like(target, &TARGETS);
            Err(format!("no log line has the target {target:?}{hint}"))
        }
        _ => {
            let unknown = unknown.into_iter();
            let unknown = unknown.map(|target| format!("no log line has the target {target:?}"));
            Ok(unknown.chain(suppressed(filter)).collect())
        }
    }
}

/// Whether a valid filter suppresses the gateway's own warnings although it does not set a level for
/// them.
pub fn suppresses_warnings(filter: &str) -> bool {
    let mut directives = split(filter).into_iter().map(Directive::read);
    !directives.any(|directive| directive.is_of_whole_gateway())
}

fn suppressed(filter: &str) -> Option<String> {
    suppresses_warnings(filter).then(|| {
        format!(
            "it suppresses the gateway's own warnings and errors, because it sets no level for \
             {OWN}; add one, as in \"warn,{}\", or {OWN}=off to suppress them",
            without_blanks(filter)
        )
    })
}

/// The filter without blanks around its parts; the library would take them for parts of words.
pub(super) fn without_blanks(filter: &str) -> String {
    split(filter).join(",")
}

fn is_level(text: &str) -> bool {
    !text.is_empty() && LevelFilter::from_str(text).is_ok()
}

/// The comma-separated parts; commas within brackets belong to a span.
fn split(filter: &str) -> Vec<&str> {
    let mut depth = 0_usize;
    let parts = filter.split(|c| {
        match c {
            '[' | '{' => depth += 1,
            ']' | '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        c == ',' && depth == 0
    });
    let parts = parts.map(str::trim);
    parts.filter(|part| !part.is_empty()).collect()
}

/// A suggestion for a misspelt word, and the list of valid words.
fn like(given: &str, known: &[&str]) -> String {
    let given = given.to_ascii_lowercase();
    let alike = |word: &&str| strsim::normalized_damerau_levenshtein(&given, word);
    let scored = known.iter().map(|word| (word, alike(word)));
    let best = scored.max_by(|(_, one), (_, other)| one.total_cmp(other));
    let hint = match best.filter(|(_, score)| *score >= 0.5) {
        Some((word, _)) => format!("; did you mean {word}?"),
        None => ";".to_owned(),
    };
    format!("{hint} valid words are {}", known.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_that_names_a_level_or_a_part_of_the_program_is_sound() {
        for filter in [
            "info",
            "INFO",
            "off",
            "3",
            "info,llamatower::access=off",
            "llamatower=debug",
            "warn, hyper=debug ,",
            "llamatower",
            "llamatower=off,hyper",
            "llamatower=error",
            "OFF",
            "llamatower_layers::queue=trace,off",
            "llamatower::spans[request{status=503}]=debug,info",
        ] {
            assert_eq!(check_log_filter(filter), Ok(Vec::new()), "{filter}");
        }
    }

    #[test]
    fn a_filter_that_would_suppress_all_lines_is_refused_with_a_suggestion() {
        for (filter, told) in [
            ("inof", "did you mean info?"),
            ("warning", "did you mean warn?"),
            ("infos,hyper=debug", "did you mean info?"),
            ("info,llamatower=debgu", "did you mean debug?"),
            ("info,llamatower=", "not end with a level"),
            ("llamatwoer=debug", "did you mean llamatower?"),
            (",", "neither a level nor a target"),
            (" , ,", "neither a level nor a target"),
            ("verbose", "valid words are off, error"),
            ("a=b=c", "not end with a level"),
            ("info warn", "neither a level"),
            ("info;hyper=warn", "\"info;hyper\""),
        ] {
            let error = check_log_filter(filter).expect_err(filter);
            assert!(error.contains(told), "{filter}: {error}");
        }
    }

    #[test]
    fn a_target_without_log_lines_is_reported_if_the_filter_is_otherwise_valid() {
        let told = check_log_filter("info,sqlx=warn").expect("sound");
        assert_eq!(told, ["no log line has the target \"sqlx\""]);
    }

    #[test]
    fn a_filter_without_a_level_for_the_gateway_is_reported_with_a_better_one() {
        for filter in [
            "hyper=debug",
            "hyper",
            "hyper=off",
            "llamatower::reload=info",
            "llamatower_layers::queue=trace",
            "[request]=debug",
            "llamatower[request{status=503}]=debug",
        ] {
            let told = check_log_filter(filter).expect("sound");
            assert_eq!(told.len(), 1, "{filter}: {told:?}");
            let better = format!("warn,{filter}");
            assert!(told[0].contains(&better), "{told:?}");
            assert_eq!(check_log_filter(&better), Ok(Vec::new()), "{better}");
        }
    }

    #[test]
    fn a_filter_is_reported_exactly_if_the_library_suppresses_a_warning_of_the_gateway() {
        use tracing_subscriber::layer::SubscriberExt;
        for (filter, is_reported) in [
            ("hyper=debug", true),
            ("llamatower::reload=info", true),
            ("warn,hyper=debug", false),
            ("llamatower=info", false),
            ("llama=info", false),
        ] {
            let filters = EnvFilter::builder().parse(filter).expect("sound");
            let registry = tracing_subscriber::registry().with(filters);
            let passes = tracing::subscriber::with_default(
                registry,
                || tracing::enabled!(target: "llamatower::gateway", tracing::Level::WARN),
            );
            assert_eq!(passes, !is_reported, "{filter}");
            assert_eq!(suppresses_warnings(filter), is_reported, "{filter}");
        }
    }
}
