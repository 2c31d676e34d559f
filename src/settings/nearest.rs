//! Finds the setting that a wrong name probably means.
//!
//! Names are compared word by word, because people often know the words of a setting but not their
//! order or number: `DEFAULT_MODEL` means `DEFAULT_OLLAMA_MODEL`. Words are compared by letters, so
//! that a misspelt word counts too. Synonyms count almost as much as the word itself.

use super::setting::Setting;

/// Synonyms. A word may be in several groups.
const GROUPS: &[&[&str]] = &[
    &[
        "url", "uri", "backend", "server", "upstream", "host", "node",
    ],
    &[
        "listen", "public", "host", "port", "bind", "addr", "address",
    ],
    &["total", "request", "response", "overall"],
    &["slot", "parallel", "num", "concurrency"],
    &["flight", "concurrency", "concurrent", "request"],
    &["admin", "operator"],
    &["metric", "prometheus"],
    &["api", "auth", "client", "user"],
    SECRETS,
    &["origin", "cors"],
    &["base", "prefix", "root"],
    &["drain", "shutdown", "grace", "stop", "termination"],
    &["ca", "cert", "certificate", "tls", "ssl"],
    &["dns", "resolver", "nameserver"],
    &["worker", "thread", "cpu"],
    &["rate", "rpm", "ratelimit"],
    &["zone", "timezone", "tz"],
    &["read", "idle"],
    &["required", "require", "need"],
    &["cloud", "groq"],
];

/// The words for a secret. They stand for each other only in the names of secrets: other settings
/// limit tokens.
const SECRETS: &[&str] = &["key", "token", "secret", "password", "credential"];

/// Below this similarity, a name is not similar to any setting.
const LEAST: f64 = 0.6;

/// The similarity of letters above which a word counts as a misspelling of another.
const MISSPELT: f64 = 0.7;

/// How much less similar a setting is that is no secret, if the name is of one.
const ANOTHER_KIND: f64 = 0.1;

/// The setting whose variable or key is most similar to `given`, if any is similar enough.
pub(super) fn nearest<'a>(given: &str, settings: &'a [Setting]) -> Option<&'a Setting> {
    let score = |setting: &Setting| {
        let is_secret = setting.form.is_secret();
        let by_variable = similarity(given, setting.variable, is_secret);
        by_variable.max(similarity(given, setting.key, is_secret))
    };
    let scored = settings.iter().map(|setting| (setting, score(setting)));
    let best = scored.max_by(|(_, one), (_, other)| one.total_cmp(other));
    best.filter(|(_, score)| *score >= LEAST)
        .map(|(setting, _)| setting)
}

/// Whether a variable of Ollama's form has the words of another or synonyms of them, and no others:
/// `OLLAMA_BACKENDS` and `OLLAMA_URL`.
pub(super) fn is_synonym(given: &str, known: &str) -> bool {
    let split = |name| {
        let (ollama, rest): (Vec<_>, Vec<_>) =
            words(name).into_iter().partition(|word| word == "ollama");
        (!ollama.is_empty() && !rest.is_empty()).then_some(rest)
    };
    let (Some(given), Some(known)) = (split(given), split(known)) else {
        return false;
    };
    let covers = |all: &[String], others: &[String]| {
        let is_in = |word: &String| others.iter().any(|other| are_synonyms(word, other));
        all.iter().all(is_in)
    };
    covers(&given, &known) && covers(&known, &given)
}

/// The similarity of two names, from 0 to 1.25; `is_secret` tells whether the known one is of a
/// secret. Letters always count, because words may be written together.
fn similarity(given: &str, known: &str, is_secret: bool) -> f64 {
    let (given, known) = (words(given), words(known));
    let letters = by_letters(&given.concat(), &known.concat());
    let names_a_secret = given.last().is_some_and(|word| is_of_a_secret(word));
    let doubt = match names_a_secret && !is_secret {
        true => ANOTHER_KIND,
        false => 0.0,
    };
    by_words(&given, &known, is_secret).max(letters) + letters / 4.0 - doubt
}

/// Whether a name that ends with this word is of a secret. One that ends with `tokens` may be a
/// limit.
fn is_of_a_secret(word: &str) -> bool {
    word != "token" && SECRETS.contains(&word)
}

