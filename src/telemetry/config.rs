//! The configuration of telemetry, and its errors.

/// The format of the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// Human on a terminal, JSON elsewhere.
    #[default]
    Auto,
    /// For people.
    Human,
    /// One JSON object per line.
    Json,
}

/// The version of OpenTelemetry's conventions for GenAI whose metric names are used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Semconv {
    /// Version 0.1.0 of the conventions' own repository, `semantic-conventions-genai`.
    #[default]
    V0_1_0,
    /// Version 1.41 of the general conventions, the last one that contains those for GenAI.
    V1_41,
    /// The names of both.
    Both,
}

impl Semconv {
    /// Whether the names of version 0.1.0 are used.
    pub fn has_v0_1_0(self) -> bool {
        self != Self::V1_41
    }

    /// Whether the names of version 1.41 are used.
    pub fn has_v1_41(self) -> bool {
        self != Self::V0_1_0
    }
}

/// The configuration of telemetry. The rest comes from OpenTelemetry's standard variables.
#[derive(Clone, Debug)]
pub struct TelemetryConfig {
    /// The log filter, in the syntax of `RUST_LOG` (`info`, `llamatower=debug`).
    pub log_filter: String,
    /// The format of log lines.
    pub log_format: LogFormat,
    /// Whether the trace of a client's `traceparent` is continued. If not, each request starts a
    /// new trace.
    pub trusts_inbound_trace: bool,
    /// The names of GenAI metrics.
    pub semconv: Semconv,
}

impl Default for TelemetryConfig {
    fn default() -> Self {
        Self {
            log_filter: "info".to_owned(),
            log_format: LogFormat::Auto,
            trusts_inbound_trace: true,
            semconv: Semconv::default(),
        }
    }
}

/// Telemetry cannot be set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TelemetryError {
    /// The log filter is invalid.
    #[error("LLAMATOWER_LOG: the log filter {filter:?} cannot be read: {reason}")]
    LogFilter {
        /// The filter.
        filter: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The endpoint in a variable cannot be used.
    #[error("{variable}={endpoint} is not a usable endpoint: {reason}")]
    Endpoint {
        /// The variable's name.
        variable: String,
        /// Its value.
        endpoint: String,
        /// What is wrong with it.
        reason: String,
    },
    /// An exporter cannot be created.
    #[error("the OpenTelemetry exporter for {signal} cannot be set up: {reason}")]
    Exporter {
        /// `traces` or `metrics`.
        signal: &'static str,
        /// The reason that OpenTelemetry gives.
        reason: String,
    },
    /// The process already has a log subscriber.
    #[error("the log of this process is already set up")]
    AlreadyStarted,
}
