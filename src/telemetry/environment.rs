//! The standard variables of OpenTelemetry that the gateway reads itself.
//!
//! The SDK for Rust does not know `OTEL_SDK_DISABLED`, `OTEL_PROPAGATORS` and
//! `OTEL_*_EXPORTER`, and would export to a default endpoint when none is named. What is not
//! here (`OTEL_EXPORTER_OTLP_HEADERS`, `_TIMEOUT`, `_COMPRESSION`, `OTEL_BSP_*`,
//! `OTEL_METRIC_EXPORT_INTERVAL`, `OTEL_RESOURCE_ATTRIBUTES`) is the SDK's to read.

use http::Uri;
use opentelemetry_sdk::trace::Sampler;

use super::TelemetryError;

/// The part of new traces that is kept when nobody says otherwise. The queue of spans holds
/// 2048, which a busy gateway fills in a fraction of a second if it keeps every one.
const DEFAULT_RATIO: f64 = 0.1;

/// What the variables ask for.
#[derive(Clone, Debug)]
pub(super) struct OtelSettings {
    /// Where spans go, if anywhere.
    pub(super) traces: Option<String>,
    /// Where metrics go, if anywhere; the Prometheus page is apart from this.
    pub(super) metrics: Option<String>,
    pub(super) sampler: Sampler,
    pub(super) propagates_trace_context: bool,
    pub(super) service_name: Option<String>,
    /// What was asked for and cannot be had; told to the log once there is one.
    pub(super) warnings: Vec<String>,
}

