//! What a row of the table of settings says.

/// One setting.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// Its place in the TOML file, `section.name`.
    pub key: &'static str,
    /// Its environment variable.
    pub variable: &'static str,
    /// What a value looks like.
    pub form: Form,
    /// The default as it would be written; empty for none.
    pub default: &'static str,
    /// What it does and when to change it.
    pub about: &'static str,
}

/// What the value of a setting looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Any text.
    Text,
    /// A text that is never shown, and may be given as the path of a file.
    Secret,
    /// Several texts, with commas, or an array in TOML.
    List,
    /// Several secrets, with commas or line breaks.
    SecretList,
    /// Secrets of servers, like `gpu-1=TOKEN`, with commas or line breaks.
    ServerSecrets,
    /// The path of a file.
    File,
    /// A duration: seconds, or a text like `1m30s`.
    Duration,
    /// A duration, or `off`.
    OptionalDuration,
    /// A whole number above zero.
    Count,
    /// A number.
    Number,
    /// Bytes: a number, or a text like `128MiB`.
    Size,
    /// Bytes, or `off`.
    OptionalSize,
    /// Bytes, or a share of the memory limit like `25%`.
    SizeOrShare,
    /// Requests in a time like `600/m`, or `off`.
    Rate,
    /// Requests in a time like `50/s`, `auto` or `off`.
    RateOrAuto,
    /// Tokens in windows like `20000/minute, 5000000/month`, or `off`.
    TokenBudgets,
    /// Requests at a time for one model, of all servers or of named ones; or `off`.
    Slots,
    /// A whole number above zero, or `off`.
    OptionalCount,
    /// What some keys have of their own, like `ada:rate=60/m, ada:weight=2`.
    KeyLimits,
    /// `true` or `false`.
    Switch,
}

impl Form {
    /// Whether the value is never shown.
    pub fn is_secret(self) -> bool {
        matches!(self, Self::Secret | Self::SecretList | Self::ServerSecrets)
    }

    /// Whether the value is several items with commas or line breaks between them.
    pub fn is_list(self) -> bool {
        matches!(
            self,
            Self::List
                | Self::SecretList
                | Self::ServerSecrets
                | Self::TokenBudgets
                | Self::Slots
                | Self::KeyLimits
        )
    }

    /// The form in a few words, for the reference and for errors.
    pub fn describe(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Secret => "secret text",
            Self::List => "a comma-separated list",
            Self::SecretList => "a comma-separated list of secrets",
            Self::ServerSecrets => {
                "a comma-separated list like gpu-1=TOKEN, gpu-2:8080=basic USER:PASSWORD"
            }
            Self::File => "the path of a file",
            Self::Duration => "a duration in seconds, or like 250ms, 2s, 1m30s",
            Self::OptionalDuration => "a duration in seconds, or like 250ms, 2s, 1m30s; or off",
            Self::Count => "a whole number above 0",
            Self::Number => "a number, 0 or more",
            Self::Size => "a number of bytes, or like 64KiB, 128MiB, 1GiB",
            Self::OptionalSize => "a number of bytes, or like 64KiB, 128MiB, 1GiB; or off",
            Self::SizeOrShare => "a number of bytes, or like 512MiB, or a share like 25%",
            Self::Rate => "a rate like 10/s, 600/m, 5000/h; or off",
            Self::RateOrAuto => "a rate like 10/s, 600/m, 5000/h; or auto, or off",
            Self::TokenBudgets => {
                "a comma-separated list like 20000/minute,5000000/month (windows: minute, day, month); or off"
            }
            Self::Slots => {
                "a whole number above 0, or a comma-separated list like gpu-1:11434=4; or off"
            }
            Self::OptionalCount => "a whole number above 0; or off",
            Self::KeyLimits => {
                "a comma-separated list like ada:rate=60/m (limits: rate, tokens, weight, priority)"
            }
            Self::Switch => "true or false",
        }
    }
}
