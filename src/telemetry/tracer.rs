//! Begins the spans that are exported.
//!
//! The spans are OpenTelemetry's own, not those of `tracing`: each attribute of a `tracing` span costs
//! a look-up in the subscriber, and a span that the sampler leaves out costs as much to make as
//! one that is exported. `tracing` has spans for the log only.

use std::sync::Arc;

use opentelemetry::Context;
use opentelemetry::trace::{SpanBuilder, SpanKind, Tracer as _};
use opentelemetry_sdk::trace::{SdkTracer, Span};

use super::collector::Collector;
use super::propagation::Propagation;

/// Begins spans, if they are exported. A clone costs an increment.
#[derive(Clone, Debug)]
pub struct Tracer {
    exported: Option<Arc<Exported>>,
    /// The rules for `traceparent`.
    pub(super) propagation: Propagation,
}

#[derive(Debug)]
struct Exported {
    sdk: SdkTracer,
    collector: Arc<Collector>,
}

impl Tracer {
    /// Begins no span.
    pub(super) fn off(propagation: Propagation) -> Self {
        Self {
            exported: None,
            propagation,
        }
    }

    /// Begins spans for this collector.
    pub(super) fn new(sdk: SdkTracer, collector: Arc<Collector>, propagation: Propagation) -> Self {
        Self {
            exported: Some(Arc::new(Exported { sdk, collector })),
            propagation,
        }
    }

    /// Whether it begins no span of any request.
    pub(super) fn is_off(&self) -> bool {
        self.exported.is_none()
    }

    /// Begins the first span of a request. `None` if no span would be exported: there is no
    /// endpoint, or it does not answer.
    pub(super) fn begin_trace(&self, parent: impl FnOnce() -> Context) -> Option<Span> {
        let exported = self.exported.as_ref()?;
        match exported.collector.answers() {
            true => Some(exported.begin(SpanKind::Server, &parent())),
            false => {
                exported.collector.left_out();
                None
            }
        }
    }

    /// Begins a span below one of the same request.
    pub(super) fn begin(&self, kind: SpanKind, parent: &Context) -> Option<Span> {
        let exported = self.exported.as_ref()?;
        Some(exported.begin(kind, parent))
    }
}

impl Exported {
    /// The span has no name yet: the sampler does not need it, and a span that it leaves out needs
    /// none.
    fn begin(&self, kind: SpanKind, parent: &Context) -> Span {
        let builder = SpanBuilder::from_name("").with_kind(kind);
        self.sdk.build_with_context(builder, parent)
    }
}