impl OtelSettings {
    /// Reads the variables through `look_up`. An empty one counts as not set, by OpenTelemetry's
    /// rule.
    pub(super) fn read(look_up: &dyn Fn(&str) -> Option<String>) -> Result<Self, TelemetryError> {
        let mut reader = Reader {
            look_up,
            warnings: Vec::new(),
        };
        let is_disabled = reader
            .get("OTEL_SDK_DISABLED")
            .is_some_and(|value| value.eq_ignore_ascii_case("true"));
        let (traces, metrics) = if is_disabled {
            (None, None)
        } else {
            (reader.endpoint("TRACES")?, reader.endpoint("METRICS")?)
        };
        Ok(Self {
            traces,
            metrics,
            sampler: reader.sampler(),
            propagates_trace_context: reader.propagates_trace_context(),
            service_name: reader.get("OTEL_SERVICE_NAME"),
            warnings: reader.warnings,
        })
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

    /// The endpoint of a signal, or of all with the signal's path, as the specification has it.
    fn endpoint(&mut self, signal: &str) -> Result<Option<String>, TelemetryError> {
        let own = format!("OTEL_EXPORTER_OTLP_{signal}_ENDPOINT");
        let general = "OTEL_EXPORTER_OTLP_ENDPOINT";
        let (variable, endpoint) = if let Some(endpoint) = self.get(&own) {
            (own.as_str(), endpoint)
        } else if let Some(base) = self.get(general) {
            let path = signal.to_ascii_lowercase();
            let base = base.trim_end_matches('/');
            (general, format!("{base}/v1/{path}"))
        } else {
            return Ok(None);
        };
        if !self.exports_otlp(signal) {
            return Ok(None);
        }
        self.check_protocol(signal);
        check_endpoint(variable, &endpoint)?;
        Ok(Some(endpoint))
    }

    fn exports_otlp(&mut self, signal: &str) -> bool {
        let variable = format!("OTEL_{signal}_EXPORTER");
        match self.get(&variable).as_deref() {
            None | Some("otlp") => true,
            Some("none") => false,
            Some(other) => {
                self.warnings.push(format!(
                    "{variable}={other} is not supported (otlp and none are): nothing is exported"
                ));
                false
            }
        }
    }

    fn check_protocol(&mut self, signal: &str) {
        let own = format!("OTEL_EXPORTER_OTLP_{signal}_PROTOCOL");
        let general = "OTEL_EXPORTER_OTLP_PROTOCOL";
        for variable in [own.as_str(), general] {
            match self.get(variable).as_deref() {
                None => continue,
                Some("http/protobuf") => {}
                Some(other) => self.warnings.push(format!(
                    "{variable}={other} is not supported: http/protobuf is used, for which \
                     collectors listen on port 4318"
                )),
            }
            return;
        }
    }

    fn sampler(&mut self) -> Sampler {
        let ratio = self.ratio();
        let by_ratio = |default: f64| Sampler::TraceIdRatioBased(ratio.unwrap_or(default));
        let sampler = self.get("OTEL_TRACES_SAMPLER");
        let root = match sampler.as_deref() {
            None => by_ratio(DEFAULT_RATIO),
            Some("always_on") => return Sampler::AlwaysOn,
            Some("always_off") => return Sampler::AlwaysOff,
            Some("traceidratio") => return by_ratio(1.0),
            Some("parentbased_always_on") => Sampler::AlwaysOn,
            Some("parentbased_always_off") => Sampler::AlwaysOff,
            Some("parentbased_traceidratio") => by_ratio(1.0),
            Some(other) => {
                self.warnings.push(format!(
                    "OTEL_TRACES_SAMPLER={other} is not supported: parentbased_traceidratio is used"
                ));
                by_ratio(DEFAULT_RATIO)
            }
        };
        Sampler::ParentBased(Box::new(root))
    }

    fn ratio(&mut self) -> Option<f64> {
        let text = self.get("OTEL_TRACES_SAMPLER_ARG")?;
        let ratio = text.parse().ok().filter(|r| (0.0..=1.0).contains(r));
        if ratio.is_none() {
            self.warnings.push(format!(
                "OTEL_TRACES_SAMPLER_ARG={text} is not a number from 0 to 1: it is left out"
            ));
        }
        ratio
    }

    /// `tracecontext` is the one that a gateway has a use for; baggage is passed on unread.
    fn propagates_trace_context(&mut self) -> bool {
        let Some(list) = self.get("OTEL_PROPAGATORS") else {
            return true;
        };
        let mut found = false;
        for name in list.split(',').map(str::trim) {
            match name {
                "tracecontext" => found = true,
                "baggage" | "none" | "" => {}
                other => self.warnings.push(format!(
                    "OTEL_PROPAGATORS names {other}, which is not supported (tracecontext is)"
                )),
            }
        }
        found
    }
}

fn check_endpoint(variable: &str, endpoint: &str) -> Result<(), TelemetryError> {
    let wrong = |reason: &str| TelemetryError::Endpoint {
        variable: variable.to_owned(),
        endpoint: endpoint.to_owned(),
        reason: reason.to_owned(),
    };
    let uri: Uri = endpoint
        .parse()
        .map_err(|error| wrong(&format!("{error}")))?;
    match (uri.scheme_str(), uri.host()) {
        (Some("http"), Some(_)) => Ok(()),
        (Some("https"), _) => Err(wrong(
            "this build exports over plain HTTP only; send to a collector nearby",
        )),
        _ => Err(wrong(
            "an address such as http://localhost:4318 is expected",
        )),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<OtelSettings, TelemetryError> {
        OtelSettings::read(&|name| {
            let found = variables.iter().find(|(key, _)| *key == name)?;
            Some(found.1.to_owned())
        })
    }

    #[test]
    fn no_endpoint_means_no_exporter() {
        let settings = read(&[("OTEL_EXPORTER_OTLP_ENDPOINT", " ")]).unwrap();
        assert_eq!((settings.traces, settings.metrics), (None, None));
        assert!(settings.propagates_trace_context);
        assert!(settings.warnings.is_empty());
    }

    #[test]
    fn the_general_endpoint_gets_a_path_for_each_signal_and_a_signals_own_is_taken_as_it_is() {
        let settings = read(&[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318/"),
            ("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "http://other:9/m"),
        ])
        .unwrap();
        assert_eq!(
            settings.traces.as_deref(),
            Some("http://collector:4318/v1/traces")
        );
        assert_eq!(settings.metrics.as_deref(), Some("http://other:9/m"));
    }

    #[test]
    fn the_exporters_can_be_turned_off_together_and_one_by_one() {
        let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318");
        let settings = read(&[endpoint, ("OTEL_SDK_DISABLED", "True")]).unwrap();
        assert_eq!((settings.traces, settings.metrics), (None, None));
        let settings = read(&[endpoint, ("OTEL_TRACES_EXPORTER", "none")]).unwrap();
        assert_eq!(settings.traces, None);
        assert!(settings.metrics.is_some());
        let settings = read(&[endpoint, ("OTEL_METRICS_EXPORTER", "prometheus")]).unwrap();
        assert_eq!(settings.metrics, None);
        assert!(settings.warnings[0].contains("OTEL_METRICS_EXPORTER=prometheus"));
    }

    #[test]
    fn an_endpoint_that_cannot_be_used_is_named_with_its_variable() {
        for endpoint in ["collector:4318", "https://collector", "http://[", "/v1"] {
            let error = read(&[("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", endpoint)]).unwrap_err();
            let text = error.to_string();
            assert!(
                text.contains("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"),
                "{text}"
            );
            assert!(text.contains(endpoint), "{text}");
        }
    }

    #[test]
    fn the_sampler_keeps_a_part_by_default_and_follows_its_variables() {
        let sampler =
            |variables: &[(&str, &str)]| format!("{:?}", read(variables).unwrap().sampler);
        let parent = |root| format!("{:?}", Sampler::ParentBased(Box::new(root)));
        assert_eq!(sampler(&[]), parent(Sampler::TraceIdRatioBased(0.1)));
        assert_eq!(sampler(&[("OTEL_TRACES_SAMPLER", "always_on")]), "AlwaysOn");
        assert_eq!(
            sampler(&[
                ("OTEL_TRACES_SAMPLER", "parentbased_traceidratio"),
                ("OTEL_TRACES_SAMPLER_ARG", "0.5"),
            ]),
            parent(Sampler::TraceIdRatioBased(0.5))
        );
        let settings = read(&[("OTEL_TRACES_SAMPLER_ARG", "7")]).unwrap();
        assert_eq!(settings.warnings.len(), 1);
    }

    #[test]
    fn only_trace_context_is_propagated_and_only_when_it_is_asked_for() {
        let on = |list| read(&[("OTEL_PROPAGATORS", list)]).unwrap();
        assert!(on("tracecontext,baggage").propagates_trace_context);
        assert!(!on("none").propagates_trace_context);
        assert!(on("b3,tracecontext").propagates_trace_context);
        assert_eq!(on("b3,tracecontext").warnings.len(), 1);
    }

    #[test]
    fn grpc_is_told_to_be_out_of_reach() {
        let settings = read(&[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4317"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
        ])
        .unwrap();
        assert!(settings.warnings[0].contains("http/protobuf"));
    }
}