/// The words of a name: in lower case, in the singular, without the program's name.
fn words(name: &str) -> Vec<String> {
    let lower = name.to_ascii_lowercase();
    let rest = lower.strip_prefix("llamatower_").unwrap_or(&lower);
    let words = rest.split(['_', '.', '-']);
    let words = words.filter(|word| !word.is_empty());
    words
        .map(|word| match word.len() > 3 && !word.ends_with("ss") {
            true => word.strip_suffix('s').unwrap_or(word).to_owned(),
            false => word.to_owned(),
        })
        .collect()
}

/// The weighted share of words that two names have in common (Dice's coefficient).
fn by_words(given: &[String], known: &[String], is_secret: bool) -> f64 {
    let mut free: Vec<&String> = known.iter().collect();
    let mut common = 0.0;
    for word in given {
        let scored = free.iter().enumerate();
        let score = |other: &str| match is_secret || !are_secrets(word, other) {
            true => word_similarity(word, other),
            false => by_letters(word, other),
        };
        let scored = scored.map(|(index, other)| (index, score(other)));
        let best = scored.max_by(|(_, one), (_, other)| one.total_cmp(other));
        if let Some((index, score)) = best.filter(|(_, score)| *score >= MISSPELT) {
            common += score * weight(word).min(weight(free[index]));
            free.remove(index);
        }
    }
    let all: f64 = given.iter().chain(known).map(|word| weight(word)).sum();
    2.0 * common / all.max(f64::MIN_POSITIVE)
}

/// The weight of a word. It is low for words that are hard to remember: some settings have "Ollama"
/// in their names and others do not.
fn weight(word: &str) -> f64 {
    match word {
        "ollama" => 0.3,
        "addr" | "address" => 0.5,
        _ => 1.0,
    }
}

/// Whether two words are the same or in one group.
fn are_synonyms(one: &str, other: &str) -> bool {
    let mut groups = GROUPS.iter();
    one == other || groups.any(|group| group.contains(&one) && group.contains(&other))
}

fn are_secrets(one: &str, other: &str) -> bool {
    SECRETS.contains(&one) && SECRETS.contains(&other)
}

fn word_similarity(one: &str, other: &str) -> f64 {
    match (one == other, are_synonyms(one, other)) {
        (true, _) => 1.0,
        (false, true) => 0.9,
        (false, false) => by_letters(one, other),
    }
}

fn by_letters(one: &str, other: &str) -> f64 {
    strsim::normalized_damerau_levenshtein(one, other)
}

#[cfg(test)]
mod tests {
    use super::super::SETTINGS;
    use super::*;

