//! The time of a line from a backend to its client, with and without the gateway.
//!
//! Each line of the simulated server contains its creation time. The gap is the time until the
//! client receives the line, on loopback. Rounds with and without the gateway alternate.

use std::time::Duration;

use futures_util::StreamExt;
use jiff::Timestamp;
use llamatower::edge::Shutdown;
use llamatower::gateway::Gateway;
use llamatower::settings::{Environment, Settings};
use llamatower::telemetry::{Telemetry, TelemetryConfig};
use llamatower_sim::{ModelSpec, Sim};

const ROUNDS: usize = 5;
const LINES: u64 = 200;

/// The gaps of one stream, in nanoseconds.
async fn gaps(client: &reqwest::Client, base: &str) -> Vec<i128> {
    let body = format!(r#"{{"model":"tiny","prompt":"x","options":{{"num_predict":{LINES}}}}}"#);
    let request = client.post(format!("{base}/api/generate")).body(body);
    let answer = request.send().await.expect("an answer");
    let mut lines = answer.bytes_stream();
    let mut gaps = Vec::new();
    while let Some(line) = lines.next().await {
        let arrived = Timestamp::now().as_nanosecond();
        let line = line.expect("a complete stream");
        let line: serde_json::Value = serde_json::from_slice(&line).expect("one line at a time");
        let made = line["created_at"].as_str().expect("a time");
        let made: Timestamp = made.parse().expect("a time");
        gaps.push(arrived - made.as_nanosecond());
    }
    gaps
}

fn report(name: &str, gaps: &mut [i128]) {
    gaps.sort_unstable();
    let at = |share: f64| gaps[((gaps.len() - 1) as f64 * share) as usize] as f64 / 1000.0;
    println!(
        "{name:9} p50 {:7.1} us   p99 {:7.1} us   of {} lines",
        at(0.5),
        at(0.99),
        gaps.len()
    );
}

#[tokio::main]
async fn main() {
    let model = ModelSpec::new("tiny")
        .with_pace(Duration::from_millis(5))
        .with_slots(8);
    let sim = Sim::builder()
        .model(model)
        .start()
        .await
        .expect("a free port");
    let url = sim.url();
    let environment = Environment::from_iter([
        ("OLLAMA_URL", &*url),
        ("LLAMATOWER_LISTEN", "127.0.0.1:0"),
        ("LLAMATOWER_ADMIN_LISTEN", "off"),
    ]);
    let loaded = Settings::load(None, &environment).expect("sound settings");
    let config = TelemetryConfig {
        log_filter: "off".to_owned(),
        ..TelemetryConfig::default()
    };
    let telemetry = Telemetry::prepare(&config, &|_| None, std::io::sink)
        .expect("sound")
        .0;
    let gateway = Gateway::bind(&loaded.settings, &telemetry.into()).await;
    let gateway = gateway.expect("a free port");
    let address = gateway.local_addrs().remove(0);
    tokio::spawn(gateway.serve(Shutdown::new()));

    let client = reqwest::Client::new();
    let through = format!("http://{address}");
    let (mut direct, mut gateway) = (Vec::new(), Vec::new());
    gaps(&client, &through).await;
    for _ in 0..ROUNDS {
        direct.extend(gaps(&client, &sim.url()).await);
        gateway.extend(gaps(&client, &through).await);
    }
    report("direct", &mut direct);
    report("gateway", &mut gateway);
}
