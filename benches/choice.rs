//! The cost of the choice of a server, and of the end of its request, without a lock and a queue.

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use llamatower::ollama::fleet::ChoiceBench;

fn choice(c: &mut Criterion) {
    let mut group = c.benchmark_group("choice");
    for servers in [10, 100, 1000] {
        // Of every two servers one would have to load the model.
        for (name, every) in [("all in memory", 1), ("half in memory", 2)] {
            let id = BenchmarkId::new(name, servers);
            let mut fleet = ChoiceBench::new(servers, every);
            group.bench_function(id, |b| b.iter(|| fleet.choose()));
        }
    }
    group.finish();
}

criterion_group!(benches, choice);
criterion_main!(benches);
