#!/usr/bin/env bash
# opentelemetry_sdk 0.33.1 for Rust: an attribute that is set twice on a span is exported twice, with both
# values. OpenTelemetry's specification of the API says that a value that is set again replaces the
# first (trace/api.md, "Set Attributes"), and OTLP's Span message says that keys are unique. Each collector
# and viewer decides by itself which of the two it shows.
#
# So a program must set each attribute once, at the latest point where its value is known. The same holds for
# an attribute of the builder that is set again later.
#
# Output seen:
#   llm.model = "asked"
#   llm.model = "answered"
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
mkdir src
cat > Cargo.toml << 'TOML'
[package]
name = "finding"
version = "0.0.0"
edition = "2021"
[dependencies]
opentelemetry = { version = "=0.33.1", default-features = false, features = ["trace"] }
opentelemetry_sdk = { version = "=0.33.1", default-features = false, features = ["trace", "testing"] }
TOML
cat > src/main.rs << 'RUST'
use opentelemetry::trace::{Span, SpanBuilder, Tracer, TracerProvider};
use opentelemetry::{Context, KeyValue};
use opentelemetry_sdk::trace::{InMemorySpanExporter, SdkTracerProvider};

fn main() {
    let exporter = InMemorySpanExporter::default();
    let provider = SdkTracerProvider::builder()
        .with_simple_exporter(exporter.clone())
        .build();
    let tracer = provider.tracer("finding");
    let asked = SpanBuilder::from_name("chat").with_attributes([KeyValue::new("llm.model", "asked")]);
    let mut span = tracer.build_with_context(asked, &Context::new());
    span.set_attribute(KeyValue::new("llm.model", "answered"));
    span.end();
    for attribute in &exporter.get_finished_spans().unwrap()[0].attributes {
        println!("{} = {:?}", attribute.key, attribute.value.as_str());
    }
}
RUST
seen="$(cargo run --quiet)"
echo "$seen"
expected='llm.model = "asked"
llm.model = "answered"'
[ "$seen" = "$expected" ] || { echo "this has changed; expected:"; echo "$expected"; exit 1; }
