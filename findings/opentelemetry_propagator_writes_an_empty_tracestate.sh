#!/usr/bin/env bash
# opentelemetry_sdk 0.33.1 for Rust: TraceContextPropagator writes a `tracestate` header without a value where a
# trace has no state, beside each `traceparent`. W3C Trace Context (3.3.1) allows an empty `tracestate` and says
# that it should not be sent. opentelemetry-http's HeaderInjector passes it on, so every request upstream has
# one more header.
#
# What helps is an Injector that leaves out empty values.
#
# Output seen:
#   traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01
#   tracestate: ""
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
http = "=1.5.0"
opentelemetry = { version = "=0.33.1", default-features = false, features = ["trace"] }
opentelemetry-http = { version = "=0.33.1", default-features = false }
opentelemetry_sdk = { version = "=0.33.1", default-features = false, features = ["trace"] }
TOML
cat > src/main.rs << 'RUST'
use opentelemetry::propagation::TextMapPropagator;
use opentelemetry::trace::{SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState};
use opentelemetry::Context;
use opentelemetry_http::HeaderInjector;
use opentelemetry_sdk::propagation::TraceContextPropagator;

fn main() {
    let span = SpanContext::new(
        TraceId::from_hex("0af7651916cd43dd8448eb211c80319c").unwrap(),
        SpanId::from_hex("b7ad6b7169203331").unwrap(),
        TraceFlags::SAMPLED,
        false,
        TraceState::default(),
    );
    let context = Context::new().with_remote_span_context(span);
    let mut headers = http::HeaderMap::new();
    TraceContextPropagator::new().inject_context(&context, &mut HeaderInjector(&mut headers));
    println!("traceparent: {}", headers["traceparent"].to_str().unwrap());
    println!("tracestate: {:?}", headers["tracestate"]);
}
RUST
seen="$(cargo run --quiet)"
echo "$seen"
expected='traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01
tracestate: ""'
[ "$seen" = "$expected" ] || { echo "this has changed; expected:"; echo "$expected"; exit 1; }
