//! A row in the table of settings.

/// One setting.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// Its key in the TOML file, `section.name`.
    pub key: &'static str,
    /// Its environment variable.
    pub variable: &'static str,
    /// The syntax of its value.
    pub form: Form,
    /// The default in the same syntax; empty for none.
    pub default: &'static str,
    /// What it does, and when to change it.
    pub about: &'static str,
}

/// The syntax of a setting's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Any text.
    Text,
    /// A text that is never displayed, and that can be read from a file.
    Secret,
    /// A comma-separated list, or an array in TOML.
    List,
    /// A list of secrets, separated by commas or line breaks.
    SecretList,
    /// A list of servers' secrets like `gpu-1=TOKEN`, separated by commas or line breaks.
    ServerSecrets,
    /// The path of a file.
    File,
    /// The path of a directory.
    Directory,
    /// A duration: seconds, or a text like `1m30s`.
    Duration,
    /// A duration, or `off`.
    OptionalDuration,
    /// A whole number above zero.
    Count,
    /// A whole number above zero, or `auto`.
    CountOrAuto,
    /// A number.
    Number,
    /// Bytes: a number, or a text like `128MiB`.
    Size,
    /// Bytes, or `off`.
    OptionalSize,
    /// Bytes, or a share of the memory limit, like `25%`.
    SizeOrShare,
    /// A rate like `600/m`, or `off`.
    Rate,
    /// A rate like `50/s`, `auto` or `off`.
    RateOrAuto,
    /// A list of token limits like `20000/minute, 5000000/month`, or `off`.
    TokenBudgets,
    /// Concurrent requests, for all servers or for named ones; or `off`.
    Slots,
    /// Factors of named servers, like `gpu-1=2, gpu-2=0.5`.
    ServerWeights,
    /// Words for named servers, like `gpu-1=a100, gpu-1=lab`.
    ServerLabels,
    /// Models of named servers, like `gpu-1=llama3*, gpu-1=qwen3:4b`.
    ServerModels,
    /// Models, for all servers or for named ones, like `llama3.2, gpu-1=qwen3:4b`.
    PlacedModels,
    /// A whole number above zero, or `off`.
    OptionalCount,
    /// Limits of single keys, like `ada:rate=60/m, ada:weight=2`.
    KeyLimits,
    /// Aliases of models, like `gpt-4o-mini=qwen2.5-coder:7b, fast=qwen2.5:7b|llama3.2:3b`.
    Aliases,
    /// Models of single keys, like `ada=qwen*|llama3.2`.
    KeyModels,
    /// Names of networks, like `10.1.0.0/16=lab`.
    NetworkNames,
    /// Reasons to send requests to the cloud, like `down, missing`; or `off`.
    CloudWhen,
    /// Models with their names in the cloud, like `qwen2.5-coder:7b=openai/gpt-oss-20b`.
    CloudModels,
    /// `true` or `false`.
    Switch,
}

impl Form {
    /// Whether the value is never displayed.
    pub fn is_secret(self) -> bool {
        matches!(self, Self::Secret | Self::SecretList | Self::ServerSecrets)
    }

    /// Whether the value is a list, separated by commas or line breaks.
    pub fn is_list(self) -> bool {
        matches!(
            self,
            Self::List
                | Self::SecretList
                | Self::ServerSecrets
                | Self::TokenBudgets
                | Self::Slots
                | Self::ServerWeights
                | Self::ServerLabels
                | Self::ServerModels
                | Self::PlacedModels
                | Self::KeyLimits
                | Self::Aliases
                | Self::KeyModels
                | Self::NetworkNames
                | Self::CloudWhen
                | Self::CloudModels
        )
    }

    /// A short description of the syntax.
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
            Self::Directory => "the path of a directory",
            Self::Duration => "a duration in seconds, or like 250ms, 2s, 1m30s",
            Self::OptionalDuration => "a duration in seconds, or like 250ms, 2s, 1m30s; or off",
            Self::Count => "a whole number above 0",
            Self::CountOrAuto => "a whole number above 0, or auto",
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
            Self::ServerWeights => {
                "a comma-separated list of numbers above 0, like gpu-1:11434=2, gpu-2=0.5"
            }
            Self::ServerLabels => "a comma-separated list like gpu-1:11434=a100, gpu-1:11434=lab",
            Self::ServerModels => {
                "a comma-separated list like gpu-1:11434=llama3*, gpu-1:11434=qwen3:4b"
            }
            Self::PlacedModels => {
                "a comma-separated list of models like llama3.2, gpu-1:11434=qwen3:4b"
            }
            Self::OptionalCount => "a whole number above 0; or off",
            Self::KeyLimits => {
                "a comma-separated list like ada:rate=60/m (limits: rate, tokens, concurrency, weight, priority)"
            }
            Self::Aliases => {
                "a comma-separated list like gpt-4o-mini=qwen2.5-coder:7b, fast=qwen2.5:7b|llama3.2:3b, \
                 chat=qwen2.5:7b*9|qwen3:8b*1, small=cheapest(llama3.2:3b|qwen2.5:3b), \
                 warm=resident(qwen2.5:7b|llama3.2:3b)"
            }
            Self::KeyModels => "a comma-separated list like ada=qwen*|llama3.2, bob=*:1b",
            Self::NetworkNames => {
                "a comma-separated list like 10.1.0.0/16=lab, 192.168.7.4=buildbot"
            }
            Self::CloudWhen => "a comma-separated list of down, missing, busy; or off",
            Self::CloudModels => "a comma-separated list like qwen2.5-coder:7b=openai/gpt-oss-20b",
            Self::Switch => "true or false",
        }
    }

    /// The description for errors about a value; `None` if it says nothing more than the reason.
    pub(super) fn hint(self) -> Option<&'static str> {
        match self {
            Self::Text | Self::List | Self::SecretList | Self::File | Self::Directory => None,
            form => Some(form.describe()),
        }
    }
}
