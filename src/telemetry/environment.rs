//! The standard OpenTelemetry variables that the gateway evaluates itself.
//!
//! The Rust SDK ignores `OTEL_SDK_DISABLED`, `OTEL_PROPAGATORS` and `OTEL_*_EXPORTER`, exports to a
//! default endpoint if none is set, and samples every trace. The SDK evaluates the others itself
//! (`OTEL_EXPORTER_OTLP_HEADERS`, `_TIMEOUT`, `_COMPRESSION`, `OTEL_BSP_*`,
//! `OTEL_METRIC_EXPORT_INTERVAL`, `OTEL_RESOURCE_ATTRIBUTES`).

use http::Uri;
use opentelemetry_sdk::trace::Sampler;

use super::config::TelemetryError;

/// The default sampling ratio of new traces. The span queue has 2048 places, which a busy gateway
/// would fill in a fraction of a second if it sampled every trace.
const DEFAULT_RATIO: f64 = 0.1;

/// The result of the variables.
#[derive(Clone, Debug)]
pub(super) struct OtelSettings {
    /// The endpoint for spans, if any.
    pub(super) traces: Option<String>,
    /// The endpoint for metrics, if any. The Prometheus page does not depend on it.
    pub(super) metrics: Option<String>,
    pub(super) sampler: Sampler,
    pub(super) propagates_trace_context: bool,
    pub(super) service_name: Option<String>,
    /// Requests that are not supported; logged once the log is set up.
    pub(super) warnings: Vec<String>,
}

impl OtelSettings {
    /// Reads the variables through `look_up`. An empty one counts as not set, by OpenTelemetry's
    /// rule.
    pub(super) fn read(look_up: &dyn Fn(&str) -> Option<String>) -> Result<Self, TelemetryError> {
        let (settings, errors) = Self::read_all(look_up);
        match errors.into_iter().next() {
            Some(error) => Err(error),
            None => Ok(settings),
        }
    }

    /// The same with all errors; settings with errors are omitted.
    pub(super) fn read_all(
        look_up: &dyn Fn(&str) -> Option<String>,
    ) -> (Self, Vec<TelemetryError>) {
        let mut reader = Reader {
            look_up,
            warnings: Vec::new(),
        };
        let mut errors = Vec::new();
        let mut endpoint = |signal| {
            reader.endpoint(signal).unwrap_or_else(|error| {
                errors.push(error);
                None
            })
        };
        let (traces, metrics) = (endpoint("TRACES"), endpoint("METRICS"));
        let settings = Self {
            traces,
            metrics,
            sampler: reader.sampler(),
            propagates_trace_context: reader.propagates_trace_context(),
            service_name: reader.get("OTEL_SERVICE_NAME"),
            warnings: reader.warnings,
        };
        (settings, errors)
    }
}

struct Reader<'a> {
    look_up: &'a dyn Fn(&str) -> Option<String>,
    warnings: Vec<String>,
}

