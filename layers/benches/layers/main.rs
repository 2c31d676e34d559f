//! The cost of each layer for a request and for a chunk of its answer, alone and all in one stack.
//!
//! ```text
//! cargo bench --bench layers                       criterion, with and without each layer
//! cargo bench --bench layers -- --table            the difference, as a table in Markdown
//! cargo bench --bench layers -- --with NAME N C    N requests of C chunks, for a profiler
//! cargo bench --bench layers -- --without NAME N C
//! ```

mod exchange;
mod subject;
mod subjects;
mod table;

use std::time::Duration;

use criterion::{Criterion, Throughput};

use subject::Subject;

/// The number of chunks of a long answer.
const CHUNKS: usize = 1000;

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime");
    // Timers need a runtime, but it is not run: no pass lasts long enough to need one.
    let _in_runtime = runtime.enter();
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    match *arguments {
        ["--table", ..] => table::print(&subjects::all()),
        ["--with", name, requests, chunks, ..] => {
            run(name, requests, chunks, Subject::pass);
        }
        ["--without", name, requests, chunks, ..] => {
            run(name, requests, chunks, Subject::pass_without);
        }
        _ => benches(Criterion::default().configure_from_args()),
    }
}

fn run(name: &str, requests: &str, chunks: &str, pass: fn(&Subject)) {
    let subject = subjects::all().into_iter().find(|one| one.name() == name);
    let subject = subject.unwrap_or_else(|| panic!("there is no layer {name}"));
    let number = |text: &str| text.parse().expect("a number");
    subject.backend().set_chunks(number(chunks));
    (0..number(requests)).for_each(|_| pass(&subject));
}

fn benches(criterion: Criterion) {
    let mut criterion = criterion
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .sample_size(20);
    for subject in subjects::all() {
        let mut group = criterion.benchmark_group(subject.name());
        for (what, chunks) in [("request", 0), ("chunks", CHUNKS)] {
            subject.backend().set_chunks(chunks);
            group.throughput(Throughput::Elements(chunks.max(1) as u64));
            group.bench_function(what, |bencher| bencher.iter(|| subject.pass()));
            group.bench_function(format!("{what} without"), |bencher| {
                bencher.iter(|| subject.pass_without());
            });
        }
        group.finish();
    }
    criterion.final_summary();
}