    fn meant(given: &str) -> Option<&'static str> {
        nearest(given, SETTINGS).map(|setting| setting.variable)
    }

    #[test]
    fn a_name_is_found_by_its_words_whatever_their_order_and_number() {
        for (given, variable) in [
            ("LLAMATOWER_DEFAULT_MODEL", "DEFAULT_OLLAMA_MODEL"),
            ("LLAMATOWER_MODEL_DEFAULT", "DEFAULT_OLLAMA_MODEL"),
            ("LLAMATOWER_API_KEY", "LLAMATOWER_API_KEYS"),
            ("LLAMATOWER_KEYS_API", "LLAMATOWER_API_KEYS"),
            ("LLAMATOWER_KEYS", "LLAMATOWER_API_KEYS"),
            ("LLAMATOWER_ADMIN_KEY", "LLAMATOWER_ADMIN_KEYS"),
            ("LLAMATOWER_BACKENDS", "OLLAMA_URL"),
            ("LLAMATOWER_OLLAMA_URL", "OLLAMA_URL"),
            ("LLAMATOWER_OLLAMA_URLS", "OLLAMA_URL"),
            ("LLAMATOWER_OLLAMA_HOST", "OLLAMA_URL"),
            ("LLAMATOWER_UPSTREAMS", "OLLAMA_URL"),
            ("LLAMATOWER_UPSTREAM_URL", "OLLAMA_URL"),
            ("LLAMATOWER_ORIGINS", "OLLAMA_ORIGINS"),
            ("LLAMATOWER_CORS_ORIGINS", "OLLAMA_ORIGINS"),
            ("LLAMATOWER_TIMEOUT", "OLLAMA_TIMEOUT"),
            ("LLAMATOWER_REQUEST_TIMEOUT", "LLAMATOWER_TOTAL_TIMEOUT"),
            ("LLAMATOWER_TIMEOUT_IDLE", "LLAMATOWER_IDLE_TIMEOUT"),
            ("LLAMATOWER_HOST", "LLAMATOWER_LISTEN"),
            ("LLAMATOWER_PORT", "LLAMATOWER_LISTEN"),
            ("LLAMATOWER_LISTEN_ADDR", "LLAMATOWER_LISTEN"),
            ("LLAMATOWER_OPERATOR_LISTEN", "LLAMATOWER_ADMIN_LISTEN"),
            ("LLAMATOWER_LOG_LEVEL", "LLAMATOWER_LOG"),
            ("LLAMATOWER_NUM_PARALLEL", "LLAMATOWER_SLOTS"),
            ("LLAMATOWER_SHUTDOWN_TIMEOUT", "LLAMATOWER_DRAIN_TIMEOUT"),
            ("LLAMATOWER_BACKEND_TOKEN", "LLAMATOWER_BACKEND_TOKENS"),
            ("LLAMATOWER_AUTH_TOKEN", "LLAMATOWER_API_KEYS"),
            ("LLAMATOWER_ADDRESS", "LLAMATOWER_LISTEN"),
            ("LLAMATOWER_REQUIRE_KEY", "LLAMATOWER_REQUIRE_KEYS"),
            ("LLAMATOWER_CLOUD_KEY", "GROQ_API_KEY"),
            ("LLAMATOWER_CLOUD_API_KEY", "GROQ_API_KEY"),
            ("LLAMATOWER_GROQ_API_KEY", "GROQ_API_KEY"),
            ("LLAMATOWER_GROQ_MODELS", "LLAMATOWER_CLOUD_MODELS"),
            ("LLAMATOWER_CLOUD_TOKEN", "LLAMATOWER_CLOUD_TOKENS"),
        ] {
            assert_eq!(meant(given), Some(variable), "{given}");
        }
    }

    #[test]
    fn a_name_with_misspelt_words_is_found() {
        for (given, variable) in [
            ("LLAMATOWER_LISTN", "LLAMATOWER_LISTEN"),
            ("LLAMATOWER_APIKEYS", "LLAMATOWER_API_KEYS"),
            ("LLAMATOWER_CONECT_TIMEOUT", "LLAMATOWER_CONNECT_TIMEOUT"),
            ("timeouts.conect", "LLAMATOWER_CONNECT_TIMEOUT"),
            ("backends.url", "OLLAMA_URL"),
            ("backends.servers", "OLLAMA_URL"),
            ("backends.hosts", "OLLAMA_URL"),
            ("backends.upstreams", "OLLAMA_URL"),
            ("listen.port", "LLAMATOWER_LISTEN"),
            ("listen.address", "LLAMATOWER_LISTEN"),
            ("listen.host", "LLAMATOWER_LISTEN"),
            ("listen.bind", "LLAMATOWER_LISTEN"),
            ("listen.metric", "LLAMATOWER_METRICS_LISTEN"),
            ("listen.allowed_host", "LLAMATOWER_ALLOWED_HOSTS"),
            ("limits.max_in_flight", "LLAMATOWER_MAX_IN_FLIGHT"),
            ("keys.api_keys", "LLAMATOWER_API_KEYS"),
            ("cloud.key", "GROQ_API_KEY"),
            ("cloud.api_key", "GROQ_API_KEY"),
            ("cloud.secret", "GROQ_API_KEY"),
        ] {
            assert_eq!(meant(given), Some(variable), "{given}");
        }
    }

    #[test]
    fn a_name_unlike_all_settings_gets_no_suggestion() {
        for given in ["LLAMATOWER_XYZZY", "LLAMATOWER_", "flavour"] {
            assert_eq!(meant(given), None, "{given}");
        }
    }
}
