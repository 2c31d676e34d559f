//! The speed of the scanner on different kinds of bodies.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use llamatower_layers::llm_request::scan::{Keys, Scanned, Scanner};
use llamatower_layers::{Dialect, Operation};
use serde_json::json;

/// Bodies arrive in pieces of about this size.
const PIECE: usize = 64 << 10;

fn scan(body: &[u8]) -> Scanned {
    let mut scanner = Scanner::new(Keys::of(Dialect::Ollama, Operation::Chat));
    for piece in body.chunks(PIECE) {
        scanner.feed(piece).expect("a valid body");
    }
    scanner.finish().expect("a valid body")
}

fn message(content: &str) -> serde_json::Value {
    json!({"role": "user", "content": content})
}

fn bodies() -> Vec<(&'static str, Vec<u8>)> {
    let english = "The llama looked at the tower, and the tower looked back. ".repeat(20);
    let chinese = "羊驼看着塔，塔也看着它。".repeat(100);
    let code = "if (a[\"b\"] == \"\\n\") {\n\treturn \"\\\\\";\n}\n".repeat(30);
    let chat = |content: &str, count: usize| {
        let messages = vec![message(content); count];
        json!({"model": "llama3", "stream": true, "messages": messages})
            .to_string()
            .into_bytes()
    };
    let image = json!({
        "model": "llava",
        "messages": [{"role": "user", "content": "x", "images": ["QUJD".repeat(4 << 20)]}],
    });
    let tools: Vec<_> = (0..2000)
        .map(|n| json!({"name": format!("f{n}"), "parameters": {"type": "object", "n": [n, 1.5, true, null]}}))
        .collect();
    vec![
        ("one_short_message", chat("Why is the sky blue?", 1)),
        ("conversation_100_kB", chat(&english, 100)),
        ("chinese", chat(&chinese, 100)),
        ("escapes", chat(&code, 100)),
        (
            "structure",
            json!({"model": "llama3", "tools": tools})
                .to_string()
                .into_bytes(),
        ),
        ("image_16_MB", image.to_string().into_bytes()),
    ]
}

fn benches(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("scan");
    for (name, body) in bodies() {
        group.throughput(Throughput::Bytes(body.len() as u64));
        group.bench_function(name, |bencher| bencher.iter(|| scan(black_box(&body))));
    }
    group.finish();
}

criterion_group! {
    name = scanner;
    config = Criterion::default()
        .warm_up_time(std::time::Duration::from_millis(300))
        .measurement_time(std::time::Duration::from_secs(1))
        .sample_size(20);
    targets = benches
}
criterion_main!(scanner);