impl Reader<'_> {
    fn get(&self, name: &str) -> Option<String> {
        let value = (self.look_up)(name)?;
        let value = value.trim();
        (!value.is_empty()).then(|| value.to_owned())
    }

    /// The value of a signal's own variable, or of the variable for all signals, with the
    /// variable's name.
    fn of_signal(&self, signal: &str, name: &str) -> Option<(String, String)> {
        let own = format!("OTEL_EXPORTER_OTLP_{signal}_{name}");
        let general = format!("OTEL_EXPORTER_OTLP_{name}");
        let mut variables = [own, general].into_iter();
        variables.find_map(|variable| Some((self.get(&variable)?, variable)))
    }

    /// The endpoint of a signal: its own, or the common one with the signal's path, as specified.
    fn endpoint(&mut self, signal: &str) -> Result<Option<String>, TelemetryError> {
        let is_disabled = self.get("OTEL_SDK_DISABLED");
        let is_disabled = is_disabled.is_some_and(|value| value.eq_ignore_ascii_case("true"));
        let Some((mut endpoint, variable)) = self.of_signal(signal, "ENDPOINT") else {
            return Ok(None);
        };
        if is_disabled || !self.exports_otlp(signal) {
            return Ok(None);
        }
        let given = endpoint.clone();
        if !variable.contains(signal) {
            let path = signal.to_ascii_lowercase();
            endpoint = format!("{}/v1/{path}", endpoint.trim_end_matches('/'));
        }
        match self.of_signal(signal, "PROTOCOL") {
            Some((protocol, variable)) if protocol != "http/protobuf" => {
                self.warnings.push(format!(
                    "{variable}={protocol} is not supported: http/protobuf is used, for which \
                     collectors listen on port 4318"
                ));
            }
            _ => {}
        }
        match endpoint_error(&endpoint) {
            None => Ok(Some(endpoint)),
            Some(reason) => Err(TelemetryError::Endpoint {
                variable,
                endpoint: given,
                reason,
            }),
        }
    }

    fn exports_otlp(&mut self, signal: &str) -> bool {
        let variable = format!("OTEL_{signal}_EXPORTER");
        let exporter = self.get(&variable).unwrap_or("otlp".to_owned());
        if !matches!(&*exporter, "otlp" | "none") {
            self.warnings.push(format!(
                "{variable}={exporter} is not supported (otlp and none are): nothing is exported"
            ));
        }
        exporter == "otlp"
    }

    fn sampler(&mut self) -> Sampler {
        let ratio = self.ratio();
        let by_ratio = |default: f64| Sampler::TraceIdRatioBased(ratio.unwrap_or(default));
        let name = self.get("OTEL_TRACES_SAMPLER").unwrap_or_default();
        let by_parent = name.strip_prefix("parentbased_");
        let root = match by_parent.unwrap_or(&name) {
            "always_on" => Sampler::AlwaysOn,
            "always_off" => Sampler::AlwaysOff,
            "traceidratio" => by_ratio(1.0),
            unknown => {
                if !unknown.is_empty() {
                    self.warnings.push(format!(
                        "OTEL_TRACES_SAMPLER={name} is not supported: parentbased_traceidratio is \
                         used"
                    ));
                }
                return Sampler::ParentBased(Box::new(by_ratio(DEFAULT_RATIO)));
            }
        };
        match by_parent {
            Some(_) => Sampler::ParentBased(Box::new(root)),
            None => root,
        }
    }

    fn ratio(&mut self) -> Option<f64> {
        let text = self.get("OTEL_TRACES_SAMPLER_ARG")?;
        let ratio = text.parse().ok().filter(|r| (0.0..=1.0).contains(r));
        if ratio.is_none() {
            self.warnings.push(format!(
                "OTEL_TRACES_SAMPLER_ARG={text} is not a number from 0 to 1: it is ignored"
            ));
        }
        ratio
    }

    /// Only `tracecontext` is supported. Baggage is passed on unchanged.
    fn propagates_trace_context(&mut self) -> bool {
        let Some(list) = self.get("OTEL_PROPAGATORS") else {
            return true;
        };
        let names: Vec<_> = list.split(',').map(str::trim).collect();
        let known = ["tracecontext", "baggage", "none", ""];
        for other in names.iter().filter(|name| !known.contains(name)) {
            self.warnings.push(format!(
                "OTEL_PROPAGATORS names {other}, which is not supported (tracecontext is)"
            ));
        }
        names.contains(&"tracecontext")
    }
}

fn endpoint_error(endpoint: &str) -> Option<String> {
    if !endpoint.contains("://") {
        return Some("it has no scheme; write it like http://localhost:4318".to_owned());
    }
    let uri: Uri = match endpoint.parse() {
        Ok(uri) => uri,
        Err(error) => return Some(format!("{error}")),
    };
    let reason = match (uri.scheme_str(), uri.host()) {
        (Some("http"), Some(_)) => return None,
        (Some("https"), _) => "this build exports over plain HTTP only; use a local collector",
        _ => "an address such as http://localhost:4318 is expected",
    };
    Some(reason.to_owned())
}
