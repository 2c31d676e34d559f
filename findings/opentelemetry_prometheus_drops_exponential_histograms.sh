#!/usr/bin/env bash
# opentelemetry-prometheus 0.33.0 for Rust: an instrument whose view asks for an exponential histogram is not on
# the page at all. Neither a warning nor an error tells it, although the text format has a classic form for every
# histogram, and the same data goes out by OTLP.
#
# So a program that turns on exponential histograms, for example to get native histograms in Prometheus, loses
# these metrics on its page; explicit buckets must be kept for the reader of the page.
#
# Output seen:
#   explicit: 18 lines
#   exponential: 0 lines
#   requests: 1 line
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
opentelemetry = { version = "=0.33.0", default-features = false, features = ["metrics"] }
opentelemetry_sdk = { version = "=0.33.0", default-features = false, features = ["metrics", "spec_unstable_metrics_views"] }
opentelemetry-prometheus = { version = "=0.33.0", default-features = false }
prometheus = { version = "=0.14.0", default-features = false }
TOML
cat > src/main.rs << 'RUST'
use opentelemetry::metrics::MeterProvider;
use opentelemetry_sdk::metrics::{Aggregation, Instrument, SdkMeterProvider, Stream};

fn main() {
    let registry = prometheus::Registry::new();
    let page = opentelemetry_prometheus::exporter()
        .with_registry(registry.clone())
        .build()
        .unwrap();
    let exponential = Aggregation::Base2ExponentialHistogram {
        max_size: 160,
        max_scale: 20,
        record_min_max: true,
    };
    let provider = SdkMeterProvider::builder()
        .with_reader(page)
        .with_view(move |instrument: &Instrument| {
            let stream = Stream::builder().with_aggregation(exponential.clone());
            (instrument.name() == "exponential").then(|| stream.build().unwrap())
        })
        .build();
    let meter = provider.meter("finding");
    for name in ["explicit", "exponential"] {
        meter.f64_histogram(name).build().record(1.5, &[]);
    }
    meter.u64_counter("requests").build().add(1, &[]);
    let text = prometheus::TextEncoder::new()
        .encode_to_string(&registry.gather())
        .unwrap();
    for name in ["explicit", "exponential", "requests"] {
        let lines = text.lines().filter(|line| line.starts_with(name)).count();
        let unit = if lines == 1 { "line" } else { "lines" };
        println!("{name}: {lines} {unit}");
    }
}
RUST
seen="$(cargo run --quiet)"
echo "$seen"
expected="explicit: 18 lines
exponential: 0 lines
requests: 1 line"
[ "$seen" = "$expected" ] || { echo "this has changed; expected:"; echo "$expected"; exit 1; }
