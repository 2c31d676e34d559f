//! What telemetry is told, and why it cannot be set up.

/// How the log looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For people on a terminal, JSON elsewhere.
    #[default]
    Auto,
    /// For people.
    Human,
    /// A JSON object a line.
    Json,
}

/// How telemetry is to be set up; the rest comes from OpenTelemetry's standard variables.
#[derive(Clone, Debug)]
pub struct TelemetryConfig {
    /// Which log lines are written, in the syntax of `RUST_LOG` (`info`, `llamatower=debug`).
    pub log_filter: String,
    /// How they look.
    pub log_format: LogFormat,
    /// Whether the trace that a client names is continued. If not, each request starts one.
    pub trusts_inbound_trace: bool,
}

impl Default for TelemetryConfig {
    fn default() -> Self {
        Self {
            log_filter: "info".to_owned(),
            log_format: LogFormat::Auto,
            trusts_inbound_trace: true,
        }
    }
}

/// Telemetry cannot be set up as it was asked for.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TelemetryError {
    /// The log's filter is not one.
    #[error("LLAMATOWER_LOG: the log filter {filter:?} cannot be read: {reason}")]
    LogFilter {
        /// The filter as it was given.
        filter: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A variable names an endpoint that nothing can be sent to.
    #[error("{variable}={endpoint} is not an endpoint that can be used: {reason}")]
    Endpoint {
        /// The variable's name.
        variable: String,
        /// Its value.
        endpoint: String,
        /// What is wrong with it.
        reason: String,
    },
    /// An exporter cannot be made.
    #[error("the OpenTelemetry exporter for {signal} cannot be set up: {reason}")]
    Exporter {
        /// `traces` or `metrics`.
        signal: &'static str,
        /// What OpenTelemetry says of it.
        reason: String,
    },
    /// The process has a subscriber for its log already.
    #[error("the log of this process is set up already")]
    AlreadyStarted,
}
