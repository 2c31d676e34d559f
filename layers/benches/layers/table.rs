//! A table of the cost of each layer.

use std::time::{Duration, Instant};

use super::{CHUNKS, Subject};

/// The number of rounds. Each round measures both sides in turn, so that other load on the machine
/// affects both.
const ROUNDS: usize = 200;

/// The approximate time of one side of a round.
const SIDE: Duration = Duration::from_micros(500);

pub(crate) fn print(subjects: &[Subject]) {
    println!("| Layer | ns a request | ns a chunk |");
    println!("|---|---:|---:|");
    for subject in subjects {
        let request = difference(subject, 0);
        let chunk = (difference(subject, CHUNKS) - request) / CHUNKS as f64;
        println!("| {} | {request:.0} | {chunk:.1} |", subject.name());
    }
}

/// The cost of the layer for one pass, in nanoseconds: the difference of the shortest times of both
/// sides, because the shortest time has the least disturbance.
fn difference(subject: &Subject, chunks: usize) -> f64 {
    subject.backend().set_chunks(chunks);
    let passes = passes_in(SIDE, || subject.pass());
    let (mut with, mut without) = (f64::INFINITY, f64::INFINITY);
    for _ in 0..ROUNDS {
        with = with.min(time_of(passes, || subject.pass()));
        without = without.min(time_of(passes, || subject.pass_without()));
    }
    (with - without) / passes as f64
}

/// The number of passes that fit into `time`, found while the caches warm up.
fn passes_in(time: Duration, pass: impl Fn()) -> usize {
    let mut passes = 1;
    while time_of(passes, &pass) < time.as_nanos() as f64 {
        passes *= 2;
    }
    passes
}

fn time_of(passes: usize, pass: impl Fn()) -> f64 {
    let begun = Instant::now();
    (0..passes).for_each(|_| pass());
    begun.elapsed().as_nanos() as f64
}
