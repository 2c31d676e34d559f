//! The log.

use std::fmt;
use std::io::{self, IsTerminal};
use std::sync::Arc;

use tracing::{Dispatch, Subscriber};
use tracing_appender::non_blocking::{NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::filter::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::registry::{LookupSpan, Registry};
use tracing_subscriber::reload;

use super::config::{LogFormat, TelemetryConfig, TelemetryError};
use super::filter::{check_log_filter, without_blanks};
use super::log_output::{LogHealth, LogOutput};

/// Limit of log lines that wait for a reader which does not read.
const WAITING_LINES: usize = 8192;

pub(super) fn writer() -> (NonBlocking, WorkerGuard, LogHealth) {
    let (output, health) = LogOutput::stdout();
    let (writer, guard) = NonBlockingBuilder::default()
        .lossy(true)
        .buffered_lines_limit(WAITING_LINES)
        .thread_name("log")
        .finish(output);
    (writer, guard, health)
}

/// The user's filter, added to a default that suppresses OpenTelemetry's internal lines.
pub(super) fn filter(directives: &str) -> Result<EnvFilter, TelemetryError> {
    let filter = check_log_filter(directives).and_then(|_| {
        let directives = without_blanks(directives);
        let filter = EnvFilter::builder().parse(format!("opentelemetry=warn,{directives}"));
        filter.map_err(|error| error.to_string())
    });
    filter.map_err(|reason| TelemetryError::LogFilter {
        filter: directives.to_owned(),
        reason,
    })
}

pub(super) fn dispatch<W>(
    config: &TelemetryConfig,
    filter: EnvFilter,
    writer: W,
) -> (Dispatch, LogFilter)
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    // One global filter is cheaper than one of the layer, and avoids creating suppressed events.
    let (filter, handle) = reload::Layer::new(filter);
    let all = Registry::default().with(filter).with(lines(config, writer));
    (Dispatch::new(all), LogFilter::new(handle))
}

/// The filter of the log, which can be replaced. Clones replace the same one.
#[derive(Clone)]
pub struct LogFilter(Arc<dyn Fn(EnvFilter) -> Result<(), reload::Error> + Send + Sync>);

impl LogFilter {
    fn new<S: 'static>(handle: reload::Handle<EnvFilter, S>) -> Self {
        Self(Arc::new(move |filter| handle.reload(filter)))
    }

    /// Replaces the filter for all later lines.
    ///
    /// # Errors
    /// The directives are wrong, or the log has ended.
    pub fn set(&self, directives: &str) -> Result<(), TelemetryError> {
        let filter = filter(directives)?;
        (self.0)(filter).map_err(|error| TelemetryError::LogFilter {
            filter: directives.to_owned(),
            reason: error.to_string(),
        })
    }
}

impl fmt::Debug for LogFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogFilter").finish_non_exhaustive()
    }
}

fn lines<S, W>(config: &TelemetryConfig, writer: W) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'span> LookupSpan<'span>,
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let is_terminal = io::stdout().is_terminal();
    let is_human = match config.log_format {
        LogFormat::Auto => is_terminal,
        LogFormat::Human => true,
        LogFormat::Json => false,
    };
    let lines = tracing_subscriber::fmt::layer().with_writer(writer);
    if is_human {
        let wants_colour = is_terminal && std::env::var_os("NO_COLOR").is_none();
        return lines.with_ansi(wants_colour).boxed();
    }
    lines
        .json()
        .flatten_event(true)
        .with_current_span(false)
        .with_span_list(false)
        .boxed()
}
