//! The credentials for servers, and the trust in their certificates.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderValue;

use super::{Address, Trust};

/// The value of `Authorization` for one server; never displayed.
#[derive(Clone, PartialEq, Eq)]
pub struct Authorization(HeaderValue);

impl FromStr for Authorization {
    type Err = &'static str;

    /// Accepts `TOKEN`, `bearer TOKEN`, `basic USER:PASSWORD` and `basic BASE64`.
    fn from_str(given: &str) -> Result<Self, &'static str> {
        let given = given.trim();
        let (scheme, secret) = given.split_once(' ').unwrap_or(("bearer", given));
        let secret = secret.trim();
        let is = |name: &str| scheme.eq_ignore_ascii_case(name);
        let value = if is("basic") && secret.contains(':') {
            format!("Basic {}", STANDARD.encode(secret))
        } else if secret.is_empty() || secret.contains(char::is_whitespace) {
            return Err("it is empty or contains a space");
        } else if is("basic") {
            format!("Basic {secret}")
        } else if is("bearer") {
            format!("Bearer {secret}")
        } else {
            return Err("its scheme is neither bearer nor basic");
        };
        let value = HeaderValue::try_from(value);
        let mut value =
            value.map_err(|_| "it contains a character that is not allowed in a header field")?;
        value.set_sensitive(true);
        Ok(Self(value))
    }
}

impl fmt::Debug for Authorization {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

/// Credentials for servers, and the certificates that are trusted.
#[derive(Clone, Debug)]
pub struct Access {
    tokens: Vec<(Address, Authorization)>,
    trust: Option<Trust>,
    uses_proxies: bool,
    settings: SettingNames,
}

/// The names of settings, for error texts.
#[derive(Clone, Copy, Debug)]
pub(super) struct SettingNames {
    /// The one with the addresses.
    pub(super) address: &'static str,
    /// The one with further authorities.
    pub(super) authorities: &'static str,
}

impl Default for Access {
    fn default() -> Self {
        Self::new(Vec::new())
    }
}

impl Access {
    /// Sends each server its token. Without [`with_trust`](Self::with_trust) no `https` server is
    /// trusted.
    pub fn new(tokens: Vec<(Address, Authorization)>) -> Self {
        Self {
            tokens,
            trust: None,
            uses_proxies: false,
            settings: SettingNames {
                address: "OLLAMA_URL",
                authorities: "LLAMATOWER_BACKEND_CA_FILE",
            },
        }
    }

    /// Names another setting than `OLLAMA_URL` in errors about an address.
    pub fn with_setting(mut self, setting: &'static str) -> Self {
        self.settings.address = setting;
        self
    }

    /// Names another setting than `LLAMATOWER_BACKEND_CA_FILE` in errors about an authority.
    pub fn with_authorities_setting(mut self, setting: &'static str) -> Self {
        self.settings.authorities = setting;
        self
    }

    /// Verifies the servers' certificates with `trust`.
    pub fn with_trust(self, trust: Trust) -> Self {
        Self {
            trust: Some(trust),
            ..self
        }
    }

    /// Connects to `https` servers through the proxies of the environment (`HTTPS_PROXY`, `ALL_PROXY`,
    /// `NO_PROXY`). By default no proxy is used.
    pub fn with_environment_proxies(self) -> Self {
        Self {
            uses_proxies: true,
            ..self
        }
    }

    /// The credentials for a server, for each of its host's IP addresses.
    pub(super) fn authorization_for(&self, address: &Address) -> Option<HeaderValue> {
        let address = address.configured();
        let mut tokens = self.tokens.iter();
        let token = tokens.find(|(server, _)| *server == address);
        token.map(|(_, Authorization(value))| value.clone())
    }

    pub(super) fn settings(&self) -> SettingNames {
        self.settings
    }

    pub(super) fn uses_proxies(&self) -> bool {
        self.uses_proxies
    }

    pub(super) fn trust(&self) -> Option<&Trust> {
        self.trust.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_bearer_unless_their_scheme_is_basic() {
        for (given, expected) in [
            ("abc", "Bearer abc"),
            ("a=b==", "Bearer a=b=="),
            ("bearer abc", "Bearer abc"),
            ("Basic ada:pass word", "Basic YWRhOnBhc3Mgd29yZA=="),
            ("basic YWRhOnBhc3Mgd29yZA==", "Basic YWRhOnBhc3Mgd29yZA=="),
        ] {
            let Authorization(value) = given.parse().expect(given);
            assert_eq!(value, expected);
            assert!(value.is_sensitive());
        }
    }

    #[test]
    fn an_invalid_token_is_refused_and_not_repeated_in_the_error() {
        for given in ["", "hunter2 abc", "bearer hunter2 abc", "hunter2\u{7f}"] {
            let refused = given.parse::<Authorization>().expect_err(given);
            assert!(!refused.contains("hunter2"), "{refused}");
        }
        let token: Authorization = "hunter2".parse().expect("a token");
        assert!(!format!("{token:?}").contains("hunter2"));
    }

    #[test]
    fn a_token_is_sent_to_all_addresses_of_its_server_and_to_no_other_server() {
        let address: Address = "https://gpu.example/a".parse().expect("an address");
        let access = Access::new(vec![(address.clone(), "abc".parse().expect("a token"))]);
        let expected = Some(HeaderValue::from_static("Bearer abc"));
        for server in [address.clone(), address.one_at([10, 0, 0, 7].into())] {
            assert_eq!(access.authorization_for(&server), expected);
        }
        for other in [
            "https://gpu.example/b",
            "http://gpu.example:443/a",
            "gpu.example",
        ] {
            let other = other.parse().expect("an address");
            assert_eq!(access.authorization_for(&other), None);
        }
    }
}
